//! What the user of the library brings: a state that entries are applied to.
//!
//! All methods are called on the driver's apply lane, one at a time, except the closures that
//! [`StateMachine::begin_checkpoint`] and [`StateMachine::begin_snapshot`] return: those run on a lane of their own
//! while entries go on being applied, and must work from the cut that was taken when they were made.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::{Configuration, Entry, Index, LogId, SnapshotMeta};

/// The state is beyond use here: the disk failed, or holds something that cannot be read. The node stops (rule 2).
///
/// A command that the state machine *refuses* is not an error in this sense: the refusal is the replicated
/// response, the same on every node.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {source}")]
pub struct StateMachineError {
    /// What was being done, and to what.
    pub context: String,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// How far the state has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied.
    pub last: LogId,
    /// The configuration in force there; `None` while no entry or snapshot has brought one, that is, while the
    /// configuration the cluster was formed with still holds.
    pub configuration: Option<Configuration>,
}

/// Writes a checkpoint; returns the last entry that is then durable in the state machine's own store.
///
/// A state machine that lives in memory alone has no store, and answers with the last entry of the cut all the same:
/// what it has forgotten at the next start is made anew from the newest snapshot and the log, which is kept from there.
pub type CheckpointJob = Box<dyn FnOnce() -> Result<LogId, StateMachineError> + Send>;

/// Writes the state of the cut, as bytes that [`StateMachine::install`] understands.
pub type SnapshotJob = Box<dyn FnOnce(&mut dyn Write) -> Result<(), StateMachineError> + Send>;

/// A deterministic state machine with a store of its own.
///
/// The contract: equal entries in equal order give equal states and equal responses on every node. No clock, no
/// random numbers, no iteration in an order that differs between processes (rule 12).
pub trait StateMachine: Send + 'static {
    /// What applying a command answers.
    type Response: Send + 'static;

    /// How far the state has come: after opening, what the store durably holds (which may be behind what was
    /// once applied; those entries are applied again from the log).
    fn applied(&self) -> Applied;

    /// Applies contiguous entries, the first one right behind [`applied`](Self::applied), and answers one response
    /// an entry. Data and applied position change together, or not at all.
    ///
    /// # Errors
    /// The store failed.
    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Self::Response>, StateMachineError>;

    /// About how many bytes have been applied since the last checkpoint began: what a checkpoint would write.
    /// The driver begins one when this passes its limit.
    fn unsaved_bytes(&self) -> u64;

    /// Takes a cut now; the returned job makes it durable. The driver has at most one such job at a time.
    fn begin_checkpoint(&mut self) -> CheckpointJob;

    /// Takes a cut now, at [`applied`](Self::applied); the returned job writes it out. Several may run at a time.
    fn begin_snapshot(&mut self) -> SnapshotJob;

    /// Replaces the whole state by that of a snapshot, durably and atomically: after a crash there is either the
    /// old state or the new one. Called only with a snapshot newer than [`applied`](Self::applied).
    ///
    /// # Errors
    /// The store failed, or the snapshot does not hold what it should; the old state is then still in place.
    fn install(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StateMachineError>;

    /// The hashes of the state, if the state machine keeps any: then nodes compare them, and one whose state is not that
    /// of a quorum stops. Asked for once, at the start.
    fn hash_trail(&self) -> Option<Arc<HashTrail>> {
        None
    }

    /// The state is wrong: sees to it, durably, that it is not found again when the state machine is next opened. The
    /// node stops right after.
    ///
    /// # Errors
    /// The store failed.
    fn condemn(&mut self, _why: &str) -> Result<(), StateMachineError> {
        Ok(())
    }
}

/// How many entries back a trail remembers.
const TRAIL_MAX: usize = 1 << 16;

/// A hash that runs along the log, as it was after each of the last entries applied: of everything that was done up to
/// there. Hashes that differ once must go on differing.
#[derive(Debug, Default)]
pub struct HashTrail {
    hashes: Mutex<Hashes>,
}

#[derive(Debug, Default)]
struct Hashes {
    /// The index of the first.
    first: u64,
    values: VecDeque<u64>,
}

impl HashTrail {
    fn lock(&self) -> MutexGuard<'_, Hashes> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state is now that of `index`; what came before is not known.
    pub fn reset(&self, index: Index, hash: u64) {
        *self.lock() = Hashes { first: index.0, values: VecDeque::from([hash]) };
    }

    /// The next entry was applied.
    pub fn record(&self, index: Index, hash: u64) {
        let mut hashes = self.lock();
        if hashes.values.is_empty() {
            hashes.first = index.0;
        }
        let next = hashes.first + hashes.values.len() as u64;
        assert_eq!(index.0, next, "the hash of entry {index} is recorded in the place of {next}");
        if hashes.values.len() == TRAIL_MAX {
            hashes.values.pop_front();
            hashes.first += 1;
        }
        hashes.values.push_back(hash);
    }

    /// The hash after entry `index`, if it is remembered.
    #[must_use]
    pub fn at(&self, index: Index) -> Option<u64> {
        self.lock().at(index.0)
    }

    /// Some of the hashes, in order: the newest, and others at doubling distances from it, down to the oldest.
    pub(crate) fn newest(&self) -> Vec<(Index, u64)> {
        let hashes = self.lock();
        let Some(back) = (hashes.values.len() as u64).checked_sub(1) else { return Vec::new() };
        let last = hashes.first + back;
        let distances = (0..63).map(|power| (1_u64 << power) - 1).take_while(|distance| *distance < back);
        let mut points: Vec<_> = distances.chain([back]).map(|distance| last - distance).collect();
        points.reverse();
        points.into_iter().filter_map(|at| Some((Index(at), hashes.at(at)?))).collect()
    }

    /// At most `max` hashes between two indexes, neither of them included, evenly apart, in order.
    pub(crate) fn between(&self, from: Index, to: Index, max: usize) -> Vec<(Index, u64)> {
        let hashes = self.lock();
        let first = (from.0 + 1).max(hashes.first);
        let count = to.0.saturating_sub(first);
        let step = count.div_ceil(max as u64).max(1);
        let mut indexes: Vec<u64> = (0..count.div_ceil(step)).map(|n| first + n * step).collect();
        // The one right before the end closes the gap when all the others agree.
        if let Some(last) = indexes.last_mut() {
            *last = to.0 - 1;
        }
        indexes.into_iter().filter_map(|at| Some((Index(at), hashes.at(at)?))).collect()
    }
}

impl Hashes {
    fn at(&self, index: u64) -> Option<u64> {
        let at = index.checked_sub(self.first)?;
        self.values.get(usize::try_from(at).ok()?).copied()
    }
}
