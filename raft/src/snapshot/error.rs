//! What can go wrong with a snapshot file, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::format::Fault;
use crate::core::LogId;

/// A snapshot cannot be written, read or accepted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk refused a call.
    #[error("{operation} {}: {source}; check the disk", .path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file is cut off or damaged. It is never installed.
    #[error("{} is damaged at offset {offset}: {reason}; remove it, a leader will send its snapshot", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The file is in a format that this build does not know.
    #[error("{} has format version {found}, which this build does not read; use the build that wrote it", .path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The snapshot is another cluster's.
    #[error("{} belongs to cluster {found:032x}, not to {expected:032x}; check the data directory", .path.display())]
    WrongCluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: u128,
        /// Whose it should be.
        expected: u128,
    },
    /// What a peer sent is not the snapshot it announced. The transfer is dropped and may begin anew.
    #[error("frame {frame} of a snapshot from a peer: {reason}; the transfer is dropped")]
    BadTransfer {
        /// The frame, from 0.
        frame: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A transfer or a writer that failed was used again, or one that is not complete was to be committed.
    #[error("the snapshot {meta} is not complete, or an earlier step failed; begin anew")]
    Incomplete {
        /// The snapshot's last entry.
        meta: LogId,
    },
}

impl SnapshotError {
    /// Whether the file itself is at fault: it could be read, and is not what it should be.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::UnknownFormat { .. })
    }

    pub(super) fn in_file(fault: Fault, path: &Path, offset: u64, expected: u128) -> Self {
        let path = path.to_owned();
        match fault {
            Fault::Version(found) => Self::UnknownFormat { path, found },
            Fault::Cluster(found) => Self::WrongCluster { path, found, expected },
            Fault::Damaged(reason) => Self::Corrupt { path, offset, reason: reason.to_owned() },
        }
    }

    pub(super) fn in_transfer(fault: Fault, frame: u64) -> Self {
        let reason = match fault {
            Fault::Version(found) => format!("format version {found} is not known here"),
            Fault::Cluster(found) => format!("it belongs to cluster {found:032x}"),
            Fault::Damaged(reason) => reason.to_owned(),
        };
        Self::BadTransfer { frame, reason }
    }
}

/// Names the operation and the file in an I/O error.
pub(super) trait Context<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, SnapshotError>;
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::Io { operation, path: path.to_owned(), source })
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
