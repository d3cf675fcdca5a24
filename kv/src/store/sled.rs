//! The sled engine, and the recipe under which it survives a loss of power.
//!
//! sled 0.34.7 as it comes does not. What it takes, each item found by replaying random subsets of its unsynced
//! writes:
//!
//! - `sync_file_range` and `rename` are replaced for the process ([`power_safe`]).
//! - No flusher thread (`flush_every_ms(None)`), and only the synchronous `flush`.
//! - Segments of 512 KiB, rows of at most 6 KiB with keys of at most 480 bytes (`rows`): larger log messages would
//!   become blobs, which sled never syncs. After every flush `blobs/` must be empty.
//! - A half-written `snap.*.generating` makes every later open fail: such files are removed before open. They are
//!   superseded by nothing, since the rename that would have made them valid did not happen.
//! - `conf` is not synced by sled: a new store is filled, flushed, and then every file and directory of it is
//!   synced, before any record names it. Until then it is a leftover that the next open removes.
//! - That the store is the one that was there, and not an empty one, is checked from outside (`home`).
//!
//! A [`sled::Batch`] keeps its rows in a hash table, so a large one is written in random order; and while it is
//! written, all readers wait. So only the small batch that ends a checkpoint is one. The rows before it are inserted
//! one by one, in order.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::engine::AfterFlush;
use super::{RowChange, Store, StoreError, Visit, power_safe};

const SEGMENT_BYTES: usize = 512 * 1024;
/// A store of this process that was just closed may keep its lock for a moment, until its threads are done.
const LOCK_ATTEMPTS_MAX: u32 = 20_000;

/// How to keep rows in sled.
#[derive(Clone)]
pub struct SledOptions {
    /// The directory for the stores, one directory `store.N` each: a real one, even in simulation, since sled does
    /// its own I/O.
    pub root: PathBuf,
    /// The size of sled's page cache in bytes.
    pub cache_bytes: u64,
    /// The size of sled's segments in bytes, a power of two. What sled writes at once (a leaf of about 16 rows) must
    /// fit in a quarter of one. Smaller ones are opened faster.
    pub segment_bytes: usize,
    /// Called with the store's directory after each flush, when no write of ours is under way. The simulator takes
    /// its crash image there.
    pub after_flush: Option<AfterFlush>,
}

impl SledOptions {
    /// Stores under `root`, with a cache of 64 MiB and segments of 512 KiB.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), cache_bytes: 64 << 20, segment_bytes: SEGMENT_BYTES, after_flush: None }
    }

    fn dir(&self, number: u64) -> PathBuf {
        self.root.join(format!("store.{number}"))
    }

    /// Makes sure that the root is there.
    pub(crate) fn prepare(&self) -> Result<(), StoreError> {
        let context = || format!("prepare {}", self.root.display());
        std::fs::create_dir_all(&self.root).map_err(|e| StoreError::io(context(), e))?;
        if let Some(parent) = self.root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_path(parent)?;
        }
        power_safe::assert_active(&self.root).map_err(|e| StoreError::io(context(), e))
    }

    /// The numbers of the stores that are there, whole or not.
    pub(crate) fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let context = || format!("list {}", self.root.display());
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(|e| StoreError::io(context(), e))? {
            let name = entry.map_err(|e| StoreError::io(context(), e))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("store."));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens a store that is there; `None` if it is not, or if sled finds it damaged.
    pub(crate) fn open(&self, number: u64) -> Result<Option<SledStore>, StoreError> {
        let dir = self.dir(number);
        if !dir.is_dir() {
            return Ok(None);
        }
        remove_half_written_snapshots(&dir)?;
        match open_db(&dir, self) {
            Ok(db) => Ok(Some(SledStore { db, dir, after_flush: self.after_flush.clone() })),
            Err(sled::Error::Corruption { at, .. }) => {
                tracing::error!(store = %dir.display(), ?at, "sled finds the store damaged");
                Ok(None)
            }
            // sled compares its settings with ours whatever their checksum says.
            Err(sled::Error::Unsupported(why)) if !are_settings(&dir.join("conf")) => {
                tracing::error!(store = %dir.display(), why, "sled's settings of the store are damaged");
                Ok(None)
            }
            Err(error) => Err(failure(&dir, "open", error)),
        }
    }

    /// Makes an empty store.
    pub(crate) fn create(&self, number: u64) -> Result<SledStore, StoreError> {
        self.remove(number)?;
        let dir = self.dir(number);
        let db = open_db(&dir, self).map_err(|error| failure(&dir, "create", error))?;
        Ok(SledStore { db, dir, after_flush: self.after_flush.clone() })
    }

    /// Removes a store, whole or not; one that is not there is fine.
    pub(crate) fn remove(&self, number: u64) -> Result<(), StoreError> {
        let dir = self.dir(number);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(format!("remove {}", dir.display()), error))
            }
            _ => Ok(()),
        }
    }
}

fn open_db(dir: &Path, options: &SledOptions) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(options.cache_bytes)
        .segment_size(options.segment_bytes)
        .flush_every_ms(None);
    let mut attempts = 0;
    loop {
        match config.open() {
            // sled says so in words only.
            Err(sled::Error::Io(error))
                if error.to_string().starts_with("could not acquire lock")
                    && attempts < LOCK_ATTEMPTS_MAX =>
            {
                attempts += 1;
                std::thread::yield_now();
            }
            opened => return opened,
        }
    }
}

fn failure(dir: &Path, what: &str, error: sled::Error) -> StoreError {
    StoreError::io(format!("{what} the sled store {}", dir.display()), error.into())
}

/// Whether a store's file of settings holds what sled can have written there, be it with other options than ours.
fn are_settings(path: &Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return true };
    let text = bytes.split_last_chunk::<4>().and_then(|(text, _checksum)| std::str::from_utf8(text).ok());
    let mut lines = text.unwrap_or_default().lines();
    let segment_bytes =
        lines.next().and_then(|line| line.strip_prefix("segment_size: ")?.parse::<usize>().ok());
    segment_bytes.is_some_and(usize::is_power_of_two) && lines.eq(["use_compression: false", "version: 0.34"])
}

fn sync_path(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|e| StoreError::io(format!("sync {}", path.display()), e))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read = std::fs::read_dir(dir).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    read.map_err(|e| StoreError::io(format!("list {}", dir.display()), e))
}

fn remove_half_written_snapshots(dir: &Path) -> Result<(), StoreError> {
    for path in entries(dir)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            std::fs::remove_file(&path)
                .map_err(|e| StoreError::io(format!("remove {}", path.display()), e))?;
        }
    }
    sync_path(dir)
}

/// An open sled store.
pub(crate) struct SledStore {
    db: sled::Db,
    dir: PathBuf,
    after_flush: Option<AfterFlush>,
}

impl SledStore {
    fn fail(&self, what: &str, error: sled::Error) -> StoreError {
        failure(&self.dir, what, error)
    }

    /// Makes the whole of a new store durable: what sled flushes, and what it does not.
    pub(crate) fn seal(&self) -> Result<(), StoreError> {
        let before = power_safe::range_syncs();
        self.db.flush().map_err(|error| self.fail("flush", error))?;
        if cfg!(target_os = "linux") {
            let calls = power_safe::range_syncs() - before;
            assert!(
                calls > 0 || before > 0,
                "sled's sync_file_range is the C library's own in this executable"
            );
        }
        for path in entries(&self.dir)? {
            sync_path(&path)?;
        }
        sync_path(&self.dir)?;
        if let Some(root) = self.dir.parent() {
            sync_path(root)?;
        }
        self.check_blobs()?;
        self.call_after_flush();
        Ok(())
    }

    fn check_blobs(&self) -> Result<(), StoreError> {
        let blobs = entries(&self.dir.join("blobs"))?.len();
        if blobs != 0 {
            let what = format!("{blobs} blobs, which sled never syncs: a row was too large");
            return Err(StoreError::corrupt(format!("flush the sled store {}", self.dir.display()), what));
        }
        Ok(())
    }

    fn call_after_flush(&self) {
        if let Some(after_flush) = &self.after_flush {
            after_flush(&self.dir);
        }
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.db.get(key).map_err(|error| self.fail("read", error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let rows = match to {
            Some(to) if from >= to => return Ok(()),
            Some(to) => self.db.range(from..to),
            None => self.db.range(from..),
        };
        for row in rows {
            let (key, value) = row.map_err(|error| self.fail("scan", error))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|error| self.fail("write", error))
    }

    fn load(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        for (key, value) in changes {
            let done = match value {
                Some(value) => self.db.insert(key, value),
                None => self.db.remove(key),
            };
            done.map_err(|error| self.fail("write", error))?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|error| self.fail("flush", error))?;
        self.check_blobs()?;
        self.call_after_flush();
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.db.size_on_disk().map_err(|error| self.fail("measure", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_settings_are_a_damaged_store_and_other_settings_are_not() {
        let root = tempfile::tempdir().unwrap();
        let options = SledOptions::new(root.path());
        options.prepare().unwrap();
        drop(options.create(1).unwrap());
        let conf = options.dir(1).join("conf");
        let whole = std::fs::read(&conf).unwrap();
        assert!(are_settings(&conf), "{}", String::from_utf8_lossy(&whole));
        let mut damaged = 0;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&conf, bytes).unwrap();
            match options.open(1) {
                Ok(store) => damaged += usize::from(store.is_none()),
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
        assert!(damaged > 40, "{damaged} of {}", whole.len());
        std::fs::write(&conf, whole).unwrap();
        assert!(options.open(1).unwrap().is_some());
        // Chosen by the operator: nothing is lost, and nothing is thrown away.
        let other = SledOptions { segment_bytes: 2 * SEGMENT_BYTES, ..options };
        assert!(other.open(1).is_err_and(|error| error.to_string().contains("buffer size")));
    }
}
