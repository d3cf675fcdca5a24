//! Sessions: commands that may be sent again, and are done once (§6.3).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use raft::clock::{self, Monotonic};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::command::{CommandBody, Operation, Refusal, Response, SessionId, SessionStamp};
use crate::wire::{Reply, RequestBody};

use super::call::Kind;
use super::{Client, ClientError, Done, Inner, Reason, Writer, confused, done};

/// A session. It is kept alive while it exists and the client's runtime runs; when it is dropped without
/// [`close`](Self::close) it expires by itself.
///
/// An expired session refuses everything ([`Refusal::SessionExpired`]): open a new one. It never happens that a
/// command is done a second time because its session was forgotten.
pub struct Session {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    inner: Arc<Inner>,
    id: SessionId,
    state: Mutex<State>,
    /// Rung when a request ends.
    ended: Notify,
}

struct State {
    next_request: u64,
    /// The requests under way. All below the first of them are decided, or given up and never sent again.
    open: BTreeSet<u64>,
    used_at: Monotonic,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a request: numbers it. Waits while the oldest open one is too far behind.
    async fn begin(self: &Arc<Self>) -> Open {
        let mut ended = std::pin::pin!(self.ended.notified());
        loop {
            // From here on no ring is missed.
            ended.as_mut().enable();
            if let Some(begun) = self.try_begin() {
                return begun;
            }
            ended.as_mut().await;
            ended.set(self.ended.notified());
        }
    }

    fn try_begin(self: &Arc<Self>) -> Option<Open> {
        let mut state = self.state();
        let request = state.next_request;
        let oldest = state.open.first().copied().unwrap_or(request);
        if request - oldest >= self.inner.options.session_window_max {
            return None;
        }
        state.next_request += 1;
        state.open.insert(request);
        state.used_at = self.inner.clock.now();
        Some(Open { shared: Arc::clone(self), request })
    }
}

/// A request under way; ends when dropped.
struct Open {
    shared: Arc<Shared>,
    request: u64,
}

impl Open {
    /// The request's stamp. Its number never changes; what is acknowledged with it may.
    fn stamp(&self) -> SessionStamp {
        let acked_below = self.shared.state().open.first().copied().unwrap_or(self.request);
        SessionStamp { session: self.shared.id, request: self.request, acked_below }
    }

    fn body(&self, operation: Operation) -> Arc<RequestBody> {
        Arc::new(RequestBody::Propose(CommandBody::Operate { stamp: Some(self.stamp()), operation }))
    }

    /// The same request, with a stamp of now.
    fn again(&self, body: &RequestBody) -> Arc<RequestBody> {
        let RequestBody::Propose(CommandBody::Operate { operation, .. }) = body else {
            panic!("a session's request is not an operation: {body:?}");
        };
        self.body(operation.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.state().open.remove(&self.request);
        self.shared.ended.notify_waiters();
    }
}

impl Session {
    pub(super) async fn open(client: &Client, ttl: Duration) -> Result<Self, ClientError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        // Sent again it would open a second session; the first one would expire without harm.
        let response = client.propose(CommandBody::OpenSession { ttl_ms }, Kind::Repeatable).await?;
        let id = match response {
            Response::SessionOpened { session } => session,
            Response::Refused(refusal) => return Err(ClientError::Refused(refusal)),
            Response::Session | Response::Done { .. } => return Err(confused("the leader")),
        };
        let inner = Arc::clone(&client.inner);
        let state = State { next_request: 1, open: BTreeSet::new(), used_at: inner.clock.now() };
        let shared = Arc::new(Shared { inner, id, state: Mutex::new(state), ended: Notify::new() });
        let keeper = tokio::spawn(keep_alive(Arc::downgrade(&shared), ttl / 3));
        Ok(Self { shared, keeper })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.shared.id
    }

    /// Ends the session, so that the servers can forget it at once.
    ///
    /// # Errors
    /// See [`ClientError`]; the session then expires by itself.
    pub async fn close(self) -> Result<(), ClientError> {
        let client = Client { inner: Arc::clone(&self.shared.inner) };
        let body = CommandBody::CloseSession { session: self.shared.id };
        match client.propose(body, Kind::Repeatable).await? {
            // Expired already, or closed by an earlier sending of this: gone, as asked.
            Response::Session | Response::Refused(Refusal::SessionExpired { .. }) => Ok(()),
            Response::Refused(refusal) => Err(ClientError::Refused(refusal)),
            Response::SessionOpened { .. } | Response::Done { .. } => Err(confused("the leader")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Writer for Session {
    async fn operate(&self, operation: Operation) -> Result<Done, ClientError> {
        let inner = &self.shared.inner;
        let begun = inner.clock.now();
        let deadline = begun + inner.options.request_timeout;
        let Ok(mut open) = clock::timeout_at(&*inner.clock, deadline, self.shared.begin()).await else {
            let after_ms = u64::try_from(inner.clock.now().since(begun).as_millis()).unwrap_or(u64::MAX);
            return Err(ClientError::NotDone { reason: Reason::Deadline { after_ms, last: None } });
        };
        let kind = if raft::mutant!("client-retry") { Kind::Once } else { Kind::Repeatable };
        let mut body = open.body(operation);
        let mut maybe_done = false;
        loop {
            let called = match inner.call_until(Arc::clone(&body), kind, deadline).await {
                Err(ClientError::Unknown { .. }) if raft::mutant!("client-retry") => {
                    open = self.shared.begin().await;
                    body = open.again(&body);
                    continue;
                }
                Err(ClientError::NotDone { reason }) if maybe_done => {
                    return Err(ClientError::Unknown { reason });
                }
                called => called?,
            };
            maybe_done |= called.maybe_done_before;
            let endpoint = called.endpoint.to_string();
            let response = match called.reply {
                Reply::Command(response) => response,
                _ => return Err(confused(&endpoint)),
            };
            match response {
                // There will be room when other requests are answered, and this one says so.
                Response::Refused(Refusal::SessionFull { .. }) if inner.clock.now() < deadline => {
                    clock::sleep(&*inner.clock, inner.options.backoff_min).await;
                    body = open.again(&body);
                }
                // It was done, by an earlier sending.
                Response::Refused(Refusal::ResponseForgotten { .. }) => {
                    return Err(ClientError::Unknown { reason: Reason::AnswerForgotten { endpoint } });
                }
                // What the session itself refuses is not kept as the request's response: an earlier sending, which
                // it let through, may have been done or may yet be.
                Response::Refused(
                    refusal @ (Refusal::SessionExpired { .. } | Refusal::SessionFull { .. }),
                ) if maybe_done => {
                    return Err(ClientError::Unknown { reason: Reason::Refused { endpoint, refusal } });
                }
                response => return done(response),
            }
        }
    }
}

/// Sends a sign of life whenever the session was not used for `pause`. Ends with the session.
async fn keep_alive(session: Weak<Shared>, pause: Duration) {
    loop {
        let Some(shared) = session.upgrade() else { return };
        let clock = Arc::clone(&shared.inner.clock);
        let due = shared.state().used_at + pause;
        if clock.now() >= due {
            let body = RequestBody::Propose(CommandBody::KeepAlive { session: shared.id });
            // The session shows by itself whether it still lives; until then it is worth trying again.
            let answer = shared.inner.call(body, Kind::Repeatable).await;
            shared.state().used_at = clock.now();
            if answer.is_ok_and(|called| matches!(called.reply, Reply::Command(Response::Refused(_)))) {
                return;
            }
            continue;
        }
        drop(shared);
        clock.sleep_until(due).await;
    }
}
