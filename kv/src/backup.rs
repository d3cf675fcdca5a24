//! Backups: what is in one, and how a new cluster is made of it.
//!
//! A backup is a snapshot file of a live cluster, as any member writes it: the state at one entry, to which everything
//! belongs that was acknowledged before the backup was asked for. Every byte of it is under a checksum, and it needs
//! nothing beside itself.
//!
//! Restoring makes the data directory of one member of a *new* cluster. What is kept, and what is not:
//!
//! - **Keys, their history, and cluster time** are kept as they are.
//! - **The revision** goes on from the backup's, and by default jumps ahead. Clients of the lost cluster may have seen
//!   revisions behind the backup; a compare with one of those must not come out true by accident, so none is used twice.
//! - **Sessions** are not kept. A session promises that each of its commands is done once, in one history. The restored
//!   cluster is another history: it lacks what came after the backup, which a client would take for done. So the client is told that its session is no more, and
//!   finds out.
//! - **The cluster's id, its members and their disks' incarnations** are new: the members form the new cluster at their
//!   first start, and only with others that begin with the same file.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

use std::io::Write;
use std::path::{Path, PathBuf};

use raft::core::{LogId, SnapshotMeta};
use raft::disk::SharedDisk;
use raft::snapshot::{NO_CLUSTER, Origin, SnapshotDir, SnapshotError, open_loose, restore_dir};

use crate::command::Revision;
use crate::state_machine::snapshot::{Input, Stream};
use crate::store::StoreError;

/// How far the revision of a restored cluster is ahead of its backup's, if nothing else is asked for: more than any
/// cluster writes between two backups.
pub const REVISION_BUMP: u64 = 1_000_000_000;

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The cluster that it was taken in; [`NO_CLUSTER`] in a file that was made to be restored.
    pub cluster: u128,
    /// The last entry that is in it.
    pub last: LogId,
    /// Its members then.
    pub members: Vec<u64>,
    /// The revision then.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// Cluster time, in milliseconds.
    pub cluster_time_ms: u64,
    /// Keys that have a value.
    pub keys: u64,
    /// Versions of keys, deletions included.
    pub versions: u64,
    /// Sessions that were open.
    pub sessions: u64,
    /// The length of the file.
    pub bytes: u64,
    /// The hash over the effects of all entries.
    pub state_hash: u64,
}

/// A backup cannot be read or restored; one line for a human.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be opened, is damaged, or is no snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The state in it makes no sense, or cannot be read or written.
    #[error("{}: {source}", .path.display())]
    State {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        source: StoreError,
    },
    /// There is something in the way.
    #[error("{} is not empty: a member is restored into an empty directory", .path.display())]
    NotEmpty {
        /// The data directory.
        path: PathBuf,
    },
    /// The directory cannot be used.
    #[error("{}: {source}", .path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl BackupError {
    /// Whether the file itself is at fault: it was read, and is not what it should be.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Snapshot(error) => error.is_damage(),
            Self::State { source, .. } => matches!(
                source.source.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
            ),
            Self::NotEmpty { .. } | Self::Directory { .. } => false,
        }
    }
}

/// Reads a backup from beginning to end, verifies all of it, and tells what it holds.
///
/// # Errors
/// See [`BackupError`].
pub fn inspect(disk: &SharedDisk, path: &Path) -> Result<Backup, BackupError> {
    let (label, mut reader) = open_loose(disk, path)?;
    let at = |source| BackupError::State { path: path.to_owned(), source };
    let (head, mut input) = Input::open(&mut reader).map_err(at)?;
    let (mut keys, mut versions, mut key) = (0, 0, None);
    while let Some((this, version)) = input.next_row().map_err(at)? {
        versions += 1;
        // The newest version of a key comes first.
        if key.as_ref() != Some(&this) {
            keys += u64::from(version.value.is_some());
            key = Some(this);
        }
    }
    if head.meta.applied != label.meta.last {
        let what = format!("it holds the state at {} and is labelled {}", head.meta.applied, label.meta.last);
        return Err(at(StoreError::corrupt("read a snapshot", what)));
    }
    drop(input);
    // The state has ended; the file has, too, if its footer says so.
    reader.verify()?;
    Ok(Backup {
        cluster: label.cluster,
        last: label.meta.last,
        members: label.meta.configuration.members().into_iter().map(|id| id.0).collect(),
        revision: head.meta.revision,
        compacted: head.meta.compacted,
        cluster_time_ms: head.meta.cluster_time_ms,
        keys,
        versions,
        sessions: head.sessions.len() as u64,
        bytes: label.bytes,
        state_hash: head.meta.chain.0,
    })
}

/// Makes `data_dir`, which must be empty, that of a member of a new cluster which begins with the backup, its revision
/// `bump` further on. The member is then started as any new one, and so are the others, restored from the same file.
///
/// # Errors
/// See [`BackupError`]. After an error the directory may be tried again, or removed.
pub fn restore(
    disk: &SharedDisk,
    path: &Path,
    data_dir: &Path,
    bump: u64,
) -> Result<(Backup, Origin), BackupError> {
    let backup = inspect(disk, path)?;
    let dir = restore_dir(data_dir);
    let in_dir = |source| BackupError::Directory { path: data_dir.to_owned(), source };
    if disk.exists(data_dir).map_err(in_dir)? {
        let names = disk.list(data_dir).map_err(in_dir)?;
        // What an earlier attempt left is in nobody's way.
        let begun = names.iter().all(|name| dir.ends_with(name))
            && (names.is_empty() || SnapshotDir::open(disk.clone(), &dir, NO_CLUSTER)?.newest().is_none());
        if !begun {
            return Err(BackupError::NotEmpty { path: data_dir.to_owned() });
        }
    }
    disk.create_dir_all(data_dir).map_err(in_dir)?;
    for ancestor in data_dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
        // One that may not be read is the operator's own.
        let _ = disk.sync_dir(ancestor);
    }
    let staged = SnapshotDir::open(disk.clone(), &dir, NO_CLUSTER)?;
    let (label, mut reader) = open_loose(disk, path)?;
    let at = |source| BackupError::State { path: path.to_owned(), source };
    let (mut head, mut input) = Input::open(&mut reader).map_err(at)?;
    head.meta.revision = head.meta.revision.saturating_add(bump);
    head.sessions.clear();
    // Who is a member, the new cluster decides.
    let meta = SnapshotMeta { last: label.meta.last, configuration: raft::core::Configuration::default() };
    let mut writer = staged.create(&meta)?;
    let mut out = Stream::begin(&mut writer, &head.meta, &head.sessions).map_err(at)?;
    while let Some((key, version)) = input.next_row().map_err(at)? {
        out.row(&key, version).map_err(at)?;
    }
    out.end().map_err(at)?;
    writer.flush().map_err(in_dir)?;
    let file = writer.commit()?;
    Ok((backup, file.origin()))
}
