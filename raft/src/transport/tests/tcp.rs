//! Real TCP on loopback, through a proxy that delays, splits, cuts and resets.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::blocking::RealBlocking;
use crate::clock::{RealClock, sleep, timeout};
use crate::core::SnapshotMeta;
use crate::disk::RealDisk;
use crate::net::RealNet;

/// Forwards connections to `target`, badly while `faulty`.
struct Proxy {
    address: String,
    faulty: Arc<AtomicBool>,
    _task: Task,
}

impl Proxy {
    async fn start(target: String, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let faulty = Arc::new(AtomicBool::new(false));
        let switch = Arc::clone(&faulty);
        let task = Task::spawn(async move {
            let (mut tasks, mut random) = (Tasks::default(), SplitMix::new(seed));
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tasks.spawn(forward(near, target.clone(), Arc::clone(&switch), SplitMix::new(random.draw())));
            }
        });
        Self { address, faulty, _task: task }
    }
}

/// Carries one connection until it ends, or until chance ends it.
async fn forward(mut near: TcpStream, target: String, faulty: Arc<AtomicBool>, mut random: SplitMix) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let mut life = 1000 + random.below(200_000);
    let (mut up, mut down) = ([0u8; 4096], [0u8; 4096]);
    loop {
        let is_faulty = faulty.load(Ordering::SeqCst);
        let (up_max, down_max) =
            if is_faulty { (1 + random.below(4096), 1 + random.below(64)) } else { (4096, 4096) };
        let moved = tokio::select! {
            biased;
            read = near.read(&mut up[..up_max as usize]) => match read {
                Ok(n) if n > 0 && far.write_all(&up[..n]).await.is_ok() => n,
                _ => return,
            },
            read = far.read(&mut down[..down_max as usize]) => match read {
                Ok(n) if n > 0 && near.write_all(&down[..n]).await.is_ok() => n,
                _ => return,
            },
        };
        if !is_faulty {
            continue;
        }
        life = life.saturating_sub(moved as u64);
        if life == 0 {
            if random.below(2) == 0 {
                // Without lingering a close is a reset.
                let _ = near.set_zero_linger();
                let _ = far.set_zero_linger();
            }
            return;
        }
        if random.below(16) == 0 {
            sleep(&RealClock, Duration::from_micros(random.below(3000))).await;
        }
    }
}

struct RealNode {
    transport: Transport,
    incoming: IncomingReceiver,
    snapshots: Arc<SnapshotDir>,
    _dir: tempfile::TempDir,
}

/// Node `id` of a cluster of two; it reaches the other at `peer`.
fn real_node(id: u64, peer: &str, listener: Box<dyn Listener>) -> RealNode {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(Arc::new(RealDisk), &dir.path().join("snapshots"), CLUSTER).unwrap();
    let snapshots = Arc::new(snapshots);
    let config = TransportConfig {
        clock: Arc::new(RealClock),
        net: Arc::new(RealNet),
        blocking: Arc::new(RealBlocking),
        identity: identity(id),
        address: listener.local_address(),
        configuration: of_members(1..=2),
        overrides: [(NodeId(3 - id), peer.to_owned())].into(),
        removed: BTreeSet::new(),
        snapshots: Arc::clone(&snapshots),
        options: PeerOptions { backoff_max: Duration::from_millis(50), ..PeerOptions::default() },
        seed: id,
    };
    let (transport, incoming) = Transport::start(config, listener);
    RealNode { transport, incoming, snapshots, _dir: dir }
}

/// Two nodes, and the proxies through which each reaches the other.
async fn real_pair(seed: u64) -> ([RealNode; 2], [Proxy; 2]) {
    let one = RealNet.listen("127.0.0.1:0").await.unwrap();
    let two = RealNet.listen("127.0.0.1:0").await.unwrap();
    let to_one = Proxy::start(one.local_address(), seed).await;
    let to_two = Proxy::start(two.local_address(), seed + 1).await;
    let nodes = [real_node(1, &to_two.address, one), real_node(2, &to_one.address, two)];
    (nodes, [to_one, to_two])
}

impl RealNode {
    async fn next(&mut self) -> Incoming {
        timeout(&RealClock, Duration::from_secs(20), self.incoming.recv())
            .await
            .expect("in time")
            .expect("alive")
    }

    async fn connected(&mut self) {
        while !matches!(self.next().await, Incoming::Connected(_)) {}
    }
}

/// Asserts that a message is one that was sent, whole; returns its number.
fn number(message: &Message) -> u64 {
    let MessageBody::AppendEntries { commit, entries, .. } = &message.body else { panic!("{message:?}") };
    let Payload::Command(command) = &entries[0].payload else { panic!("{message:?}") };
    assert!(command.iter().all(|byte| *byte == commit.0 as u8), "message {commit} is damaged");
    assert_eq!(command.len() as u64, commit.0 % 3000);
    commit.0
}

fn numbered(from: u64, to: u64, number: u64) -> Message {
    append(from, to, number, (number % 3000) as usize)
}

#[tokio::test]
async fn messages_survive_a_bad_network_whole_and_in_order() {
    let ([mut one, mut two], proxies) = real_pair(42).await;
    one.connected().await;
    two.connected().await;
    proxies.iter().for_each(|proxy| proxy.faulty.store(true, Ordering::SeqCst));
    let (mut sent, mut breaks, mut arrived) = (0, 0, [0u64; 2]);
    let mut last = [0u64; 2];
    while breaks < 20 || arrived.iter().any(|n| *n < 500) {
        assert!(sent < 1_000_000, "{breaks} breaks, {arrived:?} arrived");
        for _ in 0..5 {
            sent += 1;
            one.transport.send(numbered(1, 2, sent));
            two.transport.send(numbered(2, 1, sent));
        }
        sleep(&RealClock, Duration::from_micros(200)).await;
        for (i, node) in [&mut one, &mut two].into_iter().enumerate() {
            while let Ok(incoming) = node.incoming.try_recv() {
                match incoming {
                    Incoming::Message(message) => {
                        let number = number(&message);
                        assert!(number > last[i], "{number} came after {}", last[i]);
                        last[i] = number;
                        arrived[i] += 1;
                    }
                    Incoming::Disconnected(_) => breaks += 1,
                    _ => {}
                }
            }
        }
    }
    // The network heals: after that everything sent on a live stream arrives.
    proxies.iter().for_each(|proxy| proxy.faulty.store(false, Ordering::SeqCst));
    let mut end = sent;
    'healing: loop {
        end += 1;
        one.transport.send(numbered(1, 2, end));
        sleep(&RealClock, Duration::from_millis(5)).await;
        while let Ok(incoming) = two.incoming.try_recv() {
            if matches!(&incoming, Incoming::Message(message) if number(message) > sent) {
                break 'healing;
            }
        }
        assert!(end < sent + 2000, "it did not heal");
    }
}

#[tokio::test]
async fn a_snapshot_gets_through_a_bad_network_in_the_end() {
    let ([mut one, mut two], proxies) = real_pair(7).await;
    one.connected().await;
    let state: Vec<u8> = (0..3 << 20).map(|i: u32| (i / 253) as u8).collect();
    let meta = SnapshotMeta { last: LogId::new(2, 99), configuration: Configuration::of_voters([NodeId(1)]) };
    let mut writer = one.snapshots.create(&meta).unwrap();
    writer.write_all(&state).unwrap();
    let file = writer.commit().unwrap();
    proxies.iter().for_each(|proxy| proxy.faulty.store(true, Ordering::SeqCst));
    let mut failures = 0;
    loop {
        one.transport.send_snapshot(NodeId(2), Term(2), file.clone());
        let outcome = loop {
            if let Incoming::SnapshotSent { outcome, .. } = one.next().await {
                break outcome;
            }
        };
        if outcome == SnapshotOutcome::Delivered {
            break;
        }
        failures += 1;
        if failures == 5 {
            proxies.iter().for_each(|proxy| proxy.faulty.store(false, Ordering::SeqCst));
        }
    }
    assert_eq!(failures, 5, "3 MiB do not get through a proxy that breaks after 200 kB");
    let received = loop {
        if let Incoming::Snapshot { file, .. } = two.next().await {
            break file;
        }
    };
    let mut bytes = Vec::new();
    two.snapshots.reader(&received).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes == state);
}

#[tokio::test]
async fn a_killed_peer_is_noticed_at_once_and_its_port_is_free_again() {
    let ([mut one, two], _proxies) = real_pair(1).await;
    one.connected().await;
    let before = RealClock.now();
    two.transport.shutdown().await;
    while !matches!(one.next().await, Incoming::Disconnected(_)) {}
    assert!(RealClock.now().since(before) < Duration::from_secs(2));
}

#[tokio::test]
async fn the_loss_of_the_stream_from_a_peer_is_noticed_at_once() {
    let ([mut one, mut two], [to_one, _to_two]) = real_pair(2).await;
    one.connected().await;
    two.connected().await;
    let before = RealClock.now();
    // What two sends comes through here; what one sends goes another way.
    drop(to_one);
    assert_eq!(one.next().await, Incoming::Disconnected(NodeId(2)));
    assert!(RealClock.now().since(before) < Duration::from_secs(2), "not after the idle limit");
    one.transport.send(numbered(1, 2, 5));
    loop {
        if let Incoming::Message(message) = two.next().await {
            assert_eq!(number(&message), 5);
            break;
        }
    }
}

#[tokio::test]
async fn a_port_in_use_and_a_name_that_is_none_are_errors() {
    let listener = RealNet.listen("127.0.0.1:0").await.unwrap();
    let error = RealNet.listen(&listener.local_address()).await.err().expect("taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(RealNet.listen("an address without a port").await.is_err());
    assert!(RealNet.connect("an address without a port").await.is_err());
    let address = listener.local_address();
    drop(listener);
    assert!(RealNet.connect(&address).await.is_err());
    assert!(RealNet.listen(&address).await.is_ok(), "closed with its listener");
}
