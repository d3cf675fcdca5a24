//! Fewer operations that still have no order.
//!
//! What is left must prove something about the history it came from, so operations are not simply taken out: without
//! a put every get of its value would look wrong. Two steps are allowed, and each only makes it *easier* to find an
//! order, so that what still has none shows that the whole has none:
//!
//! - *Cutting.* The history is cut off after some event; what was open there is of unknown outcome.
//! - *Weakening.* What an operation answered is forgotten: one that only looks is taken out, any other becomes one of
//!   unknown outcome.
//!
//! The cut is the earliest that leaves no order. Then chunks of operations are weakened, smaller and smaller ones
//! (Zeller's delta debugging), until no single one can be.

use super::{Bound, Entry, Limits, Patience, model::NEVER, search};
use crate::{
    checker::{Deadline, search::Found},
    history::{Answer, History, Moment, Request},
};

/// The steps that all searches on the way may take: about a second.
const STEPS_MAX: u64 = 1_000_000;
/// The steps that one of them may take, besides some for each operation.
const SEARCH_STEPS_MAX: u64 = 2_000;

/// Searches with a common end to their patience.
pub(crate) struct Shrinker<'h> {
    history: &'h History,
    limits: Limits,
    deadline: Option<Deadline>,
    steps_left: u64,
}

impl<'h> Shrinker<'h> {
    pub(crate) fn new(history: &'h History, limits: &Limits, deadline: Option<Deadline>) -> Shrinker<'h> {
        Shrinker { history, limits: *limits, deadline, steps_left: STEPS_MAX }
    }

    /// Few operations of `partition`, which has no order, that have none either.
    pub(crate) fn shrink(&mut self, partition: &[Entry]) -> Vec<Entry> {
        let mut entries = self.cut(partition);
        // What only looks goes first: a write of unknown outcome that nobody looks at costs the search nothing.
        self.weaken_by_halves(&mut entries, only_looks);
        loop {
            let before = entries.iter().filter(|entry| entry.answer.is_some()).count();
            self.weaken_by_halves(&mut entries, |_| true);
            if entries.iter().filter(|entry| entry.answer.is_some()).count() == before {
                return entries;
            }
        }
    }

    /// Weakens chunks of the operations that `may` be, from halves down to single ones.
    fn weaken_by_halves(&mut self, entries: &mut Vec<Entry>, may: impl Fn(&Entry) -> bool) {
        let may = |entry: &Entry| entry.answer.is_some() && may(entry);
        let mut chunk = entries.iter().filter(|entry| may(entry)).count().div_ceil(2);
        while chunk > 0 && self.steps_left > 0 {
            self.weaken(entries, chunk, &may);
            chunk = if chunk > 1 { chunk.div_ceil(2) } else { 0 };
        }
    }

    /// The operations until the first end after which they have no order.
    fn cut(&mut self, partition: &[Entry]) -> Vec<Entry> {
        let mut ends: Vec<Moment> =
            partition.iter().map(|entry| entry.ret).filter(|ret| *ret != NEVER).collect();
        ends.sort_unstable();
        let mut least = partition.to_vec();
        let (mut from, mut to) = (0, ends.len().saturating_sub(1));
        while from < to && self.steps_left > 0 {
            let middle = usize::midpoint(from, to);
            let cut = until(partition, ends[middle]);
            if self.has_no_order(&cut) {
                (least, to) = (cut, middle);
            } else {
                from = middle + 1;
            }
        }
        least
    }

    /// Weakens chunks of so many operations where that leaves none in order.
    fn weaken(&mut self, entries: &mut Vec<Entry>, chunk: usize, may: &impl Fn(&Entry) -> bool) {
        let mut which: Vec<usize> = (0..entries.len()).filter(|at| may(&entries[*at])).collect();
        // From the back: what comes after the fault can be spared most often.
        while !which.is_empty() && self.steps_left > 0 {
            let chunk = which.split_off(which.len().saturating_sub(chunk));
            let mut chunk = chunk.into_iter().peekable();
            let mut fewer = Vec::with_capacity(entries.len());
            for (at, entry) in entries.iter().enumerate() {
                if chunk.next_if_eq(&at).is_some() {
                    fewer.extend(weakened(entry));
                } else {
                    fewer.push(*entry);
                }
            }
            if self.has_no_order(&fewer) {
                *entries = fewer;
            }
        }
    }

    fn has_no_order(&mut self, entries: &[Entry]) -> bool {
        let steps_max = self.steps_left.min(SEARCH_STEPS_MAX + 4 * entries.len() as u64);
        let limits = Limits { steps_max, ..self.limits };
        let mut patience = Patience::new(&limits, self.deadline);
        let found = search(self.history, entries, &mut patience);
        self.steps_left -= (limits.steps_max - patience.steps_left()).min(self.steps_left);
        if found == Found::GaveUp(Bound::Time) {
            self.steps_left = 0;
        }
        // What could not be decided may have an order, so it is no counterexample.
        found == Found::Nothing
    }
}

/// What had happened when the event `last` had.
fn until(partition: &[Entry], last: Moment) -> Vec<Entry> {
    let called = partition.iter().filter(|entry| entry.call <= last);
    called.filter_map(|entry| if entry.ret <= last { Some(*entry) } else { weakened(entry) }).collect()
}

/// The operation without its answer; `None` if nothing is left of it then.
fn weakened(entry: &Entry) -> Option<Entry> {
    (!only_looks(entry)).then_some(Entry { answer: None, ret: NEVER, ..*entry })
}

fn only_looks(entry: &Entry) -> bool {
    matches!(entry.request, Request::Get { .. }) || entry.answer == Some(Answer::Succeeded(false))
}
