//! Golden stories: each file under `testdata/` makes claims about the core, and shows the evidence.
//!
//! A story is a list of blocks: comments (the claim), commands, a line `---`, and what then happened. The commands
//! are listed at `Story::run`. A story that no longer tells the truth fails; `UPDATE=1 cargo test -p raftkv-raft
//! --test golden` writes down what happens now, for a human to judge.

mod common;
#[path = "golden/show.rs"]
mod show;
#[path = "golden/story.rs"]
mod story;

use std::fs;
use std::path::{Path, PathBuf};

use story::Story;

/// Runs the commands of one file; returns the file as it should be.
fn play(text: &str) -> String {
    let mut story = Story::default();
    let mut played = String::new();
    let mut lines = text.lines().peekable();
    while lines.peek().is_some() {
        let mut output = String::new();
        let mut is_block = false;
        for line in lines.by_ref() {
            if line == "---" {
                is_block = true;
                break;
            }
            played += line;
            played += "\n";
            let command = line.split('#').next().unwrap_or_default().trim();
            if !command.is_empty() {
                output += &story.run(command);
            }
        }
        if !is_block {
            assert!(output.is_empty(), "the last block has no `---`");
            break;
        }
        // What the file says happened is skipped: it ends with an empty line.
        for line in lines.by_ref() {
            if line.is_empty() {
                break;
            }
        }
        played += "---\n";
        played += if output.is_empty() { "nothing\n" } else { &output };
        played += "\n";
    }
    format!("{}\n", played.trim_end())
}

fn stories(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("testdata can be read") {
        let path = entry.expect("testdata can be read").path();
        if path.is_dir() {
            found.extend(stories(&path));
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn stories_are_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let is_update = std::env::var("UPDATE").is_ok_and(|value| value == "1");
    let mut wrong = Vec::new();
    for path in stories(&root) {
        let name = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        println!("{name}");
        let told = fs::read_to_string(&path).expect("a story can be read");
        let played = play(&told);
        if told == played {
            continue;
        }
        if is_update {
            fs::write(&path, played).expect("a story can be written");
            continue;
        }
        let at = told.lines().zip(played.lines()).take_while(|(told, now)| told == now).count();
        let line = |text: &str| text.lines().nth(at).unwrap_or("(the end)").to_owned();
        wrong.push(format!("{name}:{}: told `{}`, but now `{}`", at + 1, line(&told), line(&played)));
    }
    assert!(wrong.is_empty(), "not true any more (UPDATE=1 rewrites):\n{}", wrong.join("\n"));
}

/// The documentation of the core names the story that shows each rule: such a story is there.
#[test]
fn stories_that_are_named_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for entry in fs::read_dir(root.join("src/core")).expect("the core can be read") {
        let path = entry.expect("the core can be read").path();
        if path.is_dir() {
            continue;
        }
        let source = fs::read_to_string(&path).expect("source can be read");
        for (at, _) in source.match_indices("testdata/") {
            let story =
                source[at..].split(|c: char| c == '`' || c.is_whitespace()).next().unwrap_or_default();
            assert!(root.join(story).exists(), "{} names {story}, which is not there", path.display());
            named += 1;
        }
    }
    assert!(named > 5, "only {named} stories are named");
}

/// `docs/known-bugs.md` has a row for each bug that is planted in the core, and names files that are there.
#[test]
fn planted_bugs_have_a_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = fs::read_to_string(root.join("../docs/known-bugs.md")).expect("the table can be read");
    let mut planted = 0;
    for entry in fs::read_dir(root.join("src/core")).expect("the core can be read") {
        let path = entry.expect("the core can be read").path();
        let source = if path.is_dir() { String::new() } else { fs::read_to_string(&path).expect("source") };
        for rest in source.split("mutant!(\"").skip(1) {
            let id = rest.split('"').next().unwrap_or_default();
            assert!(rows.contains(&format!("| `{id}`: ")), "{id} has no row in docs/known-bugs.md");
            planted += 1;
        }
    }
    assert!(planted > 20, "only {planted} bugs are planted");
    for named in rows.split('`').skip(1).step_by(2).filter(|named| named.starts_with("raft/")) {
        assert!(root.join("..").join(named).exists(), "docs/known-bugs.md names {named}, which is not there");
    }
}
