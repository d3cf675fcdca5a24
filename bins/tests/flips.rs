//! Bytes are flipped in the files of a stopped node: of its log, its snapshot, its store, and all that stands beside
//! them. Each time the node is started again. Then either it is whole, or it has stopped with an error that names a
//! file and says what to do, and doing exactly that makes it, or a new member in its place, whole. Never has it
//! anything else than the others.
//!
//! `RAFTKV_FLIPS` says how many bytes are flipped of each kind of file (1 by default), `RAFTKV_FLIPS_SEED` which ones.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Cluster, code, eventually, run, sleep_ms, stderr};
use kv::client::{Client, Consistency, Writer};
use kv::command::{KeyRange, Range};

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}")))
}

/// Where in a file, as a part of its length in millionths, or counted from one of its ends.
#[derive(Clone, Copy, Debug)]
enum At {
    Begin(u64),
    End(u64),
    Drawn,
}

/// Every kind of file in which a node keeps something, and its ballast: how its path begins below the data directory, how it ends, and where it is hit.
const KINDS: [(&str, &str, At); 14] = [
    ("identity", "identity", At::Drawn),
    ("logs/", ".wal", At::Begin(9)),
    ("logs/", ".wal", At::Begin(40)),
    ("logs/", ".wal", At::Drawn),
    ("snapshots/", ".snap", At::Begin(9)),
    ("snapshots/", ".snap", At::Begin(30)),
    ("snapshots/", ".snap", At::Drawn),
    ("snapshots/", ".snap", At::End(3)),
    ("store/CURRENT", "CURRENT", At::Drawn),
    ("store/store.", "/db", At::Begin(3)),
    ("store/store.", "/db", At::Drawn),
    ("store/store.", "/conf", At::Drawn),
    ("store/store.", "", At::Drawn),
    ("ballast", "ballast", At::Drawn),
];

/// Small, so that there are several segments.
const LIMITS: [(&str, u64); 3] =
    [("request_bytes", 1 << 20), ("segment_bytes", 2 << 20), ("ballast_bytes", 4 << 20)];
/// The node whose files are hit. It does not matter which one it is, and may be the leader or not.
const HIT: usize = 2;

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// How much of a file was ever written: behind that are zeros. All of it, if there is nothing else in it.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |at| at + 1)
}

/// Flips a bit of a byte in a file of this kind; says which. Nothing if there is no such file.
fn flip(data_dir: &Path, (begin, end, at): (&str, &str, At), draw: u64) -> Option<(PathBuf, usize)> {
    let name = |path: &Path| path.strip_prefix(data_dir).unwrap().to_string_lossy().into_owned();
    let mut found = files(data_dir);
    found.retain(|path| {
        name(path).starts_with(begin) && name(path).ends_with(end) && path.metadata().unwrap().len() > 0
    });
    let path = found.get(draw as usize % found.len().max(1))?;
    let mut bytes = std::fs::read(path).unwrap();
    let used = used(&bytes);
    let position = match at {
        At::Begin(n) => n as usize,
        At::End(n) => used - n as usize,
        At::Drawn => (draw >> 8) as usize % used,
    };
    bytes[position % used] ^= 1 << (draw % 8);
    std::fs::write(path, bytes).unwrap();
    Some((path.clone(), position % used))
}

async fn all(client: &Client, consistency: Consistency) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let range = KeyRange::Prefix("k".into());
    let range = Range { range, revision: None, limit: 0, keys_only: false, count_only: false };
    let result = client.range(range, consistency).await.ok()?;
    Some(result.kvs.iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect())
}

/// What became of a node that was started with a file that is not as it was.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It has all that the others have.
    Whole,
    /// It stopped and said why.
    Stopped(String),
}

struct World {
    cluster: Cluster,
    client: Client,
    /// What was acknowledged.
    acked: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let cluster = {
            let mut cluster = Cluster::configured();
            for id in 1..=3 {
                cluster.limit(id, &LIMITS);
            }
            cluster.start_all();
            cluster
        };
        let client = cluster.client(1);
        let mut world = Self { cluster, client, acked: BTreeMap::new() };
        run(eventually(20, "a leader serves", || async { world.client.get("x").await.is_ok() }));
        world.write(60, 2_000);
        world.cluster.fill_stores(&world.client);
        world
    }

    fn write(&mut self, keys: usize, bytes: usize) {
        for _ in 0..keys {
            let n = self.acked.len();
            let (key, mut value) = (format!("k{n:05}"), format!("{n:05}-").into_bytes());
            value.resize(bytes, b'a' + (n % 26) as u8);
            run(self.client.put(key.clone(), value.clone())).unwrap();
            self.acked.insert(key.into_bytes(), value);
        }
    }

    /// Gives node `id` a snapshot, a checkpoint, and a log behind both.
    fn prepare(&mut self, id: usize) {
        self.cluster.take_snapshot(id);
        self.write(20, 500);
        self.outcome(id);
    }

    /// Waits until node `id` has everything, by its own word, or has ended.
    fn outcome(&mut self, id: usize) -> Outcome {
        // It may end while it is asked.
        let own = common::patient_client(&self.cluster.endpoints[id - 1..id], 3, Duration::from_millis(300));
        for _ in 0..1_000 {
            if let Some(status) = self.cluster.ended(id) {
                assert_eq!(status, 2, "it stops with an error\n{}", self.cluster.log(id));
                let log = self.cluster.log(id);
                return Outcome::Stopped(log.lines().last().unwrap_or_default().to_owned());
            }
            let has_it_all = run(all(&own, Consistency::Serializable));
            if let Some(found) = &has_it_all {
                for (key, value) in found {
                    assert_eq!(self.acked.get(key), Some(value), "{}", String::from_utf8_lossy(key));
                }
            }
            let status = || self.cluster.node_status(id);
            if has_it_all.as_ref() == Some(&self.acked) && status().is_some_and(|s| s["damaged"].is_null()) {
                return Outcome::Whole;
            }
            run(sleep_ms(20));
        }
        panic!("node {id} is neither whole nor stopped\n{}", self.cluster.logs());
    }

    /// Does what an error says, as somebody would who reads nothing else.
    fn follow(&mut self, id: usize, said: &str, hit: &Path) -> usize {
        let file = hit.to_str().unwrap();
        let dir = self.cluster.data_dir(id);
        let about_store = hit.starts_with(dir.join("store"));
        let named =
            said.contains(file) || (about_store && said.contains(dir.join("store").to_str().unwrap()));
        assert!(named, "{said:?} does not name {file}");
        if said.contains("add a new one") || said.contains("under a new id") {
            return self.replace(id);
        }
        self.cluster.kill(id);
        if said.contains("; remove it, ") {
            std::fs::remove_file(hit).unwrap();
        } else if said.contains("remove store/") {
            std::fs::remove_dir_all(dir.join("store")).unwrap();
        } else {
            assert!(said.contains("start it again"), "{said:?} says nothing that can be done");
        }
        self.cluster.start(id);
        id
    }

    /// A new member in the place of one that is lost, as the operations guide says.
    fn replace(&mut self, old: usize) -> usize {
        self.cluster.kill(old);
        let new = self.cluster.nodes.len() + 1;
        let named = self.cluster.spare(new);
        let (_, addresses) = named.split_once('=').unwrap();
        self.cluster.endpoints.push(addresses.split_once(',').unwrap().1.to_owned());
        self.cluster.limit(new, &LIMITS);
        self.cluster.start_spare(new, &named);
        let output = self.cluster.raftkv(&["member", "replace", &old.to_string(), &named]);
        assert_eq!(code(&output), 0, "{}\n{}", stderr(&output), self.cluster.logs());
        new
    }
}

#[test]
fn a_node_with_a_flipped_byte_heals_or_says_how_to_heal_it() {
    let (count, mut seed) = (env("RAFTKV_FLIPS", 1), env("RAFTKV_FLIPS_SEED", 1));
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 24
    };
    let mut world = World::new();
    let mut id = HIT;
    let mut told = BTreeMap::new();
    let begun = common::now();
    for kind in KINDS.into_iter().cycle().take(KINDS.len() * count as usize) {
        world.prepare(id);
        world.cluster.stop(id);
        let Some((path, at)) = flip(&world.cluster.data_dir(id), kind, draw()) else {
            told.entry(format!("{kind:?}")).or_insert_with(Vec::new).push("no such file".to_owned());
            world.cluster.start(id);
            continue;
        };
        world.write(3, 100);
        world.cluster.start(id);
        let mut outcome = world.outcome(id);
        let mut story = format!("{}+{at}: ", path.file_name().unwrap().display());
        for round in 0.. {
            let Outcome::Stopped(said) = outcome else { break };
            assert!(round < 3, "what it says does not help\n{}", world.cluster.log(id));
            story.push_str(&format!("{said}; "));
            id = world.follow(id, &said, &path);
            outcome = world.outcome(id);
        }
        story.push_str("whole");
        println!("{} ms: {kind:?} {story}", common::now().since(begun).as_millis());
        told.entry(format!("{kind:?}")).or_insert_with(Vec::new).push(story);
    }
    for (kind, stories) in &told {
        assert!(stories.iter().any(|story| story.ends_with("whole")), "{kind}: {stories:?}");
    }
}
