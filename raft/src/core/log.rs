//! The log in memory: every entry since the last compaction.
//!
//! A node keeps the recent log in memory and reads the durable one only when it starts; followers that are further
//! behind get a snapshot (§5.3). The log knows three positions of its own: how far it reaches, how far it was
//! handed out to be written (`offered`), and how far it is known to be on disk (`durable`). It knows nothing of
//! commit.
//!
//! Terms never decrease along the log, so searching by term is a binary search.

use std::collections::VecDeque;

use super::types::{Entry, Index, LogId, Term};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Log {
    /// The entry just before the first one in memory: the compaction point, or the last entry of a snapshot.
    prev: LogId,
    /// Invariant: contiguous from `prev.index + 1`, terms never decrease.
    entries: VecDeque<Entry>,
    /// The bytes of all entries up to and including each of `entries`, counted on from `bytes_before`. So the bytes
    /// between any two positions are a subtraction: nothing is taken and given back, so nothing can leak.
    bytes_through: VecDeque<u64>,
    bytes_before: u64,
    /// Handed out in a Ready, to be written. Invariant: `durable <= offered <= last`.
    offered: Index,
    /// Known to be on disk. Below `prev.index` exactly while a snapshot is being installed.
    durable: Index,
}

impl Log {
    /// A log of durable entries. The caller has checked that they are contiguous.
    pub(super) fn new(prev: LogId, entries: Vec<Entry>) -> Self {
        let last = entries.last().map_or(prev.index, |entry| entry.index);
        let sizes = entries.iter().map(Entry::size_bytes);
        let bytes_through = sizes.scan(0, |sum, size| {
            *sum += size;
            Some(*sum)
        });
        Self {
            prev,
            bytes_through: bytes_through.collect(),
            bytes_before: 0,
            entries: entries.into(),
            offered: last,
            durable: last,
        }
    }

    pub(super) fn prev(&self) -> LogId {
        self.prev
    }

    pub(super) fn first_index(&self) -> Index {
        self.prev.index.next()
    }

    pub(super) fn last(&self) -> LogId {
        self.entries.back().map_or(self.prev, Entry::log_id)
    }

    /// The bytes of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes_through.back().map_or(0, |through| through - self.bytes_before)
    }

    /// The bytes of the entries above `after`, through `through`.
    pub(super) fn bytes_between(&self, after: Index, through: Index) -> u64 {
        self.bytes_to(through).saturating_sub(self.bytes_to(after))
    }

    /// The count of bytes at the end of the entry at `index`.
    fn bytes_to(&self, index: Index) -> u64 {
        let at = self.position(index.min(self.last().index)).and_then(|at| self.bytes_through.get(at));
        at.copied().unwrap_or(self.bytes_before)
    }

    pub(super) fn offered(&self) -> Index {
        self.offered
    }

    pub(super) fn durable(&self) -> Index {
        self.durable
    }

    /// Whether the log begins behind a snapshot that is not durably installed yet.
    pub(super) fn is_installing(&self) -> bool {
        self.durable < self.prev.index
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The term of the entry at `index`: known from the compaction point to the end.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.prev.index {
            return Some(self.prev.term);
        }
        self.position(index).and_then(|at| self.entries.get(at)).map(|entry| entry.term)
    }

    /// Whether the log has exactly this entry.
    pub(super) fn matches(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last entry whose index is at most `bound.index` and whose term is at most `bound.term`.
    ///
    /// This is the back-off by terms of §3.5: two logs cannot agree on an entry above it if one of them ends its
    /// part of that term there. If even the compaction point is above the bound, the answer lies below it, with
    /// term 0, and a leader finds that it must send a snapshot.
    pub(super) fn last_within(&self, bound: LogId) -> LogId {
        let within =
            self.entries.partition_point(|entry| entry.index <= bound.index && entry.term <= bound.term);
        if let Some(entry) = within.checked_sub(1).and_then(|at| self.entries.get(at)) {
            return entry.log_id();
        }
        if self.prev.index <= bound.index && self.prev.term <= bound.term {
            return self.prev;
        }
        LogId { term: Term(0), index: self.prev.index.prev().min(bound.index) }
    }

    /// Adds one entry at the end.
    pub(super) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(entry.index == last.index.next(), "appending {:?} behind {last:?}", entry.log_id());
        assert!(entry.term >= last.term, "appending {:?} behind {last:?}", entry.log_id());
        let before = self.bytes_through.back().copied().unwrap_or(self.bytes_before);
        self.bytes_through.push_back(before + entry.size_bytes());
        self.entries.push_back(entry);
    }

    /// Cuts off the entries from `from` on.
    pub(super) fn truncate(&mut self, from: Index) {
        assert!(from > self.prev.index, "truncating from {from}, at or below {:?}", self.prev);
        while self.entries.pop_back_if(|entry| entry.index >= from).is_some() {
            self.bytes_through.pop_back();
        }
        self.offered = self.offered.min(from.prev());
        self.durable = self.durable.min(from.prev());
    }

    /// Forgets the entries up to `through`, which must be durable.
    pub(super) fn compact(&mut self, through: Index) {
        if through <= self.prev.index {
            return;
        }
        assert!(through <= self.durable, "compacting through {through}, durable is {}", self.durable);
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= through) {
            self.prev = entry.log_id();
            let through = self.bytes_through.pop_front();
            if !crate::mutant!("unbounded") {
                self.bytes_before = through.unwrap_or(self.bytes_before);
            }
        }
    }

    /// How far to compact so that the rest takes at most `bytes_max`.
    pub(super) fn compaction_for(&self, bytes_max: u64) -> Index {
        let mut excess = self.bytes().saturating_sub(bytes_max);
        let mut through = self.prev.index;
        for entry in &self.entries {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(entry.size_bytes());
            through = entry.index;
        }
        through
    }

    /// Begins anew behind a snapshot that is yet to be made durable.
    pub(super) fn reset(&mut self, prev: LogId) {
        if crate::mutant!("snap-tail") && self.last().index > prev.index {
            while self.entries.pop_front_if(|entry| entry.index <= prev.index).is_some() {
                self.bytes_before = self.bytes_through.pop_front().unwrap_or(self.bytes_before);
            }
        } else {
            self.entries.clear();
            self.bytes_through.clear();
            self.bytes_before = 0;
        }
        self.prev = prev;
        self.offered = prev.index;
        self.durable = Index::ZERO;
    }

    /// The entries not yet handed out to be written; they then count as handed out.
    pub(super) fn offer(&mut self) -> Vec<Entry> {
        let entries = self.between(self.offered, self.last().index);
        self.offered = self.last().index;
        entries
    }

    /// Notes that everything up to `index` is on disk.
    pub(super) fn persisted(&mut self, index: Index) {
        assert!(index <= self.offered, "persisted {index}, but only {} was handed out", self.offered);
        self.durable = self.durable.max(index);
    }

    /// The entries above `after`, through `through`.
    pub(super) fn between(&self, after: Index, through: Index) -> Vec<Entry> {
        let count = usize::try_from(through.0.saturating_sub(after.0)).unwrap_or(usize::MAX);
        self.entries_from(after.next()).take(count).cloned().collect()
    }

    /// The entries from `from` on, as many as fit into `bytes_max`, but at least one.
    pub(super) fn pack(&self, from: Index, bytes_max: u64) -> Vec<Entry> {
        let mut packed = Vec::new();
        let mut bytes = 0;
        for entry in self.entries_from(from) {
            if !packed.is_empty() && bytes + entry.size_bytes() > bytes_max {
                if crate::mutant!("noncontig") {
                    continue;
                }
                break;
            }
            bytes += entry.size_bytes();
            packed.push(entry.clone());
        }
        packed
    }

    /// The entries from `index` on; all of them if it lies before the first.
    fn entries_from(&self, index: Index) -> impl Iterator<Item = &Entry> {
        let at = self.position(index).unwrap_or(0);
        self.entries.range(at.min(self.entries.len())..)
    }

    /// Where in `entries` the entry of `index` stands, or would stand behind the end.
    fn position(&self, index: Index) -> Option<usize> {
        index.0.checked_sub(self.prev.index.0 + 1).and_then(|at| usize::try_from(at).ok())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::types::Payload;
    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// An entry of a term so much later, with so many bytes.
        Append(u64, usize),
        /// Cut so many entries off.
        Truncate(u64),
        Offer,
        /// So much of what was offered is on disk.
        Persist(u64),
        Compact(u64),
        /// Begin anew so far behind the end, and then become durable.
        Reset(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u64..2, 0usize..40).prop_map(|(term, bytes)| Step::Append(term, bytes)),
            2 => (1u64..6).prop_map(Step::Truncate),
            4 => Just(Step::Offer),
            4 => (0u64..8).prop_map(Step::Persist),
            2 => (0u64..8).prop_map(Step::Compact),
            1 => (1u64..5).prop_map(Step::Reset),
        ]
    }

    /// The twin keeps all entries in a plain list, from index 1, and searches it from one end.
    #[derive(Default)]
    struct Twin {
        /// Entries that a reset skipped are `None`.
        entries: Vec<Option<Entry>>,
        prev: LogId,
        offered: u64,
        durable: u64,
    }

    impl Twin {
        fn last(&self) -> u64 {
            self.entries.len() as u64
        }

        fn known(&self) -> impl Iterator<Item = &Entry> {
            self.entries.iter().flatten().filter(|entry| entry.index > self.prev.index)
        }

        fn term_at(&self, index: u64) -> Option<Term> {
            if Index(index) == self.prev.index {
                return Some(self.prev.term);
            }
            self.known().find(|entry| entry.index == Index(index)).map(|entry| entry.term)
        }

        fn last_within(&self, bound: LogId) -> LogId {
            let ids = std::iter::once(self.prev).chain(self.known().map(Entry::log_id));
            let within = ids.filter(|id| id.index <= bound.index && id.term <= bound.term);
            within.last().unwrap_or(LogId { term: Term(0), index: self.prev.index.prev().min(bound.index) })
        }

        fn pack(&self, from: u64, bytes_max: u64) -> Vec<Entry> {
            let mut packed: Vec<Entry> = Vec::new();
            for entry in self.known().filter(|entry| entry.index >= Index(from)) {
                let bytes: u64 = packed.iter().chain([entry]).map(Entry::size_bytes).sum();
                if bytes > bytes_max && !packed.is_empty() {
                    break;
                }
                packed.push(entry.clone());
            }
            packed
        }
    }

    fn run(step: Step, log: &mut Log, twin: &mut Twin) {
        match step {
            Step::Append(later, bytes) => {
                let entry = Entry {
                    term: Term(log.last().term.0 + later),
                    index: log.last().index.next(),
                    payload: Payload::Command(Bytes::from(vec![0; bytes])),
                };
                log.append(entry.clone());
                twin.entries.push(Some(entry));
            }
            Step::Truncate(back) => {
                let from = (twin.last() + 1).saturating_sub(back).max(twin.prev.index.0 + 1);
                log.truncate(Index(from));
                twin.entries.truncate(from as usize - 1);
                twin.offered = twin.offered.min(from - 1);
                twin.durable = twin.durable.min(from - 1);
            }
            Step::Offer => {
                let offered = log.offer();
                let expected = twin.known().filter(|entry| entry.index.0 > twin.offered);
                assert!(offered.iter().eq(expected), "offered {offered:?}");
                twin.offered = twin.last();
            }
            Step::Persist(part) => {
                let index = (twin.durable + part).min(twin.offered);
                log.persisted(Index(index));
                twin.durable = index;
            }
            Step::Compact(part) => {
                let through = (twin.prev.index.0 + part).min(twin.durable);
                log.compact(Index(through));
                if through > twin.prev.index.0 {
                    let term = twin.term_at(through).unwrap();
                    twin.prev = LogId { term, index: Index(through) };
                }
            }
            Step::Reset(ahead) => {
                let index = twin.last() + ahead;
                let prev = LogId { term: Term(log.last().term.0 + 1), index: Index(index) };
                log.reset(prev);
                assert!(log.is_installing());
                log.persisted(prev.index);
                twin.entries.resize(index as usize, None);
                (twin.prev, twin.offered, twin.durable) = (prev, index, index);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn does_what_its_twin_does(
            steps in prop::collection::vec(step(), 0..80),
            bounds in prop::collection::vec((0u64..40, 0u64..40), 8),
        ) {
            let mut log = Log::new(LogId::ZERO, Vec::new());
            let mut twin = Twin::default();
            for step in steps {
                run(step, &mut log, &mut twin);
                prop_assert_eq!(log.prev(), twin.prev);
                prop_assert_eq!(log.last().index.0, twin.last());
                prop_assert_eq!((log.offered().0, log.durable().0), (twin.offered, twin.durable));
                prop_assert_eq!(log.bytes(), twin.known().map(Entry::size_bytes).sum::<u64>());
                for index in 0..twin.last() + 3 {
                    prop_assert_eq!(log.term_at(Index(index)), twin.term_at(index));
                }
                for &(index, number) in &bounds {
                    let bound = LogId::new(number, index);
                    prop_assert_eq!(log.last_within(bound), twin.last_within(bound));
                    let from = twin.prev.index.0 + 1 + index;
                    prop_assert_eq!(log.pack(Index(from), number * 10), twin.pack(from, number * 10));
                    let between = log.between(Index(from), Index(from + number));
                    let expected =
                        twin.known().filter(|e| e.index.0 > from && e.index.0 <= from + number);
                    prop_assert!(between.iter().eq(expected));
                    let bytes: u64 = between.iter().map(Entry::size_bytes).sum();
                    prop_assert_eq!(log.bytes_between(Index(from), Index(from + number)), bytes);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "at or below")]
    fn the_compaction_point_is_never_cut() {
        Log::new(LogId::new(3, 7), Vec::new()).truncate(Index(7));
    }

    #[test]
    #[should_panic(expected = "behind 7@3")]
    fn an_entry_of_an_earlier_term_is_never_appended() {
        let entry = Entry { term: Term(2), index: Index(8), payload: Payload::Noop };
        Log::new(LogId::new(3, 7), Vec::new()).append(entry);
    }

    #[test]
    fn packs_up_to_the_bound_and_one_in_any_case() {
        let noop = |index| Entry { term: Term(1), index: Index(index), payload: Payload::Noop };
        let each = noop(1).size_bytes();
        let log = Log::new(LogId::ZERO, (1..5).map(noop).collect());
        let packed = |bytes_max| log.pack(Index(2), bytes_max).len();
        assert_eq!([packed(0), packed(2 * each - 1), packed(2 * each), packed(u64::MAX)], [1, 1, 2, 3]);
    }

    #[test]
    fn compacts_no_more_than_the_bound_asks_for() {
        let noop = |index| Entry { term: Term(1), index: Index(index), payload: Payload::Noop };
        let each = noop(6).size_bytes();
        let log = Log::new(LogId::new(1, 5), (6..10).map(noop).collect());
        let through = |bytes_max| log.compaction_for(bytes_max).0;
        assert_eq!([through(u64::MAX), through(4 * each)], [5, 5], "all of it fits");
        assert_eq!([through(4 * each - 1), through(3 * each), through(2 * each)], [6, 6, 7]);
        assert_eq!(through(0), 9);
    }
}
