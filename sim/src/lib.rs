//! Deterministic simulation of raftkv clusters, and a checker of what their clients saw.

#[cfg(test)]
mod alike;
#[cfg(madsim)]
pub mod app;
#[cfg(madsim)]
pub mod blocking;
pub mod checker;
pub mod cli;
#[cfg(madsim)]
pub mod clock;
#[cfg(madsim)]
pub mod cluster;
pub mod disk;
pub mod explain;
pub mod fuzz;
#[cfg(madsim)]
pub mod healing;
pub mod history;
pub mod invariants;
pub mod marks;
pub mod nemesis;
#[cfg(madsim)]
pub mod network;
#[cfg(madsim)]
mod no_sync;
pub mod own;
pub mod page;
pub mod plan;
pub mod planted;
pub mod random;
pub mod report;
pub mod runner;
pub mod scenario;
pub mod shrink;
#[cfg(madsim)]
pub mod simulation;
#[cfg(madsim)]
pub mod time;
pub mod trace;
pub mod workload;
