//! What the core costs by itself: three of them in one thread, without disks, sockets and serialisation.
//!
//! ```text
//! cargo bench -p raftkv-raft --bench core
//! ```
//!
//! First come the allocations an entry takes, counted over all three cores; then the times.
#![allow(missing_docs, clippy::print_stdout, reason = "a benchmark")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use raft::core::{
    Boot, Change, Config, Configuration, Entry, HardState, Index, LogId, Member, Message, MessageBody,
    NodeId, Payload, Raft, Term,
};

/// Counts what it hands out.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[allow(unsafe_code, reason = "an allocator cannot be had otherwise; it only counts and passes on")]
// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises hold for the system's allocator too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `at` came from the system's allocator, with this layout.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const COMMAND: &[u8] = &[7; 100];

fn core(id: u64, voters: u64, log: Vec<Entry>) -> Raft {
    let term = log.last().map_or(Term(0), |entry| entry.term);
    let boot = Boot {
        hard_state: HardState { term, voted_for: None },
        prev: LogId::ZERO,
        entries: log,
        applied: LogId::ZERO,
        configuration: Configuration {
            nodes: (1..=voters).map(|id| (NodeId(id), Member::at(format!("n{id}:1")))).collect(),
            ..Configuration::of_voters((1..=voters).map(NodeId))
        },
        damage: None,
    };
    Raft::new(Config::new(NodeId(id)), boot).expect("the settings are in range")
}

/// Cores that hear each other at once, with disks and state machines that are done at once.
#[derive(Clone)]
struct Cluster {
    cores: Vec<Raft>,
    network: VecDeque<Message>,
    steps: u64,
}

impl Cluster {
    /// The first core leads, and has committed an entry of its term.
    fn led(size: u64) -> Self {
        let cores = (1..=size).map(|id| core(id, size, Vec::new())).collect();
        let mut cluster = Self { cores, network: VecDeque::new(), steps: 0 };
        cluster.leader().campaign();
        cluster.settle();
        assert_eq!(cluster.leader().leader(), Some(NodeId(1)));
        cluster
    }

    fn leader(&mut self) -> &mut Raft {
        &mut self.cores[0]
    }

    /// Carries out all Readies of one core.
    fn carry_out(&mut self, at: usize) {
        let core = &mut self.cores[at];
        while core.has_ready() {
            let ready = core.ready();
            self.network.extend(ready.messages);
            self.network.extend(ready.messages_after_persist);
            core.persisted(ready.number);
            if let Some(last) = ready.committed.last() {
                core.applied(last.index);
            }
        }
        core.compact_retaining(1 << 20);
    }

    /// Goes on until nothing is left to do.
    fn settle(&mut self) {
        loop {
            for at in 0..self.cores.len() {
                self.carry_out(at);
            }
            if self.network.is_empty() {
                return;
            }
            for message in std::mem::take(&mut self.network) {
                let at = message.to.0 as usize - 1;
                self.steps += 1;
                self.cores[at].step(message).expect("a message of a correct peer");
            }
        }
    }

    /// Proposes `count` commands together and has them committed and applied everywhere.
    fn commit(&mut self, count: u64) {
        for _ in 0..count {
            self.leader().propose(Bytes::from_static(COMMAND)).expect("the leader takes commands");
        }
        self.settle();
        // The followers hear of the commit with the next heartbeat.
        for _ in 0..Config::new(NodeId(1)).heartbeat_ticks {
            self.leader().tick();
        }
        self.settle();
    }
}

fn allocations() {
    for batch in [1, 64, 1024] {
        let mut cluster = Cluster::led(3);
        cluster.commit(batch);
        let (before, steps) = (ALLOCATIONS.load(Ordering::Relaxed), cluster.steps);
        let rounds = 8192 / batch;
        (0..rounds).for_each(|_| cluster.commit(batch));
        let entries = (rounds * batch) as f64;
        let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / entries;
        let steps = (cluster.steps - steps) as f64 / entries;
        println!(
            "batches of {batch}: {allocations:.2} allocations and {steps:.3} steps an entry, on all three"
        );
    }
}

/// From the proposal to the last follower's apply.
fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group("three cores, from proposal to applied everywhere");
    for batch in [1, 64, 1024] {
        let mut cluster = Cluster::led(3);
        group.throughput(Throughput::Elements(batch));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| b.iter(|| cluster.commit(batch)));
    }
    group.finish();
}

/// One message into one core, and what comes of it carried out.
fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("steps of a follower");
    let mut cluster = Cluster::led(3);
    let term = cluster.leader().hard_state().term;
    let to_follower = |body| Message { from: NodeId(1), to: NodeId(2), term, body };
    group.throughput(Throughput::Elements(1));
    group.bench_function("heartbeat", |b| {
        b.iter(|| {
            let commit = cluster.cores[1].commit();
            let heartbeat = MessageBody::Heartbeat { commit, round: 1, lease: false };
            cluster.cores[1].step(to_follower(heartbeat)).expect("a leader's message");
            cluster.carry_out(1);
            black_box(cluster.network.drain(..).count())
        });
    });
    for count in [1, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::new("append", count), |b| {
            b.iter(|| {
                let prev = cluster.cores[1].last_log_id();
                let payload = Payload::Command(Bytes::from_static(COMMAND));
                let entry = |i| Entry { term, index: Index(prev.index.0 + i), payload: payload.clone() };
                let entries = (1..=count).map(entry).collect();
                let append = MessageBody::AppendEntries { prev, entries, commit: prev.index };
                cluster.cores[1].step(to_follower(append)).expect("a leader's message");
                cluster.carry_out(1);
                black_box(cluster.network.drain(..).count())
            });
        });
    }
    group.finish();
}

/// The answer that completes a quorum, in a leader.
fn quorums(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit by the last acknowledgement of a quorum");
    for size in [3, 5, 7] {
        let mut cluster = Cluster::led(size);
        let term = cluster.leader().hard_state().term;
        cluster.leader().propose(Bytes::from_static(COMMAND)).expect("the leader takes commands");
        cluster.carry_out(0);
        let matched = cluster.leader().last_log_id().index;
        let accepted = |from| Message {
            from: NodeId(from),
            to: NodeId(1),
            term,
            body: MessageBody::AppendAccepted { matched },
        };
        for from in 2..=size / 2 {
            cluster.leader().step(accepted(from)).expect("a follower's answer");
        }
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched_ref(
                || cluster.cores[0].clone(),
                |leader| leader.step(accepted(size / 2 + 1)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A change of membership: computed, appended, and in force; and a log full of them at boot.
fn membership(c: &mut Criterion) {
    let mut group = c.benchmark_group("membership");
    for size in [3, 7] {
        let cluster = Cluster::led(size);
        let member = Member::at("n9:1");
        let changes = [Change::AddVoter { id: NodeId(9), member }, Change::Remove(NodeId(size))];
        group.bench_function(BenchmarkId::new("replace one of", size), |b| {
            b.iter_batched_ref(
                || cluster.cores[0].clone(),
                |leader| leader.propose_change(&changes).expect("the change is sound"),
                BatchSize::SmallInput,
            );
        });
    }
    let configuration = |i: u64| Configuration::of_voters((1..=3 + i % 5).map(NodeId));
    let entry =
        |i| Entry { term: Term(1), index: Index(i), payload: Payload::Configuration(configuration(i)) };
    let log: Vec<Entry> = (1..=1000).map(entry).collect();
    group.bench_function("boot with 1,000 configurations in the log", |b| {
        b.iter_batched(|| log.clone(), |log| core(1, 3, log), BatchSize::SmallInput);
    });
    group.finish();
}

fn main() {
    allocations();
    let mut criterion = Criterion::default().configure_from_args();
    commits(&mut criterion);
    steps(&mut criterion);
    quorums(&mut criterion);
    membership(&mut criterion);
    criterion.final_summary();
}
