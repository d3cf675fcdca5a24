//! What can go wrong with an input. An error leaves the core as it was.

use std::fmt;

use super::types::{Index, LogId, NodeId, Term};

/// A message that no correct peer sends. Drop it, and note who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// It is for another node.
    NotForThisNode(NodeId),
    /// It says that this node itself sent it.
    FromThisNode,
    /// Its numbers are so large that they cannot be counted on from.
    OutOfRange,
    /// It is between those who run the cores.
    AboutStates,
    /// A pre-vote asks for another term than the next one.
    PreVoteTerm {
        /// The sender's term.
        term: Term,
        /// The term it asked for.
        next_term: Term,
    },
    /// The entries are not contiguous behind `prev`, or their terms fall, or exceed the leader's.
    BrokenEntries {
        /// The first entry that is wrong.
        at: LogId,
    },
    /// Two nodes lead one term.
    TwoLeaders {
        /// The term.
        term: Term,
        /// The leader known here.
        known: NodeId,
        /// Who else claims to be it.
        other: NodeId,
    },
    /// The leader has noted more as held here than there is: one of the two has lost its disk.
    BeyondLog {
        /// What the message names.
        index: Index,
        /// Where the log ends.
        last: Index,
    },
    /// An answer to a heartbeat that was not sent.
    RoundNotBegun(u64),
    /// A snapshot of a later term than its sender's, or with a configuration that makes no sense.
    BrokenSnapshot(LogId),
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotForThisNode(to) => write!(f, "the message is for {to}"),
            Self::FromThisNode => write!(f, "the message claims to come from this node"),
            Self::OutOfRange => write!(f, "a term or index is out of range"),
            Self::AboutStates => write!(f, "a message about states is not the core's"),
            Self::PreVoteTerm { term, next_term } => {
                write!(f, "a pre-vote of term {term} asks for term {next_term}")
            }
            Self::BrokenEntries { at } => {
                write!(f, "entries are not contiguous, or make no sense, at {at}")
            }
            Self::TwoLeaders { term, known, other } => {
                write!(f, "{other} claims to lead term {term}, which {known} leads")
            }
            Self::BeyondLog { index, last } => {
                write!(f, "index {index} is beyond the log, which ends at {last}: a disk was lost")
            }
            Self::RoundNotBegun(round) => write!(f, "round {round} was never begun"),
            Self::BrokenSnapshot(last) => {
                write!(f, "the snapshot at {last} has a broken configuration or a future term")
            }
        }
    }
}

impl std::error::Error for StepError {}

/// Why a proposal was not taken. It has left no trace in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Ask the leader.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// The log in memory is full, or too much of it is not committed or not applied yet: try again later.
    Overloaded,
    /// Too few voters have room on their disks for it; [`Raft::without_room`](super::Raft::without_room) names the
    /// others. Once they have, it may be tried again.
    NoSpace,
    /// This leader is handing over (§3.10): ask the next one in a moment.
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { hint: Some(leader) } => write!(f, "not the leader: ask {leader}"),
            Self::NotLeader { hint: None } => write!(f, "not the leader, and none is known"),
            Self::Overloaded => write!(f, "too much is waiting to be committed or applied"),
            Self::NoSpace => write!(f, "too few voters have room on their disks"),
            Self::Transferring { to } => write!(f, "the leadership is being handed over to {to}"),
        }
    }
}

impl std::error::Error for ProposeError {}

/// Why a read was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadIndexError {
    /// Ask the leader.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// Too many reads are waiting: try again later.
    Overloaded,
}

impl fmt::Display for ReadIndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { hint: Some(leader) } => write!(f, "not the leader: ask {leader}"),
            Self::NotLeader { hint: None } => write!(f, "not the leader, and none is known"),
            Self::Overloaded => write!(f, "too many reads are waiting"),
        }
    }
}

impl std::error::Error for ReadIndexError {}
