//! Changes of membership, with whole nodes that come and go.

use bytes::Bytes;
use raft::core::{Change, ChangeError, Lease, Member, NodeId};
use raft::driver::{MembershipError, StopReason};

use crate::harness::{Cluster, Handle, NEVER, pause, within};

async fn running(size: u64) -> Cluster {
    let mut cluster = Cluster::new(size);
    // So long do those who leave have to learn it, on a busy machine too.
    cluster.election_timeout_ticks = 100;
    let ids: Vec<u64> = (1..=size).collect();
    cluster.start(&ids).await;
    cluster
}

/// Asks whoever leads until the change is made; refusals that pass by themselves are tried again.
async fn change(cluster: &Cluster, changes: &[Change]) -> raft::core::Configuration {
    for _ in 0..2000 {
        let leader = cluster.leader().await;
        let change = cluster.node(leader).change_membership(changes.to_vec());
        match within("the change", change).await {
            Ok(configuration) => return configuration,
            Err(MembershipError::Refused(
                ChangeError::NotLeader { .. } | ChangeError::NotEstablished | ChangeError::InProgress,
            )) => pause().await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nobody makes {changes:?}");
}

/// Starts one more node, which joins, and adds it as a learner.
async fn add(cluster: &mut Cluster, joining: bool) -> NodeId {
    let id = cluster.another();
    let started = cluster.begin(id, |options| options.join = true);
    let address = cluster.members[&id].address.clone();
    let leader: Handle = cluster.node(cluster.leader().await).clone();
    for round in 0.. {
        let context = Bytes::from_static(b"its context");
        match within("the addition", leader.add_member(id, address.clone(), context, joining)).await {
            Ok(configuration) => {
                let member = &configuration.nodes[&id];
                assert!(configuration.learners.contains(&id), "a new member learns first: {configuration:?}");
                assert_eq!((&member.address, &member.context[..]), (&address, &b"its context"[..]));
                assert_ne!(member.incarnation, 0, "its disk is known");
                break;
            }
            // It may not listen yet.
            Err(MembershipError::NotReady { .. }) if round < 2000 => pause().await,
            Err(error) => panic!("{error}"),
        }
    }
    let node = within("the start of a new node", started).await.unwrap().unwrap();
    cluster.nodes.insert(id, node);
    id
}

#[tokio::test]
async fn a_node_that_joins_is_supplied_and_then_votes_by_itself() {
    let mut cluster = running(3).await;
    for n in 1..=100 {
        cluster.propose(&format!("an item that takes some room in the log, number {n}")).await;
    }
    let new = add(&mut cluster, true).await;
    let configuration = cluster.configuration(new, |now| now.voters.contains(&new)).await;
    assert_eq!(configuration.voters, [1, 2, 3, 4].map(NodeId).into());
    assert!(!configuration.is_joint() && configuration.learners.is_empty());
    // It takes three of four: without it, nothing would be committed.
    let (leader, stopped) = (cluster.leader().await, cluster.follower().await);
    assert_ne!(stopped, new, "the follower with the lowest id");
    cluster.stop(stopped).await;
    assert_eq!(cluster.propose("with the new one").await, 101);
    cluster.reads(new, 101).await;
    // And it is known by itself after a restart.
    cluster.stop(new).await;
    cluster.start(&[new.0]).await;
    assert_eq!(cluster.propose("again").await, 102, "{leader} and two others");
}

#[tokio::test]
async fn a_learner_reads_and_does_not_vote() {
    let mut cluster = running(3).await;
    let learner = add(&mut cluster, false).await;
    assert_eq!(cluster.propose("a").await, 1);
    cluster.reads(learner, 1).await;
    let configuration = cluster.configuration(learner, |now| now.learners.contains(&learner)).await;
    assert_eq!(configuration.voters, [1, 2, 3].map(NodeId).into());
}

#[tokio::test]
async fn a_leader_that_is_removed_hands_over_and_stops() {
    let mut cluster = running(3).await;
    cluster.propose("a").await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader).clone();
    let configuration = change(&cluster, &[Change::Remove(leader)]).await;
    assert!(!configuration.contains(leader) && configuration.removed.contains(&leader));
    assert!(!configuration.is_joint());
    assert_eq!(*within("its stop", node.stopped()).await, StopReason::Removed);
    cluster.kill(leader);
    assert_eq!(cluster.propose("b").await, 2, "the others go on");
    // What is left of it is told so, and stops by itself.
    let started = cluster.begin(leader, |_| {});
    let again = within("its start", started).await.unwrap().unwrap();
    assert_eq!(*within("its stop", again.stopped()).await, StopReason::Removed);
    assert_eq!(cluster.propose("c").await, 3);
}

#[tokio::test]
async fn a_removed_leader_does_not_leave_its_successors_to_an_election_timeout() {
    let mut cluster = Cluster::new(3);
    cluster.election_timeout_ticks = NEVER;
    cluster.start(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let term = cluster.term(leader);
    change(&cluster, &[Change::Remove(leader)]).await;
    let removed = cluster.nodes.remove(&leader).unwrap();
    assert_eq!(cluster.propose("b").await, 1);
    assert_eq!(cluster.term(cluster.leader().await), term + 1, "one election");
    for _ in 0..20 {
        pause().await;
    }
    assert!(removed.status().await.is_some(), "it goes on for an election timeout");
}

#[tokio::test]
async fn one_is_replaced_by_another_in_one_change() {
    let mut cluster = running(3).await;
    for n in 1..=20 {
        cluster.propose(&format!("item {n}")).await;
    }
    let new = add(&mut cluster, false).await;
    let old = cluster.follower().await;
    let configuration = change(&cluster, &[Change::Promote(new), Change::Remove(old)]).await;
    assert_eq!(configuration.voters.len(), 3);
    assert!(configuration.voters.contains(&new) && !configuration.contains(old));
    assert_eq!(*within("its stop", cluster.node(old).stopped()).await, StopReason::Removed);
    cluster.kill(old);
    assert_eq!(cluster.propose("after").await, 21);
    // The id is spent.
    let leader = cluster.leader().await;
    let again = Change::AddVoter { id: old, member: Member::at("127.0.0.1:1") };
    let refused = cluster.node(leader).change_membership(vec![again]).await;
    assert_eq!(refused, Err(MembershipError::Refused(ChangeError::IdUsed(old))));
}

#[tokio::test]
async fn whoever_cannot_be_reached_or_is_another_is_not_added() {
    let mut cluster = running(3).await;
    let leader = cluster.node(cluster.leader().await).clone();
    let absent = cluster.another();
    let address = cluster.members[&absent].address.clone();
    let refused = leader.add_member(absent, address, Bytes::new(), true).await;
    assert!(matches!(refused, Err(MembershipError::NotReady { id, .. }) if id == absent), "{refused:?}");
    let follower = cluster.follower().await;
    let taken = cluster.members[&follower].address.clone();
    let refused = leader.add_member(absent, taken, Bytes::new(), true).await;
    assert!(
        matches!(refused, Err(MembershipError::NotReady { .. })),
        "another node lives there: {refused:?}"
    );
    // One that waits for others to form a cluster with, and one that has formed one by itself.
    let forming = cluster.another();
    drop(cluster.begin(forming, |options| options.members.retain(|id, _| *id == absent || *id == forming)));
    let alone = cluster.another();
    let started = cluster.begin(alone, |options| options.members.retain(|id, _| *id == alone));
    started.await.unwrap().unwrap();
    for (id, what) in [(forming, "does not wait to be added"), (alone, "another cluster")] {
        for round in 0.. {
            let address = cluster.members[&id].address.clone();
            match leader.add_member(id, address, Bytes::new(), true).await {
                Err(MembershipError::NotReady { why, .. }) if why.contains(what) => break,
                // It may not listen yet.
                Err(MembershipError::NotReady { .. }) if round < 2000 => pause().await,
                other => panic!("{id}: {other:?}"),
            }
        }
    }
    assert_eq!(leader.status().await.unwrap().configuration.members(), [1, 2, 3].map(NodeId).into());
}

#[tokio::test]
async fn a_wiped_disk_is_refused_under_its_old_id() {
    let mut cluster = running(3).await;
    cluster.propose("a").await;
    let wiped = cluster.follower().await;
    cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.dir.path().join(wiped.to_string())).unwrap();
    cluster.stores.insert(wiped, Default::default());
    let error = cluster.begin(wiped, |_| {}).await.unwrap().map(drop).unwrap_err();
    assert!(error.to_string().contains("remove"), "it says how to come back: {error}");
    assert_eq!(cluster.propose("b").await, 2);
}

#[tokio::test]
async fn leases_are_a_change_like_others() {
    let cluster = running(3).await;
    let lease = Lease { duration_ms: 50, drift_ppm: 1000 };
    let configuration = change(&cluster, &[Change::SetLease(Some(lease))]).await;
    assert_eq!(configuration.lease, Some(lease));
    let leader = cluster.leader().await;
    let nothing = cluster.node(leader).change_membership(vec![Change::SetLease(Some(lease))]).await;
    assert_eq!(nothing, Err(MembershipError::Refused(ChangeError::Nothing)));
    for n in 1..=10 {
        cluster.propose(&format!("item {n}")).await;
        for id in cluster.nodes.keys() {
            cluster.reads(*id, n).await;
        }
    }
}

#[tokio::test]
async fn most_of_the_voters_are_replaced_in_one_change() {
    let mut cluster = running(3).await;
    for n in 1..=20 {
        cluster.propose(&format!("item {n}")).await;
    }
    // One that stays leads: it supplies those who leave until they know it. A leader that leaves itself hands over as
    // soon as it may, and its successor knows nothing of the others that left.
    let leader = cluster.leader().await;
    if leader != NodeId(1) {
        cluster.node(leader).transfer_leadership(Some(NodeId(1))).await.unwrap();
    }
    let new = [add(&mut cluster, false).await, add(&mut cluster, false).await];
    let mut changes = new.map(Change::Promote).to_vec();
    changes.extend([2, 3].map(|id| Change::Remove(NodeId(id))));
    let configuration = change(&cluster, &changes).await;
    assert_eq!(configuration.voters, [NodeId(1), new[0], new[1]].into());
    for id in [2, 3].map(NodeId) {
        assert_eq!(*within("its stop", cluster.node(id).stopped()).await, StopReason::Removed);
        cluster.kill(id);
    }
    assert_eq!(cluster.propose("by the new ones").await, 21);
    for id in [NodeId(1), new[0], new[1]] {
        cluster.reads(id, 21).await;
    }
}

#[tokio::test]
async fn who_is_removed_together_with_the_leader_stops_too() {
    let mut cluster = running(3).await;
    cluster.propose("a").await;
    let leader = cluster.leader().await;
    let with_it = cluster.follower().await;
    let stays = [1, 2, 3].map(NodeId).into_iter().find(|id| ![leader, with_it].contains(id)).unwrap();
    // The successor knows nothing of the other that left.
    let configuration = change(&cluster, &[Change::Remove(leader), Change::Remove(with_it)]).await;
    assert_eq!(configuration.voters, [stays].into());
    for id in [leader, with_it] {
        assert_eq!(*within("its stop", cluster.node(id).stopped()).await, StopReason::Removed, "{id}");
        cluster.kill(id);
    }
    assert_eq!(cluster.propose("b").await, 2);
}

#[tokio::test]
async fn one_that_was_down_when_it_was_removed_is_told_when_it_is_back_and_disturbs_nobody() {
    let mut cluster = running(3).await;
    cluster.propose("a").await;
    let gone = cluster.follower().await;
    cluster.kill(gone);
    change(&cluster, &[Change::Remove(gone)]).await;
    let leader = cluster.leader().await;
    let term = cluster.term(leader);
    let supplies = async || {
        let peers = cluster.node(leader).status().await.unwrap().core.peers;
        peers.iter().any(|peer| peer.id == gone)
    };
    while supplies().await {
        pause().await;
    }
    // Nothing of it is in its log, now or at any later start.
    for _ in 0..2 {
        let back = cluster.begin(gone, |options| options.core.election_timeout_ticks = 10);
        let back = within("the start", back).await.unwrap().unwrap();
        assert_eq!(*within("its stop", back.stopped()).await, StopReason::Removed);
        assert_eq!(back.leadership().borrow().leader, None);
        cluster.nodes.insert(gone, back);
        cluster.kill(gone);
    }
    assert_eq!(cluster.term(leader), term, "nobody heard it");
    assert_eq!(cluster.propose("b").await, 2);
}
