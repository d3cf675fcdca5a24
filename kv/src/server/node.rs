//! A whole node: server, consensus, storage and state, started and stopped in order.

use std::io;
use std::sync::{Arc, OnceLock};

use raft::driver::{self, NodeOptions, RaftHandle, Seams, StartError, StopReason};

use crate::command::Response;
use crate::state_machine::{KvOptions, KvReader, KvStateMachine};

use super::{ENCODING_BYTES, Server, ServerOptions};

/// What a node is made of.
#[derive(Clone)]
pub struct NodeSetup {
    /// Consensus, log and peers. Commands may be as large as the server's limit on requests needs, at least.
    pub raft: NodeOptions,
    /// The state.
    pub kv: KvOptions,
    /// Clients.
    pub server: ServerOptions,
}

/// Why a node did not start; one line for a human.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The client address cannot be listened on.
    #[error("cannot listen for clients on {address}: {source}; choose another port, or stop what uses it")]
    Listen {
        /// Which one.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// Everything else.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A running node. Dropping it closes the server; the rest runs until [`shutdown`](Self::shutdown).
pub struct Node {
    raft: RaftHandle<Response>,
    reader: KvReader,
    server: Server,
}

impl Node {
    /// Starts a node. Listens for clients at once; returns when the node runs, which for the very first start means:
    /// when the cluster has formed. Drop the future to give up.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start(setup: NodeSetup, seams: Seams) -> Result<Self, NodeError> {
        let NodeSetup { raft: mut options, kv, mut server } = setup;
        assert!(options.core.id == server.id, "server of {}, node {}", server.id, options.core.id);
        let command_bytes = server.requests.request_bytes_max + 2 * ENCODING_BYTES;
        options.command_bytes_max = options.command_bytes_max.max(command_bytes as u64);

        server.silent_ticks_max = options.core.election_timeout_ticks;

        let address = server.listen.clone();
        let server =
            Server::listen(server, &seams).await.map_err(|source| NodeError::Listen { address, source })?;
        let opened = Arc::new(OnceLock::new());
        let (slot, disk) = (Arc::clone(&opened), Arc::clone(&seams.disk));
        let open = move || {
            let (machine, reader) = KvStateMachine::open(disk, kv)?;
            // It is opened once.
            let _ = slot.set(reader);
            Ok(machine)
        };
        let raft = driver::start(options, seams, open).await?;
        let Some(reader) = opened.get().cloned() else {
            panic!("the node runs, but its state was never opened")
        };
        server.attach(raft.clone(), reader.clone());
        Ok(Self { raft, reader, server })
    }

    /// The consensus of the node.
    #[must_use]
    pub fn raft(&self) -> &RaftHandle<Response> {
        &self.raft
    }

    /// The state of the node.
    #[must_use]
    pub fn reader(&self) -> &KvReader {
        &self.reader
    }

    /// The address in fact listened on for clients.
    #[must_use]
    pub fn client_address(&self) -> &str {
        self.server.address()
    }

    /// Waits until the node has stopped by itself. A store that cannot be read stops it (rule 2).
    pub async fn stopped(&self) -> Arc<StopReason> {
        tokio::select! {
            biased;
            reason = self.raft.stopped() => reason,
            why = self.server.failed() => {
                self.raft.shutdown().await;
                Arc::new(StopReason::Failed(why))
            }
        }
    }

    /// Stops in order: the leadership goes to another node, no new requests, those under way finish within a bounded
    /// time, then the log is closed.
    pub async fn shutdown(self) -> Arc<StopReason> {
        // Before anything is refused, so that there is somewhere to go for those who are. That it may fail, or that
        // this node does not lead, is no reason to stay.
        let _ = self.raft.transfer_leadership(None).await;
        self.server.shutdown().await;
        self.raft.shutdown().await
    }
}
