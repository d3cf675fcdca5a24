//! The core that is healed at the end of a world: enough of the cluster to go on, and no more.
//!
//! Whoever must be able to go on without the rest must be a majority of every voter set that may decide something: of
//! the newest committed configuration, which also means that everything committed is there, and of every configuration
//! that some node has behind it, which may yet be committed. A learner that the leader is about to make a voter belongs
//! to it, for after that it counts. Disks that were lost are no part of it, nor are nodes that are no members.

use std::collections::BTreeSet;

use raft::core::{Configuration, NodeId};

use crate::cluster::Cluster;
use crate::random::Random;

/// Chooses the core. All nodes, if some request may still change who votes.
#[must_use]
pub fn choose(cluster: &Cluster, membership_may_change: bool) -> BTreeSet<u8> {
    let world = cluster.world();
    let mut in_play = world.invariants.configurations_in_play();
    let of_nodes = cluster.nodes().into_iter().filter_map(|node| {
        let view = cluster.view(node)?;
        Some((*view.raft().membership().configuration).clone())
    });
    in_play.extend(of_nodes);
    let mut random = Random::stream(world.seed, "core");
    let good: BTreeSet<u8> = cluster.nodes().into_iter().collect();
    if membership_may_change || random.chance(250) {
        return good;
    }
    draw(&mut random, good, &in_play)
}

/// Leaves out nodes as long as what is left is a core, and chance will have it.
fn draw(random: &mut Random, good: BTreeSet<u8>, in_play: &[Configuration]) -> BTreeSet<u8> {
    let mut order: Vec<u8> = good.iter().copied().collect();
    random.shuffle(&mut order);
    let mut core = good;
    for node in order {
        let mut smaller = core.clone();
        smaller.remove(&node);
        if is_core(&smaller, in_play) && random.chance(800) {
            core = smaller;
        }
    }
    core
}

/// Whether these nodes can decide everything that may have to be decided.
fn is_core(nodes: &BTreeSet<u8>, in_play: &[Configuration]) -> bool {
    let has = |id: &&NodeId| u8::try_from(id.0).is_ok_and(|id| nodes.contains(&id));
    let majority =
        |voters: &BTreeSet<NodeId>| voters.is_empty() || voters.iter().filter(has).count() > voters.len() / 2;
    in_play.iter().all(|configuration| {
        majority(&configuration.voters)
            && majority(&configuration.voters_outgoing)
            && configuration.joining.iter().all(|id| has(&id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids<const N: usize>(ids: [u64; N]) -> BTreeSet<NodeId> {
        ids.map(NodeId).into()
    }

    #[test]
    fn a_core_is_a_majority_of_every_voter_set_and_has_those_who_are_to_vote() {
        let simple = Configuration { voters: ids([1, 2, 3]), ..Configuration::default() };
        let joint = Configuration {
            voters: ids([3, 4, 5]),
            voters_outgoing: ids([1, 2, 3]),
            ..Configuration::default()
        };
        let joining = Configuration { joining: ids([6]), learners: ids([6]), ..simple.clone() };
        let is = |nodes: &[u8], in_play: &[Configuration]| is_core(&nodes.iter().copied().collect(), in_play);
        assert!(is(&[1, 2], std::slice::from_ref(&simple)));
        assert!(!is(&[1], std::slice::from_ref(&simple)));
        assert!(!is(&[1, 2], std::slice::from_ref(&joint)));
        assert!(is(&[1, 3, 5], &[simple.clone(), joint]));
        assert!(!is(&[1, 2], std::slice::from_ref(&joining)));
        assert!(is(&[1, 2, 6], &[joining]));
    }

    #[test]
    fn drawn_cores_are_cores_and_not_all_of_one_size() {
        let five = Configuration { voters: ids([1, 2, 3, 4, 5]), ..Configuration::default() };
        let mut sizes = BTreeSet::new();
        for seed in 0..200 {
            let core = draw(&mut Random::new(seed), (1..=6).collect(), std::slice::from_ref(&five));
            assert!(is_core(&core, std::slice::from_ref(&five)), "{core:?}");
            sizes.insert(core.len());
        }
        assert!(sizes.is_superset(&[3, 4].into()), "{sizes:?}");
    }
}
