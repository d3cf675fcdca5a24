//! One node, as clients see it.
//!
//! A [`Server`] listens for clients and brings what they ask to the node behind it: commands to
//! [`RaftHandle::propose_start`], linearizable reads to [`RaftHandle::read_index`] and then to the
//! [`KvReader`], everything else to what it knows itself. A [`Node`] is the whole of it: storage, consensus, state
//! machine and server.
//!
//! | file | what it is |
//! |---|---|
//! | `connection.rs` | one client: requests in, answers out, many at a time |
//! | `service.rs` | what is done with a request |
//! | `membership.rs` | who is in the cluster; changes of that, and of who leads |
//! | `backup.rs` | backups that are being read |
//! | `cluster_time.rs` | the time that leaders stamp on commands |
//! | `limits.rs` | what may be under way at most |
//! | `node.rs` | everything about a node, started and stopped in order |
//!
//! Rules: nothing is answered as done that was not applied after it was committed (the driver sees to that); what is
//! refused before the log is answered as not done, and what is lost in between as unknown (rule 14). A read is
//! linearizable because its confirmation began after it arrived, and its index is applied before it is done (rule
//! 13, §6.4); any member can do that, and does if the client would have it so. Limits are checked here, before the log. Garbage ends its own connection, with one line in the log,
//! and nothing else.
//!
//! Deliberately absent: forwarding of commands. A node that does not lead says who does, and the client goes there:
//! one hop less for every later request, and one place less where an outcome can be lost. Of reads only the question
//! for the index is forwarded, and that changes nothing.

mod backup;
mod cluster_time;
mod connection;
mod limits;
mod membership;
mod node;
mod service;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use raft::clock;
use raft::core::NodeId;
use raft::driver::{RaftHandle, Seams};
use raft::net::{BoxStream, Listener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::command::Response;
use crate::limits::Limits;
use crate::state_machine::KvReader;

use service::Service;

pub use limits::ServerLimits;
pub use node::{Node, NodeError, NodeSetup};

/// What the encoding of a request takes beside the keys and values that [`Limits::request_bytes_max`] counts: with
/// room for a transaction of many small operations.
pub(crate) const ENCODING_BYTES: usize = 64 * 1024;

/// After an error of `accept`, which passes by itself.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a node's process can tell of itself beyond the seams. The simulator leaves it out.
#[derive(Clone, Default)]
pub struct ProcessMeters {
    /// CPU time of the process so far, in microseconds.
    pub cpu_us: Option<fn() -> Option<u64>>,
    /// Bytes of the data directory.
    pub disk_bytes: Option<Arc<dyn Fn() -> Option<u64> + Send + Sync>>,
}

/// How a server behaves.
#[derive(Clone)]
pub struct ServerOptions {
    /// The node that it is the front of.
    pub id: NodeId,
    /// The address to listen on for clients.
    pub listen: String,
    /// The addresses at which members serve clients, as far as the operator has listed them: what clients are told.
    /// Those of other members come from the cluster's configuration.
    pub clients: BTreeMap<NodeId, String>,
    /// A member that has not answered the leader for so many ticks is reported as silent. [`Node::start`] sets it
    /// to the election timeout.
    pub silent_ticks_max: u32,
    /// How large a request may be.
    pub requests: Limits,
    /// How much may be under way.
    pub limits: ServerLimits,
    /// How long a new connection may take to say who it is.
    pub handshake_timeout: Duration,
    /// A connection on which nothing moves for so long is closed. Clients do not use one that is nearly so old.
    pub idle_max: Duration,
    /// How long requests under way may take to finish when the server shuts down.
    pub shutdown_timeout: Duration,
    /// What the process can tell of itself.
    pub process: ProcessMeters,
}

impl ServerOptions {
    /// Defaults for a real node.
    #[must_use]
    pub fn new(id: NodeId, listen: String, clients: BTreeMap<NodeId, String>) -> Self {
        Self {
            id,
            listen,
            clients,
            silent_ticks_max: u32::MAX,
            requests: Limits::default(),
            limits: ServerLimits::default(),
            handshake_timeout: Duration::from_secs(5),
            idle_max: Duration::from_secs(300),
            shutdown_timeout: Duration::from_secs(5),
            process: ProcessMeters::default(),
        }
    }
}

/// How far a server is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// What is under way may finish; nothing new begins.
    Draining,
    /// Connections close.
    Closed,
}

/// Listens for clients. Closes everything when dropped.
pub struct Server {
    service: Arc<Service>,
    address: String,
    phase: Arc<watch::Sender<Phase>>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Begins to listen. Until [`attach`](Self::attach) clients are told that there is no leader.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn listen(options: ServerOptions, seams: &Seams) -> io::Result<Self> {
        let listener = seams.net.listen(&options.listen).await?;
        let address = listener.local_address();
        let service = Service::new(options, Arc::clone(&seams.clock), seams.blocking.lane("reads"));
        let phase = Arc::new(watch::Sender::new(Phase::Serving));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&service), Arc::clone(&phase)));
        Ok(Self { service, address, phase, accepting })
    }

    /// Puts the server in front of a running node.
    pub fn attach(&self, raft: RaftHandle<Response>, reader: KvReader) {
        self.service.attach(raft, reader);
    }

    /// The address in fact listened on.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits until the store could not be read; tells why.
    pub async fn failed(&self) -> String {
        let mut failed = self.service.failed();
        // Not in the `match`: what the watch lends must not be held over the wait.
        let why = failed.wait_for(Option::is_some).await.ok().map(|why| why.clone().unwrap_or_default());
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Takes no new connections and no new requests, lets those under way finish for a bounded time, and closes.
    pub async fn shutdown(self) {
        self.service.stop();
        self.accepting.abort();
        self.phase.send_replace(Phase::Draining);
        // Every connection holds a receiver.
        let drained =
            clock::timeout(&*self.service.clock, self.service.options.shutdown_timeout, self.phase.closed());
        if drained.await.is_err() {
            tracing::warn!(
                connections = self.phase.receiver_count(),
                "some requests did not finish: closing them"
            );
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.service.stop();
        self.accepting.abort();
        self.phase.send_replace(Phase::Closed);
    }
}

async fn accept(mut listener: Box<dyn Listener>, service: Arc<Service>, phase: Arc<watch::Sender<Phase>>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => admit(&service, &phase, stream, from),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client's connection");
                clock::sleep(&*service.clock, ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(service: &Arc<Service>, phase: &watch::Sender<Phase>, stream: BoxStream, from: String) {
    let max = service.options.limits.connections_max;
    if phase.receiver_count() >= max {
        tracing::warn!(%from, max, "a client is turned away: too many connections");
        return;
    }
    let serving = connection::serve(Arc::clone(service), stream, phase.subscribe());
    tokio::spawn(async move {
        match serving.await {
            Ok(()) => {}
            Err(error) if error.is_garbage() => {
                tracing::warn!(%from, %error, "a client's connection is closed")
            }
            Err(error) => tracing::debug!(%from, %error, "a client's connection ended"),
        }
    });
}

#[cfg(test)]
mod tests;
