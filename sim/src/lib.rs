//! Deterministic simulation of raftkv clusters.

pub mod disk;
