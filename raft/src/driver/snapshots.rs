//! When a snapshot file is due, and who waits for one.

use std::collections::BTreeSet;

use crate::core::{Entry, Index, LogId, NodeId};
use crate::snapshot::SnapshotFile;

/// Decides about snapshot files; writes none itself.
pub(super) struct Snapshots {
    newest: Option<SnapshotFile>,
    /// Whether one is being written.
    taking: bool,
    /// Followers that need one newer than the newest.
    waiting: BTreeSet<NodeId>,
    /// Bytes of log applied since the newest one was begun.
    log_bytes: u64,
    entries_min: u64,
    log_bytes_min: u64,
}

impl Snapshots {
    pub(super) fn new(newest: Option<SnapshotFile>, entries_min: u64, log_bytes_min: u64) -> Self {
        Self { newest, taking: false, waiting: BTreeSet::new(), log_bytes: 0, entries_min, log_bytes_min }
    }

    pub(super) fn newest(&self) -> Option<(LogId, u64)> {
        self.newest.as_ref().map(|file| (file.meta.last, file.bytes))
    }

    pub(super) fn newest_index(&self) -> Option<Index> {
        self.newest.as_ref().map(|file| file.meta.last.index)
    }

    /// These are about to be applied.
    pub(super) fn applying(&mut self, entries: &[Entry]) {
        self.log_bytes += entries.iter().map(Entry::size_bytes).sum::<u64>();
    }

    /// Whether a snapshot should be begun now, `applied` being the last entry applied; if so, it is taken as begun.
    ///
    /// Waiting until the log since then is as large as the file itself bounds what writing snapshots costs.
    pub(super) fn is_due(&mut self, applied: Index) -> bool {
        let (index, file_bytes) = self.newest.as_ref().map_or((0, 0), |f| (f.meta.last.index.0, f.bytes));
        applied.0 >= index + self.entries_min
            && self.log_bytes >= self.log_bytes_min.max(file_bytes)
            && self.begin()
    }

    /// Takes a snapshot as begun; false if one is under way already.
    pub(super) fn begin(&mut self) -> bool {
        if self.taking {
            return false;
        }
        self.taking = true;
        self.log_bytes = 0;
        true
    }

    /// The snapshot that was begun is written. Returns the followers that wait for it.
    pub(super) fn taken(&mut self, file: SnapshotFile) -> BTreeSet<NodeId> {
        self.taking = false;
        self.arrived(file);
        std::mem::take(&mut self.waiting)
    }

    /// A snapshot file is in the directory, written here or received.
    pub(super) fn arrived(&mut self, file: SnapshotFile) {
        if self.newest_index().is_none_or(|newest| newest < file.meta.last.index) {
            self.newest = Some(file);
        }
    }

    /// The file to send to a follower, whose log must be continued from `compacted` on. Without one the follower
    /// waits for the next.
    pub(super) fn for_peer(&mut self, peer: NodeId, compacted: Index) -> Option<SnapshotFile> {
        match &self.newest {
            Some(file) if file.meta.last.index >= compacted => Some(file.clone()),
            _ => {
                self.waiting.insert(peer);
                None
            }
        }
    }

    /// Followers are another leader's business now.
    pub(super) fn lost_leadership(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Configuration, Payload, SnapshotMeta, Term};

    fn file(index: u64, bytes: u64) -> SnapshotFile {
        let meta = SnapshotMeta { last: LogId::new(1, index), configuration: Configuration::default() };
        SnapshotFile::for_tests(meta, bytes)
    }

    fn entries(n: u64) -> Vec<Entry> {
        (1..=n).map(|i| Entry { term: Term(1), index: Index(i), payload: Payload::Noop }).collect()
    }

    #[test]
    fn a_snapshot_is_due_by_entries_and_by_bytes_and_one_at_a_time() {
        let mut snapshots = Snapshots::new(None, 10, 100);
        snapshots.applying(&entries(9));
        assert!(!snapshots.is_due(Index(9)), "nine entries are too few");
        assert!(snapshots.is_due(Index(10)));
        snapshots.applying(&entries(50));
        assert!(!snapshots.is_due(Index(60)), "one is under way");
        snapshots.taken(file(10, 1_000_000));
        assert!(!snapshots.is_due(Index(60)), "the log since then is smaller than the file");
    }

    #[test]
    fn a_follower_behind_the_newest_file_waits_for_the_next() {
        let mut snapshots = Snapshots::new(Some(file(10, 1)), 10, 100);
        assert!(snapshots.for_peer(NodeId(2), Index(10)).is_some());
        assert!(snapshots.for_peer(NodeId(3), Index(11)).is_none());
        assert_eq!(snapshots.taken(file(20, 1)), BTreeSet::from([NodeId(3)]));
        assert_eq!(snapshots.taken(file(15, 1)), BTreeSet::new());
        assert_eq!(
            snapshots.newest_index(),
            Some(Index(20)),
            "an older file does not take the newest's place"
        );
    }
}
