//! `raftkv-sim replay`: runs one world and prints its timeline.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;

use super::{World, WorldArguments};
use crate::runner::child;
use crate::trace::{Keep, first_difference};

/// The arguments of `raftkv-sim replay`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// A seed, or a file with a plan.
    pub world: World,
    #[command(flatten)]
    pub(crate) fixed: WorldArguments,
    /// Print every event, network segments and lane jobs included.
    #[arg(long)]
    pub all: bool,
    /// Write the plan to this file: it can be edited, and replayed.
    #[arg(long, value_name = "FILE")]
    pub save_plan: Option<PathBuf>,
    /// Write the history of client operations to this file, for `check`.
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Instead of a timeline: run the world twice, each in a process of its own, and compare all events.
    #[arg(long)]
    pub twice: bool,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

/// Runs the world.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    if cfg!(not(madsim)) {
        return super::without_a_world();
    }
    let timeout = Duration::from_secs(arguments.timeout);
    if arguments.twice {
        return compare(arguments, timeout);
    }
    let keep = if arguments.all { Keep::Everything } else { Keep::Story };
    let mut command = command(arguments, keep);
    for (flag, path) in [("--save-plan", &arguments.save_plan), ("--history", &arguments.history)] {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    let end = child::run(command, timeout, &mut |line| println!("{line}"));
    match end.failure() {
        None => {
            println!("\npassed");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            println!("\nFAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn command(arguments: &Arguments, keep: Keep) -> Command {
    child::command(&arguments.world, &arguments.fixed, keep)
}

/// Runs the world twice and shows the first difference.
fn compare(arguments: &Arguments, timeout: Duration) -> ExitCode {
    let trace = || {
        let mut lines = String::new();
        let end = child::run(command(arguments, Keep::Everything), timeout, &mut |line| {
            lines.push_str(line);
            lines.push('\n');
        });
        (lines, end)
    };
    let ((first, first_end), (second, second_end)) = (trace(), trace());
    if let Some((line, a, b)) = first_difference(&first, &second) {
        println!("the two runs differ from event {line} on:\n  {a}\n  {b}");
        return ExitCode::FAILURE;
    }
    if first_end.report != second_end.report {
        println!("the two runs end differently:\n  {:?}\n  {:?}", first_end.report, second_end.report);
        return ExitCode::FAILURE;
    }
    println!("{} events, twice the same", first.lines().count());
    ExitCode::SUCCESS
}
