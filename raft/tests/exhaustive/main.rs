//! Every state of small clusters: the core itself, not a copy of it, walked by a model checker.
//!
//! A world is named by its bounds; everything that can happen within them is tried, in every order. The plain tests
//! walk worlds that take seconds. The larger ones are ignored by default, with their size beside them:
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
fn walk(world: World) {
    let began = Instant::now();
    let name = format!("{world:?}");
    let checker = world.checker().threads(2).spawn_dfs().join();
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

/// A cluster of two voters, in which the third node may take the place of the second.
fn replacing(campaigns: u8, entries: u64, beats: u8, crashes: u8) -> World {
    let change =
        vec![Change::AddVoter { id: NodeId(3), member: Member::default() }, Change::Remove(NodeId(2))];
    World { nodes: 3, voters: vec![1, 2], campaigns, entries, beats, crashes, change }
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
fn a_member_is_replaced() {
    walk(replacing(1, 1, 1, 0));
}

#[test]
#[ignore = "many states"]
fn probe() {
    let bounds = std::env::var("BOUNDS").expect("BOUNDS=[nodes,]campaigns,entries,beats,crashes");
    let n: Vec<u64> = bounds.split(',').map(|n| n.parse().expect("a number")).collect();
    match n[..] {
        [nodes, campaigns, entries, beats, crashes] => {
            walk(fixed(nodes, campaigns as u8, entries, beats as u8, crashes as u8))
        }
        [campaigns, entries, beats, crashes] => {
            walk(replacing(campaigns as u8, entries, beats as u8, crashes as u8))
        }
        _ => panic!("four or five numbers"),
    }
}
