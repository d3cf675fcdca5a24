//! Peers over byte streams: handshake, framing, one bounded queue a peer, snapshots on streams of their own.
//!
//! # Streams
//!
//! Every stream has one direction. A node dials each of its peers and sends on the stream it dialled; answers
//! travel on the stream that the peer dialled in its turn. So there is never a question of which of two crossing
//! connections to keep, and what one end knows about a stream (connected, full, broken) is about sending alone.
//! Against the direction travel only the answer to the handshake and answers to pings.
//!
//! A snapshot travels on a stream of its own, so that gigabytes do not stand before heartbeats.
//!
//! # Rules
//!
//! - [`Transport::send`] never waits. What cannot be queued is dropped: Raft sends again what matters. The loss is
//!   reported as [`Incoming::Unreachable`], once, not for each message.
//! - Every queue is bounded, in messages and in bytes. Votes, heartbeats and answers have a share of their own and
//!   go ahead of appends: a follower that is slow to take entries must still hear that its leader lives.
//!   Among themselves the messages of either kind keep their order.
//! - A reader that finds the event loop behind waits for it and does not read on; TCP makes the sender wait.
//! - Who speaks is settled once, in the [handshake], by cluster, member and incarnation; every message is
//!   then checked against it (rule 6). A connection that breaks a rule is closed with one line in the log.
//! - A silent stream is a broken one: both ends expect a ping or its answer within `read_idle_max`.
//! - Reordering and loss are the core's to bear, corruption is not: every frame has a checksum.
//!
//! # What is deliberately absent
//!
//! Encryption (its own issue); compression; resending; acknowledgement of messages; membership (the driver tells by
//! [`Transport::set_members`] what the configuration is).
//!
//! # Bounds
//!
//! | queue | bound | when full |
//! |---|---|---|
//! | appends to one peer | `queue_messages_max`, `queue_bytes_max` | dropped, `Unreachable` |
//! | all else to one peer | 1,024 messages, 256 KiB | dropped, `Unreachable` |
//! | to the event loop | `incoming_messages_max`, `incoming_bytes_max` | the readers wait |
//! | streams not greeted yet | `handshakes_max` | new ones are closed |
//! | snapshots being received | 1 | a newer one takes the place of the older |
//! | snapshots being sent | 1 a peer | a newer one takes the place of the older |

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::blocking::{Lane, SharedBlocking};
use crate::clock::SharedClock;
use crate::core::{Configuration, LogId, Message, NodeId, SnapshotOutcome, Term};
use crate::identity::{ClusterRecord, Identity};
use crate::net::{Listener, SharedNet};
use crate::random::SplitMix;
use crate::snapshot::{SnapshotDir, SnapshotFile};

mod accept;
pub(crate) mod dial;
mod directory;
pub mod handshake;
mod inbox;
mod link;
mod outbox;
mod receive;
pub(crate) mod reception;
mod send;
pub(crate) mod support;
#[cfg(all(test, not(madsim)))]
pub(crate) mod testing;
#[cfg(all(test, not(madsim)))]
mod tests;
mod transfer;

pub use dial::probe;
use directory::{Directory, Way};
pub use handshake::Probe;
use inbox::InboxSender;
pub use inbox::IncomingReceiver;
use outbox::Outbox;
use reception::Reception;
use support::{Task, Tasks};

/// Limits and patience toward peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerOptions {
    /// How many appends may wait for one peer.
    pub queue_messages_max: usize,
    /// How many bytes of appends may wait for one peer. Looked at before a message is queued, so that the last one
    /// may pass it.
    pub queue_bytes_max: usize,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// How long to wait before the second attempt to connect. Each further wait is up to twice as long.
    pub backoff_min: Duration,
    /// The longest wait between attempts.
    pub backoff_max: Duration,
    /// The longest message. Must be above the core's `append_bytes_max` plus the longest entry, and above the length
    /// of a snapshot's chunk.
    pub frame_bytes_max: u32,
    /// How long a stream may be silent, or a write stand still, before the other end counts as gone.
    pub read_idle_max: Duration,
    /// How many messages may wait for the event loop.
    pub incoming_messages_max: usize,
    /// How many bytes of messages may wait for the event loop.
    pub incoming_bytes_max: usize,
    /// How many streams may be open whose other end has not said who it is.
    pub handshakes_max: usize,
    /// How many bytes of snapshots are sent in a second, to all peers together, so that they do not take the network
    /// and the disk from the log. 0: as many as will go.
    pub snapshot_bytes_per_second: u64,
    /// A snapshot is received only if so many bytes are free on the disk beside the file and the state made of it.
    pub free_bytes_min: u64,
}

impl Default for PeerOptions {
    fn default() -> Self {
        Self {
            queue_messages_max: 4096,
            queue_bytes_max: 64 << 20,
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            frame_bytes_max: 16 << 20,
            read_idle_max: Duration::from_secs(8),
            incoming_messages_max: 1024,
            incoming_bytes_max: 64 << 20,
            handshakes_max: 64,
            snapshot_bytes_per_second: 128 << 20,
            free_bytes_min: 0,
        }
    }
}

/// What a transport is made of.
#[derive(Clone)]
pub struct TransportConfig {
    /// The time.
    pub clock: SharedClock,
    /// Where streams come from.
    pub net: SharedNet,
    /// Where the lane for snapshot files comes from.
    pub blocking: SharedBlocking,
    /// Who this node is. The cluster must be formed.
    pub identity: Identity,
    /// Where this node's peers reach it: told to those that may not know it yet.
    pub address: String,
    /// The newest configuration that this node knows.
    pub configuration: Configuration,
    /// As for [`Transport::set_members`].
    pub overrides: BTreeMap<NodeId, String>,
    /// As for [`Transport::set_members`].
    pub removed: BTreeSet<NodeId>,
    /// Where snapshots lie.
    pub snapshots: Arc<SnapshotDir>,
    /// Limits and patience.
    pub options: PeerOptions,
    /// For the jitter of waits, and names of transfers.
    pub seed: u64,
}

/// What the transport tells the event loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message from a peer, its sender and recipient checked.
    Message(Message),
    /// A snapshot arrived whole: verified, durable and under its final name.
    Snapshot {
        /// Who sent it.
        from: NodeId,
        /// The term in which it was sent.
        term: Term,
        /// The file.
        file: SnapshotFile,
    },
    /// The disk failed while a snapshot was being received: the node must stop (rule 2). Nothing was promised of it.
    DiskFailed(String),
    /// Messages to this peer were lost, or may have been: the first attempt to reach it failed, its connection
    /// broke, or its queue overflowed. Said once until that is over.
    Unreachable(NodeId),
    /// A transfer that [`Transport::send_snapshot`] began has ended. Every one of them ends, except at shutdown.
    SnapshotSent {
        /// To whom.
        to: NodeId,
        /// How it ended.
        outcome: SnapshotOutcome,
        /// The last entry that the snapshot includes.
        last: LogId,
    },
    /// Messages to this peer are being delivered from now on, and as far as is known its messages arrive. May be said
    /// again when a peer that was heard before becomes a member.
    Connected(NodeId),
    /// A stream broke, the one to this peer or the one from it: most likely its process is gone. Said once, and at
    /// once. If it was the one to the peer, [`Unreachable`](Self::Unreachable) follows.
    Disconnected(NodeId),
    /// This member of the same cluster refuses this node, for it knows of a committed configuration by which this node
    /// was removed. Said each time that it refuses.
    Removed {
        /// Who says so.
        by: NodeId,
    },
}

/// What the tasks of a transport share.
pub(crate) struct Shared {
    clock: SharedClock,
    net: SharedNet,
    /// For reading and writing snapshot files.
    lane: Arc<dyn Lane>,
    reception: Reception,
    record: ClusterRecord,
    /// Where this node is reached.
    address: String,
    options: PeerOptions,
    snapshots: Arc<SnapshotDir>,
    inbox: InboxSender,
    directory: Directory,
    streams: accept::Streams,
    pace: transfer::Pace,
    receiving: receive::Slot,
}

impl Shared {
    /// This node.
    fn member(&self) -> NodeId {
        self.reception.local().member
    }

    /// How this node introduces itself to `to`.
    fn hello(&self, to: NodeId, purpose: handshake::Purpose) -> handshake::Hello {
        let Identity { member, incarnation, .. } = *self.reception.local();
        let (cluster, address) = (Some(self.record.cluster), self.address.clone());
        handshake::Hello { cluster, member, incarnation, address, to, purpose }
    }
}

/// One peer, as far as sending goes.
struct Peer {
    /// Empty if it is not known: then nothing is sent.
    address: String,
    /// Dials and writes. Dropping it ends it.
    link: Option<Task>,
    /// The snapshot on its way, if any.
    transfer: Option<send::Transfer>,
}

/// Sends messages and snapshots to peers, and hands theirs to the event loop. Dropping it closes all its streams.
pub struct Transport {
    shared: Arc<Shared>,
    peers: Mutex<Peers>,
}

struct Peers {
    by_id: BTreeMap<NodeId, Peer>,
    /// Accepts. `None` after shutdown.
    accept: Option<Task>,
    /// Answers to orders that cannot be carried out.
    strays: Tasks,
    random: SplitMix,
}

impl Transport {
    /// Takes over `listener` and begins to dial the peers. Must be called within a runtime.
    ///
    /// # Panics
    /// If the cluster is not formed yet: see [`formation::form`](crate::formation::form).
    #[must_use]
    pub fn start(config: TransportConfig, listener: Box<dyn Listener>) -> (Self, IncomingReceiver) {
        let TransportConfig { clock, net, blocking, identity, address, snapshots, options, seed, .. } =
            config;
        let Some(record) = identity.cluster.clone() else {
            panic!("the transport of {} was started before its cluster was formed", identity.member);
        };
        let (inbox, receiver) = inbox::channel(&options);
        let shared = Arc::new(Shared {
            lane: blocking.lane("transfers"),
            reception: Reception::new(Arc::clone(&clock), identity, &options),
            directory: Directory::default(),
            streams: accept::Streams::default(),
            pace: transfer::Pace::new(options.snapshot_bytes_per_second),
            receiving: receive::Slot::default(),
            clock,
            net,
            record,
            address,
            options,
            snapshots,
            inbox,
        });
        let transport = Self {
            shared: Arc::clone(&shared),
            peers: Mutex::new(Peers {
                by_id: BTreeMap::new(),
                accept: Some(Task::spawn(accept::run(shared, listener))),
                strays: Tasks::default(),
                random: SplitMix::derived(seed, 0x7265_6164),
            }),
        };
        transport.set_members(&config.configuration, &config.overrides, &BTreeSet::new(), config.removed);
        (transport, receiver)
    }

    /// Queues a message for `message.to`. Never waits; what cannot be queued is dropped.
    ///
    /// A message to someone who is neither a member nor has a stream to this node is dropped silently: the
    /// configuration may be ahead of [`set_members`](Self::set_members).
    pub fn send(&self, message: Message) {
        self.shared.directory.with_outbox(message.to, |outbox| outbox.push(&message));
    }

    /// Sends a snapshot to `to`, in the name of the leader of `term`, on a stream of its own. A transfer to the same
    /// peer that is still under way is given up without a word. How this one ends is told by
    /// [`Incoming::SnapshotSent`].
    pub fn send_snapshot(&self, to: NodeId, term: Term, file: SnapshotFile) {
        let mut peers = self.lock();
        let transfer_id = peers.random.draw();
        let Some(peer) = peers.by_id.get_mut(&to) else {
            peers.strays.spawn(send::fail(Arc::clone(&self.shared), to, file));
            return;
        };
        // The old one must have ended, and said so, before the new one begins.
        let before = peer.transfer.take();
        let order = send::Order { to, address: peer.address.clone(), term, file, transfer_id };
        peer.transfer = Some(send::start(Arc::clone(&self.shared), order, before));
    }

    /// Takes over a configuration: dials its members, lets them in and nobody else, except strangers of the same
    /// cluster (see the [handshake]).
    ///
    /// A member is dialled at its address in `overrides`, which is what this node's own configuration file says, or
    /// else at the one in the configuration. A peer whose address is another now is dialled anew.
    ///
    /// Those in `retain` are peers still, though the configuration names them no more: they are leaving, and get the
    /// entries up to the one that removes them. All others that are members no longer are let go: their streams are
    /// closed in both directions.
    ///
    /// Those in `removed` are told from now on that they were removed, and stop: so a *committed* configuration must say
    /// it. One that is not committed may be taken back, and whom it leaves out may be needed for that.
    pub fn set_members(
        &self,
        configuration: &Configuration,
        overrides: &BTreeMap<NodeId, String>,
        retain: &BTreeSet<NodeId>,
        removed: BTreeSet<NodeId>,
    ) {
        let mut peers = self.lock();
        if peers.accept.is_none() {
            return;
        }
        let mut wanted = BTreeMap::new();
        let mut incarnations = BTreeMap::new();
        let members = configuration.members();
        for id in members.union(retain).copied().filter(|id| *id != self.shared.member()) {
            let known = configuration.nodes.get(&id);
            let current = peers.by_id.get(&id).map(|peer| peer.address.as_str());
            let address = overrides.get(&id).map(String::as_str);
            let address = address.or(known.map(|member| member.address.as_str())).or(current);
            if address.is_none() && !members.contains(&id) {
                // A leader whose membership is in entries that are yet to come: as a stranger it has a way back already.
                continue;
            }
            wanted.insert(id, address.unwrap_or_default().to_owned());
            let incarnation = known.map(|member| member.incarnation);
            incarnations.insert(id, incarnation.unwrap_or_else(|| self.shared.directory.incarnation(id)));
        }
        let gone: Vec<Peer> = peers
            .by_id
            .extract_if(.., |id, _| !wanted.contains_key(id))
            .map(|(id, peer)| {
                self.shared.directory.remove_outbox(id);
                peer
            })
            .collect();
        let removed = removed.into_iter().filter(|id| !retain.contains(id)).collect();
        let expelled = self.shared.directory.update(incarnations, removed);
        for id in expelled {
            self.shared.streams.close(id);
            self.shared.receiving.close(id);
            if !wanted.contains_key(&id) {
                drop(self.shared.directory.take_stranger(id));
            }
        }
        for (id, address) in wanted {
            self.connect(&mut peers, id, address);
        }
        drop(peers);
        drop(gone);
    }

    /// Sees to it that `id` is dialled at `address`.
    fn connect(&self, peers: &mut Peers, id: NodeId, address: String) {
        if peers.by_id.get(&id).is_some_and(|peer| peer.address == address) {
            return;
        }
        let transfer = peers.by_id.remove(&id).and_then(|peer| peer.transfer);
        let directory = &self.shared.directory;
        let mut connected = false;
        directory.with_outbox(id, |outbox| connected = outbox.is_connected());
        let seed = peers.random.draw();
        let way = directory.take_stranger(id).filter(|way| way.address == address);
        let link = match way {
            _ if address.is_empty() => {
                directory.remove_outbox(id);
                None
            }
            Some(Way { outbox, link, .. }) => {
                directory.set_outbox(id, Arc::clone(&outbox));
                outbox.retell();
                Some(link)
            }
            None => {
                let outbox = Arc::new(Outbox::new(&self.shared.options));
                directory.set_outbox(id, Arc::clone(&outbox));
                let (shared, to) = (Arc::clone(&self.shared), address.clone());
                let link = link::Link::new(shared, id, to, outbox, seed, connected, None);
                Some(Task::spawn(link.run()))
            }
        };
        peers.by_id.insert(id, Peer { address, link, transfer });
    }

    /// Ends every task and closes every stream and the listener. Nothing is received afterwards.
    pub async fn shutdown(&self) {
        let (accept, by_id, strays) = {
            let mut peers = self.lock();
            (peers.accept.take(), std::mem::take(&mut peers.by_id), std::mem::take(&mut peers.strays))
        };
        drop(strays);
        if let Some(accept) = accept {
            accept.end().await;
        }
        for peer in by_id.into_values() {
            if let Some(link) = peer.link {
                link.end().await;
            }
            if let Some(transfer) = peer.transfer {
                transfer.end().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
