//! Snapshot files on the real disk; crashes are tested on the simulated one, in `sim/tests/`.

use std::io::{Read, Write};

use super::*;
use crate::core::{Configuration, NodeId};
use crate::disk::RealDisk;

const CLUSTER: u128 = 0xc1;

fn meta(index: u64) -> SnapshotMeta {
    let configuration = Configuration::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
    SnapshotMeta { last: LogId::new(7, index), configuration }
}

fn state(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn open(dir: &Path) -> Result<SnapshotDir, SnapshotError> {
    SnapshotDir::open(Arc::new(RealDisk), dir, CLUSTER)
}

fn write(snapshots: &SnapshotDir, index: u64, state: &[u8]) -> SnapshotFile {
    let mut writer = snapshots.create(&meta(index)).unwrap();
    writer.write_all(state).unwrap();
    writer.commit().unwrap()
}

fn read(snapshots: &SnapshotDir) -> Result<Vec<u8>, std::io::Error> {
    let mut state = Vec::new();
    snapshots.reader(&snapshots.newest().unwrap())?.read_to_end(&mut state)?;
    Ok(state)
}

fn frames(snapshots: &SnapshotDir, file: &SnapshotFile) -> Vec<bytes::Bytes> {
    let mut chunks = snapshots.chunks(file).unwrap();
    std::iter::from_fn(|| chunks.next_chunk().unwrap()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    crate::disk::Disk::list(&RealDisk, dir).unwrap()
}

#[test]
fn state_of_any_length_comes_back() {
    for bytes in [0, 1, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 3 * CHUNK_BYTES_MAX + 77] {
        let root = tempfile::tempdir().unwrap();
        let snapshots = open(root.path()).unwrap();
        assert_eq!(snapshots.newest(), None);
        let file = write(&snapshots, 10, &state(bytes));
        assert_eq!(file.meta, meta(10));
        assert_eq!(file.bytes, std::fs::metadata(file.path()).unwrap().len());
        drop(snapshots);
        let snapshots = open(root.path()).unwrap();
        assert_eq!(snapshots.newest(), Some(file));
        assert_eq!(read(&snapshots).unwrap(), state(bytes), "{bytes} bytes");
    }
}

#[test]
fn newer_replaces_older_and_older_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = open(root.path()).unwrap();
    let ten = write(&snapshots, 10, b"ten");
    let twenty = write(&snapshots, 20, b"twenty");
    assert_eq!(write(&snapshots, 15, b"fifteen"), twenty);
    assert_eq!(write(&snapshots, 20, b"again"), twenty);
    assert_eq!(read(&snapshots).unwrap(), b"twenty");
    assert_eq!(names(root.path()).len(), 2, "the older one is in use");
    let mut old = Vec::new();
    snapshots.reader(&ten).unwrap().read_to_end(&mut old).unwrap();
    assert_eq!(old, b"ten");
    drop((ten, twenty));
    write(&snapshots, 30, b"thirty");
    assert_eq!(names(root.path()).len(), 1, "both older ones are removed");
}

#[test]
fn what_was_not_committed_leaves_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = open(root.path()).unwrap();
    write(&snapshots, 10, b"ten");
    let mut writer = snapshots.create(&meta(20)).unwrap();
    writer.write_all(&state(10)).unwrap();
    assert_eq!(names(root.path()).len(), 2);
    drop(writer);
    assert_eq!(names(root.path()).len(), 1);
    std::fs::write(root.path().join("5.tmp"), b"a crash left this").unwrap();
    std::fs::write(root.path().join(name_of(LogId::new(1, 3))), b"and this older one").unwrap();
    let snapshots = open(root.path()).unwrap();
    assert_eq!(names(root.path()).len(), 1);
    assert_eq!(read(&snapshots).unwrap(), b"ten");
}

#[test]
fn a_transfer_gives_the_same_file() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(here.path()).unwrap(), open(there.path()).unwrap());
    let sent = write(&from, 10, &state(2 * CHUNK_BYTES_MAX + 5));
    let mut receiver = to.receive(&sent.meta).unwrap();
    for frame in frames(&from, &sent) {
        assert!(frame.len() <= FRAME_BYTES_MAX);
        assert!(!receiver.is_complete());
        receiver.chunk(&frame).unwrap();
    }
    assert!(receiver.is_complete());
    let got = receiver.commit().unwrap();
    assert_eq!((got.meta, got.bytes), (sent.meta.clone(), sent.bytes));
    assert_eq!(std::fs::read(to.newest().unwrap().path()).unwrap(), std::fs::read(sent.path()).unwrap());
}

#[test]
fn the_rest_of_a_file_can_be_read_from_any_frame_on() {
    for bytes in [0, 1, CHUNK_BYTES_MAX - 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 3 * CHUNK_BYTES_MAX + 77] {
        let root = tempfile::tempdir().unwrap();
        let snapshots = open(root.path()).unwrap();
        let file = write(&snapshots, 10, &state(bytes));
        let all = frames(&snapshots, &file);
        for from in 0..=all.len() {
            let mut chunks = snapshots.chunks(&file).unwrap();
            chunks.skip(from as u64).unwrap();
            let rest: Vec<_> = std::iter::from_fn(|| chunks.next_chunk().unwrap()).collect();
            assert!(rest == all[from..], "{bytes} bytes from frame {from}");
        }
        for from in [all.len() as u64 + 1, u64::MAX] {
            assert!(
                snapshots.chunks(&file).unwrap().skip(from).is_err(),
                "{bytes} bytes have no frame {from}"
            );
        }
    }
}

#[test]
fn a_damaged_frame_behind_those_passed_over_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = open(root.path()).unwrap();
    let file = write(&snapshots, 10, &state(3 * CHUNK_BYTES_MAX));
    let mut bad = std::fs::read(file.path()).unwrap();
    let at = bad.len() - FOOTER_BYTES - 5;
    bad[at] ^= 1;
    std::fs::write(file.path(), bad).unwrap();
    let mut chunks = snapshots.chunks(&file).unwrap();
    chunks.skip(2).unwrap();
    assert!(chunks.next_chunk().is_ok());
    assert!(chunks.next_chunk().is_err());
}

#[test]
fn files_of_the_same_entry_are_told_apart_by_their_checksum() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = write(&open(here.path()).unwrap(), 10, b"one");
    let two = write(&open(there.path()).unwrap(), 10, b"two");
    assert_eq!((&one.meta, one.bytes), (&two.meta, two.bytes));
    assert_ne!(one.checksum, two.checksum);
    assert_eq!(open(here.path()).unwrap().newest().unwrap().checksum, one.checksum, "at the next start too");
}

#[test]
fn a_transfer_takes_only_the_next_frame_of_the_announced_snapshot() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(here.path()).unwrap(), open(there.path()).unwrap());
    let long = 2 * CHUNK_BYTES_MAX + 5;
    let a = frames(&from, &write(&from, 10, &state(long)));
    let b = frames(&from, &write(&from, 11, &state(long)));
    // The same entry, other bytes: only the checksum of the whole tells these apart.
    let here2 = tempfile::tempdir().unwrap();
    let from2 = open(here2.path()).unwrap();
    let c = frames(&from2, &write(&from2, 10, &vec![9; long]));
    let cut = a[1].slice(..a[1].len() - 1);

    let attempts: [(&str, Vec<&[u8]>); 8] = [
        ("another snapshot", vec![&b[0]]),
        ("no header", vec![&a[1]]),
        ("a frame left out", vec![&a[0], &a[2]]),
        ("a frame twice", vec![&a[0], &a[1], &a[1]]),
        ("a frame of another snapshot", vec![&a[0], &b[1]]),
        ("a frame of another file of the same entry", vec![&a[0], &c[1], &a[2], &a[3], &a[4]]),
        ("a frame cut off", vec![&a[0], &cut]),
        ("something behind the footer", vec![&a[0], &a[1], &a[2], &a[3], &a[4], &a[4]]),
    ];
    for (name, frames) in attempts {
        let mut receiver = to.receive(&meta(10)).unwrap();
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            receiver.chunk(frame).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let error = receiver.chunk(last).expect_err(name);
        assert!(matches!(error, SnapshotError::BadTransfer { .. }), "{name}: {error}");
        assert!(receiver.chunk(&a[0]).is_err(), "{name}: it went on after an error");
        assert!(receiver.commit().is_err(), "{name}: it could be committed");
    }
    let mut receiver = to.receive(&meta(10)).unwrap();
    receiver.chunk(&a[0]).unwrap();
    assert!(receiver.commit().is_err(), "an incomplete transfer could be committed");
    assert_eq!(to.newest(), None);
    assert_eq!(names(there.path()), [""; 0]);
}

/// Opens and reads what `bytes` in place of a snapshot give.
fn read_damaged(root: &Path, name: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    std::fs::write(root.join(name), bytes).unwrap();
    let snapshots = open(root).map_err(|e| e.to_string())?;
    read(&snapshots).map_err(|e| e.to_string())
}

#[test]
fn every_flipped_byte_and_every_cut_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let file = write(&open(root.path()).unwrap(), 10, &state(100));
    let good = std::fs::read(file.path()).unwrap();
    let name = name_of(file.meta.last);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        let error = read_damaged(root.path(), &name, &bad).expect_err("a flipped byte");
        assert!(error.contains(&name), "{error}");
        let error = read_damaged(root.path(), &name, &good[..at]).expect_err("a cut");
        assert!(error.contains(&name), "{error}");
    }
    let longer = [good.as_slice(), &[0]].concat();
    read_damaged(root.path(), &name, &longer).expect_err("something behind the footer");
    assert_eq!(read_damaged(root.path(), &name, &good).unwrap(), state(100));
}

#[test]
fn a_snapshot_of_another_cluster_is_refused() {
    let root = tempfile::tempdir().unwrap();
    write(&open(root.path()).unwrap(), 10, b"ten");
    let error = SnapshotDir::open(Arc::new(RealDisk), root.path(), 0xc2).unwrap_err();
    assert!(matches!(error, SnapshotError::WrongCluster { .. }), "{error}");
    let moved = root.path().join(name_of(LogId::new(7, 11)));
    std::fs::rename(root.path().join(name_of(LogId::new(7, 10))), moved).unwrap();
    let error = open(root.path()).unwrap_err();
    assert!(error.to_string().contains("does not fit its name"), "{error}");
}

/// What the current build writes, as it stands in `testdata`. If the bytes must change, the version does too, and
/// the old ones stay there and must still be read.
#[test]
fn format_version_1_is_written_and_read() {
    let fixture: &[u8] = include_bytes!("../../testdata/snapshot/v1.snap");
    let root = tempfile::tempdir().unwrap();
    let file = write(&open(root.path()).unwrap(), 10, &state(40));
    assert!(std::fs::read(file.path()).unwrap() == fixture, "the format changed without a new version");
    assert_eq!(read_damaged(root.path(), &name_of(file.meta.last), fixture).unwrap(), state(40));
}
