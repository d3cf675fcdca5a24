//! Deterministic simulation of raftkv clusters, and a checker of what their clients saw.

pub mod checker;
pub mod cli;
pub mod history;
