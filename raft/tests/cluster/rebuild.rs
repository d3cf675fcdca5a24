//! Nodes whose state is lost, and whose log does not reach back to the beginning.

use std::path::PathBuf;
use std::sync::Arc;

use raft::core::{Change, LogId, NodeId};
use raft::driver::StartError;

use super::harness::{Cluster, within};

const ITEMS: usize = 120;

/// A cluster whose logs on disk no longer begin at the beginning, stopped.
async fn with_short_logs(size: u64) -> Cluster {
    let mut cluster = Cluster::new(size);
    let ids: Vec<u64> = (1..=size).collect();
    cluster.start(&ids).await;
    for n in 1..=ITEMS {
        cluster.propose(&format!("{n}{}", "x".repeat(4_000))).await;
    }
    cluster.converge().await;
    for id in cluster.nodes.keys().copied().collect::<Vec<_>>() {
        cluster.stop(id).await;
    }
    cluster
}

fn snapshots(cluster: &Cluster, id: NodeId) -> PathBuf {
    cluster.dir.path().join(id.to_string()).join("snapshots")
}

fn lose_state(cluster: &mut Cluster, id: NodeId) {
    cluster.stores.insert(id, Arc::default());
}

fn lose_snapshots(cluster: &Cluster, id: NodeId) {
    std::fs::remove_dir_all(snapshots(cluster, id)).unwrap();
}

#[tokio::test]
async fn a_state_that_is_lost_with_its_snapshot_comes_from_another_member() {
    let mut cluster = with_short_logs(3).await;
    let lost = NodeId(2);
    lose_state(&mut cluster, lost);
    lose_snapshots(&cluster, lost);
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.propose("one more").await, ITEMS + 1);
    cluster.reads(lost, ITEMS + 1).await;
    let status = cluster.node(lost).status().await.unwrap();
    assert!(status.snapshot.is_some(), "it was sent one: {status:?}");
}

// Neither of them can lead or vote before it has its state, and the third leads nobody: it need not.
#[tokio::test]
async fn two_of_three_get_their_state_from_the_third_without_a_leader() {
    let mut cluster = with_short_logs(3).await;
    for lost in [NodeId(1), NodeId(3)] {
        lose_state(&mut cluster, lost);
        lose_snapshots(&cluster, lost);
    }
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.propose("one more").await, ITEMS + 1);
    for id in 1..=3 {
        cluster.reads(NodeId(id), ITEMS + 1).await;
    }
}

#[tokio::test]
async fn a_damaged_snapshot_of_ones_own_does_not_keep_one_from_asking() {
    let mut cluster = with_short_logs(3).await;
    let lost = NodeId(3);
    lose_state(&mut cluster, lost);
    let file = std::fs::read_dir(snapshots(&cluster, lost)).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.propose("one more").await, ITEMS + 1);
    cluster.reads(lost, ITEMS + 1).await;
}

#[tokio::test]
async fn one_that_waits_for_a_state_and_was_removed_meanwhile_waits_no_longer() {
    let mut cluster = with_short_logs(3).await;
    let lost = NodeId(2);
    lose_state(&mut cluster, lost);
    lose_snapshots(&cluster, lost);
    cluster.start(&[1, 3]).await;
    cluster.propose("one more").await;
    let leader = cluster.leader().await;
    let removed = cluster.node(leader).change_membership(vec![Change::Remove(lost)]);
    within("its removal", removed).await.unwrap();
    let start = within("an answer", cluster.begin(lost, |_| {})).await.unwrap();
    let Err(StartError::Removed { member, by }) = start else { panic!("it started, or: {:?}", start.err()) };
    assert!(member == lost && by != lost);
}

// What it had acknowledged and the others need not have is still in its log: only the state is the other's.
#[tokio::test]
async fn the_log_behind_the_fetched_state_is_kept() {
    let mut cluster = with_short_logs(3).await;
    let (lost, helper) = (NodeId(1), NodeId(2));
    // These two alone commit more; then the helper is the only one with the state, and n3 must learn the rest.
    cluster.start(&[1, 2]).await;
    for n in ITEMS + 1..=ITEMS + 20 {
        assert_eq!(cluster.propose(&format!("item {n}")).await, n);
    }
    cluster.converge().await;
    let last = cluster.node(lost).status().await.unwrap().core.last;
    assert!(last > LogId::ZERO);
    cluster.stop(lost).await;
    cluster.stop(helper).await;
    lose_state(&mut cluster, lost);
    lose_snapshots(&cluster, lost);
    // Helped by n3, which never saw those twenty, it is the only one up that has them.
    let starting: Vec<_> = [1, 3].map(|id| (NodeId(id), cluster.begin(NodeId(id), |_| {}))).into();
    for (id, started) in starting {
        cluster.nodes.insert(id, within("the start", started).await.unwrap().unwrap());
    }
    assert_eq!(cluster.propose("one more").await, ITEMS + 21, "what was acknowledged is there");
    cluster.reads(NodeId(3), ITEMS + 21).await;
}

#[tokio::test]
async fn one_that_has_nobody_to_ask_says_so() {
    let mut cluster = with_short_logs(1).await;
    lose_state(&mut cluster, NodeId(1));
    lose_snapshots(&cluster, NodeId(1));
    let started = cluster.begin(NodeId(1), |_| {});
    match within("the start", started).await.unwrap() {
        Err(error @ StartError::StoreBehindLog { .. }) => {
            assert!(error.to_string().contains("no snapshot fills the gap"), "{error}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started without its state"),
    }
}
