//! The fuzzer's corpus and all that it ever found, run through the targets without it.

use std::fs;
use std::path::{Path, PathBuf};

use raftkv_sim::fuzz::{TARGETS, seeds};

fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(kind).join(target);
    let Ok(found) = fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A panic in here names the file in the lines before it.
#[test]
fn the_corpus_and_former_findings_pass() {
    for (name, target) in TARGETS {
        for path in inputs("corpus", name).into_iter().chain(inputs("regressions", name)) {
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
        }
    }
}

/// If an encoding changes, so must the seeds: `cargo run -p raftkv-sim --example fuzz_seeds`.
#[test]
fn the_seeds_are_in_the_corpus_and_are_understood() {
    for (name, target) in TARGETS {
        let seeds = seeds::of(name);
        assert!(seeds.len() >= 2, "{name}");
        let corpus = inputs("corpus", name);
        for (seed, bytes) in seeds {
            let path = corpus.iter().find(|path| path.ends_with(seed));
            let path = path.unwrap_or_else(|| panic!("{name} has no {seed}"));
            assert!(fs::read(path).unwrap() == bytes, "{} is not what is written now", path.display());
            // A whole frame is one of the few inputs whose inside is looked at without its checksum.
            assert!(target(&bytes) || seed == "framed", "{} is not understood", path.display());
        }
    }
}
