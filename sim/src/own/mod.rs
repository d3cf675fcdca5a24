//! Simulating a state machine of one's own: everything but the machine and a model of it is there.
//!
//! Who builds on `raft` with a [`StateMachine`] writes down what it is meant to do as a [`Model`]: a pure function from
//! a state and an operation to the next state and an output. [`main`] then makes a command of it that runs worlds as
//! `raftkv-sim` does: whole nodes with consensus, log and transport, machines that lose power, bad networks, bad clocks,
//! changes of membership. Clients ask for operations that the model draws, over a small protocol of their own (`gate`).
//!
//! What comes for free, beside the rules of consensus in [`invariants`](crate::invariants):
//! - all nodes answer an entry alike, and have the same state at the same index;
//! - the machine does what the model says, entry by entry in the order of the log;
//! - every acknowledged operation is in the log, and every operation at most once;
//! - what clients saw is linearizable, found out without looking at the log ([`sequential`](crate::checker::sequential)).
//!
//! `sim/examples/own_machine.rs` is a counter.

#[cfg(madsim)]
mod app;
#[cfg(madsim)]
mod client;
#[cfg(madsim)]
mod gate;
#[cfg(madsim)]
mod shown;
#[cfg(madsim)]
mod workload;

use std::fmt::Debug;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use raft::disk::SharedDisk;
use raft::state_machine::{StateMachine, StateMachineError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checker::sequential::Sequential;
use crate::random::Random;

/// A state machine, and what it is meant to do.
pub trait Model: Sequential<Operation: Wire, Output: Wire> + Send + Sync + 'static {
    /// The machine itself.
    type Machine: StateMachine<Response = Self::Output>;

    /// Opens the machine of a node, which may keep files below `dir`. The disk loses what was not synced when its
    /// machine loses power.
    ///
    /// # Errors
    /// The disk failed, as disks do.
    fn open(&self, disk: SharedDisk, dir: &Path) -> Result<Self::Machine, StateMachineError>;

    /// Draws what a client does next.
    fn draw(&self, random: &mut Random) -> Self::Operation;

    /// A read of everything, for the end of a world.
    fn read_all(&self) -> Self::Operation;

    /// The operation as a command of the machine; `None` if it only reads, and so does not go through the log.
    fn command(&self, operation: &Self::Operation) -> Option<Bytes>;

    /// Answers a read from the machine's state.
    fn read(&self, machine: &Self::Machine, operation: &Self::Operation) -> Self::Output;

    /// A hash of the machine's state: what must be the same on nodes that have applied the same entries.
    fn hash(&self, machine: &Self::Machine) -> u64;
}

/// What can be sent to another machine, and written in a report.
pub trait Wire: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static> Wire for T {}

/// The command `run|replay|one` for worlds of this machine.
#[must_use]
pub fn main(model: impl Model) -> ExitCode {
    #[cfg(madsim)]
    return crate::cli::main_of(std::sync::Arc::new(app::OwnApp::new(model)));
    #[cfg(not(madsim))]
    {
        drop(model);
        crate::cli::without_a_world()
    }
}
