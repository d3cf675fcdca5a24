//! `kill -9` at any moment, of any member, of two and of all three, hundreds of times over one small data set: what was
//! acknowledged is there, and nothing that was never written is.
//!
//! `RAFTKV_SOAK_KILLS` sets how many processes are killed (40 by default; the long form, `just soak`, 2,000), and
//! `RAFTKV_SOAK_SEED` draws who and when. The page cache outlives a process: what a loss of power does is shown on
//! simulated disks.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use common::{Cluster, eventually, now, run, sleep_ms};
use kv::client::{Client, ClientError, Consistency, Writer};
use kv::command::{KeyRange, KeyValue, Range};
use tokio::task::LocalSet;

const WRITERS: u64 = 4;
const KEYS_OF_A_WRITER: u64 = 16;
/// All is looked at after so many kills.
const KILLS_A_ROUND: u64 = 10;

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}")))
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What is known of one key, whose values count up.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The greatest value whose put was acknowledged.
    acked: u64,
    /// The greatest value that was ever to be put.
    begun: u64,
}

type Book = Rc<RefCell<BTreeMap<String, Known>>>;

/// Puts value after value, one at a time, over the writer's own keys.
async fn write(book: Book, client: Client, number: u64, stop: Rc<Cell<bool>>) {
    for value in 1.. {
        if stop.get() {
            return;
        }
        let key = format!("soak/{number}/{:02}", value % KEYS_OF_A_WRITER);
        book.borrow_mut().entry(key.clone()).or_default().begun = value;
        match client.put(key.clone(), value.to_string()).await {
            Ok(_) => book.borrow_mut().entry(key).or_default().acked = value,
            Err(ClientError::Unknown { .. } | ClientError::NotDone { .. }) => sleep_ms(2).await,
            Err(ClientError::Refused(refusal)) => panic!("{key}: {refusal}"),
        }
    }
}

fn all() -> Range {
    let range = KeyRange::Prefix("soak/".into());
    Range { range, revision: None, limit: 0, keys_only: false, count_only: false }
}

/// Holds what was read against what was `known` to be acknowledged before the read, and to be begun after it.
///
/// A put of unknown outcome may be done later, but never after a later put of the same key: the writer's connection is
/// the same or gone, and the value is at most the one begun last.
fn check(kvs: &[KeyValue], before: &BTreeMap<String, Known>, after: &BTreeMap<String, Known>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let found: BTreeMap<String, u64> =
        kvs.iter().map(|kv| (text(&kv.key), text(&kv.value).parse().unwrap())).collect();
    for (key, known) in before.iter().filter(|(_, known)| known.acked > 0) {
        let found =
            found.get(key).unwrap_or_else(|| panic!("{key} = {} was acknowledged and is lost", known.acked));
        assert!(*found >= known.acked, "{key} = {} was acknowledged, and {found} is there", known.acked);
    }
    for (key, found) in &found {
        let begun = after.get(key).map_or(0, |known| known.begun);
        assert!(*found <= begun, "{key} = {found} was never put; the last was {begun}");
    }
}

/// Kills some members, waits a moment, starts them again.
async fn strike(cluster: &mut Cluster, draw: &mut Draw) -> u64 {
    let at_once = match draw.below(8) {
        0 => 3,
        1 | 2 => 2,
        _ => 1,
    };
    let first = draw.below(3);
    let struck: Vec<usize> = (0..at_once).map(|n| ((first + n) % 3 + 1) as usize).collect();
    for id in &struck {
        cluster.kill(*id);
    }
    sleep_ms(draw.below(40)).await;
    for id in &struck {
        cluster.start(*id);
    }
    // Some are killed again in the middle of their start.
    let pause = if draw.below(3) == 0 { draw.below(60) } else { 100 + draw.below(400) };
    sleep_ms(pause).await;
    at_once
}

/// Waits until service is back and all members answer, and looks at everything.
async fn look(cluster: &Cluster, client: &Client, book: &Book) -> Vec<KeyValue> {
    eventually(30, "service is back", || async { client.get("soak").await.is_ok() }).await;
    for endpoint in &cluster.endpoints {
        eventually(30, "every member is back", || async { client.status(endpoint).await.is_ok() }).await;
    }
    let before = book.borrow().clone();
    let found = RefCell::new(None);
    eventually(30, "the data can be read", || async {
        let result = client.range(all(), Consistency::Linearizable).await.ok();
        found.replace(result);
        found.borrow().is_some()
    })
    .await;
    let kvs = found.take().map(|result| result.kvs).unwrap_or_default();
    check(&kvs, &before, &book.borrow());
    kvs
}

#[test]
fn what_was_acknowledged_survives_kill_9_of_anyone_at_any_moment() {
    let target = env("RAFTKV_SOAK_KILLS", 40);
    let seed = env("RAFTKV_SOAK_SEED", 1);
    let mut draw = Draw(seed);
    let mut cluster = Cluster::started();
    run(LocalSet::new().run_until(async {
        let begun = now();
        let client = cluster.client(9);
        eventually(30, "a leader serves", || async { client.get("x").await.is_ok() }).await;
        let book = Book::default();
        let stop = Rc::new(Cell::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| tokio::task::spawn_local(write(book.clone(), cluster.client(n), n, stop.clone())))
            .collect();
        let (mut kills, mut looked_at) = (0, 0);
        while kills < target {
            kills += strike(&mut cluster, &mut draw).await;
            if kills >= looked_at + KILLS_A_ROUND {
                looked_at = kills;
                look(&cluster, &client, &book).await;
            }
        }
        let acked: u64 = book.borrow().values().map(|known| known.acked).sum();
        eventually(30, "writes are acknowledged again", || async {
            book.borrow().values().map(|known| known.acked).sum::<u64>() > acked
        })
        .await;
        stop.set(true);
        for writer in writers {
            writer.await.unwrap();
        }
        let kvs = look(&cluster, &client, &book).await;
        for endpoint in &cluster.endpoints {
            let one = common::client(std::slice::from_ref(endpoint), 1);
            eventually(30, "all members have the same", || async {
                one.range(all(), Consistency::Serializable).await.is_ok_and(|result| result.kvs == kvs)
            })
            .await;
        }
        let greatest: u64 = (0..WRITERS)
            .map(|n| {
                let book = book.borrow();
                let own = book.iter().filter(|(key, _)| key.starts_with(&format!("soak/{n}/")));
                own.map(|(_, known)| known.begun).max().unwrap_or(0)
            })
            .sum();
        println!(
            "soak: {kills} kills, {greatest} puts over {} keys, seed {seed}, {} s",
            book.borrow().len(),
            now().since(begun).as_secs()
        );
    }));
}
