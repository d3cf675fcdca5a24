//! What is said on the stream of a snapshot.
//!
//! ```text
//! sender     Begin        Chunk m  Chunk m+1 ..  Chunk n-1  End          (Ping, when there is nothing else to say)
//! receiver          From m         Progress m+1 ..          Delivered    (Progress, also while it works; or Failed)
//! ```
//!
//! A transfer has a number of its own, drawn by the sender, that every frame repeats; chunks are counted from 0. A
//! frame of another transfer or out of turn ends the stream (rule 6): a file is made of the chunks of one snapshot,
//! or not at all. At most [`WINDOW`] chunks are under way without having been written to the receiver's disk, and all
//! transfers of a node together keep to a [`Pace`].
//!
//! When a stream breaks, the receiver keeps what it has verified and written. If the same sender then begins with the
//! same file, known by its [`FileName`], the receiver asks for the rest only. Every chunk is verified by itself, and
//! the footer confirms length and checksum of the whole, whether it came in one piece or in several. What is kept does
//! not survive the receiver's process, and is thrown away after [`KEPT_MAX`].

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Monotonic};
use crate::core::{SnapshotMeta, Term};
use crate::snapshot::SnapshotFile;

/// How many chunks may be under way.
pub(super) const WINDOW: u64 = 4;

/// How long the beginning of a file is kept for the rest to come.
pub(super) const KEPT_MAX: Duration = Duration::from_secs(300);

/// How many times in a row a transfer may break without a single new chunk before it has to begin anew.
pub(super) const FRUITLESS_MAX: u32 = 3;

/// Tells one file from every other, also from one that was made of the same entries at another time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileName {
    /// What the snapshot stands for.
    pub(super) meta: SnapshotMeta,
    /// The length of the file.
    pub(super) bytes: u64,
    /// The checksum of its state.
    pub(super) checksum: u32,
}

impl FileName {
    pub(super) fn of(file: &SnapshotFile) -> Self {
        Self { meta: file.meta.clone(), bytes: file.bytes, checksum: file.checksum }
    }
}

/// From the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// A snapshot follows.
    Begin { transfer: u64, term: Term, file: FileName },
    /// A piece of its file, as it lies on the sender's disk.
    Chunk { transfer: u64, number: u64, bytes: Bytes },
    /// That was all.
    End { transfer: u64, chunks: u64 },
    /// Still here. Answered with [`Reply::Progress`].
    Ping,
}

/// From the receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Begin with this chunk: those before it are here.
    From { transfer: u64, chunk: u64 },
    /// So many chunks are verified and written.
    Progress { transfer: u64, chunks: u64 },
    /// The file is whole, verified and durable.
    Delivered { transfer: u64 },
    /// It will not be.
    Failed { transfer: u64, why: String },
}

/// How fast all transfers together may go.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When what was let through so far has had its time.
    free_at: Mutex<Monotonic>,
}

impl Pace {
    /// 0 is as fast as it will go.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::default() }
    }

    /// Waits until it is the turn of `bytes`. Who asks first goes first.
    pub(super) async fn wait(&self, clock: &dyn Clock, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let takes = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = clock.now().max(*free_at);
            *free_at = begin + takes;
            begin
        };
        if begin > clock.now() {
            clock.sleep_until(begin).await;
        }
    }
}
