//! One member's Raft under arbitrary inputs. Its invariants are checked after each, by the core itself.
//!
//! Messages are arbitrary, with one exception: none contradicts what this member knows to be committed. Who says so is no
//! peer of a correct cluster, and the core stops there, loudly and rightly (rule 5).

use std::collections::VecDeque;

use bytes::Bytes;
use raft::core::{
    Boot, Change, Config, Configuration, HardState, Index, Lease, LogId, Message, MessageBody, NodeId, Raft,
    ReadyNumber, SnapshotOutcome, Term,
};
use serde::{Deserialize, Serialize};

const STEPS_MAX: usize = 400;

/// One input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Step {
    Ticks(u8),
    /// A message of `from`, whose term is so far ahead of, or behind, this member's.
    Message {
        from: u8,
        ahead: i8,
        body: MessageBody,
    },
    Propose {
        bytes: u8,
    },
    Change(Vec<Change>),
    Read(u64),
    /// Takes a Ready, if there is one.
    Ready,
    /// The oldest Ready that is under way is durable.
    Persisted,
    /// What was given out is applied.
    Applied,
    Campaign,
    Transfer(Option<NodeId>),
    Connected {
        peer: u8,
        is: bool,
    },
    Unreachable(u8),
    Snapshot {
        peer: u8,
        delivered: bool,
        last: u8,
    },
    /// All but the last `keep` applied entries are forgotten.
    Compact {
        keep: u8,
    },
    Time {
        ms: u16,
    },
}

struct Driven {
    raft: Raft,
    /// Readies under way to the disk, and the snapshots in them.
    writing: VecDeque<(ReadyNumber, Option<Index>)>,
    to_apply: Index,
    now_ns: u64,
}

pub(super) fn core(bytes: &[u8]) -> bool {
    let steps: Vec<Step> = super::list(bytes, STEPS_MAX);
    let mut driven = Driven::new();
    for step in &steps {
        driven.run(step);
    }
    !steps.is_empty()
}

fn peer(number: u8) -> NodeId {
    NodeId(2 + u64::from(number % 4))
}

impl Driven {
    fn new() -> Self {
        let config = Config {
            election_timeout_ticks: 5,
            heartbeat_ticks: 2,
            append_bytes_max: 400,
            inflight_messages_max: 2,
            inflight_bytes_max: 1000,
            log_bytes_max: 4000,
            uncommitted_bytes_max: 2000,
            unapplied_bytes_max: 2000,
            reads_pending_max: 4,
            seed: 1,
            ..Config::new(NodeId(1))
        };
        let configuration = Configuration {
            lease: Some(Lease { duration_ms: 3, drift_ppm: 100 }),
            ..Configuration::of_voters([1, 2, 3].map(NodeId))
        };
        let boot = Boot {
            hard_state: HardState::default(),
            prev: LogId::ZERO,
            entries: Vec::new(),
            applied: LogId::ZERO,
            configuration,
            damage: None,
        };
        let raft = Raft::new(config, boot).expect("it fits");
        Self { raft, writing: VecDeque::new(), to_apply: Index::ZERO, now_ns: 0 }
    }

    fn run(&mut self, step: &Step) {
        let raft = &mut self.raft;
        match step {
            Step::Ticks(count) => (0..count % 12).for_each(|_| raft.tick()),
            Step::Message { from, ahead, body } => self.message(peer(*from), *ahead, body.clone()),
            Step::Propose { bytes } => {
                _ = raft.propose(Bytes::from(vec![7; usize::from(*bytes)]));
            }
            Step::Change(changes) => _ = raft.propose_change(changes),
            Step::Read(context) => _ = raft.read_index(*context),
            Step::Ready => self.ready(),
            Step::Persisted => self.persisted(),
            Step::Applied => raft.applied(self.to_apply),
            Step::Campaign => raft.campaign(),
            Step::Transfer(to) => _ = raft.transfer_leader(*to),
            Step::Connected { peer: number, is: true } => raft.report_connected(peer(*number)),
            Step::Connected { peer: number, is: false } => raft.report_disconnected(peer(*number)),
            Step::Unreachable(number) => raft.report_unreachable(peer(*number)),
            Step::Snapshot { peer: number, delivered, last } => {
                let outcome = if *delivered { SnapshotOutcome::Delivered } else { SnapshotOutcome::Failed };
                let last = Index(u64::from(*last)).min(raft.status().applied);
                raft.report_snapshot(peer(*number), outcome, last);
            }
            Step::Compact { keep } => {
                let applied = raft.status().applied.0;
                raft.compact(Index(applied.saturating_sub(u64::from(*keep))));
            }
            Step::Time { ms } => {
                self.now_ns += u64::from(*ms) * 100_000;
                raft.observe_time(self.now_ns);
            }
        }
    }

    fn message(&mut self, from: NodeId, ahead: i8, body: MessageBody) {
        let term = self.raft.hard_state().term.0.saturating_add_signed(i64::from(ahead));
        let message = Message { from, to: NodeId(1), term: Term(term), body };
        if self.contradicts(&message.body) {
            return;
        }
        let before = self.raft.clone();
        if self.raft.step(message.clone()).is_err() {
            assert!(self.raft == before, "{message:?} was refused and left a trace");
        }
    }

    /// Whether it denies what is committed here.
    fn contradicts(&self, body: &MessageBody) -> bool {
        let commit = self.raft.commit();
        let denies = |id: LogId| {
            let known = self.raft.term_at(id.index);
            id.index <= commit && known.is_some_and(|term| term != id.term)
        };
        let newest = self.raft.term_at(commit);
        let is_older = |id: LogId| id.index > commit && newest.is_some_and(|term| id.term < term);
        match body {
            MessageBody::AppendEntries { prev, entries, .. } => {
                let ids = || std::iter::once(*prev).chain(entries.iter().map(|entry| entry.log_id()));
                ids().any(|id| denies(id) || is_older(id))
            }
            MessageBody::InstallSnapshot { meta } => denies(meta.last) || is_older(meta.last),
            _ => false,
        }
    }

    fn ready(&mut self) {
        if !self.raft.has_ready() {
            return;
        }
        let ready = self.raft.ready();
        let installed = ready.snapshot.map(|meta| meta.last.index);
        if let Some(last) = ready.committed.last() {
            self.to_apply = last.index;
        }
        self.writing.push_back((ready.number, installed));
        // Each Ready is answered: a loop that takes them while there are any comes to an end.
        let mut taken = 0;
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            if let Some(last) = ready.committed.last() {
                self.to_apply = last.index;
            }
            let installed = ready.snapshot.map(|meta| meta.last.index);
            self.writing.push_back((ready.number, installed));
            taken += 1;
            assert!(taken < 100, "there is no end of Readies");
        }
    }

    fn persisted(&mut self) {
        let Some((number, installed)) = self.writing.pop_front() else { return };
        self.raft.persisted(number);
        if let Some(index) = installed {
            self.to_apply = self.to_apply.max(index);
            self.raft.applied(index);
        }
    }
}
