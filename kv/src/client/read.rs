//! Reads. A range that is larger than one answer may be is read in pieces, all at the revision of the first.

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{KeyRange, KeyValue, Range, RangeResult};
use crate::wire::{ReadMode, Reply, RequestBody};

use super::call::Kind;
use super::{Client, ClientError, confused};

/// Which state a read may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was acknowledged before the read began: the leader confirms that it still leads. It answers
    /// too, or with [`ClientOptions::spread_reads`](super::ClientOptions::spread_reads) any member does.
    #[default]
    Linearizable,
    /// Some state of the past, as one node has it: any node answers, without asking the others.
    Serializable,
}

impl Client {
    /// The pair of `key`, now.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<KeyValue>, ClientError> {
        let range = Range {
            range: KeyRange::Key(key.into()),
            revision: None,
            limit: 0,
            keys_only: false,
            count_only: false,
        };
        Ok(self.range(range, Consistency::Linearizable).await?.kvs.pop())
    }

    /// The pairs of a range.
    ///
    /// # Errors
    /// See [`ClientError`]. A range in pieces may be overtaken by a compaction between two of them, and is then
    /// refused.
    pub async fn range(
        &self,
        mut range: Range,
        consistency: Consistency,
    ) -> Result<RangeResult, ClientError> {
        let mut whole = self.piece(&range, consistency).await?;
        let mut complete = !whole.more;
        while !complete && !range.count_only && (range.limit == 0 || (whole.kvs.len() as u64) < range.limit) {
            let Some(last) = whole.kvs.last() else { break };
            let Some(rest) = after(&range.range, &last.key) else { break };
            range.range = rest;
            range.revision = Some(whole.revision);
            let next = Range {
                limit: if range.limit == 0 { 0 } else { range.limit - whole.kvs.len() as u64 },
                ..range.clone()
            };
            let piece = self.piece(&next, consistency).await?;
            complete = !piece.more || piece.kvs.is_empty();
            whole.more = piece.more;
            whole.kvs.extend(piece.kvs);
        }
        Ok(whole)
    }

    /// As much of a range as one answer holds.
    async fn piece(&self, range: &Range, consistency: Consistency) -> Result<RangeResult, ClientError> {
        let (mode, kind) = match consistency {
            Consistency::Linearizable if self.inner.options.spread_reads => (ReadMode::Any, Kind::Spread),
            Consistency::Linearizable => (ReadMode::Leader, Kind::Read),
            Consistency::Serializable => (ReadMode::Serializable, Kind::Anywhere),
        };
        let called = self.inner.call(RequestBody::Range { range: range.clone(), mode }, kind).await?;
        match called.reply {
            Reply::Range(result) => Ok(result),
            Reply::RangeRefused(refusal) => Err(ClientError::Refused(refusal)),
            _ => Err(confused(&called.endpoint)),
        }
    }
}

/// What is left of `range` behind `key`; `None` if nothing can be.
fn after(range: &KeyRange, key: &[u8]) -> Option<KeyRange> {
    let mut start = BytesMut::with_capacity(key.len() + 1);
    start.extend_from_slice(key);
    start.put_u8(0);
    let start = start.freeze();
    match range {
        KeyRange::Key(_) => None,
        KeyRange::From(_) => Some(KeyRange::From(start)),
        KeyRange::HalfOpen { end, .. } => Some(KeyRange::HalfOpen { start, end: end.clone() }),
        KeyRange::Prefix(prefix) => Some(match behind_prefix(prefix) {
            Some(end) => KeyRange::HalfOpen { start, end },
            None => KeyRange::From(start),
        }),
    }
}

/// The first key behind all that begin with `prefix`; `None` if there is no such key.
fn behind_prefix(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let (last, before) = prefix.get(..=kept)?.split_last()?;
    let mut end = BytesMut::from(before);
    end.put_u8(last.checked_add(1)?);
    Some(end.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_a_key_begins_right_behind_it() {
        let b = Bytes::from_static;
        let half_open = |start, end| Some(KeyRange::HalfOpen { start: b(start), end: b(end) });
        assert_eq!(after(&KeyRange::Key(b(b"k")), b"k"), None);
        assert_eq!(after(&KeyRange::From(b(b"a")), b"k"), Some(KeyRange::From(b(b"k\0"))));
        let range = KeyRange::HalfOpen { start: b(b"a"), end: b(b"z") };
        assert_eq!(after(&range, b"k"), half_open(b"k\0", b"z"));
        assert_eq!(after(&KeyRange::Prefix(b(b"ka")), b"kab"), half_open(b"kab\0", b"kb"));
        assert_eq!(after(&KeyRange::Prefix(b(b"k\xff")), b"k\xff1"), half_open(b"k\xff1\0", b"l"));
        assert_eq!(after(&KeyRange::Prefix(b(b"\xff")), b"\xff1"), Some(KeyRange::From(b(b"\xff1\0"))));
        assert_eq!(after(&KeyRange::Prefix(b(b"")), b"k"), Some(KeyRange::From(b(b"k\0"))));
    }
}
