//! One world from beginning to end.
//!
//! 1. The nodes start and form their cluster, undisturbed unless the scenario says otherwise.
//! 2. *Chaos*: faults and clients, for as long as the scenario says. Only safety is asked for.
//! 3. *Heal*: no more faults, and a random core is made well ([`healing`](crate::healing)): a quorum of every voter set
//!    that may still decide something. All other nodes stay as broken as they are and hear nothing of it. Now the core
//!    must make progress through each of its nodes, they must come to the same state, and every key is read once more.
//! 4. *Judgement*: what was written is there, once; the history is linearizable, by the store's own order and without
//!    knowing it, and both ways of finding out agree.
//!
//! The first rule that is broken ends the run.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use madsim::runtime::{Handle, Runtime};
use madsim::task::JoinHandle;
use raft::core::NodeId;

use crate::app::{App, Stage, Workload};
use crate::cluster::{Cluster, World, host};
use crate::healing;
use crate::invariants::Invariants;
use crate::marks::Marks;
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::plan::Plan;
use crate::random::derive;
use crate::report::{Failure, Figures, SeedReport};
use crate::scenario::StoreKind;
use crate::time::VirtualTime;
use crate::trace::{Event, Keep, Source, Trace};

mod farewell;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// How long the cluster may take to form.
const FORM_NS_MAX: u64 = 60 * SECOND;
/// How long it may take to be well again after everything is healed.
const HEAL_NS_MAX: u64 = 120 * SECOND;
/// How often the rules are looked at and the ledger is written up.
const WATCH_NS: u64 = 20 * MILLISECOND;
/// How to run a world.
#[derive(Clone, Debug)]
pub struct Options {
    /// What of the trace to print.
    pub keep: Keep,
    /// Where to write the history of operations.
    pub history: Option<PathBuf>,
    /// Where to write every event as data.
    pub events: Option<PathBuf>,
    /// Where to write what of the plan was begun, and when.
    pub schedule: Option<PathBuf>,
}

/// Runs a world in this process. Meant to be called once a process: some state of the libraries below is global.
#[must_use]
pub fn run_app(app: Arc<dyn App>, plan: Plan, options: Options) -> SeedReport {
    if std::env::var_os("RUST_LOG").is_some() {
        // The nodes' own logs, between the lines of the timeline. They may differ from run to run.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let scratch = scratch_directory();
    let path = scratch.path().to_owned();
    let trace = Trace::new(options.keep).echoing().writing(options.events.as_deref().map(create));
    let (schedule, kept) = (options.schedule.clone(), trace.clone());
    // A thread of its own: the runtime seeds the hash maps of the thread it is made in, if there were none yet.
    let thread = std::thread::scope(|scope| scope.spawn(|| run_here(app, plan, options, trace, path)).join());
    // Of a world that panicked, too.
    if let Some(path) = schedule
        && let Err(error) = write_schedule(&kept, &path)
    {
        eprintln!("{}: {error}", path.display());
    }
    match thread {
        Ok(report) => report,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn write_schedule(trace: &Trace, path: &std::path::Path) -> std::io::Result<()> {
    std::fs::write(path, serde_json::to_string(&trace.schedule())?)
}

/// A directory in memory, if the system has one.
fn scratch_directory() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("raftkv-sim.");
    match builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()) {
        Ok(directory) => directory,
        Err(error) => panic!("no directory for the stores: {error}"),
    }
}

fn run_here(app: Arc<dyn App>, plan: Plan, options: Options, trace: Trace, scratch: PathBuf) -> SeedReport {
    let mut runtime = Runtime::with_seed_and_config(derive(plan.seed, "executor"), madsim::Config::default());
    // sled has threads of its own; nothing waits for them but synchronous calls.
    runtime.set_allow_system_thread(plan.scenario.store == StoreKind::Sled);
    runtime.block_on(run_world(app, plan, options, trace, scratch))
}

fn create(path: &Path) -> File {
    match File::create(path) {
        Ok(file) => file,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

async fn run_world(
    app: Arc<dyn App>,
    plan: Plan,
    options: Options,
    trace: Trace,
    scratch: PathBuf,
) -> SeedReport {
    let seed = plan.seed;
    let simulation = Simulation::new(app, &plan, trace, scratch);
    let failure = simulation.run(plan).await.err();
    if let Some(failure) = &failure {
        simulation.note_violation(failure);
    }
    simulation.report(seed, failure, &options)
}

struct Simulation {
    world: World,
    cluster: Cluster,
    nemesis: Nemesis,
    workload: Box<dyn Workload>,
    over: Arc<AtomicBool>,
}

impl Simulation {
    fn new(app: Arc<dyn App>, plan: &Plan, trace: Trace, scratch: PathBuf) -> Self {
        let scenario = Arc::new(plan.scenario.clone());
        let time = VirtualTime::current();
        let nodes = (1..=scenario.machines()).map(|id| format!("n{id}"));
        let clients = (1..=scenario.workload.clients).map(|id| format!("c{id}"));
        let network = Network::new(
            time.clone(),
            trace.clone(),
            derive(plan.seed, "network"),
            scenario.network.clone(),
            nodes.chain(clients).collect(),
        );
        let world = World {
            time,
            trace,
            network,
            invariants: Invariants::default(),
            scenario,
            seed: plan.seed,
            scratch,
        };
        world.invariants.formed((1..=world.scenario.nodes).map(|id| NodeId(u64::from(id))).collect());
        let cluster = Cluster::new(Arc::clone(&app), world.clone());
        let over = Arc::default();
        let stage = Stage {
            world: world.clone(),
            cluster: cluster.clone(),
            clients: Handle::current().create_node().name("clients").build(),
            over: Arc::clone(&over),
        };
        let workload = app.workload(stage);
        Self { world, nemesis: Nemesis::new(cluster.clone()), cluster, workload, over }
    }

    /// If the broken rule is not one of those that say so at once, the trace says it last.
    fn note_violation(&self, failure: &Failure) {
        let invariants = &self.world.invariants;
        invariants.fail(failure.clone());
        if let Some(failure) = invariants.news() {
            self.world.record(Source::World, &Event::Violation { failure: &failure });
        }
    }

    fn phase(&self, name: &'static str) {
        self.world.record(Source::World, &Event::Phase { name });
    }

    async fn run(&self, plan: Plan) -> Result<(), Failure> {
        self.phase("form");
        self.cluster.nodes().into_iter().for_each(|node| self.cluster.start(node));
        if !plan.scenario.chaos_from_birth {
            self.wait("the cluster forms and elects a leader", FORM_NS_MAX, || {
                self.cluster.leader().is_some()
            })
            .await?;
        }
        self.phase("chaos");
        self.nemesis.start(plan.faults);
        let clients = self.workload.begin(plan.operations);
        self.watch_until(self.world.time.now_ns() + plan.scenario.chaos_ns).await?;
        self.phase("heal");
        self.over.store(true, Ordering::Relaxed);
        self.nemesis.stop();
        let core = healing::choose(&self.cluster, self.nemesis.leaves_requests_open());
        self.heal(&core);
        self.wait("clients end their last operation", HEAL_NS_MAX, || {
            clients.iter().all(JoinHandle::is_finished)
        })
        .await?;
        self.progress(&core).await?;
        self.convergence(&core).await?;
        self.nobody_waits(&core).await?;
        self.farewell(&core).await?;
        let read = self.workload.read_all(&core);
        self.wait("all keys are read", HEAL_NS_MAX, || read.is_finished()).await?;
        self.phase("judgement");
        self.look()?;
        self.workload.judge()
    }

    /// The core is well again, and hears and is heard by clients and by itself only.
    fn heal(&self, core: &BTreeSet<u8>) {
        let names: Vec<String> = core.iter().map(|node| format!("n{node}")).collect();
        let text = format!("the core is {}; whatever else is broken stays so", names.join(" "));
        self.world.record(Source::World, &Event::Note { text: &text });
        let network = &self.world.network;
        network.heal_all();
        self.cluster.heal(core);
        let machines = usize::from(self.world.scenario.machines());
        let hosts = machines + usize::from(self.world.scenario.workload.clients);
        let inside = |at: &usize| core.iter().any(|node| host(*node) == *at) || *at >= machines;
        for outside in (0..machines).filter(|at| !inside(at)) {
            for at in (0..hosts).filter(inside) {
                network.cut(outside, at);
                network.cut(at, outside);
            }
        }
    }

    fn look(&self) -> Result<(), Failure> {
        self.workload.look()?;
        self.world.invariants.broken().map_or(Ok(()), Err)
    }

    async fn watch_until(&self, end_ns: u64) -> Result<(), Failure> {
        while self.world.time.now_ns() < end_ns {
            self.world.time.sleep(WATCH_NS).await;
            self.look()?;
        }
        Ok(())
    }

    /// Waits until `holds`; it must within `within_ns`.
    async fn wait(&self, what: &str, within_ns: u64, holds: impl Fn() -> bool) -> Result<(), Failure> {
        let end_ns = self.world.time.now_ns() + within_ns;
        while !holds() {
            self.look()?;
            if self.world.time.now_ns() >= end_ns {
                let text = format!("not within {} s: {what}; {}", within_ns / SECOND, self.describe());
                return Err(Failure::new("liveness", text));
            }
            self.world.time.sleep(WATCH_NS).await;
        }
        self.look()
    }

    /// The nodes, in a line.
    fn describe(&self) -> String {
        let node = |id| {
            let (term, role) = self.cluster.role(id);
            let applied = self.cluster.view(id).map(|view| view.applied().to_string());
            format!("n{id} {role:?} term {term} applied {}", applied.as_deref().unwrap_or("(not running)"))
        };
        self.cluster.nodes().into_iter().map(node).collect::<Vec<_>>().join(", ")
    }

    /// Those of the core that are members, by the newest committed configuration.
    fn members_of(&self, core: &BTreeSet<u8>) -> Vec<u8> {
        let configuration = self.world.invariants.committed_configuration();
        let is_member = |node: &u8| match &configuration {
            Some(configuration) => configuration.contains(NodeId(u64::from(*node))),
            None => *node <= self.world.scenario.nodes,
        };
        core.iter().copied().filter(is_member).collect()
    }

    /// A write must go through, whichever node of the core a client asks first.
    async fn progress(&self, core: &BTreeSet<u8>) -> Result<(), Failure> {
        for &node in core {
            // One may be removed even now, by a change that was under way.
            let is_member = || self.members_of(core).contains(&node);
            if !is_member() {
                continue;
            }
            let written = self.workload.write_through(node);
            let what = format!("a write by way of n{node}");
            self.wait(&what, HEAL_NS_MAX, || written.is_finished() || !is_member()).await?;
        }
        Ok(())
    }

    /// Whatever was proposed is decided by now, one way or the other, and whoever proposed it was told.
    async fn nobody_waits(&self, core: &BTreeSet<u8>) -> Result<(), Failure> {
        let end_ns = self.world.time.now_ns() + HEAL_NS_MAX;
        for node in self.members_of(core) {
            while let Some(view) = self.cluster.view(node) {
                let waiting = tokio::select! {
                    biased;
                    waiting = view.raft().proposals_waiting() => waiting.unwrap_or(0),
                    () = self.world.time.sleep(HEAL_NS_MAX) => u64::MAX,
                };
                if waiting == 0 {
                    break;
                }
                if self.world.time.now_ns() >= end_ns {
                    let text = format!("{waiting} proposals wait at n{node} for ever; {}", self.describe());
                    return Err(Failure::new("every proposal is answered", text));
                }
                self.world.time.sleep(WATCH_NS).await;
                self.look()?;
            }
        }
        Ok(())
    }

    /// All members in the core must come to the same state, and have the same rows for it.
    async fn convergence(&self, core: &BTreeSet<u8>) -> Result<(), Failure> {
        let same = || {
            let states = self.members_of(core).into_iter().map(|node| {
                // What a node that is up holds; nothing, and never equal, if it is not.
                self.cluster.view(node).map(|view| view.state_hash())
            });
            let states: Vec<_> = states.collect();
            states.first().is_some_and(|first| first.is_some() && states.iter().all(|state| state == first))
        };
        self.wait("all nodes have the same state", HEAL_NS_MAX, same).await?;
        let audits = self.members_of(core).into_iter().filter_map(|node| {
            let audit = self.cluster.view(node)?.audit();
            Some(audit.map_err(|error| Failure::new("the store is readable", format!("n{node}: {error}"))))
        });
        let audits = audits.collect::<Result<Vec<_>, _>>()?;
        if audits.windows(2).any(|pair| pair[0] != pair[1]) {
            let text = format!("equal state hashes, but the rows differ: {audits:x?}");
            return Err(Failure::new("state machine safety", text));
        }
        Ok(())
    }

    fn report(&self, seed: u64, failure: Option<Failure>, options: &Options) -> SeedReport {
        if let Some(path) = &options.history
            && let Err(error) = self.workload.write_history(path)
        {
            eprintln!("{}: {error}", path.display());
        }
        let (elections, committed, installs) = self.world.invariants.figures();
        let (changes, transfers) = self.nemesis.requests_done();
        let [ok, fail, info] = self.workload.counts();
        let (events, hash) = self.world.trace.digest();
        SeedReport {
            seed,
            failure,
            virtual_ns: self.world.time.now_ns(),
            events,
            trace_hash: format!("{hash:016x}"),
            marks: Marks::of_this_process(),
            figures: Figures {
                nodes: u64::from(self.world.scenario.nodes),
                faults: u64::from(self.nemesis.done()),
                crashes: u64::from(self.cluster.crashes()),
                wipes: u64::from(self.cluster.wipes()),
                changes: u64::from(changes),
                transfers: u64::from(transfers),
                elections,
                committed,
                installs,
                ok,
                fail,
                info,
            },
        }
    }
}
