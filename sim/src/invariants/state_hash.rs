//! State machine safety (§3.6.3): nodes that have applied up to the same index are in the same state.

use std::collections::BTreeMap;

use raft::core::{Index, NodeId};

use crate::report::{Failure, Witness};

/// The hash of the state at each index at which some node's was seen, and whose it was.
#[derive(Default)]
pub(super) struct StateHash {
    hashes: BTreeMap<Index, (u64, NodeId)>,
}

impl StateHash {
    pub(super) fn applied(&mut self, node: NodeId, index: Index, hash: u64) -> Result<(), Failure> {
        let (first_hash, first) = *self.hashes.entry(index).or_insert((hash, node));
        if first_hash == hash {
            return Ok(());
        }
        let text =
            format!("at {index} the state of {first} has hash {first_hash:016x}, that of {node} {hash:016x}");
        let both = [Witness::applied(first, index), Witness::applied(node, index)];
        Err(Failure::new("state machine safety", text).seen_in(both))
    }
}
