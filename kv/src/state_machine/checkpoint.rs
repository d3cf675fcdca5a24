//! Writing a checkpoint: the frozen table, the changed sessions and the metadata of one cut go to the engine.
//!
//! The order makes it atomic, whatever the size. First the rows, one after the other: no reader knows of them from
//! the engine yet, they are immutable, and after a crash the same entries make the same rows again. They are flushed.
//! Then one small atomic batch with the sessions and the metadata, the applied position in it: with it, all of the
//! cut counts; without it, nothing does. It is flushed, and recorded outside the engine.
//!
//! What would break this is a row of the engine that a later entry changes in place. There is none but sessions and
//! metadata, and those are in the batch.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use raft::core::LogId;

use super::meta::Meta;
use super::sessions::Session;
use super::sweep::Sweep;
use super::view::Shared;
use crate::command::SessionId;
use crate::store::engine::Engine;
use crate::store::home::Home;
use crate::store::rows;
use crate::store::table::Table;
use crate::store::{RowChange, Store, StoreError};

/// The rows are handed to the engine in runs of about so many bytes.
pub(crate) const RUN_BYTES: usize = 1 << 20;
/// How many keys of the table are encoded under its lock at a time.
const RUN_KEYS: usize = 64;

/// A cut that is to be made durable.
pub(crate) struct Checkpoint {
    pub(crate) home: Arc<Home>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) frozen: Arc<Table>,
    pub(crate) sessions: Vec<(SessionId, Option<Arc<Session>>)>,
    pub(crate) meta: Meta,
    pub(crate) sweep: Arc<Sweep>,
}

impl Checkpoint {
    /// Writes it; returns what is durable then.
    pub(crate) fn run(self) -> Result<LogId, StoreError> {
        let engine = &*self.engine;
        if raft::mutant!("applied-split") {
            engine.write(self.head()?)?;
            engine.flush()?;
            self.home.advance(engine, self.meta.applied)?;
        }
        write_table(engine, &self.frozen)?;
        engine.flush()?;
        engine.write(self.head()?)?;
        engine.flush()?;
        let durable = self.home.advance(engine, self.meta.applied)?;
        let floor = {
            let mut view = self.shared.lock();
            let current = view.layers.frozen.as_ref().is_some_and(|frozen| Arc::ptr_eq(frozen, &self.frozen));
            if current {
                view.layers.frozen = None;
            }
            view.unneeded_below().min(self.meta.compacted)
        };
        self.sweep.step(engine, floor)?;
        Ok(durable)
    }

    /// The batch that makes the cut count.
    fn head(&self) -> Result<Vec<RowChange>, StoreError> {
        let mut batch = Vec::new();
        for (id, session) in &self.sessions {
            session_rows(&*self.engine, *id, session.as_deref(), &mut batch)?;
        }
        batch.push((rows::META.to_vec(), Some(self.meta.encode())));
        batch.sort_unstable();
        Ok(batch)
    }
}

/// Writes every version of a table.
fn write_table(engine: &dyn Store, table: &Table) -> Result<(), StoreError> {
    let (mut parts, mut data, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut cursor = Bound::Unbounded;
    loop {
        let from = cursor.as_ref().map(bytes::Bytes::as_ref);
        let last = table.chunk(from, None, (0, u64::MAX), RUN_KEYS, |key, version| {
            encode_into(key, version, &mut parts, &mut data, &mut bytes);
        });
        let Some(key) = last else { return load_run(engine, &mut parts, &mut data) };
        cursor = Bound::Excluded(key);
        if bytes >= RUN_BYTES {
            load_run(engine, &mut parts, &mut data)?;
            bytes = 0;
        }
    }
}

/// Adds the rows of a version to a run.
pub(crate) fn encode_into(
    key: &[u8],
    version: &rows::Version,
    parts: &mut Vec<RowChange>,
    data: &mut Vec<RowChange>,
    bytes: &mut usize,
) {
    let encoded = rows::encode_version(key, version);
    *bytes += encoded.key.len() + encoded.value.len();
    for (key, value) in encoded.parts {
        *bytes += key.len() + value.len();
        parts.push((key, Some(value)));
    }
    data.push((encoded.key, Some(encoded.value)));
}

/// Hands a run over: parts first, so that whoever sees a data row finds its parts.
pub(crate) fn load_run(
    engine: &dyn Store,
    parts: &mut Vec<RowChange>,
    data: &mut Vec<RowChange>,
) -> Result<(), StoreError> {
    engine.load(std::mem::take(parts))?;
    engine.load(std::mem::take(data))
}

/// The rows of a session, and the removal of rows that an earlier, longer version of it had.
pub(crate) fn session_rows(
    engine: &dyn Store,
    id: SessionId,
    session: Option<&Session>,
    batch: &mut Vec<RowChange>,
) -> Result<(), StoreError> {
    let encoded = session.map(Session::encode).unwrap_or_default();
    let mut parts = 0;
    for chunk in encoded.chunks(rows::SESSION_PART_BYTES) {
        batch.push((rows::session_key(id.0, parts), Some(chunk.to_vec())));
        parts += 1;
    }
    let (from, to) = (rows::session_key(id.0, parts), rows::session_key(id.0, u32::MAX));
    engine.scan(&from, Some(&to), &mut |row, _| {
        batch.push((row.to_vec(), None));
        ControlFlow::Continue(())
    })
}
