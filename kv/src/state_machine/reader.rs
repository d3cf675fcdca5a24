//! Reads beside the apply lane, from any thread.

use std::sync::Arc;

use raft::core::{Index, LogId};

use super::range::{self, Budget, ReadError};
use super::snapshot;
use super::view::Shared;
use crate::command::{Range, RangeResult, Revision};
use crate::limits::RESPONSE_BYTES_MAX;
use crate::store::{Store, StoreError};

/// Reads the state as it was last published. Cheap to clone; stays valid over snapshots that are installed.
///
/// A read waits neither for applies nor for a checkpoint. Whether what it sees is fresh enough, the caller must know:
/// a linearizable read first gets a read index and waits until [`applied`](Self::applied) has reached it.
#[derive(Clone)]
pub struct KvReader {
    shared: Arc<Shared>,
}

/// Sizes, for status pages and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// The bytes of the store on its disk.
    pub disk_bytes: u64,
    /// The bytes applied and not yet in the store: the tables in memory, about.
    pub table_bytes: u64,
    /// The open sessions.
    pub sessions: u64,
    /// The number of the store in use; one higher after each snapshot that was installed.
    pub store_number: u64,
}

impl KvReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Reads a range at one revision: the one asked for, or the newest. If the pairs take more than
    /// [`RESPONSE_BYTES_MAX`], only the first ones are given and `more` is set.
    ///
    /// # Errors
    /// The revision is compacted or not there yet, or the disk failed.
    pub fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
        let view = self.shared.pin(|now| range::readable(range.revision, now.compacted, now.revision))?;
        let mut budget = Budget::new(RESPONSE_BYTES_MAX);
        Ok(range::read(&view.layers, range, view.floor, &mut budget)?)
    }

    /// How many commands changed a key.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shared.lock().published.revision
    }

    /// The oldest revision that can be read.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        self.shared.lock().published.compacted
    }

    /// Cluster time in milliseconds, as of the last entry applied.
    #[must_use]
    pub fn cluster_time_ms(&self) -> u64 {
        self.shared.lock().published.cluster_time_ms
    }

    /// The last entry applied and published.
    #[must_use]
    pub fn applied(&self) -> LogId {
        self.shared.lock().published.applied
    }

    /// A hash over the effects of every entry up to the index. Nodes that differ in it at one index have diverged. It
    /// is part of the state, so that it goes on after a restart or an install.
    #[must_use]
    pub fn state_hash(&self) -> (Index, u64) {
        let published = self.shared.lock().published;
        (published.applied.index, published.chain)
    }

    /// A hash over what can be read: every version from the compaction point on. Reads everything, so it is for tests
    /// and for audits: it finds rows that the store lost, of which [`state_hash`](Self::state_hash) knows nothing.
    /// Independent of how far history was removed physically.
    ///
    /// # Errors
    /// The disk failed.
    pub fn audit(&self) -> Result<(Index, u64), StoreError> {
        let view = self.shared.pin(|now| Ok::<_, StoreError>(now.compacted))?;
        let hash = snapshot::audit(&view.layers, view.published.compacted, view.published.revision)?;
        Ok((view.published.applied.index, hash))
    }

    /// Sizes.
    ///
    /// # Errors
    /// The disk failed.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let (layers, sessions) = {
            let view = self.shared.lock();
            (view.layers.clone(), view.published.sessions as u64)
        };
        Ok(StoreStats {
            disk_bytes: layers.base.disk_bytes()?,
            table_bytes: layers.active.bytes() + layers.frozen.as_ref().map_or(0, |table| table.bytes()),
            sessions,
            store_number: layers.base.number(),
        })
    }
}
