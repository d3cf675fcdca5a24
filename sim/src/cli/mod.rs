//! The commands of `raftkv-sim`, one a module.

pub mod check;
pub mod one;
pub mod replay;
pub mod run;
mod world;

use std::process::ExitCode;

pub use world::{SeedRange, World, WorldArguments};

/// What a command answers when this build has no simulated world in it.
fn without_a_world() -> ExitCode {
    eprintln!("this build of raftkv-sim has no simulated world in it (it was built without `--cfg madsim`).");
    if std::env::var_os("RUSTFLAGS").is_some() || std::env::var_os("CARGO_ENCODED_RUSTFLAGS").is_some() {
        eprintln!(
            "The variable RUSTFLAGS is set: it overrides .cargo/madsim.toml, which sets the cfg. Unset it."
        );
    }
    eprintln!("Use `cargo sim …` in the repository's root.");
    ExitCode::from(2)
}
