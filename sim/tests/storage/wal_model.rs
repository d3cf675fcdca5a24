//! The log against its dumb twin, without crashes of the machine: the same random scripts on both disks.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use raft::disk::{RealDisk, SharedDisk};
use raft::wal::WalOptions;

use crate::model::{Model, Op, any_op, create, dir, new_disk, open, shared};

#[derive(Clone, Debug)]
enum Step {
    Do(Op),
    /// The process crashes, and another one opens the log.
    Reopen,
}

fn steps(len: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![9 => any_op().prop_map(Step::Do), 1 => Just(Step::Reopen)], 1..len)
}

fn options() -> impl Strategy<Value = WalOptions> {
    (prop_oneof![Just(700), Just(1024), Just(4096)], 0..3usize)
        .prop_map(|(segment_bytes, recycled_max)| WalOptions { segment_bytes, recycled_max })
}

fn run(disk: &SharedDisk, dir: &Path, options: WalOptions, steps: &[Step]) {
    let mut model = Model::new();
    let mut wal = create(Arc::clone(disk), dir, options).unwrap();
    for step in steps.iter().chain([&Step::Reopen, &Step::Reopen]) {
        match step {
            Step::Do(op) => model.apply(&mut wal, op).unwrap(),
            Step::Reopen => {
                drop(wal);
                let (reopened, recovered) = open(Arc::clone(disk), dir, options).unwrap();
                model.check(&recovered, "reopen");
                model.states = Model::of(&recovered).states;
                wal = reopened;
            }
        }
        let stats = wal.stats();
        assert_eq!(stats.last, model.now().last());
        assert_eq!(stats.hard_state, model.now().hard_state);
        assert!(stats.spares <= options.recycled_max, "{stats:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn on_the_simulated_disk(options in options(), steps in steps(60)) {
        let disk = new_disk(1);
        run(&shared(&disk), &dir(), options, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn on_the_real_disk(options in options(), steps in steps(40)) {
        let root = tempfile::tempdir().unwrap();
        let disk: SharedDisk = Arc::new(RealDisk);
        run(&disk, &root.path().join("logs"), options, &steps);
    }
}

/// The two disks must agree on what a log looks like, byte for byte: else one of them lies.
#[test]
fn both_disks_hold_the_same_bytes() {
    let steps = [
        Op::Append { vote: true, back: 0, sizes: vec![0, 1, 300, 40] },
        Op::Sync,
        Op::Append { vote: false, back: 2, sizes: vec![900, 40] },
        Op::Sync,
        Op::Compact { keep: 1 },
        Op::Append { vote: true, back: 0, sizes: vec![60; 30] },
        Op::Attest,
    ];
    let options = WalOptions { segment_bytes: 1024, recycled_max: 1 };
    let root = tempfile::tempdir().unwrap();
    let sim = new_disk(1);
    let here = root.path().join("logs");
    let there = dir();
    let places: [(SharedDisk, &Path); 2] = [(Arc::new(RealDisk), &here), (shared(&sim), &there)];
    for (disk, dir) in places {
        let mut wal = create(disk, dir, options).unwrap();
        let mut model = Model::new();
        for op in &steps {
            model.apply(&mut wal, op).unwrap();
        }
    }
    let mut names = 0;
    for (path, _) in sim.files() {
        let real = std::fs::read(here.join(path.file_name().unwrap())).unwrap();
        assert!(sim.content(&path).unwrap() == real, "{} differs", path.display());
        names += 1;
    }
    assert_eq!(names, std::fs::read_dir(&here).unwrap().count());
}
