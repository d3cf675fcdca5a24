//! Real nodes come, go, are replaced and hand over, while clients write; and what an operator gets wrong is refused.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use common::{Cluster, code, eventually, run, sleep_ms, stderr, stdout};
use kv::client::{Client, Consistency, Writer};
use kv::command::{KeyRange, Range};
use serde_json::{Value, json};
use tokio::task::LocalSet;

fn all() -> Range {
    Range {
        range: KeyRange::Prefix("k".into()),
        revision: None,
        limit: 0,
        keys_only: false,
        count_only: false,
    }
}

/// Three nodes that serve.
fn serving() -> Cluster {
    let cluster = Cluster::started();
    run(async {
        let client = cluster.client(1);
        for _ in 0..1_000 {
            if client.get("x").await.is_ok() {
                return;
            }
            sleep_ms(20).await;
        }
        panic!("nobody serves\n{}", cluster.logs());
    });
    cluster
}

/// Runs a client command that must succeed; says what it printed.
fn does(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.raftkv(args);
    assert_eq!(code(&output), 0, "{args:?}: {}{}\n{}", stdout(&output), stderr(&output), cluster.logs());
    stdout(&output)
}

/// Runs a client command that must be refused in one line with `expected` in it.
fn refuses(cluster: &Cluster, args: &[&str], expected: &str) {
    let output = cluster.raftkv(args);
    let said = stderr(&output);
    assert_eq!(code(&output), 2, "{args:?}: {}{said}", stdout(&output));
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains(expected), "{args:?} says: {said}");
}

fn list(cluster: &Cluster) -> Value {
    cluster.json(&["member", "list"])
}

/// The ids of the members that are `role`.
fn those(list: &Value, role: &str) -> Vec<u64> {
    let members = list["members"].as_array().unwrap();
    members.iter().filter(|m| m["role"] == role).map(|m| m["id"].as_u64().unwrap()).collect()
}

fn leader(cluster: &Cluster) -> usize {
    list(cluster)["leader"].as_u64().unwrap() as usize
}

/// Waits until the leader has noticed that member `id` does not answer.
fn is_missed(cluster: &Cluster, id: usize) {
    run(async {
        eventually(20, "the leader misses the member", || async {
            let list = list(cluster);
            let members = list["members"].as_array().unwrap();
            members.iter().any(|member| member["id"] == id && member["answers"] == false)
        })
        .await;
    });
}

/// A command that runs beside the writers.
async fn does_beside(cluster: &Cluster, args: &[&str]) {
    let mut args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
    args.extend(["--endpoints".to_owned(), cluster.endpoints.join(",")]);
    let log = cluster.dir.path().join("command.log");
    let out = std::fs::File::create(&log).unwrap();
    let mut command = std::process::Command::new(common::RAFTKV);
    command.args(&args).stdout(out.try_clone().unwrap()).stderr(out);
    let mut process = common::Process { child: command.spawn().unwrap() };
    for _ in 0..6_000 {
        if let Some(status) = process.child.try_wait().unwrap() {
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(status.success(), "{args:?}: {said}\n{}", cluster.logs());
            return;
        }
        sleep_ms(10).await;
    }
    panic!("{args:?} does not end\n{}", cluster.logs());
}

/// Writes until it is told to stop. Every put must be acknowledged: each under its own key, with its revision.
async fn write(client: Client, acked: Rc<RefCell<BTreeMap<String, u64>>>, stop: Rc<Cell<bool>>) {
    let session = client.session(Duration::from_secs(60)).await.unwrap();
    for n in 0.. {
        if stop.get() {
            return;
        }
        let key = format!("k{n:06}");
        let revision = session.put(key.clone(), "v").await.unwrap();
        acked.borrow_mut().insert(key, revision);
        sleep_ms(5).await;
    }
}

/// Waits until a process has ended by itself with exit code 0.
async fn ends(cluster: &mut Cluster, id: usize) {
    for _ in 0..2_000 {
        if let Some(status) = cluster.nodes[id - 1].as_mut().unwrap().child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0), "node {id}\n{}", cluster.log(id));
            return;
        }
        sleep_ms(10).await;
    }
    panic!("node {id} does not end\n{}", cluster.logs());
}

#[test]
fn who_removes_the_leader_is_told_of_the_next_one() {
    let cluster = serving();
    let gone = leader(&cluster);
    let said = does(&cluster, &["member", "remove", &gone.to_string(), "--json"]);
    let answer: Value = serde_json::from_str(&said).unwrap();
    let leads = |member: &&Value| member["leader"] == json!(true) && member["answers"] == json!(true);
    assert_eq!(answer["members"].as_array().unwrap().iter().filter(leads).count(), 1, "{answer}");
    assert_ne!(answer["leader"], json!(gone), "{answer}");
    assert_eq!(answer["removed"], json!([gone]), "{answer}");
}

#[test]
fn members_come_go_and_are_replaced_under_writes() {
    let mut cluster = serving();
    let (fourth, fifth) = (cluster.spare(4), cluster.spare(5));
    cluster.start_spare(4, &fourth);
    cluster.start_spare(5, &fifth);
    run(LocalSet::new().run_until(async {
        let (acked, stop) = (Rc::default(), Rc::new(Cell::new(false)));
        let writer = tokio::task::spawn_local(write(cluster.client(1), Rc::clone(&acked), Rc::clone(&stop)));
        does_beside(&cluster, &["member", "add", &fourth]).await;
        let four = list(&cluster);
        assert_eq!(those(&four, "voter"), [1, 2, 3, 4], "{four}");
        // Given again, there is nothing to do.
        does_beside(&cluster, &["member", "add", &fourth]).await;

        let gone = leader(&cluster);
        does_beside(&cluster, &["member", "remove", &gone.to_string()]).await;
        ends(&mut cluster, gone).await;
        does_beside(&cluster, &["member", "remove", &gone.to_string()]).await;
        let three = list(&cluster);
        assert_eq!(those(&three, "voter").len(), 3, "{three}");
        assert_eq!(three["removed"], json!([gone]), "{three}");

        // One dies for good and is replaced.
        let dead =
            those(&three, "voter").into_iter().find(|id| json!(id) != three["leader"] && *id != 4).unwrap();
        cluster.kill(dead as usize);
        does_beside(&cluster, &["member", "replace", &dead.to_string(), &fifth]).await;
        does_beside(&cluster, &["member", "replace", &dead.to_string(), &fifth]).await;
        let last = list(&cluster);
        let voters = those(&last, "voter");
        assert!(voters.len() == 3 && voters.contains(&5) && !voters.contains(&dead), "{last}");

        stop.set(true);
        writer.await.unwrap();
        let acked = acked.take();
        assert!(acked.len() > 20, "{} puts", acked.len());
        let client = cluster.client(2);
        let whole = client.range(all(), Consistency::Linearizable).await.unwrap();
        let found: BTreeMap<_, _> = whole
            .kvs
            .iter()
            .map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision))
            .collect();
        assert_eq!(found, acked);
        assert!(whole.kvs.iter().all(|kv| kv.version == 1));
        for member in last["members"].as_array().unwrap() {
            let one = common::client(&[member["client"].as_str().unwrap().to_owned()], 1);
            eventually(20, "all members have the same", || async {
                one.range(all(), Consistency::Serializable).await.is_ok_and(|result| result.kvs == whole.kvs)
            })
            .await;
        }
    }));
}

#[test]
fn a_client_that_knows_only_members_of_old_finds_the_new_ones() {
    let mut cluster = serving();
    let fourth = cluster.spare(4);
    cluster.start_spare(4, &fourth);
    does(&cluster, &["member", "add", &fourth]);
    does(&cluster, &["leader", "transfer", "4"]);
    // The nodes' own files do not list it.
    let text = std::fs::read_to_string(cluster.config(1)).unwrap();
    let (_, client) = fourth.split_once(',').unwrap();
    assert!(!text.contains(client));
    let one = ["put", "k", "v", "--endpoints", &cluster.endpoints[0]];
    assert_eq!(code(&common::raftkv(&one, "")), 0, "{}", cluster.logs());
    let status = common::raftkv(&["status", "--json", "--endpoints", &cluster.endpoints[0]], "");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(
        (status["nodes"].as_array().map(Vec::len), &status["leader"]),
        (Some(4), &json!(4)),
        "{status}"
    );
}

#[test]
fn a_learner_serves_reads_and_is_promoted_and_demoted() {
    let mut cluster = serving();
    let fourth = cluster.spare(4);
    // Its own list leaves out the third: where that one serves clients it knows from the configuration only.
    let listed = std::fs::read_to_string(cluster.config(4)).unwrap();
    let (without_third, _) = listed.rsplit_once("[[members]]").unwrap();
    std::fs::write(cluster.config(4), without_third).unwrap();
    cluster.start_spare(4, &fourth);
    let (_, own) = fourth.split_once(',').unwrap();
    assert_eq!(does(&cluster, &["member", "add", &fourth, "--learner"]), "member 4 is a learner\n");
    assert_eq!(those(&list(&cluster), "learner"), [4]);
    does(&cluster, &["put", "k", "fresh"]);
    // The leader is where this client cannot reach it; the learner can.
    if leader(&cluster) != 3 {
        does(&cluster, &["leader", "transfer", "3"]);
    }
    let peer = list(&cluster)["members"][2]["peer"].as_str().unwrap().to_owned();
    does(&cluster, &["member", "update", &format!("3={peer},127.0.0.1:9")]);
    run(async {
        eventually(20, "the learner answers by itself", || async {
            let output = common::raftkv(&["get", "k", "--any", "--endpoints", own], "");
            (code(&output), stdout(&output).as_str()) == (0, "fresh\n")
        })
        .await;
    });
    let output = common::raftkv(&["get", "k", "--timeout", "1", "--endpoints", own], "");
    assert_eq!(code(&output), 2, "only the leader may answer this: {}", stdout(&output));
    let status = stdout(&cluster.raftkv(&["status"]));
    assert!(status.lines().any(|line| line.starts_with('4') && line.contains("learner")), "{status}");
    let said = does(&cluster, &["member", "promote", "4"]);
    assert_eq!(
        said,
        "now:        3 voters (1, 2 and 3); 2 needed, 3 answer: 1 may fail\n\
         afterwards: 4 voters (1, 2, 3 and 4); 3 needed, 4 answer: 1 may fail\n\
         member 4 is a voter\n"
    );
    refuses(&cluster, &["member", "promote", "4"], "member 4 is a voter already");
    assert!(does(&cluster, &["member", "demote", "4"]).ends_with("member 4 is a learner\n"));
    assert_eq!(those(&list(&cluster), "voter"), [1, 2, 3]);
}

#[test]
fn a_wiped_disk_is_refused_and_told_how_to_come_back() {
    let mut cluster = serving();
    let fourth = cluster.spare(4);
    does(&cluster, &["put", "k", "v"]);
    let wiped = leader(&cluster) % 3 + 1;
    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.dir.path().join(wiped.to_string())).unwrap();
    let before = cluster.log(wiped).len();
    cluster.start(wiped);
    run(async {
        for _ in 0..2_000 {
            if let Some(status) = cluster.nodes[wiped - 1].as_mut().unwrap().child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(2));
                return;
            }
            sleep_ms(10).await;
        }
        panic!("it goes on\n{}", cluster.logs());
    });
    let said = cluster.log(wiped)[before..].to_owned();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("raftkv: ") && last.contains("new"), "{said}");
    // As it is told: under another id.
    cluster.start_spare(4, &fourth);
    does(&cluster, &["member", "replace", &wiped.to_string(), &fourth]);
    assert_eq!(does(&cluster, &["get", "k"]), "v\n");
    // And under the old one it is told that it was removed, once all have forgotten it.
    run(async {
        eventually(20, "it is told that it was removed", || async {
            let output = common::raftkv(&["serve", "--config", cluster.config(wiped).to_str().unwrap()], "");
            assert_eq!(code(&output), 2, "{}", stderr(&output));
            stderr(&output).lines().last().unwrap_or_default().contains("was removed from the cluster")
        })
        .await;
    });
    refuses(
        &cluster,
        &["member", "add", &format!("{wiped}=127.0.0.1:1,127.0.0.1:2")],
        "ids are not used again",
    );
}

#[test]
fn the_leadership_is_handed_over_and_stays_where_it_is_if_that_fails() {
    let mut cluster = serving();
    let old = leader(&cluster);
    let (to, other) = (old % 3 + 1, (old + 1) % 3 + 1);
    assert_eq!(does(&cluster, &["leader", "transfer", &to.to_string()]), format!("member {to} leads\n"));
    assert_eq!(leader(&cluster), to);
    refuses(&cluster, &["leader", "transfer", &to.to_string()], "leads already");
    refuses(&cluster, &["leader", "transfer", "9"], "member 9 is no voter");
    // Whoever is up takes over.
    cluster.kill(other);
    is_missed(&cluster, other);
    assert_eq!(does(&cluster, &["leader", "transfer"]), format!("member {old} leads\n"));
    refuses(&cluster, &["leader", "transfer", &other.to_string()], "did not take over in time");
    does(&cluster, &["put", "k", "still served"]);
    assert_eq!(leader(&cluster), old);
    // A leader that is told to stop leaves another one behind.
    cluster.start(other);
    run(async {
        let one = common::client(&cluster.endpoints[other - 1..other], 1);
        eventually(20, "the third is back", || async {
            one.range(all(), Consistency::Serializable).await.is_ok_and(|range| range.count == 1)
        })
        .await;
    });
    let before = cluster.json(&["status"]);
    let node = cluster.nodes[old - 1].as_mut().unwrap();
    node.terminate();
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    does(&cluster, &["put", "k", "and served"]);
    let after = common::raftkv(&["status", "--json", "--endpoints", &cluster.endpoints[to - 1]], "");
    let after: Value = serde_json::from_slice(&after.stdout).unwrap();
    let term = |status: &Value| {
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().filter_map(|node| node["term"].as_u64()).max().unwrap()
    };
    assert_eq!(term(&after), term(&before) + 1, "one election, and it was won: {after}");
}

#[test]
fn what_would_stop_the_cluster_is_refused() {
    let mut cluster = serving();
    let leads = leader(&cluster);
    let (dead, alive) = (leads % 3 + 1, (leads + 1) % 3 + 1);
    let said = does(&cluster, &["member", "remove", &dead.to_string(), "--dry-run"]);
    assert!(said.contains("3 voters (1, 2 and 3); 2 needed, 3 answer: 1 may fail"), "{said}");
    assert!(said.contains("2 needed, 2 answer: none may fail"), "{said}");
    cluster.kill(dead);
    is_missed(&cluster, dead);
    let remove = ["member", "remove", &alive.to_string()];
    refuses(&cluster, &remove, &format!("bring back {dead} first"));
    let dry = cluster.raftkv(&[&remove[..], &["--dry-run"]].concat());
    assert_eq!(code(&dry), 1, "{}{}", stdout(&dry), stderr(&dry));
    assert!(stdout(&dry).contains("no quorum"), "{}", stdout(&dry));
    let dry = cluster.raftkv(&[&remove[..], &["--dry-run", "--json"]].concat());
    let json: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!((code(&dry), &json["dry_run"]["after"]["may_fail"]), (1, &Value::Null), "{json}");
    assert_eq!(list(&cluster)["index"], list(&cluster)["index"]);
    assert_eq!(those(&list(&cluster), "voter"), [1, 2, 3]);
    // The one that is gone may be removed: what is left is a quorum of what is left.
    assert!(
        does(&cluster, &["member", "remove", &dead.to_string()])
            .ends_with(&format!("member {dead} is removed\n"))
    );
    does(&cluster, &["put", "k", "v"]);
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let mut cluster = serving();
    let fourth = cluster.spare(4);
    refuses(&cluster, &["member", "add", &fourth], "cannot be added: ");
    refuses(&cluster, &["member", "add", "1=127.0.0.1:1,127.0.0.1:2"], "member 1 is in the cluster already");
    refuses(&cluster, &["member", "add", "0=127.0.0.1:1,127.0.0.1:2"], "ids begin at 1");
    refuses(&cluster, &["member", "remove", "9"], "member 9 is not in the cluster");
    refuses(&cluster, &["member", "promote", "9"], "member 9 is not in the cluster");
    refuses(&cluster, &["member", "replace", "9", &fourth], "member 9 is not in the cluster");
    refuses(&cluster, &["member", "replace", "4", &fourth], "an id of its own");
    refuses(&cluster, &["member", "update", "9=127.0.0.1:1,127.0.0.1:2"], "member 9 is not in the cluster");
    // Somebody else lives at that address.
    let first = list(&cluster)["members"][0].clone();
    let taken = format!("4={},127.0.0.1:2", first["peer"].as_str().unwrap());
    refuses(&cluster, &["member", "add", &taken], "is that of member 1 already");
    // A node of another cluster must not be taken into this one.
    let stranger = serving();
    let theirs = list(&stranger)["members"][2].clone();
    let flag = format!("3={},{}", theirs["peer"].as_str().unwrap(), theirs["client"].as_str().unwrap());
    let flag = flag.replacen("3=", "7=", 1);
    refuses(&cluster, &["member", "add", &flag], "cannot be added: ");
    assert_eq!(those(&list(&cluster), "voter"), [1, 2, 3]);
    assert_eq!(list(&cluster)["members"].as_array().map(Vec::len), Some(3));
}

#[test]
fn reads_by_lease_are_switched_on_and_off() {
    let cluster = serving();
    assert_eq!(does(&cluster, &["lease", "show"]), "off\n");
    assert_eq!(does(&cluster, &["lease", "off"]), "off\n", "it is so already");
    let on = does(&cluster, &["lease", "on", "--duration-ms", "400", "--drift-ppm", "500"]);
    assert_eq!(on, "on, for 400 ms, if no clock runs more than 500 millionths faster than another\n");
    assert_eq!(
        cluster.json(&["lease", "show"]),
        json!({ "lease": { "duration_ms": 400, "drift_ppm": 500 } })
    );
    does(&cluster, &["put", "k", "v"]);
    for _ in 0..20 {
        assert_eq!(does(&cluster, &["get", "k"]), "v\n");
    }
    let status = stdout(&cluster.raftkv(&["status"]));
    assert!(status.contains("reads by lease: on, for 400 ms"), "{status}");
    assert_eq!(does(&cluster, &["lease", "off"]), "off\n");
    assert_eq!(does(&cluster, &["get", "k"]), "v\n");
}

#[test]
fn a_follower_that_is_removed_hears_of_it_and_ends() {
    let mut cluster = serving();
    let follower = leader(&cluster) % 3 + 1;
    does(&cluster, &["member", "remove", &follower.to_string()]);
    run(ends(&mut cluster, follower));
    does(&cluster, &["put", "k", "v"]);
}

#[test]
fn addresses_are_changed_while_the_member_is_the_same() {
    let cluster = serving();
    let list_before = list(&cluster);
    let peer = list_before["members"][2]["peer"].as_str().unwrap().to_owned();
    for (n, endpoint) in cluster.endpoints.iter().enumerate() {
        assert_eq!(&list_before["members"][n]["client"], endpoint, "what the cluster was formed with");
    }
    let said = does(&cluster, &["member", "update", &format!("3={peer},127.0.0.1:9")]);
    assert_eq!(said, format!("member 3 serves peers at {peer} and clients at 127.0.0.1:9\n"));
    let after = list(&cluster);
    assert_eq!(after["members"][2]["client"], "127.0.0.1:9");
    assert_eq!(after["members"][2]["incarnation"], list_before["members"][2]["incarnation"]);
    assert_eq!(after["members"][2]["answers"], true);
}
