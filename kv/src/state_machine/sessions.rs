//! Client sessions: a command is done once, however often it is proposed (§6.3).
//!
//! A session is opened through the log and named by the index of that entry. A command carries (session, request
//! number); the response of each request is kept, and a second command with the same numbers is answered with it and
//! not done again. The client says below which number it has all answers, and those responses are dropped.
//!
//! All of it is bounded, and every decision is a function of the replicated state: of cluster time, which comes in the
//! commands, and of log indexes. A session that was idle in cluster time for longer than it asked for is over, at
//! that very moment, whether or not it has been swept out yet. When there are too many, opening one ends the one
//! that was idle longest. What comes for a session that is over is *refused*, never done: nobody could know any
//! more whether it was done before. That is §6.3's rule, and the difference to forgetting the session and starting anew.
//!
//! Deliberately absent: sessions that outlive their expiry because they are still in memory, and responses kept
//! outside the replicated state.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use raft::core::Index;
use serde::{Deserialize, Serialize};

use crate::command::{KeyValue, OperationResult, Refusal, Response, SessionId, SessionStamp, TxnResult};

/// Sessions that are over are swept out of memory when cluster time passes a multiple of this.
const SWEEP_EVERY_MS: u64 = 1_000;

/// How much is kept for sessions. These bounds decide what is applied and what is refused, so that they must be the
/// same on every node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// The number of sessions. One more ends the one idle longest.
    pub sessions_max: usize,
    /// The responses kept for one session. At the bound, new requests are refused until some are acknowledged.
    pub responses_max: usize,
    /// The bytes of responses kept for one session, likewise; the last one may go beyond. A single response that is
    /// larger than this is not kept at all: a retry is told that it was done, but not what came of it.
    pub response_bytes_max: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { sessions_max: 10_000, responses_max: 128, response_bytes_max: 64 << 10 }
    }
}

/// What is kept of a request that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kept {
    Response(Response),
    /// Too large to keep.
    Done,
}

/// One client's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    ttl_ms: u64,
    /// The cluster time, and the log index, of its last command.
    active_ms: u64,
    active: Index,
    /// The client has the answers to all requests below this. Never goes back.
    acked_below: u64,
    /// Invariant: every number is at least `acked_below`.
    responses: BTreeMap<u64, Kept>,
    /// The bytes that `responses` count for.
    kept_bytes: u64,
}

impl Session {
    fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.active_ms) > self.ttl_ms
    }

    fn acknowledge(&mut self, acked_below: u64) {
        if acked_below <= self.acked_below {
            return;
        }
        self.acked_below = acked_below;
        let kept = self.responses.split_off(&acked_below);
        let dropped = std::mem::replace(&mut self.responses, kept);
        let freed: u64 = dropped.values().map(kept_bytes).sum();
        assert!(freed <= self.kept_bytes, "{freed} bytes of responses freed of {}", self.kept_bytes);
        self.kept_bytes -= freed;
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match postcard::to_extend(self, vec![FORMAT]) {
            Ok(bytes) => bytes,
            Err(error) => panic!("a session cannot be encoded: {error}"),
        }
    }

    /// Reads what `encode` wrote; says what is wrong if that cannot be.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.split_first() {
            Some((&FORMAT, body)) => match postcard::take_from_bytes(body) {
                Ok((session, [])) => Ok(session),
                _ => Err("a session is malformed".to_owned()),
            },
            Some((&format, _)) => Err(format!("a session has the unknown format {format}")),
            None => Err("a session is empty".to_owned()),
        }
    }
}

const FORMAT: u8 = 1;

/// What is to be done with a stamped command.
pub(crate) enum Admission {
    /// Do it, and hand the response to [`Sessions::keep`].
    Execute,
    /// It was done: this was the answer, or this is why there is none.
    Answer(Response),
}

/// All sessions that are open.
#[derive(Default)]
pub(crate) struct Sessions {
    limits: SessionLimits,
    /// Shared with the snapshots and checkpoints that are being written: a session is copied when it changes, if
    /// someone still holds it.
    open: BTreeMap<SessionId, Arc<Session>>,
    /// Changed or ended since the last checkpoint began.
    dirty: BTreeSet<SessionId>,
}

impl Sessions {
    /// The sessions of a store or a snapshot.
    pub(crate) fn restore(limits: SessionLimits, open: BTreeMap<SessionId, Arc<Session>>) -> Self {
        Self { limits, open, dirty: BTreeSet::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// All of them, at this moment.
    pub(crate) fn cut(&self) -> BTreeMap<SessionId, Arc<Session>> {
        self.open.clone()
    }

    /// Those changed since the last call, at this moment; `None` for one that is no more.
    pub(crate) fn take_dirty(&mut self) -> Vec<(SessionId, Option<Arc<Session>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|id| (id, self.open.get(&id).cloned())).collect()
    }

    /// Cluster time went on: sweeps out what is over, now and then.
    pub(crate) fn time_passed(&mut self, before_ms: u64, now_ms: u64) {
        if before_ms / SWEEP_EVERY_MS != now_ms / SWEEP_EVERY_MS {
            self.sweep(now_ms);
        }
    }

    fn sweep(&mut self, now_ms: u64) {
        raft::sometimes!("sessions/swept");
        let over = self.open.extract_if(.., |_, session| session.is_over(now_ms));
        self.dirty.extend(over.map(|(id, _)| id));
    }

    /// Opens a session, named by the entry's index.
    pub(crate) fn open(&mut self, index: Index, ttl_ms: u64, now_ms: u64) -> SessionId {
        if self.open.len() >= self.limits.sessions_max {
            self.sweep(now_ms);
        }
        while self.open.len() >= self.limits.sessions_max.max(1) {
            let idle_longest = self.open.iter().min_by_key(|(_, session)| session.active).map(|(id, _)| *id);
            let Some(id) = idle_longest else { break };
            raft::sometimes!("sessions/pushed-out");
            self.open.remove(&id);
            self.dirty.insert(id);
        }
        let id = SessionId(index.0);
        let session = Session {
            ttl_ms,
            active_ms: now_ms,
            active: index,
            acked_below: 0,
            responses: BTreeMap::new(),
            kept_bytes: 0,
        };
        self.open.insert(id, Arc::new(session));
        self.dirty.insert(id);
        id
    }

    /// The session, if it is open, marked as active.
    fn touch(&mut self, id: SessionId, index: Index, now_ms: u64) -> Result<&mut Session, Refusal> {
        let refused = Refusal::SessionExpired { session: id };
        let Some(session) = self.open.get(&id) else { return Err(refused) };
        self.dirty.insert(id);
        if session.is_over(now_ms) {
            raft::sometimes!("sessions/over-when-used");
            self.open.remove(&id);
        }
        let Some(session) = self.open.get_mut(&id) else { return Err(refused) };
        let session = Arc::make_mut(session);
        session.active_ms = now_ms;
        session.active = index;
        Ok(session)
    }

    /// Keeps a session open.
    pub(crate) fn keep_alive(&mut self, id: SessionId, index: Index, now_ms: u64) -> Response {
        match self.touch(id, index, now_ms) {
            Ok(_) => Response::Session,
            Err(refusal) => Response::Refused(refusal),
        }
    }

    /// Ends a session.
    pub(crate) fn close(&mut self, id: SessionId, index: Index, now_ms: u64) -> Response {
        let response = self.keep_alive(id, index, now_ms);
        if self.open.remove(&id).is_some() {
            self.dirty.insert(id);
        }
        response
    }

    /// Decides what is to be done with a stamped command.
    pub(crate) fn admit(&mut self, stamp: &SessionStamp, index: Index, now_ms: u64) -> Admission {
        let limits = self.limits;
        let session = match self.touch(stamp.session, index, now_ms) {
            Ok(session) => session,
            Err(refusal) => return Admission::Answer(Response::Refused(refusal)),
        };
        session.acknowledge(stamp.acked_below);
        if raft::mutant!("dedup-skip") {
            return Admission::Execute;
        }
        let forgotten = Response::Refused(Refusal::ResponseForgotten { request: stamp.request });
        if stamp.request < session.acked_below {
            raft::sometimes!("sessions/late-repeat");
            return Admission::Answer(forgotten);
        }
        match session.responses.get(&stamp.request) {
            Some(Kept::Response(response)) => {
                raft::sometimes!("sessions/repeated");
                return Admission::Answer(response.clone());
            }
            Some(Kept::Done) => return Admission::Answer(forgotten),
            None => {}
        }
        let kept = session.responses.len();
        if kept >= limits.responses_max || session.kept_bytes >= limits.response_bytes_max {
            raft::sometimes!("sessions/full");
            return Admission::Answer(Response::Refused(Refusal::SessionFull { kept: kept as u64 }));
        }
        Admission::Execute
    }

    /// Keeps the response of a command that [`admit`](Self::admit) let through.
    pub(crate) fn keep(&mut self, stamp: &SessionStamp, response: &Response) {
        let Some(session) = self.open.get_mut(&stamp.session) else { return };
        let session = Arc::make_mut(session);
        let kept = if response_bytes(response) > self.limits.response_bytes_max {
            Kept::Done
        } else {
            Kept::Response(response.clone())
        };
        session.kept_bytes += kept_bytes(&kept);
        if let Some(before) = session.responses.insert(stamp.request, kept) {
            session.kept_bytes -= kept_bytes(&before);
        }
    }
}

fn kept_bytes(kept: &Kept) -> u64 {
    match kept {
        Kept::Response(response) => response_bytes(response),
        Kept::Done => RESPONSE_OVERHEAD_BYTES,
    }
}

const RESPONSE_OVERHEAD_BYTES: u64 = 16;
const PAIR_OVERHEAD_BYTES: u64 = 32;

/// About how many bytes a response takes. The same on every node: it decides what is kept.
fn response_bytes(response: &Response) -> u64 {
    let pairs = |kvs: &[KeyValue]| {
        kvs.iter().map(|kv| PAIR_OVERHEAD_BYTES + (kv.key.len() + kv.value.len()) as u64).sum::<u64>()
    };
    let payload = match response {
        Response::SessionOpened { .. } | Response::Session | Response::Refused(_) => 0,
        Response::Done { result, .. } => match result {
            OperationResult::Put { prev_kv } => pairs(prev_kv.as_slice()),
            OperationResult::Deleted { prev_kvs, .. } => pairs(prev_kvs),
            OperationResult::Compacted => 0,
            OperationResult::Txn { results, .. } => results
                .iter()
                .map(|result| {
                    RESPONSE_OVERHEAD_BYTES
                        + match result {
                            TxnResult::Put { prev_kv } => pairs(prev_kv.as_slice()),
                            TxnResult::Deleted { prev_kvs, .. } => pairs(prev_kvs),
                            TxnResult::Range(range) => pairs(&range.kvs),
                        }
                })
                .sum(),
        },
    };
    RESPONSE_OVERHEAD_BYTES + payload
}
