//! Who is let in, who is not, and what strangers can do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::BoxStream;
use crate::transport::handshake::{HELLO_BYTES_MAX, Refusal, encode_hello};
use crate::transport::testing::Lines;

async fn refusal(world: &World, hello: &Hello) -> Refusal {
    match world.dial(hello).await {
        Err(DialError::Refused(refusal)) => refusal,
        Err(error) => panic!("not refused but {error}"),
        Ok(dialled) => panic!("not refused but {:?}", dialled.answer),
    }
}

async fn raw(world: &World, to: &str) -> BoxStream {
    world.net.connect(to).await.unwrap()
}

/// Reads to the end; the answer, if there was one.
async fn rest(mut stream: BoxStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within(LONG, stream.read_to_end(&mut bytes)).await;
    bytes
}

#[tokio::test(start_paused = true)]
async fn each_mismatch_is_refused_and_named() {
    let world = World::new();
    let mut one = world.node_with(1, |config| config.removed = [NodeId(9)].into()).await;
    let (lines, _guard) = Lines::listen();
    let cases = [
        (
            Hello { cluster: Some(78), ..hello(2, 1) },
            Refusal::WrongCluster { cluster: CLUSTER },
            "n1 is in cluster",
        ),
        (Hello { member: NodeId(9), ..hello(2, 1) }, Refusal::Removed, "n9 was removed"),
        (
            Hello {
                member: NodeId(7),
                purpose: Purpose::Formation { listed: BTreeSet::new() },
                ..hello(2, 1)
            },
            Refusal::UnknownMember,
            "n7 is not a member",
        ),
        (
            Hello { incarnation: 5, ..hello(3, 1) },
            Refusal::WrongIncarnation { expected: 33 },
            "n3 has not the disk",
        ),
    ];
    for (hello, expected, words) in cases {
        for _ in 0..3 {
            assert_eq!(refusal(&world, &hello).await, expected);
        }
        let logged = lines.with(words);
        assert_eq!(logged.len(), 1, "one line, not one for every attempt: {logged:?}");
        assert!(logged[0].starts_with("WARN"), "{logged:?}");
    }
    let misdirected = Hello { to: NodeId(3), ..hello(2, 1) };
    let options = PeerOptions::default();
    let refused = dial(&*world.clock, &*world.net, "n1", &misdirected, &options).await;
    assert!(matches!(refused, Err(DialError::Refused(Refusal::WrongMember { member: NodeId(1) }))));
    assert!(!one.gathered().await.iter().any(|i| matches!(i, Incoming::Message(_) | Incoming::Connected(_))));
}

#[tokio::test(start_paused = true)]
async fn another_version_is_told_which_ones_are_spoken_here() {
    let world = World::new();
    let _one = world.node(1).await;
    let (lines, _guard) = Lines::listen();
    let mut stream = raw(&world, "n1").await;
    let mut out = BytesMut::new();
    let magic = u64::from_be_bytes(*b"raftkvpr");
    encode_frame(&(magic, 7u16, 9u16, "a hello of the future"), HELLO_BYTES_MAX, &mut out).unwrap();
    stream.write_all(&out).await.unwrap();
    let (reader, _writer) = tokio::io::split(stream);
    let mut reader = crate::codec::FrameReader::new(reader, HELLO_BYTES_MAX);
    let answer = reader.read::<handshake::Answer>().await.unwrap().unwrap();
    assert_eq!(answer, handshake::Answer::Refuse(Refusal::Version { min: 1, max: 1 }));
    assert_eq!(lines.with("protocol versions 7 to 9").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn both_ends_log_what_is_wrong_and_how_to_mend_it() {
    let (lines, _guard) = Lines::listen();
    let world = World::new();
    let _one = world.node(1).await;
    let _two = world
        .node_with(2, |config| {
            let record = ClusterRecord { cluster: 78, ..record() };
            config.identity.cluster = Some(record);
        })
        .await;
    crate::clock::sleep(&*world.clock, Duration::from_secs(20)).await;
    for line in [
        "cannot send to n2 at n2: n2 is in cluster",
        "refused messages from n2 at",
        "refused messages from n1 at",
        "cannot send to n1 at n1: n1 is in cluster",
    ] {
        let logged = lines.with(line);
        assert_eq!(logged.len(), 1, "{line}: {logged:?}");
        assert!(logged[0].contains("data directory"), "{logged:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn swapped_addresses_are_noticed_by_the_dialler() {
    let (lines, _guard) = Lines::listen();
    let world = World::new();
    let mut one = world
        .node_with(1, |config| {
            config.overrides.insert(NodeId(2), address(3));
        })
        .await;
    let _three = world.node(3).await;
    one.connected(3).await;
    crate::clock::sleep(&*world.clock, Duration::from_secs(5)).await;
    assert_eq!(lines.with("n1 dialled n2, but n3 lives at that address: correct the address of n2").len(), 2);
    assert!(!one.gathered().await.contains(&Incoming::Connected(NodeId(2))));
}

#[tokio::test(start_paused = true)]
async fn who_answers_as_someone_else_gets_nothing() {
    let accept = |cluster, member, incarnation| handshake::Answer::Accept {
        protocol: 1,
        cluster,
        member: NodeId(member),
        incarnation,
    };
    let answers = [
        (accept(CLUSTER, 2, 22), "connected"),
        (accept(78, 2, 22), "it is in cluster"),
        (accept(CLUSTER, 3, 33), "n3 lives at that address"),
        (accept(CLUSTER, 2, 23), "it is not the n2 that joined"),
        (handshake::Answer::Formed(record()), "not asked"),
    ];
    for (answer, words) in answers {
        let (lines, _guard) = Lines::listen();
        let world = World::new();
        let mut listener = world.net.listen("n2").await.unwrap();
        let mut one = world.node_with(1, |config| config.configuration = of_members(1..=2)).await;
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = crate::codec::FrameReader::new(reader, HELLO_BYTES_MAX);
        assert!(reader.read_body().await.unwrap().is_some(), "the hello");
        handshake::write_answer(&mut writer, &answer).await.unwrap();
        let told = one.next().await;
        if words == "connected" {
            assert_eq!(told, Incoming::Connected(NodeId(2)));
            continue;
        }
        assert_eq!(told, Incoming::Unreachable(NodeId(2)));
        assert!(reader.read_body().await.unwrap().is_none(), "closed without a message");
        assert_eq!(lines.with(words).len(), 1, "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_its_connection_and_nothing_else() {
    let world = World::new();
    let (one, mut two) = world.pair().await;
    let (lines, _guard) = Lines::listen();
    let mut hello_bytes = BytesMut::new();
    encode_hello(&hello(3, 2), &mut hello_bytes).unwrap();
    let mut oversized = BytesMut::from(&hello_bytes[..]);
    oversized[2] = 1;
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        &[0; 4096],
        &[0xff; 4096],
        &oversized,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[3, 0, 0, 0],
    ];
    for (i, bytes) in garbage.into_iter().enumerate() {
        let mut stream = raw(&world, "n2").await;
        let _ = stream.write_all(bytes).await;
        assert!(rest(stream).await.is_empty(), "{i}: a stranger hears nothing");
        one.transport.send(heartbeat(1, 2, i as u64));
        assert_eq!(two.message().await, heartbeat(1, 2, i as u64));
    }
    let logged = [lines.with("it sent no hello of a member"), lines.with("no hello in time")].concat();
    assert_eq!(logged.len(), 2, "a line for garbage, one for silence: {logged:?}");
    assert_eq!(world.net.wires("n2").len(), 1 + 6, "n1's stream is the one it was");
}

#[tokio::test(start_paused = true)]
async fn half_a_hello_and_a_slow_one_run_into_the_deadline() {
    let world = World::new();
    let _one = world.node(1).await;
    let mut bytes = BytesMut::new();
    encode_hello(&hello(2, 1), &mut bytes).unwrap();
    let limit = PeerOptions::default().handshake_timeout;

    let mut half = raw(&world, "n1").await;
    half.write_all(&bytes[..bytes.len() / 2]).await.unwrap();
    let before = world.clock.now();
    assert!(rest(half).await.is_empty());
    let waited = world.clock.now().since(before);
    assert!(waited >= limit && waited < limit * 2, "{waited:?}");

    let mut slow = raw(&world, "n1").await;
    let mut sent = 0;
    for byte in bytes.iter() {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        sent += 1;
        crate::clock::sleep(&*world.clock, limit / 10).await;
    }
    assert!(sent <= 12, "{sent} bytes were taken at a tenth of the deadline each");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_strangers_are_heard_at_a_time() {
    let world = World::new();
    let mut one = world.node_with(1, |config| config.options.handshakes_max = 4).await;
    let (lines, _guard) = Lines::listen();
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(raw(&world, "n1").await);
    }
    settle().await;
    for _ in 0..20 {
        assert!(rest(raw(&world, "n1").await).await.is_empty());
    }
    assert_eq!(lines.with("too many have not said yet who they are").len(), 1);
    // Their deadline makes room again.
    crate::clock::sleep(&*world.clock, PeerOptions::default().handshake_timeout * 2).await;
    let mut peer = world.dial(&hello(2, 1)).await.unwrap();
    write(&mut peer, &[heartbeat(2, 1, 1)]).await;
    assert_eq!(one.message().await, heartbeat(2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_oversized_frame_of_a_peer_closes_its_stream() {
    let world = World::new();
    let mut one = world.node_with(1, |config| config.options.frame_bytes_max = 10_000).await;
    let mut peer = world.dial(&hello(2, 1)).await.unwrap();
    write(&mut peer, &[append(2, 1, 1, 9000)]).await;
    assert_eq!(one.message().await, append(2, 1, 1, 9000));
    write(&mut peer, &[append(2, 1, 2, 11_000)]).await;
    hung_up(&mut peer).await;
}
