//! `raftkv-sim run`: runs many worlds, each in a process of its own.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{SeedRange, World, WorldArguments};
use crate::plan::Plan;
use crate::runner::journal::{self, About, Journal};
use crate::runner::{self, Shard, Sweep, Verdict, Worlds};

/// How many worlds are run if nothing is said.
const COUNT: u64 = 100;

/// The arguments of `raftkv-sim run`.
///
/// Exit codes: 0 no rule was broken, 1 some were, 2 wrong usage or a build without worlds, 3 none was broken that is
/// known of, but a world hung, was taken down, or the journal could not be written.
#[derive(Args, Debug)]
pub struct Arguments {
    /// How many worlds, of fresh seeds, which are printed; 100 if nothing else limits them.
    #[arg(long, conflicts_with_all = ["seeds", "plan"])]
    pub count: Option<u64>,
    /// The worlds of these seeds: A..B, without B; A.. goes on until the time is over.
    #[arg(long, value_name = "A..B", conflicts_with = "plan")]
    pub seeds: Option<SeedRange>,
    /// The worlds of these plans.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub plan: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) fixed: WorldArguments,
    /// How many processes at a time; as many as there are processors, if not given.
    #[arg(long)]
    pub jobs: Option<NonZeroUsize>,
    /// One JSON object for each world and one for all, on standard output.
    #[arg(long)]
    pub json: bool,
    /// A world that takes longer than so many seconds counts as hanging.
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// Stop after so many failures.
    #[arg(long)]
    pub failures_max: Option<NonZeroUsize>,
    /// Of these worlds only every N-th, from the I-th on, counted from 0. All shards need the same --seeds.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Begin no more worlds after this time: 90s, 15m, 8h.
    #[arg(long, value_name = "TIME", value_parser = runner::duration)]
    pub duration: Option<Duration>,
    /// Write a JSON line for each world to this file, which must not be there yet.
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub jsonl: Option<PathBuf>,
    /// The same, but if the file is there, go on where that sweep was stopped.
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Print in how many worlds each mark in the source was hit; without this, only those that never were.
    #[arg(long)]
    pub marks: bool,
    /// Where to write the plan, and a page that shows the run, of the first few worlds that fail; if not given,
    /// `sim-failures` in cargo's target directory, wherever the command is called.
    #[arg(long, value_name = "DIR", conflicts_with = "no_pages")]
    pub pages: Option<PathBuf>,
    /// Write no such pages.
    #[arg(long)]
    pub no_pages: bool,
}

/// Runs the worlds.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    if cfg!(not(madsim)) {
        return super::without_a_world();
    }
    match sweep(arguments) {
        Ok(Verdict { violations: 1.., .. }) => ExitCode::FAILURE,
        Ok(Verdict { violations: 0, unknown: 0, journal_failed: false }) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(3),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn sweep(arguments: &Arguments) -> Result<Verdict, String> {
    let sweep = Sweep {
        fixed: arguments.fixed.clone(),
        jobs: arguments
            .jobs
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN),
        json: arguments.json,
        timeout: Duration::from_secs(arguments.timeout),
        failures_max: arguments.failures_max,
        duration: arguments.duration,
        marks: arguments.marks,
        pages: (!arguments.no_pages).then(|| arguments.pages.clone().unwrap_or_else(pages_by_default)),
    };
    let seeds = seeds(arguments)?;
    let about = About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seeds: seeds.map(Into::into),
        shard: arguments.shard.unwrap_or_default(),
        fixed: arguments.fixed.to_command_line(),
        mutant: std::env::var("RAFTKV_MUTANT").ok().filter(|_| cfg!(mutants)),
    };
    let (journal, done) = match (&arguments.jsonl, &arguments.resume) {
        (Some(path), _) => (Some(Journal::create(path, about).map_err(text)?), BTreeSet::new()),
        (None, Some(path)) => {
            let (journal, before) = Journal::resume(path, about).map_err(text)?;
            (Some(journal), before.done())
        }
        (None, None) => (None, BTreeSet::new()),
    };
    if !done.is_empty() {
        eprintln!("{} worlds are done already", done.len());
    }
    Ok(runner::sweep(worlds(arguments, seeds, done)?, &sweep, journal))
}

/// Tests run in their package's directory, people in any: what fails is written to one place all the same.
fn pages_by_default() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    target_of(&program).unwrap_or(Path::new("target")).join("sim-failures")
}

/// Cargo's target directory, if `program` stands in one: `…/target/madsim/sim/raftkv-sim`.
fn target_of(program: &Path) -> Option<&Path> {
    program.ancestors().skip(1).filter(|directory| directory.ends_with("target")).last()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The seeds to run; `None` if it is plans.
fn seeds(arguments: &Arguments) -> Result<Option<SeedRange>, String> {
    if !arguments.plan.is_empty() {
        return Ok(None);
    }
    let seeds = match (arguments.seeds, &arguments.resume) {
        (Some(seeds), _) => seeds,
        (None, Some(path)) if path.exists() && arguments.count.is_none() => {
            // Which seeds were fresh then, its journal says.
            let before = journal::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            match before.header.and_then(|header| header.sweep.seeds) {
                Some(seeds) => seeds.into(),
                None => fresh(arguments)?,
            }
        }
        (None, _) => fresh(arguments)?,
    };
    if seeds.end == u64::MAX && arguments.duration.is_none() {
        return Err(format!("{seeds} has no end: say with --duration how long to run"));
    }
    Ok(Some(seeds))
}

fn fresh(arguments: &Arguments) -> Result<SeedRange, String> {
    if arguments.shard.is_some_and(|shard| shard.of > 1) {
        return Err("shards must share their seeds: give all of them the same --seeds".to_owned());
    }
    let first = runner::fresh_seed();
    let end = match (arguments.count, arguments.duration) {
        (None, Some(_)) => u64::MAX,
        (count, _) => first.saturating_add(count.unwrap_or(COUNT)),
    };
    let fresh = SeedRange { first, end };
    eprintln!("fresh seeds: --seeds {fresh}");
    Ok(fresh)
}

fn worlds(arguments: &Arguments, seeds: Option<SeedRange>, done: BTreeSet<String>) -> Result<Worlds, String> {
    let shard = arguments.shard.unwrap_or_default();
    let (list, count): (Box<dyn Iterator<Item = World> + Send>, _) = match seeds {
        None => {
            for path in &arguments.plan {
                let plan = Plan::load(path).map_err(text)?;
                super::world::refuse_mutant(&plan, arguments.fixed.sound)?;
            }
            let count = arguments.plan.len() as u64;
            (shard.of(arguments.plan.clone().into_iter().map(World::File)), Some(count))
        }
        Some(SeedRange { first, end }) => {
            (shard.of((first..end).map(World::Seed)), Some(end - first).filter(|_| end < u64::MAX))
        }
    };
    let count = count.map(|count| shard.share_of(count).saturating_sub(done.len() as u64));
    Ok(Worlds { list: Box::new(list.filter(move |world| !done.contains(&world.to_string()))), count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_to_the_target_directory_that_the_program_stands_in() {
        let target = |program| target_of(Path::new(program)).map(Path::to_owned);
        assert_eq!(target("/w/target/madsim/sim/raftkv-sim"), Some("/w/target".into()));
        assert_eq!(target("/w/target/madsim/sim/target"), Some("/w/target".into()));
        assert_eq!(target("/usr/bin/raftkv-sim"), None);
        assert_eq!(target("/usr/bin/target"), None, "the program itself is no directory");
    }
}
