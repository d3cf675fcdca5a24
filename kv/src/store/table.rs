//! The in-memory table that takes applied rows before a checkpoint brings them to the engine.
//!
//! One writer, the apply lane; any number of readers. The writer holds the lock for one insertion, a reader for one
//! bounded step of its scan. What a reader may see is decided by revision alone, not by the lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

use super::rows::Version;
use crate::command::Revision;

/// What one row takes in memory beside key and value, about.
const ROW_OVERHEAD_BYTES: u64 = 144;

/// The versions of one key, oldest first. Most keys have one: it needs no allocation of its own.
#[derive(Debug)]
struct Versions {
    newest: Version,
    older: Vec<Version>,
}

impl Versions {
    /// Newest first.
    fn iter(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.newest).chain(self.older.iter().rev())
    }
}

/// Versions of keys, by key.
#[derive(Debug, Default)]
pub(crate) struct Table {
    keys: RwLock<BTreeMap<Bytes, Versions>>,
    bytes: AtomicU64,
}

impl Table {
    /// Adds the newest version of a key.
    pub(crate) fn insert(&self, key: Bytes, version: Version) {
        let size = key.len() + version.value.as_ref().map_or(0, Bytes::len);
        self.bytes.fetch_add(size as u64 + ROW_OVERHEAD_BYTES, Ordering::Relaxed);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        match keys.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Versions { newest: version, older: Vec::new() });
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let versions = entry.get_mut();
                let (had, got) = (versions.newest.mod_revision, version.mod_revision);
                assert!(had < got, "revision {got} of a key was applied after revision {had}");
                let before = std::mem::replace(&mut versions.newest, version);
                versions.older.push(before);
            }
        }
    }

    /// The newest version of `key` at or below `ceiling`.
    pub(crate) fn get(&self, key: &[u8], ceiling: Revision) -> Option<Version> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(key)?.iter().find(|version| version.mod_revision <= ceiling).cloned()
    }

    /// About how many bytes it takes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// One bounded step of a scan: from `cursor` on, up to but not including `end`, the versions at or below
    /// `ceiling` of at most `limit` keys, newest first, each key's down to the first one at or below `floor`.
    /// Returns where to go on, or `None` at the end.
    pub(crate) fn chunk(
        &self,
        cursor: Bound<&[u8]>,
        end: Option<&[u8]>,
        (floor, ceiling): (Revision, Revision),
        limit: usize,
        mut out: impl FnMut(&Bytes, &Version),
    ) -> Option<Bytes> {
        let to = end.map_or(Bound::Unbounded, Bound::Excluded);
        if let (Bound::Included(from) | Bound::Excluded(from), Some(end)) = (cursor, end)
            && from >= end
        {
            return None;
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let mut last = None;
        for (taken, (key, versions)) in keys.range::<[u8], _>((cursor, to)).enumerate() {
            if taken == limit {
                return last;
            }
            last = Some(key.clone());
            for version in versions.iter().filter(|version| version.mod_revision <= ceiling) {
                out(key, version);
                if version.mod_revision <= floor {
                    break;
                }
            }
        }
        None
    }
}
