//! One world from beginning to end.
//!
//! 1. The nodes start and form their cluster, undisturbed unless the scenario says otherwise.
//! 2. *Chaos*: faults and clients, for as long as the scenario says. Only safety is asked for.
//! 3. *Heal*: no more faults, everything up and true. Now the cluster must make progress through every node, all
//!    nodes must come to the same state, and every key is read once more.
//! 4. *Judgement*: what was written is there, once; the history is linearizable, by the store's own order and without
//!    knowing it, and both ways of finding out agree.
//!
//! The first rule that is broken ends the run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kv::client::Writer;
use madsim::runtime::{Handle, NodeHandle, Runtime};
use madsim::task::JoinHandle;

use crate::checker::{self, Limits, Verdict, witness};
use crate::cluster::{Cluster, World};
use crate::invariants::Invariants;
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::plan::{Operation, OperationKind, Plan};
use crate::random::{Random, derive};
use crate::report::{Failure, Figures, SeedReport};
use crate::scenario::StoreKind;
use crate::time::VirtualTime;
use crate::trace::{Event, Keep, Source, Trace};
use crate::workload::client::{SimClient, connect};
use crate::workload::ledger::Ledger;
use crate::workload::record::{Outcome, Recorder};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// How long the cluster may take to form.
const FORM_NS_MAX: u64 = 60 * SECOND;
/// How long it may take to be well again after everything is healed.
const HEAL_NS_MAX: u64 = 120 * SECOND;
/// How often the rules are looked at and the ledger is written up.
const WATCH_NS: u64 = 20 * MILLISECOND;
/// How much the black-box check may do for each key. More than enough; a bound so that it ends.
const CHECK_STEPS_MAX: u64 = 20_000_000;

/// The number of the first read of all keys at the end: behind those of all operations.
const READ_ALL_NUMBER: u32 = 1_000_000;

/// How to run a world.
#[derive(Clone, Debug)]
pub struct Options {
    /// What of the trace to print.
    pub keep: Keep,
    /// Where to write the history of operations.
    pub history: Option<PathBuf>,
}

/// Runs a world in this process. Meant to be called once a process: some state of the libraries below is global.
#[must_use]
pub fn run(plan: Plan, options: Options) -> SeedReport {
    if std::env::var_os("RUST_LOG").is_some() {
        // The nodes' own logs, between the lines of the timeline. They may differ from run to run.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let scratch = scratch_directory();
    let path = scratch.path().to_owned();
    // A thread of its own: the runtime seeds the hash maps of the thread it is made in, if there were none yet.
    let thread = std::thread::scope(|scope| scope.spawn(|| run_here(plan, options, path)).join());
    match thread {
        Ok(report) => report,
        Err(panic) => std::panic::resume_unwind(panic),
    }
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

fn run_here(plan: Plan, options: Options, scratch: PathBuf) -> SeedReport {
    let mut runtime = Runtime::with_seed_and_config(derive(plan.seed, "executor"), madsim::Config::default());
    // sled has threads of its own; nothing waits for them but synchronous calls.
    runtime.set_allow_system_thread(plan.scenario.store == StoreKind::Sled);
    runtime.block_on(run_world(plan, options, scratch))
}

async fn run_world(plan: Plan, options: Options, scratch: PathBuf) -> SeedReport {
    let seed = plan.seed;
    let simulation = Simulation::new(&plan, &options, scratch);
    let failure = simulation.run(plan).await.err();
    simulation.report(seed, failure, &options)
}

struct Simulation {
    world: World,
    cluster: Cluster,
    nemesis: Nemesis,
    recorder: Recorder,
    ledger: Ledger,
    clients: NodeHandle,
    over: Arc<AtomicBool>,
}

impl Simulation {
    fn new(plan: &Plan, options: &Options, scratch: PathBuf) -> Self {
        let scenario = Arc::new(plan.scenario.clone());
        let (time, trace) = (VirtualTime::current(), Trace::new(options.keep).echoing());
        let nodes = (1..=scenario.nodes).map(|id| format!("n{id}"));
        let clients = (1..=scenario.workload.clients).map(|id| format!("c{id}"));
        let network = Network::new(
            time.clone(),
            trace.clone(),
            Random::stream(plan.seed, "network"),
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
        let cluster = Cluster::new(world.clone());
        Self {
            world,
            nemesis: Nemesis::new(cluster.clone()),
            cluster,
            recorder: Recorder::default(),
            ledger: Ledger::default(),
            clients: Handle::current().create_node().name("clients").build(),
            over: Arc::default(),
        }
    }

    fn phase(&self, name: &'static str) {
        self.world.record(Source::World, &Event::Phase { name });
    }

    async fn run(&self, plan: Plan) -> Result<(), Failure> {
        self.phase("form");
        self.cluster.nodes().for_each(|node| self.cluster.start(node));
        if !plan.scenario.chaos_from_birth {
            self.wait("the cluster forms and elects a leader", FORM_NS_MAX, || {
                self.cluster.leader().is_some()
            })
            .await?;
        }
        self.phase("chaos");
        self.nemesis.start(plan.faults);
        let clients = self.start_clients(plan.operations);
        self.watch_until(self.world.time.now_ns() + plan.scenario.chaos_ns).await?;
        self.phase("heal");
        self.over.store(true, Ordering::Relaxed);
        self.nemesis.stop();
        self.world.network.heal_all();
        self.cluster.heal();
        self.wait("clients end their last operation", HEAL_NS_MAX, || {
            clients.iter().all(JoinHandle::is_finished)
        })
        .await?;
        self.progress().await?;
        self.convergence().await?;
        self.read_all().await?;
        self.phase("judgement");
        self.judge()
    }

    fn start_clients(&self, operations: Vec<Operation>) -> Vec<JoinHandle<()>> {
        let mut of_client: BTreeMap<u16, Vec<Operation>> = BTreeMap::new();
        for operation in operations {
            of_client.entry(operation.client).or_default().push(operation);
        }
        let start = |(number, operations)| {
            let client = SimClient::new(&self.world, number, &self.recorder, &self.ledger, &self.over);
            self.clients.spawn(client.run(operations))
        };
        of_client.into_iter().map(start).collect()
    }

    fn look(&self) -> Result<(), Failure> {
        self.ledger.update(&self.cluster)?;
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
            let applied = self.cluster.reader(id).map(|reader| reader.applied().to_string());
            format!("n{id} {role:?} term {term} applied {}", applied.as_deref().unwrap_or("(not running)"))
        };
        self.cluster.nodes().map(node).collect::<Vec<_>>().join(", ")
    }

    /// A write must go through, whichever node a client asks first.
    async fn progress(&self) -> Result<(), Failure> {
        for node in self.cluster.nodes() {
            let client = connect(&self.world, 1, vec![format!("n{node}:client")]);
            let written = self
                .clients
                .spawn(async move { while client.put("progress", format!("n{node}")).await.is_err() {} });
            let what = format!("a write by way of n{node}");
            self.wait(&what, HEAL_NS_MAX, || written.is_finished()).await?;
        }
        Ok(())
    }

    /// All nodes must come to the same state, and have the same rows for it.
    async fn convergence(&self) -> Result<(), Failure> {
        let all =
            || self.cluster.nodes().map(|node| self.cluster.reader(node).map(|reader| reader.state_hash()));
        let same = || {
            let mut states = all();
            let first = states.next().flatten();
            first.is_some() && states.all(|state| state == first)
        };
        self.wait("all nodes have the same state", HEAL_NS_MAX, same).await?;
        let audits = self.cluster.nodes().filter_map(|node| {
            let audit = self.cluster.reader(node)?.audit();
            Some(audit.map_err(|error| Failure::new("the store is readable", format!("n{node}: {error}"))))
        });
        let audits = audits.collect::<Result<Vec<_>, _>>()?;
        if audits.windows(2).any(|pair| pair[0] != pair[1]) {
            let text = format!("equal state hashes, but the rows differ: {audits:x?}");
            return Err(Failure::new("state machine safety", text));
        }
        Ok(())
    }

    /// Every key is read once more, through the front door.
    async fn read_all(&self) -> Result<(), Failure> {
        let over = Arc::new(AtomicBool::new(false));
        let mut client = SimClient::new(&self.world, 1, &self.recorder, &self.ledger, &over);
        let reads = self.clients.spawn(async move {
            let mut number = READ_ALL_NUMBER;
            while client.perform(number, &OperationKind::Range).await != Outcome::Ok {
                number += 1;
            }
        });
        self.wait("all keys are read", HEAL_NS_MAX, || reads.is_finished()).await
    }

    fn judge(&self) -> Result<(), Failure> {
        self.look()?;
        let effects = self.ledger.take();
        let positions = self.recorder.positions(&effects)?;
        self.recorder.with_history(|history| {
            let by_witness = witness::check(history, &positions);
            let limits = Limits { steps_max: CHECK_STEPS_MAX, ..Limits::default() };
            let by_search = checker::check(history, &limits);
            match (by_witness, by_search) {
                (Ok(()), Verdict::Linearizable) => Ok(()),
                (Err(violation), Verdict::Linearizable) => Err(Failure::new(
                    "both checks agree",
                    format!("linearizable, but not in the order of the log: {violation}"),
                )),
                (Ok(()), Verdict::NotLinearizable(why)) => Err(Failure::new(
                    "both checks agree",
                    format!("explained by the order of the log, and yet not linearizable: {why}"),
                )),
                (Err(violation), Verdict::NotLinearizable(why)) => {
                    Err(Failure::new("linearizability", format!("{violation}\n{why}")))
                }
                (_, Verdict::Unknown { bound, key }) => {
                    Err(Failure::new("linearizability", format!("undecided for key {key}: {bound}")))
                }
            }
        })
    }

    fn report(&self, seed: u64, failure: Option<Failure>, options: &Options) -> SeedReport {
        if let Some(path) = &options.history {
            let written = std::fs::File::create(path)
                .and_then(|file| self.recorder.with_history(|h| h.write(&mut std::io::BufWriter::new(file))));
            if let Err(error) = written {
                eprintln!("{}: {error}", path.display());
            }
        }
        let (elections, committed, installs) = self.world.invariants.figures();
        let [ok, fail, info] = self.recorder.counts();
        let (events, hash) = self.world.trace.digest();
        SeedReport {
            seed,
            failure,
            virtual_ns: self.world.time.now_ns(),
            events,
            trace_hash: format!("{hash:016x}"),
            figures: Figures {
                nodes: u64::from(self.world.scenario.nodes),
                faults: u64::from(self.nemesis.done()),
                crashes: u64::from(self.cluster.crashes()),
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
