//! Commit and applied only grow while a process lives, and applied stays behind commit (§3.6, figure 3.1).

use std::collections::BTreeMap;

use raft::core::{Index, LogId, NodeId};

use crate::report::{Failure, Witness};

const RULE: &str = "commit and applied are monotone";

#[derive(Default, Clone, Copy)]
struct Progress {
    committed: Index,
    applied: Index,
}

/// How far each process has come.
#[derive(Default)]
pub(super) struct CommitMonotone {
    nodes: BTreeMap<NodeId, Progress>,
}

impl CommitMonotone {
    /// Both begin anew with a process: neither is on the disk.
    pub(super) fn started(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    pub(super) fn committed(&mut self, node: NodeId, last: LogId) -> Result<(), Failure> {
        let progress = self.nodes.entry(node).or_default();
        if last.index < progress.committed {
            let text = format!("{node} had committed up to {} and now up to {last}", progress.committed);
            return Err(Failure::new(RULE, text).seen_in([Witness::committed(node, last.index)]));
        }
        progress.committed = last.index;
        Ok(())
    }

    pub(super) fn applied(&mut self, node: NodeId, last: LogId) -> Result<(), Failure> {
        let progress = self.nodes.entry(node).or_default();
        if last.index < progress.applied {
            let text = format!("{node} had applied up to {} and now up to {last}", progress.applied);
            return Err(Failure::new(RULE, text).seen_in([Witness::applied(node, last.index)]));
        }
        progress.applied = last.index;
        if progress.committed != Index::ZERO && progress.applied > progress.committed {
            let text = format!("{node} applied up to {last} and had committed up to {}", progress.committed);
            return Err(Failure::new(RULE, text).seen_in([Witness::applied(node, last.index)]));
        }
        Ok(())
    }
}
