//! What every role has: term and vote, the log, how far it is committed, and what is waiting to go out.

use std::collections::{BTreeSet, VecDeque};

use super::config::Config;
use super::configuration::Configurations;
use super::lease::Clock;
use super::log::Log;
use super::message::{Message, MessageBody};
use super::ready::{Event, ReadState, ReadyNumber};
use super::rng::Rng;
use super::role::Timer;
use super::types::{Entry, HardState, Index, LogId, NodeId, SnapshotMeta, Term};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) rng: Rng,
    pub(super) hard_state: HardState,
    /// As last handed out to be written. Invariant: `durable <= offered <= hard_state`, in terms.
    pub(super) hard_state_offered: HardState,
    /// As known to be on disk.
    pub(super) hard_state_durable: HardState,
    pub(super) log: Log,
    /// What the durable log may have held and no longer does. Invariant: it ends before that, and only a follower has it.
    pub(super) damage: Option<LogId>,
    pub(super) configurations: Configurations,
    /// Invariant: `applied <= given <= commit <= last`; none of the four ever falls but `last`.
    pub(super) commit: Index,
    /// Handed out to be applied.
    pub(super) given: Index,
    pub(super) applied: Index,
    pub(super) ready_number: ReadyNumber,
    /// Readies not yet reported as durable, oldest first.
    pub(super) writes: VecDeque<Write>,
    pub(super) outbox: Outbox,
    pub(super) clock: Clock,
    /// To whom messages can be delivered, as far as this node was told.
    pub(super) connected: BTreeSet<NodeId>,
    /// The number of the next question to a leader. It begins at a random place at each start, so that the answer to
    /// a question of an earlier life is not taken for one to a question of this life.
    pub(super) next_question: u64,
}

/// What will be durable when a Ready is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Write {
    pub(super) number: ReadyNumber,
    pub(super) hard_state: Option<HardState>,
    /// The log up to here. Lowered when the log is cut below it: what was overwritten does not count as written,
    /// not even if an entry of the same term and index comes back (rule 1, etcd#1809).
    pub(super) last: Option<Index>,
}

/// What waits for the next Ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Outbox {
    pub(super) snapshot: Option<SnapshotMeta>,
    pub(super) messages: Vec<Message>,
    pub(super) messages_after_persist: Vec<Message>,
    pub(super) reads: Vec<ReadState>,
    pub(super) send_snapshots: Vec<NodeId>,
    pub(super) events: Vec<Event>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.snapshot.is_none()
            && self.messages.is_empty()
            && self.messages_after_persist.is_empty()
            && self.reads.is_empty()
            && self.send_snapshots.is_empty()
            && self.events.is_empty()
    }
}

impl Shared {
    pub(super) fn id(&self) -> NodeId {
        self.config.id
    }

    pub(super) fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Whether the configuration in force is committed.
    pub(super) fn is_configuration_committed(&self) -> bool {
        self.configurations.newest().0 <= self.commit
    }

    /// Whether this node votes by the configuration in force.
    pub(super) fn is_voter(&self) -> bool {
        self.configurations.current().is_voter(self.id())
    }

    /// Sends something that promises nothing about this node's disk.
    pub(super) fn send(&mut self, to: NodeId, body: MessageBody) {
        let message = Message { from: self.id(), to, term: self.term(), body };
        self.outbox.messages.push(message);
    }

    /// Sends a promise: it goes out once everything up to the next Ready is durable.
    pub(super) fn promise(&mut self, to: NodeId, body: MessageBody) {
        let message = Message { from: self.id(), to, term: self.term(), body };
        self.outbox.messages_after_persist.push(message);
    }

    /// Answers. An answer speaks for this node's term, so it waits while term or vote are not durable.
    pub(super) fn respond(&mut self, to: NodeId, body: MessageBody) {
        if self.hard_state == self.hard_state_durable {
            self.send(to, body);
        } else {
            self.promise(to, body);
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.outbox.events.push(event);
    }

    /// A timer with a fresh random timeout (§3.4).
    pub(super) fn draw_timer(&mut self) -> Timer {
        let least = self.config.election_timeout_ticks;
        Timer::new(self.rng.within(least, least))
    }

    /// Whether a proposal may be appended. Of what is not committed or not applied the last one may overrun the bound:
    /// else one larger than it could never be proposed.
    pub(super) fn has_room_for(&self, entry: &Entry) -> bool {
        let uncommitted = self.log.bytes_between(self.commit, self.log.last().index);
        let unapplied = self.log.bytes_between(self.applied, self.commit);
        self.log.bytes() + entry.size_bytes() <= self.config.log_bytes_max
            && uncommitted < self.config.uncommitted_bytes_max
            && unapplied < self.config.unapplied_bytes_max
    }

    /// Adds an entry to the log; its configuration, if it holds one, is in force from now on (§4.1).
    pub(super) fn append(&mut self, entry: Entry) {
        if self.configurations.appended(&entry) {
            self.tell_configuration();
        }
        self.log.append(entry);
    }

    /// Cuts the log from `from` on, and takes back what it had brought.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.commit, "truncating from {from}, but {} is committed", self.commit);
        self.log.truncate(from);
        for write in &mut self.writes {
            if !crate::mutant!("persist-aba") {
                write.last = write.last.map(|last| last.min(from.prev()));
            }
        }
        self.tell(Event::Truncated { from });
        if self.configurations.truncated(from) {
            self.tell_configuration();
        }
    }

    pub(super) fn tell_configuration(&mut self) {
        let (index, configuration) = self.configurations.newest().clone();
        self.tell(Event::ConfigurationChanged { index, configuration });
    }

    /// Everything up to `index` is committed.
    pub(super) fn commit_to(&mut self, index: Index) {
        if index <= self.commit && !crate::mutant!("index-regress") {
            return;
        }
        let last = self.log.last().index;
        assert!(index <= last, "commit {index} beyond the log, which ends at {last}");
        self.commit = index;
        if let Some(term) = self.log.term_at(index) {
            self.tell(Event::Committed { last: LogId { term, index } });
        }
    }
}
