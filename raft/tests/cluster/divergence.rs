//! A node whose state is not that of the others.

use std::sync::atomic::Ordering;

use raft::core::{Index, NodeId};

use crate::harness::{Cluster, pause};

/// The index of the entry that made the list so long.
async fn index_of_last(cluster: &Cluster) -> Index {
    let leader = cluster.leader().await;
    cluster.node(leader).status().await.unwrap().core.commit
}

/// Has one node of three apply the 10th item as another one, and waits until it stops. Tells which one.
async fn diverge(cluster: &mut Cluster, who_leads: bool) -> NodeId {
    cluster.start(&[1, 2, 3]).await;
    for n in 1..=9 {
        cluster.propose(&format!("item {n}")).await;
    }
    let wrong = if who_leads { cluster.leader().await } else { cluster.follower().await };
    cluster.stores[&wrong].lies_at.store(10, Ordering::SeqCst);
    cluster.propose("item 10").await;
    let first = index_of_last(cluster).await;
    for n in 11..=20 {
        cluster.propose(&format!("item {n}")).await;
    }
    cluster.stores[&wrong].lies_at.store(0, Ordering::SeqCst);
    let why = cluster.stopped(wrong).await;
    assert!(why.contains(&format!("first at entry {first};")), "{why}");
    assert_eq!(cluster.stores[&wrong].condemned.lock().unwrap().len(), 1);
    wrong
}

/// All three have the same state, by their own comparison.
async fn agree(cluster: &Cluster) {
    let target = index_of_last(cluster).await;
    for round in 0.. {
        let leader = cluster.leader().await;
        let status = cluster.node(leader).status().await.unwrap();
        if status.agreed >= target {
            break;
        }
        assert!(round < 2000, "they do not come to agree: {status:?}");
        pause().await;
    }
}

#[tokio::test]
async fn a_follower_that_applies_differently_is_stopped_and_made_anew() {
    let mut cluster = Cluster::new(3);
    let wrong = diverge(&mut cluster, false).await;
    cluster.propose("without it").await;
    cluster.start(&[wrong.0]).await;
    cluster.converge().await;
    agree(&cluster).await;
    cluster.reads(wrong, 21).await;
}

#[tokio::test]
async fn a_leader_that_applies_differently_is_stopped_too() {
    let mut cluster = Cluster::new(3);
    let wrong = diverge(&mut cluster, true).await;
    cluster.propose("without it").await;
    cluster.start(&[wrong.0]).await;
    cluster.converge().await;
    agree(&cluster).await;
}

#[tokio::test]
async fn of_two_that_differ_both_go_on_and_say_so() {
    let mut cluster = Cluster::new(2);
    cluster.start(&[1, 2]).await;
    cluster.propose("item 1").await;
    let wrong = cluster.follower().await;
    cluster.stores[&wrong].lies_at.store(2, Ordering::SeqCst);
    cluster.propose("item 2").await;
    let first = index_of_last(&cluster).await;
    let leader = cluster.leader().await;
    for round in 0.. {
        let status = cluster.node(leader).status().await.unwrap();
        if status.diverged == Some(first) {
            break;
        }
        assert!(round < 2000, "{status:?}");
        pause().await;
    }
    assert_eq!(cluster.propose("item 3").await, 3);
    assert!(cluster.stores.values().all(|store| store.condemned.lock().unwrap().is_empty()));
}
