//! Who waits for what: proposals by *(term, index)*, reads by the index that must be applied.
//!
//! A proposal stands in the log at one place only and is never proposed a second time by the driver. So when the
//! entry committed at its index has another term, it is definitely not done; when a snapshot jumps over its index,
//! nothing can be said (rule 14).

use std::collections::BTreeMap;

use crate::core::{Entry, Index, LogId, Term};

use super::handle::{ProposalWaiter, ProposeError, ReadError, ReadWaiter};

/// The proposals under way.
pub(super) struct Proposals<R> {
    waiting: BTreeMap<(Index, Term), ProposalWaiter<R>>,
}

impl<R> Proposals<R> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, id: LogId, waiter: ProposalWaiter<R>) {
        self.waiting.insert((id.index, id.term), waiter);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes out the waiter of a committed entry, and tells all others at or below its index that they were
    /// superseded.
    pub(super) fn take(&mut self, entry: &Entry) -> Option<ProposalWaiter<R>> {
        let mut found = None;
        while let Some(first) = self.waiting.first_entry() {
            let (index, term) = *first.key();
            if index > entry.index {
                break;
            }
            let waiter = first.remove();
            if index == entry.index && term == entry.term {
                found = Some(waiter);
            } else if !crate::mutant!("waiter-strand") {
                // The asker may have gone away; nothing is lost then.
                crate::sometimes!("proposal/superseded");
                let _ = waiter.send(Err(ProposeError::Superseded));
            }
        }
        found
    }

    /// A snapshot has replaced everything up to `through`: what became of proposals there cannot be told.
    pub(super) fn forget_through(&mut self, through: Index) {
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > through {
                break;
            }
            crate::sometimes!("proposal/jumped-over-by-a-snapshot");
            let _ = first.remove().send(Err(ProposeError::OutcomeUnknown));
        }
    }

    /// The node stops.
    pub(super) fn stop(&mut self) {
        while let Some((_, waiter)) = self.waiting.pop_first() {
            let _ = waiter.send(Err(ProposeError::Stopped));
        }
    }
}

/// The reads under way.
///
/// All reads that arrive in one turn of the event loop share one context, and so one confirmation round.
pub(super) struct Reads {
    next_context: u64,
    /// Reads whose round is under way, by context.
    confirming: BTreeMap<u64, Vec<ReadWaiter>>,
    /// Reads that are confirmed and wait for this index to be applied.
    applying: BTreeMap<Index, Vec<ReadWaiter>>,
}

impl Reads {
    pub(super) fn new() -> Self {
        Self { next_context: 1, confirming: BTreeMap::new(), applying: BTreeMap::new() }
    }

    /// Begins a round for `waiters`; returns the context to give to the core.
    pub(super) fn begin(&mut self, waiters: Vec<ReadWaiter>) -> u64 {
        let context = self.next_context;
        self.next_context += 1;
        self.confirming.insert(context, waiters);
        context
    }

    /// The core refused or gave up the round.
    pub(super) fn fail(&mut self, context: u64, error: &ReadError) {
        for waiter in self.confirming.remove(&context).unwrap_or_default() {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// The round is confirmed: the reads may be answered once `index` is applied.
    pub(super) fn confirmed(&mut self, context: u64, index: Index, applied: Index) {
        let Some(waiters) = self.confirming.remove(&context) else { return };
        if index <= applied || crate::mutant!("read-unapplied") {
            for waiter in waiters {
                let _ = waiter.send(Ok(index));
            }
        } else {
            crate::sometimes!("reads/wait-for-apply");
            self.applying.entry(index).or_default().extend(waiters);
        }
    }

    /// Everything up to `applied` is applied.
    pub(super) fn applied(&mut self, applied: Index) {
        while let Some(first) = self.applying.first_entry() {
            let index = *first.key();
            if index > applied {
                break;
            }
            for waiter in first.remove() {
                let _ = waiter.send(Ok(index));
            }
        }
    }

    /// The node stops.
    pub(super) fn stop(&mut self) {
        let confirming = std::mem::take(&mut self.confirming);
        let applying = std::mem::take(&mut self.applying);
        for waiter in confirming.into_values().chain(applying.into_values()).flatten() {
            let _ = waiter.send(Err(ReadError::Stopped));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::core::Payload;

    fn entry(term: u64, index: u64) -> Entry {
        Entry { term: Term(term), index: Index(index), payload: Payload::Noop }
    }

    #[test]
    fn a_committed_entry_of_another_term_supersedes_the_proposal() {
        let mut proposals = Proposals::<u32>::new();
        let (mine, mut lost) = oneshot::channel();
        let (later, mut still) = oneshot::channel();
        proposals.insert(LogId::new(1, 5), mine);
        proposals.insert(LogId::new(1, 6), later);
        assert!(proposals.take(&entry(2, 5)).is_none());
        assert_eq!(lost.try_recv().unwrap(), Err(ProposeError::Superseded));
        assert!(still.try_recv().is_err(), "the proposal at 6 is not decided yet");
        let (again, mut kept) = oneshot::channel();
        proposals.insert(LogId::new(3, 6), again);
        let waiter = proposals.take(&entry(3, 6)).expect("the proposal of term 3 is the committed one");
        waiter.send(Ok(7)).unwrap();
        assert_eq!(kept.try_recv().unwrap(), Ok(7));
        assert_eq!(still.try_recv().unwrap(), Err(ProposeError::Superseded));
    }

    #[test]
    fn a_snapshot_that_jumps_over_a_proposal_leaves_it_unknown() {
        let mut proposals = Proposals::<u32>::new();
        let (waiter, mut answer) = oneshot::channel();
        proposals.insert(LogId::new(1, 5), waiter);
        proposals.forget_through(Index(4));
        assert!(answer.try_recv().is_err());
        proposals.forget_through(Index(5));
        assert_eq!(answer.try_recv().unwrap(), Err(ProposeError::OutcomeUnknown));
    }

    #[test]
    fn a_confirmed_read_waits_until_its_index_is_applied() {
        let mut reads = Reads::new();
        let (waiter, mut answer) = oneshot::channel();
        let context = reads.begin(vec![waiter]);
        reads.confirmed(context, Index(9), Index(8));
        assert!(answer.try_recv().is_err(), "index 9 is not applied yet");
        reads.applied(Index(8));
        assert!(answer.try_recv().is_err());
        reads.applied(Index(9));
        assert_eq!(answer.try_recv().unwrap(), Ok(Index(9)));
    }

    #[test]
    fn stopping_answers_everyone() {
        let mut proposals = Proposals::<u32>::new();
        let (waiter, mut proposal) = oneshot::channel();
        proposals.insert(LogId::new(1, 1), waiter);
        proposals.stop();
        assert_eq!(proposal.try_recv().unwrap(), Err(ProposeError::Stopped));
        let mut reads = Reads::new();
        let (waiter, mut read) = oneshot::channel();
        reads.begin(vec![waiter]);
        reads.stop();
        assert_eq!(read.try_recv().unwrap(), Err(ReadError::Stopped));
    }
}
