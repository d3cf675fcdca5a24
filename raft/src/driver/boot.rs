//! Starting a node: from a data directory to a running event loop.
//!
//! The order matters, and each step may have been cut off by a crash at the last start:
//!
//! 1. Lock the directory, read or draw the identity.
//! 2. Listen; form the cluster if it is not formed yet.
//! 3. Create the log if it never was. The identity remembers that it was: a log that is missing after that is an
//!    error, for this node may have voted and acknowledged in it.
//! 4. Open the state machine. Its store is the authority on how far it has come. Recover the log; of one that lost
//!    entries to damage what is left is used, unless nobody has the rest.
//! 5. Bring the two together (`rebuild`).
//! 6. Make the core, connect to the peers, run.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::blocking::Lane;
use crate::core::{Boot, Configuration, LogId, NodeId, Payload, Raft};
use crate::disk::{DirLock, SharedDisk};
use crate::formation::{self, FormationConfig, FormationError};
use crate::identity::{self, Identity, IdentityError};
use crate::snapshot::{Origin, SnapshotDir, SnapshotError};
use crate::state_machine::{StateMachine, StateMachineError};
use crate::transport::{IncomingReceiver, PeerOptions, Transport, TransportConfig};
use crate::wal::{Fault, Recovered, Retain, Wal, WalError, WalIdentity};

use super::apply_lane::ApplyLane;
use super::divergence::Divergence;
use super::event_loop::{EventLoop, Inputs, Parts, State};
use super::handle::{Leadership, Outside, RaftHandle};
use super::log_lane::LogLane;
use super::membership;
use super::options::{NodeOptions, Seams};
use super::snapshots::Snapshots;
use super::space::{self, SpaceWatch};
use super::{origin, rebuild};

/// Why a node did not start. Each message names the thing and the mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error("data directory {}: {source}", .path.display())]
    DataDir {
        /// Which one.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process uses the data directory.
    #[error("data directory {} is in use by another process; stop it, or choose another directory", .path.display())]
    Locked {
        /// Which one.
        path: PathBuf,
    },
    /// The peer address cannot be listened on.
    #[error("cannot listen for peers on {address}: {source}; choose another port, or stop what uses it")]
    Listen {
        /// Which one.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The identity file cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster cannot be formed.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// The log cannot be used.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The snapshots cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The state machine cannot be opened.
    #[error(transparent)]
    StateMachine(#[from] StateMachineError),
    /// A snapshot that the store was to be rebuilt from cannot be installed.
    #[error("rebuilding the store: {0}")]
    Rebuild(String),
    /// The store misses entries that the log no longer has, and no snapshot has them either.
    #[error(
        "the store holds entries up to {store} only, the log begins behind {log}, and no snapshot fills the gap; \
         remove the node, wipe its data directory and add it as a new member"
    )]
    StoreBehindLog {
        /// The last entry in the store.
        store: LogId,
        /// The entry before the log's first.
        log: LogId,
    },
    /// The cluster began with a state out of a backup, and this member, which formed it, does not have that state.
    #[error(
        "the cluster begins with {origin}, and {} does not hold it: restore this member from the same file, into an \
         empty directory, and form the cluster anew",
        .dir.display()
    )]
    OriginMissing {
        /// Where it was looked for.
        dir: PathBuf,
        /// What the cluster begins with.
        origin: Origin,
    },
    /// The state is lost, and nobody sends it again: the cluster has this member no more.
    #[error(
        "{member} was removed from the cluster, as {by} says, and its id is not used again: start with an empty data \
         directory and an id that was never used, and add that as a new member"
    )]
    Removed {
        /// This node.
        member: NodeId,
        /// Who said so.
        by: NodeId,
    },
    /// The options contradict each other.
    #[error("the configuration is not usable: {0}")]
    Options(String),
}

/// What boot has brought together.
pub(super) struct Opened<S> {
    pub(super) machine: S,
    pub(super) wal: Wal,
    pub(super) recovered: Recovered,
    pub(super) snapshots: Arc<SnapshotDir>,
}

/// What a start needs from its first step to its last.
struct Begun {
    options: NodeOptions,
    seams: Seams,
    lock: DirLock,
    identity: Identity,
    formed: Configuration,
    wal_lane: Arc<dyn Lane>,
}

/// Starts a node of the cluster that `options.members` lists. `open` opens the state machine; it runs on a lane.
///
/// Returns when the node runs, which for the very first start means: when the cluster has formed. That takes as long
/// as the other members take to come up; drop the future to give up.
///
/// # Errors
/// See [`StartError`].
pub async fn start<S, F>(
    options: NodeOptions,
    seams: Seams,
    open: F,
) -> Result<RaftHandle<S::Response>, StartError>
where
    S: StateMachine,
    F: FnOnce() -> Result<S, StateMachineError> + Send + 'static,
{
    let id = options.core.id;
    if !options.members.contains_key(&id) {
        return Err(StartError::Options(format!("node {id} is not in its own list of members")));
    }
    if let Some(flaw) = options.space.flaw(options.wal.segment_bytes) {
        return Err(StartError::Options(flaw));
    }
    let wal_lane = seams.blocking.lane("wal");
    let (lock, identity, origin) = {
        let (disk, options) = (Arc::clone(&seams.disk), options.clone());
        on_lane(&wal_lane, move || open_identity(&disk, &options)).await?
    };
    if options.join && origin.is_some() {
        let why = "the data directory holds a backup that is to be restored, and a restored node forms a cluster; \
                   it joins none";
        return Err(StartError::Options(why.to_owned()));
    }
    let mut listener = seams
        .net
        .listen(&options.listen)
        .await
        .map_err(|source| StartError::Listen { address: options.listen.clone(), source })?;
    let config = formation_config(&options, &seams, origin);
    let identity = match options.join {
        // In boxes, so that whoever starts a node need not make room for all of this.
        true => Box::pin(formation::join(config, identity, listener.as_mut())).await?,
        false => Box::pin(formation::form(config, identity, listener.as_mut())).await?,
    };
    let Some(record) = &identity.cluster else { panic!("formation ended without a cluster") };
    let formed = record.configuration();
    let opened = {
        let (disk, options, identity) = (Arc::clone(&seams.disk), options.clone(), identity.clone());
        on_lane(&wal_lane, move || open_storage(&disk, &options, identity, open)).await?
    };
    let begun = Begun { options, seams, lock, identity, formed, wal_lane };
    let wire = Transport::start(transport_config(&begun, &opened), listener);
    let (mut opened, wire) = Box::pin(bring_together(&begun, opened, wire)).await?;
    let raft = make_core(&begun.options, &mut opened, &begun.formed)?;
    Ok(run(begun, opened, wire, raft))
}

/// What reaches the peers.
type Wire = (Transport, IncomingReceiver);

/// Brings store and log together ([`rebuild::reconcile`]), with the help of another member if need be. Until then this
/// node takes no part in anything: it has its log, and could vote; but who leads could not count on it.
async fn bring_together<S: StateMachine>(
    begun: &Begun,
    mut opened: Opened<S>,
    mut wire: Wire,
) -> Result<(Opened<S>, Wire), StartError> {
    let Begun { options, seams, wal_lane, formed, .. } = begun;
    let mut helpers = rebuild::Helpers::new(options.core.id, newest_configuration(&opened, formed));
    let mut received = None;
    loop {
        let is_alone = helpers.is_empty();
        let (back, missing) =
            on_lane(wal_lane, move || rebuild::reconcile(opened, received, is_alone)).await?;
        opened = back;
        let Some(at_least) = missing else { return Ok((opened, wire)) };
        let term = opened.recovered.hard_state.term;
        received = Some(helpers.ask(&mut wire, &seams.clock, term, at_least).await?);
    }
}

/// The newest configuration that this node knows of: the one that the core will begin with, if the state is there.
fn newest_configuration<S: StateMachine>(opened: &Opened<S>, formed: &Configuration) -> Configuration {
    let applied = opened.machine.applied();
    let in_log = opened.recovered.entries.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Configuration(configuration) if entry.index > applied.last.index => Some(configuration),
        _ => None,
    });
    in_log.cloned().or(applied.configuration).unwrap_or_else(|| formed.clone())
}

fn transport_config<S: StateMachine>(begun: &Begun, opened: &Opened<S>) -> TransportConfig {
    let Begun { options, seams, identity, formed, .. } = begun;
    let addresses = options.addresses();
    TransportConfig {
        clock: Arc::clone(&seams.clock),
        net: Arc::clone(&seams.net),
        blocking: Arc::clone(&seams.blocking),
        identity: identity.clone(),
        address: addresses.get(&options.core.id).cloned().unwrap_or_default(),
        configuration: newest_configuration(opened, formed),
        overrides: addresses,
        // What the log has behind that may yet be taken back.
        removed: opened.machine.applied().configuration.map(|applied| applied.removed).unwrap_or_default(),
        snapshots: Arc::clone(&opened.snapshots),
        options: PeerOptions { free_bytes_min: options.space.critical_bytes, ..options.peer.clone() },
        seed: options.core.seed,
    }
}

fn formation_config(options: &NodeOptions, seams: &Seams, origin: Option<Origin>) -> FormationConfig {
    FormationConfig {
        clock: Arc::clone(&seams.clock),
        net: Arc::clone(&seams.net),
        disk: Arc::clone(&seams.disk),
        blocking: Arc::clone(&seams.blocking),
        data_dir: options.data_dir.clone(),
        members: options.members.clone(),
        origin,
        options: options.peer.clone(),
        seed: options.core.seed,
    }
}

/// Opens what is on disk, on a lane.
fn open_storage<S: StateMachine>(
    disk: &SharedDisk,
    options: &NodeOptions,
    mut identity: Identity,
    open: impl FnOnce() -> Result<S, StateMachineError>,
) -> Result<Opened<S>, StartError> {
    let Some(record) = &identity.cluster else { panic!("storage is opened after the cluster is formed") };
    let cluster = record.cluster;
    let (logs, snapshots) = (options.data_dir.join("logs"), options.data_dir.join("snapshots"));
    let wal_identity = WalIdentity { cluster, member: identity.member, incarnation: identity.incarnation };
    let dir = SnapshotDir::open(Arc::clone(disk), &snapshots, cluster)?;
    if !identity.log_created {
        match origin::of(&identity, record) {
            Some(origin) => {
                origin::adopt(disk, &options.data_dir, record, origin, &dir)?;
                origin::begin_log(disk, &logs, wal_identity, options, origin.last)?;
            }
            None => drop(Wal::create(Arc::clone(disk), &logs, wal_identity, options.wal)?),
        }
        identity.log_created = true;
        identity::store(disk.as_ref(), &options.data_dir, &identity)?;
        origin::clear(disk.as_ref(), &options.data_dir)?;
    }
    let others = record.configuration().members().into_iter().chain(options.members.keys().copied());
    let is_alone = !options.join && others.into_iter().all(|id| id == identity.member);
    let machine = open()?;
    let applied = machine.applied().last;
    // What nobody else can send again, and the state does not hold, is not dropped.
    let may_cut = |lost: Option<LogId>| !is_alone || lost.is_none_or(|lost| lost <= applied);
    let retain = Retain { applied: applied.index, bytes: options.retain_log_bytes };
    let (wal, recovered) = Wal::open_if(Arc::clone(disk), &logs, wal_identity, options.wal, retain, may_cut)?;
    tell_damage(&recovered);
    if recovered.torn_bytes > 0 {
        crate::sometimes!("wal/torn-tail");
        tracing::info!(bytes = recovered.torn_bytes, "cut the torn tail of the log; nobody was told of it");
    }
    Ok(Opened { machine, wal, recovered, snapshots: Arc::new(dir) })
}

/// Damage is repaired from the other members without further ado; but somebody should look at that disk.
fn tell_damage(recovered: &Recovered) {
    if let Some(Fault { path, offset, reason }) = &recovered.fault {
        tracing::error!(
            file = %path.display(), offset, reason,
            "the log is damaged; what stood behind that is fetched from the other members; check the disk"
        );
    }
    if let Some(damage) = recovered.damage {
        tracing::warn!(
            last = %damage.last,
            "the log has lost entries: until it reaches that far again, this node stands for no election and votes \
             only for a log that does; if no other member has them, remove this one and add it again under a new id"
        );
    }
}

fn make_core<S: StateMachine>(
    options: &NodeOptions,
    opened: &mut Opened<S>,
    formed: &Configuration,
) -> Result<Raft, StartError> {
    let applied = opened.machine.applied();
    let boot = Boot {
        hard_state: opened.recovered.hard_state,
        prev: opened.recovered.prev,
        entries: std::mem::take(&mut opened.recovered.entries),
        applied: applied.last,
        configuration: applied.configuration.unwrap_or_else(|| formed.clone()),
        damage: opened.recovered.damage,
    };
    Raft::new(options.core.clone(), boot).map_err(|error| StartError::Options(error.to_string()))
}

/// Sets the event loop going.
fn run<S: StateMachine>(
    begun: Begun,
    opened: Opened<S>,
    (transport, peers): Wire,
    raft: Raft,
) -> RaftHandle<S::Response> {
    let Begun { options, seams, lock, identity, wal_lane, formed } = begun;
    let Opened { machine, wal, recovered, snapshots } = opened;
    let addresses = options.addresses();
    let outside = Outside {
        cluster: identity.cluster.as_ref().map(|record| record.cluster),
        clock: Arc::clone(&seams.clock),
        net: Arc::clone(&seams.net),
        options: options.peer.clone(),
        snapshots: Arc::clone(&snapshots),
    };
    let (completed, completions) = mpsc::unbounded_channel();
    let (requests_in, requests) = mpsc::channel(options.requests_max);
    let (leadership_in, leadership) =
        watch::channel(Leadership { term: raft.hard_state().term, ..Leadership::default() });
    let (stopped_in, stopped) = watch::channel(None);
    let state = State::new(machine.applied().last, wal.stats());
    let divergence = Divergence::new(machine.hash_trail(), options.compare_ticks);
    let (membership_in, membership) = watch::channel(membership::at_boot(&raft));
    let parts = Parts {
        raft,
        transport,
        log: LogLane::new(wal_lane, wal, completed.clone()),
        snapshots: Snapshots::new(
            Arc::clone(&snapshots),
            options.snapshot_entries,
            options.snapshot_log_bytes,
        )
        .recovered(recovered.entries_bytes),
        space: SpaceWatch::new(
            seams.blocking.lane("space"),
            Arc::clone(&seams.disk),
            options.data_dir.clone(),
            options.space,
            completed.clone(),
        ),
        apply: ApplyLane::new(&seams.blocking, machine, snapshots, formed, completed),
        clock: seams.clock,
        addresses,
        leadership: leadership_in,
        membership: membership_in,
        state,
        divergence,
    };
    let handle = RaftHandle {
        id: options.core.id,
        command_bytes_max: options.command_bytes_max,
        requests: requests_in,
        leadership,
        membership,
        stopped,
        outside: Arc::new(outside),
    };
    let event_loop = EventLoop::new(options, parts);
    tokio::spawn(async move {
        let reason = event_loop.run(Inputs { completions, peers, requests }).await;
        drop(lock);
        // Nobody may be listening any more.
        let _ = stopped_in.send(Some(Arc::new(reason)));
    });
    handle
}

/// Runs `job` on `lane` and waits for what it returns.
async fn on_lane<T: Send + 'static>(lane: &Arc<dyn Lane>, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = oneshot::channel();
    lane.submit(Box::new(move || {
        // The starter may have given up.
        let _ = sender.send(job());
    }));
    match receiver.await {
        Ok(result) => result,
        // Only when the whole process, or the simulated node, is going down.
        Err(_) => std::future::pending().await,
    }
}

/// Takes the directory for this process, reads or draws the identity, and looks whether there is a state to begin with.
fn open_identity(
    disk: &SharedDisk,
    options: &NodeOptions,
) -> Result<(DirLock, Identity, Option<Origin>), StartError> {
    let dir = options.data_dir.as_path();
    let at = |source| StartError::DataDir { path: dir.to_owned(), source };
    disk.create_dir_all(dir).map_err(at)?;
    let lock = disk.lock_dir(dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => StartError::Locked { path: dir.to_owned() },
        _ => at(error),
    })?;
    space::release_if_low(disk.as_ref(), dir, &options.space).map_err(at)?;
    let identity = identity::open(disk.as_ref(), dir, options.core.id, options.core.seed)?;
    if identity.log_created {
        origin::clear(disk.as_ref(), dir)?;
        return Ok((lock, identity, None));
    }
    let origin = if identity.cluster.is_none() { origin::find(disk, dir)? } else { None };
    Ok((lock, identity, origin))
}
