//! A replicated, multi-version key-value store.

pub mod backup;
pub mod client;
pub mod command;
pub mod dry_run;
pub mod limits;
pub mod server;
pub mod state_machine;
pub mod store;
#[cfg(test)]
mod testing;
pub mod wire;
