//! The log under crashes at every disk call, with many fates of what was not synced.

use proptest::prelude::*;
use raft::core::{Entry, LogId};
use raft::wal::{Recovered, WalError, WalOptions};
use raftkv_sim::disk::{Call, SimDisk};

use crate::model::{Model, Op, TINY, any_op, append, create, cut, dir, new_disk, open, shared, vote};

/// How many fates are tried for each crash point.
const FATES: u64 = 16;

/// Runs the script until the power goes or it ends; the model then holds what may be found.
fn run(disk: &SimDisk, options: WalOptions, script: &[Op]) -> (Model, Result<(), WalError>) {
    let mut model = Model::new();
    let result = create(shared(disk), &dir(), options)
        .and_then(|mut wal| script.iter().try_for_each(|op| model.apply(&mut wal, op)));
    (model, result)
}

fn recover(disk: &SimDisk, options: WalOptions, context: &str) -> Recovered {
    match open(shared(disk), &dir(), options) {
        Ok((_, recovered)) => recovered,
        Err(error) => panic!("{context}: {error}\n{:#?}", disk.files()),
    }
}

/// Equal but for the torn tail, which the first recovery cut.
fn same(a: &Recovered, b: &Recovered) -> bool {
    (a.hard_state, a.prev, &a.entries) == (b.hard_state, b.prev, &b.entries)
}

/// Crashes recovery itself at every call: whatever is left gives the same log again.
fn crash_recovery(found: &SimDisk, options: WalOptions, expected: &Recovered, context: &str) {
    for k in 0.. {
        let disk = found.process_crash_image();
        disk.set_crash_after(k);
        let done = open(shared(&disk), &dir(), options).is_ok();
        for seed in 0..3 {
            let image = disk.power_loss_image(seed);
            let context = format!("{context}, recovery crashed after {k} calls, fate {seed}");
            let again = recover(&image, options, &context);
            assert!(same(&again, expected), "{context}: {again:?}\nbut first {expected:?}");
        }
        if done {
            return;
        }
    }
}

/// Goes on with the log: sends the first of `resent` once more, and nothing else, and looks what is there then.
fn go_on(found: &SimDisk, options: WalOptions, expected: &Recovered, resent: Option<&Entry>, context: &str) {
    let (mut wal, _) = open(shared(found), &dir(), options).unwrap();
    let mut expected = expected.clone();
    if let Some(entry) = resent.filter(|entry| entry.term >= wal.stats().last.term) {
        wal.append(None, std::slice::from_ref(entry)).unwrap();
        expected.entries.push(entry.clone());
    }
    wal.sync().unwrap();
    for image in [found.durable_image(), found.process_crash_image()] {
        let again = recover(&image, options, context);
        assert!(same(&again, &expected), "{context}, gone on: {again:?}\nbut should be {expected:?}");
    }
}

/// Crashes `script` after each of its calls.
fn enumerate(script: &[Op], options: WalOptions) {
    // Creating a log is not part of the script: a log that is half created was promised to no one.
    let created = {
        let disk = new_disk(1);
        drop(create(shared(&disk), &dir(), options).unwrap());
        disk.calls()
    };
    for k in created.. {
        let disk = new_disk(k);
        disk.set_crash_after(k - disk.calls());
        let (model, result) = run(&disk, options, script);
        for seed in 0..FATES {
            let image = disk.power_loss_image(seed);
            let context = format!("crash after call {k}, fate {seed}");
            let recovered = recover(&image.process_crash_image(), options, &context);
            model.check(&recovered, &context);
            let further = model.now().entries.iter().find(|e| e.index.0 == last(&recovered).index.0 + 1);
            if seed % 4 == 0 {
                crash_recovery(&image, options, &recovered, &context);
            }
            go_on(&image, options, &recovered, further, &context);
        }
        let image = disk.process_crash_image();
        let recovered = recover(&image, options, "process crash");
        model.check(&recovered, "process crash");
        // What a process was told is durable must be so, also when an earlier process wrote it.
        let again = recover(&image.durable_image(), options, "power loss behind a recovery");
        assert!(same(&again, &recovered), "recovered {recovered:?}, but durable was {again:?}");
        if result.is_ok() {
            return;
        }
    }
}

fn last(recovered: &Recovered) -> LogId {
    recovered.entries.last().map_or(recovered.prev, Entry::log_id)
}

#[test]
fn appends_in_one_segment() {
    enumerate(&[vote(), append(2, 20), Op::Sync, append(3, 70), vote(), append(1, 0), Op::Sync], TINY);
}

/// Segments so full that there is no room for a record, or for a mark, or for anything.
#[test]
fn full_segments() {
    for size in [264, 290, 304, 313] {
        enumerate(&[append(1, size), Op::Sync, Op::Attest, append(1, 0), Op::Attest], TINY);
    }
}

/// Groups of several sectors, which a power loss tears.
#[test]
fn torn_groups() {
    let script = [vote(), append(3, 400), Op::Sync, append(2, 30), Op::Sync, append(4, 300), Op::Sync];
    enumerate(&script, WalOptions { segment_bytes: 8192, ..TINY });
}

#[test]
fn segments_that_roll_and_are_prepared_ahead() {
    let script = [
        vote(),
        append(3, 100),
        Op::Sync,
        append(3, 100),
        Op::Sync,
        append(3, 150),
        append(1, 2000),
        Op::Sync,
    ];
    enumerate(&script, TINY);
    enumerate(&script, WalOptions { recycled_max: 0, ..TINY });
}

#[test]
fn a_cut_within_a_segment_and_one_over_several() {
    let script = [
        append(3, 30),
        Op::Sync,
        cut(2, 2, 30),
        Op::Sync,
        append(12, 100),
        Op::Sync,
        cut(11, 2, 40),
        Op::Sync,
    ];
    enumerate(&script, TINY);
    enumerate(&script, WalOptions { recycled_max: 0, ..TINY });
}

#[test]
fn a_cut_back_to_the_beginning() {
    enumerate(&[append(9, 100), Op::Sync, cut(9, 3, 100), Op::Sync, cut(3, 1, 0), Op::Sync], TINY);
}

#[test]
fn compaction_and_recycled_segments() {
    let script = [
        vote(),
        append(12, 100),
        Op::Sync,
        Op::Compact { keep: 2 },
        append(12, 100),
        Op::Sync,
        Op::Compact { keep: 0 },
    ];
    enumerate(&script, TINY);
    enumerate(&script, WalOptions { recycled_max: 3, ..TINY });
}

#[test]
fn a_reset_after_a_snapshot() {
    let reset = Op::Reset { ahead: 40 };
    let script = [cut(0, 9, 100), Op::Sync, append(1, 10), reset.clone(), append(2, 10), Op::Sync, reset];
    enumerate(&script, TINY);
}

#[test]
fn the_idle_mark() {
    enumerate(
        &[
            append(1, 20),
            Op::Attest,
            append(1, 20),
            Op::Sync,
            Op::Attest,
            Op::Attest,
            append(1, 340),
            Op::Attest,
        ],
        TINY,
    );
}

/// A crash while the log is created leaves none, or an empty one; and creating may be done again.
#[test]
fn creation() {
    for k in 0.. {
        let disk = new_disk(k);
        disk.set_crash_after(k);
        let result = create(shared(&disk), &dir(), TINY);
        for seed in 0..FATES {
            let image = disk.power_loss_image(seed);
            match open(shared(&image.process_crash_image()), &dir(), TINY) {
                Ok((_, recovered)) => assert!(recovered.entries.is_empty() && recovered.torn_bytes == 0),
                Err(error) => {
                    assert!(matches!(error, WalError::Missing { .. }), "{error}");
                    assert!(result.is_err(), "a log whose creation was acknowledged is gone, fate {seed}");
                }
            }
            drop(create(shared(&image), &dir(), TINY).unwrap());
            recover(&image.durable_image(), TINY, "created again");
        }
        if result.is_ok() {
            return;
        }
    }
}

/// After any failed call the log does nothing any more, and what was promised before is there (rule 2).
#[test]
fn a_failed_call_stops_the_log() {
    let script = [
        cut(0, 2, 50),
        Op::Sync,
        append(3, 200),
        Op::Sync,
        append(2, 600),
        Op::Sync,
        cut(2, 2, 50),
        Op::Sync,
        Op::Compact { keep: 0 },
        append(5, 200),
        Op::Attest,
        Op::Reset { ahead: 20 },
        append(1, 5),
        Op::Sync,
    ];
    let mut failures = 0;
    for segment_bytes in [1024, 8192] {
        let options = WalOptions { segment_bytes, ..TINY };
        for kind in [Call::Write, Call::SyncData, Call::Resize, Call::Name, Call::SyncDir] {
            // The count of calls differs from kind to kind; behind the last one nothing fails.
            failures += (0..).take_while(|n| fail(kind, *n, options, &script)).count();
        }
    }
    assert!(failures > 60, "{failures}");
}

/// Fails one call; false if there were not so many.
fn fail(kind: Call, n: u64, options: WalOptions, script: &[Op]) -> bool {
    let disk = new_disk(n);
    let mut model = Model::new();
    let mut wal = create(shared(&disk), &dir(), options).unwrap();
    disk.fail_after(kind, n);
    let Err(error) = script.iter().try_for_each(|op| model.apply(&mut wal, op)) else { return false };
    assert!(matches!(error, WalError::Io { .. }), "{error}");
    let calls = disk.calls();
    let later = [wal.append(None, &[]), wal.sync(), wal.attest(), wal.compact(wal.stats().prev.index)];
    for result in later.into_iter().chain([wal.reset(wal.stats().last)]) {
        assert!(matches!(result, Err(WalError::Poisoned { .. })), "{kind:?} {n}: {result:?}");
    }
    assert_eq!(disk.calls(), calls, "a stopped log touched the disk");
    drop(wal);
    // Another process may find in the page cache what never reached the disk. If it goes on with that, it must have
    // made it durable.
    let image = disk.process_crash_image();
    let recovered = recover(&image, options, "another process");
    model.check(&recovered, "another process");
    let durable = recover(&image.durable_image(), options, "power loss after that");
    assert!(same(&durable, &recovered), "{kind:?} {n}: {recovered:?}\nbut durable was {durable:?}");
    for seed in 0..FATES {
        let context = format!("{kind:?} {n}, fate {seed}");
        model.check(&recover(&disk.power_loss_image(seed), options, &context), &context);
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Random scripts, crashed, recovered, gone on with and crashed again.
    #[test]
    fn random_scripts(
        lives in prop::collection::vec((prop::collection::vec(any_op(), 1..25), 0..80u64, any::<u64>()), 1..5),
        segment_bytes in prop_oneof![Just(700u64), Just(1024), Just(8192)],
        recycled_max in 0..3usize,
    ) {
        let options = WalOptions { segment_bytes, recycled_max };
        let mut disk = new_disk(1);
        drop(create(shared(&disk), &dir(), options).unwrap());
        let mut model = Model::new();
        for (script, calls, seed) in lives {
            disk.set_crash_after(calls);
            match open(shared(&disk), &dir(), options) {
                Ok((mut wal, recovered)) => {
                    model.check(&recovered, "next life");
                    model.states = Model::of(&recovered).states;
                    let _ = script.iter().try_for_each(|op| model.apply(&mut wal, op));
                }
                Err(error) => assert!(disk.is_off(), "{error}"),
            }
            disk = if seed % 4 == 0 { disk.process_crash_image() } else { disk.power_loss_image(seed) };
        }
        let recovered = recover(&disk, options, "the end");
        model.check(&recovered, "the end");
    }
}
