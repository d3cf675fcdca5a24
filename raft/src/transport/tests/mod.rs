//! The transport in a world of its own: a network in memory, virtual time, inline lanes.

mod handshakes;
mod members;
mod snapshots;
mod streams;
mod tcp;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;

use super::dial::{DialError, Dialled, dial};
use super::handshake::{Hello, Purpose};
use super::link::Outgoing;
use super::testing::{CrashDisk, Inline, PausedClock, TestNet, settle, within};
use super::*;
use crate::clock::Clock;
use crate::codec::encode_frame;
use crate::core::{Entry, Member, MessageBody, Payload};
use crate::net::Net;

const CLUSTER: u128 = 77;
const LONG: Duration = Duration::from_secs(600);

fn record() -> ClusterRecord {
    ClusterRecord {
        cluster: CLUSTER,
        members: (1..=3).map(|id| (NodeId(id), member(id))).collect(),
        origin: None,
    }
}

fn identity(id: u64) -> Identity {
    Identity { member: NodeId(id), incarnation: id * 11, cluster: Some(record()), log_created: true }
}

fn member(id: u64) -> Member {
    Member { incarnation: id * 11, ..Member::at(address(id)) }
}

/// A configuration of these voters, each at its own address and with its own disk.
fn of_members(ids: impl IntoIterator<Item = u64> + Clone) -> Configuration {
    let nodes = ids.clone().into_iter().map(|id| (NodeId(id), member(id))).collect();
    Configuration { nodes, ..Configuration::of_voters(ids.into_iter().map(NodeId)) }
}

/// `n1`, `n2`, ..: in the test network an address is a name.
fn address(id: u64) -> String {
    format!("n{id}")
}

struct World {
    net: Arc<TestNet>,
    clock: Arc<PausedClock>,
}

struct Node {
    transport: Transport,
    incoming: IncomingReceiver,
    snapshots: Arc<SnapshotDir>,
    disk: CrashDisk,
}

impl World {
    fn new() -> Self {
        Self { net: Arc::new(TestNet::default()), clock: PausedClock::new() }
    }

    fn config(&self, id: u64) -> (TransportConfig, CrashDisk) {
        let disk = CrashDisk::default();
        let dir = Path::new("/snapshots");
        let snapshots = Arc::new(SnapshotDir::open(Arc::new(disk.clone()), dir, CLUSTER).unwrap());
        let config = TransportConfig {
            clock: self.clock.clone(),
            net: self.net.clone(),
            blocking: Arc::new(Inline::default()),
            identity: identity(id),
            address: address(id),
            configuration: of_members(1..=3),
            overrides: BTreeMap::new(),
            removed: BTreeSet::new(),
            snapshots,
            // Time passes in this world only when nothing moves, and many a test waits for something to move.
            options: PeerOptions { snapshot_bytes_per_second: 0, ..PeerOptions::default() },
            seed: id,
        };
        (config, disk)
    }

    /// A node with the defaults, changed by `change`.
    async fn node_with(&self, id: u64, change: impl FnOnce(&mut TransportConfig)) -> Node {
        let (mut config, disk) = self.config(id);
        change(&mut config);
        let snapshots = Arc::clone(&config.snapshots);
        let listener = self.net.listen(&address(id)).await.unwrap();
        let (transport, incoming) = Transport::start(config, listener);
        Node { transport, incoming, snapshots, disk }
    }

    async fn node(&self, id: u64) -> Node {
        self.node_with(id, |_| {}).await
    }

    /// Nodes 1 and 2, connected both ways.
    async fn pair(&self) -> (Node, Node) {
        let (mut one, mut two) = (self.node(1).await, self.node(2).await);
        one.connected(2).await;
        two.connected(1).await;
        (one, two)
    }

    /// Dials a node by hand.
    async fn dial(&self, hello: &Hello) -> Result<Dialled, DialError> {
        dial(&*self.clock, &*self.net, &hello.to.to_string(), hello, &PeerOptions::default()).await
    }
}

impl Node {
    /// The next thing that the transport tells.
    async fn next(&mut self) -> Incoming {
        within(LONG, self.incoming.recv()).await.expect("the transport lives")
    }

    /// Waits for something, and drops what comes before it.
    async fn until(&mut self, wanted: impl Fn(&Incoming) -> bool) -> Incoming {
        loop {
            let incoming = self.next().await;
            if wanted(&incoming) {
                return incoming;
            }
        }
    }

    async fn connected(&mut self, to: u64) {
        self.until(|incoming| *incoming == Incoming::Connected(NodeId(to))).await;
    }

    async fn disconnected(&mut self, to: u64) {
        self.until(|incoming| *incoming == Incoming::Disconnected(NodeId(to))).await;
    }

    /// The next message, whatever is told in between.
    async fn message(&mut self) -> Message {
        loop {
            if let Incoming::Message(message) = self.next().await {
                return message;
            }
        }
    }

    /// What is there without waiting, after everything has settled.
    async fn gathered(&mut self) -> Vec<Incoming> {
        settle().await;
        std::iter::from_fn(|| self.incoming.try_recv().ok()).collect()
    }
}

fn hello(from: u64, to: u64) -> Hello {
    Hello {
        cluster: Some(CLUSTER),
        member: NodeId(from),
        incarnation: from * 11,
        address: address(from),
        to: NodeId(to),
        purpose: Purpose::Messages,
    }
}

fn heartbeat(from: u64, to: u64, round: u64) -> Message {
    let body = MessageBody::Heartbeat { commit: crate::core::Index(0), round, lease: false };
    Message { from: NodeId(from), to: NodeId(to), term: Term(1), body }
}

fn append(from: u64, to: u64, number: u64, bytes: usize) -> Message {
    let payload = Payload::Command(Bytes::from(vec![number as u8; bytes]));
    let entry = Entry { term: Term(1), index: crate::core::Index(number), payload };
    let body = MessageBody::AppendEntries {
        prev: LogId::ZERO,
        entries: vec![entry],
        commit: crate::core::Index(number),
    };
    Message { from: NodeId(from), to: NodeId(to), term: Term(1), body }
}

/// Writes messages to a stream dialled by hand.
async fn write(dialled: &mut Dialled, messages: &[Message]) {
    let mut out = BytesMut::new();
    for message in messages {
        encode_frame(&Outgoing::Message(message), u32::MAX, &mut out).unwrap();
    }
    dialled.writer.write_all(&out).await.unwrap();
    dialled.writer.flush().await.unwrap();
}

/// Writes to a stream dialled by hand, so slowly that it takes several times as long as a stream may be silent.
async fn trickle(world: &World, dialled: &mut Dialled, bytes: &[u8]) {
    let step = PeerOptions::default().read_idle_max / 5;
    for piece in bytes.chunks(bytes.len().div_ceil(20)) {
        dialled.writer.write_all(piece).await.unwrap();
        crate::clock::sleep(&*world.clock, step).await;
    }
}

/// Waits until the other end of a stream dialled by hand hangs up, be it after some answers.
async fn hung_up(dialled: &mut Dialled) {
    let end = async { while let Ok(Some(_)) = dialled.reader.read_body().await {} };
    within(LONG, end).await;
}

/// How much waits at `node` to be sent to another.
fn outbox_bytes(node: &Node, to: u64) -> usize {
    let mut bytes = None;
    node.transport.shared.directory.with_outbox(NodeId(to), |outbox| bytes = Some(outbox.bytes()));
    bytes.expect("a way to it")
}
