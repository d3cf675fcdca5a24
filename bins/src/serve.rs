//! `raftkv serve`: one node, from its configuration to its end.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use kv::limits::Limits;
use kv::server::{Node, NodeSetup, ProcessMeters, ServerLimits, ServerOptions};
use kv::state_machine::{KvOptions, SessionLimits};
use kv::store::{SledOptions, StoreKind};
use raft::core;
use raft::driver::{NodeOptions, Seams, StopReason};
use raft::wal::WalOptions;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::AsyncReadExt;

use crate::Failure;
use crate::cli::ServeArgs;
use crate::config::{Addresses, NodeConfig, StoreChoice, TICK};
use crate::local::StopSignals;

const MIB: u64 = 1 << 20;

/// What the first incarnation and all jitter come from. Two nodes, or two starts, should not draw the same.
fn seed() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    let drawn = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    drawn.map_err(|e| Failure::Definite(format!("cannot draw a random number: {e}")))?;
    Ok(u64::from_le_bytes(bytes))
}

fn setup(config: &NodeConfig, seed: u64) -> NodeSetup {
    let limits = &config.limits;
    let core = core::Config {
        id: config.id,
        election_timeout_ticks: config.election_ticks(),
        heartbeat_ticks: config.heartbeat_ticks(),
        append_bytes_max: MIB,
        inflight_messages_max: 256,
        inflight_bytes_max: 16 * MIB,
        // What is kept for slow followers, and as much again as may be under way.
        log_bytes_max: 64 * MIB + 2 * limits.proposal_bytes,
        uncommitted_bytes_max: limits.uncommitted_bytes,
        unapplied_bytes_max: limits.unapplied_bytes,
        hurried_election_ticks: config.failover_ticks(),
        reads_pending_max: limits.reads,
        seed,
    };
    let member = |addresses: &Addresses| core::Member {
        context: addresses.client.clone().into(),
        ..core::Member::at(&addresses.peer)
    };
    let members = config.members.iter().map(|(&id, addresses)| (id, member(addresses))).collect();
    let clients = config.members.iter().map(|(&id, addresses)| (id, addresses.client.clone())).collect();
    let mut raft = NodeOptions::new(core, config.data_dir.clone(), config.peer_listen.clone(), members);
    raft.join = config.join;
    raft.peer.snapshot_bytes_per_second = limits.snapshot_bytes_per_second;
    raft.scrub_bytes_per_second = limits.scrub_bytes_per_second;
    raft.tick = TICK;
    raft.wal = WalOptions { segment_bytes: limits.segment_bytes, ..WalOptions::default() };
    let store = config.data_dir.join("store");
    let StoreChoice::Sled = config.store;
    let sled = SledOptions { cache_bytes: limits.cache_bytes, ..SledOptions::new(&store) };
    let kv = KvOptions { dir: store, store: StoreKind::Sled(sled), sessions: SessionLimits::default() };
    let mut server = ServerOptions::new(config.id, config.client_listen.clone(), clients);
    server.requests = Limits {
        request_bytes_max: usize::try_from(limits.request_bytes).unwrap_or(usize::MAX),
        ..Limits::default()
    };
    server.limits = ServerLimits {
        connections_max: limits.connections,
        requests_per_connection_max: limits.requests_per_connection,
        proposals_max: limits.proposals as u64,
        proposal_bytes_max: limits.proposal_bytes,
        reads_max: limits.reads as u64,
        ..ServerLimits::default()
    };
    server.shutdown_timeout = std::time::Duration::from_millis(config.timeouts.shutdown_ms);
    let data_dir = config.data_dir.clone();
    server.process = ProcessMeters {
        cpu_us: Some(cpu_us),
        disk_bytes: Some(Arc::new(move || Some(directory_bytes(&data_dir)))),
    };
    NodeSetup { raft, kv, server }
}

/// CPU time of this process so far.
fn cpu_us() -> Option<u64> {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (secs, nanos) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
    Some(secs * 1_000_000 + nanos / 1_000)
}

/// What the files below a directory take on disk. Files that vanish meanwhile do not count.
fn directory_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) => bytes += meta.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

/// Waits until this process is asked to stop.
struct StopRequest {
    signals: StopSignals,
    with_stdin: bool,
}

impl StopRequest {
    async fn wait(&mut self) {
        if !self.with_stdin {
            return self.signals.next().await;
        }
        tokio::select! {
            biased;
            () = self.signals.next() => {}
            () = stdin_ends() => {}
        }
    }
}

async fn stdin_ends() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 64];
    // An error is an end, too.
    while stdin.read(&mut ignored).await.is_ok_and(|n| n > 0) {}
}

pub(crate) async fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let config = NodeConfig::load(args.config.as_deref(), args.overrides())?;
    crate::log(config.log_format, "info");
    let mut stop = StopRequest { signals: StopSignals::new()?, with_stdin: args.stop_with_stdin };
    let setup = setup(&config, seed()?);
    tracing::info!(
        id = config.id.0,
        clients = %config.client_listen,
        peers = %config.peer_listen,
        data_dir = %config.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "starting"
    );
    let node = tokio::select! {
        biased;
        () = stop.wait() => {
            tracing::info!("stopped before the node was up");
            return Ok(ExitCode::SUCCESS);
        }
        node = Node::start(setup, Seams::real()) => node.map_err(|e| Failure::Definite(e.to_string()))?,
    };
    tracing::info!(id = config.id.0, "running");
    let reason = tokio::select! {
        biased;
        reason = node.stopped() => reason,
        () = stop.wait() => {
            tracing::info!("shutting down");
            node.shutdown().await
        }
    };
    match &*reason {
        StopReason::Shutdown => {
            tracing::info!("shut down");
            Ok(ExitCode::SUCCESS)
        }
        // As it was asked to be: nothing that a supervisor should try to mend.
        StopReason::Removed => {
            tracing::warn!("{reason}");
            Ok(ExitCode::SUCCESS)
        }
        StopReason::Failed(_) => Err(Failure::Definite(reason.to_string())),
    }
}
