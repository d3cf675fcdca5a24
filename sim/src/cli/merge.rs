//! `raftkv-sim merge`: joins the journals of several sweeps into one report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::marks::Marks;
use crate::report::Figures;
use crate::runner::child::Outcome;
use crate::runner::journal::{self, About, Read, WorldLine};

/// How many worlds are named for each rule.
const EXAMPLES_MAX: usize = 5;
/// How many seeds that were not run are named.
const MISSING_MAX: usize = 10;

/// The arguments of `raftkv-sim merge`.
///
/// Exit codes: 0 no rule was broken, 1 some were, 2 a file could not be read or the files do not belong together, 3 none
/// was broken that is known of, but some world hung, was taken down, was not run, or a line was unreadable.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The journals, as `run --jsonl` writes them.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
    /// Print in how many worlds each mark in the source was hit; without this, only those that never were.
    #[arg(long)]
    pub marks: bool,
}

/// What broke one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
struct Violations {
    /// How many worlds.
    worlds: usize,
    /// The commands that show some of them.
    reproduce: Vec<String>,
}

/// All journals together.
#[derive(Debug, Default, Serialize)]
struct Merged {
    files: usize,
    /// Worlds of which something is known, each counted once.
    worlds: usize,
    passed: usize,
    failed: usize,
    hung: usize,
    /// Worlds whose process was taken down, and that nobody ran again.
    taken_down: usize,
    /// Lines about a world that another line is about, too.
    repeated: usize,
    /// Worlds that ran twice and did not do the same: that is a failure.
    contradictions: Vec<String>,
    /// Lines that say nothing.
    unreadable_lines: usize,
    /// Files whose last line has no end.
    cut_off_files: usize,
    /// How many seeds of a range with an end were not run; the first of them.
    missing: u64,
    missing_first: Vec<u64>,
    simulated_seconds: f64,
    process_seconds: f64,
    violations: BTreeMap<String, Violations>,
    figures: Figures,
    /// In how many worlds each mark in the source was hit; 0 for those that never were.
    marks: Marks,
}

/// Joins the journals.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut reads = Vec::new();
    for path in &arguments.files {
        match journal::read(path) {
            Ok(read) if read.header.is_none() && read.worlds.is_empty() && !read.unreadable.is_empty() => {
                eprintln!("{} is not the journal of a sweep", path.display());
                return ExitCode::from(2);
            }
            Ok(read) => reads.push(read),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return ExitCode::from(2);
            }
        }
    }
    let mut merged = match merge(reads) {
        Ok(merged) => merged,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if arguments.json {
        merged.marks = merged.marks.with_all();
        match serde_json::to_string_pretty(&merged) {
            Ok(text) => println!("{text}"),
            Err(error) => panic!("a report that is no JSON: {error}"),
        }
    } else {
        print(&merged);
        crate::runner::print_marks(&merged.marks, merged.worlds, arguments.marks);
    }
    ExitCode::from(merged.exit_code())
}

fn merge(reads: Vec<Read>) -> Result<Merged, String> {
    let mut merged = Merged { files: reads.len(), ..Merged::default() };
    let mut kinds = BTreeSet::new();
    let mut ranges = BTreeMap::new();
    let mut worlds: BTreeMap<String, WorldLine> = BTreeMap::new();
    for read in reads {
        merged.unreadable_lines += read.unreadable.len();
        merged.cut_off_files += usize::from(read.cut_off);
        if let Some(header) = &read.header {
            let About { version, seeds, fixed, mutant, .. } = &header.sweep;
            kinds.insert((version.clone(), fixed.clone(), mutant.clone()));
            ranges.extend(seeds.and_then(|seeds| Some((seeds.first, seeds.end?))));
        }
        read.worlds.into_iter().for_each(|line| merged.take(&mut worlds, line));
    }
    if kinds.len() > 1 {
        let kinds: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
        return Err(format!(
            "these are sweeps of different worlds (version, arguments, planted bug):\n  {}",
            kinds.join("\n  ")
        ));
    }
    for seed in ranges.into_iter().flat_map(|(first, end)| first..end) {
        if !worlds.contains_key(&seed.to_string()) {
            merged.missing += 1;
            if merged.missing_first.len() < MISSING_MAX {
                merged.missing_first.push(seed);
            }
        }
    }
    worlds.values().for_each(|line| merged.count(line));
    Ok(merged)
}

impl Merged {
    /// Takes in a line. Of several about one world one that knows something stays.
    fn take(&mut self, worlds: &mut BTreeMap<String, WorldLine>, line: WorldLine) {
        let Some(other) = worlds.get_mut(&line.world) else {
            worlds.insert(line.world.clone(), line);
            return;
        };
        self.repeated += 1;
        let knows = |line: &WorldLine| matches!(line.outcome, Outcome::Passed | Outcome::Violation);
        if knows(other)
            && knows(&line)
            && (other.passed, &other.trace_hash) != (line.passed, &line.trace_hash)
        {
            self.contradictions.push(line.world.clone());
        }
        if !knows(other) || (!line.passed && knows(&line)) {
            *other = line;
        }
    }

    fn count(&mut self, line: &WorldLine) {
        self.simulated_seconds += line.virtual_ms as f64 / 1e3;
        self.process_seconds += line.wall_ms as f64 / 1e3;
        self.figures.add(&line.figures);
        self.marks.add(&line.marks);
        self.worlds += usize::from(line.outcome != Outcome::Harness);
        *match line.outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Violation => &mut self.failed,
            Outcome::Hang => &mut self.hung,
            Outcome::Harness => &mut self.taken_down,
        } += 1;
        if line.outcome == Outcome::Violation {
            let rule = line.failure.as_ref().map_or("", |failure| failure.rule.as_str());
            let violations = self.violations.entry(rule.to_owned()).or_default();
            violations.worlds += 1;
            if violations.reproduce.len() < EXAMPLES_MAX {
                violations.reproduce.push(line.reproduce.clone());
            }
        }
    }

    const fn exit_code(&self) -> u8 {
        if self.failed > 0 || !self.contradictions.is_empty() {
            return 1;
        }
        let unknown = self.hung + self.taken_down + self.unreadable_lines;
        if unknown > 0 || self.missing > 0 { 3 } else { 0 }
    }
}

fn print(merged: &Merged) {
    let Merged { files, worlds, passed, failed, hung, taken_down, repeated, figures, .. } = merged;
    println!(
        "{worlds} worlds in {files} files: {passed} passed, {failed} failed, {hung} hung, {taken_down} taken down \
         ({repeated} lines about worlds that were counted already)"
    );
    println!(
        "    {:.0} simulated seconds ({:.1} days) in {:.0} seconds of processes",
        merged.simulated_seconds,
        merged.simulated_seconds / 86_400.0,
        merged.process_seconds
    );
    println!(
        "    {} faults, {} crashes, {} changes of membership, {} elections, {} entries committed; operations: {} done, \
         {} not done, {} unknown",
        figures.faults,
        figures.crashes,
        figures.changes,
        figures.elections,
        figures.committed,
        figures.ok,
        figures.fail,
        figures.info
    );
    for (rule, violations) in &merged.violations {
        println!("FAILED {rule}: {} worlds", violations.worlds);
        violations.reproduce.iter().for_each(|command| println!("    {command}"));
    }
    for world in &merged.contradictions {
        println!("FAILED world {world} ran twice and did not do the same: cargo sim gate --seeds {world}");
    }
    if merged.missing > 0 {
        println!("{} seeds were not run, the first of them {:?}", merged.missing, merged.missing_first);
    }
    if merged.unreadable_lines + merged.cut_off_files > 0 {
        println!(
            "{} lines are unreadable, {} files end within a line",
            merged.unreadable_lines, merged.cut_off_files
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Failure;
    use crate::runner::Shard;
    use crate::runner::journal::{Header, Seeds};

    fn line(world: u64, outcome: Outcome, hash: &str) -> WorldLine {
        WorldLine {
            world: world.to_string(),
            passed: outcome == Outcome::Passed,
            outcome,
            failure: (outcome == Outcome::Violation).then(|| Failure::new("exactly once", "twice")),
            reproduce: format!("replay {world}"),
            wall_ms: 100,
            virtual_ms: 10_000,
            events: 1,
            trace_hash: hash.into(),
            figures: Figures { faults: 2, ..Figures::default() },
            marks: Marks([("a-mark".to_owned(), 1)].into()),
        }
    }

    fn shard(index: u64, store: &str, worlds: Vec<WorldLine>) -> Read {
        let about = About {
            version: "1".into(),
            seeds: Some(Seeds { first: 0, end: Some(4) }),
            shard: Shard { index, of: 2 },
            fixed: vec![store.into()],
            mutant: None,
        };
        Read { header: Some(Header { sweep: about }), worlds, ..Read::default() }
    }

    #[test]
    fn shards_add_up_and_every_world_counts_once() {
        let even = vec![
            line(0, Outcome::Passed, "a"),
            line(2, Outcome::Harness, ""),
            line(2, Outcome::Violation, "c"),
        ];
        let odd =
            vec![line(1, Outcome::Passed, "b"), line(1, Outcome::Passed, "b"), line(3, Outcome::Passed, "d")];
        let merged = merge(vec![shard(0, "s", even), shard(1, "s", odd)]).unwrap();
        assert_eq!((merged.worlds, merged.passed, merged.failed, merged.missing), (4, 3, 1, 0));
        assert_eq!((merged.repeated, merged.figures.faults, merged.taken_down), (2, 8, 0));
        assert_eq!(merged.violations["exactly once"].reproduce, ["replay 2"]);
        assert_eq!((merged.simulated_seconds, merged.marks.0["a-mark"]), (40.0, 4));
        assert_eq!(merged.exit_code(), 1);
    }

    #[test]
    fn what_was_not_run_or_hung_is_not_clean() {
        let code = |worlds| merge(vec![shard(0, "s", worlds)]).unwrap().exit_code();
        let passed = |worlds: std::ops::Range<u64>| worlds.map(|world| line(world, Outcome::Passed, "a"));
        assert_eq!(code(passed(0..4).collect()), 0);
        assert_eq!(code(passed(0..3).collect()), 3);
        assert_eq!(code(passed(0..3).chain([line(3, Outcome::Hang, "")]).collect()), 3);
        let mut read = shard(0, "s", passed(0..4).collect());
        read.cut_off = true;
        assert_eq!(merge(vec![read]).unwrap().exit_code(), 0);
    }

    #[test]
    fn a_world_that_ran_twice_must_have_done_the_same() {
        let one = shard(0, "s", (0..4).map(|world| line(world, Outcome::Passed, "a")).collect());
        let other = shard(1, "s", vec![line(2, Outcome::Passed, "other")]);
        let merged = merge(vec![one, other]).unwrap();
        assert_eq!((merged.contradictions.as_slice(), merged.exit_code()), (&["2".to_owned()][..], 1));
    }

    #[test]
    fn sweeps_of_different_worlds_are_not_added_up() {
        assert!(merge(vec![shard(0, "s", vec![]), shard(1, "t", vec![])]).is_err());
    }
}
