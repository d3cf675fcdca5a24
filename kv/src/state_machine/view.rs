//! What the apply lane and everyone else share: the layers as they are now, and how far they are to be believed.
//!
//! One short lock. The apply lane publishes under it, once a group of entries; a reader takes a [`Pinned`] view under
//! it, and reads without it. Group atomicity for readers comes from here: rows of a group may already be in the
//! active table, but the revision that makes them visible is published together with the applied position.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::core::LogId;

use super::meta::Meta;
use crate::command::Revision;
use crate::store::layers::Layers;

/// The published part of the state's metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    pub(crate) applied: LogId,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) cluster_time_ms: u64,
    pub(crate) chain: u64,
    pub(crate) sessions: usize,
}

impl Published {
    pub(crate) const fn of(meta: &Meta, sessions: usize) -> Self {
        Self {
            applied: meta.applied,
            revision: meta.revision,
            compacted: meta.compacted,
            cluster_time_ms: meta.cluster_time_ms,
            chain: meta.chain.0,
            sessions,
        }
    }
}

pub(crate) struct View {
    pub(crate) published: Published,
    pub(crate) layers: Layers,
    /// How many reads need the history from a revision on.
    pins: BTreeMap<Revision, usize>,
}

impl View {
    /// History below this is needed by no read, now or later, of this state.
    pub(crate) fn unneeded_below(&self) -> Revision {
        let pinned = self.pins.keys().next().copied().unwrap_or(Revision::MAX);
        pinned.min(self.published.compacted)
    }
}

/// The view, shared.
pub(crate) struct Shared {
    view: Mutex<View>,
}

impl Shared {
    pub(crate) fn new(published: Published, layers: Layers) -> Arc<Self> {
        Arc::new(Self { view: Mutex::new(View { published, layers, pins: BTreeMap::new() }) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the view of this moment and pins history from the revision that `floor` chooses on. Refuses if `floor` does.
    pub(crate) fn pin<E>(
        self: &Arc<Self>,
        floor: impl FnOnce(&Published) -> Result<Revision, E>,
    ) -> Result<Pinned, E> {
        let mut view = self.lock();
        let published = view.published;
        let floor = floor(&published)?;
        *view.pins.entry(floor).or_default() += 1;
        Ok(Pinned { shared: self.clone(), layers: view.layers.clone(), published, floor })
    }
}

/// A view that stays readable, from the floor on, until it is dropped.
pub(crate) struct Pinned {
    shared: Arc<Shared>,
    pub(crate) layers: Layers,
    pub(crate) published: Published,
    pub(crate) floor: Revision,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut view = self.shared.lock();
        if let Some(count) = view.pins.get_mut(&self.floor) {
            *count -= 1;
            if *count == 0 {
                view.pins.remove(&self.floor);
            }
        }
    }
}
