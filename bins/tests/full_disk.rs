//! File systems that fill up and are freed, real ones: each node has a small `tmpfs` of its own.
//!
//! Mounting takes rights, so a test runs itself again in a user and mount namespace (`unshare`), where they cost nothing
//! and everything is gone at the end. Where that is not allowed it says so and passes; with
//! `RAFTKV_NAMESPACES=required` it fails instead.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Cluster, code, eventually, run, sleep_ms, stderr};
use kv::client::{Client, ClientError, Consistency, Reason, Writer};
use kv::command::{KeyRange, Range};
use kv::wire::NotDone;
use raft::disk::{Disk, RealDisk};

const MIB: u64 = 1 << 20;
/// Set in the namespace.
const INSIDE: &str = "RAFTKV_TEST_INSIDE";
/// Of a node whose disk is filled by others.
const SMALL: u64 = 40 * MIB;
const SMALL_MARKS: Marks = Marks { low: 8 * MIB, critical: 4 * MIB };
/// Of one that fills its disk itself. A checkpoint comes to 32 MiB, and must fit between the marks.
const LARGE: u64 = 160 * MIB;
const LARGE_MARKS: Marks = Marks { low: 64 * MIB, critical: 24 * MIB };

#[derive(Clone, Copy)]
struct Marks {
    low: u64,
    critical: u64,
}

/// Whether the caller is to do its work now. If not, the work was done by a process of its own, in a namespace; or it
/// cannot be done here, which is said.
fn in_a_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).arg(program);
        command
    };
    let place = tempfile::tempdir().unwrap();
    let mut probe = unshare(Path::new("mount"));
    let probed = probe.args(["-t", "tmpfs", "tmpfs"]).arg(place.path()).output();
    if !probed.as_ref().is_ok_and(|output| output.status.success()) {
        let why = format!("{test} is SKIPPED: no file system can be mounted here ({probed:?})");
        assert!(std::env::var("RAFTKV_NAMESPACES").as_deref() != Ok("required"), "{why}");
        eprintln!("{why}");
        return false;
    }
    let own = std::env::current_exe().unwrap();
    let status = unshare(&own).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{test}, in a namespace: {status}");
    false
}

fn mount(options: &str, dir: &Path) {
    let output =
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir).output().unwrap();
    assert!(output.status.success(), "mount -o {options}: {}", stderr(&output));
}

/// Three nodes, each with its data on a disk of so many bytes.
fn on_disks_of(bytes: u64, marks: Marks) -> Cluster {
    let mut cluster = Cluster::configured();
    for id in 1..=3 {
        let limits = [
            ("request_bytes", 256 << 10),
            ("segment_bytes", 2 * MIB),
            ("free_low_bytes", marks.low),
            ("free_critical_bytes", marks.critical),
            ("ballast_bytes", 2 * MIB),
        ];
        cluster.limit(id, &limits);
        std::fs::create_dir(cluster.data_dir(id)).unwrap();
        mount(&format!("size={bytes}"), &cluster.data_dir(id));
    }
    cluster.start_all();
    serve(&cluster);
    cluster
}

fn serve(cluster: &Cluster) {
    let client = cluster.client(1);
    run(eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }));
}

fn filler(cluster: &Cluster, id: usize) -> PathBuf {
    cluster.data_dir(id).join("of-somebody-else")
}

/// Somebody else takes room on the disk of node `id`, until so many bytes are free.
fn fill(cluster: &Cluster, id: usize, free_bytes: u64) {
    let free = || RealDisk.free_bytes(&cluster.data_dir(id)).unwrap();
    let mut file = File::options().create(true).append(true).open(filler(cluster, id)).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    let zeros = vec![0; 4096];
    while free() >= free_bytes + zeros.len() as u64 {
        // Another may have taken the last of it.
        if file.write_all(&zeros).is_err() {
            return;
        }
    }
}

fn make_room(cluster: &Cluster, id: usize) {
    std::fs::remove_file(filler(cluster, id)).unwrap();
}

/// Waits until node `id` knows how much room it has.
fn knows(cluster: &Cluster, id: usize, space: &str) {
    let found = || cluster.node_status(id).is_some_and(|status| status["space"] == space);
    run(eventually(20, &format!("node {id} has {space} room"), || async { found() }));
}

fn no_space(error: &ClientError) -> bool {
    matches!(error, ClientError::NotDone { reason: Reason::NotDone { reason: NotDone::NoSpace { .. }, .. } })
}

/// What is there, by `client`.
async fn all(client: &Client, consistency: Consistency) -> Option<BTreeMap<String, usize>> {
    let range = KeyRange::Prefix("key".into());
    let range = Range { range, revision: None, limit: 0, keys_only: false, count_only: false };
    let result = client.range(range, consistency).await.ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(result.kvs.iter().map(|kv| (text(&kv.key), kv.value.len())).collect())
}

/// Every node, asked for itself, has exactly this.
fn everyone_has(cluster: &Cluster, expected: &BTreeMap<String, usize>) {
    for (at, endpoint) in cluster.endpoints.iter().enumerate() {
        let client = common::client(std::slice::from_ref(endpoint), 7);
        run(eventually(20, &format!("node {} has it all", at + 1), || async {
            all(&client, Consistency::Serializable).await.as_ref() == Some(expected)
        }));
    }
}

#[test]
fn writes_wait_for_room_and_come_back_by_themselves() {
    if !in_a_namespace("writes_wait_for_room_and_come_back_by_themselves") {
        return;
    }
    let mut cluster = on_disks_of(SMALL, SMALL_MARKS);
    let client = cluster.client(2);
    let mut expected = BTreeMap::new();
    let put = |key: String, bytes: usize| run(client.put(key, vec![b'v'; bytes]));
    for n in 0..40 {
        put(format!("key{n:02}"), 10_000).unwrap();
        expected.insert(format!("key{n:02}"), 10_000);
    }
    // One disk of three is short of room: the two others are a quorum.
    fill(&cluster, 1, 7 * MIB);
    knows(&cluster, 1, "low");
    put("key-with-two".into(), 1).unwrap();
    expected.insert("key-with-two".into(), 1);
    fill(&cluster, 2, 7 * MIB);
    knows(&cluster, 2, "low");
    // Who leads should have room, and a new leader asks first who has.
    let leads = || cluster.json(&["status"])["leader"] == 3;
    run(eventually(20, "the one with room leads", || async { leads() }));
    run(eventually(20, "writes are refused", || async {
        client.put("x", "v").await.is_err_and(|error| no_space(&error))
    }));
    let refused = cluster.raftkv(&["put", "key-of-nobody", "v"]);
    let said = stderr(&refused);
    assert_eq!((code(&refused), said.lines().count()), (2, 1), "{said}");
    assert!(said.contains("no space") && said.contains("n1, n2"), "{said}");
    // What needs no room works: reads, deletes, compaction.
    run(async {
        assert_eq!(client.get("key07").await.unwrap().unwrap().value.len(), 10_000);
        assert_eq!(client.delete(KeyRange::Key("key07".into()), false).await.unwrap().0, 1);
        client.compact(20).await.unwrap();
    });
    expected.remove("key07");
    // Below the critical mark nothing is taken, and everything can be read.
    for id in [1, 2] {
        fill(&cluster, id, 3 * MIB);
        knows(&cluster, id, "critical");
    }
    run(eventually(20, "deletes are refused too", || async {
        client.delete(KeyRange::Key("key-of-nobody".into()), false).await.is_err_and(|error| no_space(&error))
    }));
    assert!(run(client.get("key08")).unwrap().is_some());

    // Room on one of the two is enough, and nobody has to tell anyone.
    make_room(&cluster, 2);
    run(eventually(20, "writes are taken again", || async { client.put("key-later", "v").await.is_ok() }));
    expected.insert("key-later".into(), 1);
    assert!((1..=3).all(|id| cluster.ended(id).is_none()), "no node has stopped\n{}", cluster.logs());
    make_room(&cluster, 1);
    knows(&cluster, 1, "ample");
    everyone_has(&cluster, &expected);
    for id in 1..=3 {
        cluster.kill(id);
    }
    cluster.start_all();
    serve(&cluster);
    everyone_has(&cluster, &expected);
}

/// The data itself fills the disks. Nobody stops; made larger, they take more.
#[test]
fn data_fills_the_disks_until_they_are_made_larger() {
    if !in_a_namespace("data_fills_the_disks_until_they_are_made_larger") {
        return;
    }
    let mut cluster = on_disks_of(LARGE, LARGE_MARKS);
    let client = cluster.client(3);
    let mut expected = BTreeMap::new();
    let fills = |expected: &mut BTreeMap<String, usize>, most: usize| {
        run(async {
            for n in 0..most {
                let key = format!("key{:04}", expected.len());
                match client.put(key.clone(), vec![b'0' + (n % 10) as u8; 200_000]).await {
                    Ok(_) => _ = expected.insert(key, 200_000),
                    Err(error) if no_space(&error) => return n,
                    Err(error) => panic!("{key}: {error}"),
                }
                // The room is measured twice a second, and memory is faster than the disks that the marks are for.
                sleep_ms(5).await;
            }
            most
        })
    };
    let taken = fills(&mut expected, 1_000);
    assert!((100..1_000).contains(&taken), "{taken} puts of 200 kB on disks of {LARGE} bytes");
    assert!((1..=3).all(|id| cluster.ended(id).is_none()), "no node has stopped\n{}", cluster.logs());
    assert_eq!(run(all(&client, Consistency::Linearizable)).as_ref(), Some(&expected));
    for id in 1..=3 {
        mount(&format!("remount,size={}", 2 * LARGE), &cluster.data_dir(id));
    }
    run(eventually(20, "writes are taken again", || async { client.put("x", "v").await.is_ok() }));
    assert_eq!(fills(&mut expected, 20), 20);
    for id in 1..=3 {
        cluster.kill(id);
    }
    cluster.start_all();
    serve(&cluster);
    everyone_has(&cluster, &expected);
}

/// The marks are not in time for everything: somebody else takes the very last byte. That node stops, says why, starts
/// again without room by giving up its ballast, and is whole when there is room.
#[test]
fn a_node_that_finds_no_room_at_all_stops_and_starts_again() {
    if !in_a_namespace("a_node_that_finds_no_room_at_all_stops_and_starts_again") {
        return;
    }
    let mut cluster = on_disks_of(SMALL, SMALL_MARKS);
    let client = cluster.client(4);
    let mut expected = BTreeMap::new();
    let leader = cluster.json(&["status"])["leader"].as_u64().unwrap() as usize;
    let full = leader % 3 + 1;
    let ballast = cluster.data_dir(full).join("ballast");
    run(eventually(20, "the ballast is there", || async { ballast.exists() }));
    fill(&cluster, full, 0);
    let mut n = 0;
    while cluster.ended(full).is_none() {
        let key = format!("key{n:03}");
        run(client.put(key.clone(), vec![b'v'; 200_000])).unwrap();
        expected.insert(key, 200_000);
        n += 1;
        assert!(n < 60, "node {full} goes on without room\n{}", cluster.log(full));
    }
    assert_eq!(cluster.ended(full), Some(2));
    let log = cluster.log(full);
    let said = log.lines().last().unwrap_or_default();
    assert!(said.contains("No space left on device") && said.contains("start it again"), "{log}");
    // Still without room: it gives up its ballast, and takes part.
    cluster.start(full);
    let answers = || cluster.node_status(full).is_some_and(|status| status["space"] == "critical");
    run(eventually(20, "it runs without room", || async { answers() }));
    assert!(!ballast.exists(), "{}", cluster.log(full));
    make_room(&cluster, full);
    knows(&cluster, full, "ample");
    everyone_has(&cluster, &expected);
    run(eventually(20, "the ballast is put back", || async { ballast.exists() }));
    assert_eq!(cluster.ended(full), None, "{}", cluster.log(full));
}
