//! The rules that hold all the time stand in one file each, say in their first line where they come from, and none of those that
//! the design demands is missing.

use std::collections::BTreeMap;
use std::path::Path;

/// What is demanded, and where it is looked after. What is judged at the end of a world is not here.
const DEMANDED: [(&str, &str); 9] = [
    ("election safety", "election_safety"),
    ("log matching, state-machine safety of commands", "log_agreement"),
    ("leader completeness", "leader_completeness"),
    ("commit and applied are monotone", "commit_monotone"),
    ("durability on a quorum of platters", "durability"),
    ("membership safety", "membership_safety"),
    ("an empty disk is a new identity", "wiped_disk"),
    ("exactly once", "exactly_once"),
    ("equal state at equal index", "state_hash"),
];

fn files() -> BTreeMap<String, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/invariants");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let rust = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    })
    .collect()
}

/// Whether a file of the simulator, other than its own, names this module's content.
fn used(name: &str) -> bool {
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let path_of = format!("{name}::");
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with(format!("invariants/{name}.rs"))
            && std::fs::read_to_string(&path).unwrap_or_default().contains(&path_of)
        {
            return true;
        }
    }
    false
}

#[test]
fn each_rule_is_one_file_and_all_that_are_demanded_are_there() {
    let mut files = files();
    let collected = files.remove("mod").unwrap();
    for (rule, name) in DEMANDED {
        assert!(files.contains_key(name), "nobody looks after this: {rule}");
        assert!(collected.contains(&format!("mod {name};")), "{name} is not compiled in");
        assert!(used(name), "nobody calls {name}");
    }
    for name in files.keys() {
        let known = DEMANDED.iter().any(|(_, demanded)| demanded == name);
        assert!(known, "{name} looks after a rule that the list of this test does not have");
    }
}

#[test]
fn the_first_line_of_each_rule_says_where_it_comes_from() {
    for (name, text) in files() {
        let first = text.lines().next().unwrap_or_default();
        let cites = first.starts_with("//! ") && (first.contains('§') || first.contains("(rule "));
        assert!(cites || name == "mod", "{name}: no section and no rule in {first:?}");
    }
}
