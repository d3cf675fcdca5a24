//! Crashes between any two disk calls, lost stores, damaged snapshots, and readers beside the apply lane.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kv::command::{Command, CommandBody, KeyRange, Operation, Range, Response, Txn, TxnOperation};
use kv::state_machine::SessionLimits;
use kv::store::{MemoryPlatter, StoreKind};
use raft::core::{LogId, Payload};
use raft::state_machine::StateMachine;

use super::world::{KINDS, Kind, World, put, put_of, range, revision};

/// Some history, with a session, large values, deletions and a checkpoint in the middle.
fn history(w: &mut World) {
    let s = w.open_session(1_000_000);
    for i in 0..6 {
        w.stamped(s, i + 1, i, put(&format!("k{}", i % 4), &"v".repeat(3_000 * i as usize)));
    }
    w.checkpoint();
    w.stamped(s, 7, 5, put("k1", "late"));
    w.operate(Operation::Compact { revision: 3 });
    w.put("k9", "unsaved");
}

// A checkpoint that is cut off after any of its disk calls leaves the state of the one before it, or its own; from
// either, the log leads to the same state.
#[test]
fn a_checkpoint_may_be_cut_off_anywhere() {
    for kind in KINDS {
        let (mut calls, mut failures) = (0, 0);
        loop {
            let mut w = World::new(kind);
            history(&mut w);
            let before = w.fingerprint();
            let job = w.machine().begin_checkpoint();
            w.cut_power_after(calls);
            let done = job();
            w.crash();
            assert_eq!(w.machine().lost(), None, "{kind:?}, {calls} calls");
            w.replay();
            assert_eq!(w.fingerprint(), before, "{kind:?}, {calls} calls");
            match done {
                Ok(_) => break,
                Err(_) => failures += 1,
            }
            calls += 1;
        }
        assert!(failures >= 3, "{failures} crash points");
    }
}

// An install that is cut off leaves the old state or the new one, whole, sessions and all.
#[test]
fn an_install_may_be_cut_off_anywhere() {
    for kind in KINDS {
        let mut source = World::new(kind);
        history(&mut source);
        let new = source.fingerprint();
        let (meta, bytes) = source.snapshot();
        let (mut calls, mut outcomes) = (0, [0, 0]);
        loop {
            let mut w = World::new(kind);
            w.put("old", "state");
            w.checkpoint();
            let old = w.fingerprint();
            w.cut_power_after(calls);
            let done = w.install(&meta, &bytes);
            w.crash();
            assert_eq!(w.machine().lost(), None, "{kind:?}, {calls} calls");
            let installed = w.applied() == meta.last;
            assert_eq!(
                w.fingerprint(),
                if installed { &new } else { &old }.clone(),
                "{kind:?}, {calls} calls"
            );
            outcomes[usize::from(installed)] += 1;
            // Whatever was left over is gone, and the node can go on.
            if installed {
                w.log.clone_from(&source.log);
            }
            w.put("k", "v");
            w.checkpoint();
            if done.is_ok() {
                assert!(installed);
                break;
            }
            calls += 1;
        }
        assert!(outcomes[0] >= 3 && outcomes[1] >= 1, "{outcomes:?}");
    }
}

fn store_dirs(w: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(w.dir.path().join("node/store")).unwrap();
    let mut dirs: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { _ = std::fs::copy(&path, &target).unwrap() }
    }
}

// A store that is missing, empty, older than what was recorded as durable, or unreadable is lost. It is reported and
// replaced by an empty one; what it held comes back from the log.
#[test]
fn a_lost_store_is_noticed_and_rebuilt() {
    type Damage = fn(&Path, &Path);
    let damages: [(&str, Damage); 4] = [
        ("missing", |store, _| std::fs::remove_dir_all(store).unwrap()),
        ("empty", |store, _| {
            std::fs::remove_dir_all(store).unwrap();
            std::fs::create_dir(store).unwrap();
        }),
        ("older", |store, image| {
            std::fs::remove_dir_all(store).unwrap();
            copy(image, store);
        }),
        ("truncated", |store, _| {
            let db = std::fs::OpenOptions::new().write(true).open(store.join("db")).unwrap();
            db.set_len(0).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let mut w = World::new(Kind::Sled);
        w.put("a", "1");
        w.checkpoint();
        w.close();
        let image = w.dir.path().join("image");
        copy(&store_dirs(&w)[0], &image);
        w.crash();
        w.put("b", "2");
        w.checkpoint();
        let before = w.fingerprint();
        w.close();
        damage(&store_dirs(&w)[0], &image);
        w.crash();
        assert!(w.machine().lost().is_some(), "{name}");
        assert_eq!(w.applied(), LogId::ZERO);
        assert_eq!(w.get("a"), None);
        assert_eq!(store_dirs(&w).len(), 1, "{name}: the lost store is removed");
        w.replay();
        assert_eq!(w.fingerprint(), before);
        w.checkpoint();
        w.crash();
        assert_eq!(w.machine().lost(), None);
        assert_eq!(w.fingerprint(), before);
    }
}

// The same with the memory engine: its platter is exchanged for an empty one.
#[test]
fn a_lost_memory_store_is_noticed() {
    let mut w = World::new(Kind::Memory);
    w.put("a", "1");
    w.checkpoint();
    w.store = StoreKind::Memory(MemoryPlatter::default());
    w.crash();
    assert!(w.machine().lost().is_some());
    assert_eq!(w.applied(), LogId::ZERO);
}

// A damaged CURRENT loses the store. One of a newer format is an error: a newer version can read it.
#[test]
fn a_damaged_or_newer_current_file() {
    for at in [0, 9, 20, 35] {
        let mut w = World::new(Kind::Memory);
        w.put("a", "1");
        w.checkpoint();
        w.close();
        let path = w.dir.path().join("node/store/CURRENT");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        w.crash();
        assert!(w.machine().lost().is_some_and(|why| why.contains("CURRENT")), "byte {at}");
    }
    let mut w = World::new(Kind::Memory);
    w.close();
    let path = w.dir.path().join("node/store/CURRENT");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4] = 2;
    let crc = crc32c::crc32c(&bytes[..32]).to_le_bytes();
    bytes[32..].copy_from_slice(&crc);
    std::fs::write(&path, &bytes).unwrap();
    let error = w.try_crash().unwrap_err().to_string();
    assert!(error.contains("newer") && error.contains("CURRENT"), "{error}");
}

// What CURRENT looks like is fixed: a node of a later version must find its store.
#[test]
fn the_current_file_of_format_1_is_fixed() {
    let mut w = World::new(Kind::Memory);
    w.put("a", "1");
    w.checkpoint();
    let bytes = std::fs::read(w.dir.path().join("node/store/CURRENT")).unwrap();
    let numbers = [1_u32.to_le_bytes().to_vec(), [1_u64, 1, 1].map(u64::to_le_bytes).concat()].concat();
    assert_eq!(bytes[..32], [b"rkvC".to_vec(), numbers].concat());
}

// No byte of a snapshot can be changed, and none cut off, without the install being refused, and the old state stays.
#[test]
fn a_damaged_snapshot_is_refused() {
    let mut source = World::new(Kind::Memory);
    let s = source.open_session(1_000);
    source.stamped(s, 1, 0, put("a", "1"));
    source.put("b", "2");
    let (meta, bytes) = source.snapshot();
    let mut w = World::new(Kind::Memory);
    w.put("old", "state");
    let old = w.fingerprint();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(w.install(&meta, &damaged).is_err(), "byte {at} of {}", bytes.len());
        assert!(w.install(&meta, &bytes[..at]).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(w.install(&meta, &longer).is_err());
    let mut other = meta.clone();
    other.last.index = other.last.index.next();
    let error = w.install(&other, &bytes).unwrap_err().to_string();
    assert!(error.contains("labelled"), "{error}");
    assert_eq!(w.fingerprint(), old);
    assert_eq!(w.reader.stats().unwrap().store_number, 1);
    w.install(&meta, &bytes).unwrap();
    assert_eq!(w.fingerprint(), source.fingerprint());
}

// A snapshot of one engine can be installed into the other.
#[test]
fn engines_understand_each_others_snapshots() {
    for (from, to) in [(Kind::Memory, Kind::Sled), (Kind::Sled, Kind::Memory)] {
        let mut source = World::new(from);
        history(&mut source);
        let (meta, bytes) = source.snapshot();
        let mut w = World::new(to);
        w.install(&meta, &bytes).unwrap();
        assert_eq!(w.fingerprint(), source.fingerprint());
        let applied = w.machine().applied();
        assert_eq!((applied.last, applied.configuration), (meta.last, Some(meta.configuration)));
    }
}

// A checkpoint of a store that an install has replaced meanwhile must not bring the old store back.
#[test]
fn an_install_overtakes_a_checkpoint() {
    for kind in KINDS {
        let mut source = World::new(kind);
        history(&mut source);
        let (meta, bytes) = source.snapshot();
        let mut w = World::new(kind);
        w.put("old", "state");
        let job = w.machine().begin_checkpoint();
        w.install(&meta, &bytes).unwrap();
        assert_eq!(job().unwrap(), meta.last);
        assert_eq!(w.reader.stats().unwrap().store_number, 2);
        w.crash();
        assert_eq!(w.machine().lost(), None);
        assert_eq!(w.fingerprint(), source.fingerprint());
        if kind == Kind::Sled {
            assert_eq!(store_dirs(&w).len(), 1);
        }
    }
}

// A read that began before an install ends in the store it began in, which is removed after it.
#[test]
fn a_snapshot_being_written_survives_an_install() {
    for kind in KINDS {
        let mut w = World::new(kind);
        history(&mut w);
        w.checkpoint();
        let (_, expected) = w.snapshot();
        let job = w.machine().begin_snapshot();
        let mut source = World::new(kind);
        for i in 0..40 {
            source.put("a", &i.to_string());
        }
        let (meta, bytes) = source.snapshot();
        w.install(&meta, &bytes).unwrap();
        if kind == Kind::Sled {
            assert_eq!(store_dirs(&w).len(), 2);
        }
        let mut written = Vec::new();
        job(&mut written).unwrap();
        assert_eq!(written, expected);
        if kind == Kind::Sled {
            assert_eq!(store_dirs(&w).len(), 1);
        }
        assert_eq!(w.get("a").as_deref(), Some("39"));
    }
}

// The hook sees each flush of a checkpoint, with the store's directory, and an image taken there opens.
#[test]
fn an_image_taken_after_a_flush_opens() {
    let mut w = World::new(Kind::Sled);
    w.close();
    let (images, calls) = (w.dir.path().join("images"), Arc::new(AtomicUsize::new(0)));
    let StoreKind::Sled(options) = &mut w.store else { panic!() };
    let seen = Arc::new(Mutex::new(Vec::new()));
    options.after_flush = Some({
        let (images, calls, seen) = (images.clone(), calls.clone(), seen.clone());
        Arc::new(move |dir: &Path| {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            copy(dir, &images.join(call.to_string()));
            seen.lock().unwrap().push(dir.to_owned());
        })
    });
    w.crash();
    for i in 0..50 {
        w.put(&format!("k{i}"), "v");
    }
    w.checkpoint();
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls >= 1);
    w.put("k0", "not durable");
    w.close();
    let dir = seen.lock().unwrap().last().unwrap().clone();
    std::fs::remove_dir_all(&dir).unwrap();
    copy(&images.join((calls - 1).to_string()), &dir);
    w.crash();
    assert_eq!(w.machine().lost(), None);
    assert_eq!(w.range(&range(KeyRange::Prefix("k".into()))).unwrap().count, 50);
    assert_eq!(w.get("k0").as_deref(), Some("v"));
}

// Beside an apply lane that writes two keys together, compacts and checkpoints, every reader sees the two the same, and
// the revision it reads at never goes back.
#[test]
fn readers_see_whole_groups_only() {
    for kind in KINDS {
        let mut w = World::new(kind);
        let stop = AtomicBool::new(false);
        let both = |i: u64| {
            let put = |key| TxnOperation::Put(put_of(key, &format!("{i}{}", "x".repeat(7_000)), false));
            let txn = Txn { compares: vec![], success: vec![put("x"), put("y")], failure: vec![] };
            let body = CommandBody::Operate { stamp: None, operation: Operation::Txn(txn) };
            Payload::Command(Command { cluster_time_ms: 0, body }.encode())
        };
        w.apply(vec![both(0)]);
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            for _ in 0..2 {
                let (reader, stop) = (w.reader.clone(), &stop);
                scope.spawn(move || {
                    let (mut last, mut reads) = (0, 0);
                    while !stop.load(Ordering::Relaxed) || reads == 0 {
                        let found = reader.range(&range(KeyRange::Prefix(Bytes::new()))).unwrap();
                        let [x, y] = &found.kvs[..] else { panic!("{} pairs", found.kvs.len()) };
                        assert_eq!(x.value, y.value, "at revision {}", found.revision);
                        assert!(found.revision >= last);
                        last = found.revision;
                        reads += 1;
                    }
                });
            }
            for round in 0..60 {
                let group = (0..5).map(|i| both(round * 5 + i)).collect();
                let newest = revision(w.apply(group).last().unwrap());
                if round % 3 == 0 {
                    w.operate(Operation::Compact { revision: newest });
                }
                if round % 2 == 0 {
                    w.checkpoint();
                }
            }
        });
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// Compaction takes away rows, a checkpoint later, and only what no revision can show any more.
#[test]
fn compacted_history_leaves_the_store() {
    for kind in KINDS {
        let mut w = World::new(kind);
        for round in 0..30 {
            for key in 0..10 {
                w.put(&format!("k{key}"), &format!("{round}{}", "x".repeat(8_000)));
            }
        }
        w.operate(Operation::DeleteRange(kv::command::DeleteRange {
            range: KeyRange::Prefix("k0".into()),
            prev_kv: false,
        }));
        w.checkpoint();
        let StoreKind::Memory(_) = &w.store else {
            let newest = w.reader.revision();
            w.operate(Operation::Compact { revision: newest });
            w.checkpoint();
            w.crash();
            assert_eq!(w.range(&range(KeyRange::Prefix("k".into()))).unwrap().count, 9);
            continue;
        };
        let full = w.reader.stats().unwrap().disk_bytes;
        let newest = w.reader.revision();
        assert_eq!(revision(&w.operate(Operation::Compact { revision: newest - 5 })), newest);
        let before = w.fingerprint();
        let pinned = w.machine().begin_snapshot();
        w.checkpoint();
        w.checkpoint();
        assert_eq!(w.fingerprint(), before);
        let swept = w.reader.stats().unwrap().disk_bytes;
        assert!(swept < full / 15, "{swept} of {full} bytes");
        drop(pinned);
        let all = Range { revision: Some(newest - 5), ..range(KeyRange::Prefix("k".into())) };
        assert_eq!(w.range(&all).unwrap().count, 10);
        w.operate(Operation::Compact { revision: newest });
        w.checkpoint();
        assert_eq!(w.range(&range(KeyRange::Prefix("k".into()))).unwrap().count, 9);
        assert!(matches!(w.operate(put("k0", "again")), Response::Done { .. }));
        w.crash();
        w.replay();
        assert_eq!(w.range(&range(KeyRange::Key("k0".into()))).unwrap().kvs[0].version, 1);
    }
}

// A session that takes several rows and later fewer leaves nothing behind that would be taken for a part of it.
#[test]
fn a_session_may_shrink() {
    for kind in KINDS {
        let mut w = World::with_limits(kind, SessionLimits::default());
        let s = w.open_session(1_000);
        w.put("a", &"x".repeat(30_000));
        let first = w.stamped(s, 1, 0, Operation::Put(put_of("a", "1", true)));
        w.checkpoint();
        w.crash();
        assert_eq!(w.stamped(s, 1, 0, put("a", "9")), first);
        w.stamped(s, 2, 2, put("a", "2"));
        w.checkpoint();
        w.crash();
        assert_eq!(w.machine().lost(), None);
        w.stamped(s, 3, 3, put("a", "3"));
        w.command(CommandBody::CloseSession { session: s });
        w.checkpoint();
        w.crash();
        assert_eq!(w.reader.stats().unwrap().sessions, 0);
    }
}

// A snapshot that is being written keeps what it needs from the sweep.
#[test]
fn a_snapshot_pins_its_history() {
    let mut w = World::new(Kind::Memory);
    for i in 0..10 {
        w.put("k", &i.to_string());
    }
    w.checkpoint();
    let (_, expected) = w.snapshot();
    let job = w.machine().begin_snapshot();
    w.operate(Operation::Compact { revision: 10 });
    w.checkpoint();
    w.checkpoint();
    let mut written = Vec::new();
    job(&mut written).unwrap();
    assert_eq!(written, expected);
    let full = w.reader.stats().unwrap().disk_bytes;
    w.checkpoint();
    assert!(w.reader.stats().unwrap().disk_bytes < full);
}
