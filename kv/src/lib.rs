//! A replicated, multi-version key-value store.

pub mod command;
pub mod limits;
pub mod state_machine;
pub mod store;
