//! Reading the layers as one: active table, frozen table, engine.
//!
//! The tables hold only versions newer than what lies under them, so a point read stops at the first layer that has
//! one. A scan merges. Where a checkpoint is being written, the engine and the frozen table hold the same rows for a
//! while: the merge drops the double.

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;

use super::engine::Engine;
use super::rows::{self, RowBody, Version};
use super::table::Table;
use super::{Store, StoreError};
use crate::command::{KeyRange, Revision};

/// How many keys the first step of a scan takes from each layer; doubled with each step up to the greatest.
const CHUNK_KEYS_MIN: usize = 32;
const CHUNK_KEYS_MAX: usize = 1024;
/// A step also ends after so many bytes of values.
const CHUNK_BYTES_MAX: usize = 512 * 1024;
/// After so many rows of one key that it does not want, a scan of the engine seeks instead of stepping.
const SKIPS_BEFORE_SEEK: usize = 16;

/// An interval of user keys: from `start` on, up to but not including `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) start: Bytes,
    pub(crate) end: Option<Bytes>,
}

impl Bounds {
    /// Every key.
    pub(crate) const ALL: Self = Self { start: Bytes::new(), end: None };
}

impl From<&KeyRange> for Bounds {
    fn from(range: &KeyRange) -> Self {
        match range {
            KeyRange::Key(key) => {
                let mut end = key.to_vec();
                end.push(0);
                Self { start: key.clone(), end: Some(end.into()) }
            }
            KeyRange::Prefix(prefix) => {
                // The end is the prefix with its last byte one higher; a byte FF has no higher one and is cut.
                let mut end = prefix.to_vec();
                while end.pop_if(|byte| *byte == 0xFF).is_some() {}
                let end = end.pop().map(|byte| {
                    end.push(byte + 1);
                    Bytes::from(end)
                });
                Self { start: prefix.clone(), end }
            }
            KeyRange::HalfOpen { start, end } => Self { start: start.clone(), end: Some(end.clone()) },
            KeyRange::From(start) => Self { start: start.clone(), end: None },
        }
    }
}

/// What of the history a scan shows: of each key, the versions at or below `ceiling` down to, and including, the
/// first one at or below `floor`. With both equal that is the state at one revision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) floor: Revision,
    pub(crate) ceiling: Revision,
}

impl Window {
    /// The state at one revision.
    pub(crate) const fn at(revision: Revision) -> Self {
        Self { floor: revision, ceiling: revision }
    }
}

/// The layers at one moment. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Layers {
    pub(crate) active: Arc<Table>,
    pub(crate) frozen: Option<Arc<Table>>,
    pub(crate) base: Arc<Engine>,
}

impl Layers {
    /// An empty table over an engine.
    pub(crate) fn over(base: Arc<Engine>) -> Self {
        Self { active: Arc::new(Table::default()), frozen: None, base }
    }

    /// The newest version of `key` at or below `ceiling`; its value only `with_value`.
    pub(crate) fn get(
        &self,
        key: &[u8],
        ceiling: Revision,
        with_value: bool,
    ) -> Result<Option<Version>, StoreError> {
        let in_tables =
            self.active.get(key, ceiling).or_else(|| self.frozen.as_ref().and_then(|t| t.get(key, ceiling)));
        if in_tables.is_some() {
            return Ok(in_tables);
        }
        let mut found = None;
        let (from, to) = (rows::data_key(key, ceiling), rows::data_bound_after(key));
        self.base.scan(&from, Some(&to), &mut |row, value| {
            found = Some(Item::read(Bytes::new(), row, value, with_value));
            ControlFlow::Break(())
        })?;
        let Some(item) = found else { return Ok(None) };
        let (_, version) = item?.load(&*self.base)?;
        Ok(Some(version))
    }

    /// Begins a scan.
    pub(crate) fn scan(&self, bounds: &Bounds, window: Window, with_values: bool) -> Merge<'_> {
        let tables = std::iter::once(&*self.active).chain(self.frozen.as_deref());
        let mut sources: Vec<Source<'_>> = tables
            .map(|table| Source::new(Layer::Table { table, from: Bound::Included(bounds.start.clone()) }))
            .collect();
        sources.push(Source::new(Layer::Base {
            base: &*self.base,
            from: rows::data_bound(&bounds.start),
            done_with: None,
        }));
        let done_at = window.floor;
        let base = &*self.base;
        Merge { base, sources, end: bounds.end.clone(), window, done_at, with_values, last: None }
    }

    /// Begins a scan of the state at `revision`, under changes that a transaction has not committed yet: `staged`,
    /// sorted by key and within `bounds`, shows instead of what the layers have of its keys.
    pub(crate) fn scan_under(
        &self,
        staged: Vec<(Bytes, Version)>,
        bounds: &Bounds,
        revision: Revision,
        with_values: bool,
    ) -> Merge<'_> {
        let mut merge = self.scan(bounds, Window::at(revision), with_values);
        merge.done_at = Revision::MAX;
        let buffer = staged.into_iter().map(Item::from).collect();
        merge.sources.push(Source { layer: Layer::Staged, step: 0, exhausted: true, buffer });
        merge
    }
}

/// One version in one layer. Where its value is in parts, they are fetched only once it is clear that it shows: what a
/// newer version in another layer hides is not protected from the sweep.
struct Item {
    key: Bytes,
    version: Version,
    /// The row, and how many bytes its parts have, if they are not in the version yet.
    in_parts: Option<(Vec<u8>, u32)>,
}

impl From<(Bytes, Version)> for Item {
    fn from((key, version): (Bytes, Version)) -> Self {
        Self { key, version, in_parts: None }
    }
}

impl Item {
    /// Reads a row of the engine.
    fn read(key: Bytes, row: &[u8], value: &[u8], with_value: bool) -> Result<Self, StoreError> {
        let (Some(mod_revision), Some(parsed)) = (rows::row_revision(row), rows::parse_data_value(value))
        else {
            return Err(StoreError::corrupt("read a row", format!("row {row:02x?} cannot be read")));
        };
        let (value, in_parts) = match parsed.body {
            RowBody::Tombstone => (None, None),
            RowBody::Inline(value) if with_value => (Some(Bytes::copy_from_slice(value)), None),
            RowBody::Parts(total) if with_value => (Some(Bytes::new()), Some((row.to_vec(), total))),
            RowBody::Inline(_) | RowBody::Parts(_) => (Some(Bytes::new()), None),
        };
        let (create_revision, version) = (parsed.create_revision, parsed.version);
        Ok(Self { key, version: Version { mod_revision, create_revision, version, value }, in_parts })
    }

    /// The whole version.
    fn load(mut self, base: &dyn Store) -> Result<(Bytes, Version), StoreError> {
        if let Some((row, total)) = self.in_parts {
            let mut value = Vec::with_capacity(total as usize);
            for number in 0..rows::part_count(row.len(), total) {
                match base.get(&rows::part_key(&row, number))? {
                    Some(part) => value.extend_from_slice(&part),
                    None => break,
                }
            }
            if value.len() != total as usize {
                let what = format!("row {row:02x?} has {} of {total} bytes", value.len());
                return Err(StoreError::corrupt("read a large value", what));
            }
            self.version.value = Some(value.into());
        }
        Ok((self.key, self.version))
    }
}

enum Layer<'a> {
    Table {
        table: &'a Table,
        from: Bound<Bytes>,
    },
    Base {
        base: &'a dyn Store,
        from: Vec<u8>,
        /// The group of rows (one user key) of which no more are wanted.
        done_with: Option<Vec<u8>>,
    },
    /// Nothing but what was put into the buffer at the start.
    Staged,
}

/// One layer of a scan, read in bounded steps.
struct Source<'a> {
    layer: Layer<'a>,
    step: usize,
    exhausted: bool,
    buffer: VecDeque<Item>,
}

impl<'a> Source<'a> {
    fn new(layer: Layer<'a>) -> Self {
        Self { layer, step: CHUNK_KEYS_MIN, exhausted: false, buffer: VecDeque::new() }
    }

    /// Makes sure that the next item is in the buffer, if there is one.
    fn fill(&mut self, end: Option<&Bytes>, window: Window, with_values: bool) -> Result<(), StoreError> {
        while self.buffer.is_empty() && !self.exhausted {
            let limit = self.step;
            self.step = (self.step * 2).min(CHUNK_KEYS_MAX);
            match &mut self.layer {
                Layer::Table { table, from } => {
                    let cursor = from.as_ref().map(Bytes::as_ref);
                    let range = (window.floor, window.ceiling);
                    let end = end.map(Bytes::as_ref);
                    let out = |key: &Bytes, version: &Version| {
                        self.buffer.push_back((key.clone(), version.clone()).into());
                    };
                    match table.chunk(cursor, end, range, limit, out) {
                        Some(last) => *from = Bound::Excluded(last),
                        None => self.exhausted = true,
                    }
                }
                Layer::Staged => self.exhausted = true,
                Layer::Base { base, from, done_with } => {
                    let to = end.map_or_else(|| rows::DATA_END.to_vec(), |end| rows::data_bound(end));
                    let step = BaseStep { base: *base, to: &to, window, with_values, limit };
                    self.exhausted = step.run(from, done_with, &mut self.buffer)?;
                }
            }
        }
        Ok(())
    }
}

/// One bounded step over the engine's rows.
struct BaseStep<'a> {
    base: &'a dyn Store,
    to: &'a [u8],
    window: Window,
    with_values: bool,
    limit: usize,
}

impl BaseStep<'_> {
    /// Returns whether the end was reached; if not, `from` is where to go on.
    fn run(
        &self,
        from: &mut Vec<u8>,
        done_with: &mut Option<Vec<u8>>,
        out: &mut VecDeque<Item>,
    ) -> Result<bool, StoreError> {
        let mut taken = 0;
        let (mut skipped, mut bytes) = (0, 0);
        let mut broken = None;
        let mut stopped = false;
        if from.as_slice() >= self.to {
            return Ok(true);
        }
        let start = std::mem::take(from);
        self.base.scan(&start, Some(self.to), &mut |row, value| {
            let Some(group) = rows::data_key_group(row) else {
                let what = format!("row key {row:02x?} is too short");
                broken = Some(StoreError::corrupt("read a row", what));
                return ControlFlow::Break(());
            };
            let revision = rows::row_revision(row).unwrap_or_default();
            if done_with.as_deref() == Some(group) || revision > self.window.ceiling {
                skipped += 1;
                if skipped < SKIPS_BEFORE_SEEK {
                    return ControlFlow::Continue(());
                }
                // Over the rest of this key's rows, or to its first one at the ceiling.
                *from = if revision > self.window.ceiling {
                    [group, &(!self.window.ceiling).to_be_bytes()].concat()
                } else {
                    [group, &[0xFF; 9]].concat()
                };
                stopped = true;
                return ControlFlow::Break(());
            }
            skipped = 0;
            if taken >= self.limit || bytes >= CHUNK_BYTES_MAX {
                *from = row.to_vec();
                stopped = true;
                return ControlFlow::Break(());
            }
            let item = match rows::parse_data_key(row) {
                Some((key, _)) => Item::read(key, row, value, self.with_values),
                None => Err(StoreError::corrupt("read a row", format!("row key {row:02x?} cannot be read"))),
            };
            match item {
                Ok(item) => out.push_back(item),
                Err(error) => {
                    broken = Some(error);
                    return ControlFlow::Break(());
                }
            }
            taken += 1;
            bytes += value.len();
            if revision <= self.window.floor {
                *done_with = Some(group.to_vec());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = broken {
            return Err(error);
        }
        Ok(!stopped)
    }
}

/// A scan of all layers: versions in key order, and newest first within a key.
pub(crate) struct Merge<'a> {
    base: &'a dyn Store,
    sources: Vec<Source<'a>>,
    end: Option<Bytes>,
    window: Window,
    /// A version at or below this is the last of its key that is shown.
    done_at: Revision,
    with_values: bool,
    /// The key shown last, and whether no more of its versions are wanted.
    last: Option<(Bytes, bool)>,
}

impl Merge<'_> {
    /// The next version, or `None` at the end.
    pub(crate) fn next_version(&mut self) -> Result<Option<(Bytes, Version)>, StoreError> {
        loop {
            let Some(item) = self.pop()? else { return Ok(None) };
            let same_key = self.last.as_ref().is_some_and(|(last, _)| *last == item.key);
            if same_key && self.last.as_ref().is_some_and(|(_, done)| *done) {
                continue;
            }
            self.last = Some((item.key.clone(), item.version.mod_revision <= self.done_at));
            if !self.with_values {
                return Ok(Some((item.key, item.version)));
            }
            return item.load(self.base).map(Some);
        }
    }

    /// From now on values are not read, as far as they have not been yet.
    pub(crate) fn leave_values_out(&mut self) {
        self.with_values = false;
    }

    /// The least item of all sources, by key and then newest first; every double of it is dropped.
    fn pop(&mut self) -> Result<Option<Item>, StoreError> {
        for source in &mut self.sources {
            source.fill(self.end.as_ref(), self.window, self.with_values)?;
        }
        let mut least: Option<(&Bytes, Revision)> = None;
        for item in self.sources.iter().filter_map(|source| source.buffer.front()) {
            let (key, revision) = (&item.key, item.version.mod_revision);
            if least.is_none_or(|(k, r)| (key, std::cmp::Reverse(revision)) < (k, std::cmp::Reverse(r))) {
                least = Some((key, revision));
            }
        }
        let Some((key, revision)) = least.map(|(key, revision)| (key.clone(), revision)) else {
            return Ok(None);
        };
        let mut found = None;
        for source in &mut self.sources {
            let double = |item: &mut Item| item.key == key && item.version.mod_revision == revision;
            if let Some(item) = source.buffer.pop_front_if(double) {
                found.get_or_insert(item);
            }
        }
        Ok(found)
    }
}
