//! Which configuration is in force: a pure function of what the node began with and of its log.
//!
//! A configuration counts from the moment its entry is in the log, committed or not (§4.1). So the history here
//! follows the log step for step: an appended entry adds, a truncated one takes back, a compacted one becomes the
//! base, an installed snapshot replaces everything. `invariants` recomputes it from the log and compares.

use std::collections::VecDeque;

use super::types::{Configuration, Entry, Index, Payload};

/// The configurations of the log, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Configurations {
    /// The configuration in force at the index where the history begins, and that index.
    base: (Index, Configuration),
    /// Those that came into force later. Invariant: indexes ascend, all above the base.
    later: VecDeque<(Index, Configuration)>,
}

impl Configurations {
    pub(super) fn new(index: Index, configuration: Configuration) -> Self {
        Self { base: (index, configuration), later: VecDeque::new() }
    }

    /// The configuration in force: the newest in the log.
    pub(super) fn current(&self) -> &Configuration {
        &self.newest().1
    }

    /// The newest, and the index it came with.
    pub(super) fn newest(&self) -> &(Index, Configuration) {
        self.later.back().unwrap_or(&self.base)
    }

    /// The configuration in force at `index`, if the history reaches back to it.
    pub(super) fn at(&self, index: Index) -> Option<&Configuration> {
        if index < self.base.0 {
            return None;
        }
        let later = self.later.iter().rev().find(|(at, _)| *at <= index);
        Some(&later.unwrap_or(&self.base).1)
    }

    /// The longest lease of any configuration up to `index` that this node still knows, in milliseconds.
    ///
    /// A promise of this length covers whatever a leader may rely on: see `lease`.
    pub(super) fn lease_ms_max(&self, index: Index) -> u32 {
        let all = std::iter::once(&self.base).chain(&self.later);
        let known = all.filter(|(at, _)| *at <= index).filter_map(|(_, configuration)| configuration.lease);
        known.map(|lease| lease.duration_ms).max().unwrap_or(0)
    }

    /// Where the history begins.
    pub(super) fn base_index(&self) -> Index {
        self.base.0
    }

    /// Every configuration that came later, with the one before it.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&Configuration, &(Index, Configuration))> {
        let before = std::iter::once(&self.base).chain(&self.later).map(|(_, configuration)| configuration);
        before.zip(&self.later)
    }

    /// Takes note of an entry just appended; says whether it brought a configuration.
    pub(super) fn appended(&mut self, entry: &Entry) -> bool {
        let Payload::Configuration(configuration) = &entry.payload else { return false };
        assert!(
            entry.index > self.newest().0,
            "configuration at {} is not above the newest at {}",
            entry.index,
            self.newest().0
        );
        self.later.push_back((entry.index, configuration.clone()));
        true
    }

    /// Takes back what stood at `from` and above; says whether that changed anything.
    pub(super) fn truncated(&mut self, from: Index) -> bool {
        if crate::mutant!("conf-rollback") {
            return false;
        }
        let before = self.later.len();
        while self.later.back().is_some_and(|(at, _)| *at >= from) {
            self.later.pop_back();
        }
        self.later.len() != before
    }

    /// Moves the base up to `through`.
    pub(super) fn compacted(&mut self, through: Index) {
        if through <= self.base.0 {
            return;
        }
        self.base.0 = through;
        while let Some((_, configuration)) = self.later.pop_front_if(|(at, _)| *at <= through) {
            self.base.1 = configuration;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::types::{NodeId, Term};
    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(Option<u64>),
        Truncate(u64),
        Compact(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::option::of(1u64..9).prop_map(Step::Append),
            1 => (0u64..6).prop_map(Step::Truncate),
            1 => (0u64..6).prop_map(Step::Compact),
        ]
    }

    fn voter(id: u64) -> Configuration {
        Configuration::of_voters([NodeId(id)])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The twin keeps every entry for ever and searches it from the start.
        #[test]
        fn follows_the_log_like_its_twin(steps in prop::collection::vec(step(), 0..60)) {
            let mut history = Configurations::new(Index::ZERO, voter(1));
            let mut log: Vec<Option<u64>> = Vec::new();
            let mut base = 0;
            for step in steps {
                match step {
                    Step::Append(configuration) => {
                        log.push(configuration);
                        let payload = configuration.map_or(Payload::Noop, |id| Payload::Configuration(voter(id)));
                        let entry = Entry { term: Term(1), index: Index(log.len() as u64), payload };
                        prop_assert_eq!(history.appended(&entry), configuration.is_some());
                    }
                    Step::Truncate(back) => {
                        let keep = (log.len() as u64).saturating_sub(back).max(base);
                        let changed = log.iter().skip(keep as usize).any(Option::is_some);
                        log.truncate(keep as usize);
                        prop_assert_eq!(history.truncated(Index(keep + 1)), changed);
                    }
                    Step::Compact(on) => {
                        base = (base + on).min(log.len() as u64);
                        history.compacted(Index(base));
                    }
                }
                for index in 0..=log.len() {
                    let twin = log[..index].iter().rev().find_map(|c| *c).unwrap_or(1);
                    let expected = (index as u64 >= base).then(|| voter(twin));
                    prop_assert_eq!(history.at(Index(index as u64)), expected.as_ref());
                }
                let newest = log.iter().rev().find_map(|c| *c).unwrap_or(1);
                prop_assert_eq!(history.current(), &voter(newest));
            }
        }
    }
}
