//! Carrying out operations: the multi-version model itself.
//!
//! An operation sees the state at the current revision R and, if it changes anything, makes the state at R + 1. All
//! its changes are gathered first; if anything refuses, they are dropped, so that a refusal changes nothing. Each
//! key is changed at most once at a revision: a row is named by key and revision, so a second change would have
//! nowhere to go.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::range::{self, Budget, ReadError, pair, readable};
use crate::command::{
    Compare, CompareTarget, DeleteRange, KeyRange, KeyValue, Operation, OperationResult, Put, Range, Refusal,
    Relation, Response, Revision, Txn, TxnOperation, TxnResult,
};
use crate::limits::{self, RESPONSE_BYTES_MAX};
use crate::store::StoreError;
use crate::store::layers::{Bounds, Layers, Merge};
use crate::store::rows::Version;

/// What an operation did.
pub(crate) struct Outcome {
    pub(crate) response: Response,
    /// The versions made, sorted by key, all at the next revision; none if nothing changed.
    pub(crate) changes: Vec<(Bytes, Version)>,
    /// History is to be forgotten below this.
    pub(crate) compact: Option<Revision>,
}

impl Outcome {
    const fn refused(refusal: Refusal) -> Self {
        Self { response: Response::Refused(refusal), changes: Vec::new(), compact: None }
    }
}

/// Carries out one operation on the state at `revision`.
pub(crate) fn execute(
    layers: &Layers,
    revision: Revision,
    compacted: Revision,
    operation: Operation,
) -> Result<Outcome, StoreError> {
    if let Err(limit) = limits::check_keys(&operation) {
        return Ok(Outcome::refused(Refusal::Unreadable { reason: limit.to_string() }));
    }
    let mut run = Run {
        layers,
        revision,
        compacted,
        changes: BTreeMap::new(),
        budget: Budget::new(RESPONSE_BYTES_MAX),
    };
    let mut compact = None;
    let result = match operation {
        Operation::Put(put) => return put_alone(layers, revision, put),
        Operation::DeleteRange(delete) => {
            let deleted = run.delete_range(&delete);
            deleted.map(|(count, prev_kvs)| OperationResult::Deleted { count, prev_kvs })
        }
        Operation::Txn(txn) => run.txn(&txn),
        Operation::Compact { revision: to } => {
            compact = Some(to);
            readable(compact, compacted, revision)
                .map(|_| OperationResult::Compacted)
                .map_err(ReadError::from)
        }
    };
    match result {
        Ok(result) => {
            let revision = run.revision_now();
            let changes = run.changes.into_iter().collect();
            Ok(Outcome { response: Response::Done { revision, result }, changes, compact })
        }
        Err(ReadError::Refused(refusal)) => Ok(Outcome::refused(refusal)),
        Err(ReadError::Store(error)) => Err(error),
    }
}

/// A put on its own, the most frequent command by far: without what only a transaction needs.
fn put_alone(layers: &Layers, revision: Revision, put: Put) -> Result<Outcome, StoreError> {
    let Put { key, value, prev_kv } = put;
    let before = layers.get(&key, revision, prev_kv)?.filter(|version| version.value.is_some());
    let revision = revision + 1;
    let version = next_version(before.as_ref(), revision, value);
    let prev_kv = before.filter(|_| prev_kv).and_then(|before| pair(key.clone(), before));
    let response = Response::Done { revision, result: OperationResult::Put { prev_kv } };
    Ok(Outcome { response, changes: vec![(key, version)], compact: None })
}

/// The version that a put makes of a key, of which `before` is the live version, if there is one.
fn next_version(before: Option<&Version>, revision: Revision, value: Bytes) -> Version {
    let (create_revision, version) =
        before.map_or((revision, 1), |before| (before.create_revision, before.version + 1));
    Version { mod_revision: revision, create_revision, version, value: Some(value) }
}

/// One operation under way.
struct Run<'a> {
    layers: &'a Layers,
    revision: Revision,
    compacted: Revision,
    changes: BTreeMap<Bytes, Version>,
    budget: Budget,
}

impl Run<'_> {
    /// The store's revision, were the operation to end now.
    fn revision_now(&self) -> Revision {
        self.revision + u64::from(!self.changes.is_empty())
    }

    fn current(&self, key: &[u8], with_value: bool) -> Result<Option<Version>, StoreError> {
        match self.changes.get(key) {
            Some(staged) => Ok(Some(staged.clone())),
            None => self.layers.get(key, self.revision, with_value),
        }
    }

    /// The keys of a range as they are now.
    fn scan(&self, range: &KeyRange, with_values: bool) -> Merge<'_> {
        let bounds = Bounds::from(range);
        let end = bounds.end.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let empty = bounds.end.as_ref().is_some_and(|end| *end <= bounds.start);
        let staged: Vec<_> = if empty || self.changes.is_empty() {
            Vec::new()
        } else {
            let inside = self.changes.range::<Bytes, _>((Bound::Included(&bounds.start), end));
            inside.map(|(key, version)| (key.clone(), version.clone())).collect()
        };
        self.layers.scan_under(staged, &bounds, self.revision, with_values)
    }

    fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, ReadError> {
        if self.changes.contains_key(&put.key) {
            return Err(Refusal::DuplicateKey { key: put.key.clone() }.into());
        }
        let before = self.current(&put.key, put.prev_kv)?.filter(|version| version.value.is_some());
        let version = next_version(before.as_ref(), self.revision + 1, put.value.clone());
        self.changes.insert(put.key.clone(), version);
        let prev_kv = before.filter(|_| put.prev_kv).and_then(|before| pair(put.key.clone(), before));
        if let Some(pair) = &prev_kv {
            self.budget.demand(pair)?;
        }
        Ok(prev_kv)
    }

    fn delete_range(&mut self, delete: &DeleteRange) -> Result<(u64, Vec<KeyValue>), ReadError> {
        let mut found = Vec::new();
        let mut scan = self.scan(&delete.range, delete.prev_kv);
        while let Some((key, version)) = scan.next_version()? {
            found.extend(pair(key, version));
        }
        drop(scan);
        let revision = self.revision + 1;
        let count = found.len() as u64;
        for kv in &found {
            if delete.prev_kv {
                self.budget.demand(kv)?;
            }
            if self.changes.insert(kv.key.clone(), Version::tombstone(revision)).is_some() {
                return Err(Refusal::DuplicateKey { key: kv.key.clone() }.into());
            }
        }
        Ok((count, if delete.prev_kv { found } else { Vec::new() }))
    }

    fn range(&mut self, range: &Range) -> Result<TxnResult, ReadError> {
        let now = self.revision_now();
        let revision = readable(range.revision, self.compacted, now)?;
        let found = if revision == now {
            let with_values = !range.keys_only && !range.count_only;
            let mut budget = std::mem::replace(&mut self.budget, Budget::new(0));
            let mut scan = self.scan(&range.range, with_values);
            let found = range::collect(&mut scan, range, revision, &mut budget);
            drop(scan);
            self.budget = budget;
            found?
        } else {
            range::read(self.layers, range, revision, &mut self.budget)?
        };
        if self.budget.is_exceeded() {
            return Err(self.budget.exceeded().into());
        }
        Ok(TxnResult::Range(found))
    }

    fn txn(&mut self, txn: &Txn) -> Result<OperationResult, ReadError> {
        let mut succeeded = true;
        for compare in &txn.compares {
            succeeded = succeeded && self.holds(compare)?;
        }
        let steps = if succeeded { &txn.success } else { &txn.failure };
        let mut results = Vec::with_capacity(steps.len());
        for step in steps {
            results.push(match step {
                TxnOperation::Put(put) => TxnResult::Put { prev_kv: self.put(put)? },
                TxnOperation::DeleteRange(delete) => {
                    let (count, prev_kvs) = self.delete_range(delete)?;
                    TxnResult::Deleted { count, prev_kvs }
                }
                TxnOperation::Range(range) => self.range(range)?,
            });
        }
        Ok(OperationResult::Txn { succeeded, results })
    }

    fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        let wants_value = matches!(compare.target, CompareTarget::Value(_));
        let found = self.current(&compare.key, wants_value)?;
        let live = found.filter(|version| version.value.is_some());
        let number = |of: fn(&Version) -> u64| live.as_ref().map_or(0, of);
        let order = match &compare.target {
            CompareTarget::Version(target) => number(|v| v.version).cmp(target),
            CompareTarget::CreateRevision(target) => number(|v| v.create_revision).cmp(target),
            CompareTarget::ModRevision(target) => number(|v| v.mod_revision).cmp(target),
            CompareTarget::Value(target) => match live.as_ref().and_then(|version| version.value.as_ref()) {
                Some(value) => value.cmp(target),
                None => return Ok(compare.relation == Relation::NotEqual),
            },
        };
        Ok(match compare.relation {
            Relation::Equal => order == Ordering::Equal,
            Relation::NotEqual => order != Ordering::Equal,
            Relation::Greater => order == Ordering::Greater,
            Relation::Less => order == Ordering::Less,
        })
    }
}
