//! What nodes say to each other.
//!
//! Every response names the request it answers (term, `next_term`, `round`, `prev_index`), so that a late or
//! duplicated one can be told from a current one and dropped (rule 6 of the design).

use super::space::Space;
use super::types::{Entry, Index, LogId, NodeId, SnapshotMeta, Term};

/// One message between two members.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Message {
    /// Who sent it.
    pub from: NodeId,
    /// Whom it is for.
    pub to: NodeId,
    /// The sender's current term (§3.3).
    pub term: Term,
    /// What it says.
    pub body: MessageBody,
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MessageBody {
    /// Would you vote for me in `next_term`? Moves no one's term (§9.6).
    PreVote {
        /// The term in which the sender would stand: its own plus one.
        next_term: Term,
        /// The end of the sender's log.
        last: LogId,
    },
    /// The answer to a [`PreVote`](Self::PreVote).
    PreVoteResponse {
        /// The `next_term` of the request.
        next_term: Term,
        /// Whether the vote would be granted.
        granted: bool,
    },
    /// Vote for me in this message's term (§3.4).
    RequestVote {
        /// The end of the sender's log.
        last: LogId,
        /// Whether the old leader asked for this election (§3.10): voters then forget that they hear from it.
        leadership_transfer: bool,
    },
    /// The answer to a [`RequestVote`](Self::RequestVote) of the same term.
    VoteResponse {
        /// Whether the vote was granted.
        granted: bool,
    },
    /// Entries to append behind `prev`, or none, to learn where the logs part (§3.5).
    AppendEntries {
        /// The entry just before `entries`.
        prev: LogId,
        /// Contiguous entries from `prev.index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The log holds everything up to `matched`, durably.
    AppendAccepted {
        /// At most `prev.index + entries.len()` of the request.
        matched: Index,
    },
    /// The log has no entry `prev` as the request named it.
    AppendRejected {
        /// The `prev.index` of the request: names the request it answers.
        prev_index: Index,
        /// The last entry of the follower that could still match: its index is at most `prev_index`, its term at
        /// most that of `prev` (the "one conflict per term" back-off of §3.5).
        hint: LogId,
        /// The follower lost entries that it had acknowledged: its match may lie below what it once was.
        damaged: bool,
    },
    /// I lead; and, as a reading round, do you still follow me? (§6.4)
    Heartbeat {
        /// The commit index, as far as the receiver is known to match.
        commit: Index,
        /// Counts the leader's heartbeats in its term: an answer confirms every read that began before it was sent.
        round: u64,
        /// Asks for the promise of [`Lease`](super::Lease).
        lease: bool,
    },
    /// The answer to a [`Heartbeat`](Self::Heartbeat).
    HeartbeatResponse {
        /// The `round` of the request. 0 answers no round: it only tells the sender of an outdated message that there
        /// is a later term.
        round: u64,
        /// Whether the promise of [`Lease`](super::Lease) was given. Given only by a node whose durable
        /// configuration has leases on, so that it remembers after a crash to wait one out.
        leased: bool,
        /// How much room the disk has. Means nothing in an answer to round 0.
        space: Space,
        /// The follower lost entries that it had acknowledged: ask how far it is.
        damaged: bool,
    },
    /// A whole snapshot has arrived out of band and is in hand: install it (§5.3).
    ///
    /// The state itself travels on a stream of its own; the driver hands this message to the core once the file
    /// is complete and verified. It is answered like an append that matches up to `meta.last.index`.
    InstallSnapshot {
        /// What the snapshot stands for.
        meta: SnapshotMeta,
    },
    /// The leader asks the receiver to stand for election at once (§3.10).
    TimeoutNow,
    /// A member that does not lead wants to answer a read: up to where must it have applied? (§6.4)
    ReadIndex {
        /// The sender's number for the question; the answer carries it back.
        context: u64,
    },
    /// The answer to a [`ReadIndex`](Self::ReadIndex) of the same term.
    ReadIndexResponse {
        /// The number of the question.
        context: u64,
        /// The index to wait for; `None` if the leader could not tell, or would not for want of room.
        index: Option<Index>,
    },
    /// The state machine's hashes after some entries that the sender has applied, in order: are yours the same? Not a
    /// matter of the core: whoever runs it answers.
    CompareHashes {
        /// Indexes and hashes.
        points: Vec<(Index, u64)>,
    },
    /// The answer to [`CompareHashes`](Self::CompareHashes).
    HashesCompared(HashAnswer),
    /// A quorum has another state than the receiver, from the entry at `at` on.
    StateCondemned {
        /// Where they part.
        at: Index,
        /// The hash that the receiver had given for it.
        hash: u64,
    },
    /// The sender lost its state, not its log, and cannot make it anew by itself: whoever has applied so far may
    /// send a snapshot. The driver's business alone, which answers with a file or not at all; the core ignores it.
    SnapshotWanted {
        /// The snapshot must reach at least so far, or the sender's log does not continue it.
        at_least: Index,
    },
}

/// How the hashes of two state machines compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HashAnswer {
    /// The last index named at which they are the same; 0 if none is.
    pub agree: Index,
    /// The first one at which they are not, and what the hash is there.
    pub differ: Option<(Index, u64)>,
}

impl MessageBody {
    /// Whether the core has nothing to do with it: it is between those who run it, and names neither a role nor a term.
    #[must_use]
    pub const fn is_about_states(&self) -> bool {
        matches!(self, Self::CompareHashes { .. } | Self::HashesCompared(_) | Self::StateCondemned { .. })
    }

    /// The kind's name, for logs and traces.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PreVote { .. } => "PreVote",
            Self::PreVoteResponse { .. } => "PreVoteResponse",
            Self::RequestVote { .. } => "RequestVote",
            Self::VoteResponse { .. } => "VoteResponse",
            Self::AppendEntries { .. } => "AppendEntries",
            Self::AppendAccepted { .. } => "AppendAccepted",
            Self::AppendRejected { .. } => "AppendRejected",
            Self::Heartbeat { .. } => "Heartbeat",
            Self::HeartbeatResponse { .. } => "HeartbeatResponse",
            Self::InstallSnapshot { .. } => "InstallSnapshot",
            Self::TimeoutNow => "TimeoutNow",
            Self::ReadIndex { .. } => "ReadIndex",
            Self::ReadIndexResponse { .. } => "ReadIndexResponse",
            Self::CompareHashes { .. } => "CompareHashes",
            Self::HashesCompared(_) => "HashesCompared",
            Self::StateCondemned { .. } => "StateCondemned",
            Self::SnapshotWanted { .. } => "SnapshotWanted",
        }
    }
}
