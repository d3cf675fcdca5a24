//! A state machine that is a list, kept in one file of the node's own disk.

use std::io::{Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use raft::core::{Configuration, Entry, LogId, Payload, SnapshotMeta};
use raft::disk::{OpenMode, SharedDisk};
use raft::state_machine::{Applied, CheckpointJob, SnapshotJob, StateMachine, StateMachineError};
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize)]
struct List {
    last: LogId,
    configuration: Option<Configuration>,
    items: Vec<Vec<u8>>,
}

/// See the module.
pub struct ListMachine {
    disk: SharedDisk,
    dir: PathBuf,
    now: List,
    unsaved: u64,
}

fn failed(source: std::io::Error) -> StateMachineError {
    StateMachineError { context: "the list".to_owned(), source }
}

impl ListMachine {
    pub fn open(disk: SharedDisk, dir: PathBuf) -> Result<Self, StateMachineError> {
        let path = dir.join("list");
        let now = if disk.exists(&path).map_err(failed)? {
            let file = disk.open(&path, OpenMode::Read).map_err(failed)?;
            let mut bytes = vec![0; file.len().map_err(failed)? as usize];
            file.read_at(&mut bytes, 0).map_err(failed)?;
            postcard::from_bytes(&bytes).expect("what was renamed was whole")
        } else {
            List::default()
        };
        Ok(Self { disk, dir, now, unsaved: 0 })
    }

    pub fn items(&self) -> Vec<Vec<u8>> {
        self.now.items.clone()
    }

    /// Staged, synced, renamed, and the name synced.
    fn save(disk: &SharedDisk, dir: &std::path::Path, list: &List) -> std::io::Result<()> {
        let (staged, path) = (dir.join("list.new"), dir.join("list"));
        if disk.exists(&staged)? {
            disk.remove_file(&staged)?;
        }
        let file = disk.open(&staged, OpenMode::CreateNew)?;
        file.write_at(&postcard::to_stdvec(list).expect("a list can be written"), 0)?;
        file.sync_data()?;
        disk.rename(&staged, &path)?;
        disk.sync_dir(dir)
    }
}

impl StateMachine for ListMachine {
    /// How many items there are with this one.
    type Response = usize;

    fn applied(&self) -> Applied {
        Applied { last: self.now.last, configuration: self.now.configuration.clone() }
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<usize>, StateMachineError> {
        let mut responses = Vec::new();
        for entry in entries {
            assert_eq!(entry.index, self.now.last.index.next(), "entries come in order, each once");
            self.now.last = entry.log_id();
            match &entry.payload {
                Payload::Command(item) => self.now.items.push(item.to_vec()),
                Payload::Configuration(configuration) => {
                    self.now.configuration = Some(configuration.clone());
                }
                Payload::Noop => {}
            }
            self.unsaved += entry.size_bytes();
            responses.push(self.now.items.len());
        }
        Ok(responses)
    }

    fn unsaved_bytes(&self) -> u64 {
        self.unsaved
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        self.unsaved = 0;
        let (cut, disk, dir) = (self.now.clone(), self.disk.clone(), self.dir.clone());
        Box::new(move || Self::save(&disk, &dir, &cut).map(|()| cut.last).map_err(failed))
    }

    fn begin_snapshot(&mut self) -> SnapshotJob {
        let items = self.now.items.clone();
        Box::new(move |out: &mut dyn Write| {
            out.write_all(&postcard::to_stdvec(&items).expect("items can be written")).map_err(failed)
        })
    }

    fn install(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StateMachineError> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes).map_err(failed)?;
        let items = postcard::from_bytes(&bytes).expect("what was verified is whole");
        self.now = List { last: meta.last, configuration: Some(meta.configuration.clone()), items };
        Self::save(&self.disk, &self.dir, &self.now).map_err(failed)
    }
}

/// An item of this number, of many bytes.
pub fn item(number: u64) -> Bytes {
    let mut item = number.to_le_bytes().to_vec();
    item.resize(120, 7);
    item.into()
}
