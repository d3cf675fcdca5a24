//! The log's directory: the names of segments, and where files for new ones come from.
//!
//! ```text
//! 0000000000000007.wal     a live segment; the number is its sequence
//! 0000000000000002.spare   a file of a segment that is no longer needed, to be used again
//! next.tmp                 a file for the next segment, growing or full of zeros
//! ```
//! A file gets its `.wal` name only when its header is durable, and the name is durable before anything is
//! appended. So a `.wal` file never has a torn header.
//!
//! Making a file of 64 MiB with zeros takes long enough to cost an election. While there is no spare, `next.tmp`
//! therefore grows in strides beside the log, so that it is ready when the segment is full.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::core::LogId;
use crate::disk::{File, OpenMode, SharedDisk};
use crate::mutant;

use super::error::Context;
use super::format::{HEADER_BYTES, Header, HeaderFault, Salt, Standing, VERSION};
use super::{WalError, WalIdentity, WalOptions};

const SEGMENT_SUFFIX: &str = ".wal";
const SPARE_SUFFIX: &str = ".spare";
const NEXT_NAME: &str = "next.tmp";
/// `next.tmp` grows by this part of a segment at a time.
const STRIDES: u64 = 256;

pub(super) struct Folder {
    pub(super) disk: SharedDisk,
    pub(super) dir: PathBuf,
    pub(super) identity: WalIdentity,
    options: WalOptions,
    /// Invariant: larger than that of every segment that may ever have been appended to.
    next_sequence: u64,
    next_spare: u64,
    spares: VecDeque<Spare>,
    next: Option<Next>,
}

struct Spare {
    path: PathBuf,
    bytes: u64,
}

struct Next {
    file: Box<dyn File>,
    bytes: u64,
}

/// A live segment, without its file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// The entry before its first.
    pub(super) prev: LogId,
    /// Its last entry that is not cut by a later segment; `prev` if it has none.
    pub(super) last: LogId,
}

/// A segment just begun.
pub(super) struct Begun {
    pub(super) segment: Segment,
    pub(super) file: Box<dyn File>,
    pub(super) salt: Salt,
    pub(super) standing: Standing,
}

/// What a segment to be begun says of the log; identity and sequence are the folder's.
pub(super) struct Beginning {
    pub(super) origin: bool,
    pub(super) standing: Standing,
    pub(super) discards_from: u64,
}

/// A `.wal` file that was found, with its header.
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) salt: Salt,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn File>,
}

/// A `.wal` file whose header is damaged.
pub(super) struct Headless {
    pub(super) sequence: u64,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn File>,
    pub(super) reason: String,
}

/// The `.wal` files of a directory, in the order of their sequences.
#[derive(Default)]
pub(super) struct Files {
    pub(super) segments: Vec<Found>,
    pub(super) headless: Vec<Headless>,
}

impl Files {
    /// Reads the header of the segment at `path`.
    pub(super) fn add(&mut self, path: PathBuf, sequence: u64, file: Box<dyn File>) -> Result<(), WalError> {
        let mut bytes = vec![0; HEADER_BYTES as usize];
        let len = file.read_at(&mut bytes, 0).during("read", &path)?;
        bytes.truncate(len);
        let reason = match Header::decode(&bytes) {
            Ok((header, crc)) if header.sequence == sequence => {
                let salt = Salt::of(&header, crc);
                self.segments.push(Found { header, salt, path, file });
                return Ok(());
            }
            Ok((header, _)) => format!("its header says that it is segment {}", header.sequence),
            Err(HeaderFault::Version(found)) => {
                return Err(WalError::UnknownFormat { path, found, known: VERSION });
            }
            Err(HeaderFault::Short) => format!("{len} bytes are too short for a header"),
            Err(HeaderFault::Magic) => "this is not a log segment".to_owned(),
            Err(HeaderFault::Checksum) => "the header's checksum is wrong".to_owned(),
            Err(HeaderFault::Value) => "the header makes no sense".to_owned(),
        };
        self.headless.push(Headless { sequence, path, file, reason });
        Ok(())
    }
}

impl Folder {
    /// Looks through the directory; returns the segments found.
    pub(super) fn open(
        disk: SharedDisk,
        dir: &Path,
        identity: WalIdentity,
        options: WalOptions,
    ) -> Result<(Self, Files), WalError> {
        // A name that another process gave and did not sync must be durable before anything is built on it.
        disk.sync_dir(dir).during("sync directory", dir)?;
        let names = disk.list(dir).during("list", dir)?;
        let mut folder = Self {
            disk,
            dir: dir.to_owned(),
            identity,
            options,
            next_sequence: 1,
            next_spare: 1,
            spares: VecDeque::new(),
            next: None,
        };
        let mut found = Files::default();
        for name in names {
            let path = folder.dir.join(&name);
            if let Some(sequence) = number_in(&name, SEGMENT_SUFFIX) {
                folder.next_sequence = folder.next_sequence.max(sequence + 1);
                let file = folder.disk.open(&path, OpenMode::Write).during("open", &path)?;
                found.add(path, sequence, file)?;
            } else if let Some(number) = number_in(&name, SPARE_SUFFIX) {
                folder.next_spare = folder.next_spare.max(number + 1);
                folder.adopt_spare(path)?;
            } else if name == NEXT_NAME {
                let file = folder.disk.open(&path, OpenMode::Write).during("open", &path)?;
                let bytes = file.len().during("measure", &path)?;
                folder.next = Some(Next { file, bytes });
            }
        }
        // Names are zero-padded, so the sorted list is in the order of sequences.
        assert!(found.segments.is_sorted_by_key(|f| f.header.sequence), "segments out of order");
        Ok((folder, found))
    }

    fn adopt_spare(&mut self, path: PathBuf) -> Result<(), WalError> {
        let bytes =
            self.disk.open(&path, OpenMode::Read).and_then(|file| file.len()).during("measure", &path)?;
        if self.spares.len() < self.options.recycled_max && bytes == self.options.segment_bytes {
            self.spares.push_back(Spare { path, bytes });
            return Ok(());
        }
        // Not synced: should the name come back, it is looked at again.
        self.disk.remove_file(&path).during("remove", &path)
    }

    /// Begins a segment with room for `needed` bytes; durable when this returns.
    pub(super) fn begin(&mut self, beginning: &Beginning, needed: u64) -> Result<Begun, WalError> {
        let Beginning { origin, mut standing, discards_from } = *beginning;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let prev = standing.last;
        if origin && mutant!("purge-meta") {
            standing.last = LogId::ZERO;
        }
        let header = Header { identity: self.identity, sequence, origin, standing, discards_from };
        let (from, file) = self.take_file()?;
        let size = needed.max(self.options.segment_bytes);
        file.preallocate(size).during("preallocate", &from)?;
        let bytes = file.len().during("measure", &from)?;
        let (head, crc) = header.encode();
        file.write_at(&head, 0).during("write the header of", &from)?;
        file.sync_data().during("sync", &from)?;
        let path = self.dir.join(format!("{sequence:016x}{SEGMENT_SUFFIX}"));
        self.disk.rename(&from, &path).during("rename to a segment", &from)?;
        if sequence == 1 || !mutant!("dirsync") {
            self.sync_dir()?;
        }
        let salt = Salt::of(&header, crc);
        Ok(Begun {
            segment: Segment { path, bytes, prev, last: prev },
            file,
            salt,
            standing: beginning.standing,
        })
    }

    /// A file to make a segment of, whatever is in it.
    fn take_file(&mut self) -> Result<(PathBuf, Box<dyn File>), WalError> {
        if let Some(spare) = self.spares.pop_front() {
            let file = self.disk.open(&spare.path, OpenMode::Write).during("open", &spare.path)?;
            return Ok((spare.path, file));
        }
        let path = self.dir.join(NEXT_NAME);
        let file = match self.next.take() {
            Some(next) => next.file,
            None => self.disk.open(&path, OpenMode::CreateNew).during("create", &path)?,
        };
        Ok((path, file))
    }

    /// Takes a segment that is no longer needed out of the log; durable when this returns.
    pub(super) fn retire(&mut self, segment: &Segment) -> Result<(), WalError> {
        let path = &segment.path;
        if self.spares.len() < self.options.recycled_max && segment.bytes == self.options.segment_bytes {
            let spare = self.dir.join(format!("{:016x}{SPARE_SUFFIX}", self.next_spare));
            self.next_spare += 1;
            self.disk.rename(path, &spare).during("rename to a spare", path)?;
            self.spares.push_back(Spare { path: spare, bytes: segment.bytes });
        } else {
            self.disk.remove_file(path).during("remove", path)?;
        }
        self.sync_dir()
    }

    /// Lets the file for the next segment keep pace with a log that has come to `position` in its segment.
    pub(super) fn keep_pace(&mut self, position: u64) -> Result<(), WalError> {
        if !self.spares.is_empty() || self.options.recycled_max == 0 {
            return Ok(());
        }
        let full = self.options.segment_bytes;
        let stride = (full / STRIDES).max(4096);
        let wanted = (position / stride + 1).saturating_mul(stride).min(full);
        if self.next.as_ref().is_some_and(|next| next.bytes >= wanted) {
            return Ok(());
        }
        let path = self.dir.join(NEXT_NAME);
        let file = match self.next.take() {
            Some(next) => next.file,
            None => self.disk.open(&path, OpenMode::CreateNew).during("create", &path)?,
        };
        file.preallocate(wanted).during("preallocate", &path)?;
        file.sync_data().during("sync", &path)?;
        self.next = Some(Next { file, bytes: wanted });
        Ok(())
    }

    pub(super) fn spares(&self) -> usize {
        self.spares.len()
    }

    /// What the files beside the live segments take.
    pub(super) fn idle_bytes(&self) -> u64 {
        let spares = self.spares.iter().map(|spare| spare.bytes).sum::<u64>();
        spares + self.next.as_ref().map_or(0, |next| next.bytes)
    }

    pub(super) fn sync_dir(&self) -> Result<(), WalError> {
        self.disk.sync_dir(&self.dir).during("sync directory", &self.dir)
    }
}

/// Whether a file of this name is a segment.
pub(super) fn is_segment(name: &str) -> bool {
    sequence_of(name).is_some()
}

/// The sequence of the segment of this name, if it is one.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    number_in(name, SEGMENT_SUFFIX)
}

fn number_in(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}
