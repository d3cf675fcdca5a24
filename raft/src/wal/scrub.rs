//! Looking through what was written long ago, while the node runs.
//!
//! Entries in memory serve everybody; the log's segments are read only at the next start. Damage that came to them
//! meanwhile would be found then, perhaps on many members at once. So the segments that are no longer appended to are
//! read again and again, a little at a time, and every checksum up to the last entry that counts is verified.
//!
//! What to do about damage is left to the next start: the call fails, the log is poisoned, the node stops. It knows how
//! far its log had come, drops what stands behind the damage with a mark of it, and has it sent again (`recovery`). To
//! rewrite the segment from memory would spare the stop; but a disk that has just lost what it was given is not to be
//! trusted with the only other copy on this node, and one way of repair is easier to believe than two.
//!
//! The operating system may answer from its cache: then damage on the platter shows only once the cache has let go of
//! the page.

use std::path::PathBuf;

use crate::core::LogId;
use crate::disk::{File, OpenMode};

use super::error::Context;
use super::folder::{Folder, Segment};
use super::format::{HEADER_BYTES, Header, Record, Salt, decode_record};
use super::{Fault, WalError};

/// How far the scrub has come.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    at: Option<Cursor>,
    /// The segment looked through last.
    done: Option<PathBuf>,
    /// How often all segments were looked through.
    pub(super) passes: u64,
}

#[derive(Debug)]
struct Cursor {
    path: PathBuf,
    salt: Salt,
    chain: u32,
    offset: u64,
    last: LogId,
}

impl Scrub {
    /// Looks through up to about `bytes_max` more of `sealed`, the segments that have a successor, oldest first.
    pub(super) fn step<'a>(
        &mut self,
        folder: &Folder,
        sealed: impl Iterator<Item = &'a Segment> + Clone,
        bytes_max: u64,
    ) -> Result<(), WalError> {
        let here = self.at.take().and_then(|cursor| {
            let segment = sealed.clone().find(|segment| segment.path == cursor.path)?;
            Some((cursor, segment))
        });
        let (mut cursor, segment) = match here {
            Some(here) => here,
            None => {
                let next = sealed.clone().find(|segment| Some(&segment.path) > self.done.as_ref());
                let Some(segment) = next else {
                    self.done = None;
                    self.passes += u64::from(sealed.clone().next().is_some());
                    return Ok(());
                };
                (Cursor::at_header(folder, segment)?, segment)
            }
        };
        if cursor.go_on(folder, segment, bytes_max)? {
            self.done = Some(cursor.path);
        } else {
            self.at = Some(cursor);
        }
        Ok(())
    }
}

impl Cursor {
    fn at_header(folder: &Folder, segment: &Segment) -> Result<Self, WalError> {
        let path = &segment.path;
        let file = folder.disk.open(path, OpenMode::Read).during("open", path)?;
        let bytes = read(file.as_ref(), segment, 0, HEADER_BYTES)?;
        match Header::decode(&bytes) {
            Ok((header, crc)) if header.prev() == segment.prev => {
                let salt = Salt::of(&header, crc);
                let (path, last) = (path.clone(), header.prev());
                Ok(Self { path, salt, chain: salt.chain(), offset: HEADER_BYTES, last })
            }
            Ok((header, _)) => {
                let reason = format!("it begins after {}, not {}", header.prev(), segment.prev);
                Err(rotten(segment, 0, reason))
            }
            Err(fault) => Err(rotten(segment, 0, format!("the header is damaged ({fault:?})"))),
        }
    }

    /// Verifies up to about `bytes_max` more; says whether the segment's last entry was reached.
    fn go_on(&mut self, folder: &Folder, segment: &Segment, bytes_max: u64) -> Result<bool, WalError> {
        let path = &segment.path;
        let file = folder.disk.open(path, OpenMode::Read).during("open", path)?;
        let bytes = read(file.as_ref(), segment, self.offset, bytes_max)?;
        let before = self.offset;
        self.verify(&bytes, segment);
        if self.offset == before && self.last.index < segment.last.index {
            // A record longer than this, or a bad one.
            let bytes = read(file.as_ref(), segment, self.offset, segment.bytes)?;
            self.verify(&bytes, segment);
            if self.offset == before {
                return Err(rotten(segment, self.offset, "the record here is damaged".to_owned()));
            }
        }
        if self.last.index == segment.last.index && self.last != segment.last {
            let reason = format!("it ends with {}, not {}", self.last, segment.last);
            return Err(rotten(segment, self.offset, reason));
        }
        Ok(self.last.index >= segment.last.index)
    }

    /// Goes on over the valid records in `bytes`, which begin here, up to the segment's last entry.
    fn verify(&mut self, bytes: &[u8], segment: &Segment) {
        let begin = self.offset;
        while self.last.index < segment.last.index
            && let Some(rest) = usize::try_from(self.offset - begin).ok().and_then(|at| bytes.get(at..))
            && let Some((record, len, chain)) = decode_record(rest, self.chain, self.salt, self.offset)
        {
            if let Record::Entry(entry) = record {
                self.last = entry.log_id();
            }
            self.offset += len;
            self.chain = chain;
        }
    }
}

fn read(file: &dyn File, segment: &Segment, offset: u64, bytes_max: u64) -> Result<Vec<u8>, WalError> {
    let len = bytes_max.min(segment.bytes.saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, offset).during("read", &segment.path)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn rotten(segment: &Segment, offset: u64, reason: String) -> WalError {
    WalError::Decayed(Fault { path: segment.path.clone(), offset, reason })
}
