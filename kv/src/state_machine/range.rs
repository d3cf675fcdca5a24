//! Reading a range at one revision.

use crate::command::{KeyRange, KeyValue, Range, RangeResult, Refusal, Revision};
use crate::store::StoreError;
use crate::store::layers::{Layers, Merge};
use crate::store::rows::Version;

/// Why a read has no result.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The state has no answer to it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk failed. The node is about to stop, or should.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one pair counts for beside key and value.
const PAIR_BYTES: usize = 32;

/// How many bytes of pairs an answer may still have.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
    max: usize,
    exceeded: bool,
}

impl Budget {
    pub(crate) const fn new(max: usize) -> Self {
        Self { left: max, max, exceeded: false }
    }

    fn take(&mut self, pair: &KeyValue) -> bool {
        let bytes = pair.key.len() + pair.value.len() + PAIR_BYTES;
        let fits = bytes <= self.left;
        self.left = self.left.saturating_sub(bytes);
        self.exceeded |= !fits;
        fits
    }

    /// Counts a pair that must be in the answer.
    pub(crate) fn demand(&mut self, pair: &KeyValue) -> Result<(), Refusal> {
        if self.take(pair) { Ok(()) } else { Err(self.exceeded()) }
    }

    /// Whether more was asked for than there was.
    pub(crate) const fn is_exceeded(&self) -> bool {
        self.exceeded
    }

    pub(crate) const fn exceeded(&self) -> Refusal {
        Refusal::ResponseTooLarge { max: self.max as u64 }
    }
}

/// The pair that a live version stands for; `None` of a deletion.
pub(crate) fn pair(key: bytes::Bytes, version: Version) -> Option<KeyValue> {
    Some(KeyValue {
        key,
        value: version.value?,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
    })
}

/// The revision to read at, if it can be read.
pub(crate) fn readable(
    asked: Option<Revision>,
    compacted: Revision,
    newest: Revision,
) -> Result<Revision, Refusal> {
    match asked {
        None => Ok(newest),
        Some(requested) if requested > newest => Err(Refusal::RevisionInFuture { requested, newest }),
        Some(requested) if requested < compacted => {
            Err(Refusal::RevisionCompacted { requested, oldest: compacted })
        }
        Some(requested) => Ok(requested),
    }
}

/// Collects a range from a scan of the state at `revision`. `more` is set if pairs are left out, be it for the
/// request's limit or because the budget is at its end. At
/// least one pair is given if there is one, whatever its size, so that a reader who goes on behind it gets through.
pub(crate) fn collect(
    scan: &mut Merge<'_>,
    range: &Range,
    revision: Revision,
    budget: &mut Budget,
) -> Result<RangeResult, StoreError> {
    let limit = if range.limit == 0 { u64::MAX } else { range.limit };
    let mut result = RangeResult { revision, ..RangeResult::default() };
    let mut counting = range.count_only;
    while let Some((key, version)) = scan.next_version()? {
        let Some(mut pair) = pair(key, version) else { continue };
        result.count += 1;
        if counting {
            continue;
        }
        if range.keys_only {
            pair.value = bytes::Bytes::new();
        }
        let fits = budget.take(&pair);
        if fits || result.kvs.is_empty() {
            result.kvs.push(pair);
        }
        counting = !fits || result.kvs.len() as u64 >= limit;
        if counting {
            scan.leave_values_out();
        }
    }
    result.more = !range.count_only && result.count > result.kvs.len() as u64;
    Ok(result)
}

/// Reads a range of the layers at `revision`.
pub(crate) fn read(
    layers: &Layers,
    range: &Range,
    revision: Revision,
    budget: &mut Budget,
) -> Result<RangeResult, StoreError> {
    let with_values = !range.keys_only && !range.count_only;
    if let KeyRange::Key(key) = &range.range {
        // The one key, without the machinery of a scan.
        let version = layers.get(key, revision, with_values)?;
        let mut found = version.and_then(|version| pair(key.clone(), version));
        let count = u64::from(found.is_some());
        if range.keys_only
            && let Some(pair) = &mut found
        {
            pair.value = bytes::Bytes::new();
        }
        let kvs: Vec<_> = found.into_iter().filter(|_| !range.count_only).collect();
        kvs.iter().for_each(|pair| _ = budget.take(pair));
        return Ok(RangeResult { revision, kvs, more: false, count });
    }
    collect(
        &mut layers.scan(&(&range.range).into(), crate::store::layers::Window::at(revision), with_values),
        range,
        revision,
        budget,
    )
}
