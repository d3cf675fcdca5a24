//! The benchmark that starts a cluster of its own: its figures mean something only if the nodes came back with the data.

use std::process::{Command, Output};

use serde_json::Value;

fn start_up(dir: &std::path::Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftkv"));
    command.args(["bench", "start-up", "--keys", "300", "--value-size", "100", "--json", "--fdatasync-dir"]);
    command.arg(dir).output().unwrap()
}

#[test]
fn the_nodes_of_the_start_up_benchmark_come_back_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = start_up(dir.path());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["nodes"].as_u64(), report["keys"].as_u64()), (Some(3), Some(300)));
    let starts = report["starts"].as_array().unwrap();
    let after: Vec<_> = starts.iter().filter_map(|start| start["after"].as_str()).collect();
    assert_eq!(after, ["stopped", "killed", "stopped, files not cached"]);
    for start in starts {
        assert!(start["first_read_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{start}");
        let nodes = start["node_bytes"].as_array().unwrap();
        assert_eq!(nodes.len(), 3);
        // A node that had ended would have none, and the system tells on Linux.
        let known = nodes.iter().filter(|node| node["rss"].as_u64().is_some_and(|rss| rss > 1 << 20)).count();
        assert!(known == 3 || cfg!(not(target_os = "linux")), "{start}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the directory is left as it was");
}
