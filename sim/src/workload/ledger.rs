//! The ledger: the store's own history, read from the nodes while it is there.
//!
//! Whoever has the newest revisions is asked for each of them: which keys were written by it, and which are gone. That
//! tells of every change, also of those whose clients never got an answer. Compaction forgets history, so clients
//! compact only what the ledger has read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kv::command::{KeyRange, Range, Revision};
use kv::state_machine::KvReader;

use super::record::Effects;
use super::writer_of;
use crate::app::kv::KvView;
use crate::cluster::Cluster;
use crate::report::Failure;

/// The ledger. Clones are the same.
#[derive(Clone, Default)]
pub struct Ledger {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    effects: Effects,
    /// All revisions up to here were read.
    read: Revision,
    /// The keys at that revision, and when each was last changed.
    keys: BTreeMap<Bytes, Revision>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All revisions up to this one are in the ledger.
    #[must_use]
    pub fn read(&self) -> Revision {
        self.lock().read
    }

    /// Reads what is new from whichever node has most.
    ///
    /// # Errors
    /// A node's history is not what it can be.
    pub fn update(&self, cluster: &Cluster) -> Result<(), Failure> {
        let views: Vec<_> = cluster.machines().filter_map(|node| cluster.view(node)).collect();
        let readers = views.iter().filter_map(|view| view.as_any().downcast_ref::<KvView>());
        match readers.map(|view| &view.reader).max_by_key(|reader| reader.revision()) {
            Some(reader) => self.read_from(reader),
            None => Ok(()),
        }
    }

    fn read_from(&self, reader: &KvReader) -> Result<(), Failure> {
        let mut state = self.lock();
        let newest = reader.revision();
        while state.read < newest {
            let revision = state.read + 1;
            let all = Range {
                range: KeyRange::Prefix(Bytes::new()),
                revision: Some(revision),
                limit: 0,
                keys_only: false,
                count_only: false,
            };
            let found = reader.range(&all).map_err(|error| {
                Failure::new("history is readable", format!("revision {revision} of {newest}: {error}"))
            })?;
            state.add(revision, found.kvs)?;
        }
        Ok(())
    }

    /// Takes what the ledger has found.
    #[must_use]
    pub fn take(&self) -> Effects {
        std::mem::take(&mut self.lock().effects)
    }
}

impl State {
    fn add(&mut self, revision: Revision, pairs: Vec<kv::command::KeyValue>) -> Result<(), Failure> {
        let mut keys = BTreeMap::new();
        let mut changes = 0;
        for pair in pairs {
            if pair.mod_revision == revision {
                changes += 1;
                let (key, value) = (String::from_utf8_lossy(&pair.key), String::from_utf8_lossy(&pair.value));
                let changes = self.effects.values.entry(key.clone().into_owned()).or_default();
                changes.push((revision, Some(value.clone().into_owned())));
                if let Some(number) = writer_of(&value) {
                    self.effects.written.found(number, revision, &key)?;
                }
            } else if self.keys.get(&pair.key) != Some(&pair.mod_revision) {
                let text = format!(
                    "{:?} at revision {revision} was last changed by revision {}, by revision {} at the one before",
                    pair.key,
                    pair.mod_revision,
                    self.keys.get(&pair.key).copied().unwrap_or(0)
                );
                return Err(Failure::new("history is readable", text));
            }
            keys.insert(pair.key, pair.mod_revision);
        }
        for key in self.keys.keys().filter(|key| !keys.contains_key(*key)) {
            changes += 1;
            let key = String::from_utf8_lossy(key).into_owned();
            self.effects.values.entry(key.clone()).or_default().push((revision, None));
            self.effects.removed.entry(key).or_default().push(revision);
        }
        if changes == 0 {
            let text = format!("revision {revision} changed nothing");
            return Err(Failure::new("history is readable", text));
        }
        self.keys = keys;
        self.read = revision;
        self.effects.newest = revision;
        Ok(())
    }
}
