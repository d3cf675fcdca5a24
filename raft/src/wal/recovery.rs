//! Finding out what a log holds after a crash.
//!
//! [`survey`] only reads, so it may be broken off and done again any number of times. What recovery then changes
//! (see [`Wal::open`](super::Wal::open)) repeats what is there or adds to it; nothing is erased in place.
//!
//! - Which segments count is told by their headers alone, from the newest to the oldest: one whose entries all lie
//!   behind the `prev` of a newer one is cut, and nothing before an `origin` counts.
//! - A segment that has a successor was durable before that was begun. It must hold every entry up to the
//!   successor's `prev`, or it is damaged.
//! - In the newest segment, the first bad record ends the log. If it stands before the attested point it had been
//!   durable, and this is damage. Behind it, it is a torn tail and is cut.
//!
//! The attested point is the highest that any mark in the segment names, also marks behind the bad record: those
//! are told by their own check, since the chain does not reach them. Whether *records* behind it are valid says
//! nothing, for an unsynced batch may reach the platter in any order.

use crate::core::{Entry, HardState, Index, LogId};
use crate::mutant;

use super::WalError;
use super::error::Context;
use super::folder::{Folder, Found, Segment};
use super::format::{HEADER_BYTES, Header, Mark, Record, Salt, decode_record, find_marks, peek_record};

/// What the segments hold.
pub(super) struct Survey {
    pub(super) hard_state: HardState,
    pub(super) prev: LogId,
    pub(super) entries: Vec<Entry>,
    /// Live segments, oldest first; never empty.
    pub(super) live: Vec<Segment>,
    /// Segments that are cut or replaced, oldest first.
    pub(super) dead: Vec<Segment>,
    /// The newest segment.
    pub(super) newest: Found,
    /// The content of the newest segment's file.
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

/// Reads the log; `None` if there are no segments.
pub(super) fn survey(folder: &Folder, found: Vec<Found>) -> Result<Option<Survey>, WalError> {
    let (mut live, dead) = sort_out(found);
    let Some(newest) = live.pop() else { return Ok(None) };
    for part in live.iter().chain([&newest]) {
        if part.header.identity != folder.identity {
            return Err(WalError::WrongIdentity {
                path: part.path.clone(),
                found: part.header.identity,
                expected: folder.identity,
            });
        }
    }
    let first = live.first().unwrap_or(&newest);
    let mut log =
        Replay { hard_state: first.header.hard_state, prev: first.header.prev, entries: Vec::new() };
    let mut segments: Vec<Segment> = Vec::with_capacity(live.len() + 1);
    let mut bytes = Vec::new();
    let mut before: Option<(&Found, Scan)> = None;
    for part in &live {
        join(&mut log, &mut segments, before, part)?;
        read_all(part, &mut bytes)?;
        let scan = log.read_segment(part, &bytes)?;
        segments.push(segment_of(part, bytes.len()));
        before = Some((part, scan));
    }
    join(&mut log, &mut segments, before, &newest)?;
    read_all(&newest, &mut bytes)?;
    let mut scan = log.read_segment(&newest, &bytes)?;
    segments.push(segment_of(&newest, bytes.len()));
    if let Some(segment) = segments.last_mut() {
        segment.last = log.last();
    }
    let torn_bytes = judge_tail(&newest, &bytes, &mut scan, log.last())?;
    let dead = dead.iter().map(|part| segment_of(part, 0)).collect();
    let Replay { hard_state, prev, entries } = log;
    Ok(Some(Survey { hard_state, prev, entries, live: segments, dead, newest, bytes, scan, torn_bytes }))
}

/// Parts the segments that count from those that are cut or replaced, by their headers alone.
fn sort_out(found: Vec<Found>) -> (Vec<Found>, Vec<Found>) {
    let (mut live, mut dead) = (Vec::<Found>::new(), Vec::new());
    let mut origin_seen = false;
    for part in found.into_iter().rev() {
        let cut = live.last().is_some_and(|newer| newer.header.prev.index <= part.header.prev.index);
        if origin_seen || cut {
            dead.push(part);
            continue;
        }
        origin_seen = part.header.origin;
        live.push(part);
    }
    live.reverse();
    dead.reverse();
    (live, dead)
}

/// Cuts what the log holds behind the `prev` of the segment `next`, which must lie in the log.
fn join(
    log: &mut Replay,
    segments: &mut [Segment],
    before: Option<(&Found, Scan)>,
    next: &Found,
) -> Result<(), WalError> {
    let Some((before, scan)) = before else { return Ok(()) };
    let prev = next.header.prev;
    if log.last().index < prev.index {
        return Err(corrupt(
            before,
            scan.end,
            format!(
                "the log breaks off after entry {}, but {} goes on after {prev}",
                log.last(),
                next.path.display()
            ),
        ));
    }
    log.cut_behind(prev.index);
    if log.last() != prev {
        let reason = format!("it goes on after {prev}, but the segment before it has {}", log.last());
        return Err(corrupt(next, 0, reason));
    }
    if next.header.hard_state.term < log.hard_state.term {
        return Err(corrupt(next, 0, "its term is older than that of the segment before it".to_owned()));
    }
    log.hard_state = next.header.hard_state;
    if let Some(segment) = segments.last_mut() {
        segment.last = prev;
    }
    Ok(())
}

/// Whether nothing was ever promised by the log that begins with this segment: what is torn was not.
pub(super) fn is_virgin(part: &Found) -> Result<bool, WalError> {
    let Header { prev, hard_state, .. } = part.header;
    if prev != LogId::ZERO || hard_state != HardState::default() {
        return Ok(false);
    }
    let mut bytes = Vec::new();
    read_all(part, &mut bytes)?;
    let mut log = Replay { hard_state, prev, entries: Vec::new() };
    let mut scan = log.read_segment(part, &bytes)?;
    judge_tail(part, &bytes, &mut scan, log.last())?;
    Ok(log.entries.is_empty() && log.hard_state == hard_state)
}

pub(super) fn segment_of(part: &Found, bytes: usize) -> Segment {
    let prev = part.header.prev;
    Segment { path: part.path.clone(), bytes: bytes as u64, prev, last: prev }
}

fn corrupt(part: &Found, offset: u64, reason: String) -> WalError {
    WalError::Corrupt { path: part.path.clone(), offset, reason }
}

fn read_all(part: &Found, bytes: &mut Vec<u8>) -> Result<(), WalError> {
    let len = part.file.len().during("measure", &part.path)?;
    bytes.clear();
    bytes.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    let read = part.file.read_at(bytes, 0).during("read", &part.path)?;
    bytes.truncate(read);
    Ok(())
}

/// Decides whether what follows the last valid record is a torn tail, and how much of one there is at least.
fn judge_tail(part: &Found, bytes: &[u8], scan: &mut Scan, last: LogId) -> Result<u64, WalError> {
    let rest = usize::try_from(scan.end).ok().and_then(|end| bytes.get(end..)).unwrap_or_default();
    let mut torn_bytes = 0;
    for (mark, end) in find_marks(rest, part.salt, scan.end) {
        scan.attested = scan.attested.max(mark.attested);
        torn_bytes = torn_bytes.max(end - scan.end);
    }
    if scan.end < scan.attested && !mutant!("corrupt-as-torn") {
        let reason = format!("the record here is damaged, and was durable: all before {} was", scan.attested);
        return Err(corrupt(part, scan.end, reason));
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
    Ok(torn_bytes)
}

/// The log as read so far.
struct Replay {
    hard_state: HardState,
    prev: LogId,
    entries: Vec<Entry>,
}

impl Replay {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.prev, Entry::log_id)
    }

    fn cut_behind(&mut self, index: Index) {
        let keep = index.0.saturating_sub(self.prev.index.0);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Takes in the valid records at the beginning of a segment.
    fn read_segment(&mut self, part: &Found, bytes: &[u8]) -> Result<Scan, WalError> {
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

    /// Takes in one valid record. One that does not fit was written so by a broken program, or the checksum
    /// failed us: either way nothing here can be trusted.
    fn take(&mut self, record: Record, scan: &mut Scan) -> Result<(), String> {
        match record {
            Record::Entry(entry) => {
                let (last, id) = (self.last(), entry.log_id());
                if id.index != last.index.next() || id.term < last.term {
                    return Err(format!("entry {id} follows entry {last}"));
                }
                self.entries.push(entry);
            }
            Record::HardState(hard_state) => {
                if hard_state.term < self.hard_state.term {
                    return Err(format!("term {} follows term {}", hard_state.term, self.hard_state.term));
                }
                self.hard_state = hard_state;
            }
            Record::Mark(Mark { attested, openings }) => {
                if attested > scan.end {
                    return Err(format!("a mark attests {attested}, behind itself"));
                }
                scan.attested = scan.attested.max(attested);
                scan.openings = scan.openings.max(openings);
            }
        }
        Ok(())
    }
}
