//! Ordered bytes with atomic batches, and the layers that the state machine keeps over them.
//!
//! Two rooms in one. Below is an *engine*: something that keeps sorted rows on a disk, behind the trait [`Store`].
//! There are two, sled ([`sled_engine`], the default) and memory ([`memory`], for simulation at speed). Above lie the
//! *layers*: applied rows first go to a table in memory, and reach the engine in large sorted runs at checkpoints.
//! Why: `docs/adr/0002-table-before-sled.md`.
//!
//! ```text
//!   apply ──► active table ──freeze──► frozen table ──checkpoint job──► engine (store.N)
//!                  └───────────────┬───────────┴──────────────────────────┘
//!   reads ◄──── merged at one revision
//! ```
//!
//! A read takes the three layers as they are at one moment, under one lock, and then works without it. It sees
//! nothing torn, because rows are immutable: a row is a key at a revision, written once, and a read looks only at
//! revisions that were published before it began. Only physical removal of compacted history takes rows away, and
//! that keeps below the oldest revision that any read has pinned.
//!
//! Deliberately absent: locks held during a scan, deletion of live rows, and any notion of which key is newest
//! outside of revision order.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

use std::io;
use std::ops::ControlFlow;

pub mod engine;
pub(crate) mod home;
pub(crate) mod layers;
pub mod memory;
pub mod power_safe;
pub(crate) mod rows;
#[path = "sled.rs"]
pub mod sled_engine;
pub(crate) mod table;

pub use engine::{AfterFlush, StoreKind};
pub use memory::MemoryPlatter;
pub use sled_engine::SledOptions;

use raft::state_machine::StateMachineError;

/// The engine failed, or holds something that it never should. The node stops (rule 2).
#[derive(Debug, thiserror::Error)]
#[error("{context}: {source}")]
pub struct StoreError {
    /// What was being done, and to what.
    pub context: String,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    /// An error of the operating system, with what was being done.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self { context: context.into(), source }
    }

    /// Something was read that cannot be right.
    pub fn corrupt(context: impl Into<String>, what: impl Into<String>) -> Self {
        Self { context: context.into(), source: io::Error::new(io::ErrorKind::InvalidData, what.into()) }
    }
}

impl From<StoreError> for StateMachineError {
    fn from(error: StoreError) -> Self {
        Self { context: error.context, source: error.source }
    }
}

/// One change of one row: the new value, or `None` to remove it.
pub type RowChange = (Vec<u8>, Option<Vec<u8>>);

/// What a scan calls with each row's key and value. It must not call the store itself.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An engine: rows in byte order.
///
/// Durability has one door: nothing survives a crash for certain before [`flush`](Self::flush) has returned, and
/// everything written before that call does afterwards.
pub trait Store: Send + Sync {
    /// The value of one row.
    ///
    /// # Errors
    /// The disk failed.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows every row from `from` on, up to but not including `to`, in order, until `visit` breaks. Not a
    /// snapshot: rows that change meanwhile may be seen either way.
    ///
    /// # Errors
    /// The disk failed.
    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Changes rows, all of them or, after a crash, none.
    ///
    /// # Errors
    /// The disk failed.
    fn write(&self, changes: Vec<RowChange>) -> Result<(), StoreError>;

    /// Changes rows one after the other, in the order given: after a crash, any number of the first ones may be
    /// there. For rows of which no reader knows yet, and that would be written again.
    ///
    /// # Errors
    /// The disk failed.
    fn load(&self, changes: Vec<RowChange>) -> Result<(), StoreError>;

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// The disk failed.
    fn flush(&self) -> Result<(), StoreError>;

    /// How many bytes it takes on its disk.
    ///
    /// # Errors
    /// The disk failed.
    fn disk_bytes(&self) -> Result<u64, StoreError>;
}
