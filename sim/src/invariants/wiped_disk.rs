//! An empty disk is a new identity (rule 15): a node that comes back without what it promised is not let in as who it
//! was. It may have voted, and acknowledged entries, of which it knows nothing now.

use std::collections::BTreeSet;

use raft::core::NodeId;

use crate::report::{Failure, Witness};

/// Who has lost its disk. For good: its id is not used again.
#[derive(Default)]
pub(super) struct WipedDisk {
    wiped: BTreeSet<NodeId>,
}

impl WipedDisk {
    pub(super) fn wiped(&mut self, node: NodeId) {
        self.wiped.insert(node);
    }

    /// A node's consensus runs.
    pub(super) fn runs(&self, node: NodeId) -> Result<(), Failure> {
        if !self.wiped.contains(&node) {
            return Ok(());
        }
        let text = format!("{node} lost its disk and takes part again under its old id");
        Err(Failure::new("an empty disk is a new identity", text).seen_in([Witness::last_of(node)]))
    }
}
