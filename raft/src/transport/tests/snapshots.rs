//! Snapshots on their own streams.

use std::io::{Read, Write};

use super::*;
use crate::codec::FRAME_HEADER_BYTES;
use crate::core::SnapshotMeta;
use crate::transport::testing::Lines;
use crate::transport::transfer::{FRUITLESS_MAX, FileName, Frame, KEPT_MAX, Reply};

const MIB: usize = 1 << 20;

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last: LogId::new(1, index), configuration: Configuration::of_voters((1..=3).map(NodeId)) }
}

/// Bytes that differ from those of any other seed at every place.
fn state(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i / 251) as u8 ^ seed).collect()
}

fn take_snapshot(node: &Node, index: u64, state: &[u8]) -> SnapshotFile {
    let mut writer = node.snapshots.create(&meta(index)).unwrap();
    writer.write_all(state).unwrap();
    writer.commit().unwrap()
}

fn read_snapshot(node: &Node, file: &SnapshotFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    node.snapshots.reader(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn staged_files(node: &Node) -> usize {
    use crate::disk::Disk;
    node.disk.list(Path::new("/snapshots")).unwrap().iter().filter(|name| name.ends_with(".tmp")).count()
}

impl Node {
    async fn snapshot(&mut self) -> (NodeId, Term, SnapshotFile) {
        match self.until(|i| matches!(i, Incoming::Snapshot { .. })).await {
            Incoming::Snapshot { from, term, file } => (from, term, file),
            other => panic!("{other:?}"),
        }
    }

    async fn sent(&mut self) -> (SnapshotOutcome, LogId) {
        match self.until(|i| matches!(i, Incoming::SnapshotSent { .. })).await {
            Incoming::SnapshotSent { outcome, last, .. } => (outcome, last),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_arrives_whole_and_messages_go_on_beside_it() {
    for bytes in [0, 1, MIB, 9 * MIB + 17] {
        let world = World::new();
        let (mut one, mut two) = world.pair().await;
        let state = state(1, bytes);
        let file = take_snapshot(&one, 40, &state);
        one.transport.send_snapshot(NodeId(2), Term(3), file.clone());
        one.transport.send(heartbeat(1, 2, 9));
        assert_eq!(two.message().await, heartbeat(1, 2, 9));
        let (from, term, received) = two.snapshot().await;
        assert_eq!(
            (from, term, &received.meta, received.bytes),
            (NodeId(1), Term(3), &file.meta, file.bytes)
        );
        assert_eq!(read_snapshot(&two, &received), state);
        assert_eq!(one.sent().await, (SnapshotOutcome::Delivered, LogId::new(1, 40)));
        assert_eq!(two.snapshots.newest(), Some(received));
    }
}

#[tokio::test(start_paused = true)]
async fn delivered_means_durable() {
    let world = World::new();
    let (mut one, two) = world.pair().await;
    let state = state(1, 3 * MIB);
    one.transport.send_snapshot(NodeId(2), Term(3), take_snapshot(&one, 40, &state));
    assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
    let after = two.disk.crash(crate::transport::testing::Unsynced::Lost);
    let snapshots = SnapshotDir::open(Arc::new(after), Path::new("/snapshots"), CLUSTER).unwrap();
    let found = snapshots.newest().expect("it is there after a crash");
    let mut bytes = Vec::new();
    snapshots.reader(&found).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, state);
}

// Rule 2: the disk of the one that receives is no better for being asked again.
#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_while_a_snapshot_is_received_is_told_of() {
    let calls = {
        let world = World::new();
        let (mut one, mut two) = world.pair().await;
        let before = two.disk.calls();
        one.transport.send_snapshot(NodeId(2), Term(3), take_snapshot(&one, 40, &state(1, 2 * MIB)));
        two.snapshot().await;
        assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
        two.disk.calls() - before
    };
    assert!(calls > 5, "{calls}");
    for k in 0..calls {
        let world = World::new();
        let (mut one, mut two) = world.pair().await;
        let file = take_snapshot(&one, 40, &state(1, 2 * MIB));
        two.disk.fail_after(k);
        one.transport.send_snapshot(NodeId(2), Term(3), file);
        let told = two.until(|i| matches!(i, Incoming::DiskFailed(_) | Incoming::Snapshot { .. })).await;
        assert!(matches!(told, Incoming::DiskFailed(_)), "call {k}: {told:?}");
        assert_eq!(one.sent().await.0, SnapshotOutcome::Failed, "call {k}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_does_not_fit_is_not_begun() {
    let world = World::new();
    let mut one = world.node(1).await;
    let mut two = world.node_with(2, |config| config.options.free_bytes_min = 1 << 40).await;
    one.connected(2).await;
    two.connected(1).await;
    let before = two.disk.calls();
    one.transport.send_snapshot(NodeId(2), Term(3), take_snapshot(&one, 40, &state(1, MIB)));
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed);
    settle().await;
    assert_eq!(two.disk.calls(), before, "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn a_break_in_the_middle_fails_and_the_next_attempt_sends_only_the_rest() {
    for (cut_at, kept) in [(1, 0), (100, 0), (MIB / 2, 1), (2 * MIB, 2), (4 * MIB, 4)] {
        let world = World::new();
        let (mut one, mut two) = world.pair().await;
        let state = state(1, 5 * MIB);
        let file = take_snapshot(&one, 40, &state);
        world.net.cut_next_at(cut_at as u64);
        one.transport.send_snapshot(NodeId(2), Term(3), file.clone());
        assert_eq!(one.sent().await, (SnapshotOutcome::Failed, LogId::new(1, 40)));
        settle().await;
        assert_eq!(
            (staged_files(&two), two.snapshots.newest()),
            (usize::from(kept > 0), None),
            "cut at {cut_at}"
        );

        one.transport.send_snapshot(NodeId(2), Term(4), file.clone());
        assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
        let (_, term, received) = two.snapshot().await;
        assert_eq!((term, read_snapshot(&two, &received)), (Term(4), state));
        settle().await;
        assert_eq!(staged_files(&two), 0);
        let rest = world.net.wires("n2")[2].written();
        let missing = file.bytes - (kept.max(1) - 1) * MIB as u64;
        assert!(rest < missing + 10_000, "{rest} bytes sent where {missing} were missing, cut at {cut_at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_again_and_again_delivers_in_the_end() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    let state = state(1, 7 * MIB + 5);
    let file = take_snapshot(&one, 40, &state);
    let mut attempts = 0;
    loop {
        attempts += 1;
        world.net.cut_next_at(2 * MIB as u64);
        one.transport.send_snapshot(NodeId(2), Term(3), file.clone());
        if one.sent().await.0 == SnapshotOutcome::Delivered {
            break;
        }
        assert!(attempts < 10);
    }
    assert!(attempts > 3, "{attempts}");
    let (_, _, received) = two.snapshot().await;
    assert_eq!(read_snapshot(&two, &received), state);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_being_written_when_the_stream_ends_is_not_lost() {
    let world = World::new();
    let mut one = world.node(1).await;
    let delay = Some(Duration::from_millis(100));
    let mut two = world.node_with(2, |config| config.blocking = Arc::new(Inline { delay })).await;
    one.connected(2).await;
    let state = state(1, 6 * MIB);
    let file = take_snapshot(&one, 40, &state);
    one.transport.send_snapshot(NodeId(2), Term(3), file.clone());
    // The receiver has opened its file and taken three frames; the lane is at work on the fourth.
    crate::clock::sleep(&*world.clock, Duration::from_millis(450)).await;
    one.transport.send_snapshot(NodeId(2), Term(3), file);
    assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
    let (_, _, received) = two.snapshot().await;
    assert_eq!(read_snapshot(&two, &received), state);
    let rest = world.net.wires("n2")[2].written() / MIB as u64;
    assert_eq!(rest, 3, "MiB were missing: of the first four frames, one was the header");
}

/// Offers the first chunks of a transfer by hand; where the receiver wanted to begin.
async fn begin(world: &World, from: u64, frames: &[Frame]) -> u64 {
    let mut dialled = world.dial(&Hello { purpose: Purpose::Snapshot, ..hello(from, 2) }).await.unwrap();
    let mut out = BytesMut::new();
    for frame in frames {
        encode_frame(frame, u32::MAX, &mut out).unwrap();
    }
    let (mut written, mut asked) = (0, None);
    while asked.is_none() || written < out.len() {
        tokio::select! {
            biased;
            reply = within(LONG, dialled.reader.read::<Reply>()) => {
                if let Some(Reply::From { chunk, .. }) = reply.unwrap() {
                    asked = Some(chunk);
                }
            }
            n = dialled.writer.write(&out[written..]), if written < out.len() => written += n.unwrap(),
        }
    }
    drop(dialled);
    settle().await;
    asked.unwrap()
}

/// The frames again, as another transfer.
fn renumbered(frames: &[Frame], transfer: u64) -> Vec<Frame> {
    let mut frames = frames.to_vec();
    for frame in &mut frames {
        match frame {
            Frame::Begin { transfer: t, .. }
            | Frame::Chunk { transfer: t, .. }
            | Frame::End { transfer: t, .. } => {
                *t = transfer;
            }
            Frame::Ping => {}
        }
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn only_the_same_file_of_the_same_sender_is_gone_on_with() {
    let world = World::new();
    let one = world.node(1).await;
    let two = world.node(2).await;
    let good = frames(&one, 40, 7, 3 * MIB);
    let longer = frames(&world.node(1).await, 40, 8, 4 * MIB);
    // Of the same entries, of the same length, and yet other bytes.
    let other = World::new().node(1).await;
    let file = take_snapshot(&other, 40, &state(99, 3 * MIB));
    let mut forged = good[..3].to_vec();
    forged[0] = Frame::Begin { transfer: 9, term: Term(3), file: FileName::of(&file) };
    for (who, what, frames) in [
        (1, "another length", &renumbered(&longer[..1], 8)),
        (1, "other bytes", &renumbered(&forged[..1], 9)),
        (3, "another sender", &renumbered(&good[..1], 10)),
    ] {
        assert_eq!(begin(&world, 1, &good[..3]).await, 0);
        assert_eq!(begin(&world, who, frames).await, 0, "{what}");
        assert_eq!(staged_files(&two), 0, "{what}: what is of no use any more is thrown away");
    }
    assert_eq!(begin(&world, 1, &good[..3]).await, 0);
    assert_eq!(begin(&world, 1, &renumbered(&good[..1], 11)).await, 2);
    // From another snapshot's chunk it does not follow.
    let mixed = [renumbered(&good[..1], 12), renumbered(&frames(&other, 41, 0, 3 * MIB)[3..4], 12)].concat();
    assert!(failed(&offer(&world, &mixed).await).contains("checksum is wrong"));
    settle().await;
    assert_eq!(staged_files(&two), 0, "nor is there anything to go on with after that");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_thrown_away_after_a_while() {
    let world = World::new();
    let one = world.node(1).await;
    let two = world.node(2).await;
    let good = frames(&one, 40, 7, 3 * MIB);
    assert_eq!(begin(&world, 1, &good[..3]).await, 0);
    crate::clock::sleep(&*world.clock, KEPT_MAX / 2).await;
    assert_eq!(begin(&world, 1, &renumbered(&good[..1], 8)).await, 2);
    crate::clock::sleep(&*world.clock, KEPT_MAX * 2 / 3).await;
    assert_eq!(staged_files(&two), 1, "counted from the last time");
    crate::clock::sleep(&*world.clock, KEPT_MAX / 2).await;
    assert_eq!(staged_files(&two), 0);
    assert_eq!(begin(&world, 1, &renumbered(&good[..1], 9)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn going_on_in_vain_ends_in_beginning_anew() {
    let world = World::new();
    let one = world.node(1).await;
    let _two = world.node(2).await;
    let good = frames(&one, 40, 7, 3 * MIB);
    assert_eq!(begin(&world, 1, &good[..3]).await, 0);
    for attempt in 0..=u64::from(FRUITLESS_MAX) {
        assert_eq!(begin(&world, 1, &renumbered(&good[..1], 8 + attempt)).await, 2);
    }
    assert_eq!(begin(&world, 1, &renumbered(&good[..1], 100)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn all_transfers_together_keep_to_the_rate_and_messages_do_not_wait() {
    let world = World::new();
    let mut one = world.node_with(1, |config| config.options.snapshot_bytes_per_second = MIB as u64).await;
    let (mut two, mut three) = (world.node(2).await, world.node(3).await);
    one.connected(3).await;
    two.connected(1).await;
    let state = state(1, 10 * MIB);
    let file = take_snapshot(&one, 40, &state);
    let before = world.clock.now();
    one.transport.send_snapshot(NodeId(2), Term(3), file.clone());
    one.transport.send_snapshot(NodeId(3), Term(3), file);
    for round in 0..10 {
        let sent = world.clock.now();
        one.transport.send(heartbeat(1, 2, round));
        assert_eq!(two.message().await, heartbeat(1, 2, round));
        assert_eq!(world.clock.now(), sent, "a message waits for nothing");
        crate::clock::sleep(&*world.clock, Duration::from_millis(500)).await;
    }
    let moved: u64 = ["n2", "n3"].iter().map(|of| world.net.wires(of).last().unwrap().written()).sum();
    assert!((3..=7).contains(&(moved / MIB as u64)), "{moved} bytes in five seconds");
    for _ in 0..2 {
        assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
    }
    let took = world.clock.now().since(before);
    assert!(took >= Duration::from_secs(19) && took < Duration::from_secs(23), "{took:?}");
    for node in [&mut two, &mut three] {
        let (_, _, received) = node.snapshot().await;
        assert_eq!(read_snapshot(node, &received), state);
    }
}

#[tokio::test(start_paused = true)]
async fn no_rate_is_no_wait() {
    let world = World::new();
    let mut one = world.node(1).await;
    let _two = world.node(2).await;
    let file = take_snapshot(&one, 40, &state(1, 20 * MIB));
    let before = world.clock.now();
    one.transport.send_snapshot(NodeId(2), Term(3), file);
    assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
    assert_eq!(world.clock.now(), before);
}

#[tokio::test(start_paused = true)]
async fn chunks_of_a_broken_transfer_never_get_into_the_next_one() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    let file = take_snapshot(&one, 40, &state(1, 6 * MIB));
    world.net.cut_next_at(3 * MIB as u64);
    one.transport.send_snapshot(NodeId(2), Term(3), file);
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed);
    let newer = state(2, 6 * MIB);
    let file = take_snapshot(&one, 50, &newer);
    one.transport.send_snapshot(NodeId(2), Term(3), file);
    assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
    let (_, _, received) = two.snapshot().await;
    assert!(read_snapshot(&two, &received) == newer, "the state is a mixture");
}

/// A transfer by hand: what a node says to these frames.
async fn offer(world: &World, frames: &[Frame]) -> Vec<Reply> {
    let mut dialled = world.dial(&Hello { purpose: Purpose::Snapshot, ..hello(1, 2) }).await.unwrap();
    dialled.reader.set_frame_bytes_max(u32::MAX);
    let mut out = BytesMut::new();
    for frame in frames {
        encode_frame(frame, u32::MAX, &mut out).unwrap();
    }
    let mut replies = Vec::new();
    let (mut written, mut open) = (0, true);
    while open {
        tokio::select! {
            biased;
            reply = within(LONG, dialled.reader.read::<Reply>()) => match reply {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) | Err(_) => open = false,
            },
            n = dialled.writer.write(&out[written..]), if written < out.len() => written += n.unwrap_or(out.len()),
        }
    }
    replies
}

/// The frames of a transfer of a snapshot that `node` takes.
fn frames(node: &Node, index: u64, transfer: u64, bytes: usize) -> Vec<Frame> {
    let file = take_snapshot(node, index, &state(index as u8, bytes));
    let mut chunks = node.snapshots.chunks(&file).unwrap();
    let mut frames = vec![Frame::Begin { transfer, term: Term(3), file: FileName::of(&file) }];
    while let Some(bytes) = chunks.next_chunk().unwrap() {
        frames.push(Frame::Chunk { transfer, number: frames.len() as u64 - 1, bytes });
    }
    frames.push(Frame::End { transfer, chunks: frames.len() as u64 - 1 });
    frames
}

fn failed(replies: &[Reply]) -> &str {
    match replies.last() {
        Some(Reply::Failed { why, .. }) => why,
        other => panic!("not failed: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_frames_end_the_transfer() {
    let world = World::new();
    let one = world.node(1).await;
    let mut two = world.node(2).await;
    let good = frames(&one, 40, 7, 3 * MIB);
    let other = frames(&one, 41, 8, 3 * MIB);
    let change = |at: usize, frame: Frame| {
        let mut frames = good.clone();
        frames[at] = frame;
        frames
    };
    let Frame::Chunk { bytes, .. } = &good[2] else { panic!("{:?}", good[2]) };
    let mut bent = bytes.to_vec();
    bent[1000] ^= 1;
    let Frame::Chunk { bytes: foreign, .. } = &other[2] else { panic!() };
    let cases = [
        (change(2, other[2].clone()), "of transfer 8 within Some(7)"),
        (change(2, Frame::Chunk { transfer: 7, number: 1, bytes: foreign.clone() }), "checksum is wrong"),
        (change(2, Frame::Chunk { transfer: 7, number: 1, bytes: bent.into() }), "checksum is wrong"),
        (change(2, good[3].clone()), "chunk 2 where 1 was expected"),
        (change(3, good[2].clone()), "chunk 1 where 2 was expected"),
        (change(2, good[0].clone()), "a second beginning"),
        (change(3, Frame::End { transfer: 7, chunks: 2 }), "not complete"),
        (change(3, Frame::End { transfer: 7, chunks: 9 }), "chunk 9 where 2"),
        (good[1..].to_vec(), "no beginning"),
        (change(0, other[0].clone()), "of transfer 7 within Some(8)"),
    ];
    for (frames, words) in cases {
        let replies = offer(&world, &frames).await;
        assert!(failed(&replies).contains(words), "{words}: {replies:?}");
        assert!(!replies.iter().any(|reply| matches!(reply, Reply::Delivered { .. })));
        settle().await;
        assert_eq!((staged_files(&two), two.snapshots.newest()), (0, None), "{words}");
    }
    let replies = offer(&world, &good).await;
    assert_eq!(replies.last(), Some(&Reply::Delivered { transfer: 7 }));
    assert_eq!(two.snapshot().await.2.meta, meta(40));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_does_not_come_is_waited_for_only_so_long() {
    let world = World::new();
    let one = world.node(1).await;
    let two = world.node(2).await;
    let begun = &frames(&one, 40, 7, 3 * MIB)[..3];
    let before = world.clock.now();
    assert!(failed(&offer(&world, begun).await).contains("silent"));
    assert!(world.clock.now().since(before) <= 2 * PeerOptions::default().read_idle_max);
    settle().await;
    assert_eq!(staged_files(&two), 1, "it may still come, on another stream");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_comes_slowly_is_waited_for() {
    let world = World::new();
    let one = world.node(1).await;
    let mut two = world.node(2).await;
    let mut dialled = world.dial(&Hello { purpose: Purpose::Snapshot, ..hello(1, 2) }).await.unwrap();
    let mut out = BytesMut::new();
    for frame in frames(&one, 40, 7, 3000) {
        encode_frame(&frame, u32::MAX, &mut out).unwrap();
    }
    trickle(&world, &mut dialled, &out).await;
    let mut reply = Reply::Progress { transfer: 0, chunks: 0 };
    while let Reply::From { .. } | Reply::Progress { .. } = reply {
        reply = within(LONG, dialled.reader.read::<Reply>()).await.unwrap().unwrap();
    }
    assert_eq!(reply, Reply::Delivered { transfer: 7 });
    assert_eq!(two.snapshot().await.2.meta, meta(40));
}

#[tokio::test(start_paused = true)]
async fn a_newer_transfer_takes_the_place_of_an_older_one_but_not_the_other_way() {
    let world = World::new();
    let one = world.node(1).await;
    let mut two = world.node(2).await;
    let old = frames(&one, 40, 7, 3 * MIB);
    let begun = offer(&world, &old[..3]);
    let new = async {
        settle().await;
        let mut stale = frames(&one, 50, 8, MIB);
        if let Frame::Begin { term, .. } = &mut stale[0] {
            *term = Term(2);
        }
        let replies = offer(&world, &stale).await;
        assert!(failed(&replies).contains("term 3 is under way"), "{replies:?}");
        assert_eq!(staged_files(&two), 1, "the current one goes on");
        offer(&world, &frames(&one, 60, 9, MIB)).await
    };
    let (begun, new) = tokio::join!(begun, new);
    assert!(failed(&begun).contains("took its place"), "{begun:?}");
    assert_eq!(new.last(), Some(&Reply::Delivered { transfer: 9 }));
    assert_eq!(two.snapshot().await.2.meta, meta(60));
    settle().await;
    assert_eq!(staged_files(&two), 0);
}

#[tokio::test(start_paused = true)]
async fn a_newer_order_takes_the_place_of_an_older_one_of_which_nothing_more_is_heard() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    let first = take_snapshot(&one, 40, &state(1, 30 * MIB));
    one.transport.send_snapshot(NodeId(2), Term(3), first);
    while world.net.wires("n2").get(1).is_none_or(|wire| wire.written() < MIB as u64) {
        tokio::task::yield_now().await;
    }
    let newer = state(2, 2 * MIB);
    let second = take_snapshot(&one, 50, &newer);
    one.transport.send_snapshot(NodeId(2), Term(3), second);
    // Not of the first one's end: the core would begin the second anew, which would end the second, and so on.
    assert_eq!(one.sent().await, (SnapshotOutcome::Delivered, LogId::new(1, 50)));
    let (_, _, received) = two.snapshot().await;
    assert_eq!(read_snapshot(&two, &received), newer);
}

#[tokio::test(start_paused = true)]
async fn two_peers_get_snapshots_at_the_same_time() {
    let world = World::new();
    let mut one = world.node(1).await;
    let (mut two, mut three) = (world.node(2).await, world.node(3).await);
    let state = state(1, 5 * MIB);
    let file = take_snapshot(&one, 40, &state);
    one.transport.send_snapshot(NodeId(2), Term(3), file.clone());
    one.transport.send_snapshot(NodeId(3), Term(3), file);
    for _ in 0..2 {
        assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered);
    }
    for node in [&mut two, &mut three] {
        let (_, _, received) = node.snapshot().await;
        assert_eq!(read_snapshot(node, &received), state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_on_either_side_is_not_taken_for_death() {
    let idle_max = PeerOptions::default().read_idle_max;
    for slow in [1, 2] {
        let world = World::new();
        let lane = |id: u64| Arc::new(Inline { delay: (id == slow).then_some(idle_max * 3) });
        let mut one = world.node_with(1, |config| config.blocking = lane(1)).await;
        let mut two = world.node_with(2, |config| config.blocking = lane(2)).await;
        let state = state(1, 6 * MIB);
        let file = take_snapshot(&one, 40, &state);
        one.transport.send_snapshot(NodeId(2), Term(3), file);
        assert_eq!(one.sent().await.0, SnapshotOutcome::Delivered, "node {slow} has the slow disk");
        let (_, _, received) = two.snapshot().await;
        assert_eq!(read_snapshot(&two, &received), state);
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_receiver_fails_the_transfer() {
    let world = World::new();
    let (mut one, _two) = world.pair().await;
    one.transport.send_snapshot(NodeId(2), Term(3), take_snapshot(&one, 40, &state(1, 8 * MIB)));
    while world.net.wires("n2").len() < 2 {
        tokio::task::yield_now().await;
    }
    world.net.wires("n2")[1].freeze();
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_window_is_under_way() {
    let world = World::new();
    let mut listener = world.net.listen("n2").await.unwrap();
    let mut one = world.node(1).await;
    let _messages = listener.accept().await.unwrap();
    one.transport.send_snapshot(NodeId(2), Term(3), take_snapshot(&one, 40, &state(1, 12 * MIB)));
    let (stream, _) = listener.accept().await.unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = crate::codec::FrameReader::new(reader, u32::MAX);
    reader.read_body().await.unwrap().expect("the hello");
    let member = NodeId(2);
    let accept = handshake::Answer::Accept { protocol: 1, cluster: CLUSTER, member, incarnation: 22 };
    handshake::write_answer(&mut writer, &accept).await.unwrap();
    // It takes everything, and acknowledges nothing.
    let Ok(Some(Frame::Begin { transfer, .. })) = reader.read::<Frame>().await else {
        panic!("no beginning")
    };
    let mut out = BytesMut::new();
    encode_frame(&Reply::From { transfer, chunk: 0 }, u32::MAX, &mut out).unwrap();
    writer.write_all(&out).await.unwrap();
    let mut chunks = 0;
    while let Ok(Some(frame)) = within(LONG, reader.read::<Frame>()).await {
        chunks += u64::from(matches!(frame, Frame::Chunk { .. }));
    }
    assert_eq!(chunks, crate::transport::transfer::WINDOW);
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed);
}

#[tokio::test(start_paused = true)]
async fn every_order_is_answered() {
    let (lines, _guard) = Lines::listen();
    let world = World::new();
    let mut one = world.node(1).await;
    let file = take_snapshot(&one, 40, b"small");
    one.transport.send_snapshot(NodeId(2), Term(3), file.clone());
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed, "n2 is not there");
    assert_eq!(lines.with("snapshot 40@1 did not reach n2: no connection").len(), 1);
    one.transport.send_snapshot(NodeId(9), Term(3), file.clone());
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed, "n9 is not a peer");
    let _two = world.node(2).await;
    one.disk.plant(file.path(), b"not a snapshot");
    one.transport.send_snapshot(NodeId(2), Term(3), file);
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed, "the file is damaged");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_at_the_receiver_fails_the_transfer_and_says_why() {
    let (lines, _guard) = Lines::listen();
    let world = World::new();
    let (mut one, two) = world.pair().await;
    two.disk.fail_after(4);
    one.transport.send_snapshot(NodeId(2), Term(3), take_snapshot(&one, 40, &state(1, 6 * MIB)));
    assert_eq!(one.sent().await.0, SnapshotOutcome::Failed);
    assert!(two.disk.has_failed());
    assert_eq!(lines.with("the receiver could not take it").len(), 1);
}

#[test]
fn a_chunk_fits_into_the_default_frame() {
    let chunk = crate::snapshot::FRAME_BYTES_MAX + FRAME_HEADER_BYTES + 64;
    assert!((PeerOptions::default().frame_bytes_max as usize) > chunk);
}
