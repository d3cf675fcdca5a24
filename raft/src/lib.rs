//! Raft for a replicated state machine: a consensus core without I/O, and everything around it that a real
//! server needs.
//!
//! The rooms, from the inside out. Each may use only what stands above it:
//!
//! | room | what it is |
//! |---|---|
//! | [`core`] | Raft itself: state in, effects out. No async, clock, disk, socket or thread. |
//! | [`clock`], [`net`], [`disk`], [`blocking`] | the four seams to the world: traits, and their real implementations |
//! | [`codec`] | bytes and back, for frames, log records and files |
//! | [`wal`] | the durable log: term, vote and entries |
//! | [`snapshot`] | snapshot files: written, verified, read in chunks |
//! | [`identity`] | which member of which cluster a data directory belongs to |
//! | [`transport`] | peers over byte streams: handshake, framing, one bounded queue a peer |
//! | [`formation`] | how a cluster comes to be, once |
//! | [`state_machine`] | what the user brings |
//! | [`driver`] | the event loop that feeds the core and carries out its effects |
//!
//! With `--no-default-features` only [`core`] is compiled.
//!
//! The same source runs on tokio and, compiled with `--cfg madsim`, in a deterministic simulation. Nothing in
//! this crate asks which of the two it is in.

pub mod core;
mod marks;
mod mutants;

#[cfg(feature = "node")]
pub mod blocking;
#[cfg(feature = "node")]
pub mod clock;
#[cfg(feature = "node")]
pub mod codec;
#[cfg(feature = "node")]
pub mod disk;
#[cfg(feature = "node")]
pub mod driver;
#[cfg(feature = "node")]
pub mod formation;
#[cfg(feature = "node")]
pub mod identity;
#[cfg(feature = "node")]
pub mod net;
#[cfg(feature = "node")]
mod random;
#[cfg(feature = "node")]
pub mod snapshot;
#[cfg(feature = "node")]
pub mod state_machine;
#[cfg(feature = "node")]
pub mod transport;
#[cfg(feature = "node")]
pub mod wal;

#[doc(hidden)]
#[cfg(marks)]
pub use marks::{all as marks_hit, hit as mark_hit};
#[doc(hidden)]
pub use mutants::active as mutant_active;
