//! A crash between any two disk calls of a node's whole life: formation, the first election, appends, segments that
//! are filled and recycled, checkpoints, snapshots, compaction, the close; and of the recovery after each such crash.
//! What was acknowledged is there afterwards, whatever became of what was not synced.

use raftkv_sim::disk::SimDisk;

use crate::world::{assert_holds, live, read_back};

const ITEMS: u64 = 20;

/// How many fates of the unsynced are tried for each crash.
const FATES: u64 = 3;

#[test]
fn a_crash_between_any_two_calls_of_a_life_loses_nothing_that_was_acknowledged() {
    let mut crashes = 0;
    for k in 0.. {
        let disk = SimDisk::new(k);
        disk.set_crash_after(k);
        let life = live(&disk, 0, ITEMS);
        if !disk.is_off() {
            assert_eq!(life.acknowledged.len() as u64, ITEMS);
            break;
        }
        crashes += 1;
        for fate in 0..FATES {
            let context = format!("crash after call {k}, fate {fate}");
            let image = disk.power_loss_image(fate);
            assert_holds(&read_back(&image, &context), &life.acknowledged, ITEMS, &context);
        }
    }
    println!("{crashes} crashes");
    assert!(crashes > 100, "only {crashes} calls");
}

#[test]
fn a_crash_between_any_two_calls_of_a_recovery_loses_nothing_that_was_acknowledged() {
    let mut crashes = 0;
    // Where the first life ends: in a checkpoint, in a snapshot, between segments, wherever.
    for first in (30..).step_by(17) {
        let disk = SimDisk::new(first);
        disk.set_crash_after(first);
        let life = live(&disk, 0, ITEMS);
        if !disk.is_off() {
            break;
        }
        let found = disk.power_loss_image(first);
        for k in 0.. {
            let disk = found.process_crash_image();
            disk.set_crash_after(k);
            let again = live(&disk, ITEMS, 1);
            if !disk.is_off() {
                break;
            }
            crashes += 1;
            let context = format!("crash after call {first}, and in the next life after call {k}");
            let image = disk.power_loss_image(k);
            let acknowledged: Vec<u64> =
                life.acknowledged.iter().chain(&again.acknowledged).copied().collect();
            assert_holds(&read_back(&image, &context), &acknowledged, ITEMS + 1, &context);
        }
    }
    println!("{crashes} crashes of recoveries");
    assert!(crashes > 100, "only {crashes} calls");
}
