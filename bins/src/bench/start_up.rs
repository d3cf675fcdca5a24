//! `raftkv bench start-up`: how long three nodes that hold many keys take from nothing to the first linearizable read, and
//! what memory each takes then.
//!
//! The nodes are processes of this program, with a directory of their own that is removed in the end. They are filled, and
//! started again three times: after they were stopped in order, after all were killed at the same moment, and, stopped in
//! order again, after the system was asked to forget what it had cached of their files. The read is of the key that was written
//! last, and its value is looked at.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use kv::client::{Client, ClientOptions};
use raft::clock::{self, Clock, RealClock};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{BenchArgs, fdatasync, fill, key};
use crate::Failure;
use crate::commands::client_with;

const NODES: usize = 3;
/// How long the nodes are left alone before their memory is looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// After that long without a first read something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);
const FDATASYNCS: u64 = 200;

/// How the nodes ended before a start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Stop,
    Kill,
    StopCold,
}

impl After {
    const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stopped",
            Self::Kill => "killed",
            Self::StopCold => "stopped, files not cached",
        }
    }
}

/// What a process takes, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    rss: u64,
    pss: u64,
    peak: u64,
}

struct Start {
    after: After,
    first_read: Duration,
    /// `None` where the system does not tell.
    memory: Vec<Option<Memory>>,
}

struct Cluster {
    dir: PathBuf,
    /// Of clients and of peers.
    addresses: Vec<(String, String)>,
    nodes: Vec<Child>,
}

impl Cluster {
    fn new(dir: PathBuf) -> Result<Self, Failure> {
        // Held together, so that no port comes twice.
        let held: Result<Vec<_>, _> =
            (0..2 * NODES).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect();
        let held = held.map_err(|e| failure("find free ports", &e))?;
        let local: Result<Vec<_>, _> =
            held.iter().map(|l| l.local_addr().map(|address| address.to_string())).collect();
        let local = local.map_err(|e| failure("find free ports", &e))?;
        let addresses = local.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        Ok(Self { dir, addresses, nodes: Vec::new() })
    }

    fn endpoints(&self) -> Vec<String> {
        self.addresses.iter().map(|(client, _)| client.clone()).collect()
    }

    fn start(&mut self) -> Result<(), Failure> {
        let exe = std::env::current_exe().map_err(|e| failure("find this program", &e))?;
        for id in 1..=NODES {
            let mut command = Command::new(&exe);
            command.arg("serve").arg("--id").arg(id.to_string()).arg("--stop-with-stdin");
            command.arg("--data-dir").arg(self.dir.join(format!("n{id}")));
            for (member, (client, peer)) in (1..).zip(&self.addresses) {
                command.arg("--member").arg(format!("{member}={peer},{client}"));
            }
            command.env("RUST_LOG", "error").stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
            let node = command.kill_on_drop(true).spawn().map_err(|e| failure("start a node", &e))?;
            self.nodes.push(node);
        }
        Ok(())
    }

    async fn stop(&mut self, after: After) -> Result<(), Failure> {
        for node in &mut self.nodes {
            match after {
                After::Kill => node.start_kill().map_err(|e| failure("kill a node", &e))?,
                After::Stop | After::StopCold => drop(node.stdin.take()),
            }
        }
        for mut node in self.nodes.drain(..) {
            node.wait().await.map_err(|e| failure("wait for a node", &e))?;
        }
        if after == After::StopCold {
            forget(&self.dir).map_err(|e| failure("drop what is cached", &e))?;
        }
        Ok(())
    }

    /// Starts all nodes; the time from before the first process to the answer of the first read.
    async fn first_read(&mut self, args: &BenchArgs) -> Result<Duration, Failure> {
        let options = ClientOptions {
            connect_timeout: Duration::from_millis(200),
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            ..ClientOptions::default()
        };
        let client = self.client(args, options)?;
        let begun = RealClock.now();
        self.start()?;
        loop {
            match client.get(key(args.keys - 1)).await {
                Ok(Some(pair)) if pair.value.len() == args.value_size as usize => break,
                Ok(_) => {
                    return Err(Failure::Definite("the key written last is not what was written".to_owned()));
                }
                Err(error) if RealClock.now().since(begun) > PATIENCE => return Err(error.into()),
                Err(_) => clock::sleep(&RealClock, Duration::from_millis(5)).await,
            }
        }
        Ok(RealClock.now().since(begun))
    }

    fn client(&self, args: &BenchArgs, options: ClientOptions) -> Result<Client, Failure> {
        let mut args = args.client.clone();
        args.endpoints = self.endpoints();
        args.timeout = PATIENCE;
        Ok(client_with(&args, options)?)
    }

    fn memory(&self) -> Vec<Option<Memory>> {
        self.nodes.iter().map(|node| node.id().and_then(memory_of)).collect()
    }
}

fn failure(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::Definite(format!("cannot {what}: {error}"))
}

fn memory_of(process: u32) -> Option<Memory> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).ok();
    let (rollup, status) = (read("smaps_rollup")?, read("status")?);
    let (rss, pss, peak) = (kib_of(&rollup, "Rss:")?, kib_of(&rollup, "Pss:")?, kib_of(&status, "VmHWM:")?);
    Some(Memory { rss: rss << 10, pss: pss << 10, peak: peak << 10 })
}

/// The number behind `name`.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Asks the system to forget what it has cached of the files below a directory.
fn forget(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
        } else {
            let file = std::fs::File::open(&path)?;
            // What is not written yet is not forgotten.
            file.sync_all()?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Removes the directory, whatever happens.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("raftkv: {} stays: {error}", self.0.display());
        }
    }
}

pub(super) async fn run(args: &Rc<BenchArgs>) -> Result<(), Failure> {
    let dir = args.fdatasync_dir.join(format!(".raftkv-start-up-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| failure("make a directory", &e))?;
    // The nodes are dropped, and so killed, before their directory is removed.
    let scratch = Scratch(dir);
    let mut cluster = Cluster::new(scratch.0.clone())?;
    let disk = fdatasync::measure(&scratch.0, FDATASYNCS).map_err(|e| failure("measure fdatasync", &e))?;
    cluster.start()?;
    let clients: Result<Vec<_>, _> = (0..16)
        .map(|seed| cluster.client(args, ClientOptions { seed, ..ClientOptions::default() }))
        .collect();
    let begun = RealClock.now();
    fill(&clients?, args).await?;
    let filled = RealClock.now().since(begun);
    let mut starts = Vec::new();
    for after in [After::Stop, After::Kill, After::StopCold] {
        cluster.stop(after).await?;
        let first_read = cluster.first_read(args).await?;
        clock::sleep(&RealClock, SETTLE).await;
        starts.push(Start { after, first_read, memory: cluster.memory() });
    }
    cluster.stop(After::Stop).await?;
    let fdatasync_ms = disk.percentile_ms(0.5);
    if args.client.json {
        let starts: Vec<_> = starts.iter().map(start_json).collect();
        println!(
            "{}",
            json!({
                "kind": "start-up",
                "nodes": NODES,
                "keys": args.keys,
                "value_size": args.value_size,
                "fill_seconds": filled.as_secs_f64(),
                "fdatasync_median_ms": fdatasync_ms,
                "starts": starts,
            })
        );
        return Ok(());
    }
    println!(
        "start-up: {NODES} nodes, {} keys of {} bytes, written in {:.1} s; bare fdatasync {fdatasync_ms:.3} ms",
        args.keys,
        args.value_size,
        filled.as_secs_f64()
    );
    for start in &starts {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let memory = start.memory.iter().flatten().max_by_key(|memory| memory.rss);
        let memory = memory.map_or_else(String::new, |Memory { rss, pss, peak }| {
            format!(
                "; the largest node: RSS {:.0} MiB, PSS {:.0}, peak {:.0}",
                mib(*rss),
                mib(*pss),
                mib(*peak)
            )
        });
        println!(
            "  {}: first read after {:.3} s{memory}",
            start.after.name(),
            start.first_read.as_secs_f64()
        );
    }
    Ok(())
}

fn start_json(start: &Start) -> Value {
    let memory = start.memory.iter().map(|memory| match memory {
        Some(Memory { rss, pss, peak }) => json!({ "rss": rss, "pss": pss, "peak_rss": peak }),
        None => Value::Null,
    });
    json!({
        "after": start.after.name(),
        "first_read_seconds": start.first_read.as_secs_f64(),
        "node_bytes": memory.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_what_the_system_says() {
        let text =
            "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:     1234 kB\nPss:      567 kB\nPss_Anon:  1 kB\n";
        assert_eq!((kib_of(text, "Rss:"), kib_of(text, "Pss:")), (Some(1234), Some(567)));
        assert_eq!((kib_of(text, "Swap:"), kib_of("Rss: none", "Rss:")), (None, None));
        let own = memory_of(std::process::id()).unwrap();
        assert!(own.rss >= own.pss && own.peak >= own.rss, "{} {} {}", own.rss, own.pss, own.peak);
    }

    #[test]
    fn what_is_forgotten_is_still_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("n1")).unwrap();
        std::fs::write(dir.path().join("n1/file"), b"kept").unwrap();
        forget(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join("n1/file")).unwrap(), b"kept");
        assert!(forget(&dir.path().join("nowhere")).is_err());
    }
}
