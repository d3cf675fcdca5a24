//! Snapshots: damaged on disk, damaged on the way, and bytes that are none.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kv::command::{Command, CommandBody, Operation, Put};
use raft::core::{Configuration, Entry, Index, LogId, NodeId, Payload, SnapshotMeta, Term};
use raft::disk::{Disk, OpenMode, SharedDisk};
use raft::snapshot::{SnapshotDir, SnapshotError};
use raft::state_machine::StateMachine;
use serde::{Deserialize, Serialize};

use super::commands;
use crate::disk::SimDisk;

/// What happens to a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Case {
    /// Bytes of its file change, by exclusive or.
    Damaged { state: Vec<u8>, repeat: u8, at: u32, mask: Vec<u8> },
    /// Its file holds something else.
    Replaced { content: Vec<u8> },
    /// Its frames arrive as these numbers say, one of them changed.
    Sent { state: Vec<u8>, repeat: u8, order: Vec<u8>, frame: u8, at: u32, mask: u8 },
    /// Frames of nobody knows whom.
    Received { frames: Vec<Vec<u8>> },
    /// A state machine is to install this.
    Installed { state: Vec<u8> },
    /// A state machine is to install what another one wrote, changed.
    Passed { values: Vec<Vec<u8>>, at: u32, mask: Vec<u8> },
}

pub(super) fn snapshots(bytes: &[u8]) -> bool {
    let Ok(case) = postcard::from_bytes(bytes) else { return false };
    match case {
        Case::Damaged { state, repeat, at, mask } => damaged(&repeated(state, repeat), at, &mask),
        Case::Replaced { content } => replaced(&content),
        Case::Sent { state, repeat, order, frame, at, mask } => {
            sent(&repeated(state, repeat), &order, usize::from(frame), at as usize, mask);
        }
        Case::Received { frames } => received(&frames),
        Case::Installed { state } => installed(&state),
        Case::Passed { values, at, mask } => passed(&values, at as usize, &mask),
    }
    true
}

/// Frames hold a megabyte: a state of more than one frame needs to be said shortly.
fn repeated(state: Vec<u8>, times: u8) -> Vec<u8> {
    let times = if state.len() > 4096 { 1 } else { usize::from(times).pow(2) + 1 };
    state.repeat(times)
}

fn meta(index: u64) -> SnapshotMeta {
    let configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
    SnapshotMeta { last: LogId::new(1, index), configuration }
}

fn open(disk: &SimDisk) -> Result<SnapshotDir, SnapshotError> {
    let disk: SharedDisk = Arc::new(disk.clone());
    SnapshotDir::open(disk, Path::new("/n1/snapshots"), 0xc1)
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir_all(Path::new("/n1")).expect("an empty disk");
    disk
}

/// A disk with one snapshot of this state.
fn with_snapshot(state: &[u8]) -> SimDisk {
    let disk = new_disk();
    let snapshots = open(&disk).expect("an empty disk");
    let mut writer = snapshots.create(&meta(9)).expect("a good disk");
    std::io::Write::write_all(&mut writer, state).expect("a good disk");
    writer.commit().expect("a good disk");
    disk
}

/// Reads the newest snapshot, if it can be read in full.
fn read(disk: &SimDisk) -> Option<Vec<u8>> {
    let snapshots = open(disk).ok()?;
    let file = snapshots.newest()?;
    let mut content = Vec::new();
    snapshots.reader(&file).ok()?.read_to_end(&mut content).ok()?;
    assert_eq!(file.meta, meta(9), "it stands for something else");
    Some(content)
}

fn damaged(state: &[u8], at: u32, mask: &[u8]) {
    let disk = with_snapshot(state);
    let (path, bytes) = disk.files().pop().expect("a snapshot");
    let at = u64::from(at) % bytes;
    let content = disk.content(&path).expect("it is listed");
    let changed: Vec<u8> =
        content.iter().skip(at as usize).zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    disk.damage(&path, at, &changed).expect("within the file");
    let is_whole = mask.iter().take(changed.len()).all(|mask| *mask == 0);
    match read(&disk) {
        Some(found) => assert!(found == state, "another state was read"),
        None => assert!(!is_whole, "an undamaged snapshot cannot be read"),
    }
}

fn replaced(content: &[u8]) {
    let disk = with_snapshot(b"state");
    let (path, _) = disk.files().pop().expect("a snapshot");
    let file = disk.open(&path, OpenMode::Write).expect("it is listed");
    file.set_len(0).expect("a good disk");
    file.write_at(content, 0).expect("a good disk");
    drop(file);
    let _ = read(&disk);
}

fn sent(state: &[u8], order: &[u8], changed: usize, at: usize, mask: u8) {
    let from = open(&with_snapshot(state)).expect("a good disk");
    let file = from.newest().expect("a snapshot");
    let mut chunks = from.chunks(&file).expect("a good disk");
    let mut frames = Vec::new();
    while let Some(frame) = chunks.next_chunk().expect("a good disk") {
        frames.push(frame.to_vec());
    }
    if let Some(frame) = frames.get_mut(changed)
        && let Some(byte) = frame.get_mut(at)
    {
        *byte ^= mask;
    }
    let to = new_disk();
    let snapshots = open(&to).expect("an empty disk");
    let mut receiver = snapshots.receive(&file.meta).expect("a good disk");
    for number in order {
        let Some(frame) = frames.get(usize::from(*number)) else { continue };
        if receiver.chunk(frame).is_err() {
            break;
        }
    }
    if receiver.commit().is_ok() {
        drop(snapshots);
        assert!(read(&to).is_some_and(|found| found == state), "another state has arrived");
    }
}

fn received(frames: &[Vec<u8>]) {
    let disk = new_disk();
    let snapshots = open(&disk).expect("an empty disk");
    let mut receiver = snapshots.receive(&meta(9)).expect("a good disk");
    let all_taken = frames.iter().all(|frame| receiver.chunk(frame).is_ok());
    let is_committed = receiver.commit().is_ok();
    assert!(all_taken || !is_committed, "a snapshot was committed behind a bad frame");
}

fn installed(state: &[u8]) {
    let mut machine = commands::open(&SimDisk::new(1));
    let before = machine.applied();
    if machine.install(&meta(9), &mut &state[..]).is_err() {
        assert_eq!(machine.applied(), before, "the old state is still in place");
    } else {
        assert_eq!(machine.applied().last, meta(9).last);
    }
}

fn put(index: u64, value: &[u8]) -> Entry {
    let put =
        Put { key: vec![b'k', index as u8].into(), value: Bytes::copy_from_slice(value), prev_kv: false };
    let body = CommandBody::Operate { stamp: None, operation: Operation::Put(put) };
    let command = Command { cluster_time_ms: index, body };
    Entry { term: Term(1), index: Index(index), payload: Payload::Command(command.encode()) }
}

fn passed(values: &[Vec<u8>], at: usize, mask: &[u8]) {
    let mut machine = commands::open(&SimDisk::new(1));
    let entries: Vec<Entry> =
        (1..).zip(values.iter().take(8)).map(|(index, value)| put(index, value)).collect();
    machine.apply(&entries).expect("a good disk");
    let mut state = Vec::new();
    machine.begin_snapshot()(&mut state).expect("a vector takes everything");
    let at = at % state.len().max(1);
    state.iter_mut().skip(at).zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    installed(&state);
}
