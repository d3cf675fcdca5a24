//! Which store is the current one, and how far it is known to have come: the file `CURRENT`.
//!
//! The file stands outside the engine and is replaced atomically (staged, synced, renamed, directory synced). It
//! does two things. It names the store, `store.N`, so that installing a snapshot is one rename. And it records
//! the last entry that a completed checkpoint made durable in that store: an engine that opens empty, or behind that
//! entry, has lost what was promised, however sound it looks. The state machine then starts from nothing, and what is
//! lost comes back from the log, a snapshot or a peer.
//!
//! The order is always: engine flushed, then `CURRENT`. A crash between leaves a store that is ahead of its record,
//! which is fine.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use raft::core::{Index, LogId, Term};
use raft::disk::{OpenMode, SharedDisk};

use super::StoreError;
use super::engine::{Engine, StoreKind};

const NAME: &str = "CURRENT";
const STAGED: &str = "CURRENT.new";
/// While a file of this name is there, the store is wrong. It holds the reason, for people.
const CONDEMNED: &str = "CONDEMNED";
const MAGIC: &[u8; 4] = b"rkvC";
const FORMAT: u32 = 1;
const LENGTH: usize = 4 + 4 + 8 + 8 + 8 + 4;

/// What `CURRENT` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    /// The store's number.
    pub(crate) number: u64,
    /// The last entry that is durable in it for certain.
    pub(crate) durable: LogId,
}

/// A node's store directory.
pub(crate) struct Home {
    disk: SharedDisk,
    dir: PathBuf,
    kind: StoreKind,
    /// Also serialises the writers of the file: a checkpoint of a store that an install has just replaced must not
    /// bring the old store back.
    current: Mutex<Current>,
}

/// What was found at start.
pub(crate) struct Found {
    pub(crate) home: Home,
    /// The store that `CURRENT` names, if it can be opened; and else why not, if there ever was one.
    pub(crate) engine: Result<Engine, Option<String>>,
}

impl Home {
    /// Looks into the directory, and makes it if need be.
    pub(crate) fn open(disk: SharedDisk, dir: PathBuf, kind: StoreKind) -> Result<Found, StoreError> {
        let context = |error| StoreError::io(format!("open the store directory {}", dir.display()), error);
        disk.create_dir_all(&dir).map_err(context)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_dir(parent).map_err(context)?;
        }
        kind.prepare()?;
        let condemned = disk.exists(&dir.join(CONDEMNED)).map_err(context)?;
        let nothing = Current { number: 0, durable: LogId::ZERO };
        let mut home = Self { disk, dir, kind, current: Mutex::new(nothing) };
        let engine = match home.read()? {
            None => Err(None),
            Some(Err(damage)) => Err(Some(damage)),
            Some(Ok(current)) if condemned => {
                home.current = Mutex::new(current);
                Err(Some(format!("store.{} was found to differ from that of a quorum", current.number)))
            }
            Some(Ok(current)) => {
                home.current = Mutex::new(current);
                let name = || format!("store.{} is missing or damaged", current.number);
                home.kind.open(current.number)?.ok_or_else(|| Some(name()))
            }
        };
        Ok(Found { home, engine })
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `CURRENT` says now.
    pub(crate) fn current(&self) -> Current {
        *self.lock()
    }

    /// Reads the file: nothing if there is none; what is wrong with it, if it is damaged.
    fn read(&self) -> Result<Option<Result<Current, String>>, StoreError> {
        let path = self.dir.join(NAME);
        let context = |error| StoreError::io(format!("read {}", path.display()), error);
        if !self.disk.exists(&path).map_err(context)? {
            return Ok(None);
        }
        let file = self.disk.open(&path, OpenMode::Read).map_err(context)?;
        let mut bytes = [0; LENGTH + 1];
        let mut length = 0;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, length as u64).map_err(context)? {
                0 => break,
                read => length += read,
            }
        }
        let parsed = parse(bytes.get(..length).unwrap_or_default());
        if let Err(Damage::Newer(format)) = parsed {
            let what =
                format!("format {format} is newer than this version knows ({FORMAT}); use a newer raftkv");
            return Err(context(io::Error::new(io::ErrorKind::InvalidData, what)));
        }
        Ok(Some(parsed.map_err(|_| format!("{} is damaged", path.display()))))
    }

    /// A new store, with a number that no leftover has.
    pub(crate) fn create(&self) -> Result<Engine, StoreError> {
        let last = self.kind.numbers()?.into_iter().max().unwrap_or(0);
        self.kind.create(last.max(self.current().number) + 1)
    }

    /// The store is wrong, and must not be opened again. Durable when this returns.
    pub(crate) fn condemn(&self, why: &str) -> Result<(), StoreError> {
        let path = self.dir.join(CONDEMNED);
        let context = |error| StoreError::io(format!("write {}", path.display()), error);
        if self.disk.exists(&path).map_err(context)? {
            return self.disk.sync_dir(&self.dir).map_err(context);
        }
        let file = self.disk.open(&path, OpenMode::CreateNew).map_err(context)?;
        file.write_at(why.as_bytes(), 0).map_err(context)?;
        file.sync_data().map_err(context)?;
        self.disk.sync_dir(&self.dir).map_err(context)
    }

    /// An empty store has taken the place of a wrong one.
    pub(crate) fn absolve(&self) -> Result<(), StoreError> {
        let path = self.dir.join(CONDEMNED);
        let context = |error| StoreError::io(format!("remove {}", path.display()), error);
        if self.disk.exists(&path).map_err(context)? {
            self.disk.remove_file(&path).map_err(context)?;
            self.disk.sync_dir(&self.dir).map_err(context)?;
        }
        Ok(())
    }

    /// Whether this is one node of a few, for a planted bug that only one node has.
    pub(crate) fn is_odd(&self) -> bool {
        self.dir.to_string_lossy().bytes().rev().find(u8::is_ascii_digit) == Some(b'2')
    }

    /// Makes this store, which is sealed, the current one.
    pub(crate) fn switch(&self, engine: &Engine, durable: LogId) -> Result<(), StoreError> {
        let mut current = self.lock();
        let next = Current { number: engine.number(), durable };
        self.record(next)?;
        *current = next;
        Ok(())
    }

    /// Records how far the store has come, if it still is the current one. Returns what is durable now.
    pub(crate) fn advance(&self, engine: &Engine, durable: LogId) -> Result<LogId, StoreError> {
        let mut current = self.lock();
        if current.number == engine.number() && current.durable.index < durable.index {
            let next = Current { durable, ..*current };
            self.record(next)?;
            *current = next;
        }
        Ok(current.durable)
    }

    fn record(&self, current: Current) -> Result<(), StoreError> {
        let staged = self.dir.join(STAGED);
        let context = |error| StoreError::io(format!("write {}", staged.display()), error);
        if self.disk.exists(&staged).map_err(context)? {
            self.disk.remove_file(&staged).map_err(context)?;
        }
        let file = self.disk.open(&staged, OpenMode::CreateNew).map_err(context)?;
        file.write_at(&encode(current), 0).map_err(context)?;
        file.sync_data().map_err(context)?;
        drop(file);
        self.disk.rename(&staged, &self.dir.join(NAME)).map_err(context)?;
        self.disk.sync_dir(&self.dir).map_err(context)
    }

    /// Removes every store but one: what a crash left over, or what is lost.
    pub(crate) fn remove_leftovers(&self, keep: u64) -> Result<(), StoreError> {
        for number in self.kind.numbers()? {
            if number != keep {
                tracing::info!(store = number, "removing a leftover store");
                self.kind.remove(number)?;
            }
        }
        Ok(())
    }
}

enum Damage {
    Newer(u32),
    Unreadable,
}

fn encode(current: Current) -> Vec<u8> {
    let mut out = Vec::with_capacity(LENGTH);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&current.number.to_le_bytes());
    out.extend_from_slice(&current.durable.term.0.to_le_bytes());
    out.extend_from_slice(&current.durable.index.0.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn parse(bytes: &[u8]) -> Result<Current, Damage> {
    let fields = || {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let (magic, rest) = body.split_first_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || magic != MAGIC {
            return None;
        }
        let (format, rest) = rest.split_first_chunk::<4>()?;
        Some((u32::from_le_bytes(*format), rest))
    };
    let (format, rest) = fields().ok_or(Damage::Unreadable)?;
    if format > FORMAT {
        return Err(Damage::Newer(format));
    }
    let mut numbers = rest.chunks_exact(8).filter_map(|n| n.try_into().ok().map(u64::from_le_bytes));
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(number), Some(term), Some(index), None) => {
            Ok(Current { number, durable: LogId { term: Term(term), index: Index(index) } })
        }
        _ => Err(Damage::Unreadable),
    }
}
