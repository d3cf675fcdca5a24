//! Deterministic simulation of raftkv clusters, and a checker of what their clients saw.

pub mod checker;
pub mod cli;
#[cfg(madsim)]
pub mod clock;
pub mod history;
pub mod nemesis;
#[cfg(madsim)]
pub mod network;
pub mod plan;
pub mod random;
pub mod scenario;
#[cfg(madsim)]
pub mod time;
pub mod trace;
pub mod workload;
