//! A cluster of whole nodes in one process, on real sockets and files. Its state machine is an append-only list.
//!
//! Each node has a thread and a runtime of its own, so that it can be killed: its sockets close, and that is all its
//! peers ever hear.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use raft::clock::{BoxFuture, Clock, Monotonic, RealClock};
use raft::core::{Config, Configuration, Entry, Member, NodeId, Payload, RoleName, SnapshotMeta};
use raft::driver::{self, NodeOptions, ProposeError, RaftHandle, ReadError, Seams, StartError, StopReason};
use raft::state_machine::{Applied, CheckpointJob, HashTrail, SnapshotJob, StateMachine, StateMachineError};
use tokio::sync::oneshot;

/// What a node's list holds, durably after each checkpoint.
#[derive(Clone, Default)]
struct List {
    applied: Applied,
    items: Vec<Bytes>,
}

/// What outlives the node, as a disk would; and how many items its machine holds now, for readers.
#[derive(Default)]
pub(crate) struct Store {
    saved: Mutex<List>,
    len: AtomicUsize,
    /// How long each group takes to be applied, in milliseconds.
    pub(crate) apply_ms: AtomicU64,
    /// This item becomes another one when it is applied, if it is not 0.
    pub(crate) lies_at: AtomicUsize,
    /// Why the state was condemned, each time.
    pub(crate) condemned: Mutex<Vec<String>>,
}

impl Store {
    /// What a reader sees.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }
}

pub(crate) struct ListMachine {
    now: List,
    unsaved: u64,
    store: Arc<Store>,
    trail: Arc<HashTrail>,
}

/// The hash of a list.
fn hash(items: &[Bytes]) -> u64 {
    items
        .iter()
        .flat_map(|item| item.iter().chain(&[0]))
        .fold(7, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5))
}

impl ListMachine {
    pub(crate) fn open(store: Arc<Store>) -> Self {
        let now = store.saved.lock().unwrap().clone();
        let trail = Arc::new(HashTrail::default());
        trail.reset(now.applied.last.index, hash(&now.items));
        Self { now, unsaved: 0, store, trail }
    }
}

impl StateMachine for ListMachine {
    type Response = usize;

    fn applied(&self) -> Applied {
        self.now.applied.clone()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "what takes long on a lane is not the nodes' time but the disk's"
    )]
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<usize>, StateMachineError> {
        std::thread::sleep(Duration::from_millis(self.store.apply_ms.load(Ordering::SeqCst)));
        let mut responses = Vec::new();
        for entry in entries {
            assert_eq!(entry.index, self.now.applied.last.index.next(), "entries come in order, each once");
            self.now.applied.last = entry.log_id();
            match &entry.payload {
                Payload::Command(item) => {
                    let lies = self.now.items.len() + 1 == self.store.lies_at.load(Ordering::SeqCst);
                    self.now.items.push(if lies { Bytes::from_static(b"a lie") } else { item.clone() });
                }
                Payload::Configuration(c) => self.now.applied.configuration = Some(c.clone()),
                Payload::Noop => {}
            }
            self.trail.record(entry.index, hash(&self.now.items));
            self.unsaved += entry.size_bytes();
            responses.push(self.now.items.len());
        }
        self.store.len.store(self.now.items.len(), Ordering::SeqCst);
        Ok(responses)
    }

    fn unsaved_bytes(&self) -> u64 {
        self.unsaved
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        self.unsaved = 0;
        let (cut, store) = (self.now.clone(), Arc::clone(&self.store));
        Box::new(move || {
            let last = cut.applied.last;
            *store.saved.lock().unwrap() = cut;
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
        self.trail.reset(meta.last.index, hash(&self.now.items));
        self.store.len.store(self.now.items.len(), Ordering::SeqCst);
        *self.store.saved.lock().unwrap() = self.now.clone();
        Ok(())
    }

    fn hash_trail(&self) -> Option<Arc<HashTrail>> {
        Some(Arc::clone(&self.trail))
    }

    fn condemn(&mut self, why: &str) -> Result<(), StateMachineError> {
        *self.store.saved.lock().unwrap() = List::default();
        self.store.condemned.lock().unwrap().push(why.to_owned());
        Ok(())
    }
}

pub(crate) type Handle = RaftHandle<usize>;

/// So long that no test lives to see it: what happens nevertheless did not wait for it.
pub(crate) const NEVER: u32 = 100_000;

/// A test that waits for longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `future` comes to; panics if it comes to nothing.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match raft::clock::timeout(&RealClock, PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("no end: {what}"),
    }
}

/// The real clock, which can be set forward as after a suspend. Nobody's wait becomes shorter by that.
#[derive(Clone, Default)]
pub(crate) struct JumpingClock {
    ahead_ns: Arc<AtomicU64>,
}

impl JumpingClock {
    pub(crate) fn jump(&self, by: Duration) {
        self.ahead_ns.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_nanos(self.ahead_ns.load(Ordering::SeqCst))
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Monotonic {
        RealClock.now() + self.ahead()
    }

    fn sleep_until(&self, deadline: Monotonic) -> BoxFuture<'static, ()> {
        RealClock.sleep_until(deadline - self.ahead())
    }
}

/// The thread a node lives on.
struct Life {
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Life {
    fn end(self) {
        drop(self.kill);
        self.thread.join().unwrap();
    }
}

type Started = oneshot::Receiver<Result<Handle, StartError>>;

#[expect(clippy::disallowed_methods, reason = "a node that can be killed needs a thread of its own")]
fn spawn(options: NodeOptions, seams: Seams, store: Arc<Store>) -> (Started, Life) {
    let (kill, killed) = oneshot::channel();
    let (started, start) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let live = async {
                let node = driver::start(options, seams, move || Ok(ListMachine::open(store))).await;
                let _ = started.send(node);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                _ = killed => {}
                () = live => {}
            }
        });
    });
    (start, Life { kill, thread })
}

/// A cluster whose nodes can be stopped, killed and started again.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) stores: BTreeMap<NodeId, Arc<Store>>,
    pub(crate) nodes: BTreeMap<NodeId, Handle>,
    lives: BTreeMap<NodeId, Life>,
    pub(crate) election_timeout_ticks: u32,
    pub(crate) tick: Duration,
    /// The clock of all nodes.
    pub(crate) clock: JumpingClock,
    starts: u64,
}

impl Cluster {
    /// Addresses for `size` nodes, none of which runs yet.
    pub(crate) fn new(size: u64) -> Self {
        // Ports that were free a moment ago; kept open together so that they differ.
        let listeners: Vec<TcpListener> =
            (0..size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let members: BTreeMap<NodeId, Member> = listeners
            .iter()
            .zip(1..)
            .map(|(listener, id)| (NodeId(id), Member::at(listener.local_addr().unwrap().to_string())))
            .collect();
        let stores = members.keys().map(|&id| (id, Arc::default())).collect();
        Self {
            dir: tempfile::tempdir().unwrap(),
            members,
            stores,
            nodes: BTreeMap::new(),
            lives: BTreeMap::new(),
            election_timeout_ticks: 10,
            tick: Duration::from_millis(10),
            clock: JumpingClock::default(),
            starts: 0,
        }
    }

    pub(crate) fn options(&mut self, id: NodeId) -> NodeOptions {
        self.starts += 1;
        let core = Config {
            election_timeout_ticks: self.election_timeout_ticks,
            heartbeat_ticks: 3,
            append_bytes_max: 64 << 10,
            inflight_messages_max: 64,
            inflight_bytes_max: 1 << 20,
            log_bytes_max: 4 << 20,
            hurried_election_ticks: if self.election_timeout_ticks == NEVER { hurry(id) } else { 3 },
            seed: id.0 * 1000 + self.starts,
            ..Config::new(id)
        };
        let data_dir = self.dir.path().join(id.to_string());
        let listen = self.members[&id].address.clone();
        let mut options = NodeOptions::new(core, data_dir, listen, self.members.clone());
        options.tick = self.tick;
        options.wal.segment_bytes = 64 << 10;
        options.checkpoint_bytes = 2 << 10;
        options.snapshot_entries = 50;
        options.snapshot_log_bytes = 1;
        options.retain_log_bytes = 1 << 10;
        options.compare_ticks = 10;
        options
    }

    /// Starts nodes that form the cluster, or are in it already.
    pub(crate) async fn start(&mut self, ids: &[u64]) {
        let starting: Vec<_> = ids.iter().map(|&id| (NodeId(id), self.begin(NodeId(id), |_| {}))).collect();
        for (id, started) in starting {
            self.nodes.insert(id, within("the start", started).await.unwrap().unwrap());
        }
    }

    /// Begins to start a node; what comes of it is told by the receiver.
    pub(crate) fn begin(&mut self, id: NodeId, change: impl FnOnce(&mut NodeOptions)) -> Started {
        let mut options = self.options(id);
        change(&mut options);
        let seams = Seams { clock: Arc::new(self.clock.clone()), ..Seams::real() };
        let (started, life) = spawn(options, seams, Arc::clone(&self.stores[&id]));
        self.lives.insert(id, life);
        started
    }

    /// An address for one more node, which is to join; returns its id.
    pub(crate) fn another(&mut self) -> NodeId {
        let id = NodeId(self.stores.keys().last().unwrap().0 + 1);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        self.members.insert(id, Member::at(address.to_string()));
        self.stores.insert(id, Arc::default());
        id
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        assert_eq!(*within("the stop", node.shutdown()).await, StopReason::Shutdown);
        self.lives.remove(&id).unwrap().end();
    }

    /// Takes away a node that has stopped by itself; tells why it did.
    pub(crate) async fn stopped(&mut self, id: NodeId) -> String {
        let node = self.nodes.remove(&id).unwrap();
        let reason = within("the stop", node.stopped()).await;
        self.lives.remove(&id).unwrap().end();
        reason.to_string()
    }

    /// Ends a node without its doing anything about it.
    pub(crate) fn kill(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.lives.remove(&id).unwrap().end();
    }

    /// Proposes until it is done; only refusals that are definite are tried again.
    pub(crate) async fn propose(&self, item: &str) -> usize {
        for _ in 0..2000 {
            for node in self.nodes.values() {
                let proposal = node.propose(Bytes::copy_from_slice(item.as_bytes()));
                match within(item, proposal).await {
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

    /// The node that leads and has committed an entry of its term.
    pub(crate) async fn leader(&self) -> NodeId {
        for _ in 0..2000 {
            for (&id, node) in &self.nodes {
                let is_established = node.leadership().borrow().established;
                if is_established && within("a read", node.read_index()).await.is_ok() {
                    return id;
                }
            }
            pause().await;
        }
        panic!("no leader");
    }

    /// Waits until a read on this node can see `items`, and checks that it does.
    pub(crate) async fn reads(&self, id: NodeId, items: usize) {
        for _ in 0..2000 {
            match within("a read", self.nodes[&id].read_index()).await {
                Ok(_) => return assert_eq!(self.stores[&id].len(), items, "on {id}"),
                // It knows no leader, or the leader has not begun yet.
                Err(ReadError::NotLeader { .. } | ReadError::LeadershipLost) => pause().await,
                Err(error) => panic!("{id}: {error}"),
            }
        }
        panic!("{id} cannot read");
    }

    pub(crate) fn node(&self, id: NodeId) -> &Handle {
        &self.nodes[&id]
    }

    /// A running node that follows.
    pub(crate) async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        *self.nodes.keys().find(|&&id| id != leader).unwrap()
    }

    pub(crate) fn term(&self, id: NodeId) -> u64 {
        self.nodes[&id].leadership().borrow().term.0
    }

    /// Waits until a node's committed configuration is as `wanted` says.
    pub(crate) async fn configuration(
        &self,
        id: NodeId,
        wanted: impl Fn(&Configuration) -> bool,
    ) -> Configuration {
        for _ in 0..4000 {
            let now = self.nodes[&id].membership().borrow().clone();
            if now.committed && wanted(&now.configuration) {
                return (*now.configuration).clone();
            }
            pause().await;
        }
        panic!("{id} does not come to it: {:?}", self.nodes[&id].status().await);
    }

    /// Waits until all running nodes have applied as much as the leader has committed.
    pub(crate) async fn converge(&self) {
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

impl Drop for Cluster {
    fn drop(&mut self) {
        while let Some((_, life)) = self.lives.pop_first() {
            life.end();
        }
    }
}

/// Two that stand in the same moment may both fail, and then wait for an election timeout. Where that is never, they
/// had better not.
fn hurry(id: NodeId) -> u32 {
    match id.0 {
        1 => 0,
        2 => 100,
        _ => 10_000,
    }
}

pub(crate) async fn pause() {
    raft::clock::sleep(&RealClock, Duration::from_millis(5)).await;
}

/// Whether a node leads, as it says itself.
pub(crate) fn leads(node: &Handle) -> bool {
    node.leadership().borrow().role == RoleName::Leader
}
