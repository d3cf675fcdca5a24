//! The twin thinks of each member by itself: what it is before, what each step makes of it, and what a joint
//! configuration says of someone who was this and will be that.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    Voter,
    Learner,
    Joining,
    Gone,
}

type Members = BTreeMap<u64, Is>;

fn member(incarnation: u64, address: u64) -> Member {
    Member { incarnation, address: address.to_string(), ..Member::default() }
}

fn with(members: &Members, wanted: impl Fn(Is) -> bool) -> BTreeSet<NodeId> {
    members.iter().filter(|(_, is)| wanted(**is)).map(|(id, _)| NodeId(*id)).collect()
}

/// A configuration that is not joint.
fn simple(members: &Members) -> Configuration {
    let nodes = members.iter().filter(|(_, is)| **is != Is::Gone);
    Configuration {
        voters: with(members, |is| is == Is::Voter),
        learners: with(members, |is| matches!(is, Is::Learner | Is::Joining)),
        joining: with(members, |is| is == Is::Joining),
        removed: with(members, |is| is == Is::Gone),
        nodes: nodes.map(|(&id, _)| (NodeId(id), member(id, 0))).collect(),
        ..Configuration::default()
    }
}

fn change() -> impl Strategy<Value = Change> {
    let id = || (0u64..9).prop_map(NodeId);
    let lease = (0u32..3, prop::sample::select(vec![0, 999_999, 1_000_000]))
        .prop_map(|(duration_ms, drift_ppm)| Lease { duration_ms, drift_ppm });
    prop_oneof![
        2 => (id(), any::<bool>()).prop_map(|(id, joining)| {
            Change::AddLearner { id, member: member(id.0, 0), joining }
        }),
        2 => id().prop_map(|id| Change::AddVoter { id, member: member(id.0, 0) }),
        3 => id().prop_map(Change::Promote),
        3 => id().prop_map(Change::Demote),
        3 => id().prop_map(Change::Remove),
        1 => (id(), 0u64..9).prop_map(|(id, disk)| Change::Update { id, member: member(disk, 7) }),
        1 => prop::option::of(lease).prop_map(Change::SetLease),
    ]
}

/// One step, for one member.
fn twin_step(members: &mut Members, change: &Change) -> Result<(), ChangeError> {
    let Some(id) = subject(change) else {
        let Change::SetLease(lease) = change else { panic!("{change:?} is about nobody") };
        let is_bad = lease.is_some_and(|lease| lease.duration_ms == 0 || lease.drift_ppm >= 1_000_000);
        return if is_bad { Err(ChangeError::BadLease) } else { Ok(()) };
    };
    let is = members.get(&id.0).copied();
    let (will_be, error) = match (change, is) {
        (Change::AddLearner { .. } | Change::AddVoter { .. }, Some(Is::Gone)) => {
            (None, Some(ChangeError::IdUsed(id)))
        }
        (Change::AddLearner { .. } | Change::AddVoter { .. }, Some(_)) => {
            (None, Some(ChangeError::AlreadyMember(id)))
        }
        (Change::AddLearner { .. } | Change::AddVoter { .. }, None) if id.0 == 0 => {
            (None, Some(ChangeError::NotMember(id)))
        }
        (Change::AddLearner { joining: true, .. }, None) => (Some(Is::Joining), None),
        (Change::AddLearner { .. }, None) => (Some(Is::Learner), None),
        (Change::AddVoter { .. }, None) => (Some(Is::Voter), None),
        (_, None | Some(Is::Gone)) => (None, Some(ChangeError::NotMember(id))),
        (Change::Promote(_), Some(Is::Voter)) => (None, Some(ChangeError::AlreadyVoter(id))),
        (Change::Promote(_), Some(_)) => (Some(Is::Voter), None),
        (Change::Demote(_), Some(Is::Voter)) => (Some(Is::Learner), None),
        (Change::Demote(_), Some(_)) => (None, Some(ChangeError::NotVoter(id))),
        (Change::Remove(_), Some(_)) => (Some(Is::Gone), None),
        (Change::Update { member, .. }, Some(is)) if member.incarnation == id.0 => (Some(is), None),
        (_, Some(_)) => (None, Some(ChangeError::OtherIncarnation(id))),
    };
    members.extend(will_be.map(|will_be| (id.0, will_be)));
    error.map_or(Ok(()), Err)
}

/// What the configuration must say of one id, that was `before` and will be `after`.
fn twin_says(joint: &Configuration, id: u64, before: Option<Is>, after: Option<Is>) {
    let id = NodeId(id);
    let is_joint = joint.is_joint();
    let (was_voter, votes) = (before == Some(Is::Voter), after == Some(Is::Voter));
    let learns = matches!(after, Some(Is::Learner | Is::Joining));
    assert_eq!(joint.voters.contains(&id), votes, "{id} in the new half of {joint:?}");
    assert_eq!(
        joint.voters_outgoing.contains(&id),
        is_joint && was_voter,
        "{id} in the old half of {joint:?}"
    );
    let waits = is_joint && was_voter;
    assert_eq!(joint.learners.contains(&id), learns && !waits, "{id} among the learners of {joint:?}");
    assert_eq!(joint.learners_next.contains(&id), learns && waits, "{id} among those to be of {joint:?}");
    assert_eq!(joint.joining.contains(&id), after == Some(Is::Joining), "{id} in {joint:?}");
    assert_eq!(joint.removed.contains(&id), after == Some(Is::Gone) && !waits, "{id} in {joint:?}");
    assert_eq!(joint.nodes.contains_key(&id), joint.contains(id), "{id}'s address in {joint:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn makes_what_its_twin_makes(
        start in prop::collection::btree_map(
            1u64..9,
            prop::sample::select(vec![Is::Voter, Is::Voter, Is::Learner, Is::Joining, Is::Gone]),
            0..8,
        ),
        changes in prop::collection::vec(change(), 0..4),
    ) {
        prop_assume!(start.values().any(|is| *is == Is::Voter));
        let current = simple(&start);
        let mut end = start.clone();
        let mut subjects = Vec::new();
        let mut expected = Ok(());
        for change in &changes {
            if let Some(id) = subject(change) {
                if subjects.contains(&id) {
                    expected = Err(ChangeError::Twice(id));
                    break;
                }
                subjects.push(id);
            }
            expected = twin_step(&mut end, change);
            if expected.is_err() {
                break;
            }
        }
        let leases = changes.iter().filter(|change| matches!(change, Change::SetLease(_)));
        let lease = match leases.last() {
            Some(Change::SetLease(lease)) => *lease,
            _ => None,
        };
        let only_leases = subjects.is_empty();
        if expected.is_ok() && only_leases && lease.is_none() {
            expected = Err(ChangeError::Nothing);
        } else if expected.is_ok() && !end.values().any(|is| *is == Is::Voter) {
            expected = Err(ChangeError::NoVoters);
        }
        let begun = begin(&current, &changes);
        prop_assert_eq!(begun.as_ref().map(|_| ()), expected.as_ref().copied());
        let Ok(joint) = begun else { return Ok(()) };

        prop_assert_eq!(joint.flaw(), None);
        prop_assert_eq!(joint.lease, lease);
        prop_assert_eq!(joint.is_joint(), with(&start, |is| is == Is::Voter) != with(&end, |is| is == Is::Voter));
        for id in 1..9 {
            twin_says(&joint, id, start.get(&id).copied(), end.get(&id).copied());
        }

        // The end does not depend on the way there.
        let left = if joint.is_joint() { leave(&joint) } else { joint.clone() };
        prop_assert_eq!(left.flaw(), None);
        prop_assert!(!left.is_joint());
        for id in 1..9 {
            let is = end.get(&id).copied();
            twin_says(&left, id, is, is);
        }
    }

    /// §4.3: whatever is decided in a configuration and in the next one, some node had a part in both.
    #[test]
    fn quorums_of_neighbours_meet(
        start in prop::collection::btree_set(1u64..7, 1..6),
        end in prop::collection::btree_set(1u64..7, 1..6),
        yes in prop::collection::vec(any::<bool>(), 7),
    ) {
        let current = Configuration::of_voters(start.iter().copied().map(NodeId));
        let added = end.difference(&start).map(|&id| Change::AddVoter { id: NodeId(id), member: Member::default() });
        let removed = start.difference(&end).map(|&id| Change::Remove(NodeId(id)));
        let changes: Vec<Change> = added.chain(removed).collect();
        prop_assume!(!changes.is_empty());
        let joint = begin(&current, &changes).unwrap();
        let last = leave(&joint);
        let says_yes = |id: NodeId| yes[id.0 as usize];
        let says_no = |id: NodeId| !yes[id.0 as usize];
        for (a, b) in [(&current, &joint), (&joint, &last), (&joint, &joint)] {
            prop_assert!(
                !(super::super::quorum::agrees(a, says_yes) && super::super::quorum::agrees(b, says_no)),
                "{:?} decides yes, {:?} no", a, b
            );
        }
    }
}

/// An address that is not known with its disk yet becomes known; afterwards the disk may not change.
#[test]
fn a_disk_becomes_known_once() {
    let of_two = Configuration::of_voters([NodeId(1), NodeId(2)]);
    let update = |incarnation| [Change::Update { id: NodeId(2), member: member(incarnation, 9) }];
    let known = begin(&of_two, &update(5)).unwrap();
    assert!(!known.is_joint());
    assert_eq!(known.nodes.get(&NodeId(2)), Some(&member(5, 9)));
    assert_eq!(begin(&known, &update(6)), Err(ChangeError::OtherIncarnation(NodeId(2))));
}
