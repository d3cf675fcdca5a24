//! The durable log: term, vote and entries, on a disk that may lose or tear whatever was not synced.
//!
//! # What it is
//! A directory of *segments*. Each is a file of fixed size, full of zeros or of an earlier use before it is written,
//! so that an fsync of it changes no metadata. It begins with a header: whose log this is, the hard state at that
//! time, and the entry before its first one. Records follow back to back: entries, hard states, and *marks* that
//! tell how far the log was durable. The bytes are described in `format`.
//!
//! The log is the segments read in order. A segment whose `prev` lies inside what came before cuts the rest of
//! that, so a cut is one new segment and is as atomic as one rename; so is the reset after a snapshot was
//! installed, whose segment says that nothing before it counts.
//!
//! # Rules
//! - Acknowledged is durable (§3.8 of Ongaro's dissertation; rule 1): [`Wal::append`] promises nothing,
//!   [`Wal::sync`] does. One sync serves all appends before it, and one write too.
//! - Structural changes (a new segment, a cut, a reset, a compaction) are durable when they return (rule 4). Before
//!   a segment is begun, all that its `prev` stands on is synced. Segments leave the front of the log one by one,
//!   each removal made durable before the next, so that no crash leaves a hole.
//! - A record passes only in its own place: its checksum goes on from the record before it, and from a header whose
//!   sequence number is never used twice. What an earlier use of the file left behind, or what was moved there by
//!   a disk, does not pass.
//! - Torn is not corrupt (rule 3). Whatever is bad behind the point up to which syncs are *known* to have completed
//!   is cut. Before it, the log loses what stands behind the damage, and keeps a mark of how far it had come, durably
//!   and from the same moment on: a node with such a mark takes part in no election that could cost what it lost
//!   (`core::damage`). See `recovery`. What was synced is known as such from the next group
//!   or the next [`Wal::attest`] on; in between, damage to the last synced group is taken for a torn tail.
//! - Fail-stop (rule 2): after any failed call the log is poisoned, and every later call fails. Only a new process
//!   looks again at what the disk holds, and writes again what may never have reached it.
//! - A log that should be there and is not is an error, never an empty log: an empty log would forget its votes.
//!
//! # What it relies on
//! A sector of 512 bytes is written whole or not at all, and a rename is atomic. A synced byte stays; where it does
//! not, the checksums tell.
//!
//! # Deliberately absent
//! Reading: the log since the last compaction is in the core's memory, and is read here only at recovery. Use of what
//! stands whole behind damage: it comes again from a leader. Checksums that tell a *cut-off* log (an old copy restored) from a whole one.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod error;
mod folder;
mod format;
mod inspect;
mod recovery;
mod scrub;
mod tail;
mod terms;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::core::{Damage, Entry, HardState, Index, LogId, NodeId};
use crate::disk::SharedDisk;
use crate::mutant;

pub use error::WalError;
pub use inspect::{Inspection, SegmentContent, SegmentInspection, inspect};

use error::Context;
use folder::{Beginning, Folder, Segment};
use format::Standing;
use recovery::{End, OpenEnd, Survey};
use scrub::Scrub;
use tail::Tail;
use terms::Terms;

/// How the log uses its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// The size of a segment's file, in bytes. One that must hold a larger entry is made larger.
    pub segment_bytes: u64,
    /// How many files of old segments are kept to be used again. With 0, new segments are not prepared ahead.
    pub recycled_max: usize,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, recycled_max: 2 }
    }
}

/// Whose log it is; stands in every segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalIdentity {
    /// The cluster.
    pub cluster: u128,
    /// The member of it.
    pub member: NodeId,
    /// The member's incarnation: drawn anew when its disk was empty.
    pub incarnation: u64,
}

impl fmt::Display for WalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "member {} of cluster {:032x}, incarnation {:016x}",
            self.member, self.cluster, self.incarnation
        )
    }
}

/// What a log held when it was opened. All of it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The entry before the first of `entries`: where the log was compacted or reset, or the last one that was not
    /// retained.
    pub prev: LogId,
    /// The entries, contiguous from `prev` on.
    pub entries: Vec<Entry>,
    /// What all entries take, those not retained included.
    pub entries_bytes: u64,
    /// About how much had been written without being synced, and was cut; for logs only.
    pub torn_bytes: u64,
    /// The log lost entries to damage and has not got them back: it may have held more than `entries`. The mark is
    /// durable; it is gone by itself once the log has come to that entry again.
    pub damage: Option<Damage>,
    /// Where damage was found just now, and cut.
    pub fault: Option<Fault>,
}

/// Which entries a log that is opened brings into memory: all behind `applied`, and before that the newest that `bytes`
/// hold. What is not brought stays in the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retain {
    /// The last entry that the state holds.
    pub applied: Index,
    /// How much of the log is kept for others that lag.
    pub bytes: u64,
}

/// Damage to what was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub reason: String,
}

impl From<Fault> for WalError {
    fn from(Fault { path, offset, reason }: Fault) -> Self {
        Self::Corrupt { path, offset, reason }
    }
}

/// The log's extent, for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalStats {
    /// What all files of the log take on disk.
    pub bytes: u64,
    /// Live segments.
    pub segments: usize,
    /// Files kept to be used again.
    pub spares: usize,
    /// The entry before the first.
    pub prev: LogId,
    /// The last entry; `prev` if there is none.
    pub last: LogId,
    /// Term and vote, as last appended.
    pub hard_state: HardState,
    /// How often everything that is no longer appended to was read again and found good, since the log was opened.
    pub scrubs: u64,
}

/// The durable log of one node. Synchronous: it belongs on a lane of [`Blocking`](crate::blocking::Blocking).
///
/// Dropping it does no I/O. To close it well, call [`attest`](Self::attest) first.
pub struct Wal {
    folder: Folder,
    /// Live segments, oldest first; the last one is open as `tail`. Invariant: never empty, and each one's `prev`
    /// is the `last` of the one before, and lies behind that one's own `prev`.
    segments: VecDeque<Segment>,
    tail: Tail,
    /// As last appended; the tail's may be one behind while a segment is begun.
    hard_state: HardState,
    terms: Terms,
    scrub: Scrub,
    /// The first failure, after which nothing is done any more.
    poisoned: Option<String>,
}

impl Wal {
    /// Whether there is a log in `dir`.
    ///
    /// # Errors
    /// The disk failed.
    pub fn exists(disk: &SharedDisk, dir: &Path) -> Result<bool, WalError> {
        if !disk.exists(dir).during("look for", dir)? {
            return Ok(false);
        }
        let names = disk.list(dir).during("list", dir)?;
        Ok(names.iter().any(|name| folder::is_segment(name)))
    }

    /// Makes an empty log, durably, the directory included.
    ///
    /// A log that nothing was ever appended to is replaced, whatever cluster it was made for: forming a cluster may
    /// have been broken off and begun anew.
    ///
    /// # Errors
    /// There is a log with something in it, or the disk failed.
    pub fn create(
        disk: SharedDisk,
        dir: &Path,
        identity: WalIdentity,
        options: WalOptions,
    ) -> Result<Self, WalError> {
        disk.create_dir_all(dir).during("create directory", dir)?;
        let parent = dir.parent().unwrap_or(dir);
        disk.sync_dir(parent).during("sync directory", parent)?;
        let (mut folder, found) = Folder::open(disk, dir, identity, options)?;
        let mut is_virgin = found.headless.is_empty();
        for part in &found.segments {
            is_virgin = is_virgin && recovery::is_virgin(part)?;
        }
        if !is_virgin {
            return Err(WalError::AlreadyExists { dir: dir.to_owned() });
        }
        let beginning = Beginning { origin: true, standing: Standing::default(), discards_from: 0 };
        let begun = folder.begin(&beginning, 0)?;
        for old in found.segments.iter().rev() {
            folder.retire(&recovery::segment_of(old, 0))?;
        }
        let (segment, tail) = Tail::begun(begun, Vec::new());
        Ok(Self {
            folder,
            segments: VecDeque::from([segment]),
            tail,
            hard_state: HardState::default(),
            terms: Terms::starting_after(LogId::ZERO),
            scrub: Scrub::default(),
            poisoned: None,
        })
    }

    /// Opens the log and tells what it holds. Of a damaged log that is what stands before the damage, and how far it
    /// had come: see [`Recovered::damage`].
    ///
    /// # Errors
    /// There is no log, it is another's, it is damaged so that its vote is not known, or the disk failed.
    pub fn open(
        disk: SharedDisk,
        dir: &Path,
        identity: WalIdentity,
        options: WalOptions,
    ) -> Result<(Self, Recovered), WalError> {
        Self::open_if(disk, dir, identity, options, Retain::default(), |_| true)
    }

    /// Opens the log like [`open`](Self::open), but brings only what is to be retained into memory, and opens one that
    /// is damaged only if `may_cut`, which is told up to where entries are lost, if any are: else it is left as it is.
    ///
    /// # Errors
    /// As for [`open`](Self::open); and [`WalError::Corrupt`] if the log is damaged and may not be cut.
    pub fn open_if(
        disk: SharedDisk,
        dir: &Path,
        identity: WalIdentity,
        options: WalOptions,
        retain: Retain,
        may_cut: impl FnOnce(Option<LogId>) -> bool,
    ) -> Result<(Self, Recovered), WalError> {
        let missing = || WalError::Missing { dir: dir.to_owned() };
        if !disk.exists(dir).during("look for", dir)? {
            return Err(missing());
        }
        let (folder, found) = Folder::open(disk, dir, identity, options)?;
        let survey = recovery::survey(folder.identity, found, retain)?.ok_or_else(missing)?;
        if let End::Damaged { fault, .. } = &survey.end
            && !may_cut(survey.standing.damage)
        {
            return Err(fault.clone().into());
        }
        Self::resume(folder, survey)
    }

    /// Makes durable what was found, and goes on behind it.
    fn resume(mut folder: Folder, survey: Survey) -> Result<(Self, Recovered), WalError> {
        let Survey { prev, entries, entries_bytes, standing, live, dead, end } = survey;
        let Standing { hard_state, lease_ms, damage, .. } = standing;
        let terms = Terms::of(prev, &entries);
        let damage = damage.map(|last| Damage { last, lease_ms });
        let mut recovered =
            Recovered { hard_state, prev, entries, entries_bytes, torn_bytes: 0, damage, fault: None };
        let (segments, tail) = match end {
            End::Open(end) => {
                recovered.torn_bytes = end.torn_bytes;
                Self::go_on(&mut folder, live, &dead, end, standing)?
            }
            End::Damaged { fault, discards_from } => {
                recovered.fault = Some(fault);
                Self::cut_damage(&mut folder, live, &dead, standing, discards_from)?
            }
        };
        let (segments, scrub) = (segments.into(), Scrub::default());
        let wal = Self { folder, segments, tail, hard_state, terms, scrub, poisoned: None };
        Ok((wal, recovered))
    }

    /// Goes on in the newest segment.
    ///
    /// All of this may be broken off and done again: it repeats bytes that are there, adds a mark behind them, and
    /// removes segments that do not count.
    fn go_on(
        folder: &mut Folder,
        live: Vec<Segment>,
        dead: &[Segment],
        end: OpenEnd,
        standing: Standing,
    ) -> Result<(Vec<Segment>, Tail), WalError> {
        for segment in dead.iter().rev() {
            crate::sometimes!("wal/dead-segment-at-recovery");
            folder.retire(segment)?;
        }
        let OpenEnd { newest, bytes, scan, .. } = end;
        let capacity = live.last().map_or(0, |segment| segment.bytes);
        let mut tail = Tail::found(newest, scan, capacity, standing);
        tail.settle(&bytes)?;
        Ok((live, tail))
    }

    /// Goes on in a new segment behind what stands before the damage.
    ///
    /// Its header says what was lost and what no longer counts, so cut and mark are as atomic as one rename. Before
    /// it nothing is changed, and the damage is found again; after it, it is found as cut. What stands before the
    /// damage is durable: it lies below the attested point, or in a segment that had a successor.
    fn cut_damage(
        folder: &mut Folder,
        mut live: Vec<Segment>,
        dead: &[Segment],
        standing: Standing,
        discards_from: u64,
    ) -> Result<(Vec<Segment>, Tail), WalError> {
        let beginning = Beginning { origin: live.is_empty(), standing, discards_from };
        let begun = folder.begin(&beginning, 0)?;
        for segment in dead.iter().rev() {
            folder.retire(segment)?;
        }
        let (segment, tail) = Tail::begun(begun, Vec::new());
        live.push(segment);
        Ok((live, tail))
    }

    /// Appends `hard_state`, then `entries`, which are contiguous. If the log holds entries from the first one's
    /// index on, they are cut first, durably. What is appended is durable after the next [`sync`](Self::sync).
    ///
    /// # Errors
    /// The disk failed, now or before.
    ///
    /// # Panics
    /// The entries are not contiguous with the log or among each other, reach behind its beginning, or a term goes
    /// back: the caller has lost track of its log.
    pub fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) -> Result<(), WalError> {
        self.guarded(|wal| wal.append_all(hard_state, entries))
    }

    fn append_all(&mut self, hard_state: Option<HardState>, entries: &[Entry]) -> Result<(), WalError> {
        if let Some(new) = hard_state {
            let old = self.hard_state;
            assert!(old.term <= new.term, "the term goes back from {} to {}", old.term, new.term);
            self.hard_state = new;
        }
        if let Some(first) = entries.first() {
            self.cut_from(first.index)?;
        }
        // Before the entries: a torn tail then never holds an entry of a term that the node does not know of.
        if let Some(new) = hard_state {
            self.make_room(format::HARD_STATE_BYTES)?;
            self.tail.put_hard_state(new);
        }
        for entry in entries {
            let (last, id) = (self.last(), entry.log_id());
            assert!(id.index == last.index.next() && id.term >= last.term, "entry {id} behind entry {last}");
            self.make_room(format::entry_bytes(entry))?;
            self.tail.put_entry(entry)?;
            self.terms.push(id);
        }
        Ok(())
    }

    /// Cuts the log so that `from` is the next index.
    fn cut_from(&mut self, from: Index) -> Result<(), WalError> {
        if from > self.last().index {
            return Ok(());
        }
        let prev = self.prev();
        assert!(from > prev.index, "a cut from {from} on would reach behind {prev}, where the log begins");
        crate::sometimes!("wal/cut");
        let keep = LogId { term: self.terms.at(from.prev()), index: from.prev() };
        self.begin_segment(keep, 0, false)
    }

    fn make_room(&mut self, record_bytes: u64) -> Result<(), WalError> {
        if self.tail.has_room(record_bytes) {
            return Ok(());
        }
        crate::sometimes!("wal/segment-full");
        self.begin_segment(self.last(), Tail::segment_bytes_for(record_bytes), false)
    }

    /// Begins a segment of at least `needed` bytes behind the entry `prev`, and cuts what the log holds behind
    /// that; with `replace`, it holds nothing else any more.
    fn begin_segment(&mut self, prev: LogId, needed: u64, replace: bool) -> Result<(), WalError> {
        if !replace {
            // The entries up to `prev` must not be lost once there is a segment that goes on behind them.
            self.tail.sync()?;
        }
        let kept =
            if replace { 0 } else { self.segments.iter().filter(|s| s.prev.index < prev.index).count() };
        if mutant!("trunc-order") {
            while self.segments.len() > kept {
                let Some(segment) = self.segments.remove(kept) else { break };
                self.folder.retire(&segment)?;
            }
        }
        let Standing { lease_ms, damage, .. } = self.tail.standing();
        let damage = damage.filter(|lost| prev < *lost);
        let standing = Standing { last: prev, hard_state: self.hard_state, lease_ms, damage };
        let begun = self.folder.begin(&Beginning { origin: replace, standing, discards_from: 0 }, needed)?;
        let buffer = self.tail.take_buffer();
        let (segment, tail) = Tail::begun(begun, buffer);
        self.tail = tail;
        while self.segments.len() > kept
            && let Some(segment) = self.segments.pop_back()
        {
            self.folder.retire(&segment)?;
        }
        if let Some(before) = self.segments.back_mut() {
            before.last = prev;
        }
        self.segments.push_back(segment);
        if replace {
            self.terms = Terms::starting_after(prev);
        } else {
            self.terms.cut_behind(prev.index);
        }
        Ok(())
    }

    /// Makes all that was appended durable: at most one write and one fsync.
    ///
    /// # Errors
    /// The disk failed, now or before.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.guarded(|wal| {
            wal.tail.sync()?;
            wal.folder.keep_pace(wal.tail.position())
        })
    }

    /// Syncs, and records durably how far; does nothing if that is recorded. To be called soon after the log fell
    /// idle and when it is closed: until then, damage to the last synced group looks like a torn tail.
    ///
    /// # Errors
    /// The disk failed, now or before.
    pub fn attest(&mut self) -> Result<(), WalError> {
        self.guarded(|wal| wal.tail.attest())
    }

    /// Reads and verifies about `bytes_max` more of what was written long ago.
    ///
    /// # Errors
    /// Damage was found ([`WalError::Decayed`]), or the disk failed, now or before: either way the log is poisoned.
    pub fn scrub(&mut self, bytes_max: u64) -> Result<(), WalError> {
        self.guarded(|wal| {
            let sealed = wal.segments.iter().take(wal.segments.len().saturating_sub(1));
            wal.scrub.step(&wal.folder, sealed, bytes_max)
        })
    }

    /// Lets go of the segments all of whose entries are at or before `through`; durable when it returns. The log
    /// then begins at or before `through`.
    ///
    /// # Errors
    /// The disk failed, now or before.
    pub fn compact(&mut self, through: Index) -> Result<(), WalError> {
        self.guarded(|wal| wal.compact_segments(through))
    }

    fn compact_segments(&mut self, through: Index) -> Result<(), WalError> {
        let last = self.last().index;
        assert!(through <= last, "compaction through {through}, but the log ends at {last}");
        let full = self.segments.len().saturating_sub(1);
        let unneeded = self.segments.iter().take(full).take_while(|s| s.last.index <= through).count();
        for i in 0..unneeded {
            let at = if mutant!("trunc-order") { unneeded - 1 - i } else { 0 };
            if let Some(segment) = self.segments.remove(at) {
                crate::sometimes!("wal/segment-compacted");
                self.folder.retire(&segment)?;
            }
        }
        self.terms.cut_before(self.prev().index);
        Ok(())
    }

    /// Replaces the log by an empty one that begins after `prev`, and keeps the hard state: to be called once a
    /// snapshot up to `prev` is installed. Durable when it returns; after a crash in between, the log is either
    /// the old one or the new one. Doing it again changes nothing.
    ///
    /// # Errors
    /// The disk failed, now or before.
    pub fn reset(&mut self, prev: LogId) -> Result<(), WalError> {
        self.guarded(|wal| {
            if wal.prev() == prev && wal.last() == prev {
                return wal.tail.sync();
            }
            crate::sometimes!("wal/begun-anew");
            wal.begin_segment(prev, 0, true)
        })
    }

    /// The log's extent.
    #[must_use]
    pub fn stats(&self) -> WalStats {
        let live = self.segments.iter().map(|segment| segment.bytes).sum::<u64>();
        WalStats {
            bytes: live + self.folder.idle_bytes(),
            segments: self.segments.len(),
            spares: self.folder.spares(),
            prev: self.prev(),
            last: self.last(),
            hard_state: self.hard_state,
            scrubs: self.scrub.passes,
        }
    }

    fn prev(&self) -> LogId {
        self.segments.front().map_or(self.last(), |segment| segment.prev)
    }

    /// The last entry, or the `prev` of an empty log.
    fn last(&self) -> LogId {
        self.tail.standing().last
    }

    /// Does `work`, unless an earlier call failed; if it fails, it is the last.
    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<(), WalError>) -> Result<(), WalError> {
        if let Some(cause) = &self.poisoned {
            return Err(WalError::Poisoned { cause: cause.clone() });
        }
        work(self).inspect_err(|error| self.poisoned = Some(error.to_string()))
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("stats", &self.stats())
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}
