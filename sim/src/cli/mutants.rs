//! `raftkv-sim mutants`: how soon each planted bug is found.
//!
//! For each of them worlds are run until one fails, from several first seeds, and the median is what counts. A bug of the
//! simulator itself (a fault that is never injected) is planted together with one that it is found by: that one must then
//! *not* be found.

use std::num::NonZeroUsize;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use serde::Serialize;

use super::{World, WorldArguments};
use crate::planted::{self, Planted};
use crate::runner::child;
use crate::scenario::StoreKind;
use crate::trace::Keep;

/// How far the first seeds lie apart.
const STRIDE: u64 = 1_000_000;

/// The arguments of `raftkv-sim mutants`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Only these planted bugs.
    #[arg(long, value_name = "ID", num_args = 1..)]
    pub only: Vec<String>,
    /// After so many worlds a bug counts as missed.
    #[arg(long, default_value_t = 1_000)]
    pub seeds: u64,
    /// From how many first seeds: 0, 1000000, 2000000 and so on.
    #[arg(long, default_value_t = 3)]
    pub starts: u64,
    /// How many processes at a time; as many as there are processors, if not given.
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// One JSON object for each bug, on standard output.
    #[arg(long)]
    pub json: bool,
    /// What the stores keep their data in.
    #[arg(long, value_enum, default_value_t = StoreKind::Memory)]
    pub store: StoreKind,
    /// A world that takes longer than so many seconds counts as hanging.
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
}

/// A search from one first seed.
#[derive(Clone, Debug, Serialize)]
struct Search {
    first_seed: u64,
    /// How many worlds it took, the failing one included; `None` if none failed.
    worlds: Option<u64>,
    /// Over all processes together.
    process_seconds: f64,
    /// Which rule was broken.
    rule: Option<String>,
}

/// What became of one bug.
#[derive(Serialize)]
struct Row {
    mutant: &'static str,
    with: Option<&'static str>,
    arguments: String,
    median_worlds: Option<u64>,
    worst_worlds: Option<u64>,
    median_process_seconds: f64,
    misses: usize,
    /// Whether it was found as it is to be, or not found if it is to take away what the other is found by.
    as_expected: bool,
    searches: Vec<Search>,
}

/// Only to read a row's arguments as `run` does.
#[derive(Parser)]
struct Parsed {
    #[command(flatten)]
    fixed: WorldArguments,
}

/// Measures.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    if cfg!(not(mutants)) {
        return in_the_right_build();
    }
    if let Some(unknown) = arguments.only.iter().find(|id| planted::ALL.iter().all(|one| one.id != **id)) {
        eprintln!("no bug {unknown:?} is planted; sim/src/planted.rs lists them");
        return ExitCode::from(2);
    }
    let chosen = planted::ALL
        .iter()
        .filter(|one| arguments.only.is_empty() || arguments.only.iter().any(|id| id == one.id));
    if !arguments.json {
        println!("| bug | worlds (median) | worst | process seconds | noticed by |\n|---|---|---|---|---|");
    }
    let mut as_expected = true;
    for one in chosen {
        let row = measure(one, arguments);
        as_expected &= row.as_expected;
        if !arguments.json {
            println!("{}", in_words(&row));
        } else if let Ok(text) = serde_json::to_string(&row) {
            println!("{text}");
        }
    }
    if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Builds the simulator with planted bugs, and hands the command over to it.
fn in_the_right_build() -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build =
        ["--config", ".cargo/planted.toml", "build", "--quiet", "--profile", "sim", "-p", "raftkv-sim"];
    let built = Command::new(cargo).args(build).status();
    if !built.as_ref().is_ok_and(std::process::ExitStatus::success) {
        eprintln!(
            "the simulator with planted bugs cannot be built: {built:?}; run this in the repository's root"
        );
        return ExitCode::from(2);
    }
    let status = Command::new("target/mutants/sim/raftkv-sim").args(std::env::args_os().skip(1)).status();
    match status {
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(2)).unwrap_or(2)),
        Err(error) => {
            eprintln!("target/mutants/sim/raftkv-sim: {error}");
            ExitCode::from(2)
        }
    }
}

fn measure(one: &Planted, arguments: &Arguments) -> Row {
    let store = ["--store", arguments.store.name()];
    let words = ["mutants"].iter().chain(&store).chain(one.arguments);
    let Parsed { fixed } = Parsed::parse_from(words);
    let searches: Vec<Search> =
        (0..arguments.starts.max(1)).map(|start| search(one, &fixed, start * STRIDE, arguments)).collect();
    let mut worlds: Vec<u64> = searches.iter().map(|search| search.worlds.unwrap_or(u64::MAX)).collect();
    worlds.sort_unstable();
    let mut seconds: Vec<f64> = searches.iter().map(|search| search.process_seconds).collect();
    seconds.sort_unstable_by(f64::total_cmp);
    let known = |worlds: Option<&u64>| worlds.copied().filter(|worlds| *worlds != u64::MAX);
    let misses = searches.iter().filter(|search| search.worlds.is_none()).count();
    Row {
        mutant: one.id,
        with: one.with,
        arguments: one.arguments.join(" "),
        median_worlds: known(worlds.get(worlds.len() / 2)),
        worst_worlds: known(worlds.last()),
        median_process_seconds: seconds.get(seconds.len() / 2).copied().unwrap_or_default(),
        misses,
        as_expected: if one.found { misses == 0 } else { misses == searches.len() },
        searches,
    }
}

/// Runs worlds from `first` on until one fails. Several run at once, but the first of them in order counts: so the figure
/// does not depend on how many processors there are.
fn search(one: &Planted, fixed: &WorldArguments, first: u64, arguments: &Arguments) -> Search {
    let jobs =
        arguments.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let next = AtomicU64::new(0);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let spent = Mutex::new(Duration::ZERO);
    let planted = one.with.map_or_else(|| one.id.to_owned(), |with| format!("{},{with}", one.id));
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
                    if at >= arguments.seeds || lock().as_ref().is_some_and(|(best, _)| *best < at) {
                        return;
                    }
                    let begun = now();
                    let mut command = child::command(&World::Seed(first + at), fixed, Keep::Nothing);
                    command.env("RAFTKV_MUTANT", &planted).env("RUST_BACKTRACE", "0");
                    let end = child::run(command, Duration::from_secs(arguments.timeout), &mut |_| {});
                    *spent.lock().unwrap_or_else(PoisonError::into_inner) += begun.elapsed();
                    let Some(failure) = end.failure() else { continue };
                    let rule = noticed_by(&failure.rule, &failure.detail);
                    let mut found = lock();
                    if found.as_ref().is_none_or(|(best, _)| at < *best) {
                        *found = Some((at, rule));
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let process_seconds = spent.into_inner().unwrap_or_else(PoisonError::into_inner).as_secs_f64();
    let (worlds, rule) = found.map(|(at, rule)| (at + 1, rule)).unzip();
    Search { first_seed: first, worlds, process_seconds, rule }
}

#[expect(clippy::disallowed_methods, reason = "the runner stands outside every world")]
fn now() -> Instant {
    Instant::now()
}

/// The rule; of a panic, where it was: an assertion that noticed.
fn noticed_by(rule: &str, detail: &str) -> String {
    let place = detail.split_once("panicked at ").map(|(_, rest)| rest);
    match place.and_then(|rest| rest.split(':').next()) {
        Some(file) => format!("an assertion in {file}"),
        None => rule.to_owned(),
    }
}

fn in_words(row: &Row) -> String {
    let shown = |worlds: Option<u64>| worlds.map_or_else(|| "missed".to_owned(), |worlds| worlds.to_string());
    let mut name = format!("`{}`", row.mutant);
    if let Some(with) = row.with {
        name += &format!(" with `{with}`");
    }
    if !row.arguments.is_empty() {
        name += &format!(" (`{}`)", row.arguments);
    }
    let mut rules: Vec<&str> = row.searches.iter().filter_map(|search| search.rule.as_deref()).collect();
    rules.sort_unstable();
    rules.dedup();
    let wrong = if row.as_expected { "" } else { " **(not as expected)**" };
    format!(
        "| {name}{wrong} | {} | {} | {:.1} | {} |",
        shown(row.median_worlds),
        shown(row.worst_worlds),
        row.median_process_seconds,
        rules.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_by_its_place_and_a_rule_by_its_name() {
        let panic = "exit status: 101: thread 'x' (1) panicked at raft/src/core/shared.rs:145:9:\n    no";
        assert_eq!(noticed_by("crash of the simulator", panic), "an assertion in raft/src/core/shared.rs");
        assert_eq!(noticed_by("election safety", "n1 and n2"), "election safety");
    }

    #[test]
    fn every_row_of_the_table_has_arguments_that_can_be_read() {
        for one in planted::ALL {
            assert!(Parsed::try_parse_from(["x"].iter().chain(one.arguments)).is_ok(), "{}", one.id);
        }
    }
}
