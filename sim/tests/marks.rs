//! `sim/marks.txt` is the list of the marks in the source: one that no world ever came to must be known by name.
//!
//! `UPDATE=1 cargo test -p raftkv-sim --test marks` writes it anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

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

/// Each mark of the product's source, and where it stands.
fn marks() -> BTreeMap<String, Vec<String>> {
    let mut files = Vec::new();
    for room in ["raft/src", "kv/src"] {
        walk(&root().join(room), &mut files);
    }
    let mut marks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in files.iter().filter(|path| !path.ends_with("raft/src/marks.rs")) {
        let text = fs::read_to_string(path).unwrap();
        for rest in text.split("sometimes!(\"").skip(1) {
            let (id, _) = rest.split_once('"').unwrap();
            marks.entry(id.to_owned()).or_default().push(path.display().to_string());
        }
    }
    marks
}

#[test]
fn the_list_is_that_of_the_source_and_every_mark_stands_once() {
    let marks = marks();
    for (id, places) in &marks {
        assert_eq!(places.len(), 1, "{id} stands at {places:?}");
        let (room, what) = id.split_once('/').unwrap_or_default();
        assert!(!room.is_empty() && !what.is_empty(), "{id:?} is not of the form room/what");
    }
    let list: String = marks.keys().map(|id| format!("{id}\n")).collect();
    let path = root().join("sim/marks.txt");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &list).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), list, "UPDATE=1 writes the list anew");
}
