//! Every state of small clusters: the core itself, not a copy of it, walked by a model checker.
//!
//! Here are worlds that take seconds. Larger ones are a command of their own, `raft/examples/worlds.rs`.

mod world;

use world::{fixed, replacing, walk};

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
    walk(replacing(2, 1, 0, 1));
}

#[test]
fn the_leader_is_replaced() {
    walk(replacing(1, 1, 0, 1));
}
