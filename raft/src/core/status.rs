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
    /// The bytes of log in memory.
    pub log_bytes: u64,
    /// The reads that wait for their round.
    pub reads_pending: usize,
    /// What a leader knows of each other member; empty in other roles.
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
                });
                (peers.collect(), leader.reads.pending.len())
            }
            _ => (Vec::new(), 0),
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
            log_bytes: shared.log.bytes(),
            reads_pending,
            peers,
        }
    }
}
