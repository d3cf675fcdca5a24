//! What is wrong is said in one line on stderr, with exit code 2, and harms nobody else.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use common::{Cluster, code, eventually, raftkv, run, stderr};

/// Runs `raftkv` to its end, which must come with one line that holds `expected`.
fn fails(args: &[&str], expected: &str) {
    let output = raftkv(args, "");
    let line = stderr(&output);
    // Log lines may stand before it.
    let last = line.lines().last().unwrap_or_default();
    assert_eq!(code(&output), 2, "{args:?}: {line}");
    assert!(last.starts_with("raftkv: ") && last.contains(expected), "{args:?} says: {line}");
}

#[test]
fn a_configuration_that_is_wrong() {
    let cluster = Cluster::configured();
    let path = cluster.config(1);
    let path = path.to_str().unwrap();
    let good = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, format!("datadir = \"/tmp\"\n{good}")).unwrap();
    fails(&["serve", "--config", path], "node1.toml:1: unknown key `datadir`; known keys: `id`, `data_dir`");
    fails(&["serve", "--config", "/nowhere/node.toml"], "cannot read /nowhere/node.toml");
    fails(&["serve"], "the node has no id");
    std::fs::write(path, &good).unwrap();
    fails(&["serve", "--config", path, "--id", "7"], "node 7 is not among the members");
}

#[test]
fn a_port_that_is_in_use() {
    let cluster = Cluster::configured();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let path = cluster.config(1);
    let serve = ["serve", "--config", path.to_str().unwrap()];
    fails(
        &[&serve[..], &["--client-listen", &taken]].concat(),
        &format!("cannot listen for clients on {taken}"),
    );
    fails(&[&serve[..], &["--peer-listen", &taken]].concat(), &format!("cannot listen for peers on {taken}"));
}

#[test]
fn a_data_directory_that_is_not_this_nodes() {
    let mut cluster = Cluster::started();
    run(async {
        let client = cluster.client(1);
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
    });
    let dir = cluster.dir.path().join("1").display().to_string();
    let ports = common::free_ports(2);
    let (peer, client) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
    let config = cluster.config(1).display().to_string();
    let elsewhere = ["--peer-listen", peer.as_str(), "--client-listen", client.as_str()];
    // In use by a running node.
    fails(&[&["serve", "--config", config.as_str()][..], &elsewhere].concat(), "in use by another process");
    // Of another member.
    cluster.kill(1);
    let config2 = cluster.config(2).display().to_string();
    let other = ["serve", "--config", config2.as_str(), "--data-dir", dir.as_str()];
    fails(&[&other[..], &elsewhere].concat(), "member");
    // The others never noticed.
    assert_eq!(code(&cluster.raftkv(&["put", "still", "here"])), 0, "{}", cluster.logs());
}

#[test]
fn garbage_on_the_ports_ends_those_connections_only() {
    let cluster = Cluster::started();
    run(async {
        let client = cluster.client(1);
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
    });
    let config = std::fs::read_to_string(cluster.config(1)).unwrap();
    let peers = config
        .lines()
        .filter_map(|line| line.strip_prefix("peer = "))
        .map(|a| a.trim_matches('"').to_owned());
    for address in peers.chain(cluster.endpoints.iter().cloned()) {
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[255; 4096]] {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            // It may be closed under us already.
            let _ = stream.write_all(garbage);
            let mut left = Vec::new();
            match stream.read_to_end(&mut left) {
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{address} stays open")
                }
            }
        }
    }
    assert_eq!(code(&cluster.raftkv(&["put", "still", "here"])), 0, "{}", cluster.logs());
    let status = cluster.raftkv(&["status"]);
    assert_eq!(code(&status), 0, "{}", cluster.logs());
}

#[test]
fn a_cluster_that_is_not_there() {
    let output = raftkv(&["get", "k", "--endpoints", "127.0.0.1:1", "--timeout", "0.3"], "");
    assert_eq!((code(&output), stderr(&output).lines().count()), (2, 1), "{}", stderr(&output));
    let output = raftkv(&["put", "k", "v", "--endpoints", "127.0.0.1:1", "--timeout", "0.3"], "");
    assert_eq!(code(&output), 2, "nothing was sent: {}", stderr(&output));
    assert_eq!(code(&raftkv(&["status", "--endpoints", "127.0.0.1:1", "--timeout", "0.3"], "")), 2);
    // It listens, takes the request, and says nothing: then nobody knows.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let output = raftkv(&["put", "k", "v", "--endpoints", &address, "--timeout", "0.3"], "");
    assert_eq!(code(&output), 2, "no handshake, so nothing was sent: {}", stderr(&output));
    fails(&["txn", "--endpoints", "127.0.0.1:1"], "the transaction on stdin");
}
