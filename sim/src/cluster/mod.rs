//! The cluster under test: whole nodes (client port, consensus, log, store, transport), each a process on a machine
//! of its own that can lose power, stand still, or be started again.
//!
//! A machine outlives its processes: it has the disk, the store's platter and the clock. What survives a crash is
//! what the disk's image says and, for the store, what it had flushed: the image is taken *before* the process is
//! taken down, because taking it down runs destructors.

mod machine;
mod observer;
mod platter;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv::state_machine::KvReader;
use raft::core::{NodeId, RoleName, Term};
use tokio::sync::mpsc;

pub use machine::Boot;
use machine::Machine;
pub use observer::{Trigger, Watch};

use crate::clock::SimClock;
use crate::invariants::Invariants;
use crate::network::Network;
use crate::random::{Random, derive};
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
    /// The network. Hosts `0..nodes` are the nodes, the rest the clients.
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
    /// The process ended by itself, or because it was asked to.
    Stopped { node: u8, start: u32, reason: String, asked: bool },
}

/// The machines. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    world: World,
    machines: Vec<Mutex<Machine>>,
    random: Mutex<Random>,
    watch: Arc<Watch>,
    signals: mpsc::UnboundedSender<Signal>,
    crashes: AtomicU32,
    healed: AtomicBool,
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
    pub fn new(world: World) -> Self {
        let (signals, mut received) = mpsc::unbounded_channel();
        let count = world.scenario.nodes;
        let machines = (1..=count).map(|id| Mutex::new(Machine::new(&world, id))).collect();
        let random = Mutex::new(Random::stream(world.seed, "crashes"));
        let watch = Arc::new(Watch::new(world.clone(), count, signals.clone()));
        let shared = Shared {
            world,
            machines,
            random,
            watch,
            signals,
            crashes: AtomicU32::new(0),
            healed: AtomicBool::new(false),
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

    /// The ids of all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.shared.world.scenario.nodes
    }

    fn machine(&self, node: u8) -> MutexGuard<'_, Machine> {
        self.shared.machines[usize::from(node) - 1].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) -> u64 {
        self.shared.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// Starts a node that is down. Nothing happens if it is up.
    pub fn start(&self, node: u8) {
        let world = &self.shared.world;
        let mut machine = self.machine(node);
        if machine.is_up() {
            return;
        }
        world.network.boot(host(node));
        world.invariants.started(NodeId(u64::from(node)));
        self.shared.watch.started(node);
        machine.start(world, &self.shared.watch, &self.shared.signals);
    }

    /// Takes a node's process down at once. Nothing happens if it is down.
    pub fn crash(&self, node: u8, silent: bool, unsynced: Unsynced) {
        let (world, seed) = (&self.shared.world, self.draw());
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
        machine.crash(unsynced, seed);
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
        self.nodes().filter_map(of).max().map(|(_, node)| node)
    }

    /// Reads a node's state, past its port. `None` while it does not run.
    #[must_use]
    pub fn reader(&self, node: u8) -> Option<KvReader> {
        self.shared.watch.reader(node)
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

    /// Makes everything as it should be: all machines up, none slow, all clocks true.
    pub fn heal(&self) {
        self.shared.healed.store(true, Ordering::Relaxed);
        for node in self.nodes() {
            self.resume(node);
            self.slow_disk(node, 1);
            let clock = self.clock(node);
            clock.thaw();
            clock.set_drift(0);
            self.machine(node).crash_never();
            self.shared.watch.disarm(node);
            self.start(node);
        }
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
            Signal::Stopped { node, start, reason, asked } => self.on_stopped(node, start, &reason, asked),
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
        let heard: Vec<u8> = self.nodes().filter(hear).collect();
        // Not so soon that the vote does not get there, and before the node is back.
        world.time.sleep(trigger.down_ns * 9 / 10).await;
        let each = |change: &dyn Fn(usize, usize)| {
            for id in &heard {
                change(host(node), host(*id));
                change(host(*id), host(node));
            }
        };
        each(&|from, to| world.network.cut(from, to));
        world.time.sleep(trigger.isolate_ns).await;
        each(&|from, to| world.network.heal(from, to));
    }

    /// A process that ends unasked has lost its disk, or there is something wrong.
    fn on_stopped(&self, node: u8, start: u32, reason: &str, asked: bool) {
        let machine = self.machine(node);
        if !machine.is_start(start) {
            return;
        }
        let off = machine.is_off();
        drop(machine);
        let event = Event::Stopped { kind: StopKind::ByItself, reason };
        self.shared.world.record(Source::Node(node), &event);
        if off {
            self.on_signal(Signal::PowerLost { node, start });
        } else if asked {
            self.crash(node, false, Unsynced::Lost);
            if self.shared.healed.load(Ordering::Relaxed) {
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
