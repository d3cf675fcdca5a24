//! What to show when there is no order.

use std::fmt;

use super::{Entry, Patience, partition};
use crate::history::History;

/// Operations on one key that have no order, as few as could be found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Counterexample {
    /// The key.
    pub key: String,
}

impl Counterexample {
    pub(crate) fn find(
        history: &History,
        partition: &[Entry],
        _patience: &mut impl FnMut() -> Patience,
    ) -> Counterexample {
        Counterexample { key: partition::key(history, partition) }
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key {:?} is not linearizable", self.key)
    }
}
