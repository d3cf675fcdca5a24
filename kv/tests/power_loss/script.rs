//! What a node does to its store in one recorded run, and how an image of it is judged.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kv::command::{
    Command, CommandBody, DeleteRange, KeyRange, Operation, Put, SessionId, SessionStamp, Txn, TxnOperation,
};
use kv::state_machine::{KvOptions, KvStateMachine, SessionLimits};
use kv::store::{MemoryPlatter, SledOptions, StoreKind};
use raft::core::{Configuration, Entry, Index, NodeId, Payload, SnapshotMeta, Term};
use raft::disk::RealDisk;
use raft::state_machine::StateMachine;

use crate::platter::Chance;
use crate::recorder;

/// One thing to do.
#[derive(Debug)]
enum Step {
    /// Apply this many entries as one group.
    Apply(usize),
    Checkpoint,
    /// Close the store and open it again, as at a restart.
    Reopen,
    /// Install a snapshot of the state so many entries ahead.
    Install(usize),
}

/// How large things are. What sled writes at once must fit in a quarter of a segment.
#[derive(Clone, Copy)]
struct Shape {
    segment_bytes: usize,
    entries_max: usize,
    value_bytes_max: usize,
    /// Values may take as much as a request may.
    large: bool,
}

impl Shape {
    fn draw(chance: &mut Chance) -> Self {
        match chance.below(5) {
            // As in a real node: values of many rows, few segments.
            0 => Self { segment_bytes: 512 << 10, entries_max: 40, value_bytes_max: 400, large: true },
            1 | 2 => Self { segment_bytes: 64 << 10, entries_max: 260, value_bytes_max: 400, large: false },
            // Many segments, which sled frees, uses again and cuts off.
            _ => Self { segment_bytes: 16 << 10, entries_max: 1_200, value_bytes_max: 60, large: false },
        }
    }
}

/// What is done, and what the state is after each entry.
pub(crate) struct Script {
    segment_bytes: usize,
    steps: Vec<Step>,
    entries: Vec<Entry>,
    /// The checksum of the whole state after so many entries, as a snapshot shows it.
    expected: Vec<u32>,
    /// The state after each entry that a snapshot is installed of.
    snapshots: Vec<(usize, Vec<u8>)>,
}

/// The checksum at a stream's end is left out: over data and its own checksum any sum is the same.
fn sum(snapshot: &[u8]) -> u32 {
    crc32c::crc32c(&snapshot[..snapshot.len() - 4])
}

fn snapshot_of(machine: &mut KvStateMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    machine.begin_snapshot()(&mut bytes).unwrap();
    bytes
}

fn configuration() -> Configuration {
    Configuration::of_voters([NodeId(1)])
}

impl Script {
    /// Draws one.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let shape = Shape::draw(&mut chance);
        let entries: Vec<Entry> = (1..=40 + chance.below(shape.entries_max) as u64)
            .map(|index| {
                let payload = Payload::Command(command(&mut chance, index, shape).encode());
                Entry { term: Term(1), index: Index(index), payload }
            })
            .collect();
        let (mut steps, mut applied) = (Vec::new(), 0);
        while applied < entries.len() {
            let many = (1 + chance.below(30)).min(entries.len() - applied);
            applied += many;
            steps.push(match chance.below(12) {
                0 => Step::Install(many),
                _ => Step::Apply(many),
            });
            match chance.below(8) {
                0..=3 => steps.push(Step::Checkpoint),
                4 | 5 => steps.extend([Step::Checkpoint, Step::Reopen]),
                _ => {}
            }
        }
        steps.push(Step::Checkpoint);
        let (mut expected, mut snapshots) = (Vec::new(), Vec::new());
        let options = KvOptions {
            dir: "store".into(),
            store: StoreKind::Memory(MemoryPlatter::default()),
            sessions: SessionLimits::default(),
        };
        let scratch = scratch();
        let options = KvOptions { dir: scratch.path().join("store"), ..options };
        let (mut reference, _) = KvStateMachine::open(Arc::new(RealDisk), options).unwrap();
        let installs = installs(&steps);
        expected.push(sum(&snapshot_of(&mut reference)));
        for (at, entry) in (1..).zip(&entries) {
            reference.apply(std::slice::from_ref(entry)).unwrap();
            let snapshot = snapshot_of(&mut reference);
            expected.push(sum(&snapshot));
            if installs.contains(&at) {
                snapshots.push((at, snapshot));
            }
        }
        Self { segment_bytes: shape.segment_bytes, steps, entries, expected, snapshots }
    }

    /// One whose rows do not fit a quarter of a segment.
    pub(crate) fn too_large() -> Self {
        let entries = |script: &Self| script.entries.iter().map(Entry::size_bytes).max() >= Some(1_000);
        let script = (0..).map(Self::draw).find(entries);
        Self { segment_bytes: 2 << 10, ..script.unwrap() }
    }

    fn options(&self, root: &Path) -> KvOptions {
        let mut sled = SledOptions::new(root.join("node/store"));
        sled.cache_bytes = 1 << 20;
        sled.segment_bytes = self.segment_bytes;
        let sessions = SessionLimits::default();
        KvOptions { dir: sled.root.clone(), store: StoreKind::Sled(sled), sessions }
    }

    fn open(&self, root: &Path) -> Result<KvStateMachine, String> {
        KvStateMachine::open(Arc::new(RealDisk), self.options(root))
            .map(|(machine, _)| machine)
            .map_err(|error| error.to_string())
    }

    /// Does it all below `root`, which is recorded.
    pub(crate) fn run(&self, root: &Path) -> Result<(), String> {
        let mut machine = self.open(root)?;
        let mut applied = 0;
        for step in &self.steps {
            match step {
                Step::Apply(many) => {
                    machine.apply(&self.entries[applied..applied + many]).map_err(|e| e.to_string())?;
                    applied += many;
                }
                Step::Checkpoint => {
                    let durable = machine.begin_checkpoint()().map_err(|e| e.to_string())?;
                    assert_eq!(durable.index.0, applied as u64);
                    recorder::promised(durable.index.0);
                }
                Step::Reopen => {
                    drop(machine);
                    machine = self.open(root)?;
                }
                Step::Install(many) => {
                    applied += many;
                    let (_, bytes) = self.snapshots.iter().find(|(at, _)| *at == applied).unwrap();
                    let last = self.entries[applied - 1].log_id();
                    let meta = SnapshotMeta { last, configuration: configuration() };
                    let mut bytes: &[u8] = bytes;
                    let from: &mut dyn Read = &mut bytes;
                    machine.install(&meta, from).map_err(|e| e.to_string())?;
                    recorder::promised(last.index.0);
                }
            }
        }
        drop(machine);
        wait_until_closed(root);
        Ok(())
    }

    /// Opens what a loss of power left below `root`, and demands the state that the applied index says, at or above
    /// what was promised. `deep` also applies the rest of the log, and makes that durable.
    pub(crate) fn judge(&self, root: &Path, promised: u64, deep: bool) -> Result<u64, String> {
        let judged = quietly(|| self.judge_inner(root, promised, deep));
        judged.unwrap_or_else(|panic| Err(format!("panic: {panic}")))
    }

    fn judge_inner(&self, root: &Path, promised: u64, deep: bool) -> Result<u64, String> {
        let mut machine = self.open(root)?;
        if let Some(why) = machine.lost() {
            return Err(format!("lost: {why}"));
        }
        let applied = machine.applied().last.index.0;
        if applied < promised {
            return Err(format!("it opened at {applied}, and {promised} was durable"));
        }
        if sum(&snapshot_of(&mut machine)) != self.expected[applied as usize] {
            return Err(format!("its state is not that of entry {applied}"));
        }
        if !deep {
            return Ok(applied);
        }
        for group in self.entries[applied as usize..].chunks(9) {
            machine.apply(group).map_err(|e| e.to_string())?;
        }
        machine.begin_checkpoint()().map_err(|e| e.to_string())?;
        drop(machine);
        let mut machine = self.open(root)?;
        let last = self.entries.len();
        if machine.applied().last.index.0 != last as u64
            || sum(&snapshot_of(&mut machine)) != self.expected[last]
        {
            return Err(format!("opened at {applied}, it did not come to the state of entry {last}"));
        }
        Ok(applied)
    }
}

fn installs(steps: &[Step]) -> Vec<usize> {
    let (mut applied, mut installs) = (0, Vec::new());
    for step in steps {
        match step {
            Step::Apply(many) => applied += many,
            Step::Install(many) => {
                applied += many;
                installs.push(applied);
            }
            Step::Checkpoint | Step::Reopen => {}
        }
    }
    installs
}

fn command(chance: &mut Chance, index: u64, shape: Shape) -> Command {
    let key = |chance: &mut Chance| Bytes::from(format!("key-{:03}", chance.below(60)));
    let put = |chance: &mut Chance| {
        let bytes = if shape.large && chance.below(6) == 0 {
            // Now and then the largest that a request may be.
            let bytes_max = if chance.below(8) == 0 { 3 << 19 } else { 60_000 };
            chance.below(bytes_max)
        } else {
            chance.below(shape.value_bytes_max)
        };
        let value = Bytes::from(vec![chance.next() as u8; bytes]);
        Put { key: key(chance), value, prev_kv: chance.below(4) == 0 && !shape.large }
    };
    let operation = match chance.below(10) {
        0 => Operation::DeleteRange(DeleteRange { range: KeyRange::Key(key(chance)), prev_kv: false }),
        1 => Operation::Compact { revision: index / 2 },
        2 => {
            let (one, other) = (key(chance), key(chance));
            let both = if one == other { vec![one] } else { vec![one, other] };
            let value = Bytes::from(index.to_string());
            let success = both
                .into_iter()
                .map(|key| TxnOperation::Put(Put { key, value: value.clone(), prev_kv: false }))
                .collect();
            Operation::Txn(Txn { compares: vec![], success, failure: vec![] })
        }
        _ => Operation::Put(put(chance)),
    };
    // The first entry opens a session, and so its index is the session's id.
    let stamp = (chance.below(3) == 0).then_some(SessionStamp {
        session: SessionId(1),
        request: index,
        acked_below: index.saturating_sub(20),
    });
    let body = match index {
        1 => CommandBody::OpenSession { ttl_ms: 1 << 40 },
        _ => CommandBody::Operate { stamp, operation },
    };
    Command { cluster_time_ms: index, body }
}

/// A directory in memory where there is one: the losses are made here, not by a real disk.
pub(crate) fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// sled's threads may work on for a moment; the lock on its file is free when the last of them is done.
fn wait_until_closed(root: &Path) {
    for entry in std::fs::read_dir(root.join("node/store")).unwrap() {
        let Ok(db) = std::fs::File::open(entry.unwrap().path().join("db")) else { continue };
        while rustix::fs::flock(&db, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            std::thread::yield_now();
        }
    }
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// Runs `job`; the words of its panic, if it panics, which nobody else gets to see.
pub(crate) fn quietly<T>(job: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.load(Ordering::Relaxed) {
                loud(info);
            }
        }));
    });
    QUIET.store(true, Ordering::Relaxed);
    let done = catch_unwind(AssertUnwindSafe(job));
    QUIET.store(false, Ordering::Relaxed);
    done.map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
    })
}
