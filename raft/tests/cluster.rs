//! Three whole nodes in one process, on real sockets and files, with a small state machine: an append-only list.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft::clock::{Clock, RealClock};
use raft::core::{Config, Entry, LogId, Member, NodeId, Payload, SnapshotMeta};
use raft::driver::{self, NodeOptions, ProposeError, RaftHandle, Seams, StartError, StopReason};
use raft::state_machine::{Applied, CheckpointJob, SnapshotJob, StateMachine, StateMachineError};

/// What a node's list holds, durably after each checkpoint.
#[derive(Clone, Default)]
struct List {
    applied: Applied,
    items: Vec<Bytes>,
}

/// Keeps its checkpoints in `saved`, which outlives the node as a disk would.
struct ListMachine {
    now: List,
    unsaved: u64,
    saved: Arc<Mutex<List>>,
}

impl ListMachine {
    fn open(saved: Arc<Mutex<List>>) -> Self {
        let now = saved.lock().unwrap().clone();
        Self { now, unsaved: 0, saved }
    }
}

impl StateMachine for ListMachine {
    type Response = usize;

    fn applied(&self) -> Applied {
        self.now.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<usize>, StateMachineError> {
        let mut responses = Vec::new();
        for entry in entries {
            assert_eq!(entry.index, self.now.applied.last.index.next(), "entries come in order, each once");
            self.now.applied.last = entry.log_id();
            match &entry.payload {
                Payload::Command(item) => self.now.items.push(item.clone()),
                Payload::Configuration(c) => self.now.applied.configuration = Some(c.clone()),
                Payload::Noop => {}
            }
            self.unsaved += entry.size_bytes();
            responses.push(self.now.items.len());
        }
        Ok(responses)
    }

    fn unsaved_bytes(&self) -> u64 {
        self.unsaved
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        self.unsaved = 0;
        let (cut, saved) = (self.now.clone(), Arc::clone(&self.saved));
        Box::new(move || {
            let last = cut.applied.last;
            *saved.lock().unwrap() = cut;
            Ok(last)
        })
    }

    fn begin_snapshot(&mut self) -> SnapshotJob {
        let items = self.now.items.clone();
        Box::new(move |out: &mut dyn Write| {
            for item in items {
                let io = |source| StateMachineError { context: "writing the list".to_owned(), source };
                out.write_all(&u32::try_from(item.len()).unwrap().to_le_bytes()).map_err(io)?;
                out.write_all(&item).map_err(io)?;
            }
            Ok(())
        })
    }

    fn install(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StateMachineError> {
        let mut bytes = Vec::new();
        let io = |source| StateMachineError { context: "reading the snapshot".to_owned(), source };
        state.read_to_end(&mut bytes).map_err(io)?;
        let mut items = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (len, tail) = rest.split_at(4);
            let (item, tail) = tail.split_at(u32::from_le_bytes(len.try_into().unwrap()) as usize);
            items.push(Bytes::copy_from_slice(item));
            rest = tail;
        }
        let applied = Applied { last: meta.last, configuration: Some(meta.configuration.clone()) };
        self.now = List { applied, items };
        *self.saved.lock().unwrap() = self.now.clone();
        Ok(())
    }
}

type Handle = RaftHandle<usize>;

/// A cluster whose nodes can be stopped and started again.
struct Cluster {
    dir: tempfile::TempDir,
    members: BTreeMap<NodeId, Member>,
    stores: BTreeMap<NodeId, Arc<Mutex<List>>>,
    nodes: BTreeMap<NodeId, Handle>,
    starts: u64,
}

impl Cluster {
    fn new(size: u64) -> Self {
        // Ports that were free a moment ago; kept open together so that they differ.
        let listeners: Vec<TcpListener> =
            (0..size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let members: BTreeMap<NodeId, Member> = listeners
            .iter()
            .zip(1..)
            .map(|(listener, id)| (NodeId(id), Member::at(listener.local_addr().unwrap().to_string())))
            .collect();
        let stores = members.keys().map(|&id| (id, Arc::default())).collect();
        Self { dir: tempfile::tempdir().unwrap(), members, stores, nodes: BTreeMap::new(), starts: 0 }
    }

    fn options(&mut self, id: NodeId) -> NodeOptions {
        self.starts += 1;
        let core = Config {
            id,
            election_timeout_ticks: 10,
            heartbeat_ticks: 3,
            append_bytes_max: 64 << 10,
            inflight_messages_max: 64,
            inflight_bytes_max: 1 << 20,
            log_bytes_max: 4 << 20,
            uncommitted_bytes_max: u64::MAX,
            unapplied_bytes_max: u64::MAX,
            hurried_election_ticks: 3,
            reads_pending_max: 1000,
            seed: id.0 * 1000 + self.starts,
        };
        let data_dir = self.dir.path().join(id.to_string());
        let listen = self.members[&id].address.clone();
        let mut options = NodeOptions::new(core, data_dir, listen, self.members.clone());
        options.wal.segment_bytes = 64 << 10;
        options.checkpoint_bytes = 2 << 10;
        options.snapshot_entries = 50;
        options.snapshot_log_bytes = 1;
        options.retain_log_bytes = 1 << 10;
        options
    }

    async fn start(&mut self, ids: &[u64]) {
        let mut starting = Vec::new();
        for &id in ids {
            let options = self.options(NodeId(id));
            let store = Arc::clone(&self.stores[&NodeId(id)]);
            let open = move || Ok(ListMachine::open(store));
            starting.push((NodeId(id), tokio::spawn(driver::start(options, Seams::real(), open))));
        }
        for (id, start) in starting {
            self.nodes.insert(id, start.await.unwrap().unwrap());
        }
    }

    async fn stop(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        assert_eq!(*node.shutdown().await, StopReason::Shutdown);
    }

    /// Proposes until it is done; only refusals that are definite are tried again.
    async fn propose(&self, item: &str) -> usize {
        for _ in 0..1000 {
            for node in self.nodes.values() {
                match node.propose(Bytes::copy_from_slice(item.as_bytes())).await {
                    Ok(response) => return response,
                    Err(
                        ProposeError::NotLeader { .. } | ProposeError::Superseded | ProposeError::Overloaded,
                    ) => {}
                    Err(error) => panic!("{item}: {error}"),
                }
            }
            pause().await;
        }
        panic!("no leader took {item}");
    }

    async fn leader(&self) -> NodeId {
        for _ in 0..1000 {
            for (&id, node) in &self.nodes {
                if node.read_index().await.is_ok() {
                    return id;
                }
            }
            pause().await;
        }
        panic!("no leader");
    }

    /// Waits until all running nodes have applied as much as the leader has committed.
    async fn converge(&self) {
        let leader = self.leader().await;
        let target = self.nodes[&leader].status().await.unwrap().core.commit;
        for node in self.nodes.values() {
            for round in 0.. {
                if node.status().await.unwrap().core.applied >= target {
                    break;
                }
                assert!(round < 2000, "{} does not converge: {:?}", node.id(), node.status().await);
                pause().await;
            }
        }
    }
}

async fn pause() {
    raft::clock::sleep(&RealClock, Duration::from_millis(5)).await;
}

#[tokio::test]
async fn three_nodes_form_elect_replicate_and_survive_the_loss_of_the_leader() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    for n in 1..=20 {
        assert_eq!(cluster.propose(&format!("item {n}")).await, n);
    }
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    for n in 21..=40 {
        assert_eq!(cluster.propose(&format!("item {n}")).await, n, "each item is applied once");
    }
    cluster.start(&[leader.0]).await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_cluster_that_was_stopped_has_what_it_had() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    for n in 1..=30 {
        assert_eq!(cluster.propose(&format!("item {n}")).await, n);
    }
    for id in 1..=3 {
        cluster.stop(NodeId(id)).await;
    }
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.propose("one more").await, 31);
}

#[tokio::test]
async fn a_follower_behind_the_compaction_point_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let behind = NodeId(leader.0 % 3 + 1);
    cluster.propose("before").await;
    cluster.stop(behind).await;
    for n in 0..200 {
        cluster.propose(&format!("an item that takes some room in the log, number {n}")).await;
    }
    cluster.start(&[behind.0]).await;
    cluster.converge().await;
    let status = cluster.nodes[&behind].status().await.unwrap();
    assert!(status.snapshot.is_some(), "it was brought up by a snapshot: {status:?}");
    let leader = cluster.nodes[&cluster.leader().await].status().await.unwrap();
    assert!(leader.core.prev > LogId::ZERO, "the leader had compacted: {leader:?}");
    // And it is a full member again.
    for id in 1..=3 {
        if NodeId(id) != behind && NodeId(id) != cluster.leader().await {
            cluster.stop(NodeId(id)).await;
            break;
        }
    }
    assert_eq!(cluster.propose("after").await, 202);
}

#[tokio::test]
async fn one_node_alone_commits_and_reads() {
    let mut cluster = Cluster::new(1);
    cluster.start(&[1]).await;
    assert_eq!(cluster.propose("a").await, 1);
    assert_eq!(cluster.leader().await, NodeId(1));
    let too_large = Bytes::from(vec![0; 2 << 20]);
    let refused = cluster.nodes[&NodeId(1)].propose(too_large).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { bytes: 2_097_152, .. })), "{refused:?}");
}

#[tokio::test]
async fn starting_says_what_is_wrong() {
    let mut cluster = Cluster::new(1);
    cluster.start(&[1]).await;

    let options = cluster.options(NodeId(1));
    let error = start_fails(options).await;
    assert!(matches!(error, StartError::Locked { .. }), "{error}");

    let mut options = cluster.options(NodeId(1));
    options.data_dir = cluster.dir.path().join("elsewhere");
    let error = start_fails(options).await;
    assert!(matches!(error, StartError::Listen { .. }), "{error}");

    cluster.stop(NodeId(1)).await;
    std::fs::remove_dir_all(cluster.dir.path().join("n1/logs")).unwrap();
    let options = cluster.options(NodeId(1));
    let error = start_fails(options).await;
    assert!(matches!(error, StartError::Wal(_)), "a log that is gone is not an empty log: {error}");
    assert!(!exists(&cluster.dir.path().join("n1/logs")), "and none is made");
}

fn exists(path: &Path) -> bool {
    path.join("0000000000000001.wal").exists()
}

async fn start_fails(options: NodeOptions) -> StartError {
    let start = driver::start(options, Seams::real(), || Ok(ListMachine::open(Arc::default())));
    let deadline = RealClock.now() + Duration::from_secs(20);
    match raft::clock::timeout_at(&RealClock, deadline, start).await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => panic!("the node started"),
        Err(_) => panic!("the start neither succeeded nor failed"),
    }
}
