//! The journal of a sweep: a file with one JSON object a line, written as worlds end.
//!
//! The first line says what the sweep is about; each further line is one world. Nothing is ever rewritten, so that a
//! sweep that is killed, or finds the file system full, has lost at most the line it was writing. Who reads a journal
//! leaves out a last line that has no end; who goes on with one cuts it off first.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Shard;
use super::child::Outcome;
use crate::cli::SeedRange;
use crate::marks::Marks;
use crate::report::{Failure, Figures};

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What it is about.
    pub sweep: About,
}

/// What a sweep is about. Only a sweep of the same can go on with its journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The version of the simulator.
    pub version: String,
    /// The seeds, if it runs seeds. Without an end it runs until its time is over.
    pub seeds: Option<Seeds>,
    /// Which of them are its own.
    pub shard: Shard,
    /// What is fixed of each world, as on the command line.
    pub fixed: Vec<String>,
    /// The planted bug, if there is one.
    pub mutant: Option<String>,
}

/// A range of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// The one after the last, if there is a last one.
    pub end: Option<u64>,
}

impl From<SeedRange> for Seeds {
    fn from(range: SeedRange) -> Self {
        Self { first: range.first, end: Some(range.end).filter(|end| *end < u64::MAX) }
    }
}

impl From<Seeds> for SeedRange {
    fn from(seeds: Seeds) -> Self {
        Self { first: seeds.first, end: seeds.end.unwrap_or(u64::MAX) }
    }
}

/// What one world came to: a line of a journal, and of `run --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorldLine {
    /// The seed, or the file of the plan.
    pub world: String,
    /// Whether it broke no rule and came to its end.
    pub passed: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// What was wrong.
    pub failure: Option<Failure>,
    /// The command that shows it.
    pub reproduce: String,
    /// Real time.
    pub wall_ms: u64,
    /// Simulated time.
    pub virtual_ms: u64,
    /// Events in its trace.
    pub events: u64,
    /// The hash of its trace.
    pub trace_hash: String,
    /// What it was about, in numbers.
    pub figures: Figures,
    /// The marks in the source that it came to.
    #[serde(default)]
    pub marks: Marks,
}

/// A journal that is written.
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// What a journal says.
#[derive(Debug, Default)]
pub struct Read {
    /// The first line, if there is one.
    pub header: Option<Header>,
    /// The worlds, in the order in which they ended.
    pub worlds: Vec<WorldLine>,
    /// The numbers of lines that say nothing, from 1. A line without an end is not among them.
    pub unreadable: Vec<usize>,
    /// Whether the last line has no end.
    pub cut_off: bool,
    /// How many bytes there are of lines with an end.
    pub whole_bytes: u64,
}

impl Read {
    /// The worlds that need not be run again: those of which something is known. One whose process was taken down from
    /// outside is not.
    #[must_use]
    pub fn done(&self) -> BTreeSet<String> {
        let done = self.worlds.iter().filter(|world| world.outcome != Outcome::Harness);
        done.map(|world| world.world.clone()).collect()
    }
}

/// Reads a journal.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Read> {
    let bytes = std::fs::read(path)?;
    let mut read = Read::default();
    for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        if !line.ends_with(b"\n") {
            read.cut_off = true;
            break;
        }
        read.whole_bytes += line.len() as u64;
        if let Ok(world) = serde_json::from_slice(line) {
            read.worlds.push(world);
        } else if let Ok(header) = serde_json::from_slice::<Header>(line) {
            read.header.get_or_insert(header);
        } else {
            read.unreadable.push(number);
        }
    }
    Ok(read)
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// There is one already.
    #[error("{path} has a sweep in it: go on with it with --resume, or name another file")]
    Exists {
        /// Which.
        path: String,
    },
    /// It is that of another sweep.
    #[error("{path} is the journal of another sweep:\n  there: {there}\n  here:  {here}")]
    Other {
        /// Which.
        path: String,
        /// What it is about.
        there: String,
        /// What was asked for.
        here: String,
    },
    /// It has no first line.
    #[error("{path} is not the journal of a sweep")]
    NoJournal {
        /// Which.
        path: String,
    },
}

impl Journal {
    /// Begins a journal.
    ///
    /// # Errors
    /// The file cannot be written, or has something in it.
    pub fn create(path: &Path, about: About) -> Result<Self, JournalError> {
        let shown = || path.display().to_string();
        let failed = |source| JournalError::File { path: shown(), source };
        if std::fs::metadata(path).is_ok_and(|data| data.len() > 0) {
            return Err(JournalError::Exists { path: shown() });
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let mut journal = Self { path: path.to_owned(), file };
        journal.write(&Header { sweep: about }).map_err(failed)?;
        Ok(journal)
    }

    /// Goes on with a journal; begins one if there is none, or only the beginning of its first line.
    ///
    /// # Errors
    /// The file cannot be read or written, or is about something else.
    pub fn resume(path: &Path, about: About) -> Result<(Self, Read), JournalError> {
        let shown = || path.display().to_string();
        let failed = |source| JournalError::File { path: shown(), source };
        let read = match read(path) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Read::default(),
            Err(error) => return Err(failed(error)),
        };
        if read.cut_off {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            file.set_len(read.whole_bytes).map_err(failed)?;
        }
        if read.whole_bytes == 0 {
            return Ok((Self::create(path, about)?, read));
        }
        match &read.header {
            Some(header) if header.sweep == about => {}
            Some(header) => {
                let show = |about: &About| serde_json::to_string(about).unwrap_or_default();
                return Err(JournalError::Other {
                    path: shown(),
                    there: show(&header.sweep),
                    here: show(&about),
                });
            }
            None => return Err(JournalError::NoJournal { path: shown() }),
        }
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        Ok((Self { path: path.to_owned(), file }, read))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// It cannot be written; part of it may have been.
    pub fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        // One call: of two processes that write one file by mistake, each at least writes whole lines.
        self.file.write_all(&text)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        About {
            version: "1".into(),
            seeds: Some(Seeds { first: 0, end: None }),
            shard: Shard::default(),
            fixed: Vec::new(),
            mutant: None,
        }
    }

    fn line(world: &str, outcome: Outcome) -> WorldLine {
        WorldLine {
            world: world.into(),
            passed: outcome == Outcome::Passed,
            outcome,
            failure: None,
            reproduce: String::new(),
            wall_ms: 1,
            virtual_ms: 2,
            events: 3,
            trace_hash: "0".into(),
            figures: Figures::default(),
            marks: Marks::default(),
        }
    }

    #[test]
    fn a_sweep_goes_on_where_it_was_killed_in_the_middle_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sweep.jsonl");
        let mut journal = Journal::create(&path, about()).unwrap();
        journal.write(&line("1", Outcome::Passed)).unwrap();
        journal.write(&line("2", Outcome::Harness)).unwrap();
        journal.write(&line("3", Outcome::Hang)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let ends = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let (mut journal, before) = Journal::resume(&path, about()).unwrap();
            assert_eq!(before.worlds.len(), ends.saturating_sub(1), "cut at {cut}");
            journal.write(&line("9", Outcome::Passed)).unwrap();
            let after = read(&path).unwrap();
            assert_eq!(
                (after.header.unwrap().sweep, after.unreadable),
                (about(), Vec::new()),
                "cut at {cut}"
            );
            assert_eq!(after.worlds.len(), ends.saturating_sub(1) + 1);
        }
        std::fs::write(&path, &whole).unwrap();
        let done = read(&path).unwrap().done();
        assert_eq!(done, ["1", "3"].map(str::to_owned).into());
    }

    #[test]
    fn a_journal_is_neither_overwritten_nor_mixed_with_that_of_another_sweep() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sweep.jsonl");
        drop(Journal::create(&path, about()).unwrap());
        assert!(matches!(Journal::create(&path, about()), Err(JournalError::Exists { .. })));
        let other = About { shard: "1/2".parse().unwrap(), ..about() };
        assert!(matches!(Journal::resume(&path, other), Err(JournalError::Other { .. })));
        std::fs::write(&path, "something else\n").unwrap();
        assert!(matches!(Journal::resume(&path, about()), Err(JournalError::NoJournal { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "something else\n");
    }
}
