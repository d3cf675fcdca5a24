//! The client library: finds the leader, keeps deadlines, and never lies about what was done.
//!
//! A [`Client`] knows some endpoints. It sends each request to the node that it takes for the leader, follows the
//! hints of those that are not, and goes round the endpoints when nobody helps. Every request ends within its
//! deadline, in one of three ways (rule 14 of the design):
//!
//! - `Ok`, or [`ClientError::Refused`]: it was done, or refused, as part of the replicated history;
//! - [`ClientError::NotDone`]: no sending of it was done, nor will be;
//! - [`ClientError::Unknown`]: it may have been done, or may yet be.
//!
//! What may be sent again decides which of the last two one gets. Reads may always. A command without a session may
//! only if it is certain that the earlier sending was not done: once a byte of it has left and no answer came, the
//! outcome is unknown, and sending it again could do it twice. A command of a [`Session`] may always be sent again,
//! because it keeps its number, and the state machine does each number once (§6.3 of Ongaro's dissertation). So with
//! a session a leader may crash under a command, and the command is still done exactly once.
//!
//! The client works on the [`Clock`](raft::clock) and [`Net`](raft::net) seams and draws its jitter from a seed that
//! is handed to it; the same code runs in the simulator. Deliberately absent: caching, and watches.

mod backup;
mod call;
mod connection;
mod membership;
mod read;
mod session;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft::clock::SharedClock;
use raft::net::SharedNet;

use crate::command::{
    CommandBody, DeleteRange, KeyRange, KeyValue, Operation, OperationResult, Put, Refusal, Response,
    Revision, Txn, TxnResult,
};
use crate::wire::{Member, NodeReport, NotDone, Reply, RequestBody, Unknown};

use call::{Directory, Kind};

pub use backup::BackupStream;
pub use membership::NewMember;
pub use read::Consistency;
pub use session::Session;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The longest that a request takes, retries included.
    pub request_timeout: Duration,
    /// How long to wait for one node's answer before asking another, where that is allowed.
    pub attempt_timeout: Duration,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// The first pause after all endpoints have failed; each further one is half as long again.
    pub backoff_min: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// A connection that was unused for so long is not used again: the server may be about to close it.
    pub idle_max: Duration,
    /// How far the commands of one session may run ahead of the oldest one that is still open; further ones wait.
    /// Servers keep the responses from there on, and only so many.
    pub session_window_max: u64,
    /// Whether linearizable reads go to all members in turn, and not to the leader only. That takes load off the
    /// leader, and costs each read that another member answers a hop: it asks the leader up to where it must have
    /// applied.
    pub spread_reads: bool,
    /// What the jitter of the pauses is drawn from.
    pub seed: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(200),
            idle_max: Duration::from_secs(60),
            session_window_max: 64,
            spread_reads: false,
            seed: 0,
        }
    }
}

/// How a request ended that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nothing was done, and nothing will be.
    #[error("not done: {reason}")]
    NotDone {
        /// Why.
        reason: Reason,
    },
    /// It may have been done, or may yet be.
    #[error("outcome unknown: {reason}")]
    Unknown {
        /// Why.
        reason: Reason,
    },
    /// The replicated store refused it, and changed nothing.
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// What went wrong with a request, or with the last attempt at it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A node said that it was not done.
    #[error("{endpoint}: {reason}")]
    NotDone {
        /// Which node.
        endpoint: String,
        /// What it said.
        reason: NotDone,
    },
    /// A node said that it cannot know.
    #[error("{endpoint}: {reason}")]
    Unknown {
        /// Which node.
        endpoint: String,
        /// What it said.
        reason: Unknown,
    },
    /// The request was not sent.
    #[error("{endpoint}: {reason}")]
    Unreachable {
        /// Which node.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The request was sent, and no answer came.
    #[error("{endpoint}: {reason}")]
    NoAnswer {
        /// Which node.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// Time was up.
    #[error("no result within {after_ms} ms{}", match .last { Some(last) => format!("; last: {last}"), None => String::new() })]
    Deadline {
        /// How long it was tried.
        after_ms: u64,
        /// What went wrong last.
        last: Option<Box<Reason>>,
    },
    /// A node answered something else than was asked.
    #[error("{endpoint} answered something else than was asked")]
    Confused {
        /// Which node.
        endpoint: String,
    },
    /// It was refused now, and an earlier sending may have been done, or may yet be.
    #[error("{endpoint}: {refusal}")]
    Refused {
        /// Which node said so.
        endpoint: String,
        /// What it said.
        refusal: Refusal,
    },
    /// It was done, but its answer was too large to be kept until the request was sent again.
    #[error("{endpoint}: it was done, but its answer is lost")]
    AnswerForgotten {
        /// Which node said so.
        endpoint: String,
    },
    /// An argument cannot be right.
    #[error("{0}")]
    Argument(String),
}

/// What a command that was done has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The store's revision after it.
    pub revision: Revision,
    /// Its result.
    pub result: OperationResult,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnDone {
    /// The store's revision after it.
    pub revision: Revision,
    /// Whether the compares held.
    pub succeeded: bool,
    /// The results of the steps done, in order.
    pub results: Vec<TxnResult>,
}

/// Handles to one client; clones share its connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    clock: SharedClock,
    net: SharedNet,
    options: ClientOptions,
    directory: Mutex<Directory>,
}

impl Inner {
    fn directory(&self) -> std::sync::MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// A client of the cluster whose nodes serve at `endpoints` (one is enough, if it is up). Connects when needed.
    ///
    /// # Errors
    /// There are no endpoints.
    pub fn new(
        clock: SharedClock,
        net: SharedNet,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let Some(directory) = Directory::new(endpoints, options.seed) else {
            let reason = Reason::Argument("no endpoints were given".into());
            return Err(ClientError::NotDone { reason });
        };
        Ok(Self { inner: Arc::new(Inner { clock, net, options, directory: Mutex::new(directory) }) })
    }

    /// Like [`new`](Self::new), and makes sure that some node answers.
    ///
    /// # Errors
    /// None did within the request's time.
    pub async fn connect(
        clock: SharedClock,
        net: SharedNet,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        let client = Self::new(clock, net, endpoints, options)?;
        client.members().await?;
        Ok(client)
    }

    /// Opens a session, which lives until it is closed or has not been used for `ttl`.
    ///
    /// # Errors
    /// See [`ClientError`]. A session that was opened without our learning of it expires by itself.
    pub async fn session(&self, ttl: Duration) -> Result<Session, ClientError> {
        Session::open(self, ttl).await
    }

    /// Who is in the cluster, as some node sees it.
    ///
    /// # Errors
    /// No node answered.
    pub async fn members(&self) -> Result<Vec<Member>, ClientError> {
        let called = self.inner.call(RequestBody::Members, Kind::Anywhere).await?;
        let Reply::Members(members) = called.reply else { return Err(confused(&called.endpoint)) };
        Ok(members)
    }

    /// How the node at `endpoint` is.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn status(&self, endpoint: &str) -> Result<NodeReport, ClientError> {
        match self.inner.call_at(endpoint, RequestBody::Status).await? {
            Reply::Status(report) => Ok(*report),
            _ => Err(confused(endpoint)),
        }
    }

    /// What a client of long ago may still send.
    #[cfg(test)]
    pub(crate) async fn propose_for_tests(&self, body: CommandBody) -> Result<Response, ClientError> {
        self.propose(body, Kind::Repeatable).await
    }

    /// Proposes a command body as it is; the answer is whatever the state machine answered, refusals included.
    async fn propose(&self, body: CommandBody, kind: Kind) -> Result<Response, ClientError> {
        let called = self.inner.call(RequestBody::Propose(body), kind).await?;
        let Reply::Command(response) = called.reply else { return Err(confused(&called.endpoint)) };
        Ok(response)
    }
}

fn confused(endpoint: &str) -> ClientError {
    ClientError::NotDone { reason: Reason::Confused { endpoint: endpoint.to_owned() } }
}

/// What changes the store: a [`Client`], which cannot send a command again once it may have been done, or a
/// [`Session`], which can.
pub trait Writer: Sync {
    /// Does `operation`.
    ///
    /// # Errors
    /// See [`ClientError`].
    fn operate(&self, operation: Operation) -> impl Future<Output = Result<Done, ClientError>> + Send;

    /// Sets `key` to `value`; returns the new revision.
    ///
    /// # Errors
    /// See [`ClientError`].
    fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> impl Future<Output = Result<Revision, ClientError>> + Send {
        let put = Put { key: key.into(), value: value.into(), prev_kv: false };
        async move { Ok(self.operate(Operation::Put(put)).await?.revision) }
    }

    /// Removes the keys of `range`; returns how many there were, and with `prev_kv` which.
    ///
    /// # Errors
    /// See [`ClientError`].
    fn delete(
        &self,
        range: KeyRange,
        prev_kv: bool,
    ) -> impl Future<Output = Result<(u64, Vec<KeyValue>), ClientError>> + Send {
        async move {
            match self.operate(Operation::DeleteRange(DeleteRange { range, prev_kv })).await?.result {
                OperationResult::Deleted { count, prev_kvs } => Ok((count, prev_kvs)),
                _ => Err(confused("the leader")),
            }
        }
    }

    /// Does a transaction.
    ///
    /// # Errors
    /// See [`ClientError`].
    fn txn(&self, txn: Txn) -> impl Future<Output = Result<TxnDone, ClientError>> + Send {
        async move {
            let Done { revision, result } = self.operate(Operation::Txn(txn)).await?;
            match result {
                OperationResult::Txn { succeeded, results } => Ok(TxnDone { revision, succeeded, results }),
                _ => Err(confused("the leader")),
            }
        }
    }

    /// Forgets history before `revision`.
    ///
    /// # Errors
    /// See [`ClientError`].
    fn compact(&self, revision: Revision) -> impl Future<Output = Result<(), ClientError>> + Send {
        async move { self.operate(Operation::Compact { revision }).await.map(|_| ()) }
    }
}

impl Writer for Client {
    async fn operate(&self, operation: Operation) -> Result<Done, ClientError> {
        let body = CommandBody::Operate { stamp: None, operation };
        done(self.propose(body, Kind::Once).await?)
    }
}

/// The response to an operation.
fn done(response: Response) -> Result<Done, ClientError> {
    match response {
        Response::Done { revision, result } => Ok(Done { revision, result }),
        Response::Refused(refusal) => Err(ClientError::Refused(refusal)),
        Response::Session | Response::SessionOpened { .. } => Err(confused("the leader")),
    }
}

#[cfg(test)]
mod tests;
