//! A small cluster of real cores in which everything that may happen is tried.
//!
//! The network is a set that only grows: whatever was sent may arrive at any later time, any number of times, in any
//! order, or never. A disk is written when the model says so, and a crash at any moment loses what was not. Time is
//! absent: any voter may stand for election at any moment.
//!
//! A world is named by its bounds; everything that can happen within them is tried, in every order, shortest first, so
//! that a counterexample is a short one.
//!
//! What keeps the world finite: elections, entries, configuration changes and crashes are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use raft::core::{
    Boot, Change, Config, Configuration, Entry, HardState, LogId, Member, Message, MessageBody, NodeId, Raft,
    Ready, ReadyNumber, RoleName, Term,
};
use stateright::{Checker, Model, Property};

/// The bounds of one world.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// Nodes 1 to this.
    pub(crate) nodes: u64,
    /// Who votes at the beginning.
    pub(crate) voters: Vec<u64>,
    /// How often a node stands for election, all nodes together.
    pub(crate) campaigns: u8,
    /// No command goes behind this index.
    pub(crate) entries: u64,
    /// Heartbeats of leaders: with them, lost appends are found and commit indexes told.
    pub(crate) beats: u8,
    /// Crashes, of all nodes together.
    pub(crate) crashes: u8,
    /// One change of the configuration, if any.
    pub(crate) change: Vec<Change>,
}

/// What one node has written, and what it has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    raft: Raft,
    hard_state: HardState,
    /// The durable log, from index 1 on.
    log: Vec<Entry>,
    writes: Vec<Write>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Write {
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    messages: Vec<Message>,
}

/// A whole cluster at one moment, and what was seen on the way there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    nodes: Vec<Arc<Node>>,
    /// Sent once, ordered by fingerprint.
    sent: BTreeMap<u64, Arc<Message>>,
    campaigns: u8,
    beats: u8,
    crashes: u8,
    changed: bool,
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry that any node gave out as committed, by index.
    committed: Vec<LogId>,
    broken: Option<&'static str>,
}

/// One thing that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Campaign(usize),
    Propose(usize),
    Change(usize),
    Beat(usize),
    Write(usize),
    Crash(usize),
    Deliver(u64),
}

/// A cluster whose nodes all vote.
pub(crate) fn fixed(nodes: u64, campaigns: u8, entries: u64, beats: u8, crashes: u8) -> World {
    World { nodes, voters: (1..=nodes).collect(), campaigns, entries, beats, crashes, change: Vec::new() }
}

/// A cluster of two voters, in which node 3 may take the place of `gone`.
pub(crate) fn replacing(gone: u64, campaigns: u8, beats: u8, crashes: u8) -> World {
    let member = Member::default();
    let change = vec![Change::AddVoter { id: NodeId(3), member }, Change::Remove(NodeId(gone))];
    World { nodes: 3, voters: vec![1, 2], campaigns, entries: 1, beats, crashes, change }
}

/// Walks the whole world and says how large it was.
#[expect(clippy::disallowed_methods, reason = "how long it took is for people to read")]
pub(crate) fn walk(world: World) {
    let began = Instant::now();
    let name = format!("{world:?}");
    let checker = world.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}\n    {} states, {} steps, at most {} deep, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    checker.assert_properties();
}

impl World {
    fn config(&self, id: u64) -> Config {
        Config {
            id: NodeId(id),
            election_timeout_ticks: 10,
            heartbeat_ticks: 1,
            append_bytes_max: 1000,
            inflight_messages_max: 2,
            inflight_bytes_max: 1000,
            log_bytes_max: 1000,
            uncommitted_bytes_max: 1000,
            unapplied_bytes_max: 1000,
            hurried_election_ticks: 0,
            reads_pending_max: 1,
            seed: 1,
        }
    }

    fn boot(&self, id: u64, hard_state: HardState, log: Vec<Entry>) -> Raft {
        let configuration = Configuration::of_voters(self.voters.iter().copied().map(NodeId));
        let (prev, applied) = (LogId::ZERO, LogId::ZERO);
        let boot = Boot { hard_state, prev, entries: log, applied, configuration, damage: None };
        let mut raft = Raft::new(self.config(id), boot).expect("what is on disk fits together");
        raft.forget_the_way();
        raft
    }
}

impl Node {
    /// What the next write will find: the durable log with all that is under way.
    fn whole_log(&self) -> Vec<Entry> {
        let mut log = self.log.clone();
        self.writes.iter().for_each(|write| append(&mut log, &write.entries));
        log
    }
}

fn fingerprint(message: &Message) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(message)
}

fn append(log: &mut Vec<Entry>, entries: &[Entry]) {
    if let Some(first) = entries.first() {
        log.truncate(first.index.0 as usize - 1);
        log.extend_from_slice(entries);
    }
}

impl State {
    /// Something happened to a node: carry out what its core asks for, all but the writing.
    fn carry_out(&mut self, at: usize, change: impl FnOnce(&mut Raft)) {
        let mut node = (*self.nodes[at]).clone();
        change(&mut node.raft);
        while node.raft.has_ready() {
            let ready = node.raft.ready();
            self.observe(&ready);
            ready.messages.into_iter().for_each(|message| self.send(message));
            let (hard_state, entries) = (ready.hard_state, ready.entries);
            // What was sent once may arrive at any time, so it need not be sent again.
            let is_waiting = |m: &Message| node.writes.iter().any(|write| write.messages.contains(m));
            let mut messages = ready.messages_after_persist;
            messages.retain(|message| !is_waiting(message) && !self.has_sent(message));
            if hard_state.is_some() || !entries.is_empty() {
                node.writes.push(Write { hard_state, entries, messages });
            } else if let Some(last) = node.writes.last_mut() {
                last.messages.extend(messages);
            } else {
                messages.into_iter().for_each(|message| self.send(message));
            }
            if let Some(last) = ready.committed.last() {
                node.raft.applied(last.index);
            }
        }
        node.raft.forget_the_way();
        self.look_at_leader(&node);
        self.nodes[at] = Arc::new(node);
    }

    fn has_sent(&self, message: &Message) -> bool {
        self.sent.contains_key(&fingerprint(message))
    }

    fn send(&mut self, message: Message) {
        if self.is_dead(&message) {
            return;
        }
        self.sent.entry(fingerprint(&message)).or_insert_with(|| Arc::new(message));
    }

    /// Whether nothing will ever come of this message: an answer of a term that its receiver has durably left. States
    /// that differ by such messages only are the same.
    fn is_dead(&self, message: &Message) -> bool {
        let left = self.nodes[message.to.0 as usize - 1].hard_state.term;
        match message.body {
            MessageBody::PreVoteResponse { next_term, .. } => next_term <= left && message.term <= left,
            MessageBody::VoteResponse { .. }
            | MessageBody::AppendAccepted { .. }
            | MessageBody::AppendRejected { .. }
            | MessageBody::HeartbeatResponse { .. } => message.term < left,
            _ => false,
        }
    }

    /// State-machine safety: one entry an index, for ever (§3.6.3).
    fn observe(&mut self, ready: &Ready) {
        for entry in &ready.committed {
            let at = entry.index.0 as usize - 1;
            match self.committed.get(at) {
                Some(known) if *known != entry.log_id() => self.broken = Some("state-machine safety"),
                Some(_) => {}
                None if at == self.committed.len() => self.committed.push(entry.log_id()),
                None => self.broken = Some("a gap in what was committed"),
            }
        }
    }

    /// Election safety, and leader completeness (§3.6.3).
    fn look_at_leader(&mut self, node: &Node) {
        if node.raft.role() != RoleName::Leader {
            return;
        }
        let (term, id) = (node.raft.hard_state().term, node.raft.status().id);
        match self.leaders.insert(term, id) {
            Some(other) if other != id => self.broken = Some("election safety"),
            Some(_) => {}
            // Just elected: all that any node has given out as committed must be there.
            None => {
                let is_there = |id: &LogId| id.term >= term || node.raft.term_at(id.index) == Some(id.term);
                if !self.committed.iter().all(is_there) {
                    self.broken = Some("leader completeness");
                }
            }
        }
    }

    fn log_matching(&self) -> bool {
        let logs: Vec<Vec<Entry>> = self.nodes.iter().map(|node| node.whole_log()).collect();
        logs.iter().enumerate().all(|(i, a)| {
            logs.iter().skip(i + 1).all(|b| {
                let same = |(x, y): (&Entry, &Entry)| x.log_id() == y.log_id();
                let meet = a.iter().zip(b).rposition(same);
                meet.is_none_or(|meet| a[..=meet] == b[..=meet])
            })
        })
    }

    fn crash(&mut self, world: &World, at: usize) {
        let node = &self.nodes[at];
        let raft = world.boot(at as u64 + 1, node.hard_state, node.log.clone());
        let (hard_state, log) = (node.hard_state, node.log.clone());
        self.nodes[at] = Arc::new(Node { raft, hard_state, log, writes: Vec::new() });
    }

    fn write(&mut self, at: usize) {
        let mut node = (*self.nodes[at]).clone();
        let write = node.writes.remove(0);
        node.hard_state = write.hard_state.unwrap_or(node.hard_state);
        append(&mut node.log, &write.entries);
        self.nodes[at] = Arc::new(node);
        if write.hard_state.is_some() {
            let sent = std::mem::take(&mut self.sent);
            self.sent = sent.into_iter().filter(|(_, message)| !self.is_dead(message)).collect();
        }
        write.messages.into_iter().for_each(|message| self.send(message));
        // The core counts the writes under way from 1 on.
        self.carry_out(at, |raft| raft.persisted(ReadyNumber(1)));
    }

    pub(crate) fn leaders_seen(&self) -> usize {
        self.leaders.len()
    }

    fn configurations(&self) -> BTreeSet<usize> {
        self.nodes.iter().map(|node| node.raft.configuration().voters.len()).collect()
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let node = |id| Node {
            raft: self.boot(id, HardState::default(), Vec::new()),
            hard_state: HardState::default(),
            log: Vec::new(),
            writes: Vec::new(),
        };
        vec![State {
            nodes: (1..=self.nodes).map(|id| Arc::new(node(id))).collect(),
            sent: BTreeMap::new(),
            campaigns: 0,
            beats: 0,
            crashes: 0,
            changed: false,
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, node) in state.nodes.iter().enumerate() {
            let raft = &node.raft;
            let leads = raft.role() == RoleName::Leader;
            // Before anything has happened all voters are alike: it is enough to let the first one begin.
            let is_first = at == 0 || !state.sent.is_empty();
            if !leads && state.campaigns < self.campaigns && is_first {
                actions.push(Action::Campaign(at));
            }
            if leads && raft.last_log_id().index.0 < self.entries {
                actions.push(Action::Propose(at));
            }
            if leads && !state.changed && !self.change.is_empty() {
                actions.push(Action::Change(at));
            }
            if leads && state.beats < self.beats {
                actions.push(Action::Beat(at));
            }
            if !node.writes.is_empty() {
                actions.push(Action::Write(at));
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash(at));
            }
        }
        actions.extend(state.sent.keys().map(|&name| Action::Deliver(name)));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        match action {
            Action::Campaign(at) => {
                next.campaigns += 1;
                next.carry_out(at, Raft::campaign);
            }
            Action::Propose(at) => next.carry_out(at, |raft| {
                // Refused only while the log has no room.
                let _ = raft.propose(Bytes::from_static(b"x"));
            }),
            Action::Change(at) => {
                let mut begun = false;
                next.carry_out(at, |raft| begun = raft.propose_change(&self.change).is_ok());
                next.changed = begun;
            }
            Action::Beat(at) => {
                next.beats += 1;
                next.carry_out(at, Raft::tick);
            }
            Action::Write(at) => next.write(at),
            Action::Crash(at) => {
                next.crashes += 1;
                next.crash(self, at);
            }
            Action::Deliver(name) => {
                let message = (*last.sent[&name]).clone();
                let at = message.to.0 as usize - 1;
                next.carry_out(at, |raft| {
                    // Whatever a correct peer has sent at some time is acceptable at any later one.
                    raft.step(message).expect("a message of a correct peer");
                });
            }
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing was broken on the way", |_, state: &State| state.broken.is_none()),
            Property::always("log matching", |_, state: &State| state.log_matching()),
            Property::sometimes("two terms have leaders", |world: &World, state: &State| {
                state.leaders_seen() >= 2 || world.campaigns < 2
            }),
            Property::sometimes("all entries are committed", |world: &World, state: &State| {
                state.committed.len() as u64 >= world.entries
            }),
            Property::sometimes("the change has ended", |world: &World, state: &State| {
                world.change.is_empty()
                    || (state.changed
                        && state.configurations().len() == 1
                        && !state.nodes[0].raft.configuration().is_joint())
            }),
        ]
    }
}
