//! The commands of `raftkv-sim`, one a module.

pub mod check;
