//! One machine, and the process on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use kv::limits::Limits;
use kv::server::{Node, NodeSetup, ServerLimits, ServerOptions};
use kv::state_machine::{KvOptions, SessionLimits};
use kv::store::StoreKind;
use madsim::runtime::{Handle, NodeHandle};
use raft::core::{Config, Member, NodeId};
use raft::driver::{NodeOptions, Seams};
use raft::transport::PeerOptions;
use raft::wal::WalOptions;
use tokio::sync::{Notify, mpsc};

use super::platter::Platter;
use super::{Signal, Unsynced, Watch, World, host, start_seed};
use crate::blocking::SimBlocking;
use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::random::Random;
use crate::scenario::Scenario;
use crate::trace::{Event, Source};

/// A machine.
pub(super) struct Machine {
    node: u8,
    disk: SimDisk,
    platter: Platter,
    clock: SimClock,
    slowness: Arc<AtomicU32>,
    starts: u32,
    /// How long the node is down once its disk has lost power in the middle of its calls.
    down_ns: u64,
    process: Option<Process>,
}

struct Process {
    handle: NodeHandle,
    paused: bool,
    /// Rung to ask the process to shut down.
    asked: Arc<Notify>,
}

/// What a process is started with.
pub struct Boot {
    world: World,
    node: u8,
    start: u32,
    setup: NodeSetup,
    seams: Seams,
    watch: Arc<Watch>,
    signals: mpsc::UnboundedSender<Signal>,
    asked: Arc<Notify>,
}

impl Machine {
    pub(super) fn new(world: &World, node: u8) -> Self {
        let clock = world.scenario.clocks[usize::from(node) - 1];
        Self {
            node,
            disk: SimDisk::new(start_seed(world.seed, "disk", node, 0)),
            platter: Platter::new(world.scenario.store, &world.scratch, node),
            clock: SimClock::new(world.time.clone(), clock.offset_ns, clock.drift_ppm),
            slowness: Arc::new(AtomicU32::new(1)),
            starts: 0,
            down_ns: 0,
            process: None,
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether the process of this start still runs.
    pub(super) const fn is_start(&self, start: u32) -> bool {
        self.starts == start && self.process.is_some()
    }

    /// Whether the power is off, although the process was not taken down.
    pub(super) fn is_off(&self) -> bool {
        self.disk.is_off()
    }

    pub(super) fn crash_after_calls(&mut self, calls: u64, down_ns: u64) {
        if self.is_up() {
            self.down_ns = down_ns;
            self.disk.set_crash_after(calls);
        }
    }

    /// Takes back a crash that has not come yet.
    pub(super) fn crash_never(&mut self) {
        self.down_ns = 0;
        if !self.disk.is_off() {
            self.disk.set_crash_after(u64::MAX / 2);
        }
    }

    /// The power of this start's process is off: for how long it will be, if it still counts as running.
    pub(super) fn power_lost(&self, start: u32) -> Option<u64> {
        (self.is_start(start) && self.disk.is_off()).then_some(self.down_ns)
    }

    pub(super) const fn clock(&self) -> &SimClock {
        &self.clock
    }

    pub(super) const fn slowness(&self) -> &Arc<AtomicU32> {
        &self.slowness
    }

    pub(super) fn start(
        &mut self,
        world: &World,
        watch: &Arc<Watch>,
        signals: &mpsc::UnboundedSender<Signal>,
    ) {
        self.starts += 1;
        world.record(Source::Node(self.node), &Event::Started { start: self.starts });
        let store = match self.platter.store(self.starts, &self.disk) {
            Ok(store) => store,
            Err(error) => panic!("cannot lay out the store of n{}: {error}", self.node),
        };
        let handle = Handle::current().create_node().name(format!("n{}.{}", self.node, self.starts)).build();
        let boot = Boot {
            world: world.clone(),
            node: self.node,
            start: self.starts,
            setup: self.setup(world, watch, store),
            seams: self.seams(world, signals),
            watch: Arc::clone(watch),
            signals: signals.clone(),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&boot.asked);
        handle.spawn(boot.run());
        self.process = Some(Process { handle, paused: false, asked });
    }

    /// Takes the process down. What is on the disk afterwards is decided first.
    pub(super) fn crash(&mut self, unsynced: Unsynced, seed: u64) {
        let Some(process) = self.process.take() else { return };
        let image = match unsynced {
            Unsynced::Lost => self.disk.power_loss_image(seed),
            Unsynced::Kept => self.disk.process_crash_image(),
        };
        self.disk.power_off();
        self.platter.cut_power();
        self.disk = image;
        let runtime = Handle::current();
        // Tasks that stand still are dropped in order only once they are woken.
        runtime.resume(process.handle.id());
        runtime.kill(process.handle.id());
    }

    /// Asks the process to shut down in order.
    pub(super) fn shut_down(&self) {
        if let Some(process) = &self.process {
            process.asked.notify_one();
        }
    }

    pub(super) fn pause(&mut self) -> bool {
        let Some(process) = self.process.as_mut().filter(|process| !process.paused) else { return false };
        process.paused = true;
        Handle::current().pause(process.handle.id());
        true
    }

    pub(super) fn resume(&mut self) {
        let Some(process) = self.process.as_mut().filter(|process| process.paused) else { return };
        process.paused = false;
        Handle::current().resume(process.handle.id());
    }

    fn seams(&self, world: &World, signals: &mpsc::UnboundedSender<Signal>) -> Seams {
        let (node, start) = (self.node, self.starts);
        let (disk, signals) = (self.disk.clone(), signals.clone());
        let after_job = Arc::new(move || {
            if disk.is_off() {
                // Nobody listens any more when the world ends.
                let _ = signals.send(Signal::PowerLost { node, start });
            }
        });
        let blocking = SimBlocking::new(
            world.time.clone(),
            world.trace.clone(),
            node,
            Random::new(start_seed(world.seed, "lanes", node, start)),
            world.scenario.lanes.clone(),
            Arc::clone(&self.slowness),
            after_job,
        );
        Seams {
            clock: Arc::new(self.clock.clone()),
            net: Arc::new(world.network.of_host(host(node))),
            disk: Arc::new(self.disk.clone()),
            blocking: Arc::new(blocking),
        }
    }

    fn setup(&self, world: &World, watch: &Arc<Watch>, store: StoreKind) -> NodeSetup {
        let (node, scenario) = (self.node, &*world.scenario);
        let id = NodeId(u64::from(node));
        let dir = PathBuf::from(format!("/n{node}"));
        let members = addresses(scenario, "peer");
        let members = members.into_iter().map(|(id, address)| (id, Member::at(address))).collect();
        let seed = start_seed(world.seed, "node", node, self.starts);
        let mut raft =
            NodeOptions::new(core_config(scenario, id, seed), dir.clone(), format!("n{node}:peer"), members);
        raft.tick = Duration::from_nanos(scenario.raft.tick_ns);
        raft.wal = WalOptions { segment_bytes: scenario.storage.segment_bytes, recycled_max: 2 };
        raft.peer = peer_options(scenario);
        raft.requests_max = 256;
        raft.checkpoint_bytes = scenario.storage.checkpoint_bytes;
        raft.snapshot_entries = scenario.storage.snapshot_entries;
        raft.snapshot_log_bytes = 0;
        raft.retain_log_bytes = scenario.storage.retain_log_bytes;
        raft.observer = Some(watch.observer(node));
        let kv = KvOptions {
            dir: dir.join("store"),
            store,
            sessions: SessionLimits { sessions_max: 16, responses_max: 16, response_bytes_max: 1 << 10 },
        };
        let mut server = ServerOptions::new(id, format!("n{node}:client"), addresses(scenario, "client"));
        server.requests = Limits { ..Limits::default() };
        server.limits = ServerLimits { proposals_max: 64, ..ServerLimits::default() };
        server.shutdown_timeout = Duration::from_millis(500);
        NodeSetup { raft, kv, server }
    }
}

fn addresses(scenario: &Scenario, port: &str) -> BTreeMap<NodeId, String> {
    (1..=scenario.nodes).map(|id| (NodeId(u64::from(id)), format!("n{id}:{port}"))).collect()
}

fn core_config(scenario: &Scenario, id: NodeId, seed: u64) -> Config {
    let raft = &scenario.raft;
    Config {
        id,
        election_timeout_ticks: raft.election_ticks,
        heartbeat_ticks: raft.heartbeat_ticks,
        append_bytes_max: raft.append_bytes_max,
        inflight_messages_max: raft.inflight_messages_max as usize,
        inflight_bytes_max: raft.inflight_bytes_max,
        log_bytes_max: raft.log_bytes_max,
        uncommitted_bytes_max: u64::MAX,
        unapplied_bytes_max: u64::MAX,
        hurried_election_ticks: 3,
        reads_pending_max: 64,
        seed,
    }
}

fn peer_options(scenario: &Scenario) -> PeerOptions {
    let raft = &scenario.raft;
    PeerOptions {
        queue_messages_max: raft.peer_queue_messages as usize,
        queue_bytes_max: raft.peer_queue_bytes as usize,
        connect_timeout: Duration::from_millis(500),
        handshake_timeout: Duration::from_millis(1_000),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(200),
        read_idle_max: Duration::from_secs(3),
        ..PeerOptions::default()
    }
}

impl Boot {
    /// The process.
    async fn run(self) {
        let Self { world, node, start, setup, seams, watch, signals, asked } = self;
        let stopped = |reason, asked| {
            // Nobody listens any more when the world ends.
            let _ = signals.send(Signal::Stopped { node, start, reason, asked });
        };
        let running = match Node::start(setup, seams).await {
            Ok(running) => running,
            Err(error) => return stopped(format!("did not start: {error}"), false),
        };
        watch.ready(node, running.reader().clone());
        let applied = running.reader().applied().index.0;
        world.record(Source::Node(node), &Event::Ready { applied });
        let by_itself = tokio::select! {
            biased;
            reason = running.stopped() => Some(reason),
            () = asked.notified() => None,
        };
        match by_itself {
            Some(reason) => stopped(reason.to_string(), false),
            None => stopped(running.shutdown().await.to_string(), true),
        }
    }
}
