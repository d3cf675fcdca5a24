//! The roles, each with the data that exists only in it.
//!
//! Whatever belongs to a role dies with it: votes with the candidacy, progress and reads with the leadership. So
//! nothing of an old term can be counted in a new one by oversight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::progress::Progress;
use super::quorum::{self, VoteResult};
use super::ready::RoleName;
use super::types::{Configuration, Index, NodeId};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Follower(Follower),
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Leader),
}

impl Role {
    pub(super) fn name(&self) -> RoleName {
        match self {
            Self::Follower(_) => RoleName::Follower,
            Self::PreCandidate(_) => RoleName::PreCandidate,
            Self::Candidate(_) => RoleName::Candidate,
            Self::Leader(_) => RoleName::Leader,
        }
    }
}

/// Counts ticks up to an election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Timer {
    pub(super) elapsed: u32,
    /// Drawn anew each time a role begins, so that split votes do not repeat (§3.4).
    pub(super) timeout: u32,
}

impl Timer {
    pub(super) fn new(timeout: u32) -> Self {
        Self { elapsed: 0, timeout }
    }

    /// One tick; says whether the time is up.
    pub(super) fn tick(&mut self) -> bool {
        self.elapsed = self.elapsed.saturating_add(1);
        self.elapsed >= self.timeout
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Follower {
    /// Who leads this term, once it has been heard.
    pub(super) leader: Option<NodeId>,
    pub(super) timer: Timer,
}

/// A candidacy, or the question whether one would succeed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Campaign {
    votes: BTreeMap<NodeId, bool>,
    pub(super) timer: Timer,
}

impl Campaign {
    pub(super) fn new(timer: Timer) -> Self {
        Self { votes: BTreeMap::new(), timer }
    }

    /// Notes an answer. A second one of the same node changes nothing.
    pub(super) fn record(&mut self, from: NodeId, granted: bool, configuration: &Configuration) {
        if crate::mutant!("dup-vote") && granted && self.votes.get(&from) == Some(&true) {
            let uncounted = configuration.members().into_iter().find(|id| !self.votes.contains_key(id));
            self.votes.extend(uncounted.map(|id| (id, true)));
            return;
        }
        self.votes.entry(from).or_insert(granted);
    }

    pub(super) fn result(&self, configuration: &Configuration) -> VoteResult {
        quorum::vote_result(configuration, |id| self.votes.get(&id).copied())
    }

    pub(super) fn granted(&self) -> BTreeSet<NodeId> {
        self.votes.iter().filter(|(_, granted)| **granted).map(|(id, _)| *id).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    /// Every other member. Invariant: exactly the members of the configuration without this node.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    pub(super) ticks_since_heartbeat: u32,
    /// The no-op that began this leadership. Until it is committed nothing is known of the commit index (§6.4).
    pub(super) first_index: Index,
    pub(super) reads: Reads,
}

/// The reads of a leader, and the heartbeat rounds that confirm them (§6.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Reads {
    /// The last round begun. Every broadcast of heartbeats is one.
    pub(super) round: u64,
    /// The last round that the clock began.
    pub(super) regular_round: u64,
    /// The last round that a quorum has answered. Invariant: `confirmed <= round`.
    pub(super) confirmed: u64,
    /// Invariant: rounds and indexes do not fall; rounds are at most `round + 1`.
    pub(super) pending: VecDeque<PendingRead>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PendingRead {
    pub(super) context: u64,
    /// Wait for this index before reading.
    pub(super) index: Index,
    /// The first round that began after the read arrived.
    pub(super) round: u64,
}
