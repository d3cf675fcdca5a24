//! The key-value store as the app: whole nodes with their client ports, and clients of the client library.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kv::client::Writer;
use kv::command::Response;
use kv::limits::Limits as KvLimits;
use kv::server::{Node, NodeSetup, ServerLimits, ServerOptions};
use kv::state_machine::{KvOptions, KvReader, SessionLimits};
use kv::store::StoreKind;
use madsim::task::JoinHandle;
use raft::clock::BoxFuture;
use raft::core::{Index, LogId};
use raft::driver::{RaftHandle, StopReason};

use super::admin::Admin;
use super::platter::KvPlatter;
use super::{App, Platter, Process, Stage, Start, View, Workload};
use crate::checker::{self, Limits, Verdict, witness};
use crate::cluster::World;
use crate::plan::{Operation, OperationKind};
use crate::report::Failure;
use crate::workload::client::{SimClient, connect};
use crate::workload::ledger::Ledger;
use crate::workload::record::{Outcome, Recorder};

/// How much the black-box check may do for each key. More than enough; a bound so that it ends.
const CHECK_STEPS_MAX: u64 = 20_000_000;

/// The number of the first read of all keys at the end: behind those of all operations.
const READ_ALL_NUMBER: u32 = 1_000_000;
/// How long the reader of all keys waits for an answer in the end.
const READ_ALL_TIMEOUT_NS_MAX: u64 = 20_000_000_000;

/// The key-value store.
pub struct KvApp;

impl App for KvApp {
    fn platter(&self, world: &World, node: u8) -> Box<dyn Platter> {
        Box::new(KvPlatter::new(world.scenario.store, &world.scratch, node))
    }

    fn start(&self, start: Start) -> BoxFuture<'static, Result<Box<dyn Process>, String>> {
        let Start { world, node, options, seams, store } = start;
        let Ok(store) = store.downcast::<StoreKind>() else { panic!("the platter of another app") };
        let id = options.core.id;
        let kv = KvOptions {
            dir: options.data_dir.join("store"),
            store: *store,
            sessions: session_limits(&world),
        };
        let mut server = ServerOptions::new(id, format!("n{node}:client"), client_addresses(&world));
        server.requests = KvLimits { ..KvLimits::default() };
        server.limits = ServerLimits { proposals_max: 64, ..ServerLimits::default() };
        server.shutdown_timeout = Duration::from_millis(500);
        let setup = NodeSetup { raft: options, kv, server };
        Box::pin(async move {
            let running = Node::start(setup, seams).await.map_err(|error| error.to_string())?;
            Ok(Box::new(KvProcess(running)) as Box<dyn Process>)
        })
    }

    fn workload(&self, stage: Stage) -> Box<dyn Workload> {
        Box::new(KvWorkload { stage, recorder: Recorder::default(), ledger: Ledger::default() })
    }
}

fn session_limits(world: &World) -> SessionLimits {
    let workload = &world.scenario.workload;
    let or = |max: u32, otherwise| if max == 0 { otherwise } else { max as usize };
    SessionLimits {
        sessions_max: or(workload.sessions_max, 16),
        responses_max: or(workload.responses_max, 16),
        response_bytes_max: 1 << 10,
    }
}

fn client_addresses(world: &World) -> BTreeMap<raft::core::NodeId, String> {
    (1..=world.scenario.nodes)
        .map(|id| (raft::core::NodeId(u64::from(id)), format!("n{id}:client")))
        .collect()
}

struct KvProcess(Node);

impl Process for KvProcess {
    fn view(&self) -> Arc<dyn View> {
        Arc::new(KvView { reader: self.0.reader().clone(), raft: self.0.raft().clone() })
    }

    fn stopped(&self) -> BoxFuture<'_, Arc<StopReason>> {
        Box::pin(self.0.stopped())
    }

    fn shut_down(self: Box<Self>) -> BoxFuture<'static, Arc<StopReason>> {
        Box::pin(self.0.shutdown())
    }
}

/// A running node of the store.
pub struct KvView {
    /// Its state.
    pub reader: KvReader,
    /// Its consensus.
    pub raft: RaftHandle<Response>,
}

impl View for KvView {
    fn applied(&self) -> LogId {
        self.reader.applied()
    }

    fn state_hash(&self) -> (Index, u64) {
        self.reader.state_hash()
    }

    fn audit(&self) -> Result<(Index, u64), String> {
        self.reader.audit().map_err(|error| error.to_string())
    }

    fn raft(&self) -> &dyn Admin {
        &self.raft
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct KvWorkload {
    stage: Stage,
    recorder: Recorder,
    ledger: Ledger,
}

impl KvWorkload {
    fn client(&self, number: u16, endpoints: Vec<String>, over: &Arc<AtomicBool>) -> SimClient {
        SimClient::new(&self.stage, number, endpoints, &self.recorder, &self.ledger, over)
    }
}

fn endpoints(nodes: impl IntoIterator<Item = u8>) -> Vec<String> {
    nodes.into_iter().map(|node| format!("n{node}:client")).collect()
}

impl Workload for KvWorkload {
    fn begin(&self, operations: Vec<Operation>) -> Vec<JoinHandle<()>> {
        let mut of_client: BTreeMap<u16, Vec<Operation>> = BTreeMap::new();
        for operation in operations {
            of_client.entry(operation.client).or_default().push(operation);
        }
        let start = |(number, operations)| {
            // Some know all machines, the others have to be told who is new.
            let known = if number % 2 == 0 {
                self.stage.cluster.machines()
            } else {
                1..=self.stage.world.scenario.nodes
            };
            let client = self.client(number, endpoints(known), &self.stage.over);
            self.stage.clients.spawn(client.run(operations))
        };
        of_client.into_iter().map(start).collect()
    }

    fn look(&self) -> Result<(), Failure> {
        self.ledger.update(&self.stage.cluster)
    }

    fn write_through(&self, node: u8) -> JoinHandle<()> {
        let client = connect(&self.stage.world, 1, endpoints([node]));
        self.stage
            .clients
            .spawn(async move { while client.put("progress", format!("n{node}")).await.is_err() {} })
    }

    fn read_all(&self, nodes: &BTreeSet<u8>) -> JoinHandle<()> {
        let over = Arc::new(AtomicBool::new(false));
        let mut client = self.client(1, endpoints(nodes.iter().copied()), &over);
        let mut timeout_ns = self.stage.world.scenario.workload.timeout_ns;
        self.stage.clients.spawn(async move {
            let mut number = READ_ALL_NUMBER;
            while client.perform(number, &OperationKind::Range).await != Outcome::Ok {
                number += 1;
                // All keys in one answer may take a slow network longer than the clients of this world wait.
                timeout_ns = (timeout_ns * 2).min(READ_ALL_TIMEOUT_NS_MAX);
                client.set_patience(timeout_ns);
            }
        })
    }

    fn judge(&self) -> Result<(), Failure> {
        let effects = self.ledger.take();
        self.recorder.judge_looks_back(&effects)?;
        let positions = self.recorder.positions(&effects)?;
        let mut shown = Vec::new();
        let judged = self.recorder.with_history(|history| {
            let by_witness = witness::check(history, &positions);
            let limits = Limits { steps_max: CHECK_STEPS_MAX, ..Limits::default() };
            let by_search = checker::check(history, &limits);
            if let Verdict::NotLinearizable(why) = &by_search {
                shown = why.operations.iter().map(|shown| shown.operation).collect();
            }
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
        });
        judged.map_err(|failure| failure.seen_in(self.recorder.witnesses(&shown)))
    }

    fn counts(&self) -> [u64; 3] {
        self.recorder.counts()
    }

    fn write_history(&self, path: &Path) -> io::Result<()> {
        let file = std::fs::File::create(path)?;
        self.recorder.with_history(|history| history.write(&mut io::BufWriter::new(file)))
    }
}
