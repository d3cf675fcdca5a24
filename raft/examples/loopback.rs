//! What a message costs: two transports on loopback, both on one thread.
//!
//! ```text
//! cargo run --release -p raftkv-raft --example loopback
//! ```
#![allow(clippy::print_stdout, reason = "figures for people")]

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use raft::clock::{Clock, RealClock};
use raft::core::{Entry, Index, LogId, Member, Message, MessageBody, NodeId, Payload, Term};
use raft::identity::{ClusterRecord, Identity};
use raft::net::{Listener, Net, RealNet};
use raft::snapshot::SnapshotDir;
use raft::transport::{Incoming, IncomingReceiver, PeerOptions, Transport, TransportConfig};

const CLUSTER: u128 = 1;

fn node(
    id: u64,
    peer: String,
    listener: Box<dyn Listener>,
    dir: &std::path::Path,
) -> Result<(Transport, IncomingReceiver), Box<dyn Error>> {
    let member = |incarnation| Member { incarnation, ..Member::default() };
    let record = ClusterRecord {
        cluster: CLUSTER,
        members: [(NodeId(1), member(1)), (NodeId(2), member(2))].into(),
        origin: None,
    };
    let snapshots = SnapshotDir::open(Arc::new(raft::disk::RealDisk), &dir.join(id.to_string()), CLUSTER)?;
    let config = TransportConfig {
        clock: Arc::new(RealClock),
        net: Arc::new(RealNet),
        blocking: Arc::new(raft::blocking::RealBlocking),
        address: listener.local_address(),
        configuration: record.configuration(),
        overrides: [(NodeId(3 - id), peer)].into(),
        removed: BTreeSet::new(),
        identity: Identity { member: NodeId(id), incarnation: id, cluster: Some(record), log_created: true },
        snapshots: Arc::new(snapshots),
        options: PeerOptions::default(),
        seed: id,
    };
    Ok(Transport::start(config, listener))
}

/// Waits for a message; anything else is passed over.
async fn message(incoming: &mut IncomingReceiver) -> Result<(), Box<dyn Error>> {
    while !matches!(incoming.recv().await.ok_or("the transport ended")?, Incoming::Message(_)) {}
    Ok(())
}

fn append(bytes: usize) -> Message {
    let payload = Payload::Command(Bytes::from(vec![7; bytes]));
    let entry = Entry { term: Term(1), index: Index(1), payload };
    let body = MessageBody::AppendEntries { prev: LogId::ZERO, entries: vec![entry], commit: Index(0) };
    Message { from: NodeId(1), to: NodeId(2), term: Term(1), body }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let one = RealNet.listen("127.0.0.1:0").await?;
    let two = RealNet.listen("127.0.0.1:0").await?;
    let (at_one, at_two) = (one.local_address(), two.local_address());
    let (one, mut to_one) = node(1, at_two, one, dir.path())?;
    let (two, mut to_two) = node(2, at_one, two, dir.path())?;
    while to_one.recv().await != Some(Incoming::Connected(NodeId(2))) {}
    while to_two.recv().await != Some(Incoming::Connected(NodeId(1))) {}

    let rounds: u32 = 50_000;
    let ask = append(0);
    let answer = Message { from: NodeId(2), to: NodeId(1), ..append(0) };
    let before = RealClock.now();
    for _ in 0..rounds {
        one.send(ask.clone());
        message(&mut to_two).await?;
        two.send(answer.clone());
        message(&mut to_one).await?;
    }
    println!("round trip: {:?}", RealClock.now().since(before) / rounds);

    for bytes in [100, 1000, 10_000, 100_000] {
        let total = 800_000_000 / (bytes + 1000);
        let append = append(bytes);
        let before = RealClock.now();
        let (mut sent, mut arrived) = (0, 0);
        while arrived < total {
            while sent < total && sent - arrived < 64 {
                one.send(append.clone());
                sent += 1;
            }
            message(&mut to_two).await?;
            arrived += 1;
            while let Ok(Incoming::Message(_)) = to_two.try_recv() {
                arrived += 1;
            }
        }
        let seconds = RealClock.now().since(before).as_secs_f64();
        let (rate, volume) = (total as f64 / seconds, (total * bytes) as f64 / seconds / 1e6);
        println!("{bytes} bytes: {rate:.0} messages/s, {volume:.0} MB/s");
    }
    Ok(())
}
