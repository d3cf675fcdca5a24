//! One node on one disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft::blocking::{Blocking, Job, Lane};
use raft::clock::{Clock, RealClock};
use raft::core::{Config, Growth, Member, NodeId};
use raft::disk::SharedDisk;
use raft::driver::{
    self, NodeOptions, ProposeError, RaftHandle, Seams, SpaceOptions, StartError, StopReason,
};
use raftkv_sim::disk::SimDisk;

use crate::list::{ListMachine, item};

/// A run that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lanes that do each job where it is handed in.
struct Inline;

struct InlineLane;

impl Lane for InlineLane {
    fn submit(&self, job: Job) {
        job();
    }
}

impl Blocking for Inline {
    fn lane(&self, _: &'static str) -> Arc<dyn Lane> {
        Arc::new(InlineLane)
    }
}

pub fn dir() -> PathBuf {
    "/node".into()
}

pub fn options() -> NodeOptions {
    let id = NodeId(1);
    let core = Config {
        election_timeout_ticks: 3,
        heartbeat_ticks: 1,
        hurried_election_ticks: 0,
        append_bytes_max: 4 << 10,
        log_bytes_max: 64 << 10,
        ..Config::new(id)
    };
    let members = BTreeMap::from([(id, Member::at("127.0.0.1:0"))]);
    let mut options = NodeOptions::new(core, dir(), "127.0.0.1:0".to_owned(), members);
    options.tick = Duration::from_millis(1);
    options.wal.segment_bytes = 2 << 10;
    options.checkpoint_bytes = 700;
    options.snapshot_entries = 8;
    options.snapshot_log_bytes = 1;
    options.retain_log_bytes = 400;
    options.space =
        SpaceOptions { low_bytes: 1 << 20, critical_bytes: 1 << 19, ballast_bytes: 4 << 10, check_ticks: 5 };
    options
}

/// What a life of the node came to.
#[derive(Debug)]
pub enum End {
    DidNotStart(StartError),
    /// It stopped by itself.
    Stopped(Arc<StopReason>),
    /// It did all that it was asked.
    WasStopped(Arc<StopReason>),
}

/// What a life of the node left.
pub struct Life {
    pub end: End,
    /// The numbers of the items that were acknowledged.
    pub acknowledged: Vec<u64>,
    /// How many items it held when it was ready.
    pub found: Vec<u64>,
    /// Items that were refused for want of room.
    pub refused: usize,
}

fn numbers(machine: &ListMachine) -> Vec<u64> {
    let number = |item: &Vec<u8>| u64::from_le_bytes(item[..8].try_into().unwrap());
    machine.items().iter().map(number).collect()
}

/// Lets a node live on `disk` until it has taken the items `from..from + count`, and then stops it in order.
pub fn live(disk: &SimDisk, from: u64, count: u64) -> Life {
    live_as(disk, options(), from, count)
}

pub fn live_as(disk: &SimDisk, options: NodeOptions, from: u64, count: u64) -> Life {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let life = raft::clock::timeout(&RealClock, PATIENCE, run(disk, options, from, count));
        life.await.unwrap_or_else(|_| panic!("it does not end: {:?}", disk.failed()))
    })
}

/// Starts a node on `disk`, does `what` with it, and stops it in order.
pub fn with_node<T>(
    disk: &SimDisk,
    options: NodeOptions,
    what: impl AsyncFnOnce(&RaftHandle<usize>) -> T,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let life = async {
            let shared: SharedDisk = Arc::new(disk.clone());
            let open = move || ListMachine::open(shared, dir());
            let node = driver::start(options, seams(disk), open).await.unwrap();
            let result = what(&node).await;
            assert_eq!(*node.shutdown().await, StopReason::Shutdown);
            result
        };
        raft::clock::timeout(&RealClock, PATIENCE, life).await.unwrap_or_else(|_| panic!("it does not end"))
    })
}

/// Proposes until the node has an answer that is more than that it does not lead yet.
pub async fn propose(node: &RaftHandle<usize>, number: u64, growth: Growth) -> Result<usize, ProposeError> {
    loop {
        let answer = match node.propose_start(item(number), growth) {
            Ok(answer) => answer.await.unwrap_or(Err(ProposeError::Stopped)),
            Err(error) => Err(error),
        };
        match answer {
            Err(ProposeError::NotLeader { .. } | ProposeError::Overloaded) => {}
            answer => return answer,
        }
        pause(Duration::from_micros(500)).await;
    }
}

pub async fn pause(length: Duration) {
    RealClock.sleep_until(RealClock.now() + length).await;
}

fn seams(disk: &SimDisk) -> Seams {
    Seams {
        clock: Arc::new(RealClock),
        net: Arc::new(raft::net::RealNet),
        disk: Arc::new(disk.clone()),
        blocking: Arc::new(Inline),
    }
}

async fn run(disk: &SimDisk, options: NodeOptions, from: u64, count: u64) -> Life {
    let shared: SharedDisk = Arc::new(disk.clone());
    let found = Arc::new(Mutex::new(Vec::new()));
    let mut life = Life {
        end: End::WasStopped(Arc::new(StopReason::Shutdown)),
        acknowledged: Vec::new(),
        found: Vec::new(),
        refused: 0,
    };
    let opened = Arc::clone(&found);
    let open = move || {
        let machine = ListMachine::open(shared, dir())?;
        *opened.lock().unwrap() = numbers(&machine);
        Ok(machine)
    };
    let node = match driver::start(options, seams(disk), open).await {
        Ok(node) => node,
        Err(error) => {
            life.end = End::DidNotStart(error);
            return life;
        }
    };
    life.found = found.lock().unwrap().clone();
    let ended = tokio::select! {
        biased;
        reason = node.stopped() => Some(reason),
        () = work(&node, &mut life, from, count) => None,
    };
    life.end = match ended {
        Some(reason) => End::Stopped(reason),
        None => End::WasStopped(node.shutdown().await),
    };
    life
}

async fn work(node: &RaftHandle<usize>, life: &mut Life, from: u64, count: u64) {
    for number in from..from + count {
        match propose(node, number, Growth::Grows).await {
            Ok(_) => life.acknowledged.push(number),
            Err(ProposeError::NoSpace { .. }) => life.refused += 1,
            // The event loop says why.
            Err(_) => return std::future::pending().await,
        }
    }
    // The idle log writes down how far it is durable.
    pause(Duration::from_millis(4)).await;
}

/// The numbers of all items that a node finds on `disk`, once it has applied its log; the disk itself stays as it is.
pub fn read_back(disk: &SimDisk, context: &str) -> Vec<u64> {
    let disk = disk.process_crash_image();
    let life = live(&disk, u64::MAX - 1, 1);
    let End::WasStopped(reason) = &life.end else { panic!("{context}: {:?}\n{:#?}", life.end, disk.files()) };
    assert_eq!(**reason, StopReason::Shutdown, "{context}");
    // One more life, which finds all of it in the list or in the log.
    let numbers = all_items(&disk, context);
    assert_eq!(numbers.last(), Some(&(u64::MAX - 1)), "{context}");
    numbers[..numbers.len() - 1].to_vec()
}

/// What the list and the log behind it hold.
fn all_items(disk: &SimDisk, context: &str) -> Vec<u64> {
    use raft::core::{Index, Payload};
    let shared: SharedDisk = Arc::new(disk.clone());
    let identity = raft::identity::open(&*shared, Path::new("/node"), NodeId(1), 1).expect(context);
    let cluster = identity.cluster.expect(context).cluster;
    let identity =
        raft::wal::WalIdentity { cluster, member: identity.member, incarnation: identity.incarnation };
    let (_, recovered) =
        raft::wal::Wal::open(Arc::clone(&shared), &dir().join("logs"), identity, options().wal)
            .expect(context);
    let machine = ListMachine::open(shared, dir()).expect(context);
    let mut numbers = numbers(&machine);
    let applied: Index = raft::state_machine::StateMachine::applied(&machine).last.index;
    for entry in recovered.entries.iter().filter(|entry| entry.index > applied) {
        if let Payload::Command(item) = &entry.payload {
            numbers.push(u64::from_le_bytes(item[..8].try_into().unwrap()));
        }
    }
    numbers
}

/// That everything acknowledged is there, once and in order, and nothing that was not proposed.
pub fn assert_holds(found: &[u64], acknowledged: &[u64], proposed: u64, context: &str) {
    assert!(found.is_sorted_by(|a, b| a < b), "{context}: {found:?}");
    let lost: Vec<u64> = acknowledged.iter().copied().filter(|number| !found.contains(number)).collect();
    assert!(lost.is_empty(), "{context}: {lost:?} were acknowledged and are lost; there are {found:?}");
    assert!(found.iter().all(|number| *number < proposed), "{context}: {found:?}");
}
