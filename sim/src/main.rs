//! The `raftkv-sim` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use raftkv_sim::cli::{check, one, replay, run};

/// Runs seeded worlds of raftkv clusters, and checks what their clients saw.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many worlds; exit 1 if any fails.
    Run(run::Arguments),
    /// Run one world and print its timeline.
    Replay(replay::Arguments),
    /// Run one world in this process.
    #[command(hide = true)]
    One(one::Arguments),
    Check(check::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::One(arguments) => one::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
    }
}
