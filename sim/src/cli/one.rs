//! `raftkv-sim one`: runs one world in this process. The other commands start it, once for each world.
//!
//! Its last line of output is a [`SeedReport`](crate::report::SeedReport) as JSON. One world a process, because some
//! state of the libraries below is the process's and not the world's.

use std::path::PathBuf;
#[cfg(madsim)]
use std::process::ExitCode;

use clap::Args;

use super::{World, WorldArguments};
use crate::trace::Keep;

/// The arguments of `raftkv-sim one`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A seed, or a file with a plan.
    pub world: World,
    #[command(flatten)]
    pub(crate) fixed: WorldArguments,
    /// What of the trace to print.
    #[arg(long, value_enum, default_value_t = Keep::Nothing)]
    pub keep: Keep,
    /// Write the plan to this file before running it.
    #[arg(long)]
    pub save_plan: Option<PathBuf>,
    /// Write the history of client operations to this file.
    #[arg(long)]
    pub history: Option<PathBuf>,
    /// Write what of the plan was begun, and when, to this file.
    #[arg(long)]
    pub schedule: Option<PathBuf>,
}

/// Runs the world.
#[cfg(madsim)]
#[must_use]
pub fn run(app: std::sync::Arc<dyn crate::app::App>, arguments: &Arguments) -> ExitCode {
    let plan = match arguments.world.plan(arguments.fixed.fixed()) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(path) = &arguments.save_plan
        && let Err(error) = plan.save(path)
    {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    if let Err(error) = super::world::choose_mutant(&plan, arguments.fixed.sound) {
        eprintln!("{error}");
        return ExitCode::from(2);
    }
    let options = crate::simulation::Options {
        keep: arguments.keep,
        history: arguments.history.clone(),
        schedule: arguments.schedule.clone(),
    };
    let report = crate::simulation::run_app(app, plan, options);
    match serde_json::to_string(&report) {
        Ok(line) => println!("{line}"),
        Err(error) => panic!("a report that is no JSON: {error}"),
    }
    if report.failure.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
