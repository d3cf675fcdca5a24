//! Three `raftkv serve` processes from the example configurations, and the commands that a user gives.

mod common;

use common::{Cluster, RAFTKV, code, eventually, free_ports, run, sleep_ms, stderr, stdout};
use kv::client::Writer;
use kv::command::{KeyRange, Range};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn json_of(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {} {}", stdout(output), stderr(output)))
}

#[test]
fn the_commands_answer_as_documented() {
    let cluster = Cluster::started();
    run(async {
        let client = cluster.client(1);
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
    });
    let ask = |args: &[&str]| cluster.raftkv(args);
    let said = |args: &[&str], expected_code: i32, expected: &str| {
        let output = ask(args);
        assert_eq!(
            (code(&output), stdout(&output).as_str()),
            (expected_code, expected),
            "{args:?}: {}",
            stderr(&output)
        );
    };
    said(&["put", "greeting", "hello"], 0, "OK\n");
    said(&["get", "greeting"], 0, "hello\n");
    said(&["get", "nothing"], 1, "");
    said(&["put", "greeting", "hi", "--prev-kv", "--exactly-once"], 0, "OK\nhello\n");
    said(&["get", "greeting", "--revision", "1"], 0, "hello\n");
    said(&["get", "greeting", "--any"], 0, "hi\n");
    // Any node answers from what it has: a follower hears a moment later that the put is committed.
    run(async {
        eventually(20, "all have it", || async {
            stdout(&ask(&["get", "greeting", "--serializable"])) == "hi\n"
        })
        .await;
    });
    said(&["range", "greet", "--prefix"], 0, "greeting\thi\n");
    said(&["range", "greet", "--prefix", "--count-only"], 0, "1\n");
    said(&["range", "a", "b"], 1, "");
    said(&["range", "--keys-only"], 0, "greeting\n");
    said(&["del", "greeting", "--prev-kv"], 0, "1\ngreeting\thi\n");
    said(&["del", "greeting"], 1, "0\n");
    said(&["compact", "3"], 0, "compacted to 3\n");
    let refused = ask(&["get", "greeting", "--revision", "1"]);
    assert_eq!((code(&refused), stderr(&refused).lines().count()), (2, 1), "{}", stderr(&refused));
    let in_future = ask(&["get", "greeting", "--revision", "1000"]);
    assert_eq!((code(&in_future), stderr(&in_future).lines().count()), (2, 1), "{}", stderr(&in_future));

    // A value that is not text comes in on stdin and goes out in base64.
    run(async { cluster.client(2).put("binary", vec![0xff, 0x00]).await.unwrap() });
    let binary = json_of(&ask(&["get", "binary", "--json"]));
    assert_eq!(
        (binary["key"].as_str(), binary["value_base64"].as_str()),
        (Some("binary"), Some("/wA=")),
        "{binary}"
    );
    assert_eq!(code(&cluster.raftkv_with(&["put", "piped"], "from stdin")), 0);
    said(&["get", "piped"], 0, "from stdin\n");
    let absent = json_of(&ask(&["get", "nothing", "--json"]));
    assert_eq!(absent["value"], Value::Null);

    let txn = json!({
        "compares": [{ "key": "piped", "value": "from stdin" }],
        "success": [{ "put": { "key": "t", "value": "1" } }, { "range": { "key": "t" } }],
        "failure": [{ "delete": { "key": "piped" } }],
    })
    .to_string();
    let done = cluster.raftkv_with(&["txn", "--json"], &txn);
    let answer = json_of(&done);
    assert_eq!((code(&done), &answer["succeeded"]), (0, &json!(true)), "{answer}");
    assert_eq!(answer["results"][1]["range"]["kvs"][0]["value"], "1", "{answer}");
    let unmet = txn.replace("from stdin", "something else");
    assert_eq!(code(&cluster.raftkv_with(&["txn"], &unmet)), 1);
    said(&["get", "piped"], 1, "");

    let status = ask(&["status"]);
    assert_eq!((code(&status), stdout(&status).lines().count()), (0, 4), "{}", stdout(&status));
    // One endpoint is enough: the node asked names the others.
    let status = json_of(&common::raftkv(&["status", "--json", "--endpoints", &cluster.endpoints[1]], ""));
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3), "{status}");
    for node in status["nodes"].as_array().unwrap() {
        for key in ["id", "role", "term", "commit", "applied", "log_bytes", "disk_bytes"] {
            assert!(!node[key].is_null(), "{key}: {node}");
        }
    }
    let bench = ask(&["bench", "mixed", "--clients", "4", "--seconds", "0.5", "--keys", "20", "--json"]);
    let figures = json_of(&bench);
    assert!(figures["operations"].as_u64().unwrap() > 0 && figures["failed"] == 0, "{figures}");
    assert!(figures["servers_cpu_seconds_per_1000"].as_f64().unwrap() > 0.0, "{figures}");
}

#[test]
fn a_value_over_the_limit_harms_nobody() {
    let cluster = Cluster::started();
    run(async {
        let client = cluster.client(1);
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
    });
    for bytes in [1_572_864, 4 << 20] {
        let output = cluster.raftkv_with(&["put", "big"], &"x".repeat(bytes));
        assert_eq!((code(&output), stderr(&output).lines().count()), (2, 1), "{}", stderr(&output));
        assert!(stderr(&output).contains("limit"), "{}", stderr(&output));
    }
    assert_eq!(code(&cluster.raftkv(&["put", "small", "x"])), 0);
}

#[test]
fn a_node_that_was_away_catches_up_and_all_have_the_same() {
    let mut cluster = Cluster::started();
    run(async {
        let client = cluster.client(1);
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
        let session = client.session(std::time::Duration::from_secs(30)).await.unwrap();
        for n in 0..50 {
            session.put(format!("k{n:03}"), format!("v{n}")).await.unwrap();
        }
        cluster.kill(2);
        for n in 50..100 {
            session.put(format!("k{n:03}"), format!("v{n}")).await.unwrap();
        }
        cluster.start(2);
        let all = Range {
            range: KeyRange::Prefix("k".into()),
            revision: None,
            limit: 0,
            keys_only: false,
            count_only: false,
        };
        for endpoint in &cluster.endpoints {
            let one = common::client(std::slice::from_ref(endpoint), 1);
            eventually(20, "the node has all that was put", || async {
                let read = one.range(all.clone(), kv::client::Consistency::Serializable).await;
                read.is_ok_and(|result| result.count == 100 && result.kvs.iter().all(|kv| kv.version == 1))
            })
            .await;
        }
    });
    // Told to stop, they stop in order.
    for node in cluster.nodes.iter_mut().flatten() {
        node.terminate();
        assert_eq!(node.child.wait().unwrap().code(), Some(0), "{}", cluster.dir.path().display());
    }
}

/// `raftkv local`, line by line.
struct Local {
    process: common::Process,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Local {
    #[expect(clippy::disallowed_methods, reason = "a test reads the lines of a process beside its own work")]
    fn start(dir: &std::path::Path, base_port: u16) -> Self {
        let mut command = Command::new(RAFTKV);
        command.arg("local").arg("--data-dir").arg(dir).args(["--base-port", &base_port.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { process: common::Process { child }, lines }
    }

    /// Waits for a line that begins so.
    fn line(&self, start: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(std::time::Duration::from_secs(30)) {
                Ok(line) if line.starts_with(start) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line begins with {start:?}: {seen:#?}"),
            }
        }
    }
}

/// A base port whose six ports are free now.
fn free_base_port() -> u16 {
    loop {
        let base = free_ports(1)[0].clamp(10_000, 60_000);
        let ports = (1..=3).flat_map(|i| [base + 10 * i, base + 10 * i + 1]);
        let held: Vec<_> = ports.map(|port| std::net::TcpListener::bind(("127.0.0.1", port))).collect();
        if held.iter().all(Result::is_ok) {
            return base;
        }
    }
}

#[test]
fn local_tells_what_happens_keeps_its_data_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let base = free_base_port();
    let local = Local::start(dir.path(), base);
    let first = local.line("node n1 started");
    assert!(
        first.contains(&format!("clients 127.0.0.1:{}, peers 127.0.0.1:{}", base + 10, base + 11)),
        "{first}"
    );
    local.line("leader elected: n");
    let ready = local.line("READY ");
    let endpoints = ready.strip_prefix("READY ").unwrap().to_owned();
    assert_eq!(endpoints.split(',').count(), 3);
    assert_eq!(code(&common::raftkv(&["put", "k", "v", "--endpoints", &endpoints], "")), 0);
    let mut local = local;
    local.process.terminate();
    local.line("stopping");
    for _ in 0..3 {
        assert!(local.line("node n").ends_with("exited: exit status: 0"));
    }
    assert_eq!(local.process.child.wait().unwrap().code(), Some(0));

    let mut again = Local::start(dir.path(), base);
    again.line("READY ");
    let output = common::raftkv(&["get", "k", "--endpoints", &endpoints], "");
    assert_eq!(stdout(&output), "v\n");
    // A second one is told what is in its way, and the first one goes on.
    let second = Command::new(RAFTKV)
        .args(["local", "--base-port", &base.to_string(), "--data-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(code(&second), 2, "{}", stderr(&second));
    assert!(stderr(&second).contains("cannot listen"), "{}", stderr(&second));
    assert_eq!(code(&common::raftkv(&["get", "k", "--endpoints", &endpoints], "")), 0);
    // Even if it is killed, its nodes do not stay.
    again.process.kill();
    run(async {
        for endpoint in endpoints.split(',') {
            eventually(20, "the node is gone", || async { std::net::TcpStream::connect(endpoint).is_err() })
                .await;
        }
        sleep_ms(0).await;
    });
}
