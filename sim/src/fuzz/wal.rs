//! The log: what a crash and damage leave of it, and files that are no log at all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft::core::{Entry, HardState, Index, LogId, NodeId, Payload, Term};
use raft::disk::{Disk, OpenMode, SharedDisk};
use raft::wal::{Recovered, Wal, WalError, WalIdentity, WalOptions};
use serde::{Deserialize, Serialize};

use crate::disk::SimDisk;

const IDENTITY: WalIdentity = WalIdentity { cluster: 0xc1, member: NodeId(1), incarnation: 0x1c };
/// Segments so small that every few entries begin a new one.
const TINY: WalOptions = WalOptions { segment_bytes: 1024, recycled_max: 1 };
const STEPS_MAX: usize = 40;

/// What is done to a log. Positions are relative, so that any list makes sense.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Step {
    /// Appends a new term and vote if `vote`, and `count` entries of `size` bytes, after cutting `back` entries.
    Append {
        vote: bool,
        back: u8,
        count: u8,
        size: u16,
    },
    Sync,
    Attest,
    /// Compacts all but the last `keep` entries.
    Compact {
        keep: u8,
    },
    /// The power goes off, and comes back.
    PowerLoss {
        seed: u64,
    },
    /// Bytes of a file change, by exclusive or.
    Damage {
        file: u8,
        at: u16,
        mask: Vec<u8>,
    },
    /// A file holds something else altogether.
    Replace {
        file: u8,
        content: Vec<u8>,
    },
    Reopen,
}

/// The log, and all that was ever written to it.
struct Driven {
    disk: SimDisk,
    wal: Option<Wal>,
    last: LogId,
    prev: LogId,
    term: u64,
    written: BTreeSet<(LogId, Bytes)>,
    hard_states: BTreeSet<(u64, Option<u64>)>,
    /// What must be found, while nothing has been damaged or is unsynced.
    is_exact: bool,
}

pub(super) fn wal(bytes: &[u8]) -> bool {
    let steps: Vec<Step> = super::list(bytes, STEPS_MAX);
    if steps.is_empty() {
        return false;
    }
    let mut driven = Driven::new();
    for step in &steps {
        // Refused for good: a node would not start either.
        if !driven.run(step) {
            break;
        }
    }
    driven.run(&Step::Reopen);
    true
}

fn dir() -> PathBuf {
    "/n1/logs".into()
}

fn shared(disk: &SimDisk) -> SharedDisk {
    Arc::new(disk.clone())
}

impl Driven {
    fn new() -> Self {
        let disk = SimDisk::new(1);
        disk.create_dir_all(Path::new("/n1")).expect("an empty disk");
        disk.sync_dir(Path::new("/")).expect("an empty disk");
        let wal = Wal::create(shared(&disk), &dir(), IDENTITY, TINY).expect("an empty disk");
        Self {
            disk,
            wal: Some(wal),
            last: LogId::ZERO,
            prev: LogId::ZERO,
            term: 0,
            written: BTreeSet::new(),
            hard_states: BTreeSet::from([(0, None)]),
            is_exact: true,
        }
    }

    /// Does it; says whether the log is still open.
    fn run(&mut self, step: &Step) -> bool {
        match step {
            Step::Append { vote, back, count, size } => self.append(*vote, *back, *count, *size),
            Step::Sync => {
                self.wal().sync().expect("a good disk");
                self.is_exact = true;
            }
            Step::Attest => {
                self.wal().attest().expect("a good disk");
                self.is_exact = true;
            }
            Step::Compact { keep } => {
                // Only what is durable is compacted.
                self.wal().sync().expect("a good disk");
                self.is_exact = true;
                let through = self.last.index.0.saturating_sub(u64::from(*keep)).max(self.prev.index.0);
                self.wal().compact(Index(through)).expect("a good disk");
                self.prev = self.wal().stats().prev;
            }
            Step::PowerLoss { seed } => {
                self.wal = None;
                self.disk = self.disk.power_loss_image(*seed);
                return self.reopen();
            }
            Step::Damage { file, at, mask } => return self.damage(*file, u64::from(*at), mask),
            Step::Replace { file, content } => return self.replace(*file, content),
            Step::Reopen => return self.reopen(),
        }
        true
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("it is open")
    }

    fn append(&mut self, vote: bool, back: u8, count: u8, size: u16) {
        let first = self.last.index.0.saturating_sub(u64::from(back)).max(self.prev.index.0) + 1;
        self.term += u64::from(vote || back > 0);
        let hard_state = vote.then_some(HardState { term: Term(self.term), voted_for: Some(NodeId(2)) });
        self.hard_states.extend(hard_state.map(|state| (state.term.0, state.voted_for.map(|id| id.0))));
        let count = u64::from(count % 8);
        let entries: Vec<Entry> = (first..first + count)
            .map(|index| {
                let mut content = vec![index as u8; usize::from(size % 1500)];
                content.extend(self.term.to_be_bytes());
                Entry {
                    term: Term(self.term),
                    index: Index(index),
                    payload: Payload::Command(content.into()),
                }
            })
            .collect();
        self.wal().append(hard_state, &entries).expect("a good disk");
        self.written.extend(entries.iter().map(|entry| (entry.log_id(), content(entry))));
        if let Some(last) = entries.last() {
            self.last = last.log_id();
        }
        self.is_exact &= entries.is_empty() && hard_state.is_none();
    }

    /// Changes bytes of a file behind the log's back.
    fn damage(&mut self, file: u8, at: u64, mask: &[u8]) -> bool {
        self.wal = None;
        let files = self.disk.files();
        let Some((path, _)) = files.get(usize::from(file) % files.len().max(1)) else { return self.reopen() };
        let content = self.disk.content(path).expect("it is listed");
        let at = at % (content.len() as u64).max(1);
        let changed: Vec<u8> =
            content.iter().skip(at as usize).zip(mask).map(|(byte, mask)| byte ^ mask).collect();
        if changed.is_empty() {
            return self.reopen();
        }
        self.disk.damage(path, at, &changed).expect("within the file");
        self.is_exact = false;
        self.reopen()
    }

    fn replace(&mut self, file: u8, content: &[u8]) -> bool {
        self.wal = None;
        let files = self.disk.files();
        let Some((path, _)) = files.get(usize::from(file) % files.len().max(1)) else { return self.reopen() };
        let file = self.disk.open(path, OpenMode::Write).expect("it is listed");
        file.set_len(0).expect("a good disk");
        file.write_at(content, 0).expect("a good disk");
        file.sync_data().expect("a good disk");
        self.is_exact = false;
        self.reopen()
    }

    /// Opens it twice: the second time it must be as the first time. Says whether it could be opened.
    fn reopen(&mut self) -> bool {
        let is_exact = self.is_exact && self.wal.is_none();
        self.wal = None;
        let first = self.open();
        let again = self.open();
        match (first, again) {
            (Ok((_, first)), Ok((wal, again))) => {
                assert_eq!(
                    (first.hard_state, first.prev, &first.entries),
                    (again.hard_state, again.prev, &again.entries),
                    "opening it has changed it"
                );
                self.check(&again, is_exact);
                self.wal = Some(wal);
                self.prev = again.prev;
                self.last = again.entries.last().map_or(again.prev, Entry::log_id);
                self.is_exact = true;
                true
            }
            (Err(first), Err(again)) => {
                assert_eq!(first.to_string(), again.to_string(), "opening it has changed it");
                assert!(!is_exact, "an undamaged log does not open: {first}");
                false
            }
            (first, again) => {
                let shown = |result: Result<(Wal, Recovered), WalError>| match result {
                    Ok((_, recovered)) => format!("{recovered:?}"),
                    Err(error) => error.to_string(),
                };
                panic!("opened once it is {}, opened again {}", shown(first), shown(again));
            }
        }
    }

    fn open(&self) -> Result<(Wal, Recovered), WalError> {
        Wal::open(shared(&self.disk), &dir(), IDENTITY, TINY)
    }

    /// Nothing is found that was never written; and all of it, if it was synced and is undamaged.
    fn check(&self, recovered: &Recovered, is_exact: bool) {
        let HardState { term, voted_for } = recovered.hard_state;
        let known = self.hard_states.contains(&(term.0, voted_for.map(|id| id.0)));
        assert!(known, "{:?} was never written", recovered.hard_state);
        let mut before = recovered.prev;
        for entry in &recovered.entries {
            let id = entry.log_id();
            assert!(self.written.contains(&(id, content(entry))), "{id} was never written");
            assert!(id.index == before.index.next() && id.term >= before.term, "{id} behind {before}");
            before = id;
        }
        if is_exact {
            assert_eq!(before, self.last, "the last entry was durable");
        }
    }
}

fn content(entry: &Entry) -> Bytes {
    match &entry.payload {
        Payload::Command(content) => content.clone(),
        other => panic!("{other:?} was never written"),
    }
}
