//! The engine that keeps its rows in memory.
//!
//! It is for tests and for simulation at speed, and behaves as a disk does: what was not flushed is gone when the
//! engine is dropped. What was flushed lives on in the [`MemoryPlatter`], which stands for the disk of one node
//! and outlives it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{RowChange, Store, StoreError, Visit};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The durable side of memory engines: the disk of one node. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryPlatter {
    inner: Arc<Mutex<Platter>>,
}

/// Tells whether the power is off.
type IsOff = Arc<dyn Fn() -> bool + Send + Sync>;

#[derive(Default)]
struct Platter {
    stores: BTreeMap<u64, Rows>,
    /// Asked at each flush.
    is_off: Option<IsOff>,
    /// Counts the openings. Only the engines of the latest one reach the platter: those of a node that was killed
    /// must not, even if something still holds them.
    opening: u64,
}

impl std::fmt::Debug for Platter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platter")
            .field("stores", &self.stores)
            .field("opening", &self.opening)
            .finish_non_exhaustive()
    }
}

impl MemoryPlatter {
    /// From now on flushes fail and change nothing as soon as `is_off`: the rest of the disk may lose power between
    /// two calls, and then this part of it has lost it too.
    pub fn powered_like(&self, is_off: impl Fn() -> bool + Send + Sync + 'static) {
        self.lock().is_off = Some(Arc::new(is_off));
    }

    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts off every engine that is open: from now on their flushes fail and change nothing. For a simulated
    /// power cut.
    pub fn cut_power(&self) {
        self.lock().opening += 1;
    }

    /// The numbers of the stores that are there.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.lock().stores.keys().copied().collect()
    }

    pub(crate) fn create(&self, number: u64) -> MemoryStore {
        let mut platter = self.lock();
        platter.stores.insert(number, Rows::new());
        let opening = platter.opening;
        MemoryStore {
            platter: self.clone(),
            number,
            opening,
            rows: RwLock::default(),
            unflushed: Mutex::default(),
        }
    }

    pub(crate) fn open(&self, number: u64) -> Option<MemoryStore> {
        let mut platter = self.lock();
        let rows = platter.stores.get(&number)?.clone();
        platter.opening += 1;
        let opening = platter.opening;
        let platter = self.clone();
        Some(MemoryStore { platter, number, opening, rows: RwLock::new(rows), unflushed: Mutex::default() })
    }

    pub(crate) fn remove(&self, number: u64) {
        self.lock().stores.remove(&number);
    }
}

/// An engine over a [`MemoryPlatter`].
pub(crate) struct MemoryStore {
    platter: MemoryPlatter,
    number: u64,
    opening: u64,
    rows: RwLock<Rows>,
    unflushed: Mutex<Vec<RowChange>>,
}

fn change(rows: &mut Rows, (key, value): RowChange) {
    match value {
        Some(value) => rows.insert(key, value),
        None => rows.remove(&key),
    };
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if to.is_some_and(|to| from >= to) {
            return Ok(());
        }
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in rows.range::<[u8], _>((Bound::Included(from), to)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        let mut unflushed = self.unflushed.lock().unwrap_or_else(PoisonError::into_inner);
        for one in changes {
            unflushed.push(one.clone());
            change(&mut rows, one);
        }
        Ok(())
    }

    fn load(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
        self.write(changes)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut platter = self.platter.lock();
        let powered =
            platter.opening == self.opening && !platter.is_off.as_ref().is_some_and(|is_off| is_off());
        let Some(durable) = platter.stores.get_mut(&self.number).filter(|_| powered) else {
            let gone = io::Error::other("the power is cut, or the store was removed");
            return Err(StoreError::io(format!("flush memory store {}", self.number), gone));
        };
        for one in self.unflushed.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            change(durable, one);
        }
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}
