//! What the user of the library brings: a state that entries are applied to.
//!
//! All methods are called on the driver's apply lane, one at a time, except the closures that
//! [`StateMachine::begin_checkpoint`] and [`StateMachine::begin_snapshot`] return: those run on a lane of their own
//! while entries go on being applied, and must work from the cut that was taken when they were made.

use std::io::{Read, Write};

use crate::core::{Configuration, Entry, LogId, SnapshotMeta};

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
}
