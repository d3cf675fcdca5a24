//! What an operator can ask of a running node, whatever is replicated.

use raft::clock::BoxFuture;
use raft::core::{Change, ChangeError, Configuration, Member, NodeId, TransferError};
use raft::driver::{HandOverError, Membership, MembershipError, RaftHandle, ReadError};

/// How a request of an operator ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminError {
    /// Not begun; the same request may be taken in a moment, or by another node.
    Later(String),
    /// Not begun, and as things are it never will be.
    Refused(String),
    /// It may have been begun.
    Unknown(String),
}

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Later(why) | Self::Refused(why) => write!(f, "not begun: {why}"),
            Self::Unknown(why) => f.write_str(why),
        }
    }
}

/// A running node's consensus, without the type of its answers.
pub trait Admin: Send + Sync {
    /// Changes the membership; ends with the configuration that is then committed.
    fn change(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<Configuration, AdminError>>;

    /// Looks for a node that is to be added; ends with its incarnation.
    fn probe(&self, id: NodeId, address: String) -> BoxFuture<'static, Result<u64, AdminError>>;

    /// Adds a learner, once it is seen to be there.
    fn add(
        &self,
        id: NodeId,
        member: Member,
        joining: bool,
    ) -> BoxFuture<'static, Result<Configuration, AdminError>>;

    /// Hands the leadership over; ends with the new leader.
    fn transfer(&self, to: Option<NodeId>) -> BoxFuture<'static, Result<NodeId, AdminError>>;

    /// Waits until whatever was committed before is applied here.
    fn read_index(&self) -> BoxFuture<'static, Result<(), ReadError>>;

    /// The configuration in force on the node.
    fn membership(&self) -> Membership;

    /// How many proposals wait to be decided; `None` if the node is gone.
    fn proposals_waiting(&self) -> BoxFuture<'static, Option<u64>>;
}

impl<R: Send + 'static> Admin for RaftHandle<R> {
    fn change(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<Configuration, AdminError>> {
        let raft = self.clone();
        Box::pin(async move { raft.change_membership(changes).await.map_err(of_membership) })
    }

    fn probe(&self, id: NodeId, address: String) -> BoxFuture<'static, Result<u64, AdminError>> {
        let raft = self.clone();
        Box::pin(async move {
            raft.probe_member(id, &address).await.map(|found| found.incarnation).map_err(of_membership)
        })
    }

    fn add(
        &self,
        id: NodeId,
        member: Member,
        joining: bool,
    ) -> BoxFuture<'static, Result<Configuration, AdminError>> {
        let raft = self.clone();
        Box::pin(async move {
            let added = raft.add_member(id, member.address, member.context, joining);
            added.await.map_err(of_membership)
        })
    }

    fn transfer(&self, to: Option<NodeId>) -> BoxFuture<'static, Result<NodeId, AdminError>> {
        let raft = self.clone();
        Box::pin(async move { raft.transfer_leadership(to).await.map_err(of_hand_over) })
    }

    fn read_index(&self) -> BoxFuture<'static, Result<(), ReadError>> {
        let raft = self.clone();
        Box::pin(async move { raft.read_index().await.map(|_| ()) })
    }

    fn proposals_waiting(&self) -> BoxFuture<'static, Option<u64>> {
        let raft = self.clone();
        Box::pin(async move { raft.status().await.map(|status| status.proposals_waiting) })
    }

    fn membership(&self) -> Membership {
        RaftHandle::membership(self).borrow().clone()
    }
}

fn of_membership(error: MembershipError) -> AdminError {
    let why = error.to_string();
    match error {
        MembershipError::Refused(
            ChangeError::NotLeader { .. }
            | ChangeError::NotEstablished
            | ChangeError::InProgress
            | ChangeError::Transferring { .. }
            | ChangeError::Overloaded,
        )
        | MembershipError::NotReady { .. }
        | MembershipError::Overloaded
        | MembershipError::Superseded => AdminError::Later(why),
        MembershipError::Refused(_) => AdminError::Refused(why),
        MembershipError::OutcomeUnknown | MembershipError::Stopped => AdminError::Unknown(why),
    }
}

fn of_hand_over(error: HandOverError) -> AdminError {
    let why = error.to_string();
    match error {
        HandOverError::Refused(TransferError::NotLeader { .. }) | HandOverError::Overloaded => {
            AdminError::Later(why)
        }
        HandOverError::Refused(_) => AdminError::Refused(why),
        HandOverError::Failed { .. } | HandOverError::OutcomeUnknown { .. } | HandOverError::Stopped => {
            AdminError::Unknown(why)
        }
    }
}
