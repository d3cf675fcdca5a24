//! The nemesis: what goes wrong. `draw` makes up a plan's faults, `run` and `membership` carry them out.

pub mod draw;
#[cfg(madsim)]
mod membership;
#[cfg(madsim)]
mod run;

#[cfg(madsim)]
pub use run::Nemesis;
