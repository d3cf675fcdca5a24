//! What a node is told when it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::blocking::SharedBlocking;
use crate::clock::SharedClock;
use crate::core::{self, Entry, Event, HardState, LogId, Member, Message, NodeId, ReadyNumber};
use crate::disk::SharedDisk;
use crate::net::SharedNet;
use crate::transport::PeerOptions;
use crate::wal::WalOptions;

use super::space::SpaceOptions;

/// The node's ways to the world. The real ones, or the simulator's.
#[derive(Clone)]
pub struct Seams {
    /// Time.
    pub clock: SharedClock,
    /// Streams to peers.
    pub net: SharedNet,
    /// Files.
    pub disk: SharedDisk,
    /// Lanes for work that blocks.
    pub blocking: SharedBlocking,
}

impl Seams {
    /// The real world.
    #[must_use]
    pub fn real() -> Self {
        Self {
            clock: Arc::new(crate::clock::RealClock),
            net: Arc::new(crate::net::RealNet),
            disk: Arc::new(crate::disk::RealDisk),
            blocking: Arc::new(crate::blocking::RealBlocking),
        }
    }
}

/// Sees what happens in a node, as it happens: for metrics, traces and checks. Must not block.
pub trait Observer: Send + Sync + 'static {
    /// Something happened in the core.
    fn event(&self, event: &Event);
    /// The state machine has applied everything up to `last`.
    fn applied(&self, last: LogId);
    /// A message is handed to the transport. It may never arrive.
    fn sent(&self, message: &Message) {
        let _ = message;
    }
    /// A message has arrived, and is about to be given to the core.
    fn received(&self, message: &Message) {
        let _ = message;
    }
    /// A Ready's hard state and entries are handed to the log.
    fn writes(&self, number: ReadyNumber, hard_state: Option<HardState>, entries: &[Entry]) {
        let _ = (number, hard_state, entries);
    }
    /// They are durable, and so is all that was handed in before them.
    fn durable(&self, number: ReadyNumber) {
        let _ = number;
    }
}

/// Everything about one node. [`NodeOptions::new`] gives defaults for a real cluster on a local network.
#[derive(Clone)]
pub struct NodeOptions {
    /// Identity, timeouts (in ticks), windows and bounds of the core; its seed also feeds the transport's jitter.
    pub core: core::Config,
    /// Where logs, snapshots and the identity live; the state machine's store usually too.
    pub data_dir: PathBuf,
    /// The address to listen on for peers.
    pub listen: String,
    /// Every member the cluster is formed of, this one included: the address at which its peers reach it, and its
    /// context. Incarnations are not looked at. For a node that joins: itself, and members that it may ask. Later the
    /// addresses here go before those in the cluster's configuration.
    pub members: BTreeMap<NodeId, Member>,
    /// Whether a node with an empty disk joins a cluster that is there, instead of forming one.
    pub join: bool,
    /// How long a tick is.
    pub tick: Duration,
    /// The durable log.
    pub wal: WalOptions,
    /// Connections to peers.
    pub peer: PeerOptions,
    /// A command larger than this is refused.
    pub command_bytes_max: u64,
    /// How many requests may wait for the event loop.
    pub requests_max: usize,
    /// A checkpoint begins when this much has been applied since the last one.
    pub checkpoint_bytes: u64,
    /// A snapshot file is written when this many entries have been applied since the last one ..
    pub snapshot_entries: u64,
    /// .. and they take at least this much, and at least as much as the last snapshot's file: then writing
    /// snapshots costs no more than writing the log.
    pub snapshot_log_bytes: u64,
    /// How much of the durable log is read again and verified in a second; 0: nothing.
    pub scrub_bytes_per_second: u64,
    /// How much of the applied log is kept in memory for followers that lag; those further behind get a snapshot.
    pub retain_log_bytes: u64,
    /// How much room the disk of the data directory should have.
    pub space: SpaceOptions,
    /// How often a leader compares the hashes of the states, in ticks; 0: never.
    pub compare_ticks: u32,
    /// Sees what happens.
    pub observer: Option<Arc<dyn Observer>>,
}

impl NodeOptions {
    /// Where this node's own configuration says that members are.
    pub(super) fn addresses(&self) -> BTreeMap<NodeId, String> {
        self.members.iter().map(|(&id, member)| (id, member.address.clone())).collect()
    }

    /// Defaults for a real node.
    #[must_use]
    pub fn new(
        core: core::Config,
        data_dir: PathBuf,
        listen: String,
        members: BTreeMap<NodeId, Member>,
    ) -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            core,
            data_dir,
            listen,
            members,
            join: false,
            tick: Duration::from_millis(10),
            wal: WalOptions::default(),
            peer: PeerOptions::default(),
            command_bytes_max: 3 * MIB / 2,
            requests_max: 8192,
            checkpoint_bytes: 32 * MIB,
            snapshot_entries: 10_000,
            snapshot_log_bytes: 256 * MIB,
            scrub_bytes_per_second: MIB,
            retain_log_bytes: 64 * MIB,
            space: SpaceOptions::default(),
            compare_ticks: 100,
            observer: None,
        }
    }
}
