//! What runs on the machines of a world, and what its clients do: the key-value store, or a state machine of one's own.
//!
//! Faults, machines, disks, networks, clocks and the rules of consensus know nothing of what is replicated. That part is
//! an [`App`]: it starts a node's process ([`App::start`]), shows what it has come to ([`View`]), and does the clients'
//! work and judges it ([`Workload`]). [`kv`] is the store with its clients; [`own`](crate::own) makes an app of any
//! [`StateMachine`](raft::state_machine::StateMachine) with a model of it.

pub mod admin;
pub mod kv;
mod platter;

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use madsim::runtime::NodeHandle;
use madsim::task::JoinHandle;
use raft::clock::BoxFuture;
use raft::core::{Index, LogId};
use raft::driver::{NodeOptions, Seams, StopReason};

use self::admin::Admin;
use crate::cluster::{Cluster, World};
use crate::disk::SimDisk;
use crate::plan::Operation;
use crate::report::Failure;

/// What is simulated.
pub trait App: Send + Sync + 'static {
    /// What a new machine keeps beside its disk.
    fn platter(&self, world: &World, node: u8) -> Box<dyn Platter>;

    /// Starts a node's process.
    fn start(&self, start: Start) -> BoxFuture<'static, Result<Box<dyn Process>, String>>;

    /// The clients of one world.
    fn workload(&self, stage: Stage) -> Box<dyn Workload>;
}

/// What of a machine outlives its processes, and is no file on its simulated disk.
pub trait Platter: Send {
    /// Lays out what the next process finds. It is handed on in [`Start::store`].
    ///
    /// # Errors
    /// The files that the simulation itself needs cannot be written.
    fn open(&mut self, start: u32, disk: &SimDisk) -> io::Result<Box<dyn Any + Send>>;

    /// The power is off: what is open reaches the platter no more.
    fn cut_power(&self);
}

/// Nothing but the disk.
pub struct NoPlatter;

impl Platter for NoPlatter {
    fn open(&mut self, _: u32, _: &SimDisk) -> io::Result<Box<dyn Any + Send>> {
        Ok(Box::new(()))
    }

    fn cut_power(&self) {}
}

/// What a process is started with.
pub struct Start {
    /// The world.
    pub world: World,
    /// The node, from 1.
    pub node: u8,
    /// Everything about its consensus.
    pub options: NodeOptions,
    /// Its machine.
    pub seams: Seams,
    /// What [`Platter::open`] gave.
    pub store: Box<dyn Any + Send>,
}

/// A running process.
pub trait Process: Send + Sync {
    /// What others see of it.
    fn view(&self) -> Arc<dyn View>;

    /// Waits until it has stopped by itself.
    fn stopped(&self) -> BoxFuture<'_, Arc<StopReason>>;

    /// Stops it in order.
    fn shut_down(self: Box<Self>) -> BoxFuture<'static, Arc<StopReason>>;
}

/// A running node, past its ports.
pub trait View: Send + Sync + 'static {
    /// The last entry applied.
    fn applied(&self) -> LogId;

    /// The state's hash, and the index it stands for.
    fn state_hash(&self) -> (Index, u64);

    /// A hash of what is stored, from what is stored.
    ///
    /// # Errors
    /// It cannot be read.
    fn audit(&self) -> Result<(Index, u64), String>;

    /// Its consensus.
    fn raft(&self) -> &dyn Admin;

    /// For the app that it belongs to.
    fn as_any(&self) -> &dyn Any;
}

/// Where a workload plays.
#[derive(Clone)]
pub struct Stage {
    /// The world.
    pub world: World,
    /// Its machines.
    pub cluster: Cluster,
    /// Where the clients' tasks run.
    pub clients: NodeHandle,
    /// Set when no operation is to begin any more.
    pub over: Arc<AtomicBool>,
}

/// The clients: what they do, and what must be true of it.
pub trait Workload: Send + Sync {
    /// Begins the operations of the plan, or others; the handles end when all clients have.
    fn begin(&self, operations: Vec<Operation>) -> Vec<JoinHandle<()>>;

    /// Called every few milliseconds of virtual time: takes notes.
    ///
    /// # Errors
    /// What the nodes hold cannot be.
    fn look(&self) -> Result<(), Failure>;

    /// Writes, asking this node first, until it is done.
    fn write_through(&self, node: u8) -> JoinHandle<()>;

    /// Reads everything, asking these nodes, until it is done.
    fn read_all(&self, nodes: &BTreeSet<u8>) -> JoinHandle<()>;

    /// Judges what the clients saw.
    ///
    /// # Errors
    /// It cannot be explained.
    fn judge(&self) -> Result<(), Failure>;

    /// How many operations were done, were not done, are unknown.
    fn counts(&self) -> [u64; 3];

    /// Writes down what the clients saw.
    ///
    /// # Errors
    /// The file cannot be written.
    fn write_history(&self, path: &Path) -> io::Result<()>;
}
