//! Every state of small clusters: the core itself, not a copy of it, walked by a model checker.
//!
//! A world is named by its bounds; everything that can happen within them is tried, in every order, shortest first, so
//! that a counterexample is a short one. The plain tests walk worlds that take seconds. The larger ones are ignored by
//! default, with their size beside them:
//!
//! ```text
//! cargo test --profile sim -p raftkv-raft --test exhaustive -- --ignored --nocapture --test-threads 1
//! ```

mod world;

use std::time::Instant;

use raft::core::{Change, Member, NodeId};
use stateright::{Checker, Model};
use world::World;

/// Walks the whole world and says how large it was.
#[expect(clippy::disallowed_methods, reason = "how long it took is for people to read")]
fn walk(world: World) {
    let began = Instant::now();
    let name = format!("{world:?}");
    let checker = world.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}\n    {} states, {} steps, at most {} deep, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}

/// A cluster whose nodes all vote.
fn fixed(nodes: u64, campaigns: u8, entries: u64, beats: u8, crashes: u8) -> World {
    World { nodes, voters: (1..=nodes).collect(), campaigns, entries, beats, crashes, change: Vec::new() }
}

/// A cluster of two voters, in which node 3 may take the place of `gone`.
fn replacing(gone: u64, campaigns: u8, beats: u8, crashes: u8) -> World {
    let member = Member::default();
    let change = vec![Change::AddVoter { id: NodeId(3), member }, Change::Remove(NodeId(gone))];
    World { nodes: 3, voters: vec![1, 2], campaigns, entries: 1, beats, crashes, change }
}

#[test]
fn two_nodes_with_a_crash() {
    walk(fixed(2, 1, 2, 1, 1));
}

#[test]
fn two_nodes_two_elections() {
    walk(fixed(2, 2, 2, 0, 1));
}

#[test]
fn three_nodes() {
    walk(fixed(3, 1, 1, 0, 0));
}

#[test]
fn a_follower_is_replaced() {
    walk(replacing(2, 1, 1, 0));
}

#[test]
fn the_leader_is_replaced() {
    walk(replacing(1, 1, 1, 0));
}

#[test]
#[ignore = "3,892,110 states"]
fn three_nodes_two_elections() {
    walk(fixed(3, 2, 1, 0, 0));
}

#[test]
#[ignore = "168,085 states"]
fn a_follower_is_replaced_with_a_crash() {
    walk(replacing(2, 1, 1, 1));
}

#[test]
#[ignore = "518,187 states"]
fn the_leader_is_replaced_and_another_stands() {
    walk(replacing(1, 2, 0, 0));
}
