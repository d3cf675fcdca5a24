//! The commands of `raftkv-sim`, one a module.

pub mod check;
pub mod gate;
pub mod merge;
pub mod one;
pub mod replay;
pub mod run;
pub mod shrink;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use world::{SeedRange, World, WorldArguments};

/// Runs seeded worlds of raftkv clusters, and checks what their clients saw.
#[derive(Parser)]
#[command(name = "raftkv-sim", version, arg_required_else_help = true)]
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
    /// Make a world that fails smaller; it must break the same rule.
    Shrink(shrink::Arguments),
    /// Run one world in this process.
    #[command(hide = true)]
    One(one::Arguments),
    Check(check::Arguments),
    /// Run worlds twice, each time in a process of its own: every event must be the same.
    Gate(gate::Arguments),
    /// Join the journals of several sweeps into one report.
    Merge(merge::Arguments),
}

/// The command for worlds of the key-value store.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(madsim)]
    return main_of(std::sync::Arc::new(crate::app::kv::KvApp));
    #[cfg(not(madsim))]
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Shrink(arguments) => shrink::run(&arguments),
        Command::One(_) => without_a_world(),
        Command::Check(arguments) => check::run(&arguments),
        Command::Gate(arguments) => gate::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
    }
}

/// The same command, with something else on the machines.
#[cfg(madsim)]
#[must_use]
pub fn main_of(app: std::sync::Arc<dyn crate::app::App>) -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Shrink(arguments) => shrink::run(&arguments),
        Command::One(arguments) => one::run(app, &arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Gate(arguments) => gate::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
    }
}

/// What a command answers when this build has no simulated world in it.
pub(crate) fn without_a_world() -> ExitCode {
    eprintln!("this build of raftkv-sim has no simulated world in it (it was built without `--cfg madsim`).");
    if std::env::var_os("RUSTFLAGS").is_some() || std::env::var_os("CARGO_ENCODED_RUSTFLAGS").is_some() {
        eprintln!(
            "The variable RUSTFLAGS is set: it overrides .cargo/madsim.toml, which sets the cfg. Unset it."
        );
    }
    eprintln!("Use `cargo sim …` in the repository's root.");
    ExitCode::from(2)
}
