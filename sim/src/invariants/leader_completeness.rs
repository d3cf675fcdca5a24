//! Leader completeness (§3.6): whoever is elected has every entry that was committed in earlier terms.
//!
//! A new leader appends an entry of its own term behind its whole log. If its log lacked a committed entry, its own
//! would stand at or below that entry's index: that shows when it commits.

use std::collections::BTreeMap;

use raft::core::{Index, LogId, NodeId, Term};

use crate::report::{Failure, Witness};

/// What was committed when each leader was elected.
#[derive(Default)]
pub(super) struct LeaderCompleteness {
    committed: LogId,
    elected: BTreeMap<Term, (NodeId, Index)>,
}

impl LeaderCompleteness {
    pub(super) fn elected(&mut self, node: NodeId, term: Term) {
        let committed = if self.committed.term < term { self.committed.index } else { Index::ZERO };
        self.elected.entry(term).or_insert((node, committed));
    }

    pub(super) fn committed(&mut self, node: NodeId, last: LogId) -> Result<(), Failure> {
        self.committed = self.committed.max(last);
        let Some((leader, committed)) = self.elected.get(&last.term).copied() else { return Ok(()) };
        if last.index > committed {
            return Ok(());
        }
        let text = format!(
            "{leader} was elected in term {} when {committed} was committed, and yet {node} committed {last}",
            last.term
        );
        let witnesses = [Witness::elected(leader, last.term), Witness::committed(node, last.index)];
        Err(Failure::new("leader completeness", text).seen_in(witnesses))
    }
}
