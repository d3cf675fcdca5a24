//! Committed logs agree (Log Matching, §3.5; State Machine Safety, §3.6.3): no two nodes ever hold different entries
//! as committed at one index, and terms do not fall along the log.
//!
//! An entry's name (term and index) stands for its content: a leader makes one entry an index, which is what
//! election safety and the state hashes watch over.

use std::collections::BTreeMap;

use raft::core::{Index, LogId, NodeId, Term};

use crate::report::{Failure, Witness};

const RULE: &str = "committed logs agree";

/// The entries that some node reported as committed or applied, and who did first.
#[derive(Default)]
pub(super) struct LogAgreement {
    entries: BTreeMap<Index, (Term, NodeId)>,
}

impl LogAgreement {
    pub(super) fn committed(&mut self, node: NodeId, last: LogId) -> Result<(), Failure> {
        if last.index == Index::ZERO {
            return Ok(());
        }
        let (term, first) = *self.entries.entry(last.index).or_insert((last.term, node));
        if term != last.term {
            let other = LogId { term, index: last.index };
            let text = format!("{first} committed {other} and {node} committed {last}");
            let both = [Witness::committed(first, last.index), Witness::committed(node, last.index)];
            return Err(Failure::new(RULE, text).seen_in(both));
        }
        let below = self.entries.range(..last.index).next_back();
        let above = self.entries.range(last.index.next()..).next();
        for (neighbour, lower_first) in [(below, true), (above, false)] {
            let Some((&index, &(term, who))) = neighbour else { continue };
            if (lower_first && term > last.term) || (!lower_first && term < last.term) {
                let other = LogId { term, index };
                let text = format!("{who} committed {other} and {node} committed {last}");
                let both = [Witness::committed(who, index), Witness::committed(node, last.index)];
                return Err(Failure::new(RULE, text).seen_in(both));
            }
        }
        Ok(())
    }
}
