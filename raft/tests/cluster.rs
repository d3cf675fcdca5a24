//! Whole nodes in one process, on real sockets and files.

#[path = "cluster/divergence.rs"]
mod divergence;
#[path = "cluster/harness.rs"]
mod harness;
#[path = "cluster/leadership.rs"]
mod leadership;
#[path = "cluster/membership.rs"]
mod membership;
#[path = "cluster/rebuild.rs"]
mod rebuild;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use raft::clock::{Clock, RealClock};
use raft::core::{LogId, NodeId};
use raft::driver::{self, NodeOptions, ProposeError, Seams, StartError};

use harness::{Cluster, ListMachine};

#[tokio::test]
async fn three_nodes_form_elect_replicate_and_survive_the_loss_of_the_leader() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    for n in 1..=20 {
        assert_eq!(cluster.propose(&format!("item {n}")).await, n);
    }
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    for n in 21..=40 {
        assert_eq!(cluster.propose(&format!("item {n}")).await, n, "each item is applied once");
    }
    cluster.start(&[leader.0]).await;
    cluster.converge().await;
}

#[tokio::test]
async fn a_cluster_that_was_stopped_has_what_it_had() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    for n in 1..=30 {
        assert_eq!(cluster.propose(&format!("item {n}")).await, n);
    }
    for id in 1..=3 {
        cluster.stop(NodeId(id)).await;
    }
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.propose("one more").await, 31);
}

#[tokio::test]
async fn a_follower_behind_the_compaction_point_gets_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let behind = NodeId(leader.0 % 3 + 1);
    cluster.propose("before").await;
    cluster.stop(behind).await;
    for n in 0..200 {
        cluster.propose(&format!("an item that takes some room in the log, number {n}")).await;
    }
    cluster.start(&[behind.0]).await;
    cluster.converge().await;
    let status = cluster.node(behind).status().await.unwrap();
    assert!(status.snapshot.is_some(), "it was brought up by a snapshot: {status:?}");
    let leader = cluster.node(cluster.leader().await).status().await.unwrap();
    assert!(leader.core.prev > LogId::ZERO, "the leader had compacted: {leader:?}");
    // And it is a full member again.
    for id in 1..=3 {
        if NodeId(id) != behind && NodeId(id) != cluster.leader().await {
            cluster.stop(NodeId(id)).await;
            break;
        }
    }
    assert_eq!(cluster.propose("after").await, 202);
}

#[tokio::test]
async fn one_node_alone_commits_and_reads() {
    let mut cluster = Cluster::new(1);
    cluster.start(&[1]).await;
    assert_eq!(cluster.propose("a").await, 1);
    assert_eq!(cluster.leader().await, NodeId(1));
    let too_large = Bytes::from(vec![0; 2 << 20]);
    let refused = cluster.node(NodeId(1)).propose(too_large).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { bytes: 2_097_152, .. })), "{refused:?}");
}

#[tokio::test]
async fn starting_says_what_is_wrong() {
    let mut cluster = Cluster::new(1);
    cluster.start(&[1]).await;

    let options = cluster.options(NodeId(1));
    let error = start_fails(options).await;
    assert!(matches!(error, StartError::Locked { .. }), "{error}");

    let mut options = cluster.options(NodeId(1));
    options.data_dir = cluster.dir.path().join("elsewhere");
    let error = start_fails(options).await;
    assert!(matches!(error, StartError::Listen { .. }), "{error}");

    cluster.stop(NodeId(1)).await;
    std::fs::remove_dir_all(cluster.dir.path().join("n1/logs")).unwrap();
    let options = cluster.options(NodeId(1));
    let error = start_fails(options).await;
    assert!(matches!(error, StartError::Wal(_)), "a log that is gone is not an empty log: {error}");
    assert!(!exists(&cluster.dir.path().join("n1/logs")), "and none is made");
}

fn exists(path: &Path) -> bool {
    path.join("0000000000000001.wal").exists()
}

async fn start_fails(options: NodeOptions) -> StartError {
    let start = driver::start(options, Seams::real(), || Ok(ListMachine::open(Arc::default())));
    let deadline = RealClock.now() + Duration::from_secs(20);
    match raft::clock::timeout_at(&RealClock, deadline, start).await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => panic!("the node started"),
        Err(_) => panic!("the start neither succeeded nor failed"),
    }
}

#[tokio::test]
async fn a_machine_that_keeps_nothing_is_made_anew_from_snapshot_and_log() {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    for n in 1..=200 {
        cluster.propose(&format!("an item that takes some room in the log, number {n}")).await;
    }
    for id in (1..=3).map(NodeId) {
        let status = cluster.node(id).status().await.unwrap();
        assert!(status.snapshot.is_some(), "the log no longer begins at the beginning: {status:?}");
        cluster.stop(id).await;
        cluster.stores.insert(id, Arc::default());
    }
    cluster.start(&[1, 2, 3]).await;
    assert_eq!(cluster.propose("one more").await, 201);
}
