//! The effects that the core asks for, and the facts it tells.

use super::message::Message;
use super::types::{Configuration, Entry, HardState, Index, LogId, NodeId, SnapshotMeta, Term};

/// Counts the [`Ready`]s of one core, from 1. [`Raft::persisted`](super::Raft::persisted) takes it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadyNumber(pub u64);

/// What is to be done now. Storage and apply answer later: the core never waits (§10.2.1).
///
/// The contract of the caller:
/// 1. Send `messages` at once, in any order.
/// 2. If [`Ready::must_persist`], make `hard_state`, `snapshot` and `entries` durable, in the order of the Readies;
///    first the snapshot replaces everything, then the log is cut from the first of `entries` on and they are
///    appended, all under one fsync. Then send `messages_after_persist`, then call
///    [`Raft::persisted`](super::Raft::persisted) with `number`.
///    Several Readies may be made durable together; `persisted(n)` speaks for all up to `n`.
///    If there is nothing to persist, `messages_after_persist` still waits for the Readies before it.
/// 3. Apply `committed`, in order, then call [`Raft::applied`](super::Raft::applied).
/// 4. Answer `reads` once the applied index has reached theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// This Ready's number.
    pub number: ReadyNumber,
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Contiguous entries to append. Whatever the durable log holds from the first one's index on is cut first.
    pub entries: Vec<Entry>,
    /// A snapshot to install in place of state and log. A snapshot that was handed in and does not come out here
    /// is not needed: it is too old, the log holds its last entry, or a newer one has taken its place.
    pub snapshot: Option<SnapshotMeta>,
    /// Messages that promise nothing about this node's disk.
    pub messages: Vec<Message>,
    /// Votes, acknowledgements and requests for votes: true only once all up to this Ready is durable.
    pub messages_after_persist: Vec<Message>,
    /// Committed and locally durable entries, to be applied in order. Each is given out once.
    pub committed: Vec<Entry>,
    /// Reads that are decided.
    pub reads: Vec<ReadState>,
    /// Followers that need a snapshot: the leader's log no longer reaches back to them (§5.3). Answer with
    /// [`Raft::report_snapshot`](super::Raft::report_snapshot) when the transfer has ended, well or badly.
    pub send_snapshots: Vec<NodeId>,
    /// What happened, for logs, metrics and traces.
    pub events: Vec<Event>,
}

impl Ready {
    /// Whether there is anything to make durable.
    #[must_use]
    pub fn must_persist(&self) -> bool {
        self.hard_state.is_some() || self.snapshot.is_some() || !self.entries.is_empty()
    }
}

/// A read that [`Raft::read_index`](super::Raft::read_index) began, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadState {
    /// The number that the caller gave.
    pub context: u64,
    /// The index to wait for before reading; `None` if leadership was lost first, so nothing is known.
    pub index: Option<Index>,
}

/// How a transfer of a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotOutcome {
    /// The follower has the whole file; it will acknowledge the install by itself.
    Delivered,
    /// It did not arrive; it may be tried again.
    Failed,
}

/// A role's name, without its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win (§9.6).
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// Something that happened in the core. Logs, metrics and the simulator's trace are all made from these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Event {
    /// The role or the term changed.
    RoleChanged {
        /// The role now.
        role: RoleName,
        /// The term now.
        term: Term,
    },
    /// Another leader is known, or none.
    LeaderChanged {
        /// The leader, if known.
        leader: Option<NodeId>,
        /// The term it leads.
        term: Term,
    },
    /// This node granted its vote.
    VoteGranted {
        /// To whom.
        to: NodeId,
        /// In which term.
        term: Term,
    },
    /// The commit index advanced.
    Committed {
        /// The last committed entry.
        last: LogId,
    },
    /// Entries were cut from the end of the log because a leader's differ.
    Truncated {
        /// The first index cut.
        from: Index,
    },
    /// A configuration came into force.
    ConfigurationChanged {
        /// The index of its entry, or of the snapshot that carries it.
        index: Index,
        /// The configuration.
        configuration: Configuration,
    },
    /// This leader began to hand its leadership over (§3.10).
    TransferBegan {
        /// To whom.
        to: NodeId,
    },
    /// The hand-over failed; this node goes on leading.
    TransferFailed {
        /// To whom it was meant to go.
        to: NodeId,
    },
    /// This node starts with a log that lost entries to damage (`damage`): it stands for no election, and votes only
    /// for a log that reaches as far.
    Damaged {
        /// It may have held everything up to this entry.
        last: LogId,
    },
    /// The durable log has come to where it was before the damage.
    Repaired {
        /// Its last entry.
        last: LogId,
    },
    /// A snapshot was accepted for install.
    SnapshotAccepted {
        /// What it stands for.
        meta: SnapshotMeta,
    },
}
