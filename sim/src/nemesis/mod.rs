//! The nemesis: what goes wrong. `draw` makes up a plan's faults, `run` carries them out.

pub mod draw;
#[cfg(madsim)]
mod run;

#[cfg(madsim)]
pub use run::Nemesis;
