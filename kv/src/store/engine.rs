//! Which engine, and the life of its stores: create, open, retire.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::memory::{MemoryPlatter, MemoryStore};
use super::sled::{SledOptions, SledStore};
use super::{RowChange, Store, StoreError, Visit};

/// What is called with a sled store's directory after each flush.
pub type AfterFlush = Arc<dyn Fn(&Path) + Send + Sync>;

/// Where rows are kept.
#[derive(Clone)]
pub enum StoreKind {
    /// In sled, the default.
    Sled(SledOptions),
    /// In memory.
    Memory(MemoryPlatter),
}

impl StoreKind {
    /// Makes ready for the calls below.
    pub(crate) fn prepare(&self) -> Result<(), StoreError> {
        match self {
            Self::Sled(options) => options.prepare(),
            Self::Memory(_) => Ok(()),
        }
    }

    /// The numbers of the stores that are there, whole or not.
    pub(crate) fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        match self {
            Self::Sled(options) => options.numbers(),
            Self::Memory(platter) => Ok(platter.numbers()),
        }
    }

    /// Opens a store; `None` if it is not there or damaged.
    pub(crate) fn open(&self, number: u64) -> Result<Option<Engine>, StoreError> {
        let opened = match self {
            Self::Sled(options) => options.open(number)?.map(Opened::Sled),
            Self::Memory(platter) => platter.open(number).map(Opened::Memory),
        };
        Ok(opened.map(|opened| Engine::new(self.clone(), number, opened)))
    }

    /// Makes an empty store. It counts as a leftover until it is [sealed](Engine::seal) and recorded.
    pub(crate) fn create(&self, number: u64) -> Result<Engine, StoreError> {
        let opened = match self {
            Self::Sled(options) => Opened::Sled(options.create(number)?),
            Self::Memory(platter) => Opened::Memory(platter.create(number)),
        };
        Ok(Engine::new(self.clone(), number, opened))
    }

    /// Removes a store that is not open.
    pub(crate) fn remove(&self, number: u64) -> Result<(), StoreError> {
        match self {
            Self::Sled(options) => options.remove(number),
            Self::Memory(platter) => {
                platter.remove(number);
                Ok(())
            }
        }
    }
}

enum Opened {
    Sled(SledStore),
    Memory(MemoryStore),
}

/// An open store. Once [retired](Self::retire) it is removed when the last one who reads it lets go.
pub(crate) struct Engine {
    kind: StoreKind,
    number: u64,
    /// `None` only while being dropped.
    opened: Option<Opened>,
    retired: AtomicBool,
}

impl Engine {
    fn new(kind: StoreKind, number: u64, opened: Opened) -> Self {
        Self { kind, number, opened: Some(opened), retired: AtomicBool::new(false) }
    }

    /// The store's number.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Makes the whole of a new store durable.
    pub(crate) fn seal(&self) -> Result<(), StoreError> {
        match &self.opened {
            Some(Opened::Sled(store)) => store.seal(),
            _ => self.flush(),
        }
    }

    /// Says that another store has taken its place.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn store(&self) -> &dyn Store {
        match &self.opened {
            Some(Opened::Sled(store)) => store,
            Some(Opened::Memory(store)) => store,
            None => unreachable!("a store is closed only when it is dropped"),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.opened = None;
        if self.retired.load(Ordering::Acquire)
            && let Err(error) = self.kind.remove(self.number)
        {
            // It stays as a leftover, which the next open removes.
            tracing::warn!(store = self.number, %error, "a replaced store could not be removed yet");
        }
    }
}

impl Store for Engine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store().get(key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.store().scan(from, to, visit)
    }

    fn write(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        self.store().write(changes)
    }

    fn load(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        self.store().load(changes)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store().flush()
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.store().disk_bytes()
    }
}
