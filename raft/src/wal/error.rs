//! What can go wrong with the log, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::{Fault, WalIdentity};

/// The log cannot be opened, or can no longer be trusted. Each kind says what to do.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk refused a call. The log is then poisoned: the node must stop (rule 2).
    #[error("{operation} {}: {source}; the node stops here, check the disk and start it again", .path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An earlier call failed, so nothing is known about what is durable (rule 2).
    #[error("the log is stopped since an earlier failure ({cause}); start the node again")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// There should be a log, and there is none. It is never taken for an empty one: that would forget votes.
    #[error(
        "no log in {}: this member has an identity, so its log was lost; restore the directory, or remove the member \
         and add it again under a new id", .dir.display()
    )]
    Missing {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A log was to be made where there is one with something in it.
    #[error("{} already holds a log; use another data directory, or remove this one", .dir.display())]
    AlreadyExists {
        /// Where it is.
        dir: PathBuf,
    },
    /// The log belongs to another cluster, member or incarnation.
    #[error("{} belongs to {found}, but this node is {expected}; check the data directory in the configuration", .path.display())]
    WrongIdentity {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is.
        found: WalIdentity,
        /// Who we are.
        expected: WalIdentity,
    },
    /// The log was written in a format that this build does not know.
    #[error("{} has format version {found}, this build reads {known}; use the build that wrote it", .path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// What is known here.
        known: u32,
    },
    /// The scrub found damage in what was written long ago. The log is then poisoned.
    #[error(
        "{} is damaged at offset {}: {}; the node stops here: start it again, and it fetches what it lost from the other \
         members; check the disk", .0.path.display(), .0.offset, .0.reason
    )]
    Decayed(Fault),
    /// What was durable is damaged, and cannot be borne: the vote is lost with it, or nobody else has what is lost.
    /// Nothing is cut.
    #[error(
        "{} is damaged at offset {offset}: {reason}; entries that this node had acknowledged may be lost, so it does \
         not start; restore the directory, or remove the member and add it again under a new id", .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
}

/// Names the operation and the file in an I/O error.
pub(super) trait Context<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, WalError>;
}

impl<T> Context<T> for io::Result<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, WalError> {
        self.map_err(|source| WalError::Io { operation, path: path.to_owned(), source })
    }
}
