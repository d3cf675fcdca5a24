//! A backup from a live cluster, and a new cluster from the backup.

use std::path::PathBuf;

use raft::snapshot::NO_CLUSTER;

use super::*;
use crate::backup::{self, BackupError, REVISION_BUMP};
use crate::command::{Response, SessionId, SessionStamp};

fn disk() -> raft::disk::SharedDisk {
    Arc::new(RealDisk)
}

/// Three nodes that have formed, or found, their cluster.
async fn three(net: &Arc<TestNet>, dir: &Path) -> (Vec<Node>, Client) {
    // Every start draws afresh; here from the name of the directory, which is another for each cluster.
    let seed = u64::from(crc32c::crc32c(dir.as_os_str().as_encoded_bytes()));
    let started = (1..=3).map(|id| {
        let mut setup = setup(dir, id, 3);
        setup.raft.core.seed += seed;
        Node::start(setup, seams(net))
    });
    let nodes = futures_util::future::try_join_all(started).await.unwrap();
    let client = client(net, &["client1", "client2", "client3"]);
    client.get("x").await.unwrap();
    (nodes, client)
}

async fn stop(nodes: Vec<Node>) {
    for node in nodes {
        node.raft().shutdown().await;
    }
}

/// Saves a backup, read from the first of these nodes.
async fn save(net: &Arc<TestNet>, endpoints: &[&str], path: &Path) -> BackupBegun {
    let client = client(net, endpoints);
    let mut stream = client.backup(Duration::from_secs(10)).await.unwrap();
    let (begun, mut bytes) = (*stream.begun(), Vec::new());
    while let Some(frame) = stream.next().await.unwrap() {
        bytes.extend_from_slice(&frame);
    }
    assert_eq!(bytes.len() as u64, begun.bytes);
    std::fs::write(path, bytes).unwrap();
    begun
}

fn restore_three(path: &Path, dir: &Path, bump: u64) {
    for id in 1..=3 {
        backup::restore(&disk(), path, &dir.join(format!("n{id}")), bump).unwrap();
    }
}

async fn pairs(client: &Client) -> Vec<(Bytes, Bytes, u64)> {
    let result = client.range(all(), Consistency::Linearizable).await.unwrap();
    result.kvs.into_iter().map(|kv| (kv.key, kv.value, kv.mod_revision)).collect()
}

/// A cluster with some history, a session, and a value of more than a frame; and its backup, read from a follower.
async fn saved(net: &Arc<TestNet>, dir: &Path) -> (PathBuf, Vec<(Bytes, Bytes, u64)>, SessionId) {
    let (nodes, client) = three(net, dir).await;
    let session = client.session(Duration::from_secs(60)).await.unwrap();
    for n in 0..20_u8 {
        session.put(format!("k{:02}", n % 12), vec![n; 100_000]).await.unwrap();
    }
    client.delete(KeyRange::Key("k03".into()), false).await.unwrap();
    let path = dir.join("backup");
    let follower =
        (1..=3).find(|id| nodes[id - 1].raft().leadership().borrow().role != core::RoleName::Leader);
    save(net, &[&format!("client{}", follower.unwrap())], &path).await;
    let pairs = pairs(&client).await;
    client.put("later", "not in it").await.unwrap();
    stop(nodes).await;
    (path, pairs, session.id())
}

#[test]
fn a_backup_holds_all_that_was_acknowledged_and_a_new_cluster_begins_with_it() {
    run(async {
        let (net, old, new) = (net(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, before, session) = saved(&net, old.path()).await;
        let found = backup::inspect(&disk(), &path).unwrap();
        assert_eq!((found.revision, found.keys, found.versions, found.sessions), (21, 11, 21, 1));
        assert_eq!(found.members, [1, 2, 3]);

        restore_three(&path, new.path(), 1000);
        let net = crate::testing::net();
        let (nodes, client) = three(&net, new.path()).await;
        assert_eq!(pairs(&client).await, before, "the pairs, and the revisions at which they changed");
        let history = Range { range: KeyRange::Key("k00".into()), revision: Some(1), ..all() };
        let first = client.range(history, Consistency::Linearizable).await.unwrap();
        assert_eq!(first.kvs[0].value[0], 0, "history is there too");
        assert_eq!(client.put("new", "1").await.unwrap(), 1022, "no revision is used twice");
        let body = CommandBody::Operate {
            stamp: Some(SessionStamp { session, request: 99, acked_below: 1 }),
            operation: Operation::Put(Put { key: "k00".into(), value: "late".into(), prev_kv: false }),
        };
        let called = client.propose_for_tests(body).await.unwrap();
        assert_eq!(called, Response::Refused(Refusal::SessionExpired { session }), "another history");

        // It is one cluster, another one than before, and it can be backed up like any other.
        let again = new.path().join("again");
        save(&net, &["client2"], &again).await;
        let second = backup::inspect(&disk(), &again).unwrap();
        assert_ne!(second.cluster, found.cluster);
        assert!(second.cluster != NO_CLUSTER && second.last > found.last);
        stop(nodes).await;

        // Restored nodes are started again like any others, and what they were restored from is gone.
        let net = crate::testing::net();
        let (nodes, client) = three(&net, new.path()).await;
        assert_eq!(client.get("new").await.unwrap().unwrap().mod_revision, 1022);
        let left = std::fs::read_dir(raft::snapshot::restore_dir(&new.path().join("n1"))).unwrap().count();
        assert_eq!(left, 0);
        stop(nodes).await;
    });
}

#[test]
fn a_member_that_is_added_later_gets_the_restored_state() {
    run(async {
        let (net, old, new) = (net(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, before, ..) = saved(&net, old.path()).await;
        restore_three(&path, new.path(), 0);
        let net = crate::testing::net();
        let (mut nodes, client) = three(&net, new.path()).await;
        let mut four = setup(new.path(), 4, 4);
        four.raft.join = true;
        let joining = tokio::spawn(Node::start(four, seams(&net)));
        let member = crate::client::NewMember {
            id: NodeId(4),
            peer: "peer4".into(),
            client: "client4".into(),
            joining: true,
        };
        let deadline = seams(&net).clock.now() + Duration::from_secs(20);
        while let Err(error) = client.add_member(member.clone(), None).await {
            assert!(seams(&net).clock.now() < deadline, "{error}");
            raft::clock::sleep(&raft::clock::RealClock, Duration::from_millis(50)).await;
        }
        nodes.push(joining.await.unwrap().unwrap());
        let own = self::client(&net, &["client4"]);
        loop {
            let result = own.range(all(), Consistency::Serializable).await;
            if result.is_ok_and(|result| result.kvs.len() == before.len()) {
                break;
            }
            assert!(seams(&net).clock.now() < deadline, "the new member never got the state");
            raft::clock::sleep(&raft::clock::RealClock, Duration::from_millis(50)).await;
        }
        stop(nodes).await;
    });
}

#[test]
fn a_start_that_is_broken_off_is_done_again() {
    use raft::identity;
    run(async {
        let (net, old, new) = (net(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, before, ..) = saved(&net, old.path()).await;
        let dir = new.path().join("n1");
        backup::restore(&disk(), &path, &dir, 0).unwrap();
        let restored = std::fs::read_dir(raft::snapshot::restore_dir(&dir)).unwrap().next().unwrap().unwrap();
        let (name, bytes) = (restored.path(), std::fs::read(restored.path()).unwrap());
        let net = crate::testing::net();
        let node = Node::start(setup(new.path(), 1, 1), seams(&net)).await.unwrap();
        self::client(&net, &["client1"]).get("x").await.unwrap();
        node.raft().shutdown().await;
        // As if the crash had come right before the identity said that there is a log.
        let mut identity = identity::load(&RealDisk, &dir).unwrap().unwrap();
        identity.log_created = false;
        let log = dir.join("logs");
        let held = std::fs::read_dir(&log).unwrap().count();
        assert!(held > 0);
        identity::store(&RealDisk, &dir, &identity).unwrap();
        std::fs::write(&name, bytes).unwrap();
        // That node had voted by then, which a node that was broken off there cannot have: it is refused.
        let net = crate::testing::net();
        let Err(refused) = Node::start(setup(new.path(), 1, 1), seams(&net)).await else {
            panic!("a log with a vote was begun anew")
        };
        assert!(refused.to_string().contains("log"), "{refused}");
        // Without the log it is exactly the crash.
        std::fs::remove_dir_all(&log).unwrap();
        let net = crate::testing::net();
        let node = Node::start(setup(new.path(), 1, 1), seams(&net)).await.unwrap();
        let client = client(&net, &["client1"]);
        client.get("x").await.unwrap();
        assert_eq!(pairs(&client).await, before);
        node.raft().shutdown().await;
    });
}

#[test]
fn damage_anywhere_in_a_backup_is_noticed_and_nothing_is_restored() {
    run(async {
        let (net, old, new) = (net(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, old.path(), |_| {}).await;
        client.put("a", "1").await.unwrap();
        let path = old.path().join("backup");
        save(&net, &["client1"], &path).await;
        node.raft().shutdown().await;
        let good = std::fs::read(&path).unwrap();
        let bad = old.path().join("bad");
        let refused = |bytes: &[u8], what: &str| {
            std::fs::write(&bad, bytes).unwrap();
            let error = backup::inspect(&disk(), &bad).expect_err(what);
            assert!(error.is_damage(), "{what}: {error}");
            let dir = new.path().join("n1");
            assert!(backup::restore(&disk(), &bad, &dir, 0).is_err(), "{what}");
            assert!(!dir.exists(), "{what}");
        };
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            refused(&bytes, &format!("a bit of byte {at} flipped"));
            refused(&good[..at], &format!("cut off at {at}"));
        }
        refused(&[&good[..], b"x"].concat(), "something behind the end");
    });
}

#[test]
fn a_member_is_restored_into_an_empty_directory_only() {
    run(async {
        let (net, old, new) = (net(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, old.path(), |_| {}).await;
        client.put("a", "1").await.unwrap();
        let path = old.path().join("backup");
        save(&net, &["client1"], &path).await;
        node.raft().shutdown().await;
        let own = backup::restore(&disk(), &path, &old.path().join("n1"), REVISION_BUMP);
        assert!(matches!(own, Err(BackupError::NotEmpty { .. })), "that of the live node");
        let dir = new.path().join("n1");
        backup::restore(&disk(), &path, &dir, REVISION_BUMP).unwrap();
        let twice = backup::restore(&disk(), &path, &dir, REVISION_BUMP);
        assert!(matches!(twice, Err(BackupError::NotEmpty { .. })));
        let net = crate::testing::net();
        // One that was to join has a cluster to get its state from.
        let mut joins = setup(new.path(), 1, 2);
        joins.raft.join = true;
        let Err(error) = Node::start(joins, seams(&net)).await else { panic!("it joined") };
        assert!(error.to_string().contains("backup"), "{error}");
    });
}

#[test]
fn only_so_many_backups_are_read_at_a_time_and_those_left_alone_end() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        client.put("a", "1").await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..4 {
            streams.push(client.backup(Duration::from_secs(5)).await.unwrap());
        }
        let mut frames = raw(&net).await;
        let mut ask = async |body: RequestBody| {
            frames.push(&Request { id: 1, body }).unwrap();
            frames.send().await.unwrap();
            frames.receive::<Answer>().await.unwrap().unwrap().outcome
        };
        let full = ask(RequestBody::BackupBegin).await;
        assert!(matches!(full, Outcome::NotDone(NotDone::Overloaded { .. })), "{full:?}");
        while streams[0].next().await.unwrap().is_some() {}
        let begun = ask(RequestBody::BackupBegin).await;
        assert!(matches!(begun, Outcome::Done(Reply::Backup(_))), "one has ended: {begun:?}");
        let unknown = ask(RequestBody::BackupRead { backup: 77, frame: 0 }).await;
        assert!(matches!(unknown, Outcome::NotDone(NotDone::Invalid { .. })), "{unknown:?}");
        node.raft().shutdown().await;
    });
}
