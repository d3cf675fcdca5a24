//! Is a history linearizable?
//!
//! Two ways to find out that share no code but the history itself, so that each checks the other:
//!
//! - [`check`] looks at nothing but the history. It searches for an order (`search.rs`), key by key: a history is
//!   linearizable if and only if its operations on each key are (Herlihy and Wing 1990, theorem 1).
//! - [`witness::check`] is told the order, by the log, and tests it.
//!
//! A pass of [`check`] is not believed either: the order it found is replayed in the plainest way before it is
//! reported. A failure comes with a [`Counterexample`], made small.

mod counterexample;
mod future;
mod list;
mod looks;
mod memo;
mod model;
mod partition;
mod pieces;
mod register;
mod replay;
mod search;
pub mod sequential;
mod shrink;
mod spelling;
mod states;
mod unknown;
pub mod witness;

#[cfg(test)]
mod tests;

use std::{fmt, num::NonZeroUsize, sync::atomic, time::Duration};

pub use counterexample::Counterexample;
pub(crate) use partition::Entry;

use crate::history::History;
use register::Register;
use search::{Found, Search};
use shrink::Shrinker;

/// How far a check may go before it gives up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The memory of all searches under way together, in bytes, as far as they grow; the history itself is not counted.
    pub memory_bytes_max: usize,
    /// The configurations that one key's search may visit: a bound that is the same on every machine.
    pub steps_max: u64,
    /// The time of the whole check. Not for runs that must come out the same every time.
    pub time_max: Option<Duration>,
    /// The threads to use; keys are checked side by side.
    pub threads: NonZeroUsize,
}

impl Default for Limits {
    /// 1 GiB, any number of steps, no limit of time, one thread.
    fn default() -> Limits {
        Limits { memory_bytes_max: 1 << 30, steps_max: u64::MAX, time_max: None, threads: NonZeroUsize::MIN }
    }
}

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// [`Limits::memory_bytes_max`].
    Memory,
    /// [`Limits::steps_max`].
    Steps,
    /// [`Limits::time_max`].
    Time,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bound::Memory => "the memory limit",
            Bound::Steps => "the limit of steps",
            Bound::Time => "the time limit",
        })
    }
}

/// What a check found out.
#[derive(Clone, Debug)]
#[must_use]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none, and this shows it.
    NotLinearizable(Box<Counterexample>),
    /// A limit was reached first. Not a pass.
    Unknown {
        /// Which one.
        bound: Bound,
        /// The key being checked.
        key: String,
    },
}

impl Verdict {
    /// Whether it is a pass.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Verdict::Linearizable)
    }
}

/// The steps of the search for the longest order of a counterexample: only to show it.
const FURTHEST_STEPS_MAX: u64 = 200_000;

/// Whether `history` is linearizable.
pub fn check(history: &History, limits: &Limits) -> Verdict {
    if raft::mutant!("checker-search-blind") {
        return Verdict::Linearizable;
    }
    let partitions = partition::by_key(history);
    let deadline = limits.time_max.map(Deadline::after);
    let threads = limits.threads.get().min(partitions.len()).max(1);
    let limits = Limits { memory_bytes_max: limits.memory_bytes_max / threads, ..*limits };

    // The lowest key that is not linearizable is reported, whatever the threads do: keys behind it are skipped.
    let next = atomic::AtomicUsize::new(0);
    let lowest = atomic::AtomicUsize::new(usize::MAX);
    let work = || {
        let mut undecided: Option<(usize, Bound)> = None;
        loop {
            let at = next.fetch_add(1, atomic::Ordering::Relaxed);
            if at >= partitions.len() || at > lowest.load(atomic::Ordering::Relaxed) {
                return undecided;
            }
            match search(history, &partitions[at], &mut Patience::new(&limits, deadline)) {
                Found::Order(_) => {}
                Found::Nothing => {
                    lowest.fetch_min(at, atomic::Ordering::Relaxed);
                }
                Found::GaveUp(bound) => undecided = undecided.or(Some((at, bound))),
            }
        }
    };
    let undecided = if threads == 1 { work() } else { side_by_side(threads, &work) };
    let key = |at: usize| partition::key(history, &partitions[at]);
    match (lowest.into_inner(), undecided) {
        (usize::MAX, None) => Verdict::Linearizable,
        (usize::MAX, Some((at, bound))) => Verdict::Unknown { bound, key: key(at) },
        (at, _) => {
            let mut shrinker = Shrinker::new(history, &limits, deadline);
            let mut patience = Patience::new(&Limits { steps_max: FURTHEST_STEPS_MAX, ..limits }, deadline);
            let found = Counterexample::find(history, &partitions[at], &mut shrinker, &mut patience);
            Verdict::NotLinearizable(Box::new(found))
        }
    }
}

/// Does `work` in several threads at once; the lowest of what they could not decide.
fn side_by_side(
    threads: usize,
    work: &(impl Fn() -> Option<(usize, Bound)> + Sync),
) -> Option<(usize, Bound)> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().expect("a search does not panic"));
        results.flatten().min_by_key(|(at, _)| *at)
    })
}

/// Searches for an order of one key's operations, and proves the one it finds.
fn search(history: &History, partition: &[Entry], patience: &mut Patience) -> Found {
    let mut register = Register::new(history, partition);
    let found = Search::new(&mut register).run(patience);
    if let Found::Order(order) = &found {
        let order = order.iter().map(|op| register.entry(*op));
        if let Err(fault) = replay::prove(history, partition, order) {
            panic!("the search found an order that is none: {fault}");
        }
    }
    found
}

/// A moment of real time.
#[derive(Clone, Copy)]
struct Deadline(std::time::Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "a limit of real time, which no simulated run sets")]
    fn after(time: Duration) -> Deadline {
        let now = std::time::Instant::now();
        Deadline(now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX))))
    }

    #[expect(clippy::disallowed_methods, reason = "a limit of real time, which no simulated run sets")]
    fn passed(self) -> bool {
        std::time::Instant::now() >= self.0
    }
}

/// What is left of the limits of one search.
pub(crate) struct Patience {
    memory_bytes_max: usize,
    steps_left: u64,
    deadline: Option<Deadline>,
    /// Steps until memory and time are looked at again.
    countdown: u32,
}

/// How often memory and time are looked at, in steps.
const LOOK_EVERY: u32 = 256;

impl Patience {
    fn new(limits: &Limits, deadline: Option<Deadline>) -> Patience {
        let Limits { memory_bytes_max, steps_max: steps_left, .. } = *limits;
        Patience { memory_bytes_max, steps_left, deadline, countdown: 1 }
    }

    /// The steps that are left.
    pub(crate) fn steps_left(&self) -> u64 {
        self.steps_left
    }

    /// Takes a step; the limit it reaches, if one.
    pub(crate) fn spend(&mut self, bytes: impl Fn() -> usize) -> Option<Bound> {
        if self.steps_left == 0 {
            return Some(Bound::Steps);
        }
        self.steps_left -= 1;
        self.countdown -= 1;
        if self.countdown > 0 {
            return None;
        }
        self.countdown = LOOK_EVERY;
        if bytes() > self.memory_bytes_max {
            return Some(Bound::Memory);
        }
        self.deadline.is_some_and(Deadline::passed).then_some(Bound::Time)
    }
}
