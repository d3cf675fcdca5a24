//! Finding out what a log holds after a crash.
//!
//! [`survey`] only reads, so it may be broken off and done again any number of times. What recovery then changes
//! (see [`Wal::open`](super::Wal::open)) repeats what is there or adds to it; nothing is erased in place.
//!
//! - Which segments count is told by their headers alone, from the newest to the oldest: one whose entries all lie
//!   behind the `prev` of a newer one is cut, nothing before an `origin` counts, and nothing that a newer one discards.
//! - A segment that has a successor was durable before that was begun. It must hold every entry up to the
//!   successor's `prev`, or it is damaged.
//! - In the newest segment, the first bad record ends the log. If it stands before the attested point it had been
//!   durable, and this is damage. Behind it, it is a torn tail and is cut.
//!
//! The attested point is the highest that any mark in the segment names, also marks behind the bad record: those
//! are told by their own check, since the chain does not reach them. Whether *records* behind it are valid says
//! nothing, for an unsynced batch may reach the platter in any order.
//!
//! # Damage
//! The log then ends before the damage; what stood behind it is dropped and comes again from a leader. What must not be
//! forgotten is *how far* the log had come, and the vote: both stand in the marks, and one of them stands behind every
//! damage, for it is by a mark that damage is told from a torn tail. From the newest mark on the records are read as
//! ever, up to the first bad one. If the damage lies in an older segment, the newest one is whole and tells by itself.
//! So the only damage that cannot be borne is to the header of the newest segment with no mark left that can be told
//! for its own: the vote is not known, and the log does not open.
//!
//! A group that was synced but is not attested by a later mark (the last one before a crash) can still be taken for a
//! torn tail, here as in a log without damage.

use std::collections::VecDeque;
use std::path::PathBuf;

use crate::core::{Entry, HardState, Index, LogId};
use crate::mutant;

use super::error::Context;
use super::folder::{Files, Found, Headless, Segment};
use super::format::{HEADER_BYTES, Mark, Record, Salt, Standing, decode_record, find_marks, peek_record};
use super::{Fault, Retain, WalError, WalIdentity};

/// What the segments hold.
pub(super) struct Survey {
    pub(super) prev: LogId,
    pub(super) entries: Vec<Entry>,
    /// Of all entries, those that were let go while reading included.
    pub(super) entries_bytes: u64,
    /// Where the log stands behind `entries`.
    pub(super) standing: Standing,
    /// Live segments, oldest first.
    pub(super) live: Vec<Segment>,
    /// Segments that are cut or replaced, or stand behind damage; oldest first.
    pub(super) dead: Vec<Segment>,
    pub(super) end: End,
}

/// How the log goes on.
pub(super) enum End {
    /// In the newest segment, the last of those that are live.
    Open(OpenEnd),
    /// In a new one: the log is damaged here, and all behind it is dropped.
    Damaged { fault: Fault, discards_from: u64 },
}

/// The newest segment, which can be appended to.
pub(super) struct OpenEnd {
    pub(super) newest: Found,
    /// The content of its file.
    pub(super) bytes: Vec<u8>,
    /// Where its log ends, and how far it was attested.
    pub(super) scan: Scan,
    /// At least so much had been written behind the end and was cut.
    pub(super) torn_bytes: u64,
}

/// How far the records of one segment are valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    /// The end of the last valid record.
    pub(super) end: u64,
    /// The checksum that the next record begins from.
    pub(super) chain: u32,
    /// How often the segment had been opened.
    pub(super) openings: u32,
    /// Everything before this had been synced.
    pub(super) attested: u64,
}

/// A segment that counts.
enum Part {
    Whole(Found),
    Headless(Headless),
}

impl Part {
    fn sequence(&self) -> u64 {
        match self {
            Self::Whole(found) => found.header.sequence,
            Self::Headless(headless) => headless.sequence,
        }
    }

    fn to_retire(&self) -> Segment {
        match self {
            Self::Whole(found) => segment_of(found, 0),
            Self::Headless(Headless { path, .. }) => {
                Segment { path: path.clone(), bytes: 0, prev: LogId::ZERO, last: LogId::ZERO }
            }
        }
    }
}

/// Reads the log; `None` if there are no segments.
pub(super) fn survey(
    identity: WalIdentity,
    files: Files,
    retain: Retain,
) -> Result<Option<Survey>, WalError> {
    let (mut parts, mut dead) = sort_out(files);
    for part in &parts {
        if let Part::Whole(found) = part
            && found.header.identity != identity
        {
            let (path, found, expected) = (found.path.clone(), found.header.identity, identity);
            return Err(WalError::WrongIdentity { path, found, expected });
        }
    }
    let Some(newest) = parts.pop() else { return Ok(None) };
    let mut reading = Reading { retain, ..Reading::default() };
    let mut parts = parts.into_iter().peekable();
    while let Some(part) = parts.next() {
        reading.final_through = match parts.peek().unwrap_or(&newest) {
            Part::Whole(next) => next.header.prev().index,
            // It may have cut anything.
            Part::Headless(_) => Index::ZERO,
        };
        reading.take_older(part)?;
    }
    reading.final_through = Index(u64::MAX);
    let mut survey = reading.take_newest(newest, identity)?;
    dead.append(&mut survey.dead);
    dead.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(Survey { dead, ..survey }))
}

/// Parts the segments that count, oldest first, from those that are cut, replaced or discarded: by their headers
/// alone. One whose header is damaged counts unless a newer one says that it does not.
fn sort_out(files: Files) -> (Vec<Part>, Vec<Segment>) {
    let whole = files.segments.into_iter().map(Part::Whole);
    let mut parts: Vec<Part> = whole.chain(files.headless.into_iter().map(Part::Headless)).collect();
    parts.sort_by_key(Part::sequence);
    let (mut live, mut dead) = (Vec::new(), Vec::new());
    let mut newer_prev = None;
    let mut counting_below = u64::MAX;
    for part in parts.into_iter().rev() {
        let cut = match &part {
            Part::Whole(found) => newer_prev.is_some_and(|newer| newer <= found.header.prev().index),
            Part::Headless(_) => false,
        };
        if cut || part.sequence() >= counting_below {
            dead.push(part.to_retire());
            continue;
        }
        if let Part::Whole(found) = &part {
            newer_prev = Some(found.header.prev().index);
            counting_below = match (found.header.origin, found.header.discards_from) {
                (true, _) => 0,
                (false, 0) => counting_below,
                (false, from) => counting_below.min(from),
            };
        }
        live.push(part);
    }
    live.reverse();
    dead.reverse();
    (live, dead)
}

/// The log while its segments are read, oldest first.
#[derive(Default)]
struct Reading {
    log: Option<Replay>,
    retain: Retain,
    /// Up to here the next segment does not cut the log.
    final_through: Index,
    segments: Vec<Segment>,
    /// The segment read last, and how far.
    before: Option<(PathBuf, Scan)>,
    /// Where the log ends early, and the first segment that no longer counts.
    damage: Option<(Fault, u64)>,
    /// Behind damage: segments that no longer count.
    dropped: Vec<Segment>,
    /// What was lost to damage before, and may not have come back.
    lost: Option<LogId>,
    lease_ms: u32,
    bytes: Vec<u8>,
}

impl Reading {
    /// A segment that has a successor.
    fn take_older(&mut self, part: Part) -> Result<(), WalError> {
        match part {
            Part::Headless(headless) => self.drop_headless(&headless),
            Part::Whole(found) => _ = self.take_whole(&found)?,
        }
        Ok(())
    }

    fn drop_headless(&mut self, headless: &Headless) {
        let Headless { sequence, path, reason, .. } = headless;
        let fault = Fault { path: path.clone(), offset: 0, reason: reason.clone() };
        self.damage.get_or_insert((fault, *sequence));
        let (path, bytes) = (path.clone(), 0);
        self.dropped.push(Segment { path, bytes, prev: LogId::ZERO, last: LogId::ZERO });
    }

    /// Reads a segment into the log; `None` if it stands behind damage.
    fn take_whole(&mut self, found: &Found) -> Result<Option<Scan>, WalError> {
        self.lost = self.lost.max(found.header.standing.damage);
        self.lease_ms = self.lease_ms.max(found.header.standing.lease_ms);
        self.join(found)?;
        read_all(found, &mut self.bytes)?;
        let segment = segment_of(found, self.bytes.len());
        if self.damage.is_some() {
            self.dropped.push(segment);
            return Ok(None);
        }
        self.segments.push(segment);
        let Some(log) = &mut self.log else { panic!("a log without a first segment") };
        log.retain = Retain { applied: self.retain.applied.min(self.final_through), ..self.retain };
        let scan = log.read_segment(found, &self.bytes)?;
        self.lease_ms = self.lease_ms.max(log.standing.lease_ms);
        self.before = Some((found.path.clone(), scan));
        Ok(Some(scan))
    }

    /// Cuts what the log holds behind the `prev` of the segment `next`, which must lie in the log: else the log is
    /// damaged.
    fn join(&mut self, next: &Found) -> Result<(), WalError> {
        if self.damage.is_some() {
            return Ok(());
        }
        let standing = next.header.standing;
        let (Some(log), Some((path, scan))) = (&mut self.log, &self.before) else {
            self.log = Some(Replay::behind(standing));
            return Ok(());
        };
        let prev = standing.last;
        let sequence = next.header.sequence;
        let (last, goes_on) = (log.last(), next.path.display());
        if last.index < prev.index {
            let reason = format!("the log breaks off after entry {last}, but {goes_on} goes on after {prev}");
            self.damage = Some((Fault { path: path.clone(), offset: scan.end, reason }, sequence));
            return Ok(());
        }
        log.cut_behind(prev.index);
        if log.last() != prev {
            let reason = format!("it goes on after {prev}, but the segment before it has {}", log.last());
            self.damage = Some((Fault { path: next.path.clone(), offset: 0, reason }, sequence));
            return Ok(());
        }
        if standing.hard_state.term < log.standing.hard_state.term {
            return Err(corrupt(next, 0, "its term is older than that of the segment before it".to_owned()));
        }
        log.standing = standing;
        if let Some(segment) = self.segments.last_mut() {
            segment.last = prev;
        }
        Ok(())
    }

    fn take_newest(mut self, newest: Part, identity: WalIdentity) -> Result<Survey, WalError> {
        let newest = match newest {
            Part::Whole(newest) => newest,
            Part::Headless(headless) => {
                let known = outline_of_headless(&headless, identity)?;
                self.drop_headless(&headless);
                return Ok(self.damaged(known));
            }
        };
        if let Some(mut scan) = self.take_whole(&newest)?
            && let Some(log) = &self.log
        {
            match judge_tail(&newest, &self.bytes, &mut scan, log.last())? {
                Rest::Torn(torn_bytes) => return Ok(self.whole(newest, scan, torn_bytes)),
                Rest::Damaged(fault) => self.damage = Some((fault, newest.header.sequence + 1)),
            }
        }
        let known = outline(newest.salt, Some(newest.header.standing), &self.bytes);
        let Some(known) = known else { panic!("a header tells where the log stood") };
        Ok(self.damaged(known))
    }

    fn whole(mut self, newest: Found, scan: Scan, torn_bytes: u64) -> Survey {
        let Some(log) = self.log else { panic!("a log that was read") };
        let Replay { prev, standing, entries_bytes, .. } = log;
        if let Some(segment) = self.segments.last_mut() {
            segment.last = standing.last;
        }
        let end = End::Open(OpenEnd { newest, bytes: self.bytes, scan, torn_bytes });
        let entries = log.entries.into();
        Survey { prev, entries, entries_bytes, standing, live: self.segments, dead: self.dropped, end }
    }

    /// The log ends before the damage. `known` is where it had come to.
    fn damaged(mut self, known: Standing) -> Survey {
        let Some((fault, discards_from)) = self.damage else { panic!("no damage") };
        let log = self.log.unwrap_or_else(|| Replay::behind(Standing::default()));
        let Replay { prev, standing, entries_bytes, .. } = log;
        let last = standing.last;
        // Those that hold nothing of what is left.
        while let Some(segment) = self.segments.pop_if(|segment| segment.prev.index >= last.index) {
            self.dropped.push(segment);
        }
        if let Some(segment) = self.segments.last_mut() {
            segment.last = last;
        }
        let lost = self.lost.max(known.damage).max(Some(known.last));
        let standing = Standing {
            last,
            hard_state: known.hard_state,
            lease_ms: self.lease_ms.max(known.lease_ms),
            damage: lost.filter(|lost| last < *lost),
        };
        let end = End::Damaged { fault, discards_from };
        let entries = log.entries.into();
        Survey { prev, entries, entries_bytes, standing, live: self.segments, dead: self.dropped, end }
    }
}

/// Where the log stood at the end of a segment that may be damaged: as the newest mark tells, or else the header, and
/// the records behind that. `None` if there is neither.
///
/// Among the marks those of the last opening are the newest: behind a torn tail that was cut, older ones may stand.
fn outline(salt: Salt, header: Option<Standing>, bytes: &[u8]) -> Option<Standing> {
    let behind = |at: u64| usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let marks = find_marks(behind(HEADER_BYTES), salt, HEADER_BYTES);
    let newest = marks.iter().max_by_key(|found| (found.mark.openings, found.end));
    let from_header = header.map(|standing| (standing, HEADER_BYTES, salt.chain()));
    let (mut standing, mut at, mut chain) =
        newest.map(|found| (found.mark.standing, found.end, found.chain)).or(from_header)?;
    while let Some((record, len, next)) = decode_record(behind(at), chain, salt, at) {
        match record {
            Record::Entry(entry) => standing.push(&entry),
            Record::HardState(hard_state) => standing.hard_state = hard_state,
            Record::Mark(_) => {}
        }
        (at, chain) = (at + len, next);
    }
    Some(standing)
}

/// The same of the newest segment when its header is damaged. If its marks cannot be told for its own, the vote is
/// lost: this node must never vote again.
fn outline_of_headless(headless: &Headless, identity: WalIdentity) -> Result<Standing, WalError> {
    let Headless { sequence, path, file, reason } = headless;
    let len = file.len().during("measure", path)?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0).during("read", path)?;
    bytes.truncate(read);
    let salts = Salt::guesses(&bytes, *sequence, identity.incarnation);
    salts.into_iter().find_map(|salt| outline(salt, None, &bytes)).ok_or_else(|| WalError::Corrupt {
        path: path.clone(),
        offset: 0,
        reason: format!("{reason}, and with it term and vote are lost"),
    })
}

/// Whether nothing was ever promised by the log that begins with this segment: what is torn was not.
pub(super) fn is_virgin(part: &Found) -> Result<bool, WalError> {
    let standing = part.header.standing;
    if standing != Standing::default() {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    read_all(part, &mut bytes)?;
    let mut log = Replay::behind(standing);
    let mut scan = log.read_segment(part, &bytes)?;
    let is_whole = matches!(judge_tail(part, &bytes, &mut scan, log.last())?, Rest::Torn(_));
    Ok(is_whole && log.entries.is_empty() && log.standing == standing)
}

pub(super) fn segment_of(part: &Found, bytes: usize) -> Segment {
    let prev = part.header.prev();
    Segment { path: part.path.clone(), bytes: bytes as u64, prev, last: prev }
}

fn corrupt(part: &Found, offset: u64, reason: String) -> WalError {
    WalError::Corrupt { path: part.path.clone(), offset, reason }
}

pub(super) fn read_all(part: &Found, bytes: &mut Vec<u8>) -> Result<(), WalError> {
    let len = part.file.len().during("measure", &part.path)?;
    bytes.clear();
    bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    let read = part.file.read_at(bytes, 0).during("read", &part.path)?;
    bytes.truncate(read);
    Ok(())
}

/// What follows the last valid record of the newest segment.
pub(super) enum Rest {
    /// Nothing, or what was never known to be durable: at least so many bytes of it.
    Torn(u64),
    Damaged(Fault),
}

/// Decides whether what follows the last valid record is a torn tail, and how much of one there is at least.
pub(super) fn judge_tail(part: &Found, bytes: &[u8], scan: &mut Scan, last: LogId) -> Result<Rest, WalError> {
    let rest = usize::try_from(scan.end).ok().and_then(|end| bytes.get(end..)).unwrap_or_default();
    let mut torn_bytes = 0;
    for found in find_marks(rest, part.salt, scan.end) {
        scan.attested = scan.attested.max(found.mark.attested);
        torn_bytes = torn_bytes.max(found.end - scan.end);
    }
    if scan.end < scan.attested && !mutant!("corrupt-as-torn") {
        let reason = format!("the record here is damaged, and was durable: all before {} was", scan.attested);
        return Ok(Rest::Damaged(Fault { path: part.path.clone(), offset: scan.end, reason }));
    }
    // A record that would fit on by its looks was most likely begun here. This is only told, nothing hangs on it:
    // it may as well stem from an earlier use of the file.
    if let Some((id, len)) = peek_record(rest)
        && [last.index, last.index.next()].contains(&id.index)
        && id.term >= last.term
    {
        torn_bytes = torn_bytes.max(len.min(rest.len() as u64));
    }
    if torn_bytes > 0 && mutant!("torn-fatal") {
        return Err(corrupt(part, scan.end, "the record here is not whole".to_owned()));
    }
    Ok(Rest::Torn(torn_bytes))
}

/// The log as read so far.
pub(super) struct Replay {
    pub(super) prev: LogId,
    pub(super) entries: VecDeque<Entry>,
    /// Where the log stands behind `entries`.
    pub(super) standing: Standing,
    /// Which of the oldest entries need not be kept while reading. Invariant: no segment read later cuts at or
    /// before `retain.applied`.
    retain: Retain,
    /// Of `entries`, and of all that were read and not cut.
    kept_bytes: u64,
    entries_bytes: u64,
}

impl Replay {
    /// Nothing yet.
    fn behind(standing: Standing) -> Self {
        let prev = standing.last;
        let (retain, entries) = (Retain::default(), VecDeque::new());
        Self { prev, entries, standing, retain, kept_bytes: 0, entries_bytes: 0 }
    }

    pub(super) fn last(&self) -> LogId {
        self.standing.last
    }

    fn cut_behind(&mut self, index: Index) {
        let keep = index.0.saturating_sub(self.prev.index.0);
        while self.entries.len() as u64 > keep
            && let Some(entry) = self.entries.pop_back()
        {
            self.kept_bytes -= entry.size_bytes();
            self.entries_bytes -= entry.size_bytes();
        }
        self.standing.last = self.entries.back().map_or(self.prev, Entry::log_id);
    }

    /// Takes in the valid records at the beginning of a segment.
    pub(super) fn read_segment(&mut self, part: &Found, bytes: &[u8]) -> Result<Scan, WalError> {
        let salt: Salt = part.salt;
        let mut scan = Scan { end: HEADER_BYTES, chain: salt.chain(), openings: 0, attested: HEADER_BYTES };
        loop {
            let rest = usize::try_from(scan.end).ok().and_then(|end| bytes.get(end..)).unwrap_or_default();
            let Some((record, len, chain)) = decode_record(rest, scan.chain, salt, scan.end) else {
                return Ok(scan);
            };
            self.take(record, &mut scan).map_err(|reason| corrupt(part, scan.end, reason))?;
            scan.end += len;
            scan.chain = chain;
        }
    }

    /// Lets go of the oldest entries that are neither to be applied nor to be kept for others. While reading, not
    /// after it: a log may be much larger than what is kept of it, and memory that was once used is seldom given back.
    fn let_go(&mut self) {
        let Retain { applied, bytes } = self.retain;
        while self.kept_bytes > bytes
            && let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= applied)
        {
            crate::sometimes!("wal/opened-in-part");
            self.kept_bytes -= entry.size_bytes();
            self.prev = entry.log_id();
        }
    }

    /// Takes in one valid record. One that does not fit was written so by a broken program, or the checksum
    /// failed us: either way nothing here can be trusted.
    fn take(&mut self, record: Record, scan: &mut Scan) -> Result<(), String> {
        match record {
            Record::Entry(entry) => {
                let (last, id) = (self.last(), entry.log_id());
                if id.index != last.index.next() || id.term < last.term {
                    return Err(format!("entry {id} follows entry {last}"));
                }
                self.standing.push(&entry);
                self.kept_bytes += entry.size_bytes();
                self.entries_bytes += entry.size_bytes();
                self.entries.push_back(entry);
                self.let_go();
            }
            Record::HardState(hard_state) => {
                let HardState { term, .. } = self.standing.hard_state;
                if hard_state.term < term {
                    return Err(format!("term {} follows term {term}", hard_state.term));
                }
                self.standing.hard_state = hard_state;
            }
            Record::Mark(Mark { attested, openings, standing }) => {
                if attested > scan.end {
                    return Err(format!("a mark attests {attested}, behind itself"));
                }
                let (known, told) = (self.standing, standing);
                if (told.last, told.hard_state) != (known.last, known.hard_state) {
                    return Err(format!("a mark says that the log stands at {told:?}, not at {known:?}"));
                }
                scan.attested = scan.attested.max(attested);
                scan.openings = scan.openings.max(openings);
            }
        }
        Ok(())
    }
}
