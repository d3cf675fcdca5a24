//! Election safety (§3.4, figure 3.2): at most one leader can be elected in a term.

use std::collections::BTreeMap;

use raft::core::{NodeId, Term};

use crate::report::{Failure, Witness};

/// Who was elected in which term, ever.
#[derive(Default)]
pub(super) struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
}

impl ElectionSafety {
    pub(super) fn elected(&mut self, node: NodeId, term: Term) -> Result<(), Failure> {
        let first = *self.leaders.entry(term).or_insert(node);
        if first == node {
            return Ok(());
        }
        let failure = Failure::new("election safety", format!("{first} and {node} both lead in term {term}"));
        Err(failure.seen_in([Witness::elected(first, term), Witness::elected(node, term)]))
    }
}
