//! A look at a log by somebody else than its node: reads everything, verifies everything, writes nothing.
//!
//! It may be the log of a running node; what is being written just then can look like a torn tail.

use std::path::{Path, PathBuf};

use crate::core::{Entry, HardState, LogId};
use crate::disk::{OpenMode, SharedDisk};

use super::error::Context;
use super::folder::{Files, Found, sequence_of};
use super::format::{HEADER_BYTES, Record, decode_record, find_marks};
use super::recovery::{self, End};
use super::{Fault, Retain, WalError, WalIdentity};

/// What a log holds, and how well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Whose log it is.
    pub identity: WalIdentity,
    /// Term and vote.
    pub hard_state: HardState,
    /// The entry before the first.
    pub prev: LogId,
    /// The entries that a node would start with.
    pub entries: Vec<Entry>,
    /// Damage that a node would find, and repair from the other members, if it started now.
    pub fault: Option<Fault>,
    /// The last entry that the log may have held, if it does not reach that far because of damage.
    pub lost: Option<LogId>,
    /// At least so many bytes behind the end were written and never synced.
    pub torn_bytes: u64,
    /// Every segment, oldest first.
    pub segments: Vec<SegmentInspection>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInspection {
    /// Its file.
    pub path: PathBuf,
    /// Its sequence number.
    pub sequence: u64,
    /// The length of the file.
    pub bytes: u64,
    /// Whether it belongs to the log: a cut or replaced segment may still lie there after a crash.
    pub is_live: bool,
    /// What is in it; the reason if its header cannot be read.
    pub content: Result<SegmentContent, String>,
}

/// What is in a segment with a good header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentContent {
    /// Nothing before this segment counts.
    pub is_origin: bool,
    /// The entry before its first.
    pub prev: LogId,
    /// Its last valid entry, also one that a later segment cuts; `prev` if it has none.
    pub last: LogId,
    /// Term and vote when it was begun.
    pub hard_state: HardState,
    /// The log was marked as damaged up to here when it was begun.
    pub lost: Option<LogId>,
    /// Valid records: entries, hard states, marks.
    pub records: (u64, u64, u64),
    /// Where the valid records end.
    pub end: u64,
    /// Everything before this is known to have been synced.
    pub attested: u64,
}

impl Inspection {
    /// Whether nothing is damaged: neither now, nor so that it has not been made good.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.fault.is_none() && self.lost.is_none()
    }
}

/// Looks at the log in `dir`.
///
/// # Errors
/// There is no log, it cannot be read, or it is damaged so that a node would not start.
pub fn inspect(disk: &SharedDisk, dir: &Path) -> Result<Inspection, WalError> {
    if !disk.exists(dir).during("look for", dir)? {
        return Err(WalError::Missing { dir: dir.to_owned() });
    }
    let mut files = Files::default();
    for name in disk.list(dir).during("list", dir)? {
        if let Some(sequence) = sequence_of(&name) {
            let path = dir.join(name);
            let file = disk.open(&path, OpenMode::Read).during("open", &path)?;
            files.add(path, sequence, file)?;
        }
    }
    let mut segments = Vec::new();
    for found in &files.segments {
        segments.push(look_at(found)?);
    }
    for headless in &files.headless {
        let bytes = headless.file.len().during("measure", &headless.path)?;
        let (path, sequence) = (headless.path.clone(), headless.sequence);
        let content = Err(headless.reason.clone());
        segments.push(SegmentInspection { path, sequence, bytes, is_live: false, content });
    }
    segments.sort_by_key(|segment| segment.sequence);
    let Some(identity) = files.segments.last().map(|found| found.header.identity) else {
        return Err(match files.headless.into_iter().last() {
            None => WalError::Missing { dir: dir.to_owned() },
            Some(last) => WalError::Corrupt { path: last.path, offset: 0, reason: last.reason },
        });
    };
    let Some(survey) = recovery::survey(identity, files, Retain::default())? else {
        return Err(WalError::Missing { dir: dir.to_owned() });
    };
    for segment in &mut segments {
        segment.is_live = survey.live.iter().any(|live| live.path == segment.path);
    }
    let (fault, torn_bytes) = match survey.end {
        End::Open(end) => (None, end.torn_bytes),
        End::Damaged { fault, .. } => (Some(fault), 0),
    };
    Ok(Inspection {
        identity,
        hard_state: survey.standing.hard_state,
        prev: survey.prev,
        entries: survey.entries,
        fault,
        lost: survey.standing.damage,
        torn_bytes,
        segments,
    })
}

fn look_at(found: &Found) -> Result<SegmentInspection, WalError> {
    let mut bytes = Vec::new();
    recovery::read_all(found, &mut bytes)?;
    let behind = |at: u64| usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let header = &found.header;
    let (mut last, mut records) = (header.prev(), (0, 0, 0));
    let (mut end, mut chain) = (HEADER_BYTES, found.salt.chain());
    while let Some((record, len, next)) = decode_record(behind(end), chain, found.salt, end) {
        match record {
            Record::Entry(entry) => {
                last = entry.log_id();
                records.0 += 1;
            }
            Record::HardState(_) => records.1 += 1,
            Record::Mark(_) => records.2 += 1,
        }
        (end, chain) = (end + len, next);
    }
    let marks = find_marks(behind(HEADER_BYTES), found.salt, HEADER_BYTES);
    let attested = marks.iter().map(|mark| mark.mark.attested).max().unwrap_or(HEADER_BYTES);
    let content = SegmentContent {
        is_origin: header.origin,
        prev: header.prev(),
        last,
        hard_state: header.standing.hard_state,
        lost: header.standing.damage,
        records,
        end,
        attested,
    };
    let (path, sequence) = (found.path.clone(), header.sequence);
    Ok(SegmentInspection { path, sequence, bytes: bytes.len() as u64, is_live: false, content: Ok(content) })
}
