//! A replicated, multi-version key-value store.

pub mod client;
pub mod command;
#[cfg(test)]
mod testing;
pub mod wire;
