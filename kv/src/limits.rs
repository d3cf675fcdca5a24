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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Put, Relation, Txn};

    fn put(key: usize, value: usize) -> Put {
        Put { key: vec![b'k'; key].into(), value: vec![b'v'; value].into(), prev_kv: false }
    }

    fn says(limits: &Limits, operation: Operation, words: &[&str]) {
        let message = limits.check(&operation).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }

    // Each limit is exact, and its error names what there is, what there may be, and what to do.
    #[test]
    fn limits_are_exact_and_name_the_mend() {
        let limits = Limits::default();
        let max = limits.request_bytes_max;
        assert_eq!(max, 1_572_864);
        assert_eq!(limits.check(&Operation::Put(put(10, max - 10))), Ok(()));
        says(&limits, Operation::Put(put(10, max - 9)), &["1572865", "1572864", "split"]);
        assert_eq!(limits.check(&Operation::Put(put(KEY_BYTES_MAX, 1))), Ok(()));
        says(&limits, Operation::Put(put(KEY_BYTES_MAX + 1, 1)), &["449", "448", "shorter"]);
        says(&limits, Operation::Put(put(0, 1)), &["empty"]);
        let zeros = Put { key: vec![0; 225].into(), ..put(0, 0) };
        says(&limits, Operation::Put(zeros), &["450", "zero byte"]);
    }

    #[test]
    fn each_part_of_a_transaction_counts() {
        let limits = Limits { request_bytes_max: 100, txn_operations_max: 2 };
        let step = || TxnOperation::Put(put(5, 5));
        let compare = || Compare {
            key: "k".into(),
            relation: Relation::Equal,
            target: CompareTarget::Value(vec![b'v'; 9].into()),
        };
        let txn = |compares: usize, success: usize, failure: usize| {
            Operation::Txn(Txn {
                compares: (0..compares).map(|_| compare()).collect(),
                success: (0..success).map(|_| step()).collect(),
                failure: (0..failure).map(|_| step()).collect(),
            })
        };
        assert_eq!(limits.check(&txn(2, 2, 2)), Ok(()));
        says(&limits, txn(3, 0, 0), &["3 compares", "2"]);
        says(&limits, txn(0, 3, 0), &["3 operations in its then branch"]);
        says(&limits, txn(0, 0, 3), &["3 operations in its else branch"]);
        let small = Limits { request_bytes_max: 59, ..limits };
        says(&small, txn(2, 2, 2), &["60 bytes", "59"]);
        let empty_key = TxnOperation::Put(put(0, 1));
        says(
            &limits,
            Operation::Txn(Txn { compares: vec![], success: vec![], failure: vec![empty_key] }),
            &["empty"],
        );
    }

    #[test]
    fn bounds_of_a_range_may_be_empty_and_long_but_not_without_end() {
        let limits = Limits { request_bytes_max: 1_000, ..Limits::default() };
        let read = |range| {
            limits.check_read(&Range { range, revision: None, limit: 0, keys_only: false, count_only: false })
        };
        assert_eq!(read(KeyRange::Prefix(Bytes::new())), Ok(()));
        assert_eq!(read(KeyRange::From(vec![b'k'; 900].into())), Ok(()));
        assert_eq!(read(KeyRange::Key(Bytes::new())), Err(LimitError::KeyEmpty));
        let end = vec![b'k'; 1_000].into();
        let over = read(KeyRange::HalfOpen { start: "k".into(), end });
        assert_eq!(over, Err(LimitError::RequestTooLarge { bytes: 1_001, max: 1_000 }));
    }
}
