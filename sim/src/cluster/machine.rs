//! One machine, and the process on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use raft::core::{Config, Member, NodeId};
use raft::driver::{NodeOptions, Seams};
use raft::transport::PeerOptions;
use raft::wal::WalOptions;
use tokio::sync::{Notify, mpsc};

use super::{Ended, Signal, Unsynced, Watch, World, host, start_seed};
use crate::app::{App, Platter, Start};
use crate::blocking::SimBlocking;
use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::scenario::Scenario;
use crate::trace::{Event, Source};

/// A machine.
pub(super) struct Machine {
    node: u8,
    disk: SimDisk,
    platter: Box<dyn Platter>,
    clock: SimClock,
    slowness: Arc<AtomicU32>,
    starts: u32,
    /// How long the node is down once its disk has lost power in the middle of its calls.
    down_ns: u64,
    standing: Standing,
    process: Option<Process>,
}

/// What a machine is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet.
    Spare,
    /// Its node is, or is to be, a member.
    InUse,
    /// Its node was a member, and its disk was lost.
    Wiped,
    /// Its node was a member, and is done.
    Retired,
}

struct Process {
    handle: NodeHandle,
    paused: bool,
    /// Rung to ask the process to shut down.
    asked: Arc<Notify>,
}

/// What a process is started with.
pub(super) struct Boot {
    app: Arc<dyn App>,
    number: u32,
    start: Start,
    watch: Arc<Watch>,
    signals: mpsc::UnboundedSender<Signal>,
    asked: Arc<Notify>,
}

impl Machine {
    pub(super) fn new(app: &dyn App, world: &World, node: u8) -> Self {
        let clock = world.scenario.clocks[usize::from(node) - 1];
        Self {
            node,
            disk: SimDisk::new(start_seed(world.seed, "disk", node, 0)),
            platter: app.platter(world, node),
            clock: SimClock::new(world.time.clone(), clock.offset_ns, clock.drift_ppm),
            slowness: Arc::new(AtomicU32::new(1)),
            starts: 0,
            down_ns: 0,
            standing: if node <= world.scenario.nodes { Standing::InUse } else { Standing::Spare },
            process: None,
        }
    }

    pub(super) const fn standing(&self) -> Standing {
        self.standing
    }

    pub(super) const fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// The disk of a machine that is down is another one, and empty.
    pub(super) fn wipe(&mut self, app: &dyn App, world: &World) {
        assert!(self.process.is_none(), "n{} is up", self.node);
        self.disk = SimDisk::new(start_seed(world.seed, "disk", self.node, self.starts));
        self.platter = app.platter(world, self.node);
        self.standing = Standing::Wiped;
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
        app: &Arc<dyn App>,
        world: &World,
        watch: &Arc<Watch>,
        signals: &mpsc::UnboundedSender<Signal>,
    ) {
        self.starts += 1;
        world.record(Source::Node(self.node), &Event::Started { start: self.starts });
        let store = match self.platter.open(self.starts, &self.disk) {
            Ok(store) => store,
            Err(error) => panic!("cannot lay out the store of n{}: {error}", self.node),
        };
        let handle = Handle::current().create_node().name(format!("n{}.{}", self.node, self.starts)).build();
        let boot = Boot {
            app: Arc::clone(app),
            number: self.starts,
            start: Start {
                world: world.clone(),
                node: self.node,
                options: self.options(world, watch),
                seams: self.seams(world, signals),
                store,
            },
            watch: Arc::clone(watch),
            signals: signals.clone(),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&boot.asked);
        handle.spawn(boot.run());
        self.process = Some(Process { handle, paused: false, asked });
    }

    /// Takes the process down. What is on the disk afterwards is decided first, by a draw that belongs to this node and
    /// start alone.
    pub(super) fn crash(&mut self, unsynced: Unsynced, seed: u64) {
        let Some(process) = self.process.take() else { return };
        let image = match unsynced {
            Unsynced::Lost => {
                self.disk.power_loss_image(start_seed(seed, "power loss", self.node, self.starts))
            }
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
            start_seed(world.seed, "lanes", node, start),
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

    fn options(&self, world: &World, watch: &Arc<Watch>) -> NodeOptions {
        let (node, scenario) = (self.node, &*world.scenario);
        let id = NodeId(u64::from(node));
        let dir = PathBuf::from(format!("/n{node}"));
        let seed = start_seed(world.seed, "node", node, self.starts);
        let mut raft = NodeOptions::new(
            core_config(scenario, id, seed),
            dir,
            format!("n{node}:peer"),
            members(scenario, node),
        );
        raft.join = node > scenario.nodes;
        raft.tick = Duration::from_nanos(scenario.raft.tick_ns);
        raft.wal = WalOptions { segment_bytes: scenario.storage.segment_bytes, recycled_max: 2 };
        raft.peer = peer_options(scenario);
        raft.requests_max = 256;
        raft.checkpoint_bytes = scenario.storage.checkpoint_bytes;
        raft.snapshot_entries = scenario.storage.snapshot_entries;
        raft.snapshot_log_bytes = 0;
        raft.retain_log_bytes = scenario.storage.retain_log_bytes;
        raft.observer = Some(watch.observer(node));
        raft
    }
}

/// Whom a node is told of: those the cluster is formed of. A spare is told of all machines, for it may come when none of
/// those is left.
fn members(scenario: &Scenario, node: u8) -> BTreeMap<NodeId, Member> {
    let last = if node <= scenario.nodes { scenario.nodes } else { scenario.machines() };
    (1..=last).map(|id| (NodeId(u64::from(id)), member(id, 0))).collect()
}

/// A machine's node as a member.
pub(super) fn member(node: u8, incarnation: u64) -> Member {
    Member { incarnation, address: format!("n{node}:peer"), context: format!("n{node}:client").into() }
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
        uncommitted_bytes_max: raft.uncommitted_bytes_max,
        unapplied_bytes_max: raft.unapplied_bytes_max,
        hurried_election_ticks: raft.hurried_election_ticks,
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
        snapshot_bytes_per_second: scenario.storage.snapshot_bytes_per_second,
        ..PeerOptions::default()
    }
}

impl Boot {
    /// The process.
    async fn run(self) {
        let Self { app, number: start, start: parts, watch, signals, asked } = self;
        let (world, node) = (parts.world.clone(), parts.node);
        let stopped = |ended| {
            // Nobody listens any more when the world ends.
            let _ = signals.send(Signal::Stopped { node, start, ended });
        };
        let running = match app.start(parts).await {
            Ok(running) => running,
            Err(error) => return stopped(Ended::DidNotStart(error)),
        };
        let view = running.view();
        let applied = view.applied().index.0;
        watch.ready(node, view);
        world.record(Source::Node(node), &Event::Ready { applied });
        let by_itself = tokio::select! {
            biased;
            reason = running.stopped() => Some(reason),
            () = asked.notified() => None,
        };
        match by_itself {
            Some(reason) => stopped(Ended::ByItself(reason)),
            None => stopped(Ended::WasAsked(running.shut_down().await)),
        }
    }
}
