//! How many worlds came to each mark: see `raft/src/marks.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The marks of the source, one a line, in order.
const LIST: &str = include_str!("../marks.txt");

/// Every mark there is.
pub fn all() -> impl Iterator<Item = &'static str> {
    LIST.lines()
}

/// In how many worlds each mark was hit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Marks(pub BTreeMap<String, u64>);

impl Marks {
    /// Those that this process came to, each once.
    #[must_use]
    pub fn of_this_process() -> Self {
        #[cfg(marks)]
        return Self(raft::marks_hit().into_iter().map(|id| (id.to_owned(), 1)).collect());
        #[cfg(not(marks))]
        Self::default()
    }

    /// Adds those of another world, or of other worlds.
    pub fn add(&mut self, other: &Self) {
        for (id, worlds) in &other.0 {
            *self.0.entry(id.clone()).or_default() += worlds;
        }
    }

    /// The same, with a zero for each mark that was never hit.
    #[must_use]
    pub fn with_all(mut self) -> Self {
        for id in all() {
            self.0.entry(id.to_owned()).or_default();
        }
        self
    }

    /// The marks that were never hit.
    #[must_use]
    pub fn missed(&self) -> Vec<&'static str> {
        all().filter(|id| !self.0.contains_key(*id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_counted_and_what_was_never_hit_is_known() {
        let world = |ids: &[&str]| Marks(ids.iter().map(|id| ((*id).to_owned(), 1)).collect());
        let first = all().next().unwrap();
        let mut marks = world(&[first, "x"]);
        marks.add(&world(&[first]));
        assert_eq!((marks.0[first], marks.0["x"]), (2, 1));
        assert_eq!(marks.missed().len(), all().count() - 1);
        assert!(!marks.missed().contains(&first));
        assert_eq!(marks.with_all().0.len(), all().count() + 1);
    }
}
