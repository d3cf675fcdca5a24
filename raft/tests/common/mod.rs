//! A bare member of a test cluster: a core, a disk that loses what was not synced, and a state machine that is a
//! hash chain. Shared by the golden stories and the message soup.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};

use raft::core::{
    Boot, Config, Configuration, Damage, Entry, HardState, Index, LogId, Message, NodeId, Payload, Raft,
    Ready, ReadyNumber, SnapshotMeta,
};

/// A small generator, so that a schedule is a pure function of its seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// True `parts` times in a thousand.
    pub(crate) fn chance(&mut self, parts: usize) -> bool {
        self.below(1000) < parts
    }

    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// A state machine whose state names the whole history that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) last: LogId,
    pub(crate) hash: u64,
    pub(crate) configuration: Configuration,
}

impl Machine {
    pub(crate) fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index, self.last.index.next(), "applied out of order behind {:?}", self.last);
        self.last = entry.log_id();
        self.hash = chain(self.hash, entry);
        if let Payload::Configuration(configuration) = &entry.payload {
            self.configuration = configuration.clone();
        }
    }
}

/// A fingerprint of an entry and of all before it.
pub(crate) fn chain(before: u64, entry: &Entry) -> u64 {
    let mut hash = before;
    let mut mix = |value: u64| hash = (hash.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    mix(entry.term.0);
    mix(entry.index.0);
    if let Payload::Command(bytes) = &entry.payload {
        bytes.iter().for_each(|&byte| mix(u64::from(byte)));
        mix(bytes.len() as u64 + 1);
    }
    if let Payload::Configuration(configuration) = &entry.payload {
        format!("{configuration:?}").bytes().for_each(|byte| mix(u64::from(byte)));
    }
    hash
}

/// What survives a crash.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) prev: LogId,
    pub(crate) entries: Vec<Entry>,
    pub(crate) checkpoint: Machine,
    /// Damage took entries up to here, and they have not come back.
    pub(crate) lost: Option<LogId>,
    /// The longest lease of any configuration that ever was in the log.
    pub(crate) lease_ms: u32,
}

impl Disk {
    /// The entries from `from` on become unreadable. As the real log does it: a mark tells how far it had come, and
    /// the state goes before the log.
    pub(crate) fn damage(&mut self, from: Index) {
        self.lost = self.lost.max(Some(self.last()));
        self.entries.retain(|entry| entry.index < from);
        if self.last().index < self.checkpoint.last.index.max(self.prev.index) {
            self.prev = self.checkpoint.last;
            self.entries.clear();
        }
        self.forget_what_is_back();
    }

    fn forget_what_is_back(&mut self) {
        let last = self.last();
        self.lost = self.lost.filter(|lost| last < *lost);
    }

    pub(crate) fn last(&self) -> LogId {
        self.entries.last().map_or(self.prev, Entry::log_id)
    }

    /// Whether this entry is safe here, as an entry or inside the state.
    pub(crate) fn holds(&self, id: LogId) -> bool {
        if id.index <= self.prev.index {
            return true;
        }
        let at = (id.index.0 - self.prev.index.0 - 1) as usize;
        self.entries.get(at).is_some_and(|entry| entry.term == id.term)
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.prev.index, "writing {:?} below {:?}", first.log_id(), self.prev);
        self.entries.retain(|entry| entry.index < first.index);
        assert_eq!(first.index, self.last().index.next(), "a gap on disk");
        self.entries.extend_from_slice(entries);
        self.forget_what_is_back();
        for entry in entries {
            if let Payload::Configuration(Configuration { lease: Some(lease), .. }) = &entry.payload {
                self.lease_ms = self.lease_ms.max(lease.duration_ms);
            }
        }
    }

    fn install(&mut self, machine: &Machine) {
        self.prev = machine.last;
        self.entries.clear();
        self.checkpoint = machine.clone();
        self.forget_what_is_back();
    }

    /// Drops entries that the checkpoint holds.
    pub(crate) fn compact(&mut self, through: Index) {
        let through = through.min(self.checkpoint.last.index);
        if let Some(entry) = self.entries.iter().rfind(|entry| entry.index <= through) {
            self.prev = entry.log_id();
            self.entries.retain(|entry| entry.index > through);
        }
    }
}

/// One Ready on its way to the disk.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) number: ReadyNumber,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<SnapshotMeta>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) messages: Vec<Message>,
}

/// One member, up or down.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) config: Config,
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    pub(crate) writes: VecDeque<Write>,
    /// Durable, but the core has not been told yet.
    pub(crate) unreported: Option<(ReadyNumber, Option<Index>)>,
    pub(crate) to_apply: VecDeque<Entry>,
    pub(crate) machine: Machine,
    /// Snapshots that have arrived, by their last entry.
    pub(crate) staged: BTreeMap<LogId, Machine>,
}

impl Node {
    pub(crate) fn new(config: Config, configuration: &Configuration) -> Self {
        let machine = Machine { last: LogId::ZERO, hash: 0, configuration: configuration.clone() };
        let disk = Disk {
            hard_state: HardState::default(),
            prev: LogId::ZERO,
            entries: Vec::new(),
            checkpoint: machine.clone(),
            lost: None,
            lease_ms: 0,
        };
        let mut node = Self {
            id: config.id,
            config,
            raft: None,
            disk,
            writes: VecDeque::new(),
            unreported: None,
            to_apply: VecDeque::new(),
            machine,
            staged: BTreeMap::new(),
        };
        node.restart();
        node
    }

    /// Begins again from the disk.
    pub(crate) fn restart(&mut self) {
        let disk = &self.disk;
        self.machine = disk.checkpoint.clone();
        let boot = Boot {
            hard_state: disk.hard_state,
            prev: disk.prev,
            entries: disk.entries.clone(),
            applied: disk.checkpoint.last,
            configuration: disk.checkpoint.configuration.clone(),
            damage: disk.lost.map(|last| Damage { last, lease_ms: disk.lease_ms }),
        };
        self.config.seed = self.config.seed.wrapping_add(1);
        self.raft = Some(Raft::new(self.config.clone(), boot).expect("what is on disk fits together"));
    }

    /// Loses everything but the disk. Of the writes on their way the first `kept` reach it nevertheless, and then
    /// a part of the next one: the hard state, and the first `torn` entries.
    pub(crate) fn crash(&mut self, kept: usize, torn: Option<usize>) {
        let kept = kept.min(self.writes.len());
        for write in self.writes.drain(..kept).collect::<Vec<_>>() {
            self.make_durable(&write);
        }
        if let (Some(torn), Some(mut write)) = (torn, self.writes.pop_front()) {
            if write.snapshot.is_some() {
                write.entries.clear();
            }
            write.entries.truncate(torn);
            self.make_durable(&write);
        }
        self.raft = None;
        self.writes.clear();
        self.unreported = None;
        self.to_apply.clear();
        self.staged.clear();
    }

    fn make_durable(&mut self, write: &Write) {
        if let Some(hard_state) = write.hard_state {
            self.disk.hard_state = hard_state;
        }
        if let Some(meta) = &write.snapshot {
            let machine = self.staged.get(&meta.last).expect("a snapshot is staged before it is installed");
            self.disk.install(machine);
        }
        self.disk.append(&write.entries);
    }

    /// Takes a Ready, queues its writes and applies, and returns it for the rest.
    pub(crate) fn take_ready(&mut self) -> Option<Ready> {
        let raft = self.raft.as_mut()?;
        if !raft.has_ready() {
            return None;
        }
        let mut ready = raft.ready();
        if ready.snapshot.is_some() {
            // What was given out before is part of the snapshot.
            self.to_apply.clear();
        }
        self.to_apply.append(&mut ready.committed.clone().into());
        self.writes.push_back(Write {
            number: ready.number,
            hard_state: ready.hard_state,
            snapshot: ready.snapshot.clone(),
            entries: ready.entries.clone(),
            messages: std::mem::take(&mut ready.messages_after_persist),
        });
        Some(ready)
    }

    /// Makes the oldest `count` writes durable, under one sync; returns the messages that waited for them.
    pub(crate) fn sync(&mut self, count: usize) -> Vec<Message> {
        let mut released = Vec::new();
        for _ in 0..count {
            let Some(mut write) = self.writes.pop_front() else { break };
            self.make_durable(&write);
            released.append(&mut write.messages);
            let installed = write.snapshot.as_ref().map(|meta| meta.last.index);
            let before = self.unreported.and_then(|(_, installed)| installed);
            self.unreported = Some((write.number, installed.or(before)));
            if installed.is_some() {
                self.machine = self.disk.checkpoint.clone();
            }
        }
        released
    }

    /// Tells the core what is durable.
    pub(crate) fn report(&mut self) {
        let Some(raft) = self.raft.as_mut() else { return };
        let Some((number, installed)) = self.unreported.take() else { return };
        raft.persisted(number);
        if let Some(index) = installed {
            raft.applied(index);
        }
    }

    /// Applies up to `count` entries; returns the states after each.
    pub(crate) fn apply(&mut self, count: usize) -> Vec<(LogId, u64)> {
        let mut states = Vec::new();
        for _ in 0..count {
            let Some(entry) = self.to_apply.pop_front() else { break };
            self.machine.apply(&entry);
            states.push((self.machine.last, self.machine.hash));
        }
        if !states.is_empty()
            && let Some(raft) = self.raft.as_mut()
        {
            raft.applied(self.machine.last.index);
        }
        states
    }

    /// The snapshot this node could send: its state now.
    pub(crate) fn snapshot(&self) -> (SnapshotMeta, Machine) {
        let machine = self.machine.clone();
        (SnapshotMeta { last: machine.last, configuration: machine.configuration.clone() }, machine)
    }
}
