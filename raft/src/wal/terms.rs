//! The term of every entry in the log, as runs: a cut must name the term of the entry before it.

use crate::core::{Entry, Index, LogId, Term};

/// Where each run of entries of one term begins.
///
/// Invariant: never empty, and both index and term grow strictly from run to run. The first run begins at the
/// entry before the log, or before it.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    runs: Vec<LogId>,
}

impl Terms {
    /// Of an empty log that begins after `prev`.
    pub(super) fn starting_after(prev: LogId) -> Self {
        Self { runs: vec![prev] }
    }

    /// Of the log made of `prev` and `entries`.
    pub(super) fn of(prev: LogId, entries: &[Entry]) -> Self {
        let mut terms = Self::starting_after(prev);
        for entry in entries {
            terms.push(entry.log_id());
        }
        terms
    }

    /// Takes in the entry behind the last.
    pub(super) fn push(&mut self, id: LogId) {
        if self.runs.last().is_none_or(|run| run.term != id.term) {
            self.runs.push(id);
        }
    }

    /// The term at `index`, which must not lie before the log's `prev` nor behind its end.
    pub(super) fn at(&self, index: Index) -> Term {
        let behind = self.runs.partition_point(|run| run.index <= index);
        let run = behind.checked_sub(1).and_then(|i| self.runs.get(i));
        let Some(run) = run else { panic!("index {index} lies before the log: {:?}", self.runs) };
        run.term
    }

    /// Forgets what lies behind `index`.
    pub(super) fn cut_behind(&mut self, index: Index) {
        self.runs.truncate(self.runs.partition_point(|run| run.index <= index).max(1));
    }

    /// Forgets what lies before `prev`.
    pub(super) fn cut_before(&mut self, prev: Index) {
        let keep = self.runs.partition_point(|run| run.index <= prev).saturating_sub(1);
        self.runs.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_answer_like_a_list() {
        let mut terms = Terms::starting_after(LogId::new(2, 10));
        for id in [(2, 11), (3, 12), (3, 13), (7, 14)] {
            terms.push(LogId::new(id.0, id.1));
        }
        let at = |terms: &Terms, i| terms.at(Index(i)).0;
        assert_eq!([10, 11, 12, 13, 14].map(|i| at(&terms, i)), [2, 2, 3, 3, 7]);
        terms.cut_before(Index(12));
        assert_eq!([12, 13, 14].map(|i| at(&terms, i)), [3, 3, 7]);
        terms.cut_behind(Index(13));
        terms.push(LogId::new(8, 14));
        assert_eq!([12, 13, 14].map(|i| at(&terms, i)), [3, 3, 8]);
    }

    #[test]
    #[should_panic(expected = "lies before the log")]
    fn before_the_log_nothing_is_known() {
        Terms::starting_after(LogId::new(2, 10)).at(Index(9));
    }
}
