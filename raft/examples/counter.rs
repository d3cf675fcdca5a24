//! A replicated counter: all that a state machine of one's own takes.
//!
//! ```text
//! cargo run -p raftkv-raft --example counter                       # three nodes in this process
//! cargo run -p raftkv-raft --example counter 1 DIR A1 A2 A3        # node 1 of three; lines of stdin are added
//! ```
#![allow(clippy::print_stdout, reason = "an example talks")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft::clock::{RealClock, sleep};
use raft::core::{Config, Entry, Member, NodeId, Payload, SnapshotMeta};
use raft::driver::{self, NodeOptions, ProposeError, RaftHandle, Seams};
use raft::state_machine::{Applied, CheckpointJob, SnapshotJob, StateMachine, StateMachineError};
use tokio::io::{AsyncBufReadExt, BufReader};

/// The counter lives in memory alone: at each start it is made anew from the newest snapshot and the log.
#[derive(Default)]
struct Counter {
    applied: Applied,
    value: Arc<AtomicI64>,
}

impl StateMachine for Counter {
    /// The value after the addition; `None` if the command was no number.
    type Response = Option<i64>;

    fn applied(&self) -> Applied {
        self.applied.clone()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Option<i64>>, StateMachineError> {
        let mut responses = Vec::new();
        for entry in entries {
            let mut response = None;
            match &entry.payload {
                Payload::Command(command) => {
                    if let Ok(number) = <[u8; 8]>::try_from(&command[..]).map(i64::from_le_bytes) {
                        let sum = self.value.load(Ordering::Relaxed).wrapping_add(number);
                        self.value.store(sum, Ordering::Relaxed);
                        response = Some(sum);
                    }
                }
                Payload::Configuration(c) => self.applied.configuration = Some(c.clone()),
                Payload::Noop => {}
            }
            self.applied.last = entry.log_id();
            responses.push(response);
        }
        Ok(responses)
    }

    fn unsaved_bytes(&self) -> u64 {
        0
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        let last = self.applied.last;
        Box::new(move || Ok(last))
    }

    fn begin_snapshot(&mut self) -> SnapshotJob {
        let value = self.value.load(Ordering::Relaxed);
        Box::new(move |out: &mut dyn Write| out.write_all(&value.to_le_bytes()).map_err(failed))
    }

    fn install(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StateMachineError> {
        let mut bytes = [0; 8];
        state.read_exact(&mut bytes).map_err(failed)?;
        self.value.store(i64::from_le_bytes(bytes), Ordering::Relaxed);
        self.applied = Applied { last: meta.last, configuration: Some(meta.configuration.clone()) };
        Ok(())
    }
}

fn failed(source: std::io::Error) -> StateMachineError {
    StateMachineError { context: "the counter's snapshot".to_owned(), source }
}

type Members = BTreeMap<NodeId, Member>;
type Node = (RaftHandle<Option<i64>>, Arc<AtomicI64>);

/// Starts one node; returns it, and the counter to read from.
async fn start(id: NodeId, dir: PathBuf, members: Members) -> Result<Node, driver::StartError> {
    let listen = members.get(&id).map(|member| member.address.clone()).unwrap_or_default();
    let options = NodeOptions::new(Config::new(id), dir.join(id.to_string()), listen, members);
    let counter = Counter::default();
    let value = Arc::clone(&counter.value);
    Ok((driver::start(options, Seams::real(), move || Ok(counter)).await?, value))
}

/// Adds `number` through whichever node leads. Only what was definitely not done is tried again.
async fn add(nodes: &[Node], number: i64) -> Result<Option<i64>, ProposeError> {
    loop {
        for (node, _) in nodes {
            match node.propose(Bytes::copy_from_slice(&number.to_le_bytes())).await {
                Err(ProposeError::NotLeader { .. } | ProposeError::Superseded) => {}
                answer => return answer,
            }
        }
        sleep(&RealClock, Duration::from_millis(10)).await;
    }
}

/// Three nodes in this process: one is stopped, the others go on.
async fn three() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut members = Members::new();
    for (port, id) in [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0")).into_iter().zip(1..) {
        members.insert(NodeId(id), Member::at(port?.local_addr()?.to_string()));
    }
    let at = |id| start(NodeId(id), dir.path().to_owned(), members.clone());
    let mut nodes = Vec::from(<[Node; 3]>::from(tokio::try_join!(at(1), at(2), at(3))?));
    for number in 1..=10 {
        println!("added {number}: {:?}", add(&nodes, number).await?);
    }
    let (stopped, _) = nodes.remove(0);
    println!("{} stops: {}", stopped.id(), stopped.shutdown().await);
    println!("added 45: {:?}", add(&nodes, 45).await?);
    for (node, value) in &nodes {
        let index = node.read_index().await?;
        println!("{} reads {} at index {index}", node.id(), value.load(Ordering::Relaxed));
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [id, dir, addresses @ ..] = &arguments[..] else { return three().await };
    let members = addresses.iter().zip(1..).map(|(a, id)| (NodeId(id), Member::at(a))).collect();
    let (node, value) = start(NodeId(id.parse()?), dir.into(), members).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.trim().parse::<i64>() {
            Ok(number) => println!("{:?}", node.propose(Bytes::copy_from_slice(&number.to_le_bytes())).await),
            Err(_) => println!("{:?}: {}", node.read_index().await, value.load(Ordering::Relaxed)),
        }
    }
    println!("{}", node.shutdown().await);
    Ok(())
}
