//! Room on the disks of a quorum.
//!
//! A disk that is full stops its node (rule 2: what failed is not retried), and when that has happened to a quorum,
//! the cluster stands still. So a node is told how much room it has, tells the leader with every answer to a
//! heartbeat, and the leader refuses in time what would take more: while fewer than a quorum of voters have room, a
//! proposal is refused before it has left any trace.
//!
//! There are two marks, so that the way out stays open. Below the first ([`Space::Low`]) only what makes the state
//! grow is refused; deletes and compaction go on, as do reads, which take no room at all. Below the second
//! ([`Space::Critical`]) all commands are refused, since each takes room in the log. The no-op of a new leader and
//! changes of membership are never refused: without them a member that is full could not be replaced.
//!
//! A voter that has not answered for an election timeout is not counted as one with room: what is written while it is
//! gone needs the others. If a quorum does not answer at all, this rule says nothing; check-quorum does (§6.2).
//! A report is a fact of the moment, not a promise: it is replaced by the next one, and there is nothing to clear
//! when room comes back.
//!
//! A leader that is low on space itself hands over to a voter that has room and answers, since the stop of a leader
//! costs an election, and that of a follower nothing.
//!
//! The dissertation says nothing of full disks; the rule is that of `docs/limits.md`. Which command grows the state is
//! the business of the state machine, and comes with the proposal. Shown in `testdata/space/`.

use std::collections::BTreeSet;

use super::Raft;
use super::progress::Progress;
use super::quorum;
use super::role::{Leader, Role};
use super::types::NodeId;

/// How much room a node has on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Space {
    /// Enough.
    #[default]
    Ample,
    /// Too little for a state that grows.
    Low,
    /// Too little for anything but what frees room.
    Critical,
}

/// What a command does to the size of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Growth {
    /// It may make it larger.
    Grows,
    /// It does not, or makes it smaller: a delete, a compaction.
    Frees,
}

impl Growth {
    /// Whether a node with so much room can take such a command.
    fn fits(self, space: Space) -> bool {
        match self {
            Self::Grows => space == Space::Ample,
            Self::Frees => space < Space::Critical,
        }
    }
}

impl Raft {
    /// How much room this node's disk has now. A node that was never told has enough.
    pub fn report_space(&mut self, space: Space) {
        self.input(|raft| raft.shared.space = space);
    }

    /// How much room this node's disk had when it was last told.
    #[must_use]
    pub fn space(&self) -> Space {
        self.shared.space
    }

    /// On a leader: the voters that have no room for such a command, by what they last said.
    #[must_use]
    pub fn without_room(&self, growth: Growth) -> BTreeSet<NodeId> {
        let Role::Leader(leader) = &self.role else { return BTreeSet::new() };
        let configuration = self.shared.configurations.current();
        let voters = configuration.voters.union(&configuration.voters_outgoing).copied();
        voters.filter(|id| !growth.fits(self.space_of(leader, *id))).collect()
    }

    /// Whether a quorum has room for such a command.
    pub(super) fn has_quorum_room(&self, leader: &Leader, growth: Growth) -> bool {
        let others = || leader.progress.values().map(|progress| progress.space);
        if growth.fits(self.shared.space) && others().all(|space| growth.fits(space)) {
            return true;
        }
        if crate::mutant!("nospace-ignored") {
            return true;
        }
        let configuration = self.shared.configurations.current();
        let answers = |id| self.answers_lately(leader, id);
        quorum::agrees(configuration, |id| answers(id) && growth.fits(self.space_of(leader, id)))
            || !quorum::agrees(configuration, answers)
    }

    fn space_of(&self, leader: &Leader, id: NodeId) -> Space {
        if id == self.shared.id() {
            return self.shared.space;
        }
        leader.progress.get(&id).map_or(Space::Ample, |progress| progress.space)
    }

    fn answers_lately(&self, leader: &Leader, id: NodeId) -> bool {
        let patience = self.shared.config.election_timeout_ticks;
        let lately = |progress: &Progress| progress.silent_ticks < patience;
        id == self.shared.id() || leader.progress.get(&id).is_some_and(lately)
    }

    /// A tick: a leader without room hands over to a voter that has it. If that fails, it leads as before, and tries
    /// again after some time.
    pub(super) fn tick_space(&mut self) {
        let has_room = self.shared.space == Space::Ample;
        let pause = self.shared.config.election_timeout_ticks.saturating_mul(4);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.ticks_until_relief = leader.ticks_until_relief.saturating_sub(1);
        if has_room || leader.transfer.is_some() || leader.ticks_until_relief > 0 {
            return;
        }
        leader.ticks_until_relief = pause;
        let to = self.roomiest_successor();
        if let Some(to) = to {
            // Nothing that speaks against it now is worth more than the next try.
            let _ = self.on_transfer_leader(Some(to));
        }
    }

    /// The voter with room that has most of the log, among those that answered lately.
    fn roomiest_successor(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let voters = self.shared.configurations.current().voters.iter();
        let known = voters.filter_map(|id| leader.progress.get(id).map(|progress| (*id, progress)));
        let with_room = known.filter(|(id, progress)| {
            progress.space == Space::Ample && progress.acked_round > 0 && self.answers_lately(leader, *id)
        });
        with_room.max_by_key(|(id, progress)| (progress.matched, std::cmp::Reverse(*id))).map(|(id, _)| id)
    }
}
