//! Snapshot files under crashes at every disk call.

use std::io::{Read, Write};
use std::path::PathBuf;

use raft::core::{Configuration, LogId, NodeId, SnapshotMeta};
use raft::snapshot::{SnapshotDir, SnapshotError};
use raftkv_sim::disk::{Call, SimDisk};

use crate::model::{new_disk, shared};

fn dir() -> PathBuf {
    "/n1/snapshots".into()
}

fn open(disk: &SimDisk) -> Result<SnapshotDir, SnapshotError> {
    SnapshotDir::open(shared(disk), &dir(), 0xc1)
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last: LogId::new(1, index), configuration: Configuration::of_voters([NodeId(1)]) }
}

fn state(index: u64) -> Vec<u8> {
    (0..3000).map(|i| (i * index) as u8).collect()
}

fn write(snapshots: &SnapshotDir, index: u64) -> Result<(), SnapshotError> {
    let mut writer = snapshots.create(&meta(index))?;
    let incomplete = || SnapshotError::Incomplete { meta: meta(index).last };
    for part in state(index).chunks(700) {
        writer.write_all(part).map_err(|_| incomplete())?;
    }
    writer.commit().map(|file| assert_eq!(file.meta, meta(index)))
}

fn transfer(from: &SnapshotDir, to: &SnapshotDir) -> Result<(), SnapshotError> {
    let file = from.newest().unwrap();
    let mut chunks = from.chunks(&file).unwrap();
    let mut receiver = to.receive(&file.meta)?;
    while let Some(frame) = chunks.next_chunk().unwrap() {
        receiver.chunk(&frame)?;
    }
    receiver.commit().map(|_| ())
}

/// The newest snapshot, read in full; panics if it does not hold what it stands for.
fn newest(disk: &SimDisk, context: &str) -> Option<u64> {
    let snapshots = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let file = snapshots.newest()?;
    let mut content = Vec::new();
    snapshots
        .reader(&file)
        .unwrap()
        .read_to_end(&mut content)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let index = file.meta.last.index.0;
    assert!(file.meta == meta(index) && content == state(index), "{context}: {file:?}");
    assert_eq!(disk.files().len(), 1, "{context}: leftovers");
    Some(index)
}

/// At each point of writing a second and receiving a third snapshot there is a whole one, never an older one than
/// was committed.
#[test]
fn a_crash_anywhere_leaves_a_whole_snapshot() {
    let leader = new_disk(9);
    let leader_snapshots = open(&leader).unwrap();
    write(&leader_snapshots, 30).unwrap();
    for k in 0.. {
        let disk = new_disk(k);
        let snapshots = open(&disk).unwrap();
        write(&snapshots, 10).unwrap();
        disk.set_crash_after(k);
        let mut committed = 10;
        let mut result = write(&snapshots, 20);
        if result.is_ok() {
            committed = 20;
            result = transfer(&leader_snapshots, &snapshots);
        }
        if result.is_ok() {
            committed = 30;
        }
        drop(snapshots);
        for seed in 0..32 {
            let context = format!("crash after {k} calls, fate {seed}");
            let image = disk.power_loss_image(seed);
            let found = newest(&image, &context);
            assert!(found >= Some(committed), "{context}: {found:?}, but {committed} was committed");
            assert_eq!(newest(&image.durable_image(), &context), found, "{context}: opened again");
            // Opening changes names too.
            for j in 0..4 {
                let image = disk.power_loss_image(seed);
                image.set_crash_after(j);
                let _ = open(&image);
                let again = newest(&image.power_loss_image(seed + 1), &context);
                assert_eq!(again, found, "{context}: opening crashed after {j} calls");
            }
        }
        let image = disk.process_crash_image();
        let found = newest(&image, "process crash");
        assert!(found >= Some(committed));
        for seed in 0..32 {
            // What another process took for the newest, and removed others for, must stay.
            let context = format!("process crash after {k} calls, then a power loss, fate {seed}");
            assert_eq!(newest(&image.power_loss_image(seed), &context), found, "{context}");
        }
        if result.is_ok() {
            return;
        }
    }
}

/// A failed call fails the snapshot, and the one before it stays.
#[test]
fn a_failed_call_leaves_the_snapshot_before() {
    for kind in [Call::Write, Call::SyncData, Call::Name, Call::SyncDir] {
        let disk = new_disk(3);
        let snapshots = open(&disk).unwrap();
        write(&snapshots, 10).unwrap();
        disk.fail_after(kind, 0);
        write(&snapshots, 20).expect_err("a failed call");
        if kind != Call::SyncDir {
            assert_eq!(snapshots.newest().map(|file| file.meta), Some(meta(10)));
        }
        assert!(newest(&disk.durable_image(), "a failed call") >= Some(10));
        write(&snapshots, 30).unwrap();
        assert_eq!(newest(&disk.durable_image(), "the next one"), Some(30));
    }
}
