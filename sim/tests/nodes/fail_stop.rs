//! Fail-stop (rule 2 of the design): any mutating disk call that fails ends the node with the error, and nothing is
//! acknowledged after it. Each call of a script is made to fail in turn, whatever it is and of whatever file; what
//! was acknowledged must then survive a loss of power, for a failed fsync leaves a clean page that is not on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use raft::driver::StopReason;
use raftkv_sim::disk::{Call, SimDisk};

use crate::world::{End, assert_holds, live, read_back};

/// Enough for segments to be filled, recycled and removed, and for several checkpoints and snapshots.
const ITEMS: u64 = 24;

/// The part of the node that a file or directory belongs to.
fn part(path: &Path) -> &'static str {
    let path = path.display().to_string();
    let parts = [
        ("/node/logs", "log"),
        ("/node/snapshots", "snapshots"),
        ("/node/list", "state machine"),
        ("/node/identity", "identity"),
        ("/node/ballast", "ballast"),
    ];
    let found = parts.iter().find(|(prefix, _)| path.starts_with(prefix));
    found.map_or("directory", |(_, part)| part)
}

/// What must be told for each kind of call and part, once, at least.
fn expected() -> BTreeSet<(&'static str, &'static str)> {
    BTreeSet::from([
        ("log", "Write"),
        ("log", "SyncData"),
        ("log", "Resize"),
        ("log", "Name"),
        ("log", "SyncDir"),
        ("snapshots", "Write"),
        ("snapshots", "SyncData"),
        ("snapshots", "Name"),
        ("snapshots", "SyncDir"),
        ("state machine", "Write"),
        ("state machine", "SyncData"),
        ("state machine", "Name"),
        ("identity", "Write"),
        ("identity", "SyncData"),
        ("identity", "Name"),
        ("directory", "Name"),
        ("directory", "SyncDir"),
    ])
}

const fn name(call: Call) -> &'static str {
    match call {
        Call::Write => "Write",
        Call::SyncData => "SyncData",
        Call::Resize => "Resize",
        Call::Read => "Read",
        Call::Name => "Name",
        Call::SyncDir => "SyncDir",
    }
}

/// Lets the `k`-th call of a life on `disk` fail, and looks at what is left. `held` was acknowledged before. False if
/// the life has no such call.
fn fail(disk: &SimDisk, k: u64, from: u64, held: &[u64], seen: &mut BTreeMap<(&str, &str), u64>) -> bool {
    disk.set_failure_after(k);
    let life = live(disk, from, ITEMS);
    let failed = disk.failed();
    let Some((call, path)) = failed.first() else {
        assert!(matches!(life.end, End::WasStopped(_)), "nothing failed, but {:?}", life.end);
        return false;
    };
    let context = format!("call {k} from {from}, {call:?} of {}", path.display());
    let stopped = match &life.end {
        End::DidNotStart(_) => true,
        End::Stopped(reason) | End::WasStopped(reason) => matches!(**reason, StopReason::Failed(_)),
    };
    // The ballast holds nothing: it is tried again later, and there is nothing to lose by that.
    assert!(stopped || part(path) == "ballast", "{context}: the node went on: {:?}", life.end);
    *seen.entry((part(path), name(*call))).or_default() += 1;
    let acknowledged: Vec<u64> = held.iter().chain(&life.acknowledged).copied().collect();
    for seed in 0..4 {
        let image = disk.power_loss_image(seed);
        let context = format!("{context}, fate {seed}");
        assert_holds(&read_back(&image, &context), &acknowledged, from + ITEMS, &context);
    }
    true
}

#[test]
fn a_call_that_fails_ends_the_node_and_nothing_is_acknowledged_after_it() {
    let mut seen = BTreeMap::new();
    // A first life, which forms the cluster.
    let mut k = 0;
    while fail(&SimDisk::new(k), k, 0, &[], &mut seen) {
        k += 1;
    }
    let first = k;
    // A second one, which recovers.
    let before = SimDisk::new(99);
    let life = live(&before, 0, ITEMS);
    assert_eq!(life.acknowledged.len() as u64, ITEMS);
    let mut k = 0;
    while fail(&before.power_loss_image(k), k, ITEMS, &life.acknowledged, &mut seen) {
        k += 1;
    }
    println!("{first} + {k} calls failed: {seen:?}");
    let missed: Vec<_> = expected().into_iter().filter(|kind| !seen.contains_key(kind)).collect();
    assert!(missed.is_empty(), "the script never does {missed:?}; it does {seen:?}");
}

#[test]
fn a_read_that_fails_ends_the_start() {
    let before = SimDisk::new(99);
    let life = live(&before, 0, ITEMS);
    let mut reads = 0;
    loop {
        let disk = before.process_crash_image();
        disk.fail_after(Call::Read, reads);
        let again = live(&disk, ITEMS, 1);
        if disk.failed().is_empty() {
            break;
        }
        assert!(matches!(again.end, End::DidNotStart(_)), "read {reads}: {:?}", again.end);
        reads += 1;
        let context = format!("read {reads}");
        assert_holds(&read_back(&disk, &context), &life.acknowledged, ITEMS, &context);
    }
    assert!(reads > 5, "only {reads} reads");
}
