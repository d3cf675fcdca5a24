//! Deterministic simulation of raftkv clusters.

#[cfg(madsim)]
pub mod clock;
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
