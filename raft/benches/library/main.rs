//! What the whole library does: three nodes in one process, with driver, transport, codec and log. First with disks
//! and sockets that are memory, then with real ones.
//!
//! ```text
//! cargo bench -p raftkv-raft --bench library
//! ```
//!
//! Beside the time, the CPU time of the whole process is told: three nodes and the clients. On a machine that is not
//! idle it is the steadier figure.
//!
//! Each node has a thread and a runtime of its own, as in a server; the clients run beside the leader. Each has one
//! proposal on its way at a time, and counts it when the state machine has answered.
#![allow(missing_docs, clippy::print_stdout, reason = "a benchmark")]

mod memory;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use raft::clock::{Clock, RealClock};
use raft::core::{Config, Entry, Member, NodeId, Payload, SnapshotMeta};
use raft::driver::{self, NodeOptions, RaftHandle, Seams};
use raft::state_machine::{Applied, CheckpointJob, SnapshotJob, StateMachine, StateMachineError};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use memory::{Inline, MemoryDisk, MemoryNet};

/// Counts commands.
#[derive(Default)]
struct Count {
    applied: Applied,
    commands: u64,
}

impl StateMachine for Count {
    type Response = u64;

    fn applied(&self) -> Applied {
        self.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<u64>, StateMachineError> {
        let responses = entries.iter().map(|entry| {
            match &entry.payload {
                Payload::Command(_) => self.commands += 1,
                Payload::Configuration(c) => self.applied.configuration = Some(c.clone()),
                Payload::Noop => {}
            }
            self.applied.last = entry.log_id();
            self.commands
        });
        Ok(responses.collect())
    }

    fn unsaved_bytes(&self) -> u64 {
        0
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        let last = self.applied.last;
        Box::new(move || Ok(last))
    }

    fn begin_snapshot(&mut self) -> SnapshotJob {
        let commands = self.commands;
        Box::new(move |out: &mut dyn Write| out.write_all(&commands.to_le_bytes()).map_err(failed))
    }

    fn install(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StateMachineError> {
        let mut bytes = [0; 8];
        state.read_exact(&mut bytes).map_err(failed)?;
        self.commands = u64::from_le_bytes(bytes);
        self.applied = Applied { last: meta.last, configuration: Some(meta.configuration.clone()) };
        Ok(())
    }
}

fn failed(source: std::io::Error) -> StateMachineError {
    StateMachineError { context: "the counter's snapshot".to_owned(), source }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn options(id: u64, dir: &Path, members: &BTreeMap<NodeId, Member>) -> NodeOptions {
    let core = Config { seed: id, ..Config::new(NodeId(id)) };
    let listen = members[&NodeId(id)].address.clone();
    let mut options = NodeOptions::new(core, dir.join(format!("n{id}")), listen, members.clone());
    // The disk is memory: it should not grow without end.
    options.wal.segment_bytes = 8 << 20;
    options.snapshot_log_bytes = 32 << 20;
    options
}

/// A follower, on a thread of its own, until the process ends.
#[expect(clippy::disallowed_methods, reason = "each node has a thread of its own, as in a server")]
fn follower(options: NodeOptions, seams: Seams) {
    std::thread::spawn(move || {
        runtime().block_on(async {
            let node = driver::start(options, seams, || Ok(Count::default())).await.expect("the node starts");
            node.stopped().await
        })
    });
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The node that leads, and the runtime it lives on.
struct Leader {
    runtime: Runtime,
    node: RaftHandle<u64>,
}

impl Leader {
    fn in_memory() -> Self {
        let members = (1..=3).map(|id| (NodeId(id), Member::at(format!("n{id}")))).collect();
        let net = MemoryNet::default();
        Self::of_three(Path::new(""), &members, || Seams {
            clock: Arc::new(RealClock),
            net: Arc::new(net.clone()),
            disk: Arc::new(MemoryDisk::default()),
            blocking: Arc::new(Inline),
        })
    }

    fn on_real_files(dir: &Path) -> Self {
        let ports = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let address = |port: &std::net::TcpListener| port.local_addr().expect("it is bound").to_string();
        let members = (1..).map(NodeId).zip(ports.iter().map(|port| Member::at(address(port)))).collect();
        drop(ports);
        Self::of_three(dir, &members, Seams::real)
    }

    fn of_three(dir: &Path, members: &BTreeMap<NodeId, Member>, seams: impl Fn() -> Seams) -> Self {
        for id in [2, 3] {
            let mut options = options(id, dir, members);
            // The first one is to lead.
            options.core.election_timeout_ticks *= 10;
            options.core.hurried_election_ticks = 100;
            follower(options, seams());
        }
        let runtime = runtime();
        let node = runtime.block_on(async {
            let start = driver::start(options(1, dir, members), seams(), || Ok(Count::default()));
            let node = start.await.expect("the node starts");
            let mut leadership = node.leadership();
            leadership.wait_for(|now| now.established).await.expect("the node runs");
            node
        });
        Self { runtime, node }
    }

    /// How long `clients` take for `total` proposals together.
    fn run(&self, clients: u64, total: u64) -> Duration {
        let left = Arc::new(AtomicU64::new(total));
        self.runtime.block_on(async {
            let before = RealClock.now();
            let mut done = Vec::new();
            for _ in 0..clients {
                let (node, left, (end, ended)) =
                    (self.node.clone(), Arc::clone(&left), oneshot::channel::<()>());
                done.push(ended);
                tokio::spawn(async move {
                    while take_one(&left) {
                        node.propose(Bytes::from_static(&[7; 16])).await.expect("the leader answers");
                    }
                    drop(end);
                });
            }
            for ended in done {
                // The end is that the sender is dropped.
                let _ = ended.await;
            }
            RealClock.now().since(before)
        })
    }
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn proposals(c: &mut Criterion, name: &str, leader: &Leader) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for clients in [1, 64, 256, 1024] {
        let (mut spent, mut proposed) = (Duration::ZERO, 0);
        group.bench_function(BenchmarkId::new("clients", clients), |b| {
            b.iter_custom(|total| {
                let before = cpu();
                let time = leader.run(clients, total);
                spent += cpu() - before;
                proposed += total;
                time
            });
        });
        let us = spent.as_secs_f64() * 1e6 / proposed as f64;
        if proposed > 0 {
            println!("{clients} clients: {us:.2} µs of CPU a proposal");
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    proposals(&mut criterion, "in memory", &Leader::in_memory());
    let dir = tempfile::tempdir().expect("a directory for the logs");
    proposals(&mut criterion, "on real files and sockets", &Leader::on_real_files(dir.path()));
    criterion.final_summary();
}
