//! The `raftkv-sim` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use raftkv_sim::cli::check;

/// Runs seeded worlds of raftkv clusters, and checks what their clients saw.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
    }
}
