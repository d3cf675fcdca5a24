//! What can be asked of the store, and what it answers: the replicated commands and their parts.
//!
//! The model is etcd's: one counter, the *revision*, grows by one with every command that changes a key; every
//! key-value pair knows the revision that created it, the one that last changed it, and how many changes lie
//! between. History stays readable until it is compacted.

use bytes::Bytes;
use raft::core::Growth;
use serde::{Deserialize, Serialize};

/// A state of the store: how many changing commands lead to it. The empty store has revision 0.
pub type Revision = u64;

/// A client session: the log index of the entry that opened it, so never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// One replicated command, as it stands in a log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Cluster time in milliseconds, stamped by the leader that proposed it: time in apply comes from here and
    /// from nowhere else (rule 12). Apply takes the greater of this and what it has.
    pub cluster_time_ms: u64,
    /// What is to be done.
    pub body: CommandBody,
}

impl CommandBody {
    /// What the command does to the size of the state, as far as can be told without looking at it: only puts add to
    /// what must be kept. A delete writes a small row, which goes with the next compaction; sessions are few and end
    /// by themselves, and without one a client could not delete anything exactly once.
    #[must_use]
    pub fn growth(&self) -> Growth {
        let puts = |steps: &[TxnOperation]| steps.iter().any(|step| matches!(step, TxnOperation::Put(_)));
        let grows = match self {
            Self::OpenSession { .. } | Self::KeepAlive { .. } | Self::CloseSession { .. } => false,
            Self::Operate { operation, .. } => match operation {
                Operation::Put(_) => true,
                Operation::DeleteRange(_) | Operation::Compact { .. } => false,
                Operation::Txn(txn) => puts(&txn.success) || puts(&txn.failure),
            },
        };
        if grows { Growth::Grows } else { Growth::Frees }
    }
}

/// The version of the encoding that stands in front of every encoded command.
const FORMAT: u8 = 1;

/// Why bytes are not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are none.
    #[error("it is empty")]
    Empty,
    /// They are of another format.
    #[error("its format is {0}, and the newest known is {FORMAT}")]
    Format(u8),
    /// They end early, go on too long, or say something that is not there to be said.
    #[error("its content is malformed")]
    Malformed,
}

impl Command {
    /// The command as bytes, for a log entry: the format's version, then postcard.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let size = match &self.body {
            CommandBody::Operate { operation: Operation::Put(put), .. } => {
                put.key.len() + put.value.len() + 64
            }
            _ => 128,
        };
        let mut out = Vec::with_capacity(size);
        out.push(FORMAT);
        match postcard::to_extend(self, out) {
            Ok(bytes) => bytes.into(),
            // Only a sequence of unknown length, or a serializer without room, can fail, and there is neither.
            Err(error) => panic!("a command cannot be encoded: {error}"),
        }
    }

    /// Reads what [`encode`](Self::encode) wrote. Every node of one version gives the same verdict on the same bytes.
    ///
    /// # Errors
    /// The bytes are not a command that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            None => Err(DecodeError::Empty),
            Some((&FORMAT, body)) => match postcard::take_from_bytes(body) {
                Ok((command, [])) => Ok(command),
                _ => Err(DecodeError::Malformed),
            },
            Some((&format, _)) => Err(DecodeError::Format(format)),
        }
    }
}

/// The kinds of command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandBody {
    /// Opens a session that expires after `ttl_ms` of cluster time without a command.
    OpenSession {
        /// In milliseconds of cluster time.
        ttl_ms: u64,
    },
    /// Keeps a session from expiring.
    KeepAlive {
        /// Which one.
        session: SessionId,
    },
    /// Ends a session and forgets its responses.
    CloseSession {
        /// Which one.
        session: SessionId,
    },
    /// Changes or reads keys.
    Operate {
        /// Makes a retry safe; without it, a command that is proposed twice is applied twice.
        stamp: Option<SessionStamp>,
        /// What to do.
        operation: Operation,
    },
}

/// Names one request of one session, so that it is applied once however often it is proposed (§6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStamp {
    /// The session.
    pub session: SessionId,
    /// Counts the session's requests, from 1. A retry keeps its number.
    pub request: u64,
    /// The client has the answers of all requests below this: their responses may be forgotten.
    pub acked_below: u64,
}

/// What a client may ask to be done through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Sets one key.
    Put(Put),
    /// Removes the keys of a range.
    DeleteRange(DeleteRange),
    /// Compares, then does one of two lists of operations, all at one revision.
    Txn(Txn),
    /// Forgets history before `revision`: reads at older revisions are refused from then on.
    Compact {
        /// The oldest revision that stays readable.
        revision: Revision,
    },
}

/// Sets `key` to `value`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Which key; not empty.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Whether to answer with the pair that was there before.
    pub prev_kv: bool,
}

/// Removes every key in `range`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRange {
    /// Which keys.
    pub range: KeyRange,
    /// Whether to answer with the pairs that were there.
    pub prev_kv: bool,
}

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRange {
    /// This one.
    Key(Bytes),
    /// All that begin with this; an empty prefix means every key.
    Prefix(Bytes),
    /// From `start` up to but not including `end`.
    HalfOpen {
        /// The first key.
        start: Bytes,
        /// The key after the last.
        end: Bytes,
    },
    /// From this one on.
    From(Bytes),
}

/// Reads the pairs of a range at one revision, in key order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Which keys.
    pub range: KeyRange,
    /// At which revision; `None` is the newest.
    pub revision: Option<Revision>,
    /// At most this many pairs; 0 is no limit of the request's own.
    pub limit: u64,
    /// Leave the values out.
    pub keys_only: bool,
    /// Only count the pairs.
    pub count_only: bool,
}

/// A transaction: if every compare holds then `success`, else `failure`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The conditions, all of which must hold. None at all hold.
    pub compares: Vec<Compare>,
    /// What to do if they hold.
    pub success: Vec<TxnOperation>,
    /// What to do if one does not.
    pub failure: Vec<TxnOperation>,
}

/// A condition on one key. Of an absent key, version, create and mod revision are 0, and a comparison of its value
/// holds only as `NotEqual`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// Which key.
    pub key: Bytes,
    /// How the key's property must stand to `target`.
    pub relation: Relation,
    /// The property, and what it is compared with.
    pub target: CompareTarget,
}

/// How two values stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The key's is greater.
    Greater,
    /// The key's is less.
    Less,
}

/// A property of a key, and the value to compare it with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompareTarget {
    /// The value, compared as bytes.
    Value(Bytes),
    /// The number of changes since creation.
    Version(u64),
    /// The revision that created it.
    CreateRevision(Revision),
    /// The revision that last changed it.
    ModRevision(Revision),
}

/// One step of a transaction. Later steps see what earlier ones did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnOperation {
    /// Sets a key. A transaction may change each key once only.
    Put(Put),
    /// Removes keys.
    DeleteRange(DeleteRange),
    /// Reads.
    Range(Range),
}

/// A key, its value, and where both came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty if it was not asked for.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// How many changes since creation, the creation included.
    pub version: u64,
}

/// What a command answers. A refusal is as much a part of the replicated history as a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// A session is open.
    SessionOpened {
        /// Its id.
        session: SessionId,
    },
    /// The session lives, or is closed, as asked.
    Session,
    /// An operation was done.
    Done {
        /// The store's revision after it.
        revision: Revision,
        /// What it answers.
        result: OperationResult,
    },
    /// Nothing was changed, and why.
    Refused(Refusal),
}

/// The results of the operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationResult {
    /// Of [`Operation::Put`].
    Put {
        /// The pair before, if asked for and there.
        prev_kv: Option<KeyValue>,
    },
    /// Of [`Operation::DeleteRange`].
    Deleted {
        /// How many keys were removed.
        count: u64,
        /// The pairs that were there, if asked for.
        prev_kvs: Vec<KeyValue>,
    },
    /// Of [`Operation::Txn`].
    Txn {
        /// Whether the compares held.
        succeeded: bool,
        /// The result of each step done, in order.
        results: Vec<TxnResult>,
    },
    /// Of [`Operation::Compact`].
    Compacted,
}

/// The results of a transaction's steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnResult {
    /// Of a put.
    Put {
        /// The pair before, if asked for and there.
        prev_kv: Option<KeyValue>,
    },
    /// Of a delete.
    Deleted {
        /// How many keys were removed.
        count: u64,
        /// The pairs that were there, if asked for.
        prev_kvs: Vec<KeyValue>,
    },
    /// Of a range.
    Range(RangeResult),
}

/// What a range read found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeResult {
    /// The revision it was read at.
    pub revision: Revision,
    /// The pairs, in key order, at most `limit`; none if only counted.
    pub kvs: Vec<KeyValue>,
    /// Whether there are pairs beyond the limit.
    pub more: bool,
    /// How many pairs the range has, whatever the limit.
    pub count: u64,
}

/// Why a command or a read was refused. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The session expired, was closed, or never was. The command may have been done under it earlier.
    #[error("session {} is expired or was never opened; open a new one (whether the request was done earlier is unknown)", .session.0)]
    SessionExpired {
        /// Which one.
        session: SessionId,
    },
    /// The request's response was acknowledged, and so forgotten: it *was* done, earlier.
    #[error("request {request} was done and acknowledged earlier; its response is forgotten")]
    ResponseForgotten {
        /// Which one.
        request: u64,
    },
    /// The session has too many unacknowledged responses.
    #[error("the session keeps {kept} unacknowledged responses, the most there may be; send acked_below")]
    SessionFull {
        /// How many.
        kept: u64,
    },
    /// The revision asked for is compacted.
    #[error("revision {requested} is compacted; the oldest readable one is {oldest}")]
    RevisionCompacted {
        /// What was asked for.
        requested: Revision,
        /// What there is.
        oldest: Revision,
    },
    /// The revision asked for is not there yet.
    #[error("revision {requested} is not there yet; the newest is {newest}")]
    RevisionInFuture {
        /// What was asked for.
        requested: Revision,
        /// What there is.
        newest: Revision,
    },
    /// A transaction changes one key twice.
    #[error("the transaction changes key {key:?} twice")]
    DuplicateKey {
        /// Which key.
        key: Bytes,
    },
    /// The command could not be read: it was written by a newer version.
    #[error("the command cannot be read by this version: {reason}")]
    Unreadable {
        /// What is wrong.
        reason: String,
    },
    /// The answer would be larger than an answer may be.
    #[error(
        "the answer would have more than {max} bytes; ask for less: a limit, keys only, or no previous pairs"
    )]
    ResponseTooLarge {
        /// How many it may have.
        max: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> Command {
        let put = Put { key: "k".into(), value: "v".into(), prev_kv: true };
        let stamp = Some(SessionStamp { session: SessionId(7), request: 300, acked_below: 2 });
        Command {
            cluster_time_ms: 1_000,
            body: CommandBody::Operate { stamp, operation: Operation::Put(put) },
        }
    }

    #[test]
    fn a_command_survives_the_way_there_and_back() {
        assert_eq!(Command::decode(&put().encode()), Ok(put()));
    }

    #[test]
    fn only_puts_make_the_state_grow() {
        let put = Put { key: "k".into(), value: "v".into(), prev_kv: false };
        let delete = DeleteRange { range: KeyRange::Key("k".into()), prev_kv: false };
        let of = |operation| CommandBody::Operate { stamp: None, operation }.growth();
        let txn = |success, failure| Operation::Txn(Txn { compares: Vec::new(), success, failure });
        let (puts, deletes) =
            (vec![TxnOperation::Put(put.clone())], vec![TxnOperation::DeleteRange(delete.clone())]);
        assert_eq!(of(Operation::Put(put)), Growth::Grows);
        assert_eq!(of(txn(puts.clone(), deletes.clone())), Growth::Grows);
        assert_eq!(of(txn(Vec::new(), puts)), Growth::Grows, "it is not known which of the two it will be");
        assert_eq!(of(txn(deletes.clone(), deletes)), Growth::Frees);
        assert_eq!(of(Operation::DeleteRange(delete)), Growth::Frees);
        assert_eq!(of(Operation::Compact { revision: 1 }), Growth::Frees);
        assert_eq!(CommandBody::OpenSession { ttl_ms: 1 }.growth(), Growth::Frees);
    }

    // The bytes of format 1, written down: logs hold them for ever.
    #[test]
    fn format_1_is_fixed() {
        let expected = [1, 0xe8, 7, 3, 1, 7, 0xac, 2, 2, 0, 1, b'k', 1, b'v', 1];
        assert_eq!(put().encode().as_ref(), expected);
    }

    #[test]
    fn what_is_not_a_command_is_an_error_and_never_a_panic() {
        let whole = put().encode();
        for cut in 1..whole.len() {
            assert_eq!(Command::decode(&whole[..cut]), Err(DecodeError::Malformed), "cut at {cut}");
        }
        let mut longer = whole.to_vec();
        longer.push(0);
        assert_eq!(Command::decode(&longer), Err(DecodeError::Malformed));
        assert_eq!(Command::decode(&[]), Err(DecodeError::Empty));
        assert_eq!(Command::decode(&[9, 1, 2]), Err(DecodeError::Format(9)));
        // A length of 2^63 must not be allocated.
        let mut huge = vec![1, 0, 3, 0, 0];
        huge.extend_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
        assert_eq!(Command::decode(&huge), Err(DecodeError::Malformed));
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let mut framed = vec![FORMAT];
            framed.extend_from_slice(&bytes);
            let _ = Command::decode(&framed);
            let _ = Command::decode(&bytes);
        }
    }
}
