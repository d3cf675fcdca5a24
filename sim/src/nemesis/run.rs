//! Carries out the faults of a plan, each at its time, and ends those that last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use raft::core::NodeId;

use super::membership::Requests;
use crate::cluster::{Cluster, Trigger, Unsynced, host};
use crate::plan::{Cut, Fault, ScheduledFault, Target};
use crate::trace::{Event, Source};

/// Carries out faults.
#[derive(Clone)]
pub struct Nemesis {
    pub(super) cluster: Cluster,
    pub(super) requests: Arc<Requests>,
    over: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
}

/// What is to be done when a fault ends.
struct Undo {
    after_ns: u64,
    action: Box<dyn FnOnce(&Cluster) + Send>,
}

impl Undo {
    fn after(after_ns: u64, action: impl FnOnce(&Cluster) + Send + 'static) -> Option<Self> {
        Some(Self { after_ns, action: Box::new(action) })
    }
}

impl Nemesis {
    /// A nemesis of this cluster.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, requests: Arc::default(), over: Arc::default(), done: Arc::default() }
    }

    /// How many faults were carried out.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many changes of membership and hand-overs were made.
    #[must_use]
    pub fn requests_done(&self) -> (u32, u32) {
        let counts = self.requests.counts();
        (counts.changes, counts.transfers)
    }

    /// Whether some request may still change the membership.
    #[must_use]
    pub fn leaves_requests_open(&self) -> bool {
        let counts = self.requests.counts();
        counts.open + counts.unknown > 0
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Begins no fault any more, and ends none by itself: who calls this heals everything.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Carries out `faults`; their times count from now.
    pub fn start(&self, faults: Vec<ScheduledFault>) {
        let nemesis = self.clone();
        let begin_ns = nemesis.cluster.world().time.now_ns();
        tokio::spawn(async move {
            let time = nemesis.cluster.world().time.clone();
            for scheduled in faults {
                time.sleep_until(begin_ns + scheduled.at_ns).await;
                if nemesis.is_over() {
                    return;
                }
                nemesis.begin(scheduled.number, scheduled.fault);
            }
        });
    }

    fn record(&self, stage: &'static str, number: u32, fault: &Fault) {
        self.cluster.world().record(Source::World, &Event::Fault { stage, number, fault });
    }

    fn begin(&self, number: u32, fault: Fault) {
        let Some(node) = self.target(&fault) else {
            self.record("skipped", number, &fault);
            return;
        };
        if matches!(fault, Fault::Wipe { .. }) && !self.wipe(node) {
            self.record("skipped", number, &fault);
            return;
        }
        self.record("begin", number, &fault);
        self.done.fetch_add(1, Ordering::Relaxed);
        if matches!(
            fault,
            Fault::Change { .. } | Fault::Replace { .. } | Fault::Transfer { .. } | Fault::Lease { .. }
        ) {
            return self.administer(number, fault);
        }
        let Some(undo) = self.carry_out(node, &fault) else { return };
        let nemesis = self.clone();
        tokio::spawn(async move {
            nemesis.cluster.world().time.sleep(undo.after_ns).await;
            if !nemesis.is_over() {
                nemesis.record("end", number, &fault);
                (undo.action)(&nemesis.cluster);
            }
        });
    }

    /// The node that the fault befalls (any, for those that befall none in particular); `None` if it is not there.
    fn target(&self, fault: &Fault) -> Option<u8> {
        let target = match fault {
            Fault::Crash { node, .. }
            | Fault::CrashAtDiskCall { node, .. }
            | Fault::CrashWhen { node, .. }
            | Fault::Shutdown { node, .. }
            | Fault::Pause { node, .. }
            | Fault::Reset { node, .. }
            | Fault::SlowLinks { node, .. }
            | Fault::Loss { node, .. }
            | Fault::SlowDisk { node, .. }
            | Fault::ClockStep { node, .. }
            | Fault::ClockDrift { node, .. }
            | Fault::ClockFreeze { node, .. }
            | Fault::Wipe { node } => *node,
            Fault::Cut { cut: Cut::LeaderSide { .. } | Cut::LeaderAndLearners, .. } => Target::Leader,
            Fault::Cut { .. }
            | Fault::PowerCut { .. }
            | Fault::Change { .. }
            | Fault::Replace { .. }
            | Fault::Transfer { .. }
            | Fault::Lease { .. } => Target::Node(1),
        };
        match target {
            Target::Node(node) => Some(node),
            Target::Leader => self.cluster.leader(),
        }
    }

    fn carry_out(&self, node: u8, fault: &Fault) -> Option<Undo> {
        match fault {
            Fault::Crash { .. }
            | Fault::CrashAtDiskCall { .. }
            | Fault::CrashWhen { .. }
            | Fault::Shutdown { .. }
            | Fault::PowerCut { .. }
            | Fault::Pause { .. }
            | Fault::SlowDisk { .. } => self.process(node, fault),
            Fault::Cut { .. } | Fault::Reset { .. } | Fault::SlowLinks { .. } | Fault::Loss { .. } => {
                self.network(node, fault)
            }
            Fault::ClockStep { .. } | Fault::ClockDrift { .. } | Fault::ClockFreeze { .. } => {
                self.clock(node, fault)
            }
            Fault::Change { .. }
            | Fault::Replace { .. }
            | Fault::Transfer { .. }
            | Fault::Lease { .. }
            | Fault::Wipe { .. } => None,
        }
    }

    fn process(&self, node: u8, fault: &Fault) -> Option<Undo> {
        let cluster = &self.cluster;
        match *fault {
            Fault::Crash { down_ns, silent, keeps_unsynced, again_after_calls, .. } => {
                let unsynced = if keeps_unsynced { Unsynced::Kept } else { Unsynced::Lost };
                cluster.crash(node, silent, unsynced);
                Undo::after(down_ns, move |cluster| {
                    cluster.start(node);
                    if again_after_calls > 0 {
                        cluster.crash_after_calls(node, again_after_calls, down_ns);
                    }
                })
            }
            Fault::CrashAtDiskCall { calls, down_ns, .. } => {
                cluster.crash_after_calls(node, calls, down_ns);
                None
            }
            Fault::CrashWhen { moment, after_ns, down_ns, isolate_ns, .. } => {
                cluster.crash_when(node, Trigger { moment, after_ns, down_ns, isolate_ns });
                None
            }
            Fault::Shutdown { down_ns, .. } => {
                cluster.shut_down(node);
                Undo::after(down_ns, move |cluster| {
                    // If it is not done by now, it is killed.
                    cluster.crash(node, false, Unsynced::Lost);
                    cluster.start(node);
                })
            }
            Fault::PowerCut { down_ns } => {
                for id in cluster.machines() {
                    cluster.crash(id, true, Unsynced::Lost);
                    self.start_later(id, down_ns * u64::from(id));
                }
                None
            }
            Fault::Pause { for_ns, .. } => {
                let paused = cluster.pause(node);
                Undo::after(for_ns, move |cluster| {
                    if paused {
                        cluster.resume(node);
                    }
                })
            }
            Fault::SlowDisk { factor, for_ns, .. } => {
                cluster.slow_disk(node, factor);
                Undo::after(for_ns, move |cluster| cluster.slow_disk(node, 1))
            }
            _ => None,
        }
    }

    fn start_later(&self, node: u8, after_ns: u64) {
        let nemesis = self.clone();
        tokio::spawn(async move {
            nemesis.cluster.world().time.sleep(after_ns).await;
            if !nemesis.is_over() {
                nemesis.cluster.start(node);
            }
        });
    }

    fn network(&self, node: u8, fault: &Fault) -> Option<Undo> {
        let network = &self.cluster.world().network;
        match fault {
            Fault::Cut { cut, for_ns } => {
                let links = self.links(node, cut);
                links.iter().for_each(|&(from, to)| network.cut(from, to));
                Undo::after(*for_ns, move |cluster| {
                    links.iter().for_each(|&(from, to)| cluster.world().network.heal(from, to));
                })
            }
            Fault::Reset { peer, both, .. } => {
                network.reset(host(node), host(*peer), *both);
                None
            }
            Fault::SlowLinks { factor, for_ns, .. } => {
                let links = self.all_links_of(node);
                links.iter().for_each(|&(from, to)| network.slow_down(from, to, *factor));
                Undo::after(*for_ns, move |cluster| {
                    links.iter().for_each(|&(from, to)| cluster.world().network.slow_down(from, to, 1));
                })
            }
            Fault::Loss { per_mille, for_ns, .. } => {
                let links = self.all_links_of(node);
                links.iter().for_each(|&(from, to)| network.lose(from, to, *per_mille));
                Undo::after(*for_ns, move |cluster| {
                    links.iter().for_each(|&(from, to)| cluster.world().network.lose(from, to, 0));
                })
            }
            _ => None,
        }
    }

    fn clock(&self, node: u8, fault: &Fault) -> Option<Undo> {
        let clock = self.cluster.clock(node);
        match *fault {
            Fault::ClockStep { by_ns, .. } => clock.step(by_ns),
            Fault::ClockDrift { ppm, .. } => clock.set_drift(ppm),
            Fault::ClockFreeze { for_ns, .. } => {
                clock.freeze();
                return Undo::after(for_ns, move |_| clock.thaw());
            }
            _ => {}
        }
        None
    }

    fn clients(&self) -> impl Iterator<Item = usize> + use<> {
        let nodes = usize::from(self.cluster.world().scenario.machines());
        nodes..nodes + usize::from(self.cluster.world().scenario.workload.clients)
    }

    fn all_links_of(&self, node: u8) -> BTreeSet<(usize, usize)> {
        let hosts = self.cluster.machines().map(host).chain(self.clients());
        both_ways([host(node)], hosts)
    }

    /// The directed links that a cut severs.
    fn links(&self, node: u8, cut: &Cut) -> BTreeSet<(usize, usize)> {
        let nodes = || self.cluster.machines();
        let hosts = |nodes: &BTreeSet<u8>| nodes.iter().map(|id| host(*id)).collect::<Vec<_>>();
        match cut {
            Cut::Apart(group) => {
                let rest = nodes().filter(|id| !group.contains(id)).map(host).chain(self.clients());
                both_ways(hosts(group), rest)
            }
            Cut::LeaderSide { with } => {
                let count = self.cluster.world().scenario.machines();
                let distance = |id: &u8| (*id + count - node) % count;
                let (side, rest): (Vec<u8>, Vec<u8>) = nodes().partition(|id| distance(id) <= *with);
                both_ways(side.into_iter().map(host), rest.into_iter().map(host))
            }
            Cut::LeaderAndLearners => {
                let view = self.cluster.view(node);
                let configuration = view.map(|view| view.raft().membership().configuration);
                let learns = |id: &u8| {
                    let id = NodeId(u64::from(*id));
                    configuration.as_ref().is_some_and(|configuration| configuration.learners.contains(&id))
                };
                let (side, rest): (Vec<u8>, Vec<u8>) = nodes().partition(|id| *id == node || learns(id));
                both_ways(side.into_iter().map(host), rest.into_iter().map(host))
            }
            Cut::OneWay { from, to } => {
                let to = hosts(to);
                hosts(from).into_iter().flat_map(|from| to.iter().map(move |to| (from, *to))).collect()
            }
            Cut::Between { left, right } => both_ways(hosts(left), hosts(right)),
            Cut::Ring(order) => {
                let count = order.len();
                let apart = |i: usize, j: usize| (i + 1) % count != j && (j + 1) % count != i;
                let pairs = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
                let cut = pairs.filter(|&(i, j)| apart(i, j));
                cut.flat_map(|(i, j)| both_ways([host(order[i])], [host(order[j])])).collect()
            }
            Cut::Clients(node) => both_ways([host(*node)], self.clients()),
        }
    }
}

/// All links between two groups, in both directions.
fn both_ways(
    left: impl IntoIterator<Item = usize>,
    right: impl IntoIterator<Item = usize>,
) -> BTreeSet<(usize, usize)> {
    let right: Vec<usize> = right.into_iter().collect();
    let mut links = BTreeSet::new();
    for a in left {
        for &b in right.iter().filter(|b| **b != a) {
            links.extend([(a, b), (b, a)]);
        }
    }
    links
}
