//! Who is in the cluster, and why a change of that may be refused.
//!
//! Every refusal says what to do about it. All of them are definite: nothing was changed.

use raft::core::{ChangeError, Configuration, NodeId, TransferError};
use serde::{Deserialize, Serialize};

/// A member, as clients need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Where it serves clients; empty if the node asked does not know.
    pub client: String,
    /// Where its peers reach it; empty if the node asked does not know.
    pub peer: String,
    /// What it is, as far as the node asked knows.
    pub role: MemberRole,
    /// Whether the node asked takes it for the leader.
    pub leader: bool,
}

/// What a member is in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It receives the log and does not vote.
    Learner,
    /// A learner that the leader makes a voter once it has caught up.
    Joining,
    /// It votes for as long as the configuration is joint, and not afterwards.
    Leaving,
}

impl MemberRole {
    /// What `id` is in `configuration`; `None` if it is no member.
    #[must_use]
    pub fn of(id: NodeId, configuration: &Configuration) -> Option<Self> {
        if configuration.voters.contains(&id) {
            Some(Self::Voter)
        } else if configuration.voters_outgoing.contains(&id) {
            Some(Self::Leaving)
        } else if configuration.joining.contains(&id) {
            Some(Self::Joining)
        } else if configuration.learners.contains(&id) {
            Some(Self::Learner)
        } else {
            None
        }
    }

    /// In a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Joining => "joining",
            Self::Leaving => "leaving",
        }
    }
}

/// The newest configuration that a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The index of the entry that it came with; 0 for the one that the cluster was formed with. No two
    /// configurations that were ever committed have the same.
    pub index: u64,
    /// Whether it is known to be committed: until then another leader may take it back.
    pub committed: bool,
    /// The configuration.
    pub configuration: Configuration,
}

impl Membership {
    /// Whether nothing of it is under way: it is committed, and not joint.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.committed && !self.configuration.is_joint()
    }
}

/// Why a change of the membership, or of the leadership, was not begun, or has come to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MemberRefusal {
    /// It passes in a moment.
    #[error("the leader was just elected: try again in a moment")]
    NotEstablished,
    /// It passes, unless a quorum is away.
    #[error("another change of membership is under way: try again when it has ended")]
    InProgress,
    /// It passes in a moment.
    #[error("the leadership is being handed over to member {}: try again in a moment", .to.0)]
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// Somebody else was quicker.
    #[error("the membership was changed meanwhile: look at it again before you change it")]
    Changed {
        /// The index of the configuration now.
        index: u64,
    },
    /// It is a member already.
    #[error("member {} is in the cluster already: promote it to make it a voter, or choose another id", .0.0)]
    AlreadyMember(NodeId),
    /// It is no member.
    #[error("member {} is not in the cluster: add it first, or choose one of the list of members", .0.0)]
    NotMember(NodeId),
    /// It votes already.
    #[error("member {} is a voter already: there is nothing to do", .0.0)]
    AlreadyVoter(NodeId),
    /// It does not vote.
    #[error("member {} is no voter: promote it first", .0.0)]
    NotVoter(NodeId),
    /// The id belonged to a member that was removed.
    #[error("member {} was removed, and ids are not used again: start the node with an empty data directory under a new id", .0.0)]
    IdUsed(NodeId),
    /// The disk is not the one that is known.
    #[error("member {} is known with another data directory: restore that one, or replace the member by one with a new id", .0.0)]
    OtherIncarnation(NodeId),
    /// Two steps are about one member.
    #[error("two steps of the change are about member {}: make them one after the other", .0.0)]
    Twice(NodeId),
    /// Nobody would vote any more.
    #[error("no voter would be left: add or promote another member first")]
    NoVoters,
    /// Everything is as it should become.
    #[error("nothing would change: everything is as asked for already")]
    Nothing,
    /// The lease leaves nothing after the drift, or is zero.
    #[error(
        "the lease must be longer than what the clocks' drift takes away from it: make it longer, or the drift smaller"
    )]
    BadLease,
    /// The node to be added does not answer as it should.
    #[error("member {} cannot be added: {why}", .id.0)]
    NotReady {
        /// Which one.
        id: NodeId,
        /// Where.
        address: String,
        /// What is wrong, and the mend.
        why: String,
    },
    /// It leads already.
    #[error("member {} leads already: there is nothing to do", .0.0)]
    AlreadyLeader(NodeId),
    /// There is nobody to hand over to.
    #[error("there is no other voter that answers: start one, or add one")]
    NoTarget,
    /// The leader goes on leading.
    #[error("member {} did not take over in time, and the old leader goes on: see whether that member is up and has caught up, or name another", .to.0)]
    TransferFailed {
        /// To whom it was meant to go.
        to: NodeId,
    },
}

impl MemberRefusal {
    /// Whether the same request may fare better in a moment.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::NotEstablished | Self::InProgress | Self::Transferring { .. })
    }

    /// What the core's refusal is for a client; `None` for those that are not particular to changes.
    #[must_use]
    pub fn of_change(error: &ChangeError) -> Option<Self> {
        Some(match *error {
            ChangeError::NotLeader { .. } | ChangeError::Overloaded => return None,
            ChangeError::NotEstablished => Self::NotEstablished,
            ChangeError::InProgress => Self::InProgress,
            ChangeError::Transferring { to } => Self::Transferring { to },
            ChangeError::AlreadyMember(id) => Self::AlreadyMember(id),
            ChangeError::NotMember(id) => Self::NotMember(id),
            ChangeError::AlreadyVoter(id) => Self::AlreadyVoter(id),
            ChangeError::NotVoter(id) => Self::NotVoter(id),
            ChangeError::IdUsed(id) => Self::IdUsed(id),
            ChangeError::OtherIncarnation(id) => Self::OtherIncarnation(id),
            ChangeError::Twice(id) => Self::Twice(id),
            ChangeError::NoVoters => Self::NoVoters,
            ChangeError::Nothing => Self::Nothing,
            ChangeError::BadLease => Self::BadLease,
        })
    }

    /// What the core's refusal of a hand-over is for a client; `None` if another node must be asked.
    #[must_use]
    pub fn of_transfer(error: TransferError) -> Option<Self> {
        Some(match error {
            TransferError::NotLeader { .. } => return None,
            TransferError::AlreadyLeader(id) => Self::AlreadyLeader(id),
            TransferError::NotVoter(id) => Self::NotVoter(id),
            TransferError::NoTarget => Self::NoTarget,
            TransferError::InProgress { to } => Self::Transferring { to },
        })
    }
}
