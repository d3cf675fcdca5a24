//! Real `raftkv` processes for tests: on free ports, in temporary directories, and never left behind.
#![allow(dead_code, reason = "each test uses its own part of it")]

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kv::client::{Client, ClientOptions, Writer};
use kv::command::KeyRange;
use raft::clock::{Clock, Monotonic, RealClock};
use raft::net::RealNet;

pub(crate) const RAFTKV: &str = env!("CARGO_BIN_EXE_raftkv");

/// A process that is killed when it is dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
}

impl Process {
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that are free now. They lie below those that the system gives to outgoing connections, which would take them
/// before the nodes do; and no two tests of a process are given the same.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(101) % 13_000;
    let mut found = Vec::new();
    while found.len() < count {
        let port = 10_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 13_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            found.push(port);
        }
    }
    found
}

pub(crate) fn example(id: usize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/node{id}.toml"));
    std::fs::read_to_string(path).unwrap()
}

/// Three nodes, configured by the example files, with other ports and directories.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) endpoints: Vec<String>,
    pub(crate) nodes: Vec<Option<Process>>,
}

impl Cluster {
    pub(crate) fn configured() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports(6);
        for id in 1..=3 {
            let mut text = example(id).replace("\"/var/raftkv", &format!("\"{}", dir.path().display()));
            for (n, port) in ports.iter().enumerate() {
                // 23800, 23801, 23810, ..
                let documented = 23800 + n / 2 * 10 + n % 2;
                text = text.replace(&format!("127.0.0.1:{documented}"), &format!("127.0.0.1:{port}"));
            }
            std::fs::write(dir.path().join(format!("node{id}.toml")), text).unwrap();
        }
        let endpoints = ports.iter().step_by(2).map(|port| format!("127.0.0.1:{port}")).collect();
        Self { dir, endpoints, nodes: vec![None, None, None] }
    }

    pub(crate) fn started() -> Self {
        let mut cluster = Self::configured();
        cluster.start_all();
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        for id in 1..=self.nodes.len() {
            self.start(id);
        }
    }

    /// Sets limits of node `id` to other values than its file has.
    pub(crate) fn limit(&self, id: usize, limits: &[(&str, u64)]) {
        let text = std::fs::read_to_string(self.config(id)).unwrap();
        let others = |line: &&str| !limits.iter().any(|(key, _)| line.starts_with(&format!("{key} = ")));
        let mut text: String = text.lines().filter(others).map(|line| format!("{line}\n")).collect();
        if !text.contains("[limits]") {
            text.push_str("[limits]\n");
        }
        let set: String = limits.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        std::fs::write(self.config(id), text.replace("[limits]\n", &format!("[limits]\n{set}"))).unwrap();
    }

    /// Writes and deletes so much that every node writes a checkpoint: now there are rows in the stores, and after the
    /// next snapshot the logs no longer reach back to the beginning.
    pub(crate) fn fill_stores(&self, client: &Client) {
        const VALUES: u64 = 36;
        let before = run(async {
            let before = client.put("filling", "").await.unwrap();
            for n in 0..VALUES {
                client.put(format!("filling/{n}"), vec![b'f'; 1_000_000]).await.unwrap();
            }
            client.delete(KeyRange::Prefix("filling".into()), false).await.unwrap();
            client.compact(before + VALUES + 1).await.unwrap();
            before
        });
        for id in 1..=self.nodes.len() {
            let checkpoint = || self.node_status(id).and_then(|status| status["checkpoint"].as_u64());
            run(eventually(30, "a checkpoint is written", || async { checkpoint() > Some(before) }));
        }
    }

    /// Has node `id` write a snapshot of all that was acknowledged.
    pub(crate) fn take_snapshot(&self, id: usize) {
        let file = self.dir.path().join("backup").display().to_string();
        let args = ["snapshot", "save", &file, "--timeout", "20", "--endpoints", &self.endpoints[id - 1]];
        let output = raftkv(&args, "");
        assert_eq!(code(&output), 0, "{}\n{}", stderr(&output), self.log(id));
        std::fs::remove_file(file).unwrap();
    }

    /// The data directory of node `id`.
    pub(crate) fn data_dir(&self, id: usize) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Whether the process of node `id` has ended by itself; with which exit code.
    pub(crate) fn ended(&mut self, id: usize) -> Option<i32> {
        let process = self.nodes[id - 1].as_mut()?;
        let status = process.child.try_wait().unwrap()?;
        Some(status.code().unwrap_or(-1))
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self, id: usize) {
        if let Some(process) = &mut self.nodes[id - 1] {
            process.terminate();
            let _ = process.child.wait();
        }
        self.nodes[id - 1] = None;
    }

    /// What node `id` says of itself, if it answers.
    pub(crate) fn node_status(&self, id: usize) -> Option<serde_json::Value> {
        let endpoint = &self.endpoints[id - 1];
        let args = ["status", "--json", "--endpoints", endpoint];
        let said: serde_json::Value = serde_json::from_slice(&raftkv(&args, "").stdout).ok()?;
        said["nodes"].as_array()?.iter().find(|node| node["id"] == id).cloned()
    }

    /// Configures a machine that may join as member `id`, the next one; says how it is named to `member add`.
    pub(crate) fn spare(&mut self, id: usize) -> String {
        assert_eq!(id, self.nodes.len() + 1, "machines are numbered as they come");
        let ports = free_ports(2);
        let (peer, client) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
        // The example is that of the fourth, with the documented addresses.
        let known = std::fs::read_to_string(self.config(1)).unwrap();
        let known: Vec<&str> = known.lines().filter(|line| line.contains(" = \"127.0.0.1:")).collect();
        let data_dir = self.dir.path().join(id.to_string());
        let mut text = example(4)
            .replace("id = 4", &format!("id = {id}"))
            .replace("/var/raftkv/4", &data_dir.display().to_string())
            .replace("127.0.0.1:23831", &peer)
            .replace("127.0.0.1:23830", &client);
        for (n, line) in known.iter().enumerate() {
            let (what, _) = line.split_once(" = ").unwrap();
            let port = 23800 + n / 2 * 10 + usize::from(what == "peer");
            text = text.replace(&format!("{what} = \"127.0.0.1:{port}\""), line);
        }
        std::fs::write(self.config(id), text).unwrap();
        self.nodes.push(None);
        format!("{id}={peer},{client}")
    }

    /// Starts the machine of [`spare`](Self::spare), and waits until it can be reached under the addresses it named.
    pub(crate) fn start_spare(&mut self, id: usize, named: &str) {
        self.start(id);
        let (_, addresses) = named.split_once('=').unwrap();
        run(async {
            for address in addresses.split(',') {
                eventually(20, "the new machine listens", || async {
                    std::net::TcpStream::connect(address).is_ok()
                })
                .await;
            }
        });
    }

    pub(crate) fn config(&self, id: usize) -> PathBuf {
        self.dir.path().join(format!("node{id}.toml"))
    }

    pub(crate) fn start(&mut self, id: usize) {
        let log = self.dir.path().join(format!("node{id}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(RAFTKV);
        command.args(["serve", "--stop-with-stdin", "--config"]).arg(self.config(id));
        // The pipe ends with this process, however it ends.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.nodes[id - 1] = Some(Process { child: command.spawn().unwrap() });
    }

    /// What node `id` logged.
    pub(crate) fn log(&self, id: usize) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("node{id}.log"))).unwrap_or_default()
    }

    /// Runs a client command with `--json`, which must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.raftkv(&[args, &["--json"]].concat());
        assert_eq!(code(&output), 0, "{args:?}: {}\n{}", stderr(&output), self.logs());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, id: usize) {
        self.nodes[id - 1] = None;
    }

    pub(crate) fn client(&self, seed: u64) -> Client {
        client(&self.endpoints, seed)
    }

    /// Runs a client command.
    pub(crate) fn raftkv(&self, args: &[&str]) -> Output {
        self.raftkv_with(args, "")
    }

    /// Runs a client command with this on its stdin.
    pub(crate) fn raftkv_with(&self, args: &[&str], stdin: &str) -> Output {
        let endpoints = self.endpoints.join(",");
        let args: Vec<_> = args.iter().copied().chain(["--endpoints", &endpoints]).collect();
        raftkv(&args, stdin)
    }

    /// What the nodes logged, for the message of a test that failed.
    pub(crate) fn logs(&self) -> String {
        let log = |id: usize| {
            std::fs::read_to_string(self.dir.path().join(format!("node{id}.log"))).unwrap_or_default()
        };
        (1..=self.nodes.len()).map(|id| format!("--- node {id}\n{}", log(id))).collect()
    }
}

pub(crate) fn client(endpoints: &[String], seed: u64) -> Client {
    patient_client(endpoints, seed, Duration::from_secs(10))
}

/// A client that gives up after so long.
pub(crate) fn patient_client(endpoints: &[String], seed: u64, request_timeout: Duration) -> Client {
    let options = ClientOptions { request_timeout, seed, ..ClientOptions::default() };
    Client::new(Arc::new(RealClock), Arc::new(RealNet), endpoints.iter().cloned(), options).unwrap()
}

/// Runs `raftkv` to its end.
pub(crate) fn raftkv(args: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(RAFTKV);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("RUST_LOG");
    let mut child = command.spawn().unwrap();
    // It may end without having read its stdin.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub(crate) fn now() -> Monotonic {
    RealClock.now()
}

pub(crate) async fn sleep_ms(ms: u64) {
    raft::clock::sleep(&RealClock, Duration::from_millis(ms)).await;
}

pub(crate) fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Waits until `condition` holds, at most so many seconds.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    seconds: u64,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = now() + Duration::from_secs(seconds);
    while !condition().await {
        assert!(now() < deadline, "within {seconds} s: {what}");
        sleep_ms(20).await;
    }
}
