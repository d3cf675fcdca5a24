//! Backups that clients are reading.
//!
//! A backup is a snapshot file of this node, held for as long as somebody reads it: so it holds back no history in the
//! store, nothing of it is kept in memory, and a slow reader costs disk space and nothing else. Who reads it asks for one
//! frame after the other. So many may be held at a time, and one that nobody has asked for in a while is let go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft::clock::{Monotonic, sleep};
use raft::snapshot::{SnapshotError, SnapshotFile};

use crate::wire::{BackupBegun, NotDone, Outcome, Reply, RequestBody};

use super::service::{Pending, Service, Started, on_lane};

/// Backups that are being read at a time. Each may hold a file that would else be removed.
const BACKUPS_MAX: usize = 4;
/// A backup that nobody has read from for so long is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The backups that are held.
#[derive(Default)]
pub(super) struct Backups {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    last: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    file: SnapshotFile,
    used_at: Monotonic,
}

impl Backups {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self) -> bool {
        self.lock().open.len() >= BACKUPS_MAX
    }

    /// Holds a file; `None` if too many are held.
    fn insert(&self, file: SnapshotFile, now: Monotonic) -> Option<u64> {
        let mut held = self.lock();
        if held.open.len() >= BACKUPS_MAX {
            return None;
        }
        held.last += 1;
        let number = held.last;
        held.open.insert(number, Open { file, used_at: now });
        Some(number)
    }

    fn get(&self, number: u64, now: Monotonic) -> Option<SnapshotFile> {
        let mut held = self.lock();
        let open = held.open.get_mut(&number)?;
        open.used_at = now;
        Some(open.file.clone())
    }

    fn remove(&self, number: u64) {
        self.lock().open.remove(&number);
    }

    /// Whether it is let go: it was idle, or is not held any more.
    fn expire(&self, number: u64, now: Monotonic) -> bool {
        let mut held = self.lock();
        let idle = held.open.get(&number).is_none_or(|open| now.since(open.used_at) >= IDLE_MAX);
        if idle {
            held.open.remove(&number);
        }
        idle
    }
}

impl Service {
    /// Begins what is asked about backups.
    pub(super) fn back_up(self: &Arc<Self>, id: u64, body: RequestBody) -> Result<Started, NotDone> {
        self.ready()?;
        let service = Arc::clone(self);
        let outcome = Box::pin(async move {
            match body {
                RequestBody::BackupBegin => service.begin_backup().await,
                RequestBody::BackupRead { backup, frame } => service.read_backup(backup, frame).await,
                RequestBody::BackupEnd { backup } => {
                    service.backups.remove(backup);
                    Outcome::Done(Reply::BackupEnded)
                }
                other => panic!("{other:?} is no request about a backup"),
            }
        });
        Ok(Started::Pending(Pending::Other { id, outcome }))
    }

    async fn begin_backup(self: &Arc<Self>) -> Outcome {
        let overloaded = || {
            Outcome::NotDone(NotDone::Overloaded { what: format!("{BACKUPS_MAX} backups are being read") })
        };
        if self.backups.is_full() {
            return overloaded();
        }
        let Some(node) = self.node() else { return Outcome::NotDone(NotDone::NotLeader { leader: None }) };
        let file = match node.raft.snapshot().await {
            Ok(file) => file,
            Err(error) => return self.read_index_failed(error),
        };
        let (last, bytes) = (file.meta.last, file.bytes);
        let (raft, counted) = (node.raft.clone(), file.clone());
        let frames = match on_lane(&self.lane, move || raft.snapshot_frames(&counted)?.count()).await {
            Some(Ok(frames)) => frames,
            Some(Err(error)) => return unreadable(&error),
            None => return Outcome::NotDone(NotDone::ShuttingDown),
        };
        let Some(backup) = self.backups.insert(file, self.clock.now()) else { return overloaded() };
        let service = Arc::downgrade(self);
        let clock = Arc::clone(&self.clock);
        tokio::spawn(async move {
            loop {
                sleep(&*clock, IDLE_MAX).await;
                let Some(service) = service.upgrade() else { return };
                if service.is_stopping() || service.backups.expire(backup, clock.now()) {
                    return;
                }
            }
        });
        tracing::info!(backup, %last, bytes, "a client reads a backup");
        Outcome::Done(Reply::Backup(BackupBegun {
            backup,
            index: last.index.0,
            term: last.term.0,
            bytes,
            frames,
        }))
    }

    async fn read_backup(self: &Arc<Self>, backup: u64, frame: u64) -> Outcome {
        let Some(file) = self.backups.get(backup, self.clock.now()) else {
            let reason = format!("there is no backup {backup} here (any more); begin a new one");
            return Outcome::NotDone(NotDone::Invalid { reason });
        };
        let Some(node) = self.node() else { return Outcome::NotDone(NotDone::NotLeader { leader: None }) };
        let raft = node.raft.clone();
        let read = move || -> Result<Option<Bytes>, SnapshotError> {
            let mut frames = raft.snapshot_frames(&file)?;
            frames.skip(frame)?;
            frames.next_chunk()
        };
        match on_lane(&self.lane, read).await {
            Some(Ok(frame)) => Outcome::Done(Reply::BackupFrame(frame.unwrap_or_default())),
            Some(Err(error)) => {
                self.backups.remove(backup);
                unreadable(&error)
            }
            None => Outcome::NotDone(NotDone::ShuttingDown),
        }
    }
}

fn unreadable(error: &SnapshotError) -> Outcome {
    tracing::error!(%error, "a backup cannot be read");
    Outcome::NotDone(NotDone::Invalid { reason: error.to_string() })
}
