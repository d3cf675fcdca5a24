//! The `raftkv-sim` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    raftkv_sim::cli::main()
}
