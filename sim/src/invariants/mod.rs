//! What must hold all the time, over the whole cluster. One rule a file, each with where it comes from; sections are
//! those of Ongaro's dissertation.
//!
//! The rules see what nodes report through their observers, as it happens, and remember across crashes: a promise
//! outlives the process that made it. The first rule that is broken ends the run.

mod commit_monotone;
pub mod durability;
mod election_safety;
mod exactly_once;
mod leader_completeness;
mod log_agreement;
mod membership_safety;
mod state_hash;
mod wiped_disk;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::core::{Configuration, Event, Index, LogId, NodeId, RoleName};

pub use exactly_once::ExactlyOnce;

use crate::report::Failure;

/// All rules of one cluster. Clones are the same.
#[derive(Clone, Default)]
pub struct Invariants {
    rules: Arc<Mutex<Rules>>,
}

#[derive(Default)]
struct Rules {
    election_safety: election_safety::ElectionSafety,
    commit_monotone: commit_monotone::CommitMonotone,
    leader_completeness: leader_completeness::LeaderCompleteness,
    log_agreement: log_agreement::LogAgreement,
    membership_safety: membership_safety::MembershipSafety,
    state_hash: state_hash::StateHash,
    wiped_disk: wiped_disk::WipedDisk,
    broken: Option<Failure>,
    /// Whether `broken` has been told to [`Invariants::news`].
    told: bool,
    elections: u64,
    committed: Index,
    installs: u64,
}

impl Rules {
    fn note(&mut self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.broken.get_or_insert(failure);
        }
    }
}

impl Invariants {
    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process of `node` begins: what it knew only in memory is forgotten.
    pub fn started(&self, node: NodeId) {
        let mut rules = self.lock();
        rules.commit_monotone.started(node);
        rules.membership_safety.started(node);
    }

    /// The cluster is formed of these voters.
    pub fn formed(&self, voters: BTreeSet<NodeId>) {
        self.lock().membership_safety.formed(voters);
    }

    /// The consensus of `node` runs, and this is the newest configuration in its log.
    pub fn booted(&self, node: NodeId, index: Index, configuration: &Configuration) {
        let mut rules = self.lock();
        rules.membership_safety.booted(node, index, configuration);
        let result = rules.wiped_disk.runs(node);
        rules.note(result);
    }

    /// `node` has lost its disk.
    pub fn wiped(&self, node: NodeId) {
        self.lock().wiped_disk.wiped(node);
    }

    /// Whether a committed configuration says that `node` was removed.
    #[must_use]
    pub fn was_removed(&self, node: NodeId) -> bool {
        let configuration = self.committed_configuration();
        configuration.is_some_and(|configuration| configuration.removed.contains(&node))
    }

    /// The newest configuration that is known to be committed, if there ever was one in the log.
    #[must_use]
    pub fn committed_configuration(&self) -> Option<Configuration> {
        self.lock().membership_safety.newest_committed().cloned()
    }

    /// The newest committed configuration, and all that some node has behind it: whoever decides anything decides it
    /// by one of these.
    #[must_use]
    pub fn configurations_in_play(&self) -> Vec<Configuration> {
        self.lock().membership_safety.in_play()
    }

    /// Something happened in the core of `node`.
    pub fn event(&self, node: NodeId, event: &Event) {
        let mut rules = self.lock();
        let rules = &mut *rules;
        match event {
            Event::RoleChanged { role: RoleName::Leader, term } => {
                rules.elections += 1;
                rules.leader_completeness.elected(node, *term);
                let results = [
                    rules.election_safety.elected(node, *term),
                    rules.membership_safety.role_changed(node, RoleName::Leader, *term),
                ];
                results.into_iter().for_each(|result| rules.note(result));
            }
            Event::RoleChanged { role, term } => {
                let result = rules.membership_safety.role_changed(node, *role, *term);
                rules.note(result);
            }
            Event::ConfigurationChanged { index, configuration } => {
                let result = rules.membership_safety.changed(node, *index, configuration);
                rules.note(result);
            }
            Event::Committed { last } => {
                rules.committed = rules.committed.max(last.index);
                let results = [
                    rules.commit_monotone.committed(node, *last),
                    // Before agreement, which breaks with it: this one says why.
                    rules.leader_completeness.committed(node, *last),
                    rules.log_agreement.committed(node, *last),
                    rules.membership_safety.committed(node, *last),
                ];
                results.into_iter().for_each(|result| rules.note(result));
            }
            Event::SnapshotAccepted { meta } => {
                rules.installs += 1;
                // What a snapshot holds was committed.
                let results = [
                    rules.commit_monotone.committed(node, meta.last),
                    rules.log_agreement.committed(node, meta.last),
                    rules.membership_safety.snapshot(node, meta),
                ];
                results.into_iter().for_each(|result| rules.note(result));
            }
            _ => {}
        }
    }

    /// `node` has applied everything up to `last`, and its state then has this hash.
    pub fn applied(&self, node: NodeId, last: LogId, state: Option<(Index, u64)>) {
        let mut rules = self.lock();
        let mut results =
            vec![rules.commit_monotone.applied(node, last), rules.log_agreement.committed(node, last)];
        if let Some((index, hash)) = state {
            results.push(rules.state_hash.applied(node, index, hash));
        }
        results.into_iter().for_each(|result| rules.note(result));
    }

    /// Something else that must not be has happened.
    pub fn fail(&self, failure: Failure) {
        self.lock().note(Err(failure));
    }

    /// The first rule that was broken, if one was.
    #[must_use]
    pub fn broken(&self) -> Option<Failure> {
        self.lock().broken.clone()
    }

    /// The first rule that was broken, if it was since this was asked last.
    #[must_use]
    pub fn news(&self) -> Option<Failure> {
        let mut rules = self.lock();
        let news = rules.broken.clone().filter(|_| !rules.told);
        rules.told |= news.is_some();
        news
    }

    /// Elections won, the highest index committed, snapshots installed.
    #[must_use]
    pub fn figures(&self) -> (u64, u64, u64) {
        let rules = self.lock();
        (rules.elections, rules.committed.0, rules.installs)
    }
}

#[cfg(test)]
mod tests {
    use raft::core::Term;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn committed(invariants: &Invariants, node: NodeId, term: u64, index: u64) {
        invariants.event(node, &Event::Committed { last: LogId::new(term, index) });
    }

    fn elected(invariants: &Invariants, node: NodeId, term: u64) {
        invariants.event(node, &Event::RoleChanged { role: RoleName::Leader, term: Term(term) });
    }

    fn rule(invariants: &Invariants) -> String {
        invariants.broken().map(|failure| failure.rule).unwrap_or_default()
    }

    #[test]
    fn a_sound_run_breaks_nothing() {
        let invariants = Invariants::default();
        elected(&invariants, A, 1);
        committed(&invariants, A, 1, 1);
        committed(&invariants, B, 1, 1);
        invariants.applied(A, LogId::new(1, 1), Some((Index(1), 7)));
        invariants.applied(B, LogId::new(1, 1), Some((Index(1), 7)));
        elected(&invariants, B, 2);
        committed(&invariants, B, 2, 3);
        invariants.started(A);
        committed(&invariants, A, 1, 1);
        invariants.applied(A, LogId::new(1, 1), Some((Index(1), 7)));
        assert_eq!(invariants.broken(), None);
        assert_eq!(invariants.figures(), (2, 3, 0));
    }

    #[test]
    fn a_node_that_runs_on_an_empty_disk_under_its_old_id_is_noticed() {
        let invariants = Invariants::default();
        let configuration = Configuration::of_voters([A, B]);
        invariants.booted(A, Index(0), &configuration);
        invariants.wiped(A);
        invariants.booted(B, Index(0), &configuration);
        assert_eq!(invariants.broken(), None);
        invariants.booted(A, Index(0), &configuration);
        assert_eq!(rule(&invariants), "an empty disk is a new identity");
    }

    #[test]
    fn the_rules_of_membership_are_told_what_happens() {
        let invariants = Invariants::default();
        invariants.formed([A, B].into());
        invariants.booted(A, Index(0), &Configuration::of_voters([A, B]));
        elected(&invariants, A, 1);
        committed(&invariants, A, 1, 1);
        let configuration = Configuration::of_voters([A]);
        invariants.event(A, &Event::ConfigurationChanged { index: Index(2), configuration });
        assert_eq!(rule(&invariants), "membership safety");
    }

    #[test]
    fn two_leaders_of_one_term_break_election_safety() {
        let invariants = Invariants::default();
        elected(&invariants, A, 3);
        elected(&invariants, A, 3);
        assert_eq!(invariants.broken(), None);
        elected(&invariants, B, 3);
        assert_eq!(rule(&invariants), "election safety");
    }

    #[test]
    fn commit_and_applied_go_back_only_over_a_restart() {
        for go_back in [
            |i: &Invariants| committed(i, A, 1, 4),
            |i: &Invariants| i.applied(A, LogId::new(1, 3), None),
            |i: &Invariants| i.applied(A, LogId::new(1, 6), None),
        ] {
            let invariants = Invariants::default();
            committed(&invariants, A, 1, 5);
            invariants.applied(A, LogId::new(1, 4), None);
            go_back(&invariants);
            assert_eq!(rule(&invariants), "commit and applied are monotone");
        }
        let invariants = Invariants::default();
        committed(&invariants, A, 1, 5);
        invariants.started(A);
        committed(&invariants, A, 1, 4);
        assert_eq!(invariants.broken(), None);
    }

    #[test]
    fn different_entries_at_one_index_or_falling_terms_break_log_agreement() {
        let invariants = Invariants::default();
        committed(&invariants, A, 1, 5);
        committed(&invariants, B, 2, 5);
        assert_eq!(rule(&invariants), "committed logs agree");

        for (term, index) in [(1, 6), (3, 4)] {
            let invariants = Invariants::default();
            committed(&invariants, A, 2, 5);
            committed(&invariants, B, term, index);
            assert_eq!(rule(&invariants), "committed logs agree", "{term} {index}");
        }
    }

    #[test]
    fn a_leader_whose_own_entry_stands_among_the_committed_breaks_leader_completeness() {
        let invariants = Invariants::default();
        elected(&invariants, A, 1);
        committed(&invariants, A, 1, 5);
        elected(&invariants, B, 2);
        committed(&invariants, B, 2, 4);
        assert_eq!(rule(&invariants), "leader completeness");
    }

    #[test]
    fn different_states_at_one_index_break_state_machine_safety() {
        let invariants = Invariants::default();
        committed(&invariants, A, 1, 1);
        committed(&invariants, B, 1, 1);
        invariants.applied(A, LogId::new(1, 1), Some((Index(1), 7)));
        invariants.applied(B, LogId::new(1, 1), Some((Index(1), 8)));
        assert_eq!(rule(&invariants), "state machine safety");
    }
}
