//! Messages: order, bounds, and streams that break in all the ways streams break.

use super::*;
use crate::transport::testing::{Dialling, Lines};

#[tokio::test(start_paused = true)]
async fn messages_arrive_whole_and_in_order_both_ways() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    for i in 0..500 {
        one.transport.send(append(1, 2, i, (i % 97) as usize));
        two.transport.send(append(2, 1, i, (i % 89) as usize));
    }
    for i in 0..500 {
        assert_eq!(two.message().await, append(1, 2, i, (i % 97) as usize));
        assert_eq!(one.message().await, append(2, 1, i, (i % 89) as usize));
    }
}

#[tokio::test(start_paused = true)]
async fn many_messages_go_out_in_few_writes() {
    let world = World::new();
    let (one, mut two) = world.pair().await;
    let before = world.net.wires("n2")[0].written();
    for i in 0..100 {
        one.transport.send(append(1, 2, i, 10));
    }
    for i in 0..100 {
        assert_eq!(two.message().await, append(1, 2, i, 10));
    }
    assert!(world.net.wires("n2")[0].written() > before);
    assert_eq!(world.net.wires("n2")[0].writes(), 2, "the hello, and everything else");
}

#[tokio::test(start_paused = true)]
async fn single_bytes_at_a_time_are_no_trouble() {
    let world = World::new();
    world.net.set_piece_bytes(1);
    let (one, mut two) = world.pair().await;
    for i in 0..50 {
        one.transport.send(append(1, 2, i, 300));
    }
    for i in 0..50 {
        assert_eq!(two.message().await, append(1, 2, i, 300));
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_told_once_and_made_anew() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    for round in 0..5 {
        world.net.wires("n2").last().unwrap().cut();
        assert_eq!(one.next().await, Incoming::Disconnected(NodeId(2)));
        assert_eq!(one.next().await, Incoming::Unreachable(NodeId(2)));
        for i in 0..100 {
            one.transport.send(heartbeat(1, 2, i));
        }
        assert_eq!(outbox_bytes(&one, 2), 0, "what would be stale is not kept");
        assert_eq!(one.next().await, Incoming::Connected(NodeId(2)), "nothing else is told in between");
        one.transport.send(heartbeat(1, 2, 1000 + round));
        assert_eq!(two.message().await, heartbeat(1, 2, 1000 + round), "what was sent meanwhile is gone");
    }
    assert!(one.gathered().await.is_empty());
    assert_eq!(world.net.wires("n1").len(), 1, "the other direction was never touched");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_there_is_unreachable_once_and_found_when_it_comes() {
    let world = World::new();
    let mut one = world.node(1).await;
    let mut told = vec![one.next().await, one.next().await];
    told.sort_by_key(|incoming| format!("{incoming:?}"));
    assert_eq!(told, [Incoming::Unreachable(NodeId(2)), Incoming::Unreachable(NodeId(3))]);
    let before = world.clock.now();
    while world.clock.now().since(before) < Duration::from_secs(60) {
        one.transport.send(heartbeat(1, 2, 0));
        crate::clock::sleep(&*world.clock, Duration::from_secs(1)).await;
    }
    assert!(one.gathered().await.is_empty());
    let attempts = world.net.connects();
    assert!((110..300).contains(&attempts), "{attempts} attempts at two peers in a minute");
    let _two = world.node(2).await;
    one.connected(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_connect_is_given_up_and_tried_again() {
    let world = World::new();
    world.net.set_dialling("n2", Dialling::Hangs);
    let (lines, _guard) = Lines::listen();
    let mut one = world.node(1).await;
    let _two = world.node(2).await;
    one.until(|incoming| *incoming == Incoming::Unreachable(NodeId(2))).await;
    crate::clock::sleep(&*world.clock, Duration::from_secs(60)).await;
    world.net.set_dialling("n2", Dialling::Works);
    one.connected(2).await;
    let logged = lines.with("cannot send to n2 at n2: no connection: no answer in time");
    assert!((1..=3).contains(&logged.len()), "one line in a while: {logged:?}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_peer_is_noticed_while_idle() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    let before = world.clock.now();
    world.net.wires("n2")[0].freeze();
    one.disconnected(2).await;
    let silent = world.clock.now().since(before);
    let idle_max = PeerOptions::default().read_idle_max;
    assert!(silent >= idle_max && silent <= 2 * idle_max, "noticed after {silent:?}");
    one.connected(2).await;
    one.transport.send(heartbeat(1, 2, 1));
    assert_eq!(two.message().await, heartbeat(1, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_peer_is_noticed_while_sending() {
    let world = World::new();
    let (mut one, _two) = world.pair().await;
    world.net.wires("n2")[0].freeze();
    let before = world.clock.now();
    for i in 0..100 {
        one.transport.send(append(1, 2, i, 10_000));
    }
    one.disconnected(2).await;
    let silent = world.clock.now().since(before);
    assert!(silent <= 2 * PeerOptions::default().read_idle_max, "noticed after {silent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_without_a_word_is_noticed_idle_or_busy() {
    for busy in [false, true] {
        let world = World::new();
        let (mut one, _two) = world.pair().await;
        world.net.wires("n2")[0].lose();
        let before = world.clock.now();
        let limit = 2 * PeerOptions::default().read_idle_max;
        while world.clock.now().since(before) < limit {
            if busy {
                one.transport.send(heartbeat(1, 2, 1));
            }
            crate::clock::sleep(&*world.clock, Duration::from_millis(50)).await;
        }
        let told = one.gathered().await;
        assert!(told.contains(&Incoming::Disconnected(NodeId(2))), "busy: {busy}: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_lives_for_ever() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    crate::clock::sleep(&*world.clock, Duration::from_secs(3600)).await;
    let calm = |told: Vec<Incoming>| told.iter().all(|i| matches!(i, Incoming::Unreachable(NodeId(3))));
    assert!(calm(one.gathered().await) && calm(two.gathered().await));
    assert_eq!(world.net.wires("n2").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_stream_is_closed_when_its_peer_dials_anew() {
    let world = World::new();
    let _one = world.node(1).await;
    let mut old = world.dial(&hello(2, 1)).await.unwrap();
    let mut new = world.dial(&hello(2, 1)).await.unwrap();
    hung_up(&mut old).await;
    write(&mut new, &[heartbeat(2, 1, 1)]).await;
    let mut one = _one;
    assert_eq!(one.message().await, heartbeat(2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_silent_sender_is_given_up() {
    let world = World::new();
    let _one = world.node(1).await;
    let mut quiet = world.dial(&hello(2, 1)).await.unwrap();
    let before = world.clock.now();
    hung_up(&mut quiet).await;
    assert!(world.clock.now().since(before) <= 2 * PeerOptions::default().read_idle_max);
}

#[tokio::test(start_paused = true)]
async fn a_long_frame_on_a_slow_line_is_waited_for_and_its_sender_reassured() {
    let world = World::new();
    let mut one = world.node(1).await;
    let mut dialled = world.dial(&hello(2, 1)).await.unwrap();
    let mut out = BytesMut::new();
    encode_frame(&Outgoing::Message(&append(2, 1, 1, 50_000)), u32::MAX, &mut out).unwrap();
    trickle(&world, &mut dialled, &out).await;
    assert_eq!(one.message().await, append(2, 1, 1, 50_000));
    let mut pongs = 0;
    while let Ok(Some(link::Pong::Pong)) = within(LONG, dialled.reader.read()).await {
        pongs += 1;
    }
    assert!(pongs >= 10, "{pongs}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_and_says_so_once() {
    let world = World::new();
    let mut one = world.node_with(1, |config| config.options.queue_messages_max = 10).await;
    let mut two = world.node(2).await;
    one.connected(2).await;
    one.gathered().await;
    for i in 0..1000 {
        one.transport.send(append(1, 2, i, 10));
    }
    one.transport.send(heartbeat(1, 2, 7));
    assert_eq!(two.message().await, heartbeat(1, 2, 7), "a full line of appends does not hold it up");
    for i in 0..10 {
        assert_eq!(two.message().await, append(1, 2, i, 10));
    }
    assert_eq!(one.gathered().await, [Incoming::Unreachable(NodeId(2))]);
    one.transport.send(append(1, 2, 5000, 10));
    assert_eq!(two.message().await, append(1, 2, 5000, 10));
    assert!(one.gathered().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_event_loop_holds_the_sender_back_and_loses_nothing() {
    let world = World::new();
    let one = world.node(1).await;
    let mut two = world
        .node_with(2, |config| {
            config.options.incoming_messages_max = 8;
            config.options.incoming_bytes_max = 4000;
        })
        .await;
    two.connected(1).await;
    let mut one = one;
    one.connected(2).await;
    let total = 2000;
    for i in 0..total {
        one.transport.send(append(1, 2, i, 500));
    }
    settle().await;
    // What left the sender is what fits into the buffers on the way, and not one byte more.
    let moved = world.net.wires("n2")[0].written();
    assert!(moved < 64 * 1024 + 64 * 1024 + 8 * 600, "{moved} bytes left the queue");
    for i in 0..total {
        assert_eq!(two.message().await, append(1, 2, i, 500));
    }
    assert!(one.gathered().await.iter().all(|i| matches!(i, Incoming::Unreachable(NodeId(3)))));
}

#[tokio::test(start_paused = true)]
async fn a_corrupted_byte_anywhere_never_becomes_a_message() {
    let (lines, _guard) = Lines::listen();
    let messages: Vec<Message> = (0..5).map(|i| append(1, 2, i, 50)).collect();
    let mut faults = 0;
    for position in 1..600 {
        let world = World::new();
        let mut two = world.node(2).await;
        world.net.corrupt_next_at(position);
        let wire_before = world.net.wires("n2").len();
        let Ok(mut dialled) = world.dial(&hello(1, 2)).await else {
            faults += 1;
            continue;
        };
        let wire = world.net.wires("n2")[wire_before].clone();
        write(&mut dialled, &messages).await;
        let arrived: Vec<Message> = two
            .gathered()
            .await
            .into_iter()
            .filter_map(|i| if let Incoming::Message(m) = i { Some(m) } else { None })
            .collect();
        assert_eq!(arrived, messages[..arrived.len()], "byte {position}");
        if wire.written() >= position {
            assert!(arrived.len() < messages.len(), "byte {position} was not noticed");
            // Its length may have grown: then the stream waits for the rest, until it is found silent.
            hung_up(&mut dialled).await;
            faults += 1;
        } else {
            assert_eq!(arrived.len(), messages.len());
        }
    }
    assert!(faults > 300, "{faults}");
    assert!(!lines.with("closed the stream of n1").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_of_someone_else_closes_the_stream() {
    let world = World::new();
    let mut two = world.node(2).await;
    let (lines, _guard) = Lines::listen();
    for wrong in [heartbeat(3, 2, 1), heartbeat(1, 3, 1)] {
        let mut dialled = world.dial(&hello(1, 2)).await.unwrap();
        write(&mut dialled, &[heartbeat(1, 2, 1), wrong, heartbeat(1, 2, 2)]).await;
        assert_eq!(two.message().await, heartbeat(1, 2, 1));
        hung_up(&mut dialled).await;
        assert!(!two.gathered().await.iter().any(|i| matches!(i, Incoming::Message(_))));
    }
    let logged = lines.with("closed the stream of n1");
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].contains("a message from n3 to n2"), "{logged:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_can_move_and_leave() {
    let world = World::new();
    let (mut one, two) = world.pair().await;
    two.transport.shutdown().await;
    one.disconnected(2).await;
    let (config, _) = world.config(2);
    let listener = world.net.listen("elsewhere").await.unwrap();
    let (_transport, mut moved) = Transport::start(config, listener);
    let moved_to = [(NodeId(2), "elsewhere".to_owned())].into();
    one.transport.set_members(&of_members(1..=3), &moved_to, &BTreeSet::new(), BTreeSet::new());
    one.connected(2).await;
    one.transport.send(heartbeat(1, 2, 1));
    let mut told = Vec::new();
    while !told.contains(&Incoming::Message(heartbeat(1, 2, 1)))
        || !told.contains(&Incoming::Connected(NodeId(1)))
    {
        told.push(within(LONG, moved.recv()).await.unwrap());
    }

    let (lines, _guard) = Lines::listen();
    let without = Configuration { removed: [NodeId(2)].into(), ..of_members([1, 3]) };
    one.transport.set_members(&without, &BTreeMap::new(), &BTreeSet::new(), [NodeId(2)].into());
    while within(LONG, moved.recv()).await.unwrap() != Incoming::Disconnected(NodeId(1)) {}
    crate::clock::sleep(&*world.clock, Duration::from_secs(5)).await;
    while let Ok(incoming) = moved.try_recv() {
        assert_ne!(incoming, Incoming::Connected(NodeId(1)));
    }
    assert_eq!(lines.with("n2 was removed from the cluster of n1").len(), 2, "both ends say so");
    one.transport.send(heartbeat(1, 2, 2));
    assert!(
        one.gathered()
            .await
            .iter()
            .all(|i| !matches!(i, Incoming::Message(_) | Incoming::Unreachable(NodeId(2))))
    );
}

#[tokio::test(start_paused = true)]
async fn shutdown_leaves_no_task_behind() {
    let world = World::new();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (mut one, two) = world.pair().await;
    let _caller = world.dial(&hello(3, 1)).await.unwrap();
    one.transport.shutdown().await;
    assert!(world.dial(&hello(3, 1)).await.is_err(), "the listener is closed");
    while let Some(incoming) = {
        settle().await;
        one.incoming.try_recv().ok()
    } {
        assert!(!matches!(incoming, Incoming::Message(_)));
    }
    one.transport.send(heartbeat(1, 2, 1));
    one.transport.set_members(&of_members(1..=2), &BTreeMap::new(), &BTreeSet::new(), BTreeSet::new());
    drop(two);
    drop(one);
    settle().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
}
