//! The workload: what the clients do. [`draw`] makes up a plan's operations; the rest carries them out.

pub mod draw;
