//! What a request may be at most. Checked before anything goes to the log: what is in the log is applied.
//!
//! Two kinds. [`Limits`] are an operator's choice and may differ from node to node. The constants are part of what the
//! replicated state *is*: apply enforces those again, the same on every node, so that no proposer, however new or
//! broken, can bring in what the store cannot hold.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

use bytes::Bytes;

use crate::command::{Compare, CompareTarget, DeleteRange, KeyRange, Operation, Range, TxnOperation};

/// A key is at least one byte and at most so many, where a zero byte counts as two.
///
/// The store keeps keys in one row with the value; longer ones would overflow its pages (`store::rows`).
pub const KEY_BYTES_MAX: usize = 448;

/// The pairs of one answer take at most so many bytes: less than a frame, more than the largest single pair.
pub const RESPONSE_BYTES_MAX: usize = 2 << 20;

/// What a request may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The bytes of keys and values in one request. 1.5 MiB by default, as in etcd.
    pub request_bytes_max: usize,
    /// The operations in each branch of one transaction, and its compares. 128 by default, as in etcd.
    pub txn_operations_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_bytes_max: 3 << 19, txn_operations_max: 128 }
    }
}

/// A request is over a limit. It was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The key is empty.
    #[error("the key is empty; a key has at least one byte")]
    KeyEmpty,
    /// The key is too long.
    #[error("the key takes {bytes} bytes (a zero byte takes two), the limit is {max}; use a shorter key")]
    KeyTooLong {
        /// How many it takes.
        bytes: usize,
        /// How many it may.
        max: usize,
    },
    /// The request is too large.
    #[error(
        "the request has {bytes} bytes of keys and values, the limit is {max}; split it, or raise the limit"
    )]
    RequestTooLarge {
        /// How many it has.
        bytes: usize,
        /// How many it may.
        max: usize,
    },
    /// The transaction has too many operations.
    #[error("the transaction has {operations} {what}, the limit is {max}; split it, or raise the limit")]
    TooManyOperations {
        /// How many it has.
        operations: usize,
        /// Of what.
        what: &'static str,
        /// How many it may.
        max: usize,
    },
}

impl Limits {
    /// Checks an operation that is to go through the log.
    ///
    /// # Errors
    /// The first limit that it is over.
    pub fn check(&self, operation: &Operation) -> Result<(), LimitError> {
        if let Operation::Txn(txn) = operation {
            let counted = [
                ("compares", txn.compares.len()),
                ("operations in its then branch", txn.success.len()),
                ("operations in its else branch", txn.failure.len()),
            ];
            let max = self.txn_operations_max;
            if let Some(&(what, operations)) = counted.iter().find(|(_, operations)| *operations > max) {
                return Err(LimitError::TooManyOperations { operations, what, max });
            }
        }
        let (bytes, max) = (operation_bytes(operation), self.request_bytes_max);
        if bytes > max {
            return Err(LimitError::RequestTooLarge { bytes, max });
        }
        check_keys(operation)
    }

    /// Checks a read.
    ///
    /// # Errors
    /// The first limit that it is over.
    pub fn check_read(&self, range: &Range) -> Result<(), LimitError> {
        let (bytes, max) = (range_bytes(&range.range), self.request_bytes_max);
        if bytes > max {
            return Err(LimitError::RequestTooLarge { bytes, max });
        }
        check_range(&range.range)
    }
}

fn check_key(key: &Bytes) -> Result<(), LimitError> {
    if key.is_empty() {
        return Err(LimitError::KeyEmpty);
    }
    let bytes = crate::store::rows::escaped_len(key);
    if bytes > KEY_BYTES_MAX {
        return Err(LimitError::KeyTooLong { bytes, max: KEY_BYTES_MAX });
    }
    Ok(())
}

fn check_range(range: &KeyRange) -> Result<(), LimitError> {
    match range {
        KeyRange::Key(key) => check_key(key),
        // Bounds are not keys: nothing is stored under them.
        KeyRange::Prefix(_) | KeyRange::HalfOpen { .. } | KeyRange::From(_) => Ok(()),
    }
}

/// Checks the keys that an operation names: the part of the limits that apply enforces, too.
pub(crate) fn check_keys(operation: &Operation) -> Result<(), LimitError> {
    match operation {
        Operation::Put(put) => check_key(&put.key),
        Operation::DeleteRange(delete) => check_range(&delete.range),
        Operation::Txn(txn) => {
            txn.compares.iter().try_for_each(|compare| check_key(&compare.key))?;
            txn.success.iter().chain(&txn.failure).try_for_each(|step| match step {
                TxnOperation::Put(put) => check_key(&put.key),
                TxnOperation::DeleteRange(DeleteRange { range, .. })
                | TxnOperation::Range(Range { range, .. }) => check_range(range),
            })
        }
        Operation::Compact { .. } => Ok(()),
    }
}

fn range_bytes(range: &KeyRange) -> usize {
    match range {
        KeyRange::Key(key) | KeyRange::Prefix(key) | KeyRange::From(key) => key.len(),
        KeyRange::HalfOpen { start, end } => start.len() + end.len(),
    }
}

fn compare_bytes(compare: &Compare) -> usize {
    let target = match &compare.target {
        CompareTarget::Value(value) => value.len(),
        CompareTarget::Version(_) | CompareTarget::CreateRevision(_) | CompareTarget::ModRevision(_) => 0,
    };
    compare.key.len() + target
}

fn operation_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Put(put) => put.key.len() + put.value.len(),
        Operation::DeleteRange(delete) => range_bytes(&delete.range),
        Operation::Txn(txn) => {
            let compares: usize = txn.compares.iter().map(compare_bytes).sum();
            let steps = txn.success.iter().chain(&txn.failure).map(|step| match step {
                TxnOperation::Put(put) => put.key.len() + put.value.len(),
                TxnOperation::DeleteRange(delete) => range_bytes(&delete.range),
                TxnOperation::Range(range) => range_bytes(&range.range),
            });
            compares + steps.sum::<usize>()
        }
        Operation::Compact { .. } => 0,
    }
}
