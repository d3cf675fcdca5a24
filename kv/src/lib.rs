//! A replicated, multi-version key-value store.

pub mod command;
pub mod wire;
