//! Every planted bug is in the table that is measured (`sim/src/planted.rs`), and nothing else is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use raftkv_sim::planted;

/// What the gate of the simulator's determinism is for, which has its own test.
const ELSEWHERE: [&str; 1] = ["sim-address"];

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_table_is_that_of_the_source() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for room in ["raft/src", "kv/src", "sim/src"] {
        walk(&root.join(room), &mut files);
    }
    let mut source = BTreeSet::new();
    for path in files.iter().filter(|path| !path.ends_with("raft/src/mutants.rs")) {
        let text = fs::read_to_string(path).unwrap();
        for rest in text.split("mutant!(\"").skip(1) {
            source.insert(rest.split_once('"').unwrap().0.to_owned());
        }
    }
    let table: BTreeSet<String> = planted::ALL.iter().map(|planted| planted.id.to_owned()).collect();
    assert_eq!(table.len(), planted::ALL.len(), "a row stands twice");
    let missing: Vec<_> = source.difference(&table).filter(|id| !ELSEWHERE.contains(&id.as_str())).collect();
    assert!(missing.is_empty(), "planted, but not in sim/src/planted.rs: {missing:?}");
    let stale: Vec<_> = table.difference(&source).collect();
    assert!(stale.is_empty(), "in sim/src/planted.rs, but planted nowhere: {stale:?}");
}
