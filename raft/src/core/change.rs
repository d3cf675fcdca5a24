//! Changes of membership: what can be asked for, and why it may be refused.

use std::fmt;

use super::types::{Lease, Member, NodeId};

/// One step of a change of the configuration. Several are made together, at once (§4.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Change {
    /// A new member that receives the log and does not vote (§4.2.1). With `joining`, the leader makes it a voter
    /// once it has caught up.
    AddLearner {
        /// Its id, never used before.
        id: NodeId,
        /// Its disk and addresses.
        member: Member,
        /// Whether it is to become a voter by itself.
        joining: bool,
    },
    /// A new member that votes from the first moment. It must be given the whole log before it can help a quorum, so
    /// prefer [`AddLearner`](Self::AddLearner).
    AddVoter {
        /// Its id, never used before.
        id: NodeId,
        /// Its disk and addresses.
        member: Member,
    },
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A member leaves for good; its id is not used again.
    Remove(NodeId),
    /// A member has other addresses now. Its incarnation must be the one that is known.
    Update {
        /// The member.
        id: NodeId,
        /// The same disk, and the new addresses.
        member: Member,
    },
    /// Reads by lease, on these terms, or not at all.
    SetLease(Option<Lease>),
}

/// Why a change was not begun. The log is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// Ask the leader.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// The leader has not committed an entry of its own term yet (rule 7; Ongaro 2015): try again in a moment.
    NotEstablished,
    /// Another change is under way: its configuration is joint, or not committed yet.
    InProgress,
    /// This leader is handing over: ask the next one in a moment.
    Transferring {
        /// Who is to lead.
        to: NodeId,
    },
    /// The log in memory is full: try again later.
    Overloaded,
    /// It is a member already.
    AlreadyMember(NodeId),
    /// It is no member.
    NotMember(NodeId),
    /// It votes already.
    AlreadyVoter(NodeId),
    /// It does not vote as it is.
    NotVoter(NodeId),
    /// The id belonged to a member that was removed.
    IdUsed(NodeId),
    /// The member is known with another disk.
    OtherIncarnation(NodeId),
    /// Two steps are about the same member.
    Twice(NodeId),
    /// Nobody would be left to vote.
    NoVoters,
    /// Nothing is to be changed.
    Nothing,
    /// The lease would be zero, or no longer than the drift takes away.
    BadLease,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { hint: Some(leader) } => write!(f, "not the leader: ask {leader}"),
            Self::NotLeader { hint: None } => write!(f, "not the leader, and none is known"),
            Self::NotEstablished => write!(f, "the leader was just elected: try again in a moment"),
            Self::InProgress => {
                write!(f, "another change of membership is under way: wait until it has ended")
            }
            Self::Transferring { to } => write!(f, "the leadership is being handed over to {to}"),
            Self::Overloaded => write!(f, "too much is waiting to be committed or applied"),
            Self::AlreadyMember(id) => write!(f, "{id} is a member already"),
            Self::NotMember(id) => write!(f, "{id} is no member"),
            Self::AlreadyVoter(id) => write!(f, "{id} is a voter already"),
            Self::NotVoter(id) => write!(f, "{id} is no voter"),
            Self::IdUsed(id) => write!(f, "{id} was removed, and ids are not used again: choose another"),
            Self::OtherIncarnation(id) => write!(f, "{id} is a member with another disk"),
            Self::Twice(id) => write!(f, "two steps of the change are about {id}"),
            Self::NoVoters => write!(f, "no voter would be left"),
            Self::Nothing => write!(f, "nothing would change"),
            Self::BadLease => write!(f, "the lease must be longer than what the drift takes away from it"),
        }
    }
}

impl std::error::Error for ChangeError {}

/// Why the leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// Ask the leader.
    NotLeader {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// It leads already.
    AlreadyLeader(NodeId),
    /// It does not vote, so it cannot lead.
    NotVoter(NodeId),
    /// There is no other voter that answers.
    NoTarget,
    /// Another hand-over is under way.
    InProgress {
        /// To whom.
        to: NodeId,
    },
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { hint: Some(leader) } => write!(f, "not the leader: ask {leader}"),
            Self::NotLeader { hint: None } => write!(f, "not the leader, and none is known"),
            Self::AlreadyLeader(id) => write!(f, "{id} leads already"),
            Self::NotVoter(id) => write!(f, "{id} does not vote, so it cannot lead"),
            Self::NoTarget => write!(f, "there is no other voter that answers"),
            Self::InProgress { to } => write!(f, "the leadership is being handed over to {to} already"),
        }
    }
}

impl std::error::Error for TransferError {}
