//! Removing compacted history from the engine, a bounded step after each checkpoint.
//!
//! Compaction itself is logical: the moment a `Compact` command is applied, older revisions are refused. What is left
//! for the sweep is space. It removes, of each key, what no revision from the floor on can show: every version below
//! the newest one at or below the floor, and that one, too, if it is a deletion. The floor is below every revision
//! that a reader holds pinned, and is durable: an engine that came back with the older metadata would still have to
//! serve the older revisions.
//!
//! Nothing replicated depends on how far this has come: not a response, not a hash, not a snapshot.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use crate::command::Revision;
use crate::store::rows::{self, RowBody};
use crate::store::{RowChange, Store, StoreError};

/// How many rows one step looks at.
const STEP_ROWS_MAX: usize = 50_000;

/// How far the sweep of one engine has come.
#[derive(Default)]
pub(crate) struct Sweep {
    pass: Mutex<Pass>,
}

#[derive(Default)]
struct Pass {
    /// Everything below this was removed.
    done: Revision,
    /// What the pass under way removes below; 0 between passes.
    floor: Revision,
    /// Where it goes on.
    next: Vec<u8>,
    /// The key it is at: its rows' common part, whether the version that the floor shows was seen, and that
    /// version's row, if it is a deletion. It must go last: while it stands, it hides the older ones.
    group: Vec<u8>,
    seen: bool,
    tombstone: Option<Vec<u8>>,
}

impl Sweep {
    /// As it was recorded in the engine.
    pub(crate) fn open(engine: &dyn Store) -> Result<Self, StoreError> {
        let recorded = engine.get(rows::SWEPT)?;
        let done = recorded.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        Ok(Self { pass: Mutex::new(Pass { done, ..Pass::default() }) })
    }

    /// Goes on for one step, if there is anything to remove below `floor`.
    pub(crate) fn step(&self, engine: &dyn Store, floor: Revision) -> Result<(), StoreError> {
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        if pass.floor == 0 {
            if floor <= pass.done {
                return Ok(());
            }
            *pass = Pass { done: pass.done, floor, next: rows::data_bound(&[]), ..Pass::default() };
        }
        // A pass under way keeps its floor, which was right when it began and stays so.
        let mut removals = Vec::new();
        let mut looked = 0;
        let mut damage = None;
        let mut ended = true;
        let from = pass.next.clone();
        engine.scan(&from, Some(rows::DATA_END), &mut |row, value| {
            if looked == STEP_ROWS_MAX {
                pass.next = row.to_vec();
                ended = false;
                return ControlFlow::Break(());
            }
            looked += 1;
            match pass.look_at(row, value, &mut removals) {
                Some(()) => ControlFlow::Continue(()),
                None => {
                    damage = Some(format!("row {row:02x?} cannot be read"));
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(what) = damage {
            return Err(StoreError::corrupt("remove compacted history", what));
        }
        if ended {
            pass.leave_group(&mut removals);
            let floor = pass.floor;
            removals.push((rows::SWEPT.to_vec(), Some(floor.to_le_bytes().to_vec())));
            *pass = Pass { done: floor, ..Pass::default() };
        }
        engine.load(removals)
    }
}

impl Pass {
    fn look_at(&mut self, row: &[u8], value: &[u8], removals: &mut Vec<RowChange>) -> Option<()> {
        let group = rows::data_key_group(row)?;
        if self.group != group {
            self.leave_group(removals);
            self.group = group.to_vec();
        }
        if rows::row_revision(row)? > self.floor {
            return Some(());
        }
        let body = rows::parse_data_value(value)?.body;
        if self.seen {
            // Parts first: a data row without its parts is found again by the next sweep, parts without their data
            // row never are.
            if let RowBody::Parts(total) = body {
                let parts = 0..rows::part_count(row.len(), total);
                removals.extend(parts.map(|number| (rows::part_key(row, number), None)));
            }
            removals.push((row.to_vec(), None));
        } else {
            self.seen = true;
            if matches!(body, RowBody::Tombstone) {
                self.tombstone = Some(row.to_vec());
            }
        }
        Some(())
    }

    fn leave_group(&mut self, removals: &mut Vec<RowChange>) {
        self.seen = false;
        removals.extend(self.tombstone.take().map(|row| (row, None)));
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Mutex;

    use super::*;
    use crate::store::Visit;
    use crate::store::rows::{Version, encode_version};

    /// Rows in order, and what was removed of them, in order.
    struct Rows {
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        removed: Mutex<Vec<RowChange>>,
    }

    impl Rows {
        fn of(versions: &[(&str, u64, Option<usize>)]) -> Self {
            let mut rows = Vec::new();
            for (key, revision, value) in versions {
                let version = Version {
                    mod_revision: *revision,
                    create_revision: 1,
                    version: 1,
                    value: value.map(|bytes| vec![b'v'; bytes].into()),
                };
                let encoded = encode_version(key.as_bytes(), &version);
                rows.push((encoded.key, encoded.value));
            }
            rows.sort();
            Self { rows, removed: Mutex::default() }
        }
    }

    impl Store for Rows {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }
        fn scan(&self, from: &[u8], _: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
            let rows = self.rows.iter().filter(|(key, _)| key.as_slice() >= from);
            rows.map(|(key, value)| visit(key, value)).find(ControlFlow::is_break);
            Ok(())
        }
        fn write(&self, _: Vec<RowChange>) -> Result<(), StoreError> {
            unreachable!("the sweep needs no atomic batch")
        }
        fn load(&self, changes: Vec<RowChange>) -> Result<(), StoreError> {
            self.removed.lock().unwrap().extend(changes);
            Ok(())
        }
        fn flush(&self) -> Result<(), StoreError> {
            Ok(())
        }
        fn disk_bytes(&self) -> Result<u64, StoreError> {
            Ok(0)
        }
    }

    // Whatever part of the removals a crash leaves done, no older version comes to light: a deletion goes after what it
    // hides, and the parts of a value go before the row that knows of them.
    #[test]
    fn what_hides_goes_last() {
        let rows = Rows::of(&[
            ("a", 1, Some(1)),
            ("a", 2, Some(20_000)),
            ("a", 3, None),
            ("a", 9, Some(1)),
            ("b", 4, Some(1)),
            ("b", 5, Some(1)),
            ("c", 6, None),
            ("d", 8, None),
        ]);
        Sweep::default().step(&rows, 7).unwrap();
        let removed: Vec<_> = rows.removed.into_inner().unwrap();
        let data = |key: &str, revision| (rows::data_key(key.as_bytes(), revision), None);
        let row = rows::data_key(b"a", 2);
        let parts = rows::part_count(row.len(), 20_000);
        assert!(parts > 1);
        let mut expected: Vec<RowChange> =
            (0..parts).map(|number| (rows::part_key(&row, number), None)).collect();
        expected.extend([data("a", 2), data("a", 1), data("a", 3), data("b", 4), data("c", 6)]);
        expected.push((rows::SWEPT.to_vec(), Some(7_u64.to_le_bytes().to_vec())));
        assert_eq!(removed, expected);
    }

    // A pass goes on where the last step ended, in the middle of a key too, and a floor that was reached is not swept
    // again.
    #[test]
    fn a_long_pass_takes_several_steps() {
        let versions: Vec<_> =
            (1..=STEP_ROWS_MAX as u64 + 10).map(|revision| ("a", revision, Some(1))).collect();
        let rows = Rows::of(&versions);
        let sweep = Sweep::default();
        let newest = versions.len() as u64;
        sweep.step(&rows, newest).unwrap();
        assert_eq!(rows.removed.lock().unwrap().len(), STEP_ROWS_MAX - 1);
        sweep.step(&rows, newest).unwrap();
        assert_eq!(rows.removed.lock().unwrap().len(), versions.len());
        sweep.step(&rows, newest).unwrap();
        assert_eq!(rows.removed.lock().unwrap().len(), versions.len());
    }
}
