//! Style as a test: what the compiler and clippy cannot see.
//!
//! Each rule is a function from source text to complaints, shown to fire by a test of its own at the end.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 75;
const ROOMS: [&str; 4] = ["raft", "kv", "sim", "bins"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bins has a parent").to_owned()
}

/// All Rust files of the rooms, as (path from the root, text).
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target" && n != "corpus") {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    for room in ROOMS.iter().chain(&["fuzz"]) {
        walk(&root.join(room), &mut found);
    }
    found.sort();
    assert!(found.len() > 30, "only {} source files found below {}", found.len(), root.display());
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable source file");
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            (name, text)
        })
        .collect()
}

fn check_all(rule: impl Fn(&str, &str) -> Vec<String>) {
    // This file quotes what it looks for.
    let others = sources().into_iter().filter(|(name, _)| name != "bins/tests/tidy.rs");
    let complaints: Vec<String> = others.flat_map(|(name, text)| rule(&name, &text)).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn is_test_code(name: &str) -> bool {
    name.contains("/tests/")
        || name.ends_with("/tests.rs")
        || name.contains("/examples/")
        || name.contains("/benches/")
}

/// The text without what stands behind `#[cfg(test)]` at the left margin: tests come last in a file.
fn without_tests(text: &str) -> &str {
    ["\n#[cfg(test)]\nmod ", "\n#[cfg(all(test, not(madsim)))]\nmod "]
        .iter()
        .filter_map(|start| text.find(start))
        .min()
        .map_or(text, |at| &text[..at])
}

fn files_are_short(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        vec![format!("{name}: {lines} lines; at most {FILE_LINES_MAX}: divide the room")]
    } else {
        Vec::new()
    }
}

fn functions_are_short(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some((start, depth, signature)) = &open {
            if indent == *depth && line.trim_start().starts_with('}') {
                let length = number - start + 1;
                if length > FUNCTION_LINES_MAX {
                    complaints.push(format!("{name}:{}: {length} lines in `{signature}`", start + 1));
                }
                open = None;
            }
            continue;
        }
        let code = line.trim_start();
        let is_function =
            ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "async fn ", "pub async fn "]
                .iter()
                .chain(&["pub(super) async fn ", "pub(crate) async fn ", "const fn ", "pub const fn "])
                .any(|start| code.starts_with(start));
        if is_function && !code.ends_with(';') && !code.ends_with('}') {
            open = Some((number, indent, code.to_owned()));
        }
    }
    complaints
}

/// `tokio::select!` without `biased;` picks a branch by a process-global random number.
fn selects_are_biased(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_select = !code.starts_with("//") && code.contains("select! {");
        if is_select && lines.get(number + 1).is_none_or(|next| next.trim() != "biased;") {
            complaints.push(format!("{name}:{}: a select! without `biased;`", number + 1));
        }
    }
    complaints
}

/// Which room may not know which.
fn directions_hold(name: &str, text: &str) -> Vec<String> {
    let text = without_tests(text);
    let banned: &[&str] = if is_test_code(name) {
        &[]
    } else if name.starts_with("raft/src/core/") {
        &[
            "tokio",
            "crate::wal",
            "crate::driver",
            "crate::transport",
            "crate::disk",
            "crate::net",
            "crate::clock",
            "crate::snapshot",
            "crate::codec",
            "std::thread",
            "std::time",
            "std::fs",
            "std::net",
            "tracing::",
            "postcard",
        ]
    } else if name.starts_with("raft/src/wal/") {
        &["crate::transport", "crate::driver", "tokio", "kv::", "raftkv_sim"]
    } else if name.starts_with("raft/src/transport/") {
        &["crate::wal", "crate::driver", "kv::", "raftkv_sim"]
    } else if name.starts_with("raft/src/") {
        &["kv::", "raftkv_sim", "madsim", "sled"]
    } else if name.starts_with("kv/src/state_machine/") {
        &["tokio", "raft::driver", "raftkv_sim", "madsim", "sled::", "tonic"]
    } else if name.starts_with("kv/src/store/") {
        // Its own module `sled` is the one that may name the crate.
        &["raftkv_sim", "madsim", "tokio"]
    } else if name.starts_with("kv/src/") {
        &["raftkv_sim", "madsim", "sled::"]
    } else {
        &[]
    };
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for word in banned {
            if code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).any(|token| {
                token == word.trim_end_matches(':')
                    || token.starts_with(&format!("{}::", word.trim_end_matches(':')))
            }) {
                complaints.push(format!("{name}:{}: this room may not use `{word}`", number + 1));
            }
        }
    }
    complaints
}

fn nothing_is_left_undone(name: &str, text: &str) -> Vec<String> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("#[ig", "nore")];
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in words {
            if line.contains(word) {
                complaints.push(format!("{name}:{}: `{word}`", number + 1));
            }
        }
    }
    complaints
}

/// `§3.6.2` and the like, as they stand in a text.
fn sections(text: &str) -> BTreeSet<String> {
    text.split('§')
        .skip(1)
        .map(|rest| {
            let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
            rest[..end].trim_end_matches('.').to_owned()
        })
        .filter(|section| !section.is_empty())
        .collect()
}

#[test]
fn files() {
    check_all(files_are_short);
}

#[test]
fn functions() {
    check_all(
        |name, text| {
            if is_test_code(name) { Vec::new() } else { functions_are_short(name, without_tests(text)) }
        },
    );
}

#[test]
fn selects() {
    check_all(selects_are_biased);
}

#[test]
fn directions() {
    check_all(directions_hold);
}

#[test]
fn leftovers() {
    check_all(nothing_is_left_undone);
}

#[test]
fn every_cited_section_stands_in_the_map() {
    let map = fs::read_to_string(root().join("docs/raft-map.md")).expect("docs/raft-map.md");
    let mapped = sections(&map);
    check_all(|name, text| {
        sections(text)
            .difference(&mapped)
            .map(|section| format!("{name}: cites §{section}, which docs/raft-map.md does not list"))
            .collect()
    });
}

/// Every path in backticks in the map exists.
#[test]
fn the_map_points_at_files_that_are_there() {
    let map = fs::read_to_string(root().join("docs/raft-map.md")).expect("docs/raft-map.md");
    let missing: Vec<&str> = map
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| ROOMS.iter().any(|room| word.starts_with(&format!("{room}/"))))
        .map(|word| word.split("::").next().unwrap_or(word))
        .filter(|path| !root().join(path).exists())
        .collect();
    assert!(missing.is_empty(), "docs/raft-map.md names files that are not there: {missing:?}");
}

/// Every page of the book is there, and every page that is there is in the book.
#[test]
fn the_book_is_whole() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("docs/SUMMARY.md");
    let listed: BTreeSet<String> = summary
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|link| link.trim_start_matches("./").to_owned())
        .filter(|link| !link.is_empty())
        .collect();
    let mut pages = BTreeSet::new();
    for dir in ["", "adr"] {
        for entry in fs::read_dir(docs.join(dir)).expect("a folder of docs").flatten() {
            let name = entry.file_name().into_string().expect("a plain name");
            if name.ends_with(".md") && name != "SUMMARY.md" {
                pages.insert(if dir.is_empty() { name } else { format!("{dir}/{name}") });
            }
        }
    }
    assert_eq!(listed, pages, "left: in SUMMARY.md; right: in docs/");
}

/// What a build or a test run writes is no part of the source.
fn written_by_a_build(tracked: &str) -> Vec<String> {
    let below_target = |path: &&str| path.split('/').rev().skip(1).any(|directory| directory == "target");
    tracked.lines().filter(below_target).map(|path| format!("{path}: tracked, below a target/")).collect()
}

#[test]
fn nothing_below_a_target_directory_is_tracked() {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    // An unpacked archive of the source has no git, and nothing to ask it for.
    let Some(output) = output.ok().filter(|output| output.status.success()) else { return };
    let complaints = written_by_a_build(&String::from_utf8_lossy(&output.stdout));
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Only crates.io, only licences that `deny.toml` allows.
#[test]
fn dependencies_are_allowed() {
    let deny = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let deny: toml::Table = deny.parse().expect("deny.toml is TOML");
    let allowed: BTreeSet<String> = deny["licenses"]["allow"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|l| l.as_str().expect("a string").to_owned())
        .collect();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut complaints = Vec::new();
    for package in metadata["packages"].as_array().expect("a list") {
        let name = package["name"].as_str().unwrap_or_default();
        match package["source"].as_str() {
            None => continue,
            Some(source) if source.starts_with("registry+https://github.com/rust-lang/crates.io-index") => {}
            Some(source) => complaints.push(format!("{name} comes from {source}")),
        }
        let license = package["license"].as_str().unwrap_or_default();
        if !license_is_allowed(license, &allowed) {
            complaints.push(format!("{name}: licence `{license}` is not allowed by deny.toml"));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Whether one alternative of an SPDX expression has only allowed parts.
fn license_is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let flat = expression.replace(['(', ')'], " ").replace('/', " OR ");
    flat.split(" OR ").any(|choice| {
        let mut parts = choice.split(" AND ").map(str::trim).filter(|part| !part.is_empty()).peekable();
        parts.peek().is_some() && parts.all(|part| allowed.contains(part))
    })
}

/// Each rule, shown to fire.
mod rules_fire {
    use super::*;

    #[test]
    fn on_a_long_file_and_a_long_function() {
        assert!(!files_are_short("a.rs", &"x\n".repeat(FILE_LINES_MAX + 1)).is_empty());
        assert!(files_are_short("a.rs", &"x\n".repeat(FILE_LINES_MAX)).is_empty());
        let long = format!("    pub fn f() {{\n{}    }}\n", "        x;\n".repeat(FUNCTION_LINES_MAX));
        assert!(!functions_are_short("a.rs", &long).is_empty());
        let short = format!("    pub fn f() {{\n{}    }}\n", "        x;\n".repeat(FUNCTION_LINES_MAX - 2));
        assert!(functions_are_short("a.rs", &short).is_empty());
    }

    #[test]
    fn on_an_unbiased_select() {
        let unbiased = format!("tokio::{}\n    a = b => {{}}\n}}", "select! {");
        assert!(!selects_are_biased("a.rs", &unbiased).is_empty());
        let biased = format!("tokio::{}\n    biased;\n    a = b => {{}}\n}}", "select! {");
        assert!(selects_are_biased("a.rs", &biased).is_empty());
    }

    #[test]
    fn on_a_wrong_direction() {
        assert!(!directions_hold("raft/src/core/a.rs", "use tokio::sync;").is_empty());
        assert!(!directions_hold("raft/src/wal/a.rs", "use crate::transport::X;").is_empty());
        assert!(!directions_hold("kv/src/server/a.rs", "let db = sled::open(p);").is_empty());
        assert!(directions_hold("kv/src/store/sled.rs", "let db = sled::open(p);").is_empty());
        assert!(directions_hold("raft/src/core/a.rs", "// as tokio does").is_empty());
    }

    #[test]
    fn on_what_a_build_wrote() {
        assert_eq!(
            written_by_a_build("sim/target/sim-failures/7.html\nsim/src/target.rs\ntarget/a").len(),
            2
        );
    }

    #[test]
    fn on_leftovers_sections_and_licences() {
        assert!(!nothing_is_left_undone("a.rs", concat!("// TO", "DO later")).is_empty());
        assert_eq!(sections("see §3.6.2. and §4, §"), BTreeSet::from(["3.6.2".to_owned(), "4".to_owned()]));
        let allowed = BTreeSet::from(["MIT".to_owned()]);
        assert!(license_is_allowed("GPL-3.0 OR MIT", &allowed));
        assert!(!license_is_allowed("GPL-3.0 AND MIT", &allowed));
        assert!(!license_is_allowed("", &allowed));
    }
}
