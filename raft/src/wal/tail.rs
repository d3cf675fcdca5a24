//! The end of the log: the segment that is appended to.
//!
//! Records are collected in one buffer and written with one call when they are synced, however many appends they
//! came from. Such a group begins with a mark that tells how far earlier syncs have come, if no mark tells so yet.

use std::path::PathBuf;

use crate::core::{Entry, HardState};
use crate::disk::File;
use crate::mutant;

use super::WalError;
use super::error::Context;
use super::folder::{Begun, Found, Segment};
use super::format::{self, HEADER_BYTES, MARK_BYTES, Mark, Salt, Standing};
use super::recovery::Scan;

/// The buffer is written out, without a sync, when it has come to this.
const BUFFER_BYTES_MAX: usize = 1 << 20;

pub(super) struct Tail {
    file: Box<dyn File>,
    path: PathBuf,
    salt: Salt,
    /// The length of the file.
    capacity: u64,
    chain: u32,
    /// Records not yet written; they begin at `written`. Invariant: `written + buffer.len() <= capacity`.
    buffer: Vec<u8>,
    written: u64,
    /// Everything before this is durable. Invariant: `synced <= written`.
    synced: u64,
    /// Something was put behind the last mark, or found without one.
    unattested: bool,
    /// How often the segment was opened since it was begun.
    openings: u32,
    /// Where the log stands behind all that was put.
    standing: Standing,
}

impl Tail {
    /// Of a segment just begun. `buffer` is one to use again.
    pub(super) fn begun(begun: Begun, buffer: Vec<u8>) -> (Segment, Self) {
        let Begun { segment, file, salt, standing } = begun;
        let tail = Self {
            file,
            path: segment.path.clone(),
            salt,
            capacity: segment.bytes,
            chain: salt.chain(),
            buffer,
            written: HEADER_BYTES,
            synced: HEADER_BYTES,
            unattested: false,
            openings: 0,
            standing,
        };
        (segment, tail)
    }

    /// Of a segment found at recovery, with the `bytes` of its file. Nothing in it behind the attested point is
    /// taken for durable before [`settle`](Self::settle).
    pub(super) fn found(found: Found, scan: Scan, capacity: u64, standing: Standing) -> Self {
        Self {
            file: found.file,
            path: found.path,
            salt: found.salt,
            capacity,
            chain: scan.chain,
            buffer: Vec::new(),
            written: scan.end,
            synced: scan.attested.min(scan.end),
            unattested: true,
            openings: scan.openings + 1,
            standing,
        }
    }

    /// Makes durable what recovery read, and sets a mark that tells so, and that tells the records of this opening
    /// from what a torn tail left behind. `bytes` is the content of the file. Where there is no room for a mark there
    /// is none for a record either: the next one begins a new segment.
    ///
    /// The valid records behind the attested point are written once more, as they are: if their sync failed in an
    /// earlier process, the page cache may hold them as clean although they never reached the disk, and a sync
    /// alone would pass over them.
    pub(super) fn settle(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        let range = usize::try_from(self.synced).ok().zip(usize::try_from(self.written).ok());
        let again = range.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default();
        if mutant!("double-recovery") {
            let zeros = vec![0; bytes.len().saturating_sub(HEADER_BYTES as usize)];
            self.file.write_at(&zeros, HEADER_BYTES).during("write", &self.path)?;
            let all = usize::try_from(self.written).ok().and_then(|to| bytes.get(HEADER_BYTES as usize..to));
            self.file.write_at(all.unwrap_or_default(), HEADER_BYTES).during("write", &self.path)?;
        }
        if !again.is_empty() {
            self.file.write_at(again, self.synced).during("write", &self.path)?;
        }
        self.sync()?;
        if self.has_room(0) {
            self.put_mark();
            self.sync()?;
        }
        Ok(())
    }

    /// Where the next record will stand.
    pub(super) fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Whether a record of `bytes` fits, so that there is room for a mark before and another one behind it.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.position() + bytes + 2 * MARK_BYTES <= self.capacity
    }

    /// How long a segment must be for [`has_room`](Self::has_room) of `bytes` in it.
    pub(super) const fn segment_bytes_for(bytes: u64) -> u64 {
        HEADER_BYTES + bytes + 2 * MARK_BYTES
    }

    /// Where the log stands behind all that was put.
    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    pub(super) fn put_entry(&mut self, entry: &Entry) -> Result<(), WalError> {
        self.open_group();
        self.chain = format::put_entry(&mut self.buffer, self.chain, entry);
        self.standing.push(entry);
        if self.buffer.len() >= BUFFER_BYTES_MAX { self.write() } else { Ok(()) }
    }

    pub(super) fn put_hard_state(&mut self, hard_state: HardState) {
        self.open_group();
        let last = self.standing.last.index;
        self.chain = format::put_hard_state_record(&mut self.buffer, self.chain, hard_state, last);
        self.standing.hard_state = hard_state;
    }

    /// Before a record is put: begins a group with a mark, if there is anything to tell.
    fn open_group(&mut self) {
        if self.unattested && self.position() == self.synced {
            self.put_mark();
        }
        self.unattested = true;
    }

    fn put_mark(&mut self) {
        let mark = Mark { attested: self.synced, openings: self.openings, standing: self.standing };
        let at = self.position();
        self.chain = format::put_mark(&mut self.buffer, self.chain, mark, self.salt, at);
        self.unattested = false;
    }

    /// Hands the buffer to the operating system.
    fn write(&mut self) -> Result<(), WalError> {
        assert!(self.position() <= self.capacity, "{} beyond {}", self.position(), self.capacity);
        self.file.write_at(&self.buffer, self.written).during("write", &self.path)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        // One huge entry must not hold its memory for ever.
        self.buffer.shrink_to(2 * BUFFER_BYTES_MAX);
        Ok(())
    }

    /// Makes everything put so far durable; does nothing if it is.
    pub(super) fn sync(&mut self) -> Result<(), WalError> {
        if !self.buffer.is_empty() {
            self.write()?;
        }
        if self.synced < self.written {
            self.file.sync_data().during("sync", &self.path)?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Sets a mark that tells of all that is synced, unless the last one does or there is no room.
    pub(super) fn attest(&mut self) -> Result<(), WalError> {
        self.sync()?;
        if self.unattested && self.position() + MARK_BYTES <= self.capacity {
            self.put_mark();
            self.sync()?;
        }
        Ok(())
    }

    /// The buffer, to be used again.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer
    }
}
