//! Who leads: hand-overs, stops, and elections that nobody waits for.
//!
//! Most of these run with an election timeout that no test lives to see. So what leads to a leader here is the rule
//! under test and not the timeout; there is nothing to measure.

use std::sync::atomic::Ordering;
use std::time::Duration;

use raft::core::{Change, ChangeError, Lease, NodeId, TransferError};
use raft::driver::{HandOverError, MembershipError, ReadError};

use crate::harness::{Cluster, NEVER, leads, pause, within};

async fn patient(size: u64) -> Cluster {
    let mut cluster = Cluster::new(size);
    cluster.election_timeout_ticks = NEVER;
    let ids: Vec<u64> = (1..=size).collect();
    cluster.start(&ids).await;
    cluster
}

#[tokio::test]
async fn a_cold_start_does_not_wait_for_an_election_timeout() {
    let mut cluster = patient(3).await;
    assert_eq!(cluster.propose("a").await, 1);
    // One whose log is behind would stand first, and in vain.
    cluster.converge().await;
    for id in 1..=3 {
        cluster.kill(NodeId(id));
    }
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.propose("b").await, 2);
}

#[tokio::test]
async fn the_loss_of_the_connection_to_the_leader_is_noticed_at_once() {
    let mut cluster = patient(3).await;
    assert_eq!(cluster.propose("a").await, 1);
    cluster.converge().await;
    let leader = cluster.leader().await;
    cluster.kill(leader);
    assert_eq!(cluster.propose("b").await, 2);
}

#[tokio::test]
async fn the_leadership_is_handed_over_to_whom_it_was_asked_for() {
    let cluster = patient(3).await;
    let (leader, to) = (cluster.leader().await, cluster.follower().await);
    let term = cluster.term(leader);
    assert_eq!(within("it", cluster.node(leader).transfer_leadership(Some(to))).await, Ok(to));
    assert_eq!(cluster.leader().await, to);
    assert_eq!(cluster.term(to), term + 1, "one election");
    assert_eq!(cluster.propose("after").await, 1);

    let not_leader = cluster.node(leader).transfer_leadership(None).await;
    let hint = Some(to);
    assert_eq!(not_leader, Err(HandOverError::Refused(TransferError::NotLeader { hint })));
    let itself = cluster.node(to).transfer_leadership(Some(to)).await;
    assert_eq!(itself, Err(HandOverError::Refused(TransferError::AlreadyLeader(to))));
    let to_nobody = cluster.node(to).transfer_leadership(Some(NodeId(9))).await;
    assert_eq!(to_nobody, Err(HandOverError::Refused(TransferError::NotVoter(NodeId(9)))));
}

#[tokio::test]
async fn a_hand_over_to_a_dead_node_fails_and_the_old_leader_goes_on() {
    let mut cluster = Cluster::new(3);
    // Long enough not to lose the other follower on a busy machine.
    cluster.election_timeout_ticks = 60;
    cluster.start(&[1, 2, 3]).await;
    let (leader, dead) = (cluster.leader().await, cluster.follower().await);
    cluster.kill(dead);
    let failed = cluster.node(leader).transfer_leadership(Some(dead)).await;
    assert_eq!(failed, Err(HandOverError::Failed { to: dead }));
    assert_eq!(cluster.node(leader).status().await.unwrap().transferring_to, None);
    assert_eq!(cluster.propose("after").await, 1);
    assert!(leads(cluster.node(leader)), "as before");
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_first_and_answers_everyone() {
    let mut cluster = patient(3).await;
    let leader = cluster.leader().await;
    let term = cluster.term(leader);
    let node = cluster.node(leader).clone();
    // The next leader is there long before all of this is applied here.
    cluster.stores[&leader].apply_ms.store(200, Ordering::SeqCst);
    let answers: Vec<_> =
        (0..100).map(|_| node.propose_start("x".into(), raft::core::Growth::Grows).unwrap()).collect();
    cluster.stop(leader).await;
    for answer in answers {
        assert!(answer.await.unwrap().is_ok(), "a graceful stop leaves no outcome unknown");
    }
    let next = cluster.leader().await;
    assert_eq!(cluster.term(next), term + 1, "one election");
    assert_eq!(cluster.propose("after").await, 101);
}

#[tokio::test]
async fn a_read_on_any_member_sees_what_was_acknowledged_before() {
    let cluster = patient(3).await;
    for n in 1..=20 {
        cluster.propose(&format!("item {n}")).await;
        for id in cluster.nodes.keys() {
            cluster.reads(*id, n).await;
        }
    }
}

#[tokio::test]
async fn a_follower_says_whom_to_ask_and_one_without_a_leader_says_that() {
    let mut cluster = Cluster::new(3);
    cluster.election_timeout_ticks = 60;
    cluster.start(&[1, 2, 3]).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    // It may have voted for the leader and not yet heard from it.
    let refused = |hint| Err(MembershipError::Refused(ChangeError::NotLeader { hint }));
    for round in 0.. {
        let answer = cluster.node(follower).change_membership(Vec::new()).await;
        if answer == refused(Some(leader)) {
            break;
        }
        assert_eq!(answer, refused(None));
        assert!(round < 1000, "it never hears from the leader");
        pause().await;
    }
    for id in 1..=3 {
        if NodeId(id) != follower {
            cluster.kill(NodeId(id));
        }
    }
    for round in 0.. {
        let read = within("a read", cluster.node(follower).read_index()).await;
        if read == Err(ReadError::NotLeader { hint: None }) {
            break;
        }
        assert!(matches!(read, Err(ReadError::LeadershipLost | ReadError::NotLeader { .. })), "{read:?}");
        assert!(round < 1000, "it goes on asking one that is dead");
        pause().await;
    }
}

/// A cluster whose leader has a lease, and its leader. Ticks are so rare that what is tested comes between two of them.
async fn leased(lease: Lease) -> (Cluster, NodeId) {
    let mut cluster = Cluster::new(3);
    cluster.tick = Duration::from_millis(200);
    cluster.start(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let changed = cluster.node(leader).change_membership(vec![Change::SetLease(Some(lease))]).await;
    assert_eq!(changed.unwrap().lease, Some(lease));
    for round in 0.. {
        if cluster.node(leader).status().await.unwrap().core.has_lease {
            break;
        }
        assert!(round < 2000, "the leader is never promised anything");
        pause().await;
    }
    (cluster, leader)
}

#[tokio::test]
async fn a_lease_is_looked_at_when_the_read_comes_and_not_when_the_last_tick_was() {
    let (mut cluster, leader) = leased(Lease { duration_ms: 60_000, drift_ppm: 1000 }).await;
    for id in (1..=3).map(NodeId).filter(|id| *id != leader) {
        cluster.kill(id);
    }
    let node = cluster.node(leader).clone();
    assert!(node.read_index().await.is_ok(), "nobody answers, but the lease holds");
    cluster.clock.jump(Duration::from_secs(3600));
    let read = node.read_index().await;
    assert_eq!(read, Err(ReadError::LeadershipLost), "an hour later others may lead");
}

#[tokio::test]
async fn a_promise_counts_from_when_it_is_asked_for_and_not_from_the_last_tick() {
    let (mut cluster, leader) = leased(Lease { duration_ms: 60_000, drift_ppm: 1000 }).await;
    let term = cluster.term(leader);
    // The clock of all; the read asks for new promises at once.
    cluster.clock.jump(Duration::from_secs(3600));
    assert!(cluster.node(leader).read_index().await.is_ok());
    cluster.kill(leader);
    // Longer than any election timeout, and shorter than the promise.
    for _ in 0..2 * 10 * 200 / 5 + 200 {
        pause().await;
    }
    for (id, node) in &cluster.nodes {
        assert_eq!(node.leadership().borrow().term.0, term, "{id} keeps its word");
    }
}
