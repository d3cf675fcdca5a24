//! A node whose state is not that of the others: it is found out, stops with the entry at which they part, and makes its
//! state anew at the next start, from another member if its own log does not reach back.

mod common;

use std::sync::Arc;

use common::{Cluster, eventually, run};
use kv::client::{Consistency, Writer};
use kv::command::{Command, CommandBody, KeyRange, Operation, Put, Range};
use kv::state_machine::{KvOptions, KvStateMachine, SessionLimits};
use kv::store::{SledOptions, StoreKind};
use raft::core::{Entry, Index, Payload};
use raft::disk::RealDisk;
use raft::state_machine::StateMachine;

/// Three nodes with rows in their stores, and logs that begin behind the first entry.
fn grown() -> Cluster {
    let mut cluster = Cluster::configured();
    for id in 1..=3 {
        cluster.limit(id, &[("request_bytes", 1 << 20), ("segment_bytes", 2 << 20)]);
    }
    cluster.start_all();
    let client = cluster.client(1);
    run(async {
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
        for n in 0..20 {
            client.put(format!("k{n:02}"), "as it should be").await.unwrap();
        }
    });
    cluster.fill_stores(&client);
    for id in 1..=3 {
        cluster.take_snapshot(id);
    }
    run(async {
        for n in 20..40 {
            client.put(format!("k{n:02}"), "as it should be").await.unwrap();
        }
    });
    cluster
}

/// Has the store of node `id`, which is stopped, take another entry for the next one than the log has there. Says
/// which index that is.
fn falsify(cluster: &Cluster, id: usize) -> Index {
    let dir = cluster.data_dir(id).join("store");
    let store = StoreKind::Sled(SledOptions::new(&dir));
    let options = KvOptions { dir, store, sessions: SessionLimits::default() };
    let (mut machine, _reader) = KvStateMachine::open(Arc::new(RealDisk), options).unwrap();
    let last = machine.applied().last;
    let put = Put { key: "k07".into(), value: "as nobody wrote it".into(), prev_kv: false };
    let body = CommandBody::Operate { stamp: None, operation: Operation::Put(put) };
    let command = Command { cluster_time_ms: 0, body };
    let payload = Payload::Command(command.encode());
    let entry = Entry { term: last.term, index: last.index.next(), payload };
    machine.apply(std::slice::from_ref(&entry)).unwrap();
    machine.begin_checkpoint()().unwrap();
    entry.index
}

/// Whether node `id`, asked for itself, has what it should have.
async fn is_right(cluster: &Cluster, id: usize) -> bool {
    let own = common::client(&cluster.endpoints[id - 1..id], 5);
    let range = KeyRange::Prefix("k".into());
    let range = Range { range, revision: None, limit: 0, keys_only: false, count_only: false };
    own.range(range, Consistency::Serializable)
        .await
        .is_ok_and(|found| found.kvs.len() == 40 && found.kvs.iter().all(|kv| kv.value == "as it should be"))
}

#[test]
fn a_node_that_has_another_state_is_stopped_and_made_anew_from_a_peer() {
    let mut cluster = grown();
    let wrong = 2;
    cluster.stop(wrong);
    let at = falsify(&cluster, wrong);
    cluster.start(wrong);
    let mut code = None;
    for _ in 0..1_000 {
        code = cluster.ended(wrong);
        if code.is_some() {
            break;
        }
        run(common::sleep_ms(20));
    }
    let log = cluster.log(wrong);
    assert_eq!(code, Some(2), "a wrong state goes on serving\n{log}");
    let said = log.lines().last().unwrap_or_default();
    assert!(said.contains(&format!("differs from that of a quorum, first at entry {at};")), "{at}: {log}");
    let dir = cluster.data_dir(wrong);
    assert!(dir.join("store/CONDEMNED").exists());
    assert_eq!(std::fs::read_dir(dir.join("snapshots")).unwrap().count(), 0, "its snapshot held that entry");
    let client = cluster.client(2);
    run(async {
        eventually(20, "the others serve", || async { client.get("k07").await.is_ok() }).await;
    });

    // Neither its store nor its snapshot is used again, and its log begins behind what it needs.
    cluster.start(wrong);
    run(eventually(20, "the node is whole again", || is_right(&cluster, wrong)));
    let log = cluster.log(wrong);
    for line in ["no snapshot here brings it back: asking a member", "received a snapshot", "rebuilding it"] {
        assert!(log.contains(line), "{line:?} is not in\n{log}");
    }
    assert!(!dir.join("store/CONDEMNED").exists());
    let agreed = || {
        let status = cluster.json(&["status"]);
        let leader = status["leader"].as_u64().unwrap_or(0);
        let nodes = status["nodes"].as_array().unwrap();
        let leader = nodes.iter().find(|node| node["id"] == leader);
        leader.is_some_and(|node| node["agreed"].as_u64() > Some(at.0) && node["agreed"] == node["commit"])
    };
    run(eventually(20, "all agree", || async { agreed() }));
    // With the other two in turn it is a quorum.
    cluster.kill(1);
    run(eventually(20, "n2 and n3 serve", || async { client.get("k07").await.is_ok() }));
    assert_eq!(run(client.get("k07")).unwrap().unwrap().value, "as it should be");
    assert_eq!(cluster.ended(wrong), None, "{}", cluster.log(wrong));
}
