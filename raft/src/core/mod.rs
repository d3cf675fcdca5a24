//! placeholder
mod message;
mod ready;
mod types;
pub use message::*;
pub use ready::*;
pub use types::*;
