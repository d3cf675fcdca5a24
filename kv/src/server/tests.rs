//! A server in front of a real node of one, or of three, on a network in memory and real disks.

use std::path::Path;

use bytes::Bytes;
use raft::core;
use raft::disk::RealDisk;
use raft::driver::NodeOptions;
use raft::net::Net;
use raft::wal::WalOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::client::{Client, ClientError, ClientOptions, Consistency, Reason, Writer};
use crate::command::{
    CommandBody, Compare, CompareTarget, KeyRange, Operation, Put, Range, Refusal, Relation, Txn,
    TxnOperation,
};
use crate::state_machine::{KvOptions, SessionLimits};
use crate::store::{MemoryPlatter, StoreKind};
use crate::testing::{TestNet, net};
use crate::wire::{
    Answer, BackupBegun, ClientHello, FRAME_BYTES_MAX, FrameStream, NotDone, Outcome, ReadMode, Reply,
    Request, RequestBody, ServerHello,
};

mod backup;
mod membership;

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn seams(net: &Arc<TestNet>) -> Seams {
    let net: raft::net::SharedNet = Arc::<TestNet>::clone(net);
    Seams {
        clock: Arc::new(raft::clock::RealClock),
        net,
        disk: Arc::new(RealDisk),
        blocking: Arc::new(raft::blocking::RealBlocking),
    }
}

/// Node `id` of `nodes`, which keeps its log in `dir` and its state in memory.
fn setup(dir: &Path, id: u64, nodes: u64) -> NodeSetup {
    let core = core::Config {
        id: NodeId(id),
        election_timeout_ticks: 15,
        heartbeat_ticks: 3,
        append_bytes_max: 1 << 20,
        inflight_messages_max: 64,
        inflight_bytes_max: 8 << 20,
        log_bytes_max: 128 << 20,
        uncommitted_bytes_max: u64::MAX,
        unapplied_bytes_max: u64::MAX,
        hurried_election_ticks: 3,
        reads_pending_max: 1024,
        seed: id,
    };
    let member =
        |n| core::Member { context: format!("client{n}").into(), ..core::Member::at(format!("peer{n}")) };
    let peers = (1..=nodes).map(|n| (NodeId(n), member(n))).collect();
    let clients = (1..=nodes).map(|n| (NodeId(n), format!("client{n}"))).collect();
    let data_dir = dir.join(format!("n{id}"));
    let mut raft = NodeOptions::new(core, data_dir.clone(), format!("peer{id}"), peers);
    raft.wal = WalOptions { segment_bytes: 8 << 20, recycled_max: 0 };
    NodeSetup {
        raft,
        kv: KvOptions {
            dir: data_dir.join("store"),
            store: StoreKind::Memory(MemoryPlatter::default()),
            sessions: SessionLimits::default(),
        },
        server: ServerOptions::new(NodeId(id), format!("client{id}"), clients),
    }
}

fn client(net: &Arc<TestNet>, endpoints: &[&str]) -> Client {
    let clock = Arc::new(raft::clock::RealClock);
    Client::new(clock, seams(net).net, endpoints.iter().copied(), ClientOptions::default()).unwrap()
}

/// A cluster of one, and a client of it.
async fn one(net: &Arc<TestNet>, dir: &Path, change: impl FnOnce(&mut ServerOptions)) -> (Node, Client) {
    let mut setup = setup(dir, 1, 1);
    change(&mut setup.server);
    let node = Node::start(setup, seams(net)).await.unwrap();
    let client = client(net, &["client1"]);
    // Until it has elected itself, it is not the leader; the client waits for that.
    client.get("x").await.unwrap();
    (node, client)
}

/// A connection whose frames are ours to make.
async fn raw(net: &Arc<TestNet>) -> FrameStream {
    let mut frames = FrameStream::new(net.connect("client1").await.unwrap(), FRAME_BYTES_MAX);
    frames.push(&ClientHello::CURRENT).unwrap();
    frames.send().await.unwrap();
    let hello: Option<ServerHello> = frames.receive().await.unwrap();
    assert!(matches!(hello, Some(ServerHello::Welcome { node: NodeId(1), .. })), "{hello:?}");
    frames
}

fn put(key: &str, value: Vec<u8>) -> RequestBody {
    let put = Put { key: Bytes::from(key.to_owned()), value: value.into(), prev_kv: false };
    RequestBody::Propose(CommandBody::Operate { stamp: None, operation: Operation::Put(put) })
}

fn all() -> Range {
    Range {
        range: KeyRange::Prefix(Bytes::new()),
        revision: None,
        limit: 0,
        keys_only: false,
        count_only: false,
    }
}

#[test]
fn everything_that_can_be_asked_is_answered() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        assert_eq!(client.put("a", "1").await.unwrap(), 1);
        let session = client.session(Duration::from_secs(10)).await.unwrap();
        assert_eq!(session.put("b", "2").await.unwrap(), 2);
        let kv = client.get("b").await.unwrap().unwrap();
        assert_eq!((kv.value.as_ref(), kv.mod_revision, kv.version), (b"2".as_slice(), 2, 1));
        let compare =
            Compare { key: "a".into(), relation: Relation::Equal, target: CompareTarget::Value("1".into()) };
        let txn = Txn {
            compares: vec![compare],
            success: vec![
                TxnOperation::Put(Put { key: "c".into(), value: "3".into(), prev_kv: false }),
                TxnOperation::Range(all()),
            ],
            failure: vec![],
        };
        let done = session.txn(txn).await.unwrap();
        assert!(done.succeeded && done.revision == 3 && done.results.len() == 2, "{done:?}");
        assert_eq!(client.range(all(), Consistency::Serializable).await.unwrap().count, 3);
        assert_eq!(session.delete(KeyRange::Key("a".into()), true).await.unwrap().0, 1);
        client.compact(4).await.unwrap();
        let old = Range { revision: Some(1), ..all() };
        let error = client.range(old, Consistency::Linearizable).await.unwrap_err();
        assert!(
            matches!(error, ClientError::Refused(Refusal::RevisionCompacted { oldest: 4, .. })),
            "{error}"
        );
        session.close().await.unwrap();
        let members = client.members().await.unwrap();
        assert!(members.len() == 1 && members[0].leader && members[0].client == "client1", "{members:?}");
        let report = client.status("client1").await.unwrap();
        assert_eq!((report.id, report.leader, report.revision, report.compacted), (1, Some(1), 4, 4));
        assert!(report.commit == report.last && report.log_bytes > 0 && report.term > 0, "{report:?}");
        node.shutdown().await;
    });
}

#[test]
fn a_range_of_more_than_one_answers_worth_comes_in_pieces() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        for n in 0..5 {
            client.put(format!("k{n}"), vec![n; 1 << 20]).await.unwrap();
        }
        let whole = client.range(all(), Consistency::Linearizable).await.unwrap();
        assert_eq!((whole.kvs.len(), whole.count, whole.more), (5, 5, false));
        assert!(
            whole.kvs.iter().enumerate().all(|(n, kv)| kv.value.len() == 1 << 20 && kv.value[0] == n as u8)
        );
        node.shutdown().await;
    });
}

#[test]
fn until_its_node_runs_a_server_knows_of_no_leader_but_answers() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let server = Server::listen(setup(dir.path(), 1, 3).server, &seams(&net)).await.unwrap();
        let mut frames = raw(&net).await;
        let bodies = [put("k", vec![]), RequestBody::Range { range: all(), mode: ReadMode::Serializable }];
        for (id, body) in bodies.into_iter().enumerate() {
            frames.push(&Request { id: id as u64, body }).unwrap();
            frames.send().await.unwrap();
            let answer: Answer = frames.receive().await.unwrap().unwrap();
            assert_eq!(answer.outcome, Outcome::NotDone(NotDone::NotLeader { leader: None }));
        }
        let client = client(&net, &["client1"]);
        assert_eq!(client.members().await.unwrap().len(), 3);
        server.service.stop();
        frames.push(&Request { id: 9, body: put("k", vec![]) }).unwrap();
        frames.send().await.unwrap();
        let answer: Answer = frames.receive().await.unwrap().unwrap();
        assert_eq!(answer.outcome, Outcome::NotDone(NotDone::ShuttingDown));
        assert_eq!(client.status("client1").await.unwrap().voters, [1, 2, 3]);
        server.shutdown().await;
    });
}

#[test]
fn many_requests_on_one_connection_are_all_answered_each_under_its_number() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, _) = one(&net, dir.path(), |_| {}).await;
        let mut frames = raw(&net).await;
        for id in 0..500 {
            let body = match id % 3 {
                0 => put("k", vec![7; 100]),
                1 => RequestBody::Range { range: all(), mode: ReadMode::Leader },
                _ => RequestBody::Members,
            };
            // A scan takes a place of which there are fewer: what is turned away is said so.
            frames.push(&Request { id, body }).unwrap();
        }
        frames.send().await.unwrap();
        let mut open: std::collections::BTreeSet<u64> = (0..500).collect();
        while !open.is_empty() {
            let Answer { id, outcome } = frames.receive().await.unwrap().unwrap();
            assert!(open.remove(&id), "request {id} is answered twice");
            match (id % 3, outcome) {
                (0, Outcome::Done(Reply::Command(_)))
                | (1, Outcome::Done(Reply::Range(_)) | Outcome::NotDone(NotDone::Overloaded { .. }))
                | (2, Outcome::Done(Reply::Members(_))) => {}
                (_, outcome) => panic!("request {id}: {outcome:?}"),
            }
        }
        node.shutdown().await;
    });
}

#[test]
fn garbage_ends_its_own_connection_and_nothing_else() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        let mut good = raw(&net).await;
        // Instead of a hello, and after it.
        let mut stranger = net.connect("client1").await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut left = Vec::new();
        stranger.read_to_end(&mut left).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        let mut bad = raw(&net).await;
        bad.push(&(1u64, 99u32)).unwrap();
        bad.send().await.unwrap();
        assert!(bad.receive::<Answer>().await.unwrap().is_none(), "it is closed without an answer");
        good.push(&Request { id: 1, body: RequestBody::Members }).unwrap();
        good.send().await.unwrap();
        assert!(good.receive::<Answer>().await.unwrap().is_some());
        client.put("still", "here").await.unwrap();
        node.shutdown().await;
    });
}

#[test]
fn a_client_of_another_version_is_told_why_it_is_refused() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, _) = one(&net, dir.path(), |_| {}).await;
        let mut frames = FrameStream::new(net.connect("client1").await.unwrap(), FRAME_BYTES_MAX);
        frames.push(&ClientHello { protocol_min: 77, protocol_max: 78, ..ClientHello::CURRENT }).unwrap();
        frames.send().await.unwrap();
        let Some(ServerHello::Refused { reason }) = frames.receive().await.unwrap() else { panic!("let in") };
        assert!(reason.contains("77 to 78"), "{reason}");
        assert!(frames.receive::<Answer>().await.unwrap().is_none());
        node.shutdown().await;
    });
}

#[test]
fn what_is_over_a_limit_is_refused_before_the_log() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |options| options.requests.request_bytes_max = 2000).await;
        let last = node.raft().status().await.unwrap().core.last;
        let step =
            |n: u32| TxnOperation::Put(Put { key: n.to_string().into(), value: "".into(), prev_kv: false });
        let many = Txn { compares: vec![], success: (0..129).map(step).collect(), failure: vec![] };
        let attempts = [
            Operation::Put(Put { key: "k".into(), value: vec![0; 2000].into(), prev_kv: false }),
            Operation::Put(Put { key: vec![1; 1000].into(), value: "".into(), prev_kv: false }),
            Operation::Txn(many),
        ];
        for operation in attempts {
            let error = client.operate(operation).await.unwrap_err();
            let ClientError::NotDone { reason: Reason::NotDone { reason: NotDone::TooLarge { .. }, .. } } =
                &error
            else {
                panic!("{error}");
            };
            assert_eq!(error.to_string().lines().count(), 1);
        }
        let error = client.put("", "v").await.unwrap_err();
        assert!(
            matches!(
                &error,
                ClientError::NotDone { reason: Reason::NotDone { reason: NotDone::Invalid { .. }, .. } }
            ),
            "{error}"
        );
        assert_eq!(node.raft().status().await.unwrap().core.last, last);
        node.shutdown().await;
    });
}

#[test]
fn a_connection_with_too_much_under_way_is_told_so_and_goes_on() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, _) = one(&net, dir.path(), |options| options.limits.requests_per_connection_max = 4).await;
        let mut frames = raw(&net).await;
        for round in 0..3 {
            for id in 0..50 {
                frames.push(&Request { id: round * 50 + id, body: put("k", vec![]) }).unwrap();
            }
            frames.send().await.unwrap();
            let (mut done, mut overloaded) = (0, 0);
            for _ in 0..50 {
                match frames.receive::<Answer>().await.unwrap().unwrap().outcome {
                    Outcome::Done(_) => done += 1,
                    Outcome::NotDone(NotDone::Overloaded { .. }) => overloaded += 1,
                    outcome => panic!("{outcome:?}"),
                }
            }
            assert!(done >= 4 && overloaded > 0, "{done} done, {overloaded} overloaded");
        }
        node.shutdown().await;
    });
}

#[test]
fn the_node_as_a_whole_takes_only_so_much() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, _) = one(&net, dir.path(), |options| options.limits.proposals_max = 2).await;
        let (mut a, mut b) = (raw(&net).await, raw(&net).await);
        for id in 0..20 {
            a.push(&Request { id, body: put("k", vec![]) }).unwrap();
            b.push(&Request { id, body: put("k", vec![]) }).unwrap();
        }
        a.send().await.unwrap();
        b.send().await.unwrap();
        let mut overloaded = 0;
        for _ in 0..20 {
            for frames in [&mut a, &mut b] {
                let answer = frames.receive::<Answer>().await.unwrap().unwrap();
                overloaded +=
                    u32::from(matches!(answer.outcome, Outcome::NotDone(NotDone::Overloaded { .. })));
            }
        }
        assert!((1..=38).contains(&overloaded), "{overloaded}");
        // What was taken is given back.
        a.push(&Request { id: 99, body: put("k", vec![]) }).unwrap();
        a.send().await.unwrap();
        assert!(matches!(a.receive::<Answer>().await.unwrap().unwrap().outcome, Outcome::Done(_)));
        node.shutdown().await;
    });
}

#[test]
fn who_says_nothing_or_reads_nothing_is_dropped() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |options| {
            options.handshake_timeout = Duration::from_millis(50);
            options.idle_max = Duration::from_millis(100);
        })
        .await;
        let mut silent = net.connect("client1").await.unwrap();
        let mut left = Vec::new();
        silent.read_to_end(&mut left).await.unwrap();
        let mut idle = raw(&net).await;
        assert!(idle.receive::<Answer>().await.unwrap().is_none(), "an idle connection is closed");
        // Answers that nobody reads: more than the stream and the server's buffer hold.
        client.put("large", vec![0; 1 << 20]).await.unwrap();
        let mut deaf = raw(&net).await;
        for id in 0..20 {
            deaf.push(&Request {
                id,
                body: RequestBody::Range { range: all(), mode: ReadMode::Serializable },
            })
            .unwrap();
        }
        deaf.send().await.unwrap();
        clock::sleep(&raft::clock::RealClock, Duration::from_millis(500)).await;
        let mut answers = 0;
        while let Ok(Some(_)) = deaf.receive::<Answer>().await {
            answers += 1;
        }
        assert!(answers < 20, "all {answers} answers came after the client had slept");
        node.shutdown().await;
    });
}

#[test]
fn requests_are_not_read_while_their_answers_are_not() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) =
            one(&net, dir.path(), |options| options.shutdown_timeout = Duration::from_millis(50)).await;
        client.put("large", vec![0; 1 << 20]).await.unwrap();
        let mut deaf = raw(&net).await;
        let request =
            |id| Request { id, body: RequestBody::Range { range: all(), mode: ReadMode::Serializable } };
        for id in 0..100_000 {
            deaf.push(&request(id)).unwrap();
        }
        let sent = clock::timeout(&raft::clock::RealClock, Duration::from_millis(500), deaf.send()).await;
        assert!(sent.is_err(), "the server took {} bytes of requests", deaf.written_bytes());
        node.shutdown().await;
    });
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, _client) = one(&net, dir.path(), |options| options.limits.connections_max = 2).await;
        let _second = raw(&net).await;
        let mut third = FrameStream::new(net.connect("client1").await.unwrap(), FRAME_BYTES_MAX);
        third.push(&ClientHello::CURRENT).unwrap();
        // It may be closed already.
        let _ = third.send().await;
        assert!(third.receive::<ServerHello>().await.unwrap().is_none());
        node.shutdown().await;
    });
}

#[test]
fn shutting_down_finishes_what_is_under_way_and_begins_nothing_new() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, _) = one(&net, dir.path(), |_| {}).await;
        let mut frames = raw(&net).await;
        for id in 0..100 {
            frames.push(&Request { id, body: put("k", vec![1; 1000]) }).unwrap();
        }
        frames.send().await.unwrap();
        // The first answer shows that the server has begun.
        let first = frames.receive::<Answer>().await.unwrap().unwrap();
        assert!(matches!(first.outcome, Outcome::Done(_)));
        let stopping = tokio::spawn(node.shutdown());
        let mut answered = 1;
        while let Some(Answer { id, outcome }) = frames.receive::<Answer>().await.unwrap() {
            assert!(
                matches!(outcome, Outcome::Done(_) | Outcome::NotDone(NotDone::ShuttingDown)),
                "{id}: {outcome:?}"
            );
            answered += 1;
        }
        assert_eq!(answered, 100, "all are answered, one way or the other");
        stopping.await.unwrap();
        assert!(net.connect("client1").await.is_err());
    });
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        for round in 1..=3 {
            let (node, client) = one(&net, dir.path(), |_| {}).await;
            assert_eq!(client.put(format!("k{round}"), "v").await.unwrap(), round);
            assert_eq!(client.range(all(), Consistency::Linearizable).await.unwrap().count, round);
            node.shutdown().await;
        }
    });
}

/// A cluster of three.
async fn three(net: &Arc<TestNet>, dir: &Path) -> Vec<Node> {
    let starting = (1..=3).map(|id| tokio::spawn(Node::start(setup(dir, id, 3), seams(net))));
    let mut nodes = Vec::new();
    for node in starting.collect::<Vec<_>>() {
        nodes.push(node.await.unwrap().unwrap());
    }
    nodes
}

#[test]
fn followers_name_the_leader_and_a_session_outlives_it() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let mut nodes = three(&net, dir.path()).await;
        let client = client(&net, &["client1", "client2", "client3"]);
        let session = client.session(Duration::from_secs(30)).await.unwrap();
        for n in 1..=20 {
            assert_eq!(session.put(format!("before{n}"), "v").await.unwrap(), n);
        }
        let leader = nodes[0].raft().leadership().borrow().leader.unwrap();
        let hint = Some(format!("client{}", leader.0));
        let follower = format!("client{}", leader.0 % 3 + 1);
        let mut frames = FrameStream::new(net.connect(&follower).await.unwrap(), FRAME_BYTES_MAX);
        frames.push(&ClientHello::CURRENT).unwrap();
        frames.push(&Request { id: 1, body: put("k", vec![]) }).unwrap();
        frames.send().await.unwrap();
        let _: ServerHello = frames.receive().await.unwrap().unwrap();
        let answer: Answer = frames.receive().await.unwrap().unwrap();
        assert_eq!(answer.outcome, Outcome::NotDone(NotDone::NotLeader { leader: hint }));

        // The leader goes while commands are under way; each is done once.
        let session = Arc::new(session);
        let puts: Vec<_> = (0..50)
            .map(|n| {
                let session = Arc::clone(&session);
                tokio::spawn(async move { session.put(format!("during{n}"), "v").await })
            })
            .collect();
        let at = nodes.iter().position(|node| node.raft().id() == leader).unwrap();
        nodes.remove(at).shutdown().await;
        for put in puts {
            put.await.unwrap().unwrap();
        }
        let kvs = client.range(all(), Consistency::Linearizable).await.unwrap().kvs;
        assert_eq!(kvs.len(), 70);
        assert!(kvs.iter().all(|kv| kv.version == 1), "{kvs:?}");
        for node in nodes {
            node.shutdown().await;
        }
    });
}
