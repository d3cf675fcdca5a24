//! The log with damage: what was durable is never cut in silence, and what was not never stops a node. What becomes of
//! a log that lost something is in `wal_repair`.

use std::path::{Path, PathBuf};

use raft::core::{Entry, LogId};
use raft::wal::{Fault, Recovered, WalError, WalOptions};
use raftkv_sim::disk::SimDisk;

use crate::model::{Model, Op, TINY, append, create, cut, dir, new_disk, open, shared, vote};

const HEADER_BYTES: u64 = 512;
/// A mark with its record.
const MARK_BYTES: u64 = 87;

/// All that these tests write at once fits into one segment.
const ROOMY: WalOptions = WalOptions { segment_bytes: 4096, ..TINY };

/// A log that was closed well, and what it holds.
fn closed(script: &[Op]) -> (SimDisk, Model) {
    let disk = new_disk(1);
    let mut model = Model::new();
    let mut wal = create(shared(&disk), &dir(), TINY).unwrap();
    for op in script {
        model.apply(&mut wal, op).unwrap();
    }
    wal.attest().unwrap();
    (disk, model)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.extension().is_some_and(|e| e == "wal")).collect()
}

fn flip(disk: &SimDisk, path: &Path, at: u64, mask: u8) {
    let byte = disk.content(path).unwrap()[at as usize];
    disk.damage(path, at, &[byte ^ mask]).unwrap();
}

fn try_open(disk: &SimDisk) -> Result<Recovered, WalError> {
    open(shared(disk), &dir(), TINY).map(|(_, recovered)| recovered)
}

/// Opens a log in which damage must be found.
fn find_damage(disk: &SimDisk) -> (Recovered, Fault) {
    let recovered = try_open(disk).unwrap();
    let fault = recovered.fault.clone().unwrap_or_else(|| panic!("nothing was found: {recovered:?}"));
    (recovered, fault)
}

fn last(recovered: &Recovered) -> LogId {
    recovered.entries.last().map_or(recovered.prev, Entry::log_id)
}

/// What damage left is a beginning of what was there, or of what was there before a cut. The vote is never lost, and how
/// far the log had come is known exactly.
fn check_left(recovered: &Recovered, model: &Model, context: &str) {
    let now = model.now();
    assert_eq!(recovered.hard_state, now.hard_state, "{context}: the vote");
    let whole = now.entries.iter().map(Entry::log_id);
    let differs = recovered.entries.iter().map(Entry::log_id).zip(whole).find(|(left, whole)| left != whole);
    assert!(differs.is_none_or(|(left, whole)| left.term < whole.term), "{context}: {differs:?}");
    let lost = (last(recovered) < now.last()).then(|| now.last());
    assert_eq!(recovered.damage.map(|damage| damage.last), lost, "{context}: {recovered:?}");
}

/// Where the last record of a segment ends: behind it are only zeros in these tests.
fn end_of(disk: &SimDisk, path: &Path) -> u64 {
    let content = disk.content(path).unwrap();
    content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

/// Every byte of a small log is flipped. Either the log says which file is damaged and where, and how far it had come,
/// or it holds exactly what it held.
#[test]
fn a_flipped_byte_below_the_attested_point_is_damage() {
    let (disk, model) = closed(&[vote(), append(4, 60), Op::Sync, cut(1, 3, 70), vote(), append(1, 1)]);
    let paths = segments(&disk);
    assert!(paths.len() >= 2, "{paths:?}");
    let newest = paths.last().unwrap();
    for path in &paths {
        let end = end_of(&disk, path);
        // The last mark tells of all before it, and nobody tells of the mark.
        let attested = if path == newest { end - MARK_BYTES } else { HEADER_BYTES };
        for at in 0..disk.content(path).unwrap().len() as u64 {
            for mask in [0x01, 0xff] {
                let image = disk.durable_image();
                flip(&image, path, at, mask);
                let context = format!("{} at {at}", path.display());
                let recovered = try_open(&image).unwrap_or_else(|error| panic!("{context}: {error}"));
                let Some(Fault { path: named, offset, .. }) = &recovered.fault else {
                    assert!(at >= attested, "{context} was durable");
                    model.check(&recovered, "a flipped byte that matters to nobody");
                    continue;
                };
                assert!(
                    named == path && *offset <= at,
                    "{context}, but named {} at {offset}",
                    named.display()
                );
                check_left(&recovered, &model, &context);
            }
        }
    }
}

/// A segment with a successor was durable as a whole: its entries are never cut.
#[test]
fn damage_in_an_older_segment_is_never_a_torn_tail() {
    let (disk, model) = closed(&[append(12, 100)]);
    let paths = segments(&disk);
    assert!(paths.len() >= 3, "{paths:?}");
    for path in &paths[..paths.len() - 1] {
        let image = disk.durable_image();
        flip(&image, path, end_of(&disk, path) - 1, 1);
        let (recovered, fault) = find_damage(&image);
        assert_eq!(fault.path, *path);
        check_left(&recovered, &model, "an older segment");
    }
}

/// An unsynced group may be there in any part. What was synced before it stays, and the node starts.
#[test]
fn a_torn_tail_is_cut() {
    let disk = new_disk(1);
    let mut wal = create(shared(&disk), &dir(), ROOMY).unwrap();
    let mut model = Model::new();
    for op in [vote(), append(2, 60), Op::Sync] {
        model.apply(&mut wal, &op).unwrap();
    }
    let path = segments(&disk).pop().unwrap();
    let synced = end_of(&disk, &path);
    let mut noticed = 0;
    model.apply(&mut wal, &append(2, 40)).unwrap();
    let states = model.clone();
    wal.sync().unwrap();
    let end = end_of(&disk, &path);
    for at in synced..end {
        for (from, to) in [(at, end), (synced, at), (at, (at + 16).min(end))] {
            let image = disk.durable_image();
            image.damage(&path, from, &vec![0; (to - from) as usize]).unwrap();
            let context = format!("{from}..{to} is torn");
            let recovered = try_open(&image).unwrap_or_else(|error| panic!("{context}: {error}"));
            states.check(&recovered, &context);
            noticed += u64::from(recovered.torn_bytes > 0);
            let again = try_open(&image).unwrap();
            assert_eq!(again.entries, recovered.entries, "{context}");
        }
    }
    assert!(noticed > 0, "no torn tail was noticed");
}

/// A recycled file holds records that would fit on, byte for byte and index for index; they are of another segment.
#[test]
fn records_of_an_earlier_use_of_the_file_never_come_back() {
    let disk = new_disk(1);
    let mut wal = create(shared(&disk), &dir(), TINY).unwrap();
    let mut model = Model::new();
    model.apply(&mut wal, &append(5, 30)).unwrap();
    model.apply(&mut wal, &Op::Sync).unwrap();
    let old = model.now().entries.clone();
    // Cut twice, so that the file of the first segment is used again behind the same entry.
    for _ in 0..2 {
        wal.append(None, &old[..1]).unwrap();
        wal.sync().unwrap();
    }
    let path = segments(&disk).pop().unwrap();
    let record_bytes = 25 + 30;
    let stale = HEADER_BYTES + record_bytes;
    let content = disk.content(&path).unwrap();
    let second = &old[1];
    assert_eq!(
        content[stale as usize + 17..][..8],
        second.index.0.to_le_bytes(),
        "the stale record must fit on"
    );
    assert_eq!(try_open(&disk.durable_image()).unwrap().entries, old[..1]);
    // And so it stays, whatever is appended.
    wal.append(None, &old[1..2]).unwrap();
    wal.sync().unwrap();
    assert_eq!(try_open(&disk.durable_image()).unwrap().entries, old[..2]);
}

/// The beginning of a torn group is lost, and its first record is then written again, byte for byte in the same
/// place. What followed it in the torn group is still there, and must not pass for newer than the crash.
#[test]
fn records_behind_a_cut_never_come_back() {
    let disk = new_disk(1);
    let mut wal = create(shared(&disk), &dir(), TINY).unwrap();
    let mut model = Model::new();
    model.apply(&mut wal, &append(1, 60)).unwrap();
    wal.sync().unwrap();
    let path = segments(&disk).pop().unwrap();
    let synced = end_of(&disk, &path);
    model.apply(&mut wal, &append(3, 60)).unwrap();
    let entries = model.now().entries.clone();
    wal.sync().unwrap();

    // Of the second group, the mark and the first record are lost, and the rest is there.
    let torn = disk.durable_image();
    let lost = (MARK_BYTES + 25 + 60) as usize;
    torn.damage(&path, synced, &vec![0; lost]).unwrap();
    let (mut wal, recovered) = open(shared(&torn), &dir(), TINY).unwrap();
    assert_eq!(recovered.entries, entries[..1]);
    wal.append(None, &entries[1..2]).unwrap();
    wal.sync().unwrap();
    let (old, new) = (disk.content(&path).unwrap(), torn.content(&path).unwrap());
    let behind = synced as usize + lost;
    assert_eq!(old[behind..], new[behind..], "the rest of the torn group must stand where it fits on");
    assert_eq!(try_open(&torn.durable_image()).unwrap().entries, entries[..2]);
    wal.append(None, &entries[2..3]).unwrap();
    wal.sync().unwrap();
    assert_eq!(try_open(&torn.durable_image()).unwrap().entries, entries[..3]);
}

/// A valid record in the place of another (a misdirected or a lost write) does not pass, not even with its term and
/// index, and neither does a whole segment.
#[test]
fn a_record_in_the_wrong_place_does_not_pass() {
    let (disk, model) = closed(&[append(6, 20)]);
    let path = segments(&disk).pop().unwrap();
    let content = disk.content(&path).unwrap();
    let record = |i: u64| HEADER_BYTES + i * 45;
    for from in 0..6 {
        for to in (0..6).filter(|to| *to != from) {
            let bytes = &content[record(from) as usize..record(from + 1) as usize];
            let image = disk.durable_image();
            image.damage(&path, record(to), bytes).unwrap();
            let (recovered, fault) = find_damage(&image);
            assert_eq!(fault.offset, record(to), "{}", fault.reason);
            assert_eq!(recovered.entries[..], model.now().entries[..to as usize]);
        }
    }

    let (disk, _) = closed(&[append(12, 100)]);
    let paths = segments(&disk);
    let image = disk.durable_image();
    image.damage(&paths[0], 0, &disk.content(&paths[1]).unwrap()).unwrap();
    let (recovered, fault) = find_damage(&image);
    assert!(recovered.entries.is_empty(), "{recovered:?}");
    let text = WalError::from(fault).to_string();
    assert!(text.contains("segment 2") && text.contains(&paths[0].display().to_string()), "{text}");
}

/// An older version of a sector that was synced (a lost write) is damage, though each record in it is valid.
#[test]
fn a_lost_write_below_the_attested_point_is_damage() {
    let disk = new_disk(1);
    let mut wal = create(shared(&disk), &dir(), TINY).unwrap();
    let mut model = Model::new();
    model.apply(&mut wal, &append(1, 20)).unwrap();
    wal.sync().unwrap();
    let path = segments(&disk).pop().unwrap();
    let before = disk.content(&path).unwrap();
    model.apply(&mut wal, &append(1, 20)).unwrap();
    wal.sync().unwrap();
    let middle = end_of(&disk, &path);
    model.apply(&mut wal, &append(1, 20)).unwrap();
    wal.sync().unwrap();
    wal.attest().unwrap();
    let start = end_of_content(&before);
    let image = disk.durable_image();
    image.damage(&path, start, &before[start as usize..middle as usize]).unwrap();
    let (recovered, fault) = find_damage(&image);
    assert_eq!((fault.offset, recovered.entries.len()), (start, 1), "{}", fault.reason);
}

fn end_of_content(content: &[u8]) -> u64 {
    content.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

/// A synced group is attested by the next one: damage to it is noticed also when the log was not closed well.
#[test]
fn each_group_attests_the_one_before() {
    let disk = new_disk(1);
    let mut wal = create(shared(&disk), &dir(), ROOMY).unwrap();
    let mut model = Model::new();
    let mut ends = vec![HEADER_BYTES];
    for _ in 0..4 {
        model.apply(&mut wal, &append(1, 30)).unwrap();
        wal.sync().unwrap();
        ends.push(end_of(&disk, &segments(&disk)[0]));
    }
    let path = segments(&disk).pop().unwrap();
    let last_group = ends[ends.len() - 2];
    for at in HEADER_BYTES..*ends.last().unwrap() {
        let image = disk.durable_image();
        flip(&image, &path, at, 0x10);
        let recovered = try_open(&image).unwrap();
        // A group's own mark tells of those before it.
        if at < last_group {
            assert!(recovered.fault.is_some(), "at {at}: {recovered:?}");
            check_left(&recovered, &model, &format!("at {at}"));
        } else {
            assert_eq!(recovered.entries, model.now().entries[..3], "at {at}");
        }
    }
}
