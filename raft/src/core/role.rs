//! The roles, each with the data that exists only in it.
//!
//! Whatever belongs to a role dies with it: votes with the candidacy, progress and reads with the leadership. So
//! nothing of an old term can be counted in a new one by oversight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::progress::Progress;
use super::quorum::{self, VoteResult};
use super::ready::{ReadyNumber, RoleName};
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
    /// The timer was cut short once (`hurry`): not again before the leader is heard or the role changes.
    pub(super) is_hurried: bool,
    /// The connection to the leader broke, and it has not been heard since.
    pub(super) is_cut_off: bool,
    pub(super) reads: ForwardedReads,
}

impl Follower {
    pub(super) fn new(leader: Option<NodeId>, timer: Timer) -> Self {
        Self { leader, timer, is_hurried: false, is_cut_off: false, reads: ForwardedReads::default() }
    }
}

/// The reads that a follower has the leader confirm (§6.4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ForwardedReads {
    /// Begun since the last Ready: they share the next question.
    pub(super) unasked: Vec<u64>,
    /// Asked, oldest first.
    pub(super) asked: VecDeque<Question>,
}

impl ForwardedReads {
    pub(super) fn len(&self) -> usize {
        self.unasked.len() + self.asked.iter().map(|question| question.contexts.len()).sum::<usize>()
    }
}

/// One question to the leader, for all reads that had come when it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    /// This node's number for it.
    pub(super) number: u64,
    pub(super) contexts: Vec<u64>,
    pub(super) ticks: u32,
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
    /// Everyone who gets the log. Invariant: the members of the configuration and those leaving, without this node.
    pub(super) progress: BTreeMap<NodeId, Progress>,
    /// Former members that are still to learn that they are. Invariant: no members, and all have progress.
    pub(super) leaving: BTreeMap<NodeId, Leaving>,
    /// How learners that are to vote catch up. Invariant: all have progress.
    pub(super) catching_up: BTreeMap<NodeId, CatchUp>,
    pub(super) transfer: Option<Transfer>,
    pub(super) lease: LeaseRounds,
    pub(super) stall: Stall,
    /// Ticks until it may try to hand over because its disk is short of room.
    pub(super) ticks_until_relief: u32,
    pub(super) ticks_since_heartbeat: u32,
    /// The no-op that began this leadership. Until it is committed nothing is known of the commit index (§6.4).
    pub(super) first_index: Index,
    pub(super) reads: Reads,
}

impl Leader {
    pub(super) fn new(progress: BTreeMap<NodeId, Progress>, first_index: Index) -> Self {
        Self {
            progress,
            leaving: BTreeMap::new(),
            catching_up: BTreeMap::new(),
            transfer: None,
            lease: LeaseRounds::default(),
            stall: Stall::default(),
            ticks_until_relief: 0,
            ticks_since_heartbeat: 0,
            first_index,
            reads: Reads::default(),
        }
    }
}

/// A member that the configuration of `index` leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Leaving {
    pub(super) index: Index,
    /// Ticks since that was committed.
    pub(super) ticks: u32,
}

/// One round of catching up (§4.2.1): to reach where the log's end was when the round began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CatchUp {
    pub(super) goal: Index,
    pub(super) ticks: u32,
    /// The last round took less than an election timeout, and so has this one until now.
    pub(super) is_close: bool,
}

/// A hand-over under way (§3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    pub(super) ticks: u32,
    /// Whether it was asked to stand.
    pub(super) is_asked: bool,
}

/// What a leader knows of the promises made to it (§6.4.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LeaseRounds {
    /// Rounds that asked for promises, and when they were sent. Invariant: both ascend.
    pub(super) sent: VecDeque<(u64, u64)>,
    /// The last round for which this node made the promise to itself.
    pub(super) own_round: u64,
    /// Leadership was offered to another: no promise of this term counts any more.
    pub(super) is_over: bool,
}

/// The oldest write that is under way, and for how long it has been that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Stall {
    pub(super) oldest: Option<ReadyNumber>,
    pub(super) ticks: u32,
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
    /// The member that asked; `None`: the caller of this node.
    pub(super) asker: Option<NodeId>,
    pub(super) context: u64,
    /// Wait for this index before reading.
    pub(super) index: Index,
    /// The first round that began after the read arrived.
    pub(super) round: u64,
}
