//! A log that lost entries to damage: the mark of how far it had come is durable before anything is cut, and stays until
//! the log has come that far again.

use std::path::PathBuf;

use raft::core::{Damage, Entry, Index, LogId, Payload, Term};
use raft::wal::{Recovered, Retain, Wal, WalError};
use raftkv_sim::disk::SimDisk;

use crate::model::{Model, Op, TINY, append, create, cut, dir, new_disk, open, shared, vote};

const HEADER_BYTES: u64 = 512;

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|(path, _)| path);
    files.filter(|path| path.extension().is_some_and(|e| e == "wal")).collect()
}

/// A log of several segments, closed well.
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

fn wipe(disk: &SimDisk, path: &std::path::Path, from: u64, bytes: usize) {
    disk.damage(path, from, &vec![0x5a; bytes]).unwrap();
}

fn reopen(disk: &SimDisk) -> (Wal, Recovered) {
    open(shared(disk), &dir(), TINY).unwrap()
}

fn lost(recovered: &Recovered) -> Option<LogId> {
    recovered.damage.map(|damage| damage.last)
}

/// All but what was only just found.
fn same(a: &Recovered, b: &Recovered) -> bool {
    let Recovered { hard_state, prev, entries, damage, .. } = a;
    (*hard_state, *prev, entries, *damage) == (b.hard_state, b.prev, &b.entries, b.damage)
}

/// Each kind of damage, in each segment; and recovery crashes at each call, with many fates of what was not synced.
#[test]
fn recovery_twice_is_recovery_once() {
    let (disk, model) = closed(&[vote(), append(5, 100), Op::Sync, cut(2, 4, 90), append(3, 80), vote()]);
    let paths = segments(&disk);
    assert!(paths.len() >= 3, "{paths:?}");
    let mut repaired = 0;
    for path in &paths {
        for (from, bytes) in [(0, 500), (HEADER_BYTES, 1), (HEADER_BYTES + 150, 60)] {
            let damaged = disk.durable_image();
            wipe(&damaged, path, from, bytes);
            let first = reopen(&damaged.process_crash_image()).1;
            assert_eq!(first.hard_state, model.now().hard_state);
            repaired += usize::from(first.damage.is_some());
            for k in 0.. {
                let image = damaged.process_crash_image();
                image.set_crash_after(k);
                let done = open(shared(&image), &dir(), TINY).is_ok();
                for fate in 0..8 {
                    let context = format!("{} from {from}, call {k}, fate {fate}", path.display());
                    let again = reopen(&image.power_loss_image(fate)).1;
                    assert!(same(&again, &first), "{context}: {again:?}\nbut first {first:?}");
                }
                if done {
                    break;
                }
            }
        }
    }
    assert!(repaired > 5, "only {repaired} kinds of damage cost anything");
}

/// The mark stays over crashes, new segments, cuts and compactions, and goes when the log has come as far again.
#[test]
fn the_mark_stays_until_the_log_has_come_as_far() {
    let (disk, model) = closed(&[vote(), append(12, 100)]);
    let whole = model.now().clone();
    wipe(&disk, &segments(&disk)[1], HEADER_BYTES + 10, 1);
    let (mut wal, recovered) = reopen(&disk);
    let mark = Some(whole.last());
    assert_eq!(lost(&recovered), mark);
    assert!(recovered.entries.len() < 8, "{recovered:?}");
    let kept = recovered.entries.len();
    for entry in &whole.entries[kept..whole.entries.len() - 1] {
        wal.append(None, std::slice::from_ref(entry)).unwrap();
        wal.sync().unwrap();
        assert_eq!(lost(&reopen(&disk.durable_image()).1), mark, "at {}", entry.log_id());
    }
    wal.compact(Index(kept as u64)).unwrap();
    assert_eq!(lost(&reopen(&disk.durable_image()).1), mark, "a compaction is not a repair");
    wal.append(None, &whole.entries[whole.entries.len() - 1..]).unwrap();
    assert_eq!(lost(&reopen(&disk.durable_image()).1), mark, "it is not durable yet");
    wal.sync().unwrap();
    let again = reopen(&disk.durable_image()).1;
    assert_eq!((lost(&again), again.entries.last()), (None, whole.entries.last()));
}

/// A cut by a later leader, and a snapshot that does or does not reach as far.
#[test]
fn what_ends_the_mark_and_what_does_not() {
    let (disk, model) = closed(&[vote(), append(12, 100)]);
    let mark = model.now().last();
    wipe(&disk, &segments(&disk)[1], HEADER_BYTES + 10, 1);
    drop(reopen(&disk));
    let later = |index| Entry { term: Term(mark.term.0 + 1), index: Index(index), payload: Payload::Noop };

    let image = disk.durable_image();
    let (mut wal, recovered) = reopen(&image);
    let next = recovered.entries.len() as u64;
    wal.append(None, &[later(next)]).unwrap();
    wal.sync().unwrap();
    assert_eq!(lost(&reopen(&image.durable_image()).1), None, "the log of a later leader");

    for (prev, left) in [
        (LogId { index: Index(mark.index.0 - 1), ..mark }, Some(mark)),
        (mark, None),
        (later(next).log_id(), None),
    ] {
        let image = disk.durable_image();
        let (mut wal, _) = reopen(&image);
        wal.reset(prev).unwrap();
        assert_eq!(lost(&reopen(&image.durable_image()).1), left, "a snapshot up to {prev}");
    }
}

/// Damage on top of damage: of the marks the farthest counts, also when the segment that holds the first one is itself
/// damaged.
#[test]
fn damage_twice() {
    let (disk, model) = closed(&[vote(), append(12, 100)]);
    let whole = model.now().clone();
    wipe(&disk, &segments(&disk)[1], HEADER_BYTES + 10, 1);
    let (mut wal, recovered) = reopen(&disk);
    let kept = recovered.entries.len();
    for entry in &whole.entries[kept..kept + 3] {
        wal.append(None, std::slice::from_ref(entry)).unwrap();
        wal.sync().unwrap();
    }
    wal.attest().unwrap();
    let newest = segments(&disk).pop().unwrap();
    for at in [10, 200, HEADER_BYTES + 5] {
        let image = disk.durable_image();
        wipe(&image, &newest, at, 1);
        let (_, again) = reopen(&image);
        assert_eq!(lost(&again), Some(whole.last()), "damage at {at}: {again:?}");
        assert_eq!(again.hard_state, whole.hard_state);
    }
}

/// Without its vote a node never votes again: the log does not open, and says so; nothing is changed.
#[test]
fn a_lost_vote_is_not_survived() {
    let (disk, _) = closed(&[vote(), append(3, 50)]);
    let path = segments(&disk).pop().unwrap();
    let image = disk.durable_image();
    wipe(&image, &path, 0, HEADER_BYTES as usize);
    for _ in 0..2 {
        let error = open(shared(&image), &dir(), TINY).unwrap_err();
        assert!(
            matches!(&error, WalError::Corrupt { path: named, offset: 0, .. } if *named == path),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("term and vote are lost") && text.contains("new id"), "{text}");
    }
}

/// A log that may not be cut, because nobody else has what it lost, stays as it is.
#[test]
fn a_log_that_nobody_can_repair_is_left_alone() {
    let (disk, _) = closed(&[vote(), append(12, 100)]);
    wipe(&disk, &segments(&disk)[1], HEADER_BYTES + 10, 1);
    let before: Vec<_> = segments(&disk).iter().map(|path| disk.content(path).unwrap()).collect();
    let refused =
        Wal::open_if(shared(&disk), &dir(), crate::model::IDENTITY, TINY, Retain::default(), |_| false)
            .unwrap_err();
    assert!(matches!(refused, WalError::Corrupt { .. }), "{refused}");
    let after: Vec<_> = segments(&disk).iter().map(|path| disk.content(path).unwrap()).collect();
    assert!(before == after, "the log was changed");
}

/// The longest lease that was ever in the log is known behind damage.
#[test]
fn the_longest_lease_is_not_lost() {
    use raft::core::{Configuration, Lease, NodeId};
    let leased = |index, lease_ms| {
        let lease = Some(Lease { duration_ms: lease_ms, drift_ppm: 0 }).filter(|_| lease_ms > 0);
        let configuration = Configuration { lease, ..Configuration::of_voters([NodeId(1)]) };
        Entry { term: Term(1), index: Index(index), payload: Payload::Configuration(configuration) }
    };
    let disk = new_disk(1);
    let mut wal = create(shared(&disk), &dir(), TINY).unwrap();
    for (index, lease_ms) in [(1, 0), (2, 700), (3, 20), (4, 0)] {
        wal.append(None, &[leased(index, lease_ms)]).unwrap();
        wal.sync().unwrap();
    }
    wal.attest().unwrap();
    wipe(&disk, &segments(&disk)[0], HEADER_BYTES + 5, 1);
    let (_, recovered) = reopen(&disk);
    assert_eq!(recovered.damage, Some(Damage { last: LogId::new(1, 4), lease_ms: 700 }));
}
