//! Changing who is in the cluster, and who leads it.
//!
//! A change that may have been begun is not sent again (it ends as [`ClientError::Unknown`]): the membership shows
//! what became of it, and the same change asked for once more is then refused as [`Nothing`] to be done, or done.
//! Whoever has looked before can say so with `expected`, and is refused if the membership is another by then.
//!
//! [`Nothing`]: crate::wire::MemberRefusal::Nothing

use raft::core::{Change, Lease, NodeId};

use crate::wire::{Membership, NodeReport, Reply, RequestBody};

use super::call::{Called, Kind};
use super::{Client, ClientError, confused};

/// A node that is to become a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its id, never used before.
    pub id: NodeId,
    /// Where its peers reach it.
    pub peer: String,
    /// Where it serves clients.
    pub client: String,
    /// Whether the leader is to make it a voter once it has caught up; otherwise it stays a learner.
    pub joining: bool,
}

impl Client {
    /// The configuration in force, with everything that was acknowledged before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn membership(&self) -> Result<Membership, ClientError> {
        membership_of(self.inner.call(RequestBody::Membership, Kind::Read).await?)
    }

    /// Changes the membership, all steps at once; returns the configuration when it is committed and not joint. With
    /// `expected`, only if the configuration before is the one of this [index](Membership::index).
    ///
    /// Safe whatever is asked for, but not always wise: [`dry_run`](crate::dry_run) tells what it does to the quorum.
    /// Use [`add_member`](Self::add_member) for new members.
    ///
    /// # Errors
    /// See [`ClientError`], and for what is refused [`MemberRefusal`](crate::wire::MemberRefusal).
    pub async fn change_members(
        &self,
        changes: Vec<Change>,
        expected: Option<u64>,
    ) -> Result<Membership, ClientError> {
        membership_of(self.inner.call(RequestBody::ChangeMembers { changes, expected }, Kind::Once).await?)
    }

    /// Makes a node a learner, once it has been seen to answer at its address; returns the configuration with it.
    ///
    /// # Errors
    /// As [`change_members`](Self::change_members).
    pub async fn add_member(
        &self,
        member: NewMember,
        expected: Option<u64>,
    ) -> Result<Membership, ClientError> {
        let NewMember { id, peer, client, joining } = member;
        let body = RequestBody::AddMember { id, peer, client, joining, expected };
        membership_of(self.inner.call(body, Kind::Once).await?)
    }

    /// Sets the terms on which reads are answered by lease, or with `None` has every read confirmed.
    ///
    /// # Errors
    /// As [`change_members`](Self::change_members).
    pub async fn set_lease(&self, lease: Option<Lease>) -> Result<Membership, ClientError> {
        self.change_members(vec![Change::SetLease(lease)], None).await
    }

    /// Hands the leadership over, to `to` or to whoever is best placed; returns who leads then.
    ///
    /// # Errors
    /// As [`change_members`](Self::change_members). If it fails the old leader goes on.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ClientError> {
        let called = self.inner.call(RequestBody::TransferLeader { to }, Kind::Once).await?;
        match called.reply {
            Reply::Leader(leader) => Ok(leader),
            _ => Err(confused(&called.endpoint)),
        }
    }

    /// How the leader is; it alone knows how far the others have come.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn leader_status(&self) -> Result<NodeReport, ClientError> {
        let called = self.inner.call(RequestBody::LeaderStatus, Kind::Read).await?;
        match called.reply {
            Reply::Status(report) => Ok(*report),
            _ => Err(confused(&called.endpoint)),
        }
    }
}

fn membership_of(called: Called) -> Result<Membership, ClientError> {
    match called.reply {
        Reply::Membership(membership) => Ok(*membership),
        _ => Err(confused(&called.endpoint)),
    }
}
