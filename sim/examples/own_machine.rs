//! Simulates a state machine that is not the key-value store: a replicated counter with fetch-and-add.
//!
//! The machine, and a model of what it is meant to do, are all there is to write. Everything else comes with the simulator.
//!
//! ```console
//! $ cargo --config .cargo/madsim.toml run --profile sim -p raftkv-sim --example own_machine -- run --seeds 0..100
//! $ cargo --config .cargo/madsim.toml run --profile sim -p raftkv-sim --example own_machine -- replay 7
//! ```
//!
//! With `COUNTER_BUG=cached-checkpoint` in its environment the counter acknowledges a checkpoint that it has not written:
//! see how long that stays hidden.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use raft::core::{Entry, LogId, Payload, SnapshotMeta};
use raft::disk::{OpenMode, SharedDisk};
use raft::state_machine::{Applied, CheckpointJob, SnapshotJob, StateMachine, StateMachineError};
use raftkv_sim::checker::sequential::Sequential;
use raftkv_sim::own::{self, Model};
use raftkv_sim::random::Random;
use serde::{Deserialize, Serialize};

/// What can be asked of a counter.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Operation {
    /// Adds, and answers what was there before.
    FetchAdd(u64),
    /// Answers what is there.
    Get,
}

/// The counter as it is meant to be.
struct Counting;

impl Sequential for Counting {
    type State = u64;
    type Operation = Operation;
    type Output = u64;

    fn step(&self, state: &u64, operation: &Operation) -> (u64, u64) {
        match operation {
            Operation::FetchAdd(n) => (state + n, *state),
            Operation::Get => (*state, *state),
        }
    }
}

impl Model for Counting {
    type Machine = Counter;

    fn open(&self, disk: SharedDisk, dir: &Path) -> Result<Counter, StateMachineError> {
        Counter::open(disk, dir).map_err(|source| StateMachineError {
            context: format!("opening the counter in {}", dir.display()),
            source,
        })
    }

    fn draw(&self, random: &mut Random) -> Operation {
        if random.chance(400) { Operation::Get } else { Operation::FetchAdd(random.between(1, 9)) }
    }

    fn read_all(&self) -> Operation {
        Operation::Get
    }

    fn command(&self, operation: &Operation) -> Option<Bytes> {
        match operation {
            Operation::FetchAdd(n) => Some(Bytes::copy_from_slice(&n.to_le_bytes())),
            Operation::Get => None,
        }
    }

    fn read(&self, machine: &Counter, _: &Operation) -> u64 {
        machine.count
    }

    fn hash(&self, machine: &Counter) -> u64 {
        machine.count
    }
}

/// The counter as it is: a number in memory, and a file that is replaced at each checkpoint.
struct Counter {
    disk: SharedDisk,
    dir: PathBuf,
    applied: Applied,
    count: u64,
    unsaved_bytes: u64,
}

impl Counter {
    fn open(disk: SharedDisk, dir: &Path) -> std::io::Result<Self> {
        disk.create_dir_all(dir)?;
        let (mut applied, mut count) = (Applied::default(), 0);
        if disk.exists(&dir.join("counter"))? {
            let file = disk.open(&dir.join("counter"), OpenMode::Read)?;
            let mut bytes = vec![0; file.len()? as usize];
            file.read_at(&mut bytes, 0)?;
            (applied.last, applied.configuration, count) =
                postcard::from_bytes(&bytes).map_err(std::io::Error::other)?;
        }
        Ok(Self { disk, dir: dir.to_owned(), applied, count, unsaved_bytes: 0 })
    }

    /// The file's content now, and how to put it in the place of the old one.
    fn save(&self) -> impl FnOnce() -> Result<LogId, StateMachineError> + Send + 'static {
        let applied = self.applied.clone();
        let bytes = postcard::to_stdvec(&(applied.last, applied.configuration, self.count));
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        move || {
            let replace = || -> std::io::Result<()> {
                let staged = dir.join("counter.new");
                let bytes = bytes.map_err(std::io::Error::other)?;
                if disk.exists(&staged)? {
                    disk.remove_file(&staged)?;
                }
                let file = disk.open(&staged, OpenMode::CreateNew)?;
                file.write_at(&bytes, 0)?;
                if std::env::var_os("COUNTER_BUG").is_none() {
                    file.sync_data()?;
                }
                disk.rename(&staged, &dir.join("counter"))?;
                disk.sync_dir(&dir)
            };
            replace()
                .map(|()| applied.last)
                .map_err(|source| StateMachineError { context: "saving the counter".to_owned(), source })
        }
    }
}

impl StateMachine for Counter {
    type Response = u64;

    fn applied(&self) -> Applied {
        self.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<u64>, StateMachineError> {
        let mut answers = Vec::new();
        for entry in entries {
            answers.push(self.count);
            match &entry.payload {
                Payload::Command(command) => {
                    let n = command.as_ref().try_into().map_or(0, u64::from_le_bytes);
                    self.count += n;
                }
                Payload::Configuration(configuration) => {
                    self.applied.configuration = Some(configuration.clone())
                }
                Payload::Noop => {}
            }
            self.applied.last = entry.log_id();
            self.unsaved_bytes += entry.size_bytes();
        }
        Ok(answers)
    }

    fn unsaved_bytes(&self) -> u64 {
        self.unsaved_bytes
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        self.unsaved_bytes = 0;
        Box::new(self.save())
    }

    fn begin_snapshot(&mut self) -> SnapshotJob {
        let count = self.count;
        Box::new(move |out| {
            out.write_all(&count.to_le_bytes())
                .map_err(|source| StateMachineError { context: "writing a snapshot".to_owned(), source })
        })
    }

    fn install(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StateMachineError> {
        let mut bytes = [0; 8];
        state.read_exact(&mut bytes).map_err(|source| StateMachineError {
            context: format!("reading the snapshot of {}", meta.last),
            source,
        })?;
        self.count = u64::from_le_bytes(bytes);
        self.applied = Applied { last: meta.last, configuration: Some(meta.configuration.clone()) };
        self.unsaved_bytes = 0;
        self.save()().map(|_| ())
    }
}

fn main() -> ExitCode {
    own::main(Counting)
}
