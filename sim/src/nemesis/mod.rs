//! The nemesis: what goes wrong. [`draw`] makes up a plan's faults; the rest carries them out.

pub mod draw;
