//! Elections: who may lead, and how one stops leading.
//!
//! A node that hears no leader for a random time asks the others whether they would vote for it (pre-vote, §9.6),
//! and only if a quorum would does it begin a term and stand (§3.4). A voter grants at most one vote a term, to a
//! log at least as up to date as its own (§3.6.1), and its word goes out when the vote is on disk. While it hears a
//! leader it helps nobody to depose it (§4.2.3). A leader that a quorum has not answered for an election timeout
//! steps down by itself (check-quorum, §6.2).
//!
//! | rule | story under `testdata/election/` |
//! |---|---|
//! | random timeout, one vote a term (§3.4) | `timeout`, `one_vote_a_term`, `duplicate_vote` |
//! | up-to-date test (§3.6.1) | `up_to_date_log` |
//! | votes are durable first (§3.8) | `vote_waits_for_disk`, `vote_survives_a_crash`, `own_vote_waits_for_disk` |
//! | hand-over (§3.10) | `hand_over` |
//! | learners and joint majorities (§4.2.1, §4.3) | `learner_never_stands`, `joint_quorum` |
//! | a timeout cut short | `hurried_failover`, `hurried_in_error`, `hurried_start`, `hurried_not_with_lease` |
//! | stickiness (§4.2.3), check-quorum (§6.2) | `stickiness`, `check_quorum`, `stale_leader_is_taught` |
//! | pre-vote (§9.6) | `prevote_protects`, `prevote_spreads_term`, `prevote_of_an_earlier_term` |
//!
//! Divergence: the dissertation lets a candidate whose time is up begin another term at once; here it goes through
//! pre-vote again, so terms do not run up while no quorum is in reach.

use super::Raft;
use super::message::MessageBody;
use super::quorum::{self, VoteResult};
use super::ready::Event;
use super::role::{Campaign, Follower, Role};
use super::types::{Configuration, HardState, LogId, NodeId, Term};

impl Raft {
    pub(super) fn on_tick(&mut self) {
        self.tick_questions();
        match &mut self.role {
            Role::Follower(follower) => {
                if follower.timer.tick() {
                    self.on_election_timeout();
                }
            }
            Role::PreCandidate(campaign) | Role::Candidate(campaign) => {
                if campaign.timer.tick() {
                    self.on_election_timeout();
                }
            }
            Role::Leader(_) => self.tick_leader(),
        }
    }

    fn on_election_timeout(&mut self) {
        if self.shared.clock.is_bound() {
            // The next tick asks again: the promise runs by the clock, not by ticks.
            return;
        }
        if self.may_campaign() {
            self.begin_pre_vote();
        } else if self.leader().is_some() {
            // It cannot stand, but it need not believe in a leader that has gone silent either.
            self.become_follower(self.shared.term(), None);
        }
    }

    pub(super) fn on_campaign(&mut self) {
        if self.may_campaign() && !self.shared.clock.is_bound() {
            self.begin_pre_vote();
        }
    }

    /// The leader asked this node to take over (§3.10): no pre-vote, as the voters are to forget that they hear it.
    pub(super) fn on_timeout_now(&mut self) {
        if self.may_campaign() {
            self.begin_election(true);
        }
    }

    /// Only voters stand (§4.2.1), and not while a snapshot is half installed: its end of the log is not yet safe. Nor
    /// one that has lost entries it may have acknowledged (`damage`).
    ///
    /// Whom the newest configuration leaves out stands as long as that configuration is not known to be committed: it
    /// may be the only one to have it, and then nobody with a shorter log could be elected (§4.2.2;
    /// `testdata/membership/left_out_but_needed.txt`). It then leads without counting itself, and leaves once the
    /// configuration is committed.
    ///
    /// Committed configurations that are not applied yet are no hindrance, as they are elsewhere (etcd#12133): here a
    /// configuration counts from the moment it is in the log, so there is no older one by which votes could be counted.
    fn may_campaign(&self) -> bool {
        let shared = &self.shared;
        let was_voter = || {
            let known = shared.configurations.at(shared.commit);
            !shared.is_configuration_committed() && known.is_some_and(|known| known.is_voter(shared.id()))
        };
        !matches!(self.role, Role::Leader(_))
            && !self.is_damaged()
            && (shared.is_voter() || was_voter())
            && !shared.log.is_installing()
    }

    /// The configuration by which votes are counted: the newest in the log (§4.1).
    fn electorate(&self) -> &Configuration {
        let configurations = &self.shared.configurations;
        let applied = crate::mutant!("unapplied-campaign").then(|| configurations.at(self.shared.applied));
        applied.flatten().unwrap_or_else(|| configurations.current())
    }

    /// Asks who would vote for this node in the next term (§9.6). Nothing changes for anyone yet.
    fn begin_pre_vote(&mut self) {
        let term = self.shared.term();
        let id = self.shared.id();
        let mut campaign = Campaign::new(self.shared.draw_timer());
        campaign.record(id, true, self.shared.configurations.current());
        self.enter(term, Role::PreCandidate(campaign));
        let last = self.shared.log.last();
        for peer in self.other_voters() {
            self.shared.send(peer, MessageBody::PreVote { next_term: term.next(), last });
        }
        self.count_votes();
    }

    /// Begins a term and stands in it (§3.4). The own vote counts once it is on disk: see `count_own_vote`.
    ///
    /// A leader that wanted this is told in any case, also if it has no vote any more: it is to know that it is over.
    fn begin_election(&mut self, leadership_transfer: bool) {
        let asker = self.leader().filter(|_| leadership_transfer);
        let term = self.shared.term().next();
        let campaign = Campaign::new(self.shared.draw_timer());
        self.enter(term, Role::Candidate(campaign));
        self.shared.hard_state.voted_for = Some(self.shared.id());
        let last = self.shared.log.last();
        let mut voters = self.other_voters();
        voters.extend(asker.filter(|asker| !voters.contains(asker)));
        for peer in voters {
            self.shared.promise(peer, MessageBody::RequestVote { last, leadership_transfer });
        }
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let id = self.shared.id();
        let configuration = self.electorate();
        configuration.members().into_iter().filter(|&m| m != id && configuration.is_voter(m)).collect()
    }

    /// A candidate's own vote is durable now (rule 1).
    pub(super) fn count_own_vote(&mut self) {
        let id = self.shared.id();
        let is_durable = self.shared.hard_state_durable == self.shared.hard_state;
        if let Role::Candidate(campaign) = &mut self.role
            && is_durable
        {
            campaign.record(id, true, self.shared.configurations.current());
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let configuration = self.electorate();
        let (result, is_real) = match &self.role {
            Role::PreCandidate(campaign) => (campaign.result(configuration), false),
            Role::Candidate(campaign) => (campaign.result(configuration), true),
            Role::Follower(_) | Role::Leader(_) => return,
        };
        match result {
            VoteResult::Won if is_real => self.become_leader(),
            VoteResult::Won => self.begin_election(false),
            VoteResult::Lost => self.become_follower(self.shared.term(), None),
            VoteResult::Pending => {}
        }
    }

    /// Answers what this node would do, and does nothing (§9.6).
    pub(super) fn on_pre_vote(&mut self, from: NodeId, next_term: Term, last: LogId) {
        let is_kept = self.hears_leader() || self.shared.clock.is_bound() || self.is_mute();
        let granted = next_term > self.shared.term() && !is_kept && self.is_up_to_date(last);
        self.shared.respond(from, MessageBody::PreVoteResponse { next_term, granted });
    }

    pub(super) fn on_pre_vote_response(&mut self, from: NodeId, next_term: Term, granted: bool) {
        let asked = self.shared.term().next();
        let configuration = self.shared.configurations.current();
        match &mut self.role {
            Role::PreCandidate(campaign) if next_term == asked => {
                campaign.record(from, granted, configuration);
            }
            Role::PreCandidate(campaign) | Role::Candidate(campaign) if crate::mutant!("stale-votes") => {
                campaign.record(from, granted, configuration);
            }
            _ => return,
        }
        self.count_votes();
    }

    /// Votes (§3.4): once a term, and only for a log that is at least as up to date (§3.6.1).
    ///
    /// A node votes whether or not its own configuration says that it does: it may not know yet that it was made a
    /// voter, and the candidate counts by a configuration at least as new (§4.2.2, etcd#10998).
    ///
    /// Whoever has promised a lease votes for nobody but whom the leader itself asked to stand (§6.4.1, see `lease`).
    pub(super) fn on_request_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last: LogId,
        leadership_transfer: bool,
    ) {
        let voted_for = self.shared.hard_state.voted_for;
        let is_free = voted_for == Some(from) || (voted_for.is_none() && self.leader().is_none());
        let is_bound = self.shared.clock.is_bound() && !leadership_transfer;
        let granted = is_free && !is_bound && self.is_up_to_date(last) && !self.is_mute();
        if !granted {
            self.shared.respond(from, MessageBody::VoteResponse { granted });
            return;
        }
        self.shared.hard_state = HardState { term, voted_for: Some(from) };
        if voted_for.is_none() {
            self.shared.tell(Event::VoteGranted { to: from, term });
        }
        match &mut self.role {
            Role::Follower(follower) if follower.leader.is_none() => follower.timer.elapsed = 0,
            // It has found someone to vote for, so it no longer stands itself.
            Role::PreCandidate(_) => self.become_follower(term, None),
            _ => {}
        }
        if crate::mutant!("vote-nosync") {
            self.shared.send(from, MessageBody::VoteResponse { granted });
        } else {
            self.shared.promise(from, MessageBody::VoteResponse { granted });
        }
    }

    /// A vote of this term: the term rule has dropped all others.
    pub(super) fn on_vote_response(&mut self, from: NodeId, granted: bool) {
        if let Role::Candidate(campaign) = &mut self.role {
            campaign.record(from, granted, self.shared.configurations.current());
            self.count_votes();
        }
    }

    /// A planted bug: who does not know that it votes refuses to.
    fn is_mute(&self) -> bool {
        crate::mutant!("learner-mute") && !self.shared.is_voter()
    }

    /// Whether a log that ends at `last` is at least as up to date as this node's (§3.6.1): the later last term
    /// wins, and in the same term the longer log. What this node's log lost to damage counts as if it were there.
    fn is_up_to_date(&self, last: LogId) -> bool {
        let own = self.log_to_match();
        if crate::mutant!("logcmp") {
            return (last.index, last.term) >= (own.index, own.term);
        }
        (last.term, last.index) >= (own.term, own.index)
    }

    /// Whether this node has heard a leader within the least election timeout, or is one (§4.2.3).
    pub(super) fn hears_leader(&self) -> bool {
        match &self.role {
            Role::Follower(follower) => {
                follower.leader.is_some()
                    && !follower.is_cut_off
                    && follower.timer.elapsed < self.shared.config.election_timeout_ticks
            }
            Role::PreCandidate(_) | Role::Candidate(_) => false,
            Role::Leader(_) => true,
        }
    }

    /// The leader of this term spoke: follow it, and wait for it anew.
    pub(super) fn follow(&mut self, leader: NodeId) {
        if self.leader() != Some(leader) {
            self.become_follower(self.shared.term(), Some(leader));
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.timer.elapsed = 0;
            follower.is_cut_off = false;
            if std::mem::take(&mut follower.is_hurried) {
                follower.timer = self.shared.draw_timer();
            }
        }
    }

    /// Steps down if no quorum has answered for an election timeout (check-quorum, §6.2). A leader that was just
    /// elected has that long to be answered at all. Shown in `testdata/election/check_quorum.txt`.
    pub(super) fn check_quorum(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let id = self.shared.id();
        let patience = self.shared.config.election_timeout_ticks;
        let is_heard = |peer: NodeId| {
            peer == id || leader.progress.get(&peer).is_some_and(|progress| progress.silent_ticks < patience)
        };
        if !quorum::agrees(self.shared.configurations.current(), is_heard) {
            self.become_follower(self.shared.term(), None);
        }
    }

    pub(super) fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        let timer = self.shared.draw_timer();
        self.enter(term, Role::Follower(Follower::new(leader, timer)));
    }

    /// The one transition: every change of role or term passes here. What belonged to the old role goes with it;
    /// a new term has no vote yet.
    pub(super) fn enter(&mut self, term: Term, role: Role) {
        let (old_term, old_leader) = (self.shared.term(), self.leader());
        assert!(term >= old_term, "going back from term {old_term} to {term}");
        if term > old_term {
            self.shared.hard_state = HardState { term, voted_for: None };
        }
        let old = std::mem::replace(&mut self.role, role);
        if old.name() != self.role.name() || term > old_term {
            self.shared.tell(Event::RoleChanged { role: self.role.name(), term });
        }
        let leader = self.leader();
        if leader != old_leader || (leader.is_some() && term > old_term) {
            self.shared.tell(Event::LeaderChanged { leader, term });
        }
        self.forget_reads(old);
    }
}
