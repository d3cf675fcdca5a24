//! `raftkv snapshot`: from a running cluster to another one.

mod common;

use std::time::Duration;

use common::{Cluster, client, code, eventually, raftkv, run, stderr, stdout};
use kv::client::Writer;

#[test]
fn a_backup_of_a_running_cluster_becomes_another_cluster() {
    let old = Cluster::started();
    run(async {
        let client = old.client(1);
        eventually(20, "a leader serves", || async { client.get("x").await.is_ok() }).await;
        for n in 0..200 {
            client.put(format!("key{n:03}"), vec![b'v'; 1000]).await.unwrap();
        }
        client.session(Duration::from_secs(600)).await.unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backup.snap").display().to_string();
    let saved = old.json(&["snapshot", "save", &file]);
    assert_eq!((&saved["revision"], &saved["keys"]), (&200.into(), &200.into()), "{saved}");
    assert_eq!(saved["sessions"], 1, "{saved}");
    let again = old.raftkv(&["snapshot", "save", &file]);
    assert_eq!(
        (code(&again), stderr(&again).lines().count()),
        (2, 1),
        "it does not overwrite: {}",
        stderr(&again)
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "and leaves nothing behind");

    // Later writes are not in it. A cluster without a quorum gives none.
    run(async { old.client(2).put("later", "1").await.unwrap() });
    let mut old = old;
    old.kill(1);
    old.kill(2);
    let other = dir.path().join("other").display().to_string();
    let refused = old.raftkv(&["snapshot", "save", &other, "--timeout", "2", "--patience", "4"]);
    assert_eq!((code(&refused), stdout(&refused).as_str()), (2, ""), "{}", stderr(&refused));

    let status = raftkv(&["snapshot", "status", &file, "--json"], "");
    assert_eq!(code(&status), 0, "{}", stderr(&status));
    let text = raftkv(&["snapshot", "status", &file], "");
    assert!(stdout(&text).contains("revision   200"), "{}", stdout(&text));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&other, &bytes).unwrap();
    // The part that is damaged is named, and not only that something is.
    let said = stderr(&raftkv(&["snapshot", "status", &other], ""));
    let offset = said.split_once("is damaged at offset ").and_then(|(_, rest)| rest.split_once(':'));
    let offset = offset.and_then(|(offset, _)| offset.parse::<usize>().ok());
    assert!(offset.is_some_and(|offset| offset <= middle), "{said}");
    for (args, expected) in [
        (vec!["snapshot", "status", &other], 1),
        (vec!["snapshot", "status", "/nonexistent"], 2),
        (vec!["snapshot", "restore", &other, "--data-dir", "/nonexistent/x"], 2),
    ] {
        let output = raftkv(&args, "");
        assert_eq!(
            (code(&output), stderr(&output).lines().count()),
            (expected, 1),
            "{args:?}: {}",
            stderr(&output)
        );
    }

    let mut new = Cluster::configured();
    for id in 1..=3 {
        let data_dir = new.dir.path().join(id.to_string()).display().to_string();
        let restored =
            raftkv(&["snapshot", "restore", &file, "--data-dir", &data_dir, "--bump-revision", "1000"], "");
        assert_eq!(code(&restored), 0, "{}", stderr(&restored));
        new.start(id);
    }
    run(async {
        let client = client(&new.endpoints, 3);
        eventually(20, "the new cluster serves", || async { client.get("x").await.is_ok() }).await;
        assert_eq!(client.get("key199").await.unwrap().unwrap().mod_revision, 200);
        assert_eq!(client.get("later").await.unwrap(), None);
        assert_eq!(client.put("new", "1").await.unwrap(), 1201);
    });
    let of_new = new.json(&["snapshot", "save", &other.replace("other", "of-new")]);
    assert_ne!(of_new["cluster"], saved["cluster"], "it is another cluster: {of_new}");
    assert_eq!(of_new["sessions"], 0, "no session of the old one goes on: {of_new}");
    run(async {
        let client = client(&new.endpoints, 4);
        new.kill(1);
        eventually(20, "two of three serve", || async {
            client.get("new").await.is_ok_and(|kv| kv.is_some())
        })
        .await;
    });
}
