//! A cluster in a soup: any message may be late, lost, doubled or overtaken, any node may crash, any disk may lag.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft::core::{
    Change, Configuration, Event, Index, LogId, Member, Message, MessageBody, NodeId, Payload, ProposeError,
    Raft, ReadIndexError, RoleName, SnapshotMeta, SnapshotOutcome, Space, Term,
};

use crate::checker::{Checker, is_quorum};
use crate::common::{Machine, Node, Rng};
use crate::plan::Plan;

/// More messages than this are never on their way; beyond it some are lost.
const MESSAGES_MAX: usize = 120;

/// A snapshot on its way.
struct Transfer {
    message: Message,
    meta: SnapshotMeta,
    machine: Machine,
}

pub(crate) struct World {
    plan: Plan,
    rng: Rng,
    nodes: Vec<Node>,
    messages: Vec<Message>,
    transfers: Vec<Transfer>,
    /// Links that carry nothing, in this direction.
    blocked: BTreeSet<(NodeId, NodeId)>,
    checker: Checker,
    commands: u64,
    reads: BTreeMap<u64, usize>,
    reads_begun: u64,
    /// The time of the slowest possible clock.
    now_ns: u64,
    /// Nodes that have learnt that they are no members any more, and were switched off for good.
    retired: BTreeSet<NodeId>,
    has_trace: bool,
    tally: Tally,
}

/// What a schedule, or many, went through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) leaders: usize,
    pub(crate) entries: usize,
    pub(crate) reads: usize,
    pub(crate) crashes: usize,
    pub(crate) truncations: usize,
    pub(crate) installs: usize,
    pub(crate) changes: usize,
    pub(crate) lease_reads: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.leaders += other.leaders;
        self.entries += other.entries;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.truncations += other.truncations;
        self.installs += other.installs;
        self.changes += other.changes;
        self.lease_reads += other.lease_reads;
    }
}

macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.has_trace {
            eprintln!($($arg)*);
        }
    };
}

impl World {
    pub(crate) fn new(seed: u64, has_trace: bool) -> Self {
        let mut rng = Rng(seed);
        let plan = Plan::draw(&mut rng);
        let nodes = (1..=plan.nodes as u64)
            .map(|id| {
                let mut config = plan.config.clone();
                config.id = NodeId(id);
                Node::new(config, &plan.configuration)
            })
            .collect();
        if has_trace {
            eprintln!("{plan:#?}");
        }
        Self {
            plan,
            rng,
            nodes,
            messages: Vec::new(),
            transfers: Vec::new(),
            blocked: BTreeSet::new(),
            checker: Checker::default(),
            commands: 0,
            reads: BTreeMap::new(),
            reads_begun: 0,
            now_ns: 0,
            retired: BTreeSet::new(),
            has_trace,
            tally: Tally::default(),
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            leaders: self.checker.leaders_seen,
            entries: self.checker.committed().0 as usize,
            reads: self.checker.reads_decided,
            ..self.tally
        }
    }

    /// The first phase: anything may happen, and nothing may go wrong.
    pub(crate) fn stir(&mut self) {
        for _ in 0..self.plan.actions {
            self.act();
        }
    }

    /// One thing happens, somewhere where it can.
    fn act(&mut self) {
        self.now_ns += self.rng.below(self.plan.step_ns) as u64;
        match self.rng.below(100) {
            0..45 => (0..self.plan.hurry).for_each(|_| self.deliver_some()),
            45..70 => self.at_some(|node| node.raft.as_ref().is_some_and(Raft::has_ready), Self::take_ready),
            70..79 => self.at_some(|node| node.raft.is_some(), Self::tick),
            79..86 => {
                self.at_some(|node| !node.writes.is_empty() || node.unreported.is_some(), Self::lag_disk);
            }
            86..91 => {
                self.at_some(
                    |node| !node.to_apply.is_empty(),
                    |world, node| {
                        world.apply(node);
                        world.retire(node);
                    },
                );
            }
            91..95 => self.transfer(),
            _ => self.disturb(),
        }
        let leads = |node: &Node| node.raft.as_ref().is_some_and(|raft| raft.role() == RoleName::Leader);
        if self.rng.chance(self.plan.propose) {
            self.at_some(leads, |world, node| _ = world.propose(node));
        }
        if self.rng.chance(self.plan.read) {
            if self.rng.chance(500) {
                self.at_some(leads, |world, node| _ = world.read(node));
            } else {
                self.at_some(|node| node.raft.is_some(), |world, node| _ = world.read(node));
            }
        }
        if self.rng.chance(self.plan.compact) {
            self.at_some(|node| node.raft.is_some(), Self::compact);
        }
        if self.rng.chance(self.plan.campaign) {
            self.at_some(|node| node.raft.is_some(), Self::campaign);
        }
        if self.rng.chance(self.plan.hand_over) {
            self.at_some(leads, Self::hand_over);
        }
        if self.rng.chance(self.plan.change) {
            self.at_some(leads, Self::change);
        }
        if self.rng.chance(self.plan.isolate) {
            self.at_some(leads, Self::isolate);
        }
        if self.rng.chance(self.plan.report) {
            self.at_some(|node| node.raft.is_some(), Self::report_connection);
        }
    }

    /// A core that has just looked at its clock.
    fn raft(&mut self, node: usize) -> Option<&mut Raft> {
        let ahead = u128::from(self.now_ns) * u128::from(self.plan.fast_ppm[node]) / 1_000_000;
        let raft = self.nodes[node].raft.as_mut()?;
        raft.observe_time(self.now_ns + ahead as u64);
        Some(raft)
    }

    /// Does something at a random node of those where it can be done.
    fn at_some(&mut self, can: impl Fn(&Node) -> bool, action: impl FnOnce(&mut Self, usize)) {
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(|&node| can(&self.nodes[node])).collect();
        if !nodes.is_empty() {
            let node = *self.rng.pick(&nodes);
            action(self, node);
        }
    }

    fn disturb(&mut self) {
        if self.rng.chance(self.plan.restart) {
            let retired = self.retired.clone();
            self.at_some(|node| node.raft.is_none() && !retired.contains(&node.id), Self::restart);
        }
        if self.rng.chance(self.plan.crash) {
            self.at_some(|node| node.raft.is_some(), Self::crash);
        }
        if self.rng.chance(self.plan.partition) {
            self.partition();
        }
        if self.rng.chance(self.plan.drop) {
            self.at_some(|node| node.raft.is_some(), Self::lose_connection);
        }
    }

    /// A connection breaks: what is on its way is lost, and the sender is told.
    fn lose_connection(&mut self, node: usize) {
        let from = self.nodes[node].id;
        let to = NodeId(self.rng.below(self.nodes.len()) as u64 + 1);
        self.messages.retain(|message| message.from != from || message.to != to);
        let Some(raft) = self.raft(node) else { return };
        raft.report_unreachable(to);
        self.observe(node);
    }

    fn deliver_some(&mut self) {
        while self.messages.len() > MESSAGES_MAX {
            let at = self.rng.below(self.messages.len());
            self.messages.remove(at);
        }
        if self.messages.is_empty() {
            return;
        }
        let at = if self.rng.chance(self.plan.reorder) { self.rng.below(self.messages.len()) } else { 0 };
        let message = if self.rng.chance(self.plan.duplicate) {
            self.messages[at].clone()
        } else {
            self.messages.remove(at)
        };
        if self.rng.chance(self.plan.drop) {
            let (from, to) = (message.from.0 as usize - 1, message.to);
            if self.rng.chance(300)
                && let Some(raft) = self.raft(from)
            {
                raft.report_unreachable(to);
                self.observe(from);
            }
            return;
        }
        self.deliver(message);
    }

    fn deliver(&mut self, message: Message) {
        let to = message.to.0 as usize - 1;
        if self.blocked.contains(&(message.from, message.to)) {
            return;
        }
        trace!(self, "{} <- {} {} {:?}", message.to, message.from, message.term, message.body);
        let Some(raft) = self.raft(to) else { return };
        raft.step(message).expect("every message comes from a correct peer");
        self.observe(to);
    }

    fn observe(&mut self, node: usize) {
        self.checker.observe(&self.nodes, node);
    }

    fn tick(&mut self, node: usize) {
        let times = self.plan.tick[node];
        if self.nodes[node].raft.is_some() {
            trace!(self, "n{} ticks {times}", node + 1);
        }
        for _ in 0..times {
            let Some(raft) = self.raft(node) else { return };
            raft.tick();
            self.observe(node);
        }
    }

    fn campaign(&mut self, node: usize) {
        trace!(self, "n{} campaigns", node + 1);
        let Some(raft) = self.raft(node) else { return };
        raft.campaign();
        self.observe(node);
    }

    /// A leader is asked to hand over.
    fn hand_over(&mut self, node: usize) {
        let to = NodeId(self.rng.below(self.nodes.len()) as u64 + 1);
        let to = self.rng.chance(700).then_some(to);
        let Some(raft) = self.raft(node) else { return };
        let answer = raft.transfer_leader(to);
        trace!(self, "n{} is to hand over to {to:?}: {answer:?}", node + 1);
        self.observe(node);
    }

    /// A leader is asked for a change of membership, mostly a sensible one.
    fn change(&mut self, node: usize) {
        let Some(raft) = &self.nodes[node].raft else { return };
        let current = raft.configuration().clone();
        let changes: Vec<Change> = (0..1 + self.rng.below(3)).map(|_| self.draw_change(&current)).collect();
        let Some(raft) = self.raft(node) else { return };
        let answer = raft.propose_change(&changes);
        if answer.is_ok() {
            self.tally.changes += 1;
        }
        trace!(self, "n{} is to change {changes:?}: {answer:?}", node + 1);
        self.observe(node);
    }

    fn draw_change(&mut self, current: &Configuration) -> Change {
        let id = NodeId(self.rng.below(self.nodes.len()) as u64 + 1);
        let member = Member { incarnation: id.0, address: format!("{}", self.commands), ..Member::default() };
        if self.rng.chance(150) {
            return Change::SetLease(self.plan.lease.filter(|_| self.rng.chance(700)));
        }
        let is_sensible = self.rng.chance(900);
        match self.rng.below(3) {
            0 if !(is_sensible && current.contains(id)) => Change::AddVoter { id, member },
            1 if !(is_sensible && current.contains(id)) => {
                Change::AddLearner { id, member, joining: self.rng.chance(500) }
            }
            0 if !(is_sensible && current.is_voter(id)) => Change::Promote(id),
            1 if !(is_sensible && current.learners.contains(&id)) => Change::Demote(id),
            1 => Change::Update { id, member },
            _ => Change::Remove(id),
        }
    }

    /// Reports of connections are hints: they may be wrong.
    fn report_connection(&mut self, node: usize) {
        let peer = NodeId(self.rng.below(self.nodes.len()) as u64 + 1);
        let is_broken = self.rng.chance(500);
        let space = *self.rng.pick(&[Space::Ample, Space::Ample, Space::Low, Space::Critical]);
        let Some(raft) = self.raft(node) else { return };
        if is_broken {
            raft.report_disconnected(peer)
        } else {
            raft.report_connected(peer)
        }
        raft.report_space(space);
        self.observe(node);
    }

    fn take_ready(&mut self, node: usize) {
        let Some(ready) = self.nodes[node].take_ready() else { return };
        if self.has_trace {
            for event in &ready.events {
                eprintln!("  n{}: {event:?}", node + 1);
            }
        }
        self.checker.observe_ready(&self.nodes[node], &ready);
        self.observe(node);
        for event in &ready.events {
            match event {
                Event::Truncated { .. } => self.tally.truncations += 1,
                Event::SnapshotAccepted { .. } => self.tally.installs += 1,
                _ => {}
            }
        }
        for read in &ready.reads {
            self.reads.remove(&read.context);
        }
        self.messages.extend(ready.messages);
        for peer in ready.send_snapshots {
            self.send_snapshot(node, peer);
        }
        if self.rng.chance(self.plan.prompt_disk) {
            self.sync(node, usize::MAX);
            self.nodes[node].report();
            self.observe(node);
        }
    }

    fn sync(&mut self, node: usize, count: usize) {
        let count = count.min(self.nodes[node].writes.len());
        let released = self.nodes[node].sync(count);
        for message in &released {
            self.checker.observe_message(&self.nodes[node].disk, message);
        }
        self.messages.extend(released);
        let Node { id, machine, .. } = &self.nodes[node];
        self.checker.observe_state(*id, machine.last, machine.hash);
    }

    fn lag_disk(&mut self, node: usize) {
        if self.rng.chance(500) {
            let count = 1 + self.rng.below(3);
            self.sync(node, count);
        } else {
            self.nodes[node].report();
            self.observe(node);
        }
    }

    fn apply(&mut self, node: usize) {
        let count = 1 + self.rng.below(8);
        let id = self.nodes[node].id;
        for (last, hash) in self.nodes[node].apply(count) {
            self.checker.observe_state(id, last, hash);
        }
        self.observe(node);
    }

    /// Who has applied that it is no member any more is switched off, now or later.
    fn retire(&mut self, node: usize) {
        let Node { id, machine, .. } = &self.nodes[node];
        let id = *id;
        let removed = &machine.configuration.removed;
        if removed.contains(&id) && self.nodes[node].raft.is_some() && self.rng.chance(200) {
            trace!(self, "{id} is retired");
            self.retired.insert(id);
            self.crash(node);
        }
    }

    fn propose(&mut self, node: usize) -> Option<LogId> {
        let size = self.rng.below(60);
        self.commands += 1;
        let command = format!("{}:{}", self.commands, "x".repeat(size));
        match self.raft(node)?.propose(Bytes::from(command)) {
            Ok(id) => {
                trace!(self, "n{} proposes {id}", node + 1);
                self.observe(node);
                Some(id)
            }
            Err(
                ProposeError::NotLeader { .. }
                | ProposeError::Overloaded
                | ProposeError::NoSpace
                | ProposeError::Transferring { .. },
            ) => None,
        }
    }

    fn read(&mut self, node: usize) -> bool {
        self.reads_begun += 1;
        let context = self.reads_begun;
        let Some(raft) = self.raft(node) else { return false };
        let has_lease = raft.status().has_lease;
        match raft.read_index(context) {
            Ok(()) => {
                self.tally.lease_reads += usize::from(has_lease);
                trace!(self, "n{} reads {context}", node + 1);
                self.reads.insert(context, node);
                self.checker.read_began(context);
                true
            }
            Err(ReadIndexError::NotLeader { .. } | ReadIndexError::Overloaded) => false,
        }
    }

    /// Saves the state, and drops log in memory and on disk, each up to a point of its own.
    fn compact(&mut self, node: usize) {
        let target = &mut self.nodes[node];
        let Some(raft) = target.raft.as_mut() else { return };
        let applied = target.machine.last.index;
        if self.rng.chance(600) {
            target.disk.checkpoint = target.machine.clone();
        }
        if self.rng.chance(500) && raft.status().applied >= applied {
            let through = Index(applied.0.saturating_sub(self.rng.below(4) as u64));
            trace!(self, "n{} compacts through {through}", node + 1);
            raft.compact(through);
            target.disk.compact(through);
        }
        self.observe(node);
    }

    fn send_snapshot(&mut self, node: usize, to: NodeId) {
        let from = self.nodes[node].id;
        let term = self.nodes[node].raft.as_ref().unwrap().hard_state().term;
        let (meta, machine) = self.nodes[node].snapshot();
        let body = MessageBody::InstallSnapshot { meta: meta.clone() };
        self.transfers.push(Transfer { message: Message { from, to, term, body }, meta, machine });
    }

    /// Moves a transfer on: it ends, well or badly, and may come twice.
    fn transfer(&mut self) {
        if self.transfers.is_empty() {
            return;
        }
        let at = self.rng.below(self.transfers.len());
        let is_failed = self.rng.chance(self.plan.drop);
        let is_doubled = self.rng.chance(self.plan.duplicate);
        let transfer = self.transfers.remove(at);
        self.end_transfer(&transfer, is_failed);
        if is_doubled {
            self.transfers.push(transfer);
        }
    }

    fn end_transfer(&mut self, transfer: &Transfer, is_failed: bool) {
        let (from, to) = (transfer.message.from, transfer.message.to);
        let sender = from.0 as usize - 1;
        let receiver = to.0 as usize - 1;
        let is_cut = self.blocked.contains(&(from, to)) || self.nodes[receiver].raft.is_none();
        let outcome = if is_failed || is_cut {
            SnapshotOutcome::Failed
        } else {
            self.nodes[receiver].staged.insert(transfer.meta.last, transfer.machine.clone());
            self.deliver(transfer.message.clone());
            SnapshotOutcome::Delivered
        };
        trace!(self, "snapshot {:?} from {from} to {to}: {outcome:?}", transfer.meta.last);
        if let Some(raft) = self.raft(sender) {
            raft.report_snapshot(to, outcome, transfer.meta.last.index);
            self.observe(sender);
        }
    }

    fn crash(&mut self, node: usize) {
        let writes = self.nodes[node].writes.len();
        let kept = self.rng.below(writes + 1);
        let torn = self.rng.chance(500).then(|| self.rng.below(4));
        trace!(self, "n{} crashes, keeping {kept} of {writes} writes, then {torn:?}", node + 1);
        self.nodes[node].crash(kept, torn);
        self.tally.crashes += 1;
        self.forget_reads_of(node);
        self.checker.crashed(self.nodes[node].id);
    }

    fn forget_reads_of(&mut self, node: usize) {
        let lost: Vec<u64> =
            self.reads.iter().filter(|(_, of)| **of == node).map(|(context, _)| *context).collect();
        self.reads.retain(|_, of| *of != node);
        self.checker.forget_reads(lost);
    }

    fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
        let Node { id, machine, raft, .. } = &self.nodes[node];
        trace!(self, "{id} restarts: {:?}", raft.as_ref().map(Raft::status));
        self.checker.observe_state(*id, machine.last, machine.hash);
        self.observe(node);
    }

    /// Heals, or cuts links: two groups, one node off, or single directions.
    fn partition(&mut self) {
        self.blocked.clear();
        let kind = self.rng.below(4);
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let side: Vec<bool> = ids.iter().map(|_| self.rng.chance(500)).collect();
        let off = self.rng.below(ids.len());
        for (a, from) in ids.iter().enumerate() {
            for (b, to) in ids.iter().enumerate() {
                let is_cut = match kind {
                    0 => false,
                    1 => side[a] != side[b],
                    2 => a == off || b == off,
                    _ => self.rng.chance(300),
                };
                if a != b && is_cut {
                    self.blocked.insert((*from, *to));
                }
            }
        }
        trace!(self, "cut links: {:?}", self.blocked);
    }

    /// Cuts a leader off the others, in one direction or both; or ends all cuts.
    fn isolate(&mut self, node: usize) {
        self.blocked.clear();
        let kind = *self.rng.pick(&[0, 1, 1, 1, 2, 3]);
        let id = self.nodes[node].id;
        for other in self.nodes.iter().map(|node| node.id).filter(|other| *other != id) {
            if kind == 1 || kind == 2 {
                self.blocked.insert((other, id));
            }
            if kind == 1 || kind == 3 {
                self.blocked.insert((id, other));
            }
        }
        trace!(self, "cut links: {:?}", self.blocked);
    }

    /// The second phase: a quorum is healed, the rest is cut off, and there must be progress (§3.9 names what it
    /// takes). Everything still on its way arrives first.
    pub(crate) fn heal_and_demand_progress(&mut self) {
        let core = self.draw_core();
        trace!(self, "healing {core:?}");
        self.blocked.clear();
        for node in 0..self.nodes.len() {
            let id = self.nodes[node].id;
            if core.contains(&id) {
                if self.nodes[node].raft.is_none() {
                    self.restart(node);
                }
                continue;
            }
            for &other in &core {
                self.blocked.insert((id, other));
                self.blocked.insert((other, id));
            }
        }
        self.plan.drop = 0;
        let members: Vec<usize> = core.iter().map(|id| id.0 as usize - 1).collect();
        let patience = 40 * self.plan.config.election_timeout_ticks;
        let mut goal: Option<(LogId, u64)> = None;
        for _ in 0..patience {
            self.now_ns += 10_000_000;
            for &node in &members {
                if let Some(raft) = self.raft(node) {
                    raft.report_space(Space::Ample);
                    raft.tick();
                    self.observe(node);
                }
            }
            self.settle(&members);
            if let Some((id, read)) = goal
                && self.has_converged(&members, id.index, read)
            {
                return;
            }
            // What was asked of a leader that has since been followed by another may be lost.
            if goal.is_none_or(|(id, _)| !self.is_led_in(&members, id.term)) {
                goal = members.iter().find_map(|&node| {
                    let id = self.propose(node)?;
                    self.read(node).then_some((id, self.reads_begun))
                });
            }
        }
        let status: Vec<_> =
            members.iter().map(|&node| self.nodes[node].raft.as_ref().unwrap().status()).collect();
        panic!("no progress in {patience} ticks after healing {core:?}, goal {goal:?}: {status:#?}");
    }

    fn is_led_in(&self, members: &[usize], term: Term) -> bool {
        let mut rafts = members.iter().filter_map(|&node| self.nodes[node].raft.as_ref());
        rafts.any(|raft| raft.role() == RoleName::Leader && raft.hard_state().term == term)
    }

    /// A random core that is a quorum of every configuration that anyone still goes by.
    fn draw_core(&mut self) -> BTreeSet<NodeId> {
        let running = self.nodes.iter().map(|node| node.id).filter(|id| !self.retired.contains(id));
        let all: BTreeSet<NodeId> = running.collect();
        let (newest, committed) = self.checker.newest_configuration();
        let mut configurations: Vec<Configuration> = Vec::new();
        for node in &self.nodes {
            let on_disk = node.disk.entries.iter().filter_map(|entry| match &entry.payload {
                Payload::Configuration(configuration) if entry.index >= newest => Some(configuration),
                _ => None,
            });
            configurations.extend(on_disk.cloned());
            let running = node.raft.as_ref().filter(|raft| raft.configuration_index() >= newest);
            configurations.extend(running.map(|raft| raft.configuration().clone()));
        }
        let holds = |c: &Configuration, core: &BTreeSet<NodeId>| is_quorum(c, |id| core.contains(&id));
        // Some were never committed, and come to nothing.
        configurations.retain(|configuration| holds(configuration, &all));
        configurations.push(committed.unwrap_or(&self.plan.configuration).clone());
        // Who is to become a voter may become one at any moment.
        let promoted = configurations.iter().filter(|configuration| !configuration.joining.is_empty());
        let promoted: Vec<Configuration> = promoted
            .map(|configuration| {
                Configuration::of_voters(configuration.voters.union(&configuration.joining).copied())
            })
            .collect();
        configurations.extend(promoted.into_iter().filter(|configuration| holds(configuration, &all)));
        let is_enough = |core: &BTreeSet<NodeId>| configurations.iter().all(|c| holds(c, core));
        assert!(is_enough(&all), "{all:?} are no quorum of {configurations:?}");
        let mut core = all.clone();
        if self.rng.chance(500) {
            return core;
        }
        for id in all {
            core.remove(&id);
            if self.rng.chance(300) || !is_enough(&core) {
                core.insert(id);
            }
        }
        core
    }

    /// Whether all members of the core that are members of the cluster have applied the same, up to `index` at least;
    /// the read is decided; and nothing is left half changed.
    fn has_converged(&self, core: &[usize], index: Index, read: u64) -> bool {
        let (_, newest) = self.checker.newest_configuration();
        let newest = newest.unwrap_or(&self.plan.configuration);
        let members = core.iter().map(|&node| &self.nodes[node]).filter(|node| newest.contains(node.id));
        let applied: BTreeSet<_> = members.map(|node| (node.machine.last, node.machine.hash)).collect();
        applied.len() == 1
            && applied.iter().all(|(last, _)| last.index >= index)
            && !self.reads.contains_key(&read)
            && !newest.is_joint()
    }

    /// Delivers, writes and applies everything until nothing moves. It must come to rest: else answers beget
    /// answers. A follower far behind takes a few passes for each entry, if an append carries no more.
    fn settle(&mut self, members: &[usize]) {
        let lasts =
            self.nodes.iter().filter_map(|node| node.raft.as_ref()).map(|raft| raft.last_log_id().index.0);
        let passes_max = 400 + 4 * lasts.max().unwrap_or(0);
        for _ in 0..passes_max {
            let mut moved = !self.messages.is_empty() || !self.transfers.is_empty();
            for message in std::mem::take(&mut self.messages) {
                self.deliver(message);
            }
            for transfer in std::mem::take(&mut self.transfers) {
                self.end_transfer(&transfer, false);
            }
            for &node in members {
                moved |= self.nodes[node].raft.as_ref().unwrap().has_ready();
                self.take_ready(node);
                self.sync(node, usize::MAX);
                self.nodes[node].report();
                self.observe(node);
                self.apply(node);
                self.make_room(node);
                moved |= !self.nodes[node].to_apply.is_empty();
            }
            if !moved {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.messages);
    }

    /// Compacts as a server would, when half of the room is used.
    fn make_room(&mut self, node: usize) {
        let Node { raft, machine, .. } = &mut self.nodes[node];
        let Some(raft) = raft.as_mut() else { return };
        if raft.log_bytes() > self.plan.config.log_bytes_max / 2 {
            raft.compact(machine.last.index.min(raft.status().applied));
            self.observe(node);
        }
    }
}
