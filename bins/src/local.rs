//! `raftkv local`: three nodes on this machine, as three processes of this program.
//!
//! The nodes are ordinary `raftkv serve` processes. Each holds the reading end of a pipe as its stdin and shuts down
//! when the pipe ends: so they stop in order when this process is told to stop, and do not outlive it even if it is
//! killed. They run in process groups of their own, so that Ctrl-C reaches this process only.

use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kv::client::{Client, ClientOptions};
use raft::clock::{self, RealClock};
use raft::net::RealNet;
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Failure;
use crate::cli::LocalArgs;
use crate::status::{ask, leader};

const NODES: u16 = 3;
/// How often the nodes are asked how they are.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a node may take to answer that.
const LOOK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the nodes may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// The signals that ask a process to stop.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::Definite(format!("cannot wait for signals: {e}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

struct Node {
    id: u16,
    process: Child,
    /// Closing it tells the node to stop.
    stdin: Option<ChildStdin>,
    running: bool,
}

fn client_address(base_port: u16, id: u16) -> String {
    format!("127.0.0.1:{}", base_port + 10 * id)
}

fn peer_address(base_port: u16, id: u16) -> String {
    format!("127.0.0.1:{}", base_port + 10 * id + 1)
}

fn start(args: &LocalArgs, id: u16) -> Result<Node, Failure> {
    let failed = |error: std::io::Error| Failure::Definite(format!("cannot start node n{id}: {error}"));
    let data_dir = args.data_dir.join(format!("n{id}"));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command
        .arg("serve")
        .arg("--id")
        .arg(id.to_string())
        .arg("--data-dir")
        .arg(&data_dir)
        .arg("--stop-with-stdin");
    command.arg("--log-format").arg(args.log_format.to_string());
    for member in 1..=NODES {
        let (peer, client) = (peer_address(args.base_port, member), client_address(args.base_port, member));
        command.arg("--member").arg(format!("{member}={peer},{client}"));
    }
    if std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "warn");
    }
    let mut process =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0).spawn().map_err(failed)?;
    println!(
        "node n{id} started: process {}, clients {}, peers {}, data {}",
        process.id().unwrap_or(0),
        client_address(args.base_port, id),
        peer_address(args.base_port, id),
        data_dir.display()
    );
    let stdin = process.stdin.take();
    Ok(Node { id, process, stdin, running: true })
}

/// Waits for the next node that exits; for ever if none runs.
async fn next_exit(nodes: &mut [Node]) -> (u16, ExitStatus) {
    let exits = nodes.iter_mut().filter(|node| node.running).map(|node| {
        Box::pin(async {
            match node.process.wait().await {
                Ok(status) => {
                    node.running = false;
                    (node.id, status)
                }
                // It cannot be waited for: then it is not seen to exit.
                Err(_) => std::future::pending().await,
            }
        })
    });
    let mut exits: Vec<_> = exits.collect();
    std::future::poll_fn(|cx| {
        for exit in &mut exits {
            if let std::task::Poll::Ready(exited) = exit.as_mut().poll(cx) {
                return std::task::Poll::Ready(exited);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// What is seen of the cluster from outside.
struct Watch {
    client: Client,
    endpoints: Vec<String>,
    leader: Option<(u64, u64)>,
    ready: bool,
}

impl Watch {
    fn new(base_port: u16) -> Result<Self, Failure> {
        let endpoints: Vec<_> = (1..=NODES).map(|id| client_address(base_port, id)).collect();
        let options = ClientOptions {
            request_timeout: LOOK_TIMEOUT,
            attempt_timeout: LOOK_TIMEOUT,
            connect_timeout: LOOK_TIMEOUT,
            ..ClientOptions::default()
        };
        let client = Client::new(Arc::new(RealClock), Arc::new(RealNet), endpoints.clone(), options)?;
        Ok(Self { client, endpoints, leader: None, ready: false })
    }

    /// Waits a little, then looks again and tells what is new.
    async fn look(&mut self) {
        clock::sleep(&RealClock, LOOK_EVERY).await;
        let answers = ask(&self.client, &self.endpoints).await;
        let now = leader(&answers).map(|report| (report.id, report.term));
        if let Some((id, term)) = now
            && now != self.leader
        {
            println!("leader elected: n{id} in term {term}");
            self.leader = now;
        }
        // A linearizable read shows that the leader serves.
        if !self.ready && now.is_some() && self.client.get("ready?").await.is_ok() {
            println!("READY {}", self.endpoints.join(","));
            self.ready = true;
        }
    }
}

/// Tells all nodes to stop and waits until they have.
async fn stop(nodes: &mut [Node]) {
    for node in nodes.iter_mut() {
        node.stdin = None;
    }
    let deadline = clock::Clock::now(&RealClock) + STOP_TIMEOUT;
    while nodes.iter().any(|node| node.running) {
        let Ok((id, status)) = clock::timeout_at(&RealClock, deadline, next_exit(nodes)).await else { break };
        println!("node n{id} exited: {status}");
    }
    for node in nodes.iter_mut().filter(|node| node.running) {
        println!("node n{} does not stop: killed", node.id);
        // Nothing more can be done for it.
        let _ = node.process.kill().await;
    }
}

pub(crate) async fn local(args: LocalArgs) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::new()?;
    let mut watch = Watch::new(args.base_port)?;
    let mut nodes = Vec::new();
    let result = run(&args, &mut signals, &mut watch, &mut nodes).await;
    stop(&mut nodes).await;
    result.map(|()| ExitCode::SUCCESS)
}

/// Starts the nodes and stays until it is told to stop.
async fn run(
    args: &LocalArgs,
    signals: &mut StopSignals,
    watch: &mut Watch,
    nodes: &mut Vec<Node>,
) -> Result<(), Failure> {
    for id in 1..=NODES {
        nodes.push(start(args, id)?);
    }
    loop {
        tokio::select! {
            biased;
            () = signals.next() => {
                println!("stopping");
                return Ok(());
            }
            (id, status) = next_exit(nodes) => {
                println!("node n{id} exited: {status}");
                let left = nodes.iter().filter(|node| node.running).count();
                if !watch.ready {
                    return Err(Failure::Definite(format!("node n{id} did not start")));
                }
                if left == 0 {
                    return Err(Failure::Definite("no node is left".to_owned()));
                }
            }
            () = watch.look() => {}
        }
    }
}
