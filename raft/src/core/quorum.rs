//! Counting majorities: the only place where it is decided how many are enough.
//!
//! Every decision of Raft (a vote, a commit, a confirmed read, the leader's right to go on) is a question to a
//! majority of an explicit set of voters. In a joint configuration (§4.3) each half is counted on its own and both
//! must agree; a majority of the union is not enough. Nobody is counted who is not in the set, not even the node
//! that asks. A configuration without voters decides nothing.
//!
//! The functions are pure and do not allocate; the sets are small, so counting is quadratic.
//! `agrees_with_the_twin` in the tests compares them with a twin that lists every subset.

use std::collections::BTreeSet;

use super::types::{Configuration, NodeId};

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VoteResult {
    /// A quorum has granted.
    Won,
    /// A quorum can no longer be had.
    Lost,
    /// Neither yet.
    Pending,
}

/// The highest value that a quorum has reached, if there is anyone to ask.
pub(super) fn reached<V: Ord>(configuration: &Configuration, value: impl Fn(NodeId) -> V) -> Option<V> {
    reached_short_of(configuration, 0, value)
}

/// Like [`reached`], with `short` voters fewer than a majority: 0 in every honest build.
pub(super) fn reached_short_of<V: Ord>(
    configuration: &Configuration,
    short: usize,
    value: impl Fn(NodeId) -> V,
) -> Option<V> {
    if crate::mutant!("union-quorum") {
        let union = configuration.voters.union(&configuration.voters_outgoing).copied().collect();
        return reached_by_half(&union, short, &value);
    }
    let incoming = reached_by_half(&configuration.voters, short, &value)?;
    if !configuration.is_joint() {
        return Some(incoming);
    }
    let outgoing = reached_by_half(&configuration.voters_outgoing, short, &value)?;
    Some(incoming.min(outgoing))
}

/// Whether a quorum answers yes.
pub(super) fn agrees(configuration: &Configuration, yes: impl Fn(NodeId) -> bool) -> bool {
    reached(configuration, yes) == Some(true)
}

/// How an election stands in which `vote` tells who has answered what.
pub(super) fn vote_result(
    configuration: &Configuration,
    vote: impl Fn(NodeId) -> Option<bool>,
) -> VoteResult {
    let granted = agrees(configuration, |id| vote(id) == Some(true));
    let possible = agrees(configuration, |id| vote(id) != Some(false));
    match (granted, possible) {
        (true, _) => VoteResult::Won,
        (false, true) => VoteResult::Pending,
        (false, false) => VoteResult::Lost,
    }
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority of `voters` has reached.
fn reached_by_half<V: Ord>(
    voters: &BTreeSet<NodeId>,
    short: usize,
    value: &impl Fn(NodeId) -> V,
) -> Option<V> {
    let needed = majority(voters.len()).saturating_sub(short);
    voters
        .iter()
        .map(|&id| value(id))
        .filter(|least| voters.iter().filter(|&&id| value(id) >= *least).count() >= needed)
        .max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn joint(incoming: &[u64], outgoing: &[u64]) -> Configuration {
        Configuration { voters: ids(incoming), voters_outgoing: ids(outgoing), ..Configuration::default() }
    }

    #[test]
    fn nobody_decides_for_an_empty_configuration() {
        assert_eq!(reached(&joint(&[], &[]), |id| id.0), None);
        assert!(!agrees(&joint(&[], &[]), |_| true));
        assert_eq!(vote_result(&joint(&[], &[]), |_| Some(true)), VoteResult::Lost);
    }

    #[test]
    fn a_joint_quorum_is_not_a_majority_of_the_union() {
        // n1 n2 n3 are a majority of the five in the union, and of the new half, but only one of the old half.
        let configuration = joint(&[1, 2, 3], &[3, 4, 5]);
        assert!(!agrees(&configuration, |id| id.0 <= 3));
        assert!(agrees(&configuration, |id| id.0 <= 4));
    }

    /// The twin: a quorum is any set of nodes that holds a strict majority of each half that is not empty.
    fn is_quorum(configuration: &Configuration, set: &BTreeSet<NodeId>) -> bool {
        let majority_of = |half: &BTreeSet<NodeId>| half.intersection(set).count() * 2 > half.len();
        majority_of(&configuration.voters)
            && (configuration.voters_outgoing.is_empty() || majority_of(&configuration.voters_outgoing))
    }

    fn subsets() -> impl Iterator<Item = BTreeSet<NodeId>> {
        (0u32..1 << 7).map(|bits| (1..=7).filter(|n| bits >> (n - 1) & 1 == 1).map(NodeId).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_the_twin(
            incoming in prop::collection::btree_set((1u64..=7).prop_map(NodeId), 0..=7),
            outgoing in prop::collection::btree_set((1u64..=7).prop_map(NodeId), 0..=5),
            values in prop::collection::vec(0u64..6, 7),
            votes in prop::collection::vec(prop::option::of(any::<bool>()), 7),
        ) {
            let configuration =
                Configuration { voters: incoming, voters_outgoing: outgoing, ..Configuration::default() };
            let value = |id: NodeId| values[id.0 as usize - 1];
            let vote = |id: NodeId| votes[id.0 as usize - 1];

            let twin_reached = subsets()
                .filter(|set| is_quorum(&configuration, set))
                .filter_map(|set| {
                    let counted = set.iter().filter(|id| configuration.is_voter(**id));
                    counted.map(|&id| value(id)).min()
                })
                .max();
            prop_assert_eq!(reached(&configuration, value), twin_reached);

            let those = |wanted: &dyn Fn(Option<bool>) -> bool| -> BTreeSet<NodeId> {
                configuration.members().into_iter().filter(|id| wanted(vote(*id))).collect()
            };
            let twin_result = if is_quorum(&configuration, &those(&|v| v == Some(true))) {
                VoteResult::Won
            } else if is_quorum(&configuration, &those(&|v| v != Some(false))) {
                VoteResult::Pending
            } else {
                VoteResult::Lost
            };
            prop_assert_eq!(vote_result(&configuration, vote), twin_result);
        }
    }
}
