//! When a snapshot file is due, and who waits for one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::core::{Entry, Index, LogId, NodeId};
use crate::snapshot::{SnapshotDir, SnapshotFile};

use super::space::SpaceWatch;

/// Decides about snapshot files; writes none itself.
pub(super) struct Snapshots {
    dir: Arc<SnapshotDir>,
    /// Whether one is being written.
    taking: bool,
    /// Followers that need one newer than the newest.
    waiting: BTreeSet<NodeId>,
    /// The file last sent to each follower that has not got it whole yet. It is offered again even if there is a newer
    /// one, because the follower keeps what it has got of it; a leader that writes snapshots faster than a slow link
    /// carries them would else begin anew each time.
    sending: BTreeMap<NodeId, SnapshotFile>,
    /// Members that lost their state and are being helped, until the transfer has ended one way or the other.
    helped: BTreeSet<NodeId>,
    /// Who waits for a file that reaches at least so far, beside followers.
    wanted: Vec<(Index, oneshot::Sender<SnapshotFile>)>,
    /// Bytes of log applied since the newest one was begun, in this life of the node.
    log_bytes: u64,
    /// Bytes of log that the newest one does not hold, of earlier lives too.
    unsaved_bytes: u64,
    entries_min: u64,
    log_bytes_min: u64,
}

impl Snapshots {
    pub(super) fn new(dir: Arc<SnapshotDir>, entries_min: u64, log_bytes_min: u64) -> Self {
        Self {
            dir,
            taking: false,
            waiting: BTreeSet::new(),
            sending: BTreeMap::new(),
            helped: BTreeSet::new(),
            wanted: Vec::new(),
            log_bytes: 0,
            unsaved_bytes: 0,
            entries_min,
            log_bytes_min,
        }
    }

    /// The last entry in the newest file, and the file's bytes.
    pub(super) fn newest(&self) -> Option<(LogId, u64)> {
        self.dir.newest().map(|file| (file.meta.last, file.bytes))
    }

    /// These are about to be applied.
    pub(super) fn applying(&mut self, entries: &[Entry]) {
        let bytes = entries.iter().map(Entry::size_bytes).sum::<u64>();
        self.log_bytes += bytes;
        self.unsaved_bytes += bytes;
    }

    /// Whether a snapshot should be begun now, `applied` being the last entry applied; if so, it is taken as begun.
    ///
    /// Waiting until the log since then is as large as the file itself bounds what writing snapshots costs.
    /// One that does not fit on the disk is not due.
    pub(super) fn is_due(&mut self, applied: Index, space: &SpaceWatch) -> bool {
        let (index, file_bytes) = self.newest().map_or((0, 0), |(last, bytes)| (last.index.0, bytes));
        applied.0 >= index + self.entries_min
            && self.log_bytes >= self.log_bytes_min.max(file_bytes)
            && self.begin(space)
    }

    /// Takes a snapshot as begun; false if one is under way already, or would not fit on the disk.
    ///
    /// The state is at most as large as its last snapshot and what was applied since.
    pub(super) fn begin(&mut self, space: &SpaceWatch) -> bool {
        let bytes = self.newest().map_or(0, |(_, bytes)| bytes).saturating_add(self.unsaved_bytes);
        if self.taking || !space.fits(bytes) {
            return false;
        }
        self.unsaved_bytes = 0;
        self.taking = true;
        self.log_bytes = 0;
        true
    }

    /// What was applied before this start.
    pub(super) fn recovered(mut self, bytes: u64) -> Self {
        self.unsaved_bytes = bytes;
        self
    }

    /// Whether followers or others wait for one.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty() || self.wanted.iter().any(|(_, waiter)| !waiter.is_closed())
    }

    /// The snapshot that was begun is written. Returns the followers that wait for it.
    pub(super) fn taken(&mut self, file: &SnapshotFile) -> BTreeSet<NodeId> {
        self.taking = false;
        let waiting = std::mem::take(&mut self.waiting);
        self.sending.extend(waiting.iter().map(|peer| (*peer, file.clone())));
        waiting
    }

    /// Somebody wants a file that reaches at least so far, which is applied here. True if one is to be begun for it.
    pub(super) fn wanted(
        &mut self,
        at_least: Index,
        waiter: oneshot::Sender<SnapshotFile>,
        space: &SpaceWatch,
    ) -> bool {
        match self.dir.newest().filter(|file| file.meta.last.index >= at_least) {
            Some(file) => {
                // Whoever asked may have gone away; so below.
                let _ = waiter.send(file);
                false
            }
            None => {
                self.wanted.push((at_least, waiter));
                self.begin(space)
            }
        }
    }

    /// Gives the file to all for whom it reaches far enough. True if another one is begun, for those for whom it
    /// does not: its cut was made before they asked.
    pub(super) fn hand_out(&mut self, file: &SnapshotFile, space: &SpaceWatch) -> bool {
        for (at_least, waiter) in std::mem::take(&mut self.wanted) {
            if file.meta.last.index >= at_least {
                let _ = waiter.send(file.clone());
            } else if !waiter.is_closed() {
                self.wanted.push((at_least, waiter));
            }
        }
        !self.wanted.is_empty() && self.begin(space)
    }

    /// The file to send to a follower, whose log must be continued from `compacted` on. Without one the follower
    /// waits for the next.
    pub(super) fn for_peer(&mut self, peer: NodeId, compacted: Index) -> Option<SnapshotFile> {
        let reaches = |file: &SnapshotFile| file.meta.last.index >= compacted;
        let begun = self.sending.remove(&peer).filter(reaches);
        let file = begun.or_else(|| self.dir.newest().filter(reaches));
        match &file {
            Some(file) => {
                self.sending.insert(peer, file.clone());
            }
            None => {
                crate::sometimes!("snapshot/follower-waits-for-the-next");
                self.waiting.insert(peer);
            }
        }
        file
    }

    /// A member that lost its state asks for a snapshot. True if it is not being helped already.
    pub(super) fn help(&mut self, peer: NodeId) -> bool {
        self.helped.insert(peer)
    }

    /// A transfer to this member has ended, well or badly: it may ask again.
    pub(super) fn transfer_ended(&mut self, peer: NodeId) {
        self.helped.remove(&peer);
    }

    /// The follower has the whole file, or is not to get it any more.
    pub(super) fn sent(&mut self, peer: NodeId) {
        self.sending.remove(&peer);
    }

    /// Followers are another leader's business now.
    pub(super) fn lost_leadership(&mut self) {
        self.waiting.clear();
        self.sending.clear();
        self.helped.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::core::{Configuration, Payload, SnapshotMeta, Term};
    use crate::disk::RealDisk;

    fn dir(at: &tempfile::TempDir) -> Arc<SnapshotDir> {
        Arc::new(SnapshotDir::open(Arc::new(RealDisk), &at.path().join("snapshots"), 1).unwrap())
    }

    fn write(dir: &SnapshotDir, index: u64, bytes: usize) -> SnapshotFile {
        let configuration = Configuration::of_voters([NodeId(1)]);
        let meta = SnapshotMeta { last: LogId::new(1, index), configuration };
        let mut writer = dir.create(&meta).unwrap();
        writer.write_all(&vec![7; bytes]).unwrap();
        writer.commit().unwrap()
    }

    fn entries(n: u64) -> Vec<Entry> {
        (1..=n).map(|i| Entry { term: Term(1), index: Index(i), payload: Payload::Noop }).collect()
    }

    #[test]
    fn a_snapshot_is_due_by_entries_and_by_bytes_and_one_at_a_time() {
        let at = tempfile::tempdir().unwrap();
        let dir = dir(&at);
        let mut snapshots = Snapshots::new(Arc::clone(&dir), 10, 100);
        let ample = SpaceWatch::having(None, 0);
        snapshots.applying(&entries(9));
        assert!(!snapshots.is_due(Index(9), &ample), "nine entries are too few");
        assert!(snapshots.is_due(Index(10), &ample));
        snapshots.applying(&entries(50));
        assert!(!snapshots.is_due(Index(60), &ample), "one is under way");
        let file = write(&dir, 10, 100_000);
        snapshots.taken(&file);
        assert!(!snapshots.is_due(Index(60), &ample), "the log since then is smaller than the file");
    }

    #[test]
    fn a_snapshot_that_does_not_fit_is_not_begun() {
        let at = tempfile::tempdir().unwrap();
        let dir = dir(&at);
        let file = write(&dir, 10, 1_000);
        let mut snapshots = Snapshots::new(Arc::clone(&dir), 10, 100).recovered(300);
        snapshots.applying(&entries(50));
        let needed = file.bytes + 300 + entries(50).iter().map(Entry::size_bytes).sum::<u64>();
        let short = SpaceWatch::having(Some(needed + 49), 50);
        assert!(!snapshots.is_due(Index(60), &short), "it would end below the critical mark");
        assert!(!snapshots.begin(&short));
        let (waiter, _answer) = oneshot::channel();
        assert!(!snapshots.wanted(Index(60), waiter, &short));
        assert!(snapshots.is_awaited(), "whoever asked waits until there is room");
        assert!(snapshots.is_due(Index(60), &SpaceWatch::having(Some(needed + 50), 50)));
    }

    #[test]
    fn a_transfer_that_failed_goes_on_with_the_same_file() {
        let at = tempfile::tempdir().unwrap();
        let dir = dir(&at);
        write(&dir, 10, 1);
        let mut snapshots = Snapshots::new(Arc::clone(&dir), 10, 100);
        let offered = |snapshots: &mut Snapshots, peer, compacted| {
            snapshots.for_peer(NodeId(peer), Index(compacted)).map(|file| file.meta.last.index.0)
        };
        assert_eq!(offered(&mut snapshots, 2, 5), Some(10));
        write(&dir, 20, 1);
        assert_eq!(offered(&mut snapshots, 2, 10), Some(10), "what it has got of this one is not lost");
        assert_eq!(offered(&mut snapshots, 3, 10), Some(20), "another begins with the newest");
        assert_eq!(offered(&mut snapshots, 2, 11), Some(20), "the log no longer reaches back to it");
        write(&dir, 30, 1);
        snapshots.sent(NodeId(2));
        assert_eq!(offered(&mut snapshots, 2, 11), Some(30), "it had the whole of it");
        assert_eq!(offered(&mut snapshots, 3, 11), Some(20));
        snapshots.lost_leadership();
        assert_eq!(offered(&mut snapshots, 3, 11), Some(30), "that was another leadership");
    }

    #[test]
    fn whoever_wants_a_snapshot_gets_one_that_reaches_as_far_as_he_asked() {
        let at = tempfile::tempdir().unwrap();
        let dir = dir(&at);
        let mut snapshots = Snapshots::new(Arc::clone(&dir), 10, 100);
        let ample = SpaceWatch::having(None, 0);
        let ask = |snapshots: &mut Snapshots, at_least| {
            let (waiter, answer) = oneshot::channel();
            (snapshots.wanted(Index(at_least), waiter, &ample), answer)
        };
        let last =
            |mut answer: oneshot::Receiver<SnapshotFile>| answer.try_recv().map(|f| f.meta.last.index.0);
        let (begin, first) = ask(&mut snapshots, 10);
        assert!(begin, "there is none");
        let (begin, second) = ask(&mut snapshots, 11);
        assert!(!begin, "one is under way");
        let file = write(&dir, 10, 1);
        snapshots.taken(&file);
        assert!(snapshots.hand_out(&file, &ample), "the second asked for more: another is begun");
        assert_eq!(last(first), Ok(10));
        let file = write(&dir, 12, 1);
        snapshots.taken(&file);
        assert!(!snapshots.hand_out(&file, &ample));
        assert_eq!(last(second), Ok(12));
        let (begin, third) = ask(&mut snapshots, 12);
        assert_eq!((begin, last(third)), (false, Ok(12)), "the newest will do");
    }

    #[test]
    fn a_follower_behind_the_newest_file_waits_for_the_next() {
        let at = tempfile::tempdir().unwrap();
        let dir = dir(&at);
        write(&dir, 10, 1);
        let mut snapshots = Snapshots::new(Arc::clone(&dir), 10, 100);
        let held = snapshots.for_peer(NodeId(2), Index(10)).unwrap();
        assert!(snapshots.for_peer(NodeId(3), Index(11)).is_none());
        let newer = write(&dir, 20, 1);
        assert_eq!(snapshots.taken(&newer), BTreeSet::from([NodeId(3)]));
        snapshots.lost_leadership();
        drop(newer);
        assert!(dir.reader(&held).is_ok(), "a file in somebody's hands is not removed");
        drop(held);
        write(&dir, 30, 1);
        let left: Vec<_> = std::fs::read_dir(at.path().join("snapshots")).unwrap().collect();
        assert_eq!(left.len(), 1, "but then it goes: {left:?}");
    }
}
