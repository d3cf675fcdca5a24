//! The cluster under test: whole nodes (client port, consensus, log, store, transport), each a process on a machine
//! of its own that can lose power, stand still, or be started again.
//!
//! A machine outlives its processes: it has the disk, the store's platter and the clock. What survives a crash is
//! what the disk's image says and, for the store, what it had flushed: the image is taken *before* the process is
//! taken down, because taking it down runs destructors.

mod machine;
mod observer;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::core::{Member, NodeId, RoleName, Term};
use raft::driver::StopReason;
use tokio::sync::mpsc;

use machine::{Machine, Standing};
pub use observer::{Trigger, Watch};

use crate::app::{App, View};
use crate::clock::SimClock;
use crate::invariants::Invariants;
use crate::network::Network;
use crate::random::derive;
use crate::report::Failure;
use crate::scenario::Scenario;
use crate::time::VirtualTime;
use crate::trace::{Event, Source, StopKind, Trace};

/// What all parts of a world share.
#[derive(Clone)]
pub struct World {
    /// Virtual time.
    pub time: VirtualTime,
    /// The trace.
    pub trace: Trace,
    /// The network. The first hosts are the machines, spare ones included, the rest the clients.
    pub network: Network,
    /// The rules that must hold all the time.
    pub invariants: Invariants,
    /// The options.
    pub scenario: Arc<Scenario>,
    /// Feeds all streams of draws.
    pub seed: u64,
    /// A directory in memory for stores that need a real one.
    pub scratch: PathBuf,
}

impl World {
    /// Adds an event to the trace.
    pub fn record(&self, source: Source, event: &Event<'_>) {
        self.trace.record(self.time.now_ns(), source, event);
    }
}

/// Something that a node's process tells its machine.
pub(crate) enum Signal {
    /// The disk lost power in the middle of its calls.
    PowerLost { node: u8, start: u32 },
    /// Something happened in its core that a crash waited for.
    Triggered { node: u8, start: u32, trigger: Trigger, candidate: Option<u8> },
    /// The process ended.
    Stopped { node: u8, start: u32, ended: Ended },
}

/// How a process ended that was not killed.
pub(crate) enum Ended {
    /// It refused to run.
    DidNotStart(String),
    /// It stopped, and nobody had asked it to.
    ByItself(Arc<StopReason>),
    /// It was asked to stop.
    WasAsked(Arc<StopReason>),
}

/// The machines. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    app: Arc<dyn App>,
    world: World,
    machines: Vec<Mutex<Machine>>,
    watch: Arc<Watch>,
    signals: mpsc::UnboundedSender<Signal>,
    crashes: AtomicU32,
    wiped: AtomicU32,
    /// Once everything is healed: the nodes that are.
    core: Mutex<Option<BTreeSet<u8>>>,
}

/// Whether a crash loses what was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// The machine lost power.
    Lost,
    /// Only the process died.
    Kept,
}

impl Cluster {
    /// Machines for the nodes of the scenario, none of them started.
    #[must_use]
    pub fn new(app: Arc<dyn App>, world: World) -> Self {
        let (signals, mut received) = mpsc::unbounded_channel();
        let count = world.scenario.machines();
        let machines = (1..=count).map(|id| Mutex::new(Machine::new(&*app, &world, id))).collect();
        let watch = Arc::new(Watch::new(world.clone(), count, signals.clone()));
        let shared = Shared {
            app,
            world,
            machines,
            watch,
            signals,
            crashes: AtomicU32::new(0),
            wiped: AtomicU32::new(0),
            core: Mutex::default(),
        };
        let cluster = Self { shared: Arc::new(shared) };
        let listening = cluster.clone();
        tokio::spawn(async move {
            while let Some(signal) = received.recv().await {
                listening.on_signal(signal);
            }
        });
        cluster
    }

    /// The world it stands in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.shared.world
    }

    /// The numbers of all machines, spare ones included.
    #[must_use]
    pub fn machines(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.shared.world.scenario.machines()
    }

    /// The nodes that are or are to be members, and have their disks.
    #[must_use]
    pub fn nodes(&self) -> Vec<u8> {
        self.standing_as(Standing::InUse)
    }

    /// The nodes that have lost their disks and are not let back in.
    #[must_use]
    pub fn wiped_nodes(&self) -> Vec<u8> {
        self.standing_as(Standing::Wiped)
    }

    fn standing_as(&self, standing: Standing) -> Vec<u8> {
        self.machines().filter(|node| self.machine(*node).standing() == standing).collect()
    }

    /// Starts the next spare machine, if one is left; its node waits to be added.
    #[must_use]
    pub fn enlist(&self) -> Option<u8> {
        let spare = self.standing_as(Standing::Spare).first().copied()?;
        self.machine(spare).set_standing(Standing::InUse);
        self.start(spare);
        Some(spare)
    }

    /// A node as a member: where it is reached, and which disk it is.
    #[must_use]
    pub fn member(&self, node: u8, incarnation: u64) -> Member {
        machine::member(node, incarnation)
    }

    /// Whether a process of this node ever was up.
    #[must_use]
    pub fn was_ready(&self, node: u8) -> bool {
        self.shared.watch.was_ready(node)
    }

    /// How often a machine lost its disk.
    #[must_use]
    pub fn wipes(&self) -> u32 {
        self.shared.wiped.load(Ordering::Relaxed)
    }

    /// A machine loses its disk and starts again, as who it was.
    pub fn wipe(&self, node: u8) {
        self.crash(node, false, Unsynced::Lost);
        self.shared.wiped.fetch_add(1, Ordering::Relaxed);
        self.shared.world.invariants.wiped(NodeId(u64::from(node)));
        self.machine(node).wipe(&*self.shared.app, &self.shared.world);
        self.boot(node);
    }

    fn machine(&self, node: u8) -> MutexGuard<'_, Machine> {
        self.shared.machines[usize::from(node) - 1].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a node that is down. Nothing happens if it is up, or has no business to be.
    pub fn start(&self, node: u8) {
        if self.machine(node).standing() == Standing::InUse {
            self.boot(node);
        }
    }

    fn boot(&self, node: u8) {
        let world = &self.shared.world;
        let mut machine = self.machine(node);
        if machine.is_up() {
            return;
        }
        world.network.boot(host(node));
        world.invariants.started(NodeId(u64::from(node)));
        self.shared.watch.started(node);
        machine.start(&self.shared.app, world, &self.shared.watch, &self.shared.signals);
    }

    /// Takes a node's process down at once. Nothing happens if it is down.
    pub fn crash(&self, node: u8, silent: bool, unsynced: Unsynced) {
        let world = &self.shared.world;
        let mut machine = self.machine(node);
        if !machine.is_up() {
            return;
        }
        self.shared.crashes.fetch_add(1, Ordering::Relaxed);
        let reason = match unsynced {
            Unsynced::Lost => "what was not synced is lost",
            Unsynced::Kept => "its machine keeps what it wrote",
        };
        world.record(Source::Node(node), &Event::Stopped { kind: StopKind::Killed, reason });
        machine.crash(unsynced, world.seed);
        world.network.crash(host(node), silent);
        self.shared.watch.stopped(node);
    }

    /// Asks a node to shut down. Nothing happens if it is down or not up yet.
    pub fn shut_down(&self, node: u8) {
        self.machine(node).shut_down();
    }

    /// Has the disk of a node lose power after so many more calls. The rest of the crash follows at once, and
    /// `down_ns` later the node starts again.
    pub fn crash_after_calls(&self, node: u8, calls: u64, down_ns: u64) {
        self.machine(node).crash_after_calls(calls, down_ns);
    }

    /// Has a node crash when something happens in its core.
    pub fn crash_when(&self, node: u8, trigger: Trigger) {
        self.shared.watch.arm(node, trigger);
    }

    /// The process of a node stands still. False if it cannot.
    #[must_use]
    pub fn pause(&self, node: u8) -> bool {
        self.machine(node).pause()
    }

    /// It goes on.
    pub fn resume(&self, node: u8) {
        self.machine(node).resume();
    }

    /// Makes all work on a node's lanes this many times slower.
    pub fn slow_disk(&self, node: u8, factor: u32) {
        self.machine(node).slowness().store(factor.max(1), Ordering::Relaxed);
    }

    /// A node's clock.
    #[must_use]
    pub fn clock(&self, node: u8) -> SimClock {
        self.machine(node).clock().clone()
    }

    /// Whether a node's process runs.
    #[must_use]
    pub fn is_up(&self, node: u8) -> bool {
        self.machine(node).is_up()
    }

    /// The node that leads, by what the nodes say of themselves; the latest, if several do.
    #[must_use]
    pub fn leader(&self) -> Option<u8> {
        let of = |node| {
            let (term, role) = self.shared.watch.role(node);
            (role == RoleName::Leader && self.is_up(node)).then_some((term, node))
        };
        self.nodes().into_iter().filter_map(of).max().map(|(_, node)| node)
    }

    /// A node past its ports. `None` while it does not run.
    #[must_use]
    pub fn view(&self, node: u8) -> Option<Arc<dyn View>> {
        self.shared.watch.view(node)
    }

    /// The term and role of a node.
    #[must_use]
    pub fn role(&self, node: u8) -> (Term, RoleName) {
        self.shared.watch.role(node)
    }

    /// How often a process was taken down.
    #[must_use]
    pub fn crashes(&self) -> u32 {
        self.shared.crashes.load(Ordering::Relaxed)
    }

    /// Makes the nodes of the core as they should be: up, none slow, with true clocks. The others stay as they are.
    pub fn heal(&self, core: &BTreeSet<u8>) {
        *self.shared.core.lock().unwrap_or_else(PoisonError::into_inner) = Some(core.clone());
        for node in self.machines() {
            self.machine(node).crash_never();
            self.shared.watch.disarm(node);
        }
        for &node in core {
            self.resume(node);
            self.slow_disk(node, 1);
            let clock = self.clock(node);
            clock.thaw();
            clock.set_drift(0);
            self.start(node);
        }
    }

    fn has_core(&self) -> bool {
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn is_healed(&self, node: u8) -> bool {
        let core = self.shared.core.lock().unwrap_or_else(PoisonError::into_inner);
        core.as_ref().is_some_and(|core| core.contains(&node))
    }

    fn on_signal(&self, signal: Signal) {
        match signal {
            Signal::PowerLost { node, start } => {
                let down_ns = self.machine(node).power_lost(start);
                if let Some(down_ns) = down_ns {
                    self.crash(node, true, Unsynced::Lost);
                    self.start_later(node, down_ns);
                }
            }
            Signal::Triggered { node, start, trigger, candidate } => {
                let cluster = self.clone();
                tokio::spawn(async move { cluster.triggered(node, start, trigger, candidate).await });
            }
            Signal::Stopped { node, start, ended } => self.on_stopped(node, start, &ended),
        }
    }

    fn start_later(&self, node: u8, down_ns: u64) {
        let cluster = self.clone();
        tokio::spawn(async move {
            cluster.world().time.sleep(down_ns).await;
            cluster.start(node);
        });
    }

    /// A crash whose moment has come.
    async fn triggered(&self, node: u8, start: u32, trigger: Trigger, candidate: Option<u8>) {
        let world = self.world();
        world.time.sleep(trigger.after_ns).await;
        if !self.machine(node).is_start(start) {
            return;
        }
        self.crash(node, false, Unsynced::Lost);
        self.start_later(node, trigger.down_ns);
        let Some(candidate) = candidate.filter(|_| trigger.isolate_ns > 0) else { return };
        let hear =
            |id: &u8| *id != node && (*id == candidate || world.network.hears(host(candidate), host(*id)));
        let heard: Vec<u8> = self.machines().filter(hear).collect();
        // Not so soon that the vote does not get there, and before the node is back.
        world.time.sleep(trigger.down_ns * 9 / 10).await;
        let each = |change: &dyn Fn(usize, usize)| {
            for id in &heard {
                change(host(node), host(*id));
                change(host(*id), host(node));
            }
        };
        // Once the core is healed, its links are as they are to be.
        if self.has_core() {
            return;
        }
        each(&|from, to| world.network.cut(from, to));
        world.time.sleep(trigger.isolate_ns).await;
        if !self.has_core() {
            each(&|from, to| world.network.heal(from, to));
        }
    }

    /// A process that ends unasked has lost its disk, or was removed, or there is something wrong.
    fn on_stopped(&self, node: u8, start: u32, ended: &Ended) {
        let machine = self.machine(node);
        if !machine.is_start(start) {
            return;
        }
        let (off, standing) = (machine.is_off(), machine.standing());
        drop(machine);
        let reason = match ended {
            Ended::DidNotStart(why) => format!("did not start: {why}"),
            Ended::ByItself(reason) | Ended::WasAsked(reason) => reason.to_string(),
        };
        let event = Event::Stopped { kind: StopKind::ByItself, reason: &reason };
        self.shared.world.record(Source::Node(node), &event);
        if off {
            return self.on_signal(Signal::PowerLost { node, start });
        }
        let was_removed = match ended {
            Ended::WasAsked(_) => false,
            Ended::ByItself(reason) => matches!(**reason, StopReason::Removed),
            Ended::DidNotStart(_) => true,
        };
        if was_removed && standing == Standing::Wiped {
            // As it should.
            self.crash(node, false, Unsynced::Kept);
        } else if was_removed && self.shared.world.invariants.was_removed(NodeId(u64::from(node))) {
            self.machine(node).set_standing(Standing::Retired);
            self.crash(node, false, Unsynced::Kept);
        } else if let Ended::WasAsked(_) = ended {
            self.crash(node, false, Unsynced::Lost);
            if self.is_healed(node) {
                // It was asked before, and nobody else starts it now.
                self.start(node);
            }
        } else {
            let text = format!("n{node}, of which nothing was asked and whose disk is well: {reason}");
            self.shared.world.invariants.fail(Failure::new("no node stops by itself", text));
        }
    }
}

/// A node's host in the network.
#[must_use]
pub fn host(node: u8) -> usize {
    usize::from(node) - 1
}

/// The seed of one node's stream of draws in one start.
fn start_seed(seed: u64, name: &str, node: u8, start: u32) -> u64 {
    derive(derive(seed, name), &format!("n{node}.{start}"))
}
