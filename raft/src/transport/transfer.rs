//! What is said on the stream of a snapshot.
//!
//! ```text
//! sender     Begin  Chunk 0  Chunk 1 ..  Chunk n-1  End          (Ping, when there is nothing else to say)
//! receiver          Progress 1 ..        Progress n  Delivered   (Progress, also while it works; or Failed)
//! ```
//!
//! A transfer has a number of its own, drawn by the sender, that every frame repeats; chunks are counted from 0. A
//! frame of another transfer or out of turn ends the stream (rule 6): a file is made of the chunks of one snapshot,
//! or not at all. At most [`WINDOW`] chunks are under way without having been written to the receiver's disk.
//!
//! A broken transfer begins anew with the first chunk; what was staged is thrown away. Going on where it broke would
//! need proof that the sender still sends the same bytes, and saves little on a network that breaks rarely.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::core::{SnapshotMeta, Term};

/// How many chunks may be under way.
pub(super) const WINDOW: u64 = 4;

/// From the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    /// A snapshot follows.
    Begin { transfer: u64, term: Term, meta: SnapshotMeta },
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
    /// So many chunks are verified and written.
    Progress { transfer: u64, chunks: u64 },
    /// The file is whole, verified and durable.
    Delivered { transfer: u64 },
    /// It will not be.
    Failed { transfer: u64, why: String },
}
