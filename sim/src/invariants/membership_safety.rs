//! Membership safety (§4.1, §4.3): at no time can two disjoint quorums decide.
//!
//! What is watched, since it is what makes that so:
//! - Voters change only by way of a joint configuration, whose halves are the voters before and after (§4.3).
//! - One change at a time: a leader makes a configuration only when the one before is committed.
//! - Not before it has committed an entry of its own term: else another leader's change, of which it does not know,
//!   may be committed (Ongaro, 2015: the mend of the change of single servers, which is as needed here).
//! - A configuration is a function of the log: at one index, committed configurations are the same on all nodes, also
//!   those in snapshots.
//! - Only a voter is elected: of the newest configuration in its log, or of one before that it does not know to be
//!   superseded. Whom the newest leaves out may be needed until that is committed (§4.2.2).

use std::collections::{BTreeMap, BTreeSet};

use raft::core::{Configuration, Index, LogId, NodeId, RoleName, SnapshotMeta, Term};

use crate::report::{Failure, Witness};

const RULE: &str = "membership safety";

/// What is known of one node's log.
#[derive(Default)]
struct Known {
    /// The configurations in its log, as far as it told, the newest last. Outlives its processes: more may be noted
    /// than there is, if a crash took some away, until the node is up again.
    configurations: Vec<(Index, Configuration)>,
    /// Whether the newest of them is what its process has.
    certain: bool,
    commit: Index,
    role: RoleName,
    term: Term,
    /// Whether it has committed an entry of `term` as that term's leader.
    established: bool,
}

impl Known {
    /// Whether some configuration that may be the one in force lets it vote.
    fn may_lead(&self, node: NodeId) -> bool {
        let open = self.configurations.iter().rev().take_while(|(at, _)| *at > self.commit).count();
        self.configurations.iter().rev().take(open + 1).any(|(_, configuration)| configuration.is_voter(node))
    }
}

/// All configurations there ever were.
#[derive(Default)]
pub(super) struct MembershipSafety {
    /// The voters that the cluster is formed of; before any entry.
    first: BTreeSet<NodeId>,
    nodes: BTreeMap<NodeId, Known>,
    committed: BTreeMap<Index, (Configuration, NodeId)>,
}

impl MembershipSafety {
    pub(super) fn formed(&mut self, voters: BTreeSet<NodeId>) {
        self.first = voters;
    }

    /// A process begins: what it has is not known.
    pub(super) fn started(&mut self, node: NodeId) {
        let known = self.nodes.entry(node).or_default();
        let configurations = std::mem::take(&mut known.configurations);
        *known = Known { configurations, ..Known::default() };
    }

    /// A process is up, and this is the newest configuration in its log.
    pub(super) fn booted(&mut self, node: NodeId, index: Index, configuration: &Configuration) {
        let known = self.nodes.entry(node).or_default();
        known.certain = true;
        known.configurations.retain(|(at, _)| *at < index);
        known.configurations.push((index, configuration.clone()));
    }

    pub(super) fn role_changed(&mut self, node: NodeId, role: RoleName, term: Term) -> Result<(), Failure> {
        let known = self.nodes.entry(node).or_default();
        (known.role, known.term, known.established) = (role, term, false);
        let Some((index, _)) = known.configurations.last() else { return Ok(()) };
        if role != RoleName::Leader || !known.certain || known.may_lead(node) {
            return Ok(());
        }
        let text = format!("{node} leads term {term}, and in its configuration of {index} it does not vote");
        Err(Failure::new(RULE, text).seen_in([Witness::elected(node, term)]))
    }

    /// A configuration came into force on a node, at the end of its log or because those behind it were cut off.
    pub(super) fn changed(
        &mut self,
        node: NodeId,
        index: Index,
        configuration: &Configuration,
    ) -> Result<(), Failure> {
        let known = self.nodes.entry(node).or_default();
        let is_new = known.configurations.last().is_none_or(|(newest, _)| *newest < index);
        let made = is_new && known.certain && known.role == RoleName::Leader;
        let result = if made { made_by_leader(node, known, index, configuration) } else { Ok(()) };
        known.configurations.retain(|(at, _)| *at < index);
        known.configurations.push((index, configuration.clone()));
        result
    }

    pub(super) fn committed(&mut self, node: NodeId, last: LogId) -> Result<(), Failure> {
        let known = self.nodes.entry(node).or_default();
        let before = std::mem::replace(&mut known.commit, last.index);
        known.established |= known.role == RoleName::Leader && last.term == known.term;
        if !known.certain {
            return Ok(());
        }
        let newly = known.configurations.iter().filter(|(at, _)| *at > before && *at <= last.index);
        for (index, configuration) in newly.cloned().collect::<Vec<_>>() {
            self.agree(node, index, &configuration)?;
        }
        Ok(())
    }

    /// A snapshot holds the configuration in force where it ends.
    pub(super) fn snapshot(&mut self, node: NodeId, meta: &SnapshotMeta) -> Result<(), Failure> {
        let known = self.nodes.entry(node).or_default();
        known.commit = known.commit.max(meta.last.index);
        // What its log had there is replaced, whether it was what was committed or not.
        known.configurations.retain(|(at, _)| *at > meta.last.index);
        let at = self.committed.range(..=meta.last.index).next_back();
        if let Some((index, (configuration, first))) = at
            && *configuration != meta.configuration
        {
            let text = format!(
                "the snapshot of {} that {node} takes has {}, {first} committed {} at {index}",
                meta.last,
                show(&meta.configuration),
                show(configuration)
            );
            return Err(Failure::new(RULE, text).seen_in([Witness::last_of(node)]));
        }
        Ok(())
    }

    fn agree(&mut self, node: NodeId, index: Index, configuration: &Configuration) -> Result<(), Failure> {
        let entry = self.committed.entry(index);
        let (there, first) = entry.or_insert_with(|| (configuration.clone(), node));
        if there == configuration {
            return Ok(());
        }
        let text =
            format!("at {index} {first} committed {}, and {node} {}", show(there), show(configuration));
        let both = [Witness::committed(*first, index), Witness::committed(node, index)];
        Err(Failure::new(RULE, text).seen_in(both))
    }

    /// The newest configuration that is known to be committed.
    pub(super) fn newest_committed(&self) -> Option<&Configuration> {
        self.committed.last_key_value().map(|(_, (configuration, _))| configuration)
    }

    /// Every configuration that may decide something, now or later.
    pub(super) fn in_play(&self) -> Vec<Configuration> {
        let (committed, newest) = match self.committed.last_key_value() {
            Some((index, (configuration, _))) => (*index, configuration.clone()),
            None => (Index::ZERO, Configuration::of_voters(self.first.iter().copied())),
        };
        let later = self.nodes.values().flat_map(|known| &known.configurations);
        let later =
            later.filter(|(index, _)| *index > committed).map(|(_, configuration)| configuration.clone());
        std::iter::once(newest).chain(later).collect()
    }
}

/// What must be true of a configuration that a leader makes.
fn made_by_leader(
    node: NodeId,
    known: &Known,
    index: Index,
    configuration: &Configuration,
) -> Result<(), Failure> {
    let fail = |what: String| {
        let text = format!("{node}, leading term {}, at {index}: {what}", known.term);
        Err(Failure::new(RULE, text).seen_in([Witness::last_of(node)]))
    };
    let Some((before, previous)) = known.configurations.last() else { return Ok(()) };
    if *before > known.commit {
        return fail(format!("a change before the one of {before} is committed (it has {})", known.commit));
    }
    if !known.established {
        return fail("a change before an entry of its own term is committed".to_owned());
    }
    let sound = match (previous.is_joint(), configuration.is_joint()) {
        (false, false) | (true, false) => configuration.voters == previous.voters,
        (false, true) => configuration.voters_outgoing == previous.voters,
        (true, true) => false,
    };
    if !sound {
        return fail(format!("from {} to {} in one step", show(previous), show(configuration)));
    }
    Ok(())
}

fn show(configuration: &Configuration) -> String {
    let Configuration { voters, voters_outgoing, learners, learners_next, joining, .. } = configuration;
    let mut text = format!("voters {voters:?}");
    let others = [
        ("outgoing", voters_outgoing),
        ("learners", learners),
        ("learners next", learners_next),
        ("joining", joining),
    ];
    for (name, set) in others.into_iter().filter(|(_, set)| !set.is_empty()) {
        text.push_str(&format!(" {name} {set:?}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn voters<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
        ids.map(NodeId).into()
    }

    fn simple<const N: usize>(ids: [u64; N]) -> Configuration {
        Configuration::of_voters(ids.map(NodeId))
    }

    fn joint<const N: usize, const M: usize>(incoming: [u64; N], outgoing: [u64; M]) -> Configuration {
        Configuration { voters_outgoing: voters(outgoing), ..simple(incoming) }
    }

    /// A leads term 2 of three voters and has committed its own entry, number 1.
    fn led() -> MembershipSafety {
        let mut safety = MembershipSafety::default();
        safety.formed(voters([1, 2, 3]));
        safety.started(A);
        safety.booted(A, Index::ZERO, &simple([1, 2, 3]));
        safety.role_changed(A, RoleName::Leader, Term(2)).unwrap();
        safety.committed(A, LogId::new(2, 1)).unwrap();
        safety
    }

    fn broken(result: Result<(), Failure>, words: &str) {
        let failure = result.unwrap_err();
        assert_eq!(failure.rule, RULE);
        assert!(failure.detail.contains(words), "{failure}");
    }

    #[test]
    fn a_change_by_way_of_a_joint_configuration_breaks_nothing() {
        let mut safety = led();
        safety.changed(A, Index(2), &joint([1, 2, 3, 4], [1, 2, 3])).unwrap();
        assert_eq!(safety.in_play().len(), 2);
        safety.committed(A, LogId::new(2, 2)).unwrap();
        safety.changed(A, Index(3), &simple([1, 2, 3, 4])).unwrap();
        safety.committed(A, LogId::new(2, 3)).unwrap();
        let learner = Configuration { learners: voters([5]), ..simple([1, 2, 3, 4]) };
        safety.changed(A, Index(4), &learner).unwrap();
        assert_eq!(safety.newest_committed(), Some(&simple([1, 2, 3, 4])));
    }

    #[test]
    fn voters_that_change_in_one_step_are_noticed() {
        broken(led().changed(A, Index(2), &simple([1, 2])), "in one step");
        broken(led().changed(A, Index(2), &joint([1, 2], [1, 2])), "in one step");
        let mut safety = led();
        safety.changed(A, Index(2), &joint([1, 2, 4], [1, 2, 3])).unwrap();
        safety.committed(A, LogId::new(2, 2)).unwrap();
        broken(safety.changed(A, Index(3), &simple([1, 2, 3])), "in one step");
    }

    #[test]
    fn a_second_change_before_the_first_is_committed_is_noticed() {
        let mut safety = led();
        let learner = Configuration { learners: voters([4]), ..simple([1, 2, 3]) };
        safety.changed(A, Index(2), &learner).unwrap();
        broken(safety.changed(A, Index(3), &simple([1, 2, 3])), "before the one of 2 is committed");
    }

    #[test]
    fn a_change_before_an_own_entry_is_committed_is_noticed() {
        let mut safety = led();
        safety.role_changed(A, RoleName::Follower, Term(3)).unwrap();
        safety.role_changed(A, RoleName::Leader, Term(4)).unwrap();
        safety.committed(A, LogId::new(3, 2)).unwrap();
        broken(safety.changed(A, Index(4), &joint([1, 2], [1, 2, 3])), "own term");
    }

    #[test]
    fn different_configurations_at_one_index_are_noticed_in_logs_and_in_snapshots() {
        let mut safety = led();
        safety.changed(A, Index(2), &joint([1, 2], [1, 2, 3])).unwrap();
        safety.committed(A, LogId::new(2, 2)).unwrap();
        safety.booted(B, Index::ZERO, &simple([1, 2, 3]));
        safety.changed(B, Index(2), &joint([1, 3], [1, 2, 3])).unwrap();
        broken(safety.committed(B, LogId::new(2, 2)), "at 2 n1 committed");
        let forgetful = SnapshotMeta { last: LogId::new(2, 5), configuration: simple([1, 2, 3]) };
        broken(safety.snapshot(B, &forgetful), "the snapshot of 5@2");
    }

    #[test]
    fn what_a_snapshot_has_replaced_is_not_taken_for_committed() {
        let mut safety = led();
        safety.booted(B, Index(2), &joint([1, 3], [1, 2, 3]));
        safety.changed(A, Index(2), &joint([1, 2], [1, 2, 3])).unwrap();
        safety.committed(A, LogId::new(2, 2)).unwrap();
        let meta = SnapshotMeta { last: LogId::new(2, 2), configuration: joint([1, 2], [1, 2, 3]) };
        safety.snapshot(B, &meta).unwrap();
        safety.started(B);
        safety.booted(B, Index(5), &joint([1, 2], [1, 2, 3]));
        safety.committed(B, LogId::new(2, 6)).unwrap();
    }

    #[test]
    fn a_leader_that_does_not_vote_is_noticed() {
        let mut safety = led();
        safety.booted(NodeId(4), Index(1), &simple([1, 2, 3]));
        broken(safety.role_changed(NodeId(4), RoleName::Leader, Term(3)), "does not vote");

        // Left out by a configuration that is not committed, A may be needed to commit it.
        let mut safety = led();
        safety.changed(A, Index(2), &joint([2, 3], [1, 2, 3])).unwrap();
        safety.committed(A, LogId::new(2, 2)).unwrap();
        safety.changed(A, Index(3), &simple([2, 3])).unwrap();
        safety.role_changed(A, RoleName::Leader, Term(3)).unwrap();
        safety.committed(A, LogId::new(3, 3)).unwrap();
        broken(safety.role_changed(A, RoleName::Leader, Term(4)), "does not vote");
    }

    #[test]
    fn what_a_crash_took_away_is_not_held_against_a_leader() {
        let mut safety = led();
        safety.changed(A, Index(7), &joint([1, 2], [1, 2, 3])).unwrap();
        safety.started(A);
        safety.booted(A, Index::ZERO, &simple([1, 2, 3]));
        safety.role_changed(A, RoleName::Leader, Term(5)).unwrap();
        safety.committed(A, LogId::new(5, 3)).unwrap();
        safety.changed(A, Index(4), &joint([1, 2], [1, 2, 3])).unwrap();
    }
}
