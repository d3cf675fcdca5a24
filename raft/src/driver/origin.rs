//! The first start of a node whose cluster is restored from a backup.
//!
//! Restoring puts one snapshot file into `<data-dir>/restore`, of no cluster and with nobody's configuration. The
//! members form a new cluster as always, and the record says what state it begins with
//! ([`formation`](crate::formation)). Then each makes the state its own, before its log counts as created:
//!
//! 1. the file becomes a snapshot of the new cluster, with the configuration that it was formed with;
//! 2. the log is made to begin behind the snapshot's entry, in its term.
//!
//! From there on it is a node whose store is behind its log, which boot rebuilds from the snapshot. Each step may be
//! broken off and done again, and only when all are durable does the identity say that there is a log.
//!
//! That the entries up to there are taken for committed is safe: every member that forms the cluster has them, each
//! one's log begins at the same entry, and a node that does not have them (one that is added later) cannot win a vote
//! of one that does (§3.6.1).

use std::io;
use std::path::Path;

use crate::core::{HardState, LogId, SnapshotMeta};
use crate::disk::{Disk, SharedDisk};
use crate::identity::{ClusterRecord, Identity};
use crate::snapshot::{NO_CLUSTER, Origin, SnapshotDir, restore_dir};
use crate::wal::{Wal, WalError, WalIdentity};

use super::boot::StartError;
use super::options::NodeOptions;

/// What the data directory holds to begin with; all of it is verified.
pub(super) fn find(disk: &SharedDisk, data_dir: &Path) -> Result<Option<Origin>, StartError> {
    let dir = restore_dir(data_dir);
    let at = |source| StartError::DataDir { path: dir.clone(), source };
    if !disk.exists(&dir).map_err(at)? || disk.list(&dir).map_err(at)?.is_empty() {
        return Ok(None);
    }
    let staged = SnapshotDir::open(disk.clone(), &dir, NO_CLUSTER)?;
    let Some(file) = staged.newest() else { return Ok(None) };
    staged.reader(&file)?.verify()?;
    Ok(Some(file.origin()))
}

/// What this node's cluster began with, if the node is one of those that formed it.
pub(super) fn of(identity: &Identity, record: &ClusterRecord) -> Option<Origin> {
    record.origin.filter(|_| record.members.contains_key(&identity.member))
}

/// Makes the state that is to be restored a snapshot of the cluster.
pub(super) fn adopt(
    disk: &SharedDisk,
    data_dir: &Path,
    record: &ClusterRecord,
    origin: Origin,
    snapshots: &SnapshotDir,
) -> Result<(), StartError> {
    if snapshots.newest().is_some_and(|file| file.meta.last == origin.last) {
        return Ok(());
    }
    let dir = restore_dir(data_dir);
    let missing = || StartError::OriginMissing { dir: dir.clone(), origin };
    let staged = SnapshotDir::open(disk.clone(), &dir, NO_CLUSTER)?;
    let file = staged.newest().filter(|file| file.origin() == origin).ok_or_else(missing)?;
    let meta = SnapshotMeta { last: origin.last, configuration: record.configuration() };
    let mut writer = snapshots.create(&meta)?;
    let copied = io::copy(&mut staged.reader(&file)?, &mut writer);
    copied.map_err(|source| StartError::DataDir { path: dir.clone(), source })?;
    writer.commit()?;
    Ok(())
}

/// Makes a log that begins behind `last`. The identity does not know yet that there is one.
pub(super) fn begin_log(
    disk: &SharedDisk,
    dir: &Path,
    identity: WalIdentity,
    options: &NodeOptions,
    last: LogId,
) -> Result<(), StartError> {
    let mut wal = match Wal::create(disk.clone(), dir, identity, options.wal) {
        Ok(wal) => wal,
        // An earlier start was broken off here. Nobody was promised anything yet.
        Err(WalError::AlreadyExists { dir: at }) => {
            let (wal, found) = Wal::open(disk.clone(), dir, identity, options.wal)?;
            let begun = found.entries.is_empty() && (found.prev == LogId::ZERO || found.prev == last);
            if !begun || found.hard_state.voted_for.is_some() {
                return Err(WalError::AlreadyExists { dir: at }.into());
            }
            wal
        }
        Err(error) => return Err(error.into()),
    };
    // The log goes on in a later term than the one it begins in (§3.3): an entry of an earlier one would not fit it.
    wal.append(Some(HardState { term: last.term, voted_for: None }), &[])?;
    wal.sync()?;
    Ok(wal.reset(last)?)
}

/// Removes what was restored from, once the node has a log. What a crash leaves is removed at the next start.
pub(super) fn clear(disk: &dyn Disk, data_dir: &Path) -> Result<(), StartError> {
    let dir = restore_dir(data_dir);
    let at = |source| StartError::DataDir { path: dir.clone(), source };
    if !disk.exists(&dir).map_err(at)? {
        return Ok(());
    }
    for name in disk.list(&dir).map_err(at)? {
        disk.remove_file(&dir.join(name)).map_err(at)?;
    }
    Ok(())
}
