//! The log on the real disk; crashes and damage are tested on the simulated one, in `sim/tests/`.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::core::{Configuration, Payload, Term};
use crate::disk::RealDisk;

const SMALL: WalOptions = WalOptions { segment_bytes: 4096, recycled_max: 2 };
const IDENTITY: WalIdentity = WalIdentity { cluster: 0xc1, member: NodeId(1), incarnation: 0x1c };

fn disk() -> SharedDisk {
    Arc::new(RealDisk)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload = match bytes {
        0 => Payload::Noop,
        1 => Payload::Configuration(Configuration::of_voters([NodeId(1), NodeId(2)])),
        n => Payload::Command(Bytes::from(vec![index as u8; n])),
    };
    Entry { term: Term(term), index: Index(index), payload }
}

fn vote(term: u64, id: u64) -> HardState {
    HardState { term: Term(term), voted_for: Some(NodeId(id)) }
}

fn bytes_of(entries: &[Entry]) -> u64 {
    entries.iter().map(Entry::size_bytes).sum()
}

struct Case {
    _root: tempfile::TempDir,
    dir: std::path::PathBuf,
}

impl Case {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("logs");
        Self { _root: root, dir }
    }

    fn create(&self) -> Wal {
        Wal::create(disk(), &self.dir, IDENTITY, SMALL).unwrap()
    }

    fn open(&self) -> (Wal, Recovered) {
        Wal::open(disk(), &self.dir, IDENTITY, SMALL).unwrap()
    }
}

#[test]
fn what_was_synced_comes_back() {
    let case = Case::new();
    let mut wal = case.create();
    let first = vec![entry(1, 1, 0), entry(1, 2, 1), entry(2, 3, 100)];
    wal.append(Some(vote(2, 1)), &first).unwrap();
    wal.append(None, &[entry(2, 4, 7)]).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let (_, recovered) = case.open();
    let entries = [first, vec![entry(2, 4, 7)]].concat();
    let expected = Recovered {
        hard_state: vote(2, 1),
        prev: LogId::ZERO,
        entries_bytes: bytes_of(&entries),
        entries,
        torn_bytes: 0,
        damage: None,
        fault: None,
    };
    assert_eq!(recovered, expected);
    let (_, again) = case.open();
    assert_eq!(again, expected);
}

#[test]
fn a_conflicting_suffix_is_cut() {
    let case = Case::new();
    let mut wal = case.create();
    wal.append(Some(vote(1, 1)), &(1..=9).map(|i| entry(1, i, 50)).collect::<Vec<_>>()).unwrap();
    wal.sync().unwrap();
    wal.append(Some(vote(3, 2)), &[entry(3, 5, 9), entry(3, 6, 9)]).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let (_, recovered) = case.open();
    let mut expected: Vec<_> = (1..=4).map(|i| entry(1, i, 50)).collect();
    expected.extend([entry(3, 5, 9), entry(3, 6, 9)]);
    assert_eq!(recovered.entries, expected);
    assert_eq!(recovered.hard_state, vote(3, 2));
}

#[test]
fn segments_roll_are_compacted_and_used_again() {
    let case = Case::new();
    let mut wal = case.create();
    for i in 1..=200 {
        wal.append(None, &[entry(1, i, 300)]).unwrap();
        wal.sync().unwrap();
        if i > 40 {
            wal.compact(Index(i - 20)).unwrap();
            assert!(wal.stats().segments <= 4, "{:?}", wal.stats());
            assert!(wal.stats().spares <= SMALL.recycled_max);
        }
    }
    let prev = wal.stats().prev;
    assert!(prev.index >= Index(160) && prev.index <= Index(180), "{prev}");
    drop(wal);
    let (wal, recovered) = case.open();
    assert_eq!(recovered.prev, prev);
    let expected: Vec<_> = (prev.index.0 + 1..=200).map(|i| entry(1, i, 300)).collect();
    assert_eq!(recovered.entries, expected);
    assert_eq!(wal.stats().last, LogId::new(1, 200));
    let files = std::fs::read_dir(&case.dir).unwrap().count();
    assert!(files <= 7, "{files} files");
}

#[test]
fn an_entry_larger_than_a_segment_gets_a_larger_one() {
    let case = Case::new();
    let mut wal = case.create();
    let entries = [entry(1, 1, 10), entry(1, 2, 3 << 20), entry(1, 3, 10), entry(1, 4, 9000)];
    wal.append(None, &entries).unwrap();
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(case.open().1.entries, entries);
}

#[test]
fn a_reset_log_begins_after_the_snapshot_and_keeps_the_vote() {
    let case = Case::new();
    let mut wal = case.create();
    wal.append(Some(vote(4, 2)), &(1..=60).map(|i| entry(2, i, 200)).collect::<Vec<_>>()).unwrap();
    wal.sync().unwrap();
    for _ in 0..2 {
        wal.reset(LogId::new(4, 1000)).unwrap();
        assert_eq!(wal.stats().segments, 1);
    }
    wal.append(None, &[entry(4, 1001, 5)]).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let (_, recovered) = case.open();
    let entries = vec![entry(4, 1001, 5)];
    assert_eq!(
        recovered,
        Recovered {
            hard_state: vote(4, 2),
            prev: LogId::new(4, 1000),
            entries_bytes: bytes_of(&entries),
            entries,
            torn_bytes: 0,
            damage: None,
            fault: None
        }
    );
}

#[test]
fn a_missing_log_is_an_error_and_not_an_empty_log() {
    let case = Case::new();
    let missing = |case: &Case| Wal::open(disk(), &case.dir, IDENTITY, SMALL).err();
    assert!(matches!(missing(&case), Some(WalError::Missing { .. })));
    assert!(!Wal::exists(&disk(), &case.dir).unwrap());
    std::fs::create_dir(&case.dir).unwrap();
    assert!(matches!(missing(&case), Some(WalError::Missing { .. })));
    assert!(!Wal::exists(&disk(), &case.dir).unwrap());
    case.create();
    assert!(Wal::exists(&disk(), &case.dir).unwrap());
}

#[test]
fn creating_again_replaces_only_what_was_never_used() {
    let case = Case::new();
    case.create();
    case.open();
    let other = WalIdentity { cluster: 9, ..IDENTITY };
    let mut wal = Wal::create(disk(), &case.dir, other, SMALL).unwrap();
    let wrong = Wal::open(disk(), &case.dir, IDENTITY, SMALL).err().unwrap();
    assert!(matches!(wrong, WalError::WrongIdentity { .. }), "{wrong}");
    wal.append(Some(vote(1, 1)), &[]).unwrap();
    wal.sync().unwrap();
    let refused = Wal::create(disk(), &case.dir, other, SMALL).err().unwrap();
    assert!(matches!(refused, WalError::AlreadyExists { .. }), "{refused}");
}

#[test]
#[should_panic(expected = "entry 3@1 behind entry 1@1")]
fn a_gap_is_a_bug_of_the_caller() {
    let case = Case::new();
    let _ = case.create().append(None, &[entry(1, 1, 0), entry(1, 3, 0)]);
}

/// What the current build writes, as it stands in `testdata`. If the bytes must change, the version does too, and
/// the old ones stay there and must still be read.
#[test]
fn format_version_1_is_written_and_read() {
    const NAME: &str = "0000000000000001.wal";
    let fixture: &[u8] = include_bytes!("../../testdata/wal/v1.wal");
    let entries = [entry(1, 1, 0), entry(1, 2, 1), entry(2, 3, 20)];
    let case = Case::new();
    let options = WalOptions { segment_bytes: 1000, recycled_max: 0 };
    let mut wal = Wal::create(disk(), &case.dir, IDENTITY, options).unwrap();
    wal.append(Some(vote(2, 3)), &entries).unwrap();
    wal.attest().unwrap();
    assert!(
        std::fs::read(case.dir.join(NAME)).unwrap() == fixture,
        "the format changed without a new version"
    );

    let case = Case::new();
    std::fs::create_dir(&case.dir).unwrap();
    std::fs::write(case.dir.join(NAME), fixture).unwrap();
    let (_, recovered) = case.open();
    let expected = Recovered {
        hard_state: vote(2, 3),
        prev: LogId::ZERO,
        entries: entries.to_vec(),
        entries_bytes: bytes_of(&entries),
        torn_bytes: 0,
        damage: None,
        fault: None,
    };
    assert_eq!(recovered, expected);

    let mut newer = fixture.to_vec();
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer[..508]);
    newer[508..512].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(case.dir.join(NAME), newer).unwrap();
    let error = Wal::open(disk(), &case.dir, IDENTITY, SMALL).unwrap_err();
    assert!(matches!(error, WalError::UnknownFormat { found: 2, .. }), "{error}");
}

// What is applied and more than is kept for others stays in the files. An entry that a later segment cuts is let go by
// nobody: it would leave a hole, or the wrong term, at the beginning of what is left.
#[test]
fn a_log_is_opened_with_only_what_is_retained() {
    let case = Case::new();
    let mut wal = case.create();
    wal.append(Some(vote(1, 1)), &(1..=40).map(|i| entry(1, i, 200)).collect::<Vec<_>>()).unwrap();
    wal.append(Some(vote(2, 1)), &(31..=60).map(|i| entry(2, i, 200)).collect::<Vec<_>>()).unwrap();
    wal.sync().unwrap();
    assert!(wal.stats().segments > 3);
    drop(wal);
    let all = case.open().1;
    let open = |retain| Wal::open_if(disk(), &case.dir, IDENTITY, SMALL, retain, |_| true).unwrap();
    for applied in 0..=60 {
        for bytes in [0, 1000, 4000, u64::MAX] {
            let (wal, kept) = open(Retain { applied: Index(applied), bytes });
            assert_eq!(kept.entries_bytes, all.entries_bytes, "applied {applied}, {bytes} bytes");
            let gone = (kept.prev.index.0 - all.prev.index.0) as usize;
            assert_eq!(kept.entries, all.entries[gone..], "applied {applied}, {bytes} bytes");
            assert!(kept.prev.index <= Index(applied).max(all.prev.index));
            let last_gone = gone.checked_sub(1).map_or(all.prev, |at| all.entries[at].log_id());
            assert_eq!(kept.prev, last_gone);
            // No more than asked for, but for what a cut made doubtful while it was read.
            let excess = bytes_of(&kept.entries) > bytes && kept.prev.index.0 < applied;
            assert!(!excess || applied > 30, "applied {applied}, {bytes} bytes: {} left", kept.entries.len());
            assert!(bytes > 0 || applied < 41 || kept.prev.index.0 == applied);
            assert_eq!(wal.stats().last, LogId::new(2, 60));
        }
    }
    // The log itself is as it was, and goes on.
    let (mut wal, _) = open(Retain { applied: Index(60), bytes: 0 });
    wal.compact(Index(45)).unwrap();
    wal.append(None, &[entry(2, 61, 9)]).unwrap();
    wal.append(Some(vote(3, 1)), &[entry(3, 61, 9)]).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let now = case.open().1;
    assert_eq!(now.entries.last(), Some(&entry(3, 61, 9)));
    assert_eq!(now.entries[..now.entries.len() - 1], all.entries[now.prev.index.0 as usize..]);
}

/// Sixty entries in several segments, and the paths of those that are no longer appended to.
fn sixty() -> (Case, Wal, Vec<std::path::PathBuf>) {
    let case = Case::new();
    let mut wal = case.create();
    wal.append(Some(vote(3, 2)), &(1..=60).map(|i| entry(3, i, 200)).collect::<Vec<_>>()).unwrap();
    wal.attest().unwrap();
    let mut paths: Vec<_> = std::fs::read_dir(&case.dir).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    paths.sort();
    paths.pop();
    (case, wal, paths)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_scrub_comes_by_everything_that_is_sealed() {
    let (_case, mut wal, paths) = sixty();
    assert!(paths.len() >= 3, "{paths:?}");
    let mut steps = 0;
    while wal.stats().scrubs < 2 {
        wal.scrub(300).unwrap();
        steps += 1;
        // Segments go away under it.
        if steps == 20 {
            wal.compact(Index(30)).unwrap();
        }
    }
    assert!(steps > 60, "300 bytes at a time, but done in {steps} steps");
}

#[test]
fn the_scrub_finds_a_flipped_bit_anywhere_that_counts() {
    // In the header, in the first record's length, in its body, in the last record.
    for at in [100, 517, 600, 512 + 15 * 225 - 1] {
        let (case, mut wal, paths) = sixty();
        flip(&paths[1], at);
        let error = (0..200).find_map(|_| wal.scrub(700).err()).expect("damage is found");
        let WalError::Decayed(fault) = &error else { panic!("{error}") };
        assert_eq!(fault.path, paths[1]);
        assert!(fault.offset as usize <= at, "{fault:?}");
        assert!(error.to_string().contains("start it again"), "{error}");
        let poisoned = wal.append(None, &[entry(3, 61, 1)]).unwrap_err();
        assert!(matches!(poisoned, WalError::Poisoned { .. }), "{poisoned}");
        let (_, recovered) = case.open();
        assert_eq!(recovered.damage.map(|damage| damage.last), Some(LogId::new(3, 60)), "{at}");
        assert_eq!(recovered.hard_state, vote(3, 2));
    }
}

/// The scrub reads what counts: what a later segment has cut may be as it likes.
#[test]
fn the_scrub_does_not_mind_what_is_cut() {
    let (_case, mut wal, paths) = sixty();
    wal.append(Some(vote(4, 2)), &[entry(4, 20, 10)]).unwrap();
    wal.sync().unwrap();
    // Entry 19 is the last that counts, and the fourth of the second segment.
    flip(&paths[1], 512 + 225 * 8);
    while wal.stats().scrubs < 2 {
        wal.scrub(700).unwrap();
    }
}

#[test]
fn an_inspection_tells_all_and_changes_nothing() {
    let content = |case: &Case| -> Vec<_> {
        let mut files: Vec<_> =
            std::fs::read_dir(&case.dir).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect()
    };
    let (case, wal, paths) = sixty();
    drop(wal);
    let before = content(&case);
    let clean = inspect(&disk(), &case.dir).unwrap();
    assert!(clean.is_clean() && clean.segments.len() == paths.len() + 1, "{clean:?}");
    assert_eq!((clean.identity, clean.hard_state, clean.entries.len()), (IDENTITY, vote(3, 2), 60));
    let of_first = clean.segments[0].content.as_ref().unwrap();
    assert!(of_first.is_origin && clean.segments.iter().all(|segment| segment.is_live), "{clean:?}");
    let counted: u64 = clean.segments.iter().map(|segment| segment.content.as_ref().unwrap().records.0).sum();
    assert_eq!(counted, 60);

    flip(&paths[1], 600);
    let damaged = content(&case);
    let found = inspect(&disk(), &case.dir).unwrap();
    assert_eq!(found.fault.as_ref().map(|fault| &fault.path), Some(&paths[1]));
    assert_eq!((found.is_clean(), found.lost), (false, Some(LogId::new(3, 60))));
    let live: Vec<_> = found.segments.iter().map(|segment| segment.is_live).collect();
    assert_eq!(live.iter().filter(|live| **live).count(), 1, "{live:?}");
    assert!(content(&case) == damaged && before != damaged, "the log was changed");

    flip(&paths[1], 100);
    assert!(inspect(&disk(), &case.dir).unwrap().segments[1].content.is_err());
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(inspect(&disk(), empty.path()), Err(WalError::Missing { .. })));
}
