//! A byte of a stopped node's log is flipped: `wal inspect` finds it, the node starts nevertheless, gets back from its
//! peers what it lost, and can then be relied on.

mod common;

use std::path::{Path, PathBuf};

use kv::client::Writer;

use common::{Cluster, code, eventually, raftkv, run, stderr, stdout};
use serde_json::Value;

fn inspect(dir: &Path) -> (i32, Value) {
    let output = raftkv(&["wal", "inspect", dir.to_str().unwrap(), "--json", "--entries"], "");
    (code(&output), serde_json::from_str(&stdout(&output)).unwrap_or(Value::Null))
}

/// Flips a byte of `value`, wherever in the log it stands; returns where.
fn flip(dir: &Path, value: &str) -> (PathBuf, usize) {
    for file in std::fs::read_dir(dir.join("logs")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(value.len()).position(|window| window == value.as_bytes()) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return (path, at);
        }
    }
    panic!("{value} is not in the log in {}", dir.display());
}

#[test]
fn a_flipped_byte_in_the_log_is_found_and_made_good() {
    let mut cluster = Cluster::started();
    let client = cluster.client(1);
    run(async {
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
        for i in 0..40 {
            client.put(format!("key-{i}"), format!("needle-{i}-needle")).await.unwrap();
        }
    });
    let dir = cluster.dir.path().join("2");
    let holds_all = || cluster.json(&["status"])["nodes"][1]["last"].as_u64() >= Some(41);
    run(eventually(20, "node 2 has it all", || async { holds_all() }));
    cluster.kill(2);
    let (status, clean) = inspect(&dir);
    assert_eq!((status, &clean["clean"]), (0, &Value::Bool(true)), "{clean}");
    let held = clean["entries"].as_array().unwrap().len();
    assert!(held >= 41, "{held} entries");

    let (path, at) = flip(&dir, "needle-7-needle");
    let (status, damaged) = inspect(&dir);
    assert_eq!((status, damaged["damage"]["file"].as_str()), (1, path.to_str()), "{damaged}");
    assert!(damaged["damage"]["offset"].as_u64().unwrap() < at as u64, "{damaged}");
    assert_eq!(damaged["lost"], clean["last"]);
    assert!(damaged["entries"].as_array().unwrap().len() < 20, "{damaged}");
    assert_eq!(inspect(&dir), (1, damaged), "an inspection changes nothing");
    let text = raftkv(&["wal", "inspect", dir.join("logs").to_str().unwrap()], "");
    assert!(stdout(&text).contains("DAMAGED") && code(&text) == 1, "{}{}", stdout(&text), stderr(&text));

    cluster.start(2);
    let healed = || {
        let node = &cluster.json(&["status"])["nodes"][1];
        node["damaged"].is_null() && node["last"].as_u64() >= Some(41)
    };
    run(eventually(20, "node 2 has made good what it lost", || async { healed() }));
    let log = cluster.log(2);
    assert!(log.contains("the log is damaged") && log.contains("has made good what it lost"), "{log}");
    // Now its word counts again: with it and one other all is there.
    cluster.kill(1);
    run(async {
        eventually(20, "n2 and n3 serve", || async { client.get("key-7").await.is_ok() }).await;
        for i in 0..40 {
            let found = client.get(format!("key-{i}")).await.unwrap();
            assert_eq!(found.unwrap().value, format!("needle-{i}-needle").as_bytes());
        }
    });
    cluster.kill(2);
    let (status, again) = inspect(&dir);
    assert_eq!((status, &again["lost"]), (0, &Value::Null), "{again}");
}

#[test]
fn what_is_no_log_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    let output = raftkv(&["wal", "inspect", empty.path().to_str().unwrap()], "");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("no log in"), "{}", stderr(&output));
}
