//! A dumb twin of the log: the list of states that a crash may leave.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use raft::core::{Configuration, Entry, HardState, Index, LogId, NodeId, Payload, Term};
use raft::disk::SharedDisk;
use raft::wal::{Recovered, Wal, WalError, WalIdentity, WalOptions};
use raftkv_sim::disk::SimDisk;

pub const IDENTITY: WalIdentity = WalIdentity { cluster: 0xc1, member: NodeId(1), incarnation: 0x1c };

/// Segments so small that every few entries begin a new one.
pub const TINY: WalOptions = WalOptions { segment_bytes: 1024, recycled_max: 1 };

/// What is done to a log. Positions are relative, so that any list of these makes sense.
#[derive(Clone, Debug)]
pub enum Op {
    /// Appends a new term and vote if `vote`, and entries of these sizes, after cutting `back` entries.
    Append {
        vote: bool,
        back: u64,
        sizes: Vec<usize>,
    },
    Sync,
    Attest,
    /// Compacts all but the last `keep` durable entries.
    Compact {
        keep: u64,
    },
    /// Resets to `ahead - 3` entries behind the last.
    Reset {
        ahead: u64,
    },
}

pub fn append(count: usize, size: usize) -> Op {
    Op::Append { vote: false, back: 0, sizes: vec![size; count] }
}

pub fn cut(back: u64, count: usize, size: usize) -> Op {
    Op::Append { vote: true, back, sizes: vec![size; count] }
}

pub fn vote() -> Op {
    Op::Append { vote: true, back: 0, sizes: vec![] }
}

pub fn any_op() -> impl Strategy<Value = Op> {
    let sizes = prop::collection::vec(prop_oneof![Just(0), Just(1), 2..60usize, 200..1500usize], 0..5);
    let back = prop_oneof![3 => Just(0), 1 => 1..12u64];
    prop_oneof![
        6 => (any::<bool>(), back, sizes).prop_map(|(vote, back, sizes)| Op::Append { vote, back, sizes }),
        4 => Just(Op::Sync),
        1 => Just(Op::Attest),
        1 => (0..8u64).prop_map(|keep| Op::Compact { keep }),
        1 => (0..12u64).prop_map(|ahead| Op::Reset { ahead }),
    ]
}

/// One state of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub hard_state: HardState,
    /// The log begins here, or, as far as segments were compacted, up to `compacted`.
    pub prev: LogId,
    pub entries: Vec<Entry>,
    pub compacted: Index,
}

impl State {
    pub fn last(&self) -> LogId {
        self.entries.last().map_or(self.prev, Entry::log_id)
    }

    /// Whether this is what was recovered.
    pub fn agrees(&self, recovered: &Recovered) -> bool {
        let prev = recovered.prev;
        let Some(skip) = prev.index.0.checked_sub(self.prev.index.0) else { return false };
        let at_prev = skip.checked_sub(1).and_then(|i| self.entries.get(i as usize));
        let known = at_prev.map_or(self.prev, Entry::log_id) == prev;
        let allowed = skip == 0 || prev.index <= self.compacted;
        let entries = self.entries.get(skip as usize..).unwrap_or_default();
        known && allowed && self.hard_state == recovered.hard_state && entries == recovered.entries
    }

    fn begin_at(&mut self, prev: LogId) {
        let skip = (prev.index.0 - self.prev.index.0) as usize;
        self.entries.drain(..skip);
        self.prev = prev;
    }
}

/// The states that a crash may leave now: the first is the one that is promised, each further one is a record or a
/// structural change later.
#[derive(Clone, Debug)]
pub struct Model {
    pub states: Vec<State>,
    /// Makes every entry differ from every other.
    unique: u64,
}

impl Model {
    pub fn new() -> Self {
        let state = State {
            hard_state: HardState::default(),
            prev: LogId::ZERO,
            entries: Vec::new(),
            compacted: Index::ZERO,
        };
        Self { states: vec![state], unique: 0 }
    }

    pub fn of(recovered: &Recovered) -> Self {
        let Recovered { hard_state, prev, entries, .. } = recovered.clone();
        let state = State { hard_state, prev, entries, compacted: prev.index };
        // Far from any that an earlier model drew.
        Self { states: vec![state], unique: 1 << 32 }
    }

    pub fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn promise(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }

    fn push(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push(state);
    }

    fn entry(&mut self, term: Term, index: Index, size: usize) -> Entry {
        self.unique += 1;
        let payload = match size {
            0 => Payload::Noop,
            1 => Payload::Configuration(Configuration::of_voters([NodeId(self.unique), NodeId(2)])),
            n => {
                let text = format!("{}-", self.unique);
                Payload::Command(text.bytes().cycle().take(n).collect::<Vec<_>>().into())
            }
        };
        Entry { term, index, payload }
    }

    /// Does `op` to the log and to the model. On an error the model holds every state that may be found.
    pub fn apply(&mut self, wal: &mut Wal, op: &Op) -> Result<(), WalError> {
        match op {
            Op::Append { vote, back, sizes } => self.append(wal, *vote, *back, sizes),
            Op::Sync => wal.sync().map(|()| self.promise()),
            Op::Attest => wal.attest().map(|()| self.promise()),
            Op::Compact { keep } => {
                let promised = &self.states[0];
                let through = Index(promised.last().index.0.saturating_sub(*keep));
                let through = through.max(promised.prev.index);
                for state in &mut self.states {
                    state.compacted = state.compacted.max(through);
                }
                wal.compact(through)?;
                let prev = wal.stats().prev;
                self.states.iter_mut().for_each(|state| state.begin_at(prev));
                Ok(())
            }
            Op::Reset { ahead } => {
                let now = self.now();
                let index = Index((now.last().index.0 + ahead).saturating_sub(3).max(now.compacted.0));
                let prev = LogId { term: now.hard_state.term, index };
                self.push(|state| {
                    state.entries.clear();
                    state.prev = prev;
                    state.compacted = index;
                });
                wal.reset(prev).map(|()| self.promise())
            }
        }
    }

    fn append(&mut self, wal: &mut Wal, vote: bool, back: u64, sizes: &[usize]) -> Result<(), WalError> {
        let now = self.now().clone();
        let mut hard_state = now.hard_state;
        if vote {
            hard_state = HardState { term: hard_state.term.next(), voted_for: Some(NodeId(back)) };
        }
        let first = Index((now.last().index.0 + 1).saturating_sub(back).max(now.compacted.0 + 1));
        let entries: Vec<_> =
            (first.0..).zip(sizes).map(|(i, size)| self.entry(hard_state.term, Index(i), *size)).collect();
        let cut = first <= now.last().index && !entries.is_empty();
        let mut promised = None;
        if cut {
            self.push(|state| {
                state.hard_state = hard_state;
                state.entries.truncate((first.0 - 1 - state.prev.index.0) as usize);
            });
            promised = Some(self.states.len() - 1);
        } else if vote {
            self.push(|state| state.hard_state = hard_state);
        }
        for entry in &entries {
            self.push(|state| state.entries.push(entry.clone()));
        }
        wal.append(vote.then_some(hard_state), &entries)?;
        self.states.drain(..promised.unwrap_or(0));
        Ok(())
    }

    /// Panics unless `recovered` is one of the states that may be found.
    pub fn check(&self, recovered: &Recovered, context: &str) {
        let found = self.states.iter().any(|state| state.agrees(recovered));
        assert!(found, "{context}: recovered\n{recovered:?}\nwhich is none of\n{:#?}", self.states);
    }
}

pub fn dir() -> PathBuf {
    "/n1/logs".into()
}

pub fn shared(disk: &SimDisk) -> SharedDisk {
    Arc::new(disk.clone())
}

pub fn create(disk: SharedDisk, dir: &Path, options: WalOptions) -> Result<Wal, WalError> {
    Wal::create(disk, dir, IDENTITY, options)
}

pub fn open(disk: SharedDisk, dir: &Path, options: WalOptions) -> Result<(Wal, Recovered), WalError> {
    Wal::open(disk, dir, IDENTITY, options)
}

/// A simulated disk on which a node's directory stands durably.
pub fn new_disk(seed: u64) -> SimDisk {
    use raft::disk::Disk;
    let disk = SimDisk::new(seed);
    disk.create_dir_all(Path::new("/n1")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}
