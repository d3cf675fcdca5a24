//! What a node tells about itself.

use serde::{Deserialize, Serialize};

use crate::core::{Configuration, Index, LogId, NodeId, Status};

/// A node's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// What the core knows.
    pub core: Status,
    /// The configuration in force: who votes, who learns, whether it is joint, the terms of leases.
    pub configuration: Configuration,
    /// To whom the leadership is being handed over, until it is known who leads then.
    pub transferring_to: Option<NodeId>,
    /// Bytes that the durable log takes on disk.
    pub wal_bytes: u64,
    /// How many segments the durable log has.
    pub wal_segments: u64,
    /// The last entry in the newest snapshot file, and the file's bytes.
    pub snapshot: Option<(LogId, u64)>,
    /// The last entry that the state machine's store holds durably.
    pub checkpoint: LogId,
    /// Bytes free on the disk of the data directory, beside the ballast, when they were last measured.
    pub free_bytes: Option<u64>,
    /// How many proposals wait to be decided.
    pub proposals_waiting: u64,
    /// On a leader: up to where all members are known to have the same state.
    pub agreed: Index,
    /// The first entry at which this node's state was found to differ from another's.
    pub diverged: Option<Index>,
}
