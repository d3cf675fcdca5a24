//! What a core looks like from outside.

use super::Raft;
use super::progress::ProgressState;
use super::ready::RoleName;
use super::role::Role;
use super::types::{Index, LogId, NodeId, Term};

/// A picture of a core at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Its term.
    pub term: Term,
    /// Its role.
    pub role: RoleName,
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// The last index known to be committed.
    pub commit: Index,
    /// The last index reported as applied.
    pub applied: Index,
    /// The last index known to be durable here.
    pub durable: Index,
    /// The last entry of the log.
    pub last: LogId,
    /// The compaction point: the entry before the first in memory.
    pub prev: LogId,
    /// The durable log lost entries to damage, up to this one, and has not got them back (`damage`).
    pub damaged: Option<LogId>,
    /// The bytes of log in memory.
    pub log_bytes: u64,
    /// The reads that wait for their round, or for the leader's answer.
    pub reads_pending: usize,
    /// The index of the configuration in force; it is committed if that is at or below `commit`.
    pub configuration_index: Index,
    /// To whom this leader is handing over.
    pub transfer: Option<NodeId>,
    /// Whether this leader may answer reads without asking, as of the time last observed.
    pub has_lease: bool,
    /// What a leader knows of each other member, and of those who still have to learn that they are none; empty in
    /// other roles.
    pub peers: Vec<PeerStatus>,
}

/// What a leader knows of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// How it is being supplied.
    pub state: ProgressState,
    /// It durably holds the leader's log up to here.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// Appends on their way.
    pub inflight_messages: usize,
    /// Bytes of entries on their way.
    pub inflight_bytes: u64,
    /// Ticks since it last answered.
    pub silent_ticks: u32,
    /// It is no member any more, and is still to learn that.
    pub is_leaving: bool,
}

impl Raft {
    /// A picture of this core now.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let (peers, reads_pending) = match &self.role {
            Role::Leader(leader) => {
                let peers = leader.progress.iter().map(|(&id, progress)| PeerStatus {
                    id,
                    state: progress.state,
                    matched: progress.matched,
                    next: progress.next,
                    inflight_messages: progress.inflights.len(),
                    inflight_bytes: progress.inflights.bytes(),
                    silent_ticks: progress.silent_ticks,
                    is_leaving: leader.leaving.contains_key(&id),
                });
                (peers.collect(), leader.reads.pending.len())
            }
            Role::Follower(follower) => (Vec::new(), follower.reads.len()),
            Role::PreCandidate(_) | Role::Candidate(_) => (Vec::new(), 0),
        };
        let transfer = match &self.role {
            Role::Leader(leader) => leader.transfer.map(|transfer| transfer.to),
            _ => None,
        };
        Status {
            id: shared.id(),
            term: shared.term(),
            role: self.role.name(),
            leader: self.leader(),
            commit: shared.commit,
            applied: shared.applied,
            durable: shared.log.durable(),
            last: shared.log.last(),
            prev: shared.log.prev(),
            damaged: shared.damage,
            log_bytes: shared.log.bytes(),
            reads_pending,
            configuration_index: shared.configurations.newest().0,
            transfer,
            has_lease: self.has_lease(),
            peers,
        }
    }
}
