//! `raftkv-sim run`: runs many worlds, each in a process of its own.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{SeedRange, World, WorldArguments};
use crate::runner::{self, Sweep};

/// The arguments of `raftkv-sim run`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// How many worlds, of fresh seeds, which are printed.
    #[arg(long, default_value_t = 100, conflicts_with_all = ["seeds", "plan"])]
    pub count: u64,
    /// The worlds of these seeds: A..B, without B.
    #[arg(long, value_name = "A..B", conflicts_with = "plan")]
    pub seeds: Option<SeedRange>,
    /// The worlds of these plans.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub plan: Vec<std::path::PathBuf>,
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
    /// Print in how many worlds each mark in the source was hit; without this, only those that never were.
    #[arg(long)]
    pub marks: bool,
}

/// Runs the worlds.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    if cfg!(not(madsim)) {
        return super::without_a_world();
    }
    let worlds = worlds(arguments);
    let sweep = Sweep {
        fixed: arguments.fixed.clone(),
        jobs: arguments
            .jobs
            .or_else(|| std::thread::available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN),
        json: arguments.json,
        timeout: Duration::from_secs(arguments.timeout),
        failures_max: arguments.failures_max,
        marks: arguments.marks,
    };
    if runner::sweep(worlds, &sweep) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn worlds(arguments: &Arguments) -> VecDeque<World> {
    if !arguments.plan.is_empty() {
        return arguments.plan.iter().cloned().map(World::File).collect();
    }
    let seeds = arguments.seeds.unwrap_or_else(|| {
        let first = runner::fresh_seed();
        let fresh = SeedRange { first, end: first + arguments.count };
        eprintln!("fresh seeds: --seeds {}..{}", fresh.first, fresh.end);
        fresh
    });
    (seeds.first..seeds.end).map(World::Seed).collect()
}
