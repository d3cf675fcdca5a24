//! Changes of membership, on the leader (§4).
//!
//! A configuration counts from the moment it is in the log (§4.1), and what follows from that is in `configuration`.
//! Here is what a leader does about it:
//!
//! - It begins a change only when an entry of its own term is committed (rule 7), and when the newest configuration is
//!   committed and not joint. So at most one configuration is ever uncommitted, any two that can be in force at once
//!   are neighbours, and their quorums meet (§4.3). The first of the three is the repair that changes of one server at
//!   a time turned out to need (Ongaro 2015): two neighbours of one configuration need not overlap with each other. With
//!   joint configurations they do, in the old half; the rule stays because commit is not known before it holds.
//! - It leaves a joint configuration by itself once that is committed, whoever began it (§4.3).
//! - Who leaves still gets the log until it holds the configuration that leaves it out and knows that it is committed,
//!   or until an election timeout after that (§4.2.2): else it would go on believing, and disturb the others. If it
//!   learns nothing it is harmless nevertheless: they hear their leader (§4.2.3), and pre-vote fails (§9.6). The members
//!   refuse it then, and tell it why (`transport::handshake`): that is how it learns it in the end.
//! - A leader that the committed configuration leaves out as a voter goes on, without counting itself, until it has
//!   handed over to the best of the voters, or failed to (§4.2.2, §3.10).
//! - Learners that are `joining` become voters by themselves once they have caught up. Catching up is measured in rounds
//!   (§4.2.1): a round is to reach what the log's end was when the round began. As the log grows while a learner copies,
//!   rounds become shorter; once one took less than an election timeout, making it a voter costs the cluster no longer
//!   pause than an election would.
//!
//! Shown in `testdata/membership/`.

use super::Raft;
use super::change::{Change, ChangeError};
use super::confchange;
use super::progress::{Inflights, Progress};
use super::role::{CatchUp, Leader, Leaving, Role};
use super::shared::Shared;
use super::types::{Entry, Index, LogId, NodeId, Payload};

impl Raft {
    pub(super) fn on_propose_change(&mut self, changes: &[Change]) -> Result<LogId, ChangeError> {
        self.may_change()?;
        let current = self.shared.configurations.current();
        let next = if current.is_joint() {
            // Only a planted bug comes here.
            confchange::begin(&confchange::leave(current), changes)?
        } else {
            confchange::begin(current, changes)?
        };
        let payload = Payload::Configuration(next);
        let id = LogId { term: self.shared.term(), index: self.shared.log.last().index.next() };
        let entry = Entry { term: id.term, index: id.index, payload };
        if self.shared.log.bytes() + entry.size_bytes() > self.shared.config.log_bytes_max {
            return Err(ChangeError::Overloaded);
        }
        self.append_configuration(entry);
        Ok(id)
    }

    /// Whether a change may begin now.
    fn may_change(&self) -> Result<(), ChangeError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ChangeError::NotLeader { hint: self.leader() });
        };
        if let Some(transfer) = leader.transfer {
            return Err(ChangeError::Transferring { to: transfer.to });
        }
        if crate::mutant!("conf-early") {
            return Ok(());
        }
        if self.shared.commit < leader.first_index {
            crate::sometimes!("membership/refused-before-noop");
            return Err(ChangeError::NotEstablished);
        }
        if !self.shared.is_configuration_committed() || self.shared.configurations.current().is_joint() {
            crate::sometimes!("membership/refused-while-changing");
            return Err(ChangeError::InProgress);
        }
        Ok(())
    }

    /// A configuration of the leader's own: from now on it decides, and the followers are its members.
    fn append_configuration(&mut self, entry: Entry) {
        self.shared.append(entry);
        if let Role::Leader(leader) = &mut self.role {
            leader.forget_lease_rounds();
            let next = self.shared.log.last().index;
            leader.follow_configuration(&self.shared, next);
        }
    }

    /// Something was committed: see whether a change goes on with that.
    pub(super) fn advance_membership(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let shared = &self.shared;
        let is_established = leader.first_index <= shared.commit;
        if leader.transfer.is_some() || !is_established || !shared.is_configuration_committed() {
            return;
        }
        let current = shared.configurations.current();
        if current.is_joint() {
            crate::sometimes!("membership/leaves-joint");
            let payload = Payload::Configuration(confchange::leave(current));
            let entry = Entry { term: shared.term(), index: shared.log.last().index.next(), payload };
            self.append_configuration(entry);
            // A leader that is all of the new half has committed it already.
            self.advance_commit();
        } else if !shared.is_voter() {
            crate::sometimes!("membership/leader-left-out");
            self.leave_office();
        }
    }

    /// The committed configuration has others to lead: hand over to the best of them, or at least do not stay.
    fn leave_office(&mut self) {
        if self.on_transfer_leader(None).is_err() {
            self.become_follower(self.shared.term(), None);
        }
    }

    /// A tick: members that are leaving need not be looked after for ever.
    pub(super) fn tick_leaving(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (commit, patience) = (self.shared.commit, self.shared.config.election_timeout_ticks);
        for leaving in leader.leaving.values_mut().filter(|leaving| leaving.index <= commit) {
            leaving.ticks += 1;
        }
        leader.let_go(|_, leaving| leaving.ticks >= patience);
    }

    /// A member that is leaving answered. Once it holds the configuration that leaves it out, and was told that this is
    /// committed, it needs nothing more.
    pub(super) fn heard_from_leaving(&mut self, from: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(leaving) = leader.leaving.get(&from) else { return };
        let index = leaving.index;
        if leader.progress.get(&from).is_some_and(|progress| progress.knows_committed(index)) {
            crate::sometimes!("membership/leaver-knows");
            leader.let_go(|id, _| id == from);
        }
    }

    /// A tick: see who has caught up, and make voters of them.
    pub(super) fn tick_catching_up(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.catching_up.is_empty() {
            return;
        }
        let last = self.shared.log.last().index;
        let patience = self.shared.config.election_timeout_ticks;
        for (id, catch_up) in &mut leader.catching_up {
            let progress = leader.progress.get(id);
            let matched = progress.map_or(Index::ZERO, |progress| progress.matched);
            catch_up.tick(matched, last, patience);
        }
        let is_there = |id: &NodeId| leader.progress.get(id).is_some_and(|p| p.silent_ticks < patience);
        let ready = leader.catching_up.iter().filter(|(id, catch_up)| catch_up.is_close && is_there(id));
        let changes: Vec<Change> = ready.map(|(id, _)| Change::Promote(*id)).collect();
        if !changes.is_empty() {
            // Refused while another change is under way, or a hand-over: the next tick asks again.
            crate::sometimes!("membership/learner-caught-up");
            let _ = self.on_propose_change(&changes);
        }
    }
}

impl CatchUp {
    fn new(goal: Index) -> Self {
        Self { goal, ticks: 0, is_close: false }
    }

    /// A tick went by, in a round whose learner has the log up to `matched`, of a log that reaches to `last`.
    fn tick(&mut self, matched: Index, last: Index, patience: u32) {
        self.ticks = self.ticks.saturating_add(1);
        let is_quick = self.ticks < patience;
        if matched >= self.goal {
            *self = Self { goal: last, ticks: 0, is_close: is_quick };
        } else {
            self.is_close &= is_quick;
        }
    }
}

impl Leader {
    /// Followers are the members, and those who still have to learn that they are none. New ones are first asked whether
    /// they hold what is before `next`.
    pub(super) fn follow_configuration(&mut self, shared: &Shared, next: Index) {
        let (index, configuration) = shared.configurations.newest();
        let members = configuration.members();
        let last = shared.log.last().index;
        for &id in members.iter().filter(|id| **id != shared.id()) {
            self.progress.entry(id).or_insert_with(|| new_progress(shared, next));
        }
        for (&id, _) in self.progress.iter().filter(|(id, _)| !members.contains(id)) {
            self.leaving.entry(id).or_insert(Leaving { index: *index, ticks: 0 });
        }
        self.catching_up.retain(|id, _| configuration.joining.contains(id));
        for &id in configuration.joining.iter().filter(|id| self.progress.contains_key(id)) {
            self.catching_up.entry(id).or_insert(CatchUp::new(last));
        }
        if crate::mutant!("early-prune") {
            self.let_go(|_, _| true);
        }
    }

    /// Sends nothing more to those who are leaving and of whom `is_done` says so.
    fn let_go(&mut self, is_done: impl Fn(NodeId, &Leaving) -> bool) {
        let done: Vec<NodeId> =
            self.leaving.iter().filter(|(id, leaving)| is_done(**id, leaving)).map(|(id, _)| *id).collect();
        for id in done {
            self.leaving.remove(&id);
            self.progress.remove(&id);
        }
    }
}

fn new_progress(shared: &Shared, next: Index) -> Progress {
    let config = &shared.config;
    Progress::new(next, Inflights::new(config.inflight_messages_max, config.inflight_bytes_max))
}
