//! Clusters that form, or do not, in a network in memory and on disks that crash.

use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::clock::{BoxFuture, Clock};
use crate::core::Configuration;
use crate::identity::{IDENTITY_FILE, load, open};
use crate::net::Net;
use crate::transport::testing::{CrashDisk, Dialling, Inline, Lines, PausedClock, TestNet, Unsynced, within};
use crate::transport::{IncomingReceiver, Transport, TransportConfig, probe};

const DIR: &str = "/var/raftkv";
const LONG: Duration = Duration::from_secs(120);

struct World {
    net: Arc<TestNet>,
    clock: Arc<PausedClock>,
    /// Every start gets another one.
    seed: u64,
}

/// What a node has become after its start.
struct Formed {
    identity: Identity,
    // Answers those who ask later.
    transport: (Transport, IncomingReceiver),
}

impl Formed {
    /// The node's configuration is from now on the one the cluster began with, changed by `change`.
    fn configure(&self, change: impl FnOnce(&mut Configuration)) {
        let mut configuration = self.identity.cluster.as_ref().expect("formed").configuration();
        change(&mut configuration);
        let removed = configuration.removed.clone();
        self.transport.0.set_members(&configuration, &BTreeMap::new(), &BTreeSet::new(), removed);
    }
}

impl World {
    fn new() -> Self {
        Self { net: Arc::new(TestNet::default()), clock: PausedClock::new(), seed: 0 }
    }

    fn config(&mut self, disk: &CrashDisk, listed: &[u64]) -> FormationConfig {
        self.seed += 1;
        FormationConfig {
            clock: self.clock.clone(),
            net: self.net.clone(),
            disk: Arc::new(disk.clone()),
            blocking: Arc::new(Inline::default()),
            data_dir: DIR.into(),
            members: listed.iter().map(|id| (NodeId(*id), Member::at(format!("n{id}")))).collect(),
            origin: None,
            options: PeerOptions::default(),
            seed: self.seed,
        }
    }

    /// Starts a node as the driver does: its identity, then the cluster, then the transport.
    fn start(
        &mut self,
        id: u64,
        disk: &CrashDisk,
        listed: &[u64],
    ) -> BoxFuture<'static, Result<Formed, FormationError>> {
        Box::pin(start(self.config(disk, listed), id, false))
    }

    /// Starts a node that joins.
    fn join(
        &mut self,
        id: u64,
        disk: &CrashDisk,
        listed: &[u64],
    ) -> BoxFuture<'static, Result<Formed, FormationError>> {
        Box::pin(start(self.config(disk, listed), id, true))
    }

    /// Starts three nodes at once and waits for all.
    async fn start_three(&mut self, disks: &[CrashDisk; 3]) -> [Result<Formed, FormationError>; 3] {
        let [one, two, three] = [1, 2, 3].map(|id| self.start(id as u64, &disks[id - 1], &[1, 2, 3]));
        Box::pin(within(LONG, async { tokio::join!(one, two, three) })).await.into()
    }
}

async fn start(config: FormationConfig, id: u64, joins: bool) -> Result<Formed, FormationError> {
    let identity = open(&*config.disk, &config.data_dir, NodeId(id), config.seed)?;
    let address = format!("n{id}");
    let mut listener = config.net.listen(&address).await.unwrap();
    let identity = match joins {
        true => join(config.clone(), identity, &mut *listener).await?,
        false => form(config.clone(), identity, &mut *listener).await?,
    };
    let record = identity.cluster.clone().unwrap();
    let snapshots = crate::snapshot::SnapshotDir::open(
        Arc::new(CrashDisk::default()),
        Path::new("/snapshots"),
        record.cluster,
    );
    let transport = TransportConfig {
        clock: config.clock,
        net: config.net,
        blocking: config.blocking,
        identity: identity.clone(),
        address,
        configuration: record.configuration(),
        overrides: BTreeMap::new(),
        removed: BTreeSet::new(),
        snapshots: Arc::new(snapshots.unwrap()),
        options: config.options,
        seed: config.seed,
    };
    Ok(Formed { identity, transport: Transport::start(transport, listener) })
}

fn record(formed: &Result<Formed, FormationError>) -> ClusterRecord {
    match formed {
        Ok(formed) => formed.identity.cluster.clone().expect("formed"),
        Err(error) => panic!("not formed: {error}"),
    }
}

/// What a node's disk says after a crash.
fn on_disk(disk: &CrashDisk) -> Option<ClusterRecord> {
    load(&disk.crash(Unsynced::Lost), Path::new(DIR)).unwrap().and_then(|identity| identity.cluster)
}

/// Asserts that all disks hold the same cluster, made of their own incarnations.
fn assert_one_cluster(disks: &[CrashDisk]) -> ClusterRecord {
    let records: Vec<_> = disks.iter().map(|disk| on_disk(disk).expect("durable")).collect();
    assert!(records.iter().all(|record| *record == records[0]), "{records:?}");
    for (id, disk) in (1..).zip(disks) {
        let identity = load(disk, Path::new(DIR)).unwrap().unwrap();
        let member = Member { incarnation: identity.incarnation, ..Member::at(format!("n{id}")) };
        assert_eq!(records[0].members.get(&NodeId(id)), Some(&member));
    }
    records[0].clone()
}

#[tokio::test(start_paused = true)]
async fn three_empty_members_form_one_cluster() {
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let before = world.clock.now();
    let formed = world.start_three(&disks).await;
    let record = assert_one_cluster(&disks);
    assert_eq!(record.members.len(), 3);
    assert_ne!(record.cluster, 0);
    formed.iter().for_each(|formed| assert_eq!(self::record(formed), record));
    let took = world.clock.now().since(before);
    assert!(took < Duration::from_millis(200), "it took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_member_forms_at_once_and_stays_what_it_is() {
    let mut world = World::new();
    let disk = CrashDisk::default();
    let first = record(&world.start(1, &disk, &[1]).await);
    assert_eq!(first.members.keys().copied().collect::<Vec<_>>(), [NodeId(1)]);
    let calls = disk.calls();
    let second = record(&world.start(1, &disk, &[1]).await);
    assert_eq!(second, first);
    assert_eq!(disk.calls(), calls + 1, "a formed node writes nothing, and syncs what it found");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_written_forms_nothing() {
    let mut world = World::new();
    for calls in 0.. {
        let disk = CrashDisk::default();
        let config = world.config(&disk, &[1]);
        let identity = open(&disk, Path::new(DIR), NodeId(1), 1).unwrap();
        let mut listener = world.net.listen("n1").await.unwrap();
        disk.fail_after(calls);
        match form(config, identity, &mut *listener).await {
            Ok(identity) => {
                assert_eq!(on_disk(&disk), identity.cluster);
                assert!(calls >= 4, "create, write, sync, rename, sync the directory");
                break;
            }
            Err(error) => assert!(matches!(error, FormationError::Identity(_)), "{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_forms_before_the_last_listed_member_has_come() {
    let (lines, _guard) = Lines::listen();
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let one = tokio::spawn(world.start(1, &disks[0], &[1, 2, 3]));
    let two = tokio::spawn(world.start(2, &disks[1], &[1, 2, 3]));
    crate::clock::sleep(&*world.clock, Duration::from_secs(300)).await;
    assert!(!one.is_finished() && !two.is_finished());
    assert_eq!((on_disk(&disks[0]), on_disk(&disks[1])), (None, None));
    let waiting = lines.with("waiting for all members to form the cluster; n3: no connection");
    assert!((10..=40).contains(&waiting.len()), "said, but not all the time: {}", waiting.len());
    let three = within(LONG, world.start(3, &disks[2], &[1, 2, 3])).await;
    let one = within(LONG, one).await.unwrap();
    let two = within(LONG, two).await.unwrap();
    let record = assert_one_cluster(&disks);
    [one, two, three].iter().for_each(|formed| assert_eq!(self::record(formed), record));
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_disk_call_of_any_node_ends_in_one_cluster() {
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        for victim in 0..3 {
            let mut calls = 0;
            loop {
                let mut world = World::new();
                let mut disks: [CrashDisk; 3] = Default::default();
                disks[victim].fail_after(calls);
                // The others get a while; the victim's error means that its power failed.
                let [one, two, three] =
                    [1, 2, 3].map(|id| world.start(id as u64, &disks[id - 1], &[1, 2, 3]));
                let mut tasks = [one, two, three].map(tokio::spawn);
                crate::clock::sleep(&*world.clock, Duration::from_secs(10)).await;
                if !disks[victim].has_failed() {
                    assert_one_cluster(&disks);
                    break;
                }
                let before: Vec<_> = disks.iter().map(on_disk).collect();
                // The victim comes back; its address is taken over by its new listener.
                tasks[victim].abort();
                disks[victim] = disks[victim].crash(unsynced);
                tasks[victim] = tokio::spawn(world.start(victim as u64 + 1, &disks[victim], &[1, 2, 3]));
                let mut formed = Vec::new();
                for task in tasks {
                    formed.push(within(LONG, task).await.unwrap());
                }
                let record = assert_one_cluster(&disks);
                formed.iter().for_each(|formed| assert_eq!(self::record(formed), record));
                for known in before.into_iter().flatten() {
                    assert_eq!(known, record, "call {calls} of n{}: a record was replaced", victim + 1);
                }
                calls += 1;
            }
            assert!(calls >= 8, "{calls} calls were tried");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_nodes_crash_together_at_any_moment() {
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        for calls in 0..14 {
            let mut world = World::new();
            let mut disks: [CrashDisk; 3] = Default::default();
            disks.iter().for_each(|disk| disk.fail_after(calls));
            let tasks = [1, 2, 3].map(|id| tokio::spawn(world.start(id as u64, &disks[id - 1], &[1, 2, 3])));
            crate::clock::sleep(&*world.clock, Duration::from_secs(10)).await;
            let before: Vec<_> = disks.iter().filter_map(on_disk).collect();
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
            disks = disks.map(|disk| disk.crash(unsynced));
            let formed = world.start_three(&disks).await;
            let record = assert_one_cluster(&disks);
            assert!(before.iter().all(|known| *known == record), "{calls}: {before:?}");
            drop(formed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_lowest_crashes_after_its_record_is_durable_and_before_anyone_heard_of_it() {
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    // The others hear n1's questions, but cannot reach it.
    world.net.set_dialling("n1", Dialling::Refused);
    let two = tokio::spawn(world.start(2, &disks[1], &[1, 2, 3]));
    let three = tokio::spawn(world.start(3, &disks[2], &[1, 2, 3]));
    let one = within(LONG, world.start(1, &disks[0], &[1, 2, 3])).await;
    let drawn = record(&one);
    drop(one);
    crate::clock::sleep(&*world.clock, Duration::from_secs(5)).await;
    assert_eq!((on_disk(&disks[1]), on_disk(&disks[2])), (None, None));
    world.net.set_dialling("n1", Dialling::Works);
    let one = world.start(1, &disks[0].crash(Unsynced::Lost), &[1, 2, 3]).await;
    assert_eq!(record(&one), drawn);
    let two = within(LONG, two).await.unwrap();
    let three = within(LONG, three).await.unwrap();
    assert_eq!((record(&two), record(&three)), (drawn.clone(), drawn));
}

#[tokio::test(start_paused = true)]
async fn a_member_learns_of_the_cluster_from_any_other() {
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    // n3 is asked, but its own questions do not get through until n1 is gone.
    let config = world.config(&disks[2], &[1, 2, 3]);
    let identity = open(&*config.disk, &config.data_dir, NodeId(3), 1000).unwrap();
    let mut listener = world.net.listen("n3").await.unwrap();
    let reception = Arc::new(Reception::new(world.clock.clone(), identity.clone(), &config.options));
    let listed = Arc::new(Roster::Forming { listed: [1, 2, 3].map(NodeId).into(), origin: None });
    let (one, two) = tokio::select! {
        biased;
        _ = answer(&reception, &listed, &mut *listener) => unreachable!(),
        both = within(LONG, async { tokio::join!(world.start(1, &disks[0], &[1, 2, 3]), world.start(2, &disks[1], &[1, 2, 3])) }) => both,
    };
    let record = record(&two);
    drop(one);
    world.net.set_dialling("n1", Dialling::Hangs);
    let before = world.clock.now();
    assert_eq!(self::record(&within(LONG, world.start(3, &disks[2], &[1, 2, 3])).await), record);
    let took = world.clock.now().since(before);
    assert!(took < Duration::from_millis(100), "it did not wait for n1: {took:?}");
}

fn origin(checksum: u32) -> Option<Origin> {
    Some(Origin { last: crate::core::LogId::new(3, 40), bytes: 5_000, checksum })
}

#[tokio::test(start_paused = true)]
async fn members_that_are_restored_from_one_file_form_one_cluster_and_it_says_so() {
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let mut begin = |id: u64, origin| {
        let config = FormationConfig { origin, ..world.config(&disks[id as usize - 1], &[1, 2, 3]) };
        start(config, id, false)
    };
    let all = [begin(1, origin(7)), begin(2, origin(7)), begin(3, origin(7))];
    let [one, two, three] = all;
    let (one, two, three) = Box::pin(within(LONG, async { tokio::join!(one, two, three) })).await;
    assert_eq!(record(&one).origin, origin(7));
    assert_eq!(record(&two), record(&one));
    assert_eq!(record(&three), record(&one));
}

#[tokio::test(start_paused = true)]
async fn a_member_with_another_backup_or_none_keeps_the_cluster_from_forming() {
    for other in [None, origin(8)] {
        for odd in 1..=3 {
            let mut world = World::new();
            let disks: [CrashDisk; 3] = Default::default();
            let mut begin = |id: u64| {
                let origin = if id == odd { other } else { origin(7) };
                let config = FormationConfig { origin, ..world.config(&disks[id as usize - 1], &[1, 2, 3]) };
                start(config, id, false)
            };
            let (one, two, three) = (begin(1), begin(2), begin(3));
            let clock = world.clock.clone();
            tokio::select! {
                biased;
                _ = async { tokio::join!(one, two, three) } => panic!("formed, though n{odd} begins with {other:?}"),
                () = sleep(&*clock, LONG) => {}
            }
            for disk in &disks {
                let identity = identity::load(disk, Path::new(DIR)).unwrap().unwrap();
                assert_eq!(identity.cluster, None);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lost_its_backup_before_it_heard_of_the_cluster_is_told_so() {
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let asked = |world: &mut World, id: u64, origin| {
        let config = FormationConfig { origin, ..world.config(&disks[id as usize - 1], &[1, 2, 3]) };
        start(config, id, false)
    };
    // n3 says what it begins with, and stops before it gets the record.
    let config = FormationConfig { origin: origin(7), ..world.config(&disks[2], &[1, 2, 3]) };
    let identity = open(&*config.disk, &config.data_dir, NodeId(3), 1000).unwrap();
    let mut listener = world.net.listen("n3").await.unwrap();
    let reception = Arc::new(Reception::new(world.clock.clone(), identity, &config.options));
    let roster = Arc::new(Roster::Forming { listed: [1, 2, 3].map(NodeId).into(), origin: origin(7) });
    let (one, two) = (asked(&mut world, 1, origin(7)), asked(&mut world, 2, origin(7)));
    let _formed = tokio::select! {
        biased;
        _ = answer(&reception, &roster, &mut *listener) => unreachable!(),
        both = within(LONG, async { tokio::join!(one, two) }) => both,
    };
    drop(listener);
    let three = asked(&mut world, 3, None);
    let Err(error) = within(LONG, three).await else { panic!("it took part without its state") };
    assert!(matches!(error, FormationError::OtherOrigin { ours: None, .. }), "{error}");
    assert!(error.to_string().contains("restore all members from the same file"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wiped_disk_is_refused_by_everyone_and_told_why() {
    for victim in 0..3 {
        let mut world = World::new();
        let mut disks: [CrashDisk; 3] = Default::default();
        let mut formed = world.start_three(&disks).await.map(Some);
        let record = assert_one_cluster(&disks);
        formed[victim] = None;
        disks[victim] = CrashDisk::default();
        let (lines, _guard) = Lines::listen();
        let id = victim as u64 + 1;
        let error = within(LONG, world.start(id, &disks[victim], &[1, 2, 3])).await.err().expect("refused");
        let FormationError::Wiped { member, expected, .. } = &error else { panic!("{error}") };
        let incarnation = record.members[&NodeId(id)].incarnation;
        assert_eq!((member, *expected), (&NodeId(id), incarnation));
        assert!(error.to_string().contains("restore its data directory, or remove"), "{error}");
        assert_eq!(on_disk(&disks[victim]), None);
        assert!(
            !lines.with(&format!("n{id} has not the disk it joined with")).is_empty(),
            "the others log it too"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wiped_lowest_member_draws_no_second_cluster_while_the_others_are_down() {
    let mut world = World::new();
    let mut disks: [CrashDisk; 3] = Default::default();
    drop(world.start_three(&disks).await);
    let record = assert_one_cluster(&disks);
    disks[0] = CrashDisk::default();
    let one = tokio::spawn(world.start(1, &disks[0], &[1, 2, 3]));
    crate::clock::sleep(&*world.clock, Duration::from_secs(60)).await;
    assert!(!one.is_finished());
    let two = world.start(2, &disks[1], &[1, 2, 3]).await;
    assert_eq!(self::record(&two), record);
    let error = within(LONG, one).await.unwrap().err().expect("refused");
    assert!(matches!(error, FormationError::Wiped { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn lists_that_differ_form_nothing_and_both_are_named() {
    let (lines, _guard) = Lines::listen();
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let one = tokio::spawn(world.start(1, &disks[0], &[1, 2, 3]));
    let two = tokio::spawn(world.start(2, &disks[1], &[1, 2]));
    let three = tokio::spawn(world.start(3, &disks[2], &[1, 2, 3]));
    crate::clock::sleep(&*world.clock, Duration::from_secs(60)).await;
    assert!(!one.is_finished() && !two.is_finished() && !three.is_finished());
    let logged = lines.with("n2 is not of the same cluster: it lists {n1, n2}, this node {n1, n2, n3}");
    assert!(!logged.is_empty() && logged.len() <= 6, "{logged:?}");
    // The operator mends n2's list and starts it again.
    two.abort();
    let two = within(LONG, world.start(2, &disks[1], &[1, 2, 3])).await;
    let one = within(LONG, one).await.unwrap();
    let three = within(LONG, three).await.unwrap();
    let record = assert_one_cluster(&disks);
    [one, two, three].iter().for_each(|formed| assert_eq!(self::record(formed), record));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_in_the_record_does_not_get_it() {
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let _formed = world.start_three(&disks).await;
    let disk = CrashDisk::default();
    let error = within(LONG, world.start(4, &disk, &[1, 2, 3, 4])).await.err().expect("refused");
    assert!(matches!(error, FormationError::FormedWithout { member: NodeId(4), .. }), "{error}");
    assert!(error.to_string().contains("add it as a new member"), "{error}");
    assert_eq!(on_disk(&disk), None);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_list_itself_is_told_at_once() {
    let mut world = World::new();
    let error = world.start(4, &CrashDisk::default(), &[1, 2, 3]).await.err().expect("refused");
    assert!(matches!(error, FormationError::NotListed { member: NodeId(4) }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_being_formed_answers_no_messages_and_leaves_nothing_when_dropped() {
    let mut world = World::new();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let disk = CrashDisk::default();
    let one = tokio::spawn(world.start(1, &disk, &[1, 2, 3]));
    crate::clock::sleep(&*world.clock, Duration::from_secs(1)).await;
    let hello = Hello {
        cluster: Some(7),
        member: NodeId(2),
        incarnation: 5,
        address: "n2".to_owned(),
        to: NodeId(1),
        purpose: Purpose::Messages,
    };
    let refused = dial(&*world.clock, &*world.net, "n1", &hello, &PeerOptions::default()).await;
    assert!(matches!(refused, Err(DialError::Refused(Refusal::NotFormed))));
    one.abort();
    assert!(one.await.is_err());
    crate::transport::testing::settle().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
    assert!(disk.bytes(&Path::new(DIR).join(IDENTITY_FILE)).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_record_has_every_members_address_and_context_as_the_forming_node_lists_them() {
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let starts = [1, 2, 3].map(|id: u64| -> BoxFuture<'static, _> {
        let mut config = world.config(&disks[id as usize - 1], &[1, 2, 3]);
        for (about, member) in &mut config.members {
            // What n2 and n3 have to say about it does not matter, nor what incarnation anyone lists.
            member.context = Bytes::from(format!("n{} as listed by n{id}", about.0));
            member.incarnation = 99;
        }
        Box::pin(start(config, id, false))
    });
    let [one, two, three] = starts;
    let formed = Box::pin(within(LONG, async { tokio::join!(one, two, three) })).await;
    let record = self::record(&formed.2);
    for (id, disk) in (1..).zip(&disks) {
        let incarnation = load(disk, Path::new(DIR)).unwrap().unwrap().incarnation;
        let context = Bytes::from(format!("n{id} as listed by n1"));
        assert_eq!(record.members[&NodeId(id)], Member { incarnation, address: format!("n{id}"), context });
    }
    assert_eq!([self::record(&formed.0), self::record(&formed.1)], [record.clone(), record]);
}

/// Adds `id`, with the disk that a probe finds, to a node's configuration.
async fn add(world: &World, formed: &Formed, id: u64) -> u64 {
    let (clock, net, options) = (world.clock.clone(), world.net.clone(), PeerOptions::default());
    let address = format!("n{id}");
    let found = probe(&*clock, &*net, &options, NodeId(1), &address, NodeId(id)).await.unwrap();
    assert_eq!((found.cluster, found.empty, found.joining), (None, true, true));
    let member = Member { incarnation: found.incarnation, ..Member::at(address) };
    formed.configure(|configuration| {
        configuration.learners.insert(NodeId(id));
        configuration.nodes.insert(NodeId(id), member);
    });
    found.incarnation
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_waits_until_it_was_added_and_gets_the_record() {
    let (lines, _guard) = Lines::listen();
    let mut world = World::new();
    let disks: [CrashDisk; 3] = Default::default();
    let formed = world.start_three(&disks).await.map(Result::unwrap);
    let record = assert_one_cluster(&disks);
    let disk = CrashDisk::default();
    // n9 is not there; n2 and n3 will not know of it for long.
    let four = tokio::spawn(world.join(4, &disk, &[1, 2, 4, 9]));
    crate::clock::sleep(&*world.clock, Duration::from_secs(60)).await;
    assert!(!four.is_finished());
    let waiting = lines.with("the cluster does not have n4 yet: add it, with the id 4 and the address n4");
    assert!((1..=3).contains(&waiting.len()), "{waiting:?}");
    assert!(lines.with("refused joining").is_empty(), "the cluster's logs are not filled with it");
    let before = world.clock.now();
    let incarnation = add(&world, &formed[0], 4).await;
    let four = within(LONG, four).await.unwrap().unwrap();
    assert!(world.clock.now().since(before) < 2 * WAIT_MAX);
    assert_eq!((four.identity.incarnation, &four.identity.cluster), (incarnation, &Some(record.clone())));
    assert_eq!(on_disk(&disk), Some(record.clone()));
    drop(four);
    // At its next start it asks nobody.
    world.net.set_dialling("n1", Dialling::Refused);
    let again = within(LONG, world.join(4, &disk.crash(Unsynced::Lost), &[1, 2, 4, 9])).await;
    assert_eq!(self::record(&again), record);
    drop(again);
    let again = within(LONG, world.start(4, &disk.crash(Unsynced::Lost), &[1, 2, 4])).await;
    assert_eq!(self::record(&again), record, "nor need it be told to join again");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_disk_call_of_joining_leaves_a_node_that_can_join() {
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        let mut calls = 0;
        loop {
            let mut world = World::new();
            let one = world.start(1, &CrashDisk::default(), &[1]).await.unwrap();
            let mut disk = CrashDisk::default();
            let mut four = tokio::spawn(world.join(4, &disk, &[1, 4]));
            crate::clock::sleep(&*world.clock, Duration::from_secs(1)).await;
            add(&world, &one, 4).await;
            disk.fail_after(calls);
            crate::clock::sleep(&*world.clock, Duration::from_secs(1)).await;
            let crashed = disk.has_failed();
            if crashed {
                four.abort();
                disk = disk.crash(unsynced);
                four = tokio::spawn(world.join(4, &disk, &[1, 4]));
            }
            let four = within(LONG, four).await.unwrap();
            assert_eq!(record(&four), *one.identity.cluster.as_ref().unwrap());
            if !crashed {
                break;
            }
            calls += 1;
        }
        assert!(calls >= 4, "{calls} calls were tried");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_never_forms_and_says_so() {
    let (lines, _guard) = Lines::listen();
    let mut world = World::new();
    let disks: [CrashDisk; 2] = Default::default();
    let one = tokio::spawn(world.join(1, &disks[0], &[1, 2]));
    let two = tokio::spawn(world.start(2, &disks[1], &[1, 2]));
    crate::clock::sleep(&*world.clock, Duration::from_secs(60)).await;
    assert!(!one.is_finished() && !two.is_finished());
    assert_eq!((on_disk(&disks[0]), on_disk(&disks[1])), (None, None));
    assert!(
        !lines.with("n1 waits to be added to a cluster and forms none: start it without joining").is_empty()
    );
    assert!(!lines.with("waiting for a member of the cluster that n1 is to join; n2: ").is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_may_not_join_is_told_why_and_what_to_do() {
    let mut world = World::new();
    let one = world.start(1, &CrashDisk::default(), &[1]).await.unwrap();
    let other = Member { incarnation: 5, ..Member::at("n4") };
    one.configure(|configuration| {
        configuration.learners.insert(NodeId(4));
        configuration.nodes.insert(NodeId(4), other);
        configuration.removed.insert(NodeId(5));
    });
    for (id, listed, words) in [
        (
            4,
            vec![1, 4],
            "n4 is a member of the cluster already, with another disk (incarnation 0000000000000005",
        ),
        (
            5,
            vec![1, 5],
            "n5 was removed from the cluster, as n1 at n1 says, and its id is not used again: start with",
        ),
        (6, vec![1], "this node is n6, but its list of members does not contain it"),
        (7, vec![7], "n7 is to join a cluster, but its list names no other member"),
    ] {
        let disk = CrashDisk::default();
        let error = within(LONG, world.join(id, &disk, &listed)).await.err().expect("refused").to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(on_disk(&disk), None);
    }
    // One that was told to form is told the same.
    let error = within(LONG, world.start(5, &CrashDisk::default(), &[1, 5])).await.err().expect("refused");
    assert!(matches!(error, FormationError::Removed { member: NodeId(5), by: NodeId(1), .. }), "{error}");
}
