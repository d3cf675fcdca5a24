//! Who is a peer: members, those that are leaving, strangers; and what is told of each.

use super::*;
use crate::core::Configuration;
use crate::transport::handshake::{Refusal, STRANGERS_MAX};
use crate::transport::testing::Lines;

fn nobody() -> BTreeSet<NodeId> {
    BTreeSet::new()
}

/// The formed members, and `id` added.
fn with(id: u64) -> Configuration {
    of_members([1, 2, 3, id])
}

/// The formed members, without `id`, which was removed.
fn without(id: u64) -> Configuration {
    let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
    Configuration { removed: [NodeId(id)].into(), ..of_members(others) }
}

impl World {
    /// A node that is not of those the cluster was formed of, and knows itself added.
    async fn added(&self, id: u64) -> Node {
        self.node_with(id, |config| config.configuration = with(id)).await
    }

    async fn refused(&self, hello: &Hello) -> Refusal {
        match self.dial(hello).await {
            Err(DialError::Refused(refusal)) => refusal,
            other => panic!("not refused: {:?}", other.map(|dialled| dialled.answer)),
        }
    }
}

impl Node {
    fn set(&self, configuration: &Configuration) {
        self.set_retaining(configuration, &nobody());
    }

    fn set_retaining(&self, configuration: &Configuration, retain: &BTreeSet<NodeId>) {
        let removed = configuration.removed.clone();
        self.transport.set_members(configuration, &BTreeMap::new(), retain, removed);
    }

    /// What is told of one peer, without waiting.
    async fn told_of(&mut self, peer: u64) -> Vec<Incoming> {
        let mut told = self.gathered().await;
        told.retain(|incoming| match incoming {
            Incoming::Connected(id) | Incoming::Disconnected(id) | Incoming::Unreachable(id) => id.0 == peer,
            Incoming::Message(message) => message.from.0 == peer,
            _ => true,
        });
        told
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_known_yet_is_heard_and_its_first_message_can_be_answered() {
    let world = World::new();
    let mut one = world.node(1).await;
    let mut four = world.added(4).await;
    four.connected(1).await;
    four.transport.send(heartbeat(4, 1, 7));
    assert_eq!(one.message().await, heartbeat(4, 1, 7));
    // At once: there is no second try before the next election.
    one.transport.send(heartbeat(1, 4, 8));
    assert_eq!(four.message().await, heartbeat(1, 4, 8));
    assert_eq!(world.net.wires("n4").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_strangers_messages_wait_until_the_way_back_was_tried() {
    let world = World::new();
    let mut one = world.node(1).await;
    world.net.set_dialling("n4", crate::transport::testing::Dialling::Hangs);
    let mut caller = world.dial(&hello(4, 1)).await.unwrap();
    write(&mut caller, &[heartbeat(4, 1, 1)]).await;
    assert_eq!(one.told_of(4).await, []);
    let before = world.clock.now();
    assert_eq!(one.message().await, heartbeat(4, 1, 1));
    let (waited, limit) = (world.clock.now().since(before), PeerOptions::default().connect_timeout);
    assert!(waited >= limit && waited < limit + Duration::from_millis(10), "and no longer: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_left_or_cannot_be_reached_costs_nothing() {
    let world = World::new();
    let mut one = world.node(1).await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let four = world.added(4).await;
    one.connected(4).await;
    four.transport.shutdown().await;
    drop(four);
    settle().await;
    one.told_of(4).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
    let connects = |of: &str| world.net.wires(of).len();
    let dials = connects("n4");
    crate::clock::sleep(&*world.clock, Duration::from_secs(20)).await;
    assert_eq!((connects("n4"), one.told_of(4).await), (dials, vec![]), "nobody looks for it");

    // Nobody lives where this one says it does; it is heard all the same.
    let mut caller = world.dial(&Hello { address: "nowhere".to_owned(), ..hello(5, 1) }).await.unwrap();
    write(&mut caller, &[heartbeat(5, 1, 1)]).await;
    assert_eq!(one.message().await, heartbeat(5, 1, 1));
    let mut silent = world.dial(&Hello { address: String::new(), ..hello(6, 1) }).await.unwrap();
    write(&mut silent, &[heartbeat(6, 1, 1)]).await;
    assert_eq!(one.message().await, heartbeat(6, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_strangers_are_let_in_and_a_member_always_is() {
    let world = World::new();
    let mut one = world.node(1).await;
    let mut callers = Vec::new();
    for id in 0..STRANGERS_MAX as u64 {
        callers.push(world.dial(&Hello { address: String::new(), ..hello(10 + id, 1) }).await.unwrap());
    }
    settle().await;
    assert_eq!(world.refused(&hello(90, 1)).await, Refusal::Crowded);
    let again = world.dial(&Hello { address: String::new(), ..hello(10, 1) }).await.unwrap();
    callers[0] = again; // Its old stream may be half open.
    settle().await;
    assert_eq!(world.refused(&hello(90, 1)).await, Refusal::Crowded);
    let mut member = world.dial(&hello(2, 1)).await.unwrap();
    write(&mut member, &[heartbeat(2, 1, 1)]).await;
    assert_eq!(one.message().await, heartbeat(2, 1, 1));
    callers.pop();
    settle().await;
    assert!(world.dial(&hello(90, 1)).await.is_ok(), "one left");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_becomes_a_member_keeps_its_streams_and_is_told_of_anew() {
    let world = World::new();
    let mut one = world.node(1).await;
    let mut four = world.added(4).await;
    one.connected(4).await;
    four.connected(1).await;
    assert_eq!(one.told_of(4).await, []);
    one.set(&with(4));
    assert_eq!(
        one.told_of(4).await,
        [Incoming::Connected(NodeId(4))],
        "the event loop may not have cared before"
    );
    assert_eq!((world.net.wires("n4").len(), world.net.wires("n1").len()), (1, 1));
    assert!(!four.told_of(1).await.contains(&Incoming::Disconnected(NodeId(1))));
    // It is a peer now: when its streams break it is looked for.
    four.transport.shutdown().await;
    drop(four);
    one.disconnected(4).await;
    let mut four = world.added(4).await;
    one.connected(4).await;
    one.transport.send(heartbeat(1, 4, 1));
    assert_eq!(four.message().await, heartbeat(1, 4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_leads_keeps_its_way_back() {
    let world = World::new();
    let mut one = world.node(1).await;
    let mut four = world.added(4).await;
    four.connected(1).await;
    four.transport.send(heartbeat(4, 1, 7));
    assert_eq!(one.message().await, heartbeat(4, 1, 7));
    // It leads, by entries that this node does not have yet.
    one.set_retaining(&of_members([1, 2, 3]), &[NodeId(4)].into());
    one.transport.send(heartbeat(1, 4, 8));
    assert_eq!(four.message().await, heartbeat(1, 4, 8));
    // Nor is it let go while it leads the cluster that has removed it.
    let removed = Configuration { removed: [NodeId(4)].into(), ..of_members(1..=3) };
    one.set_retaining(&removed, &[NodeId(4)].into());
    one.transport.send(heartbeat(1, 4, 9));
    assert_eq!(four.message().await, heartbeat(1, 4, 9));
    assert_eq!(world.net.wires("n4").len(), 1);
    one.set(&removed);
    four.disconnected(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_with_another_disk_than_the_member_is_let_go() {
    let world = World::new();
    let one = world.node(1).await;
    let mut caller = world.dial(&Hello { incarnation: 5, ..hello(4, 1) }).await.unwrap();
    settle().await;
    let before = world.clock.now();
    one.set(&with(4));
    hung_up(&mut caller).await;
    assert_eq!(world.clock.now(), before, "at once, not when it has been silent for long");
    let wiped = Hello { incarnation: 5, ..hello(4, 1) };
    assert_eq!(world.refused(&wiped).await, Refusal::WrongIncarnation { expected: 44 });
    assert!(world.dial(&hello(4, 1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_another_disk_now_is_let_go() {
    let world = World::new();
    let (one, _two) = world.pair().await;
    let mut old = world.dial(&hello(3, 1)).await.unwrap();
    let mut other = of_members(1..=3);
    other.nodes.get_mut(&NodeId(3)).unwrap().incarnation = 34;
    let before = world.clock.now();
    one.set(&other);
    hung_up(&mut old).await;
    assert_eq!(world.clock.now(), before, "at once");
    assert_eq!(world.refused(&hello(3, 1)).await, Refusal::WrongIncarnation { expected: 34 });
    assert!(world.dial(&Hello { incarnation: 34, ..hello(3, 1) }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_leaving_is_a_peer_until_it_is_let_go_and_then_told_that_it_was_removed() {
    let (lines, _guard) = Lines::listen();
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    one.set_retaining(&without(2), &[NodeId(2)].into());
    one.transport.send(heartbeat(1, 2, 1));
    assert_eq!(two.message().await, heartbeat(1, 2, 1));
    two.transport.send(heartbeat(2, 1, 2));
    assert_eq!(one.message().await, heartbeat(2, 1, 2));
    assert_eq!((world.net.wires("n1").len(), world.net.wires("n2").len()), (1, 1), "on the same streams");
    // Another disk is not it, though it is leaving.
    let wiped = Hello { incarnation: 5, ..hello(2, 1) };
    assert_eq!(world.refused(&wiped).await, Refusal::WrongIncarnation { expected: 22 });

    one.set(&without(2));
    two.disconnected(1).await;
    assert_eq!(world.refused(&hello(2, 1)).await, Refusal::Removed);
    crate::clock::sleep(&*world.clock, Duration::from_secs(5)).await;
    assert_eq!(lines.with("cannot send to n1 at n1: n2 was removed from the cluster of n1").len(), 1);
    assert_eq!(lines.with("n2 was removed").len(), 2, "both ends say so");
    let by = NodeId(1);
    assert!(two.told_of(1).await.contains(&Incoming::Removed { by }), "the event loop is to know");
    one.transport.send(heartbeat(1, 2, 3));
    assert!(!two.told_of(1).await.iter().any(|told| matches!(told, Incoming::Message(_))));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_that_he_was_removed_before_that_is_committed() {
    let world = World::new();
    let (one, mut two) = world.pair().await;
    // Neither retained nor removed for good: it was to be a member by entries that are not known to be committed.
    one.transport.set_members(&without(2), &BTreeMap::new(), &nobody(), BTreeSet::new());
    two.disconnected(1).await;
    crate::clock::sleep(&*world.clock, Duration::from_secs(5)).await;
    assert!(!two.told_of(1).await.contains(&Incoming::Removed { by: NodeId(1) }));
    assert!(world.dial(&hello(2, 1)).await.is_ok(), "it is a stranger");
}

#[tokio::test(start_paused = true)]
async fn one_whose_addition_was_rolled_back_is_a_stranger_again() {
    let world = World::new();
    let mut one = world.node_with(1, |config| config.configuration = with(4)).await;
    let mut four = world.added(4).await;
    one.connected(4).await;
    four.connected(1).await;
    one.set(&of_members(1..=3));
    four.disconnected(1).await;
    four.connected(1).await;
    four.transport.send(heartbeat(4, 1, 1));
    assert_eq!(one.message().await, heartbeat(4, 1, 1));
    one.transport.send(heartbeat(1, 4, 2));
    assert_eq!(four.message().await, heartbeat(1, 4, 2));
}

#[tokio::test(start_paused = true)]
async fn the_local_address_goes_before_the_one_in_the_configuration() {
    let world = World::new();
    let mut moved = of_members(1..=3);
    moved.nodes.get_mut(&NodeId(2)).unwrap().address = "nowhere".to_owned();
    let mut one = world
        .node_with(1, |config| {
            config.configuration = moved.clone();
            config.overrides = [(NodeId(2), address(2))].into();
        })
        .await;
    let _two = world.node(2).await;
    one.connected(2).await;
    one.told_of(2).await;
    one.set(&moved);
    settle().await;
    let told = one.told_of(2).await;
    assert_eq!(told, [Incoming::Unreachable(NodeId(2)), Incoming::Disconnected(NodeId(2))]);
    one.set(&of_members(1..=3));
    one.connected(2).await;
    assert_eq!(world.net.wires("n2").len(), 2, "dialled anew, each time that the address is another");
    one.set(&of_members(1..=3));
    settle().await;
    assert_eq!(world.net.wires("n2").len(), 2, "and not otherwise");
}

#[tokio::test(start_paused = true)]
async fn a_member_without_an_address_is_heard_and_not_dialled() {
    let world = World::new();
    let mut bare = of_members(1..=2);
    bare.nodes.get_mut(&NodeId(2)).unwrap().address.clear();
    let mut one = world.node_with(1, |config| config.configuration = bare).await;
    let _listener = world.net.listen("n2").await.unwrap();
    let mut caller = world.dial(&hello(2, 1)).await.unwrap();
    write(&mut caller, &[heartbeat(2, 1, 1)]).await;
    assert_eq!(one.message().await, heartbeat(2, 1, 1));
    one.transport.send(heartbeat(1, 2, 1));
    crate::clock::sleep(&*world.clock, Duration::from_secs(5)).await;
    assert_eq!((one.gathered().await, world.net.connects()), (vec![], 1));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_peers_stream_is_told_at_once_and_so_is_its_return() {
    let world = World::new();
    let (mut one, mut two) = world.pair().await;
    let before = world.clock.now();
    // n1's stream to n2 stays; only the one that comes from n2 breaks.
    world.net.wires("n1").last().unwrap().cut();
    assert_eq!(one.told_of(2).await, [Incoming::Disconnected(NodeId(2))]);
    assert_eq!(world.clock.now(), before, "without waiting for anything to pass");
    one.transport.send(heartbeat(1, 2, 1));
    assert_eq!(two.message().await, heartbeat(1, 2, 1), "what can be sent is sent");
    crate::clock::sleep(&*world.clock, PeerOptions::default().backoff_max).await;
    assert_eq!(one.told_of(2).await, [Incoming::Connected(NodeId(2))], "it dialled anew");
    assert_eq!(world.net.wires("n2").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_process_is_told_once() {
    let world = World::new();
    let (mut one, two) = world.pair().await;
    let before = world.clock.now();
    world.net.set_dialling("n2", crate::transport::testing::Dialling::Refused);
    world.net.wires("n1")[0].cut();
    world.net.wires("n2")[0].cut();
    drop(two);
    let told = one.told_of(2).await;
    assert_eq!(world.clock.now(), before);
    assert_eq!(told, [Incoming::Disconnected(NodeId(2)), Incoming::Unreachable(NodeId(2))]);
    crate::clock::sleep(&*world.clock, Duration::from_secs(20)).await;
    assert_eq!(one.told_of(2).await, []);
}

#[tokio::test(start_paused = true)]
async fn anyone_can_ask_who_lives_at_an_address() {
    let world = World::new();
    let _one = world.node(1).await;
    let ask = |at: &'static str, expected: u64| {
        let (clock, net) = (world.clock.clone(), world.net.clone());
        async move { probe(&*clock, &*net, &PeerOptions::default(), NodeId(3), at, NodeId(expected)).await }
    };
    let found = ask("n1", 1).await.unwrap();
    let expected =
        Probe { member: NodeId(1), incarnation: 11, cluster: Some(CLUSTER), empty: false, joining: false };
    assert_eq!(found, expected);
    let error = ask("n1", 2).await.unwrap_err();
    assert!(error.contains("n1 lives at n1, not n2: correct"), "{error}");
    let error = ask("n2", 2).await.unwrap_err();
    assert!(
        error.contains("n2 is not reached at n2: no connection") && error.contains("start it"),
        "{error}"
    );
    world.net.set_dialling("n2", crate::transport::testing::Dialling::Hangs);
    let error = ask("n2", 2).await.unwrap_err();
    assert!(error.contains("no answer in time"), "{error}");
}
