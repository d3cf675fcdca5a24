//! What each command does, told one by one, on both engines.

use bytes::Bytes;
use kv::command::{
    Command, CommandBody, Compare, CompareTarget, DeleteRange, KeyRange, KeyValue, Operation,
    OperationResult, Range, Refusal, Relation, Response, SessionId, Txn, TxnOperation, TxnResult,
};
use kv::limits::{KEY_BYTES_MAX, RESPONSE_BYTES_MAX};
use kv::state_machine::ReadError;
use raft::core::{Index, Payload};
use raft::state_machine::StateMachine;

use super::world::{KINDS, Kind, LIMITS, World, configuration, put, put_of, range, result, revision};

fn all() -> KeyRange {
    KeyRange::Prefix(Bytes::new())
}

fn key(key: &str) -> KeyRange {
    KeyRange::Key(key.to_owned().into())
}

fn delete(range: KeyRange) -> Operation {
    Operation::DeleteRange(DeleteRange { range, prev_kv: false })
}

fn compare(key: &str, relation: Relation, target: CompareTarget) -> Compare {
    Compare { key: key.to_owned().into(), relation, target }
}

fn keys(found: &kv::command::RangeResult) -> Vec<&[u8]> {
    found.kvs.iter().map(|kv| kv.key.as_ref()).collect()
}

fn kv(key: &str, value: &str, create_revision: u64, mod_revision: u64, version: u64) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        create_revision,
        mod_revision,
        version,
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ReadError>) -> Refusal {
    match result {
        Err(ReadError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

// Every changing command is one revision. A key knows the revision that created it, the last that changed it, and how
// many changes lie between. Deleted and put again, it is a new key.
#[test]
fn revisions_count_changes_as_etcd_counts_them() {
    for kind in KINDS {
        let mut w = World::new(kind);
        assert_eq!(w.put("a", "1"), 1);
        assert_eq!(w.put("b", "1"), 2);
        assert_eq!(w.put("a", "2"), 3);
        let found = w.range(&range(all())).unwrap();
        assert_eq!(found.kvs, [kv("a", "2", 1, 3, 2), kv("b", "1", 2, 2, 1)]);
        assert_eq!((found.revision, found.count, found.more), (3, 2, false));

        assert_eq!(
            result(w.operate(delete(key("a")))),
            OperationResult::Deleted { count: 1, prev_kvs: vec![] }
        );
        assert_eq!(w.get("a"), None);
        assert_eq!(w.put("a", "3"), 5);
        assert_eq!(w.range(&range(key("a"))).unwrap().kvs, [kv("a", "3", 5, 5, 1)]);
    }
}

// What changes nothing makes no revision.
#[test]
fn deleting_nothing_is_no_change() {
    let mut w = World::new(Kind::Memory);
    w.put("a", "1");
    assert_eq!(revision(&w.operate(delete(key("b")))), 1);
    let empty = KeyRange::HalfOpen { start: "z".into(), end: "a".into() };
    assert_eq!(result(w.operate(delete(empty))), OperationResult::Deleted { count: 0, prev_kvs: vec![] });
    let reads = Txn { compares: vec![], success: vec![TxnOperation::Range(range(all()))], failure: vec![] };
    assert_eq!(revision(&w.operate(Operation::Txn(reads))), 1);
    assert_eq!(w.reader.revision(), 1);
}

#[test]
fn the_previous_pair_is_given_if_asked_for() {
    for kind in KINDS {
        let mut w = World::new(kind);
        let ask = |value| Operation::Put(put_of("a", value, true));
        assert_eq!(result(w.operate(ask("1"))), OperationResult::Put { prev_kv: None });
        w.checkpoint();
        let before = Some(kv("a", "1", 1, 1, 1));
        assert_eq!(result(w.operate(ask("2"))), OperationResult::Put { prev_kv: before });
        let gone = w.operate(Operation::DeleteRange(DeleteRange { range: all(), prev_kv: true }));
        let prev_kvs = vec![kv("a", "2", 1, 2, 2)];
        assert_eq!(result(gone), OperationResult::Deleted { count: 1, prev_kvs });
        // Of a deleted key there is no previous pair.
        assert_eq!(result(w.operate(ask("3"))), OperationResult::Put { prev_kv: None });
    }
}

// A prefix ends where its last byte is counted up; one of FF bytes has no end. Zero bytes keep their order.
#[test]
fn ranges_follow_byte_order_whatever_the_bytes() {
    for kind in KINDS {
        let mut w = World::new(kind);
        let names: [&[u8]; 9] =
            [b"\0", b"\0\0", b"\0\x01", b"a", b"a\0", b"a\0b", b"a\xFF", b"b", b"\xFF\xFF"];
        for (turn, name) in names.iter().rev().enumerate() {
            let put =
                kv::command::Put { key: Bytes::copy_from_slice(name), value: "v".into(), prev_kv: false };
            w.operate(Operation::Put(put));
            if turn == 4 {
                w.checkpoint();
            }
        }
        assert_eq!(keys(&w.range(&range(all())).unwrap()), names);
        let of =
            |r: KeyRange| w.range(&range(r)).unwrap().kvs.into_iter().map(|kv| kv.key).collect::<Vec<_>>();
        assert_eq!(of(KeyRange::Prefix("a".into())), [&b"a"[..], b"a\0", b"a\0b", b"a\xFF"]);
        assert_eq!(of(KeyRange::Prefix(Bytes::from_static(b"\xFF"))), [&b"\xFF\xFF"[..]]);
        assert_eq!(of(KeyRange::Prefix(Bytes::from_static(b"\0"))), [&b"\0"[..], b"\0\0", b"\0\x01"]);
        let half_open = KeyRange::HalfOpen { start: Bytes::from_static(b"a\0"), end: "b".into() };
        assert_eq!(of(half_open), [&b"a\0"[..], b"a\0b", b"a\xFF"]);
        assert_eq!(of(KeyRange::From(Bytes::from_static(b"a\xFF"))), [&b"a\xFF"[..], b"b", b"\xFF\xFF"]);
        assert_eq!(of(KeyRange::Key(Bytes::from_static(b"a\0"))), [&b"a\0"[..]]);
    }
}

// A limit cuts the pairs and says so; the count is of the whole range.
#[test]
fn limit_more_count_keys_only_count_only() {
    let mut w = World::new(Kind::Memory);
    for i in 0..5 {
        w.put(&format!("k{i}"), "v");
        if i == 2 {
            w.checkpoint();
        }
    }
    let two = w.range(&Range { limit: 2, ..range(all()) }).unwrap();
    assert_eq!((keys(&two), two.more, two.count), (vec![&b"k0"[..], b"k1"], true, 5));
    let five = w.range(&Range { limit: 5, ..range(all()) }).unwrap();
    assert_eq!((five.kvs.len(), five.more, five.count), (5, false, 5));
    let names = w.range(&Range { keys_only: true, limit: 4, ..range(all()) }).unwrap();
    assert!(names.kvs.iter().all(|kv| kv.value.is_empty() && kv.version == 1));
    assert_eq!((names.kvs.len(), names.more), (4, true));
    let count = w.range(&Range { count_only: true, limit: 1, ..range(all()) }).unwrap();
    assert_eq!((count.kvs.len(), count.more, count.count), (0, false, 5));
    let one = w.range(&Range { count_only: true, ..range(key("k1")) }).unwrap();
    assert_eq!((one.kvs.len(), one.count), (0, 1));
}

// History stays readable until it is compacted, across checkpoints and deletions; the future never is.
#[test]
fn reads_at_old_revisions_until_compacted() {
    for kind in KINDS {
        let mut w = World::new(kind);
        w.put("a", "1");
        w.put("a", "2");
        w.checkpoint();
        w.operate(delete(key("a")));
        w.put("a", "4");
        let at = |w: &World, revision| {
            let found = w.range(&Range { revision: Some(revision), ..range(key("a")) })?;
            Ok(found.kvs.first().map(|kv| kv.value.clone()))
        };
        for round in 0..3 {
            assert_eq!(at(&w, 0).unwrap(), None, "round {round}");
            assert_eq!(at(&w, 1).unwrap(), Some("1".into()));
            assert_eq!(at(&w, 2).unwrap(), Some("2".into()));
            assert_eq!(at(&w, 3).unwrap(), None);
            assert_eq!(at(&w, 4).unwrap(), Some("4".into()));
            assert_eq!(refused(at(&w, 5)), Refusal::RevisionInFuture { requested: 5, newest: 4 });
            w.checkpoint();
            if round == 1 {
                w.crash();
            }
        }
        assert_eq!(result(w.operate(Operation::Compact { revision: 2 })), OperationResult::Compacted);
        for _ in 0..2 {
            assert_eq!(refused(at(&w, 1)), Refusal::RevisionCompacted { requested: 1, oldest: 2 });
            assert_eq!(at(&w, 2).unwrap(), Some("2".into()));
            assert_eq!(at(&w, 3).unwrap(), None);
            assert_eq!(w.get("a").as_deref(), Some("4"));
            w.checkpoint();
        }
        // Again is no harm, further back and beyond the end are refused.
        assert_eq!(result(w.operate(Operation::Compact { revision: 2 })), OperationResult::Compacted);
        let back = w.operate(Operation::Compact { revision: 1 });
        assert_eq!(back, Response::Refused(Refusal::RevisionCompacted { requested: 1, oldest: 2 }));
        let beyond = w.operate(Operation::Compact { revision: 9 });
        assert_eq!(beyond, Response::Refused(Refusal::RevisionInFuture { requested: 9, newest: 4 }));
        assert_eq!((w.reader.compacted(), w.reader.revision()), (2, 4));
    }
}

#[test]
fn a_transaction_takes_the_branch_its_compares_choose() {
    let mut w = World::new(Kind::Memory);
    w.put("a", "5");
    w.put("a", "5");
    use CompareTarget::{CreateRevision, ModRevision, Value, Version};
    use Relation::{Equal, Greater, Less, NotEqual};
    let cases = [
        (vec![], true),
        (vec![compare("a", Equal, Value("5".into()))], true),
        (vec![compare("a", Greater, Value("4".into()))], true),
        (vec![compare("a", Less, Value("4".into()))], false),
        (vec![compare("a", NotEqual, Value("5".into()))], false),
        (vec![compare("a", Equal, Version(2))], true),
        (vec![compare("a", Greater, Version(2))], false),
        (vec![compare("a", Equal, CreateRevision(1)), compare("a", Equal, ModRevision(2))], true),
        (vec![compare("a", Equal, CreateRevision(1)), compare("a", Equal, ModRevision(1))], false),
        // An absent key has version and revisions 0, and no value at all.
        (vec![compare("x", Equal, Version(0)), compare("x", Less, CreateRevision(1))], true),
        (vec![compare("x", Equal, Value("".into()))], false),
        (vec![compare("x", Less, Value("z".into()))], false),
        (vec![compare("x", NotEqual, Value("".into()))], true),
    ];
    for (compares, holds) in cases {
        let txn = Txn { compares: compares.clone(), success: vec![], failure: vec![] };
        let done = result(w.operate(Operation::Txn(txn)));
        assert_eq!(done, OperationResult::Txn { succeeded: holds, results: vec![] }, "{compares:?}");
    }
}

// One revision for all steps; later steps see earlier ones.
#[test]
fn a_transaction_is_one_revision_and_sees_itself() {
    for kind in KINDS {
        let mut w = World::new(kind);
        w.put("a", "1");
        w.put("b", "1");
        w.checkpoint();
        let history = Range { revision: Some(1), ..range(all()) };
        let txn = Txn {
            compares: vec![compare("a", Relation::Equal, CompareTarget::Value("1".into()))],
            success: vec![
                TxnOperation::Range(range(all())),
                TxnOperation::Put(put_of("c", "2", false)),
                TxnOperation::DeleteRange(DeleteRange { range: key("a"), prev_kv: true }),
                TxnOperation::Range(range(all())),
                TxnOperation::Range(Range { limit: 1, ..range(all()) }),
                TxnOperation::Range(history),
                TxnOperation::DeleteRange(DeleteRange { range: key("a"), prev_kv: true }),
            ],
            failure: vec![],
        };
        let response = w.operate(Operation::Txn(txn));
        assert_eq!(revision(&response), 3);
        let OperationResult::Txn { succeeded: true, results } = result(response) else { panic!() };
        let ranges: Vec<_> = results
            .iter()
            .filter_map(|result| match result {
                TxnResult::Range(found) => Some((keys(found), found.revision, found.count, found.more)),
                _ => None,
            })
            .collect();
        assert_eq!(ranges[0], (vec![&b"a"[..], b"b"], 2, 2, false));
        assert_eq!(ranges[1], (vec![&b"b"[..], b"c"], 3, 2, false));
        assert_eq!(ranges[2], (vec![&b"b"[..]], 3, 2, true));
        assert_eq!(ranges[3], (vec![&b"a"[..]], 1, 1, false));
        assert_eq!(results[2], TxnResult::Deleted { count: 1, prev_kvs: vec![kv("a", "1", 1, 1, 1)] });
        assert_eq!(results[6], TxnResult::Deleted { count: 0, prev_kvs: vec![] });
        assert_eq!(w.range(&range(key("c"))).unwrap().kvs, [kv("c", "2", 3, 3, 1)]);
    }
}

// A key is changed once at most. The refusal comes before anything is done, and is a step of history like any other.
#[test]
fn a_transaction_that_changes_a_key_twice_changes_nothing() {
    let mut w = World::new(Kind::Memory);
    w.put("a", "1");
    let a = || TxnOperation::Put(put_of("a", "2", false));
    let gone = || TxnOperation::DeleteRange(DeleteRange { range: all(), prev_kv: false });
    let other = || TxnOperation::Put(put_of("b", "2", false));
    for steps in [vec![other(), a(), a()], vec![a(), gone()], vec![gone(), a()]] {
        let txn = Txn { compares: vec![], success: steps, failure: vec![] };
        let refusal = Refusal::DuplicateKey { key: "a".into() };
        assert_eq!(w.operate(Operation::Txn(txn)), Response::Refused(refusal));
    }
    assert_eq!((w.get("a").as_deref(), w.get("b"), w.reader.revision()), (Some("1"), None, 1));
    // The branch that is not taken may say what it likes; and to delete what is not there is no change.
    let txn = Txn { compares: vec![], success: vec![gone(), gone()], failure: vec![a(), a()] };
    assert_eq!(revision(&w.operate(Operation::Txn(txn))), 2);
}

#[test]
fn a_transaction_with_a_refused_step_changes_nothing() {
    let mut w = World::new(Kind::Memory);
    w.put("a", "1");
    let future = Range { revision: Some(3), ..range(all()) };
    let success = vec![TxnOperation::Put(put_of("a", "2", false)), TxnOperation::Range(future)];
    let response = w.operate(Operation::Txn(Txn { compares: vec![], success, failure: vec![] }));
    assert_eq!(response, Response::Refused(Refusal::RevisionInFuture { requested: 3, newest: 2 }));
    assert_eq!((w.get("a").as_deref(), w.reader.revision()), (Some("1"), 1));
}

// Values larger than a row are split over several and come back whole, from every layer; and go away with compaction.
#[test]
fn large_values_are_whole() {
    for kind in KINDS {
        let mut w = World::new(kind);
        let sizes = [5_000, 6_100, 6_150, 7_000, 130_000, 1_500_000];
        for size in sizes {
            w.put(&format!("key-{size}"), &"x".repeat(size));
        }
        let look = |w: &World| {
            for size in sizes {
                assert_eq!(w.get(&format!("key-{size}")).map(|value| value.len()), Some(size));
            }
            // More than an answer may have: the first ones, and `more`.
            let found = w.range(&range(all())).unwrap();
            assert_eq!((found.count, found.more, found.kvs.is_empty()), (sizes.len() as u64, false, false));
            let names = w.range(&Range { keys_only: true, ..range(all()) }).unwrap();
            assert!(names.kvs.iter().all(|kv| kv.value.is_empty()));
        };
        look(&w);
        w.checkpoint();
        look(&w);
        w.crash();
        look(&w);
        for size in sizes {
            w.put(&format!("key-{size}"), "small");
        }
        let newest = w.reader.revision();
        w.operate(Operation::Compact { revision: newest });
        w.checkpoint();
        w.checkpoint();
        assert_eq!(w.get("key-1500000").as_deref(), Some("small"));
        let (_, bytes) = w.snapshot();
        assert!(bytes.len() < 2_000, "{} bytes", bytes.len());
    }
}

// An answer has a bound of its own. A read is cut and says so, and going on behind the last key gets through; a
// command is refused, since it cannot be half done.
#[test]
fn an_answer_is_bounded() {
    let mut w = World::new(Kind::Memory);
    let large = "x".repeat(RESPONSE_BYTES_MAX / 3);
    for name in ["a", "b", "c", "d"] {
        w.put(name, &large);
    }
    let found = w.range(&range(all())).unwrap();
    assert_eq!((keys(&found), found.more, found.count), (vec![&b"a"[..], b"b"], true, 4));
    let rest = w.range(&range(KeyRange::From("c".into()))).unwrap();
    assert_eq!((keys(&rest), rest.more), (vec![&b"c"[..], b"d"], false));
    let too_large = Response::Refused(Refusal::ResponseTooLarge { max: RESPONSE_BYTES_MAX as u64 });
    let greedy = Operation::DeleteRange(DeleteRange { range: all(), prev_kv: true });
    assert_eq!(w.operate(greedy), too_large);
    let success = vec![TxnOperation::Put(put_of("z", "1", false)), TxnOperation::Range(range(all()))];
    assert_eq!(w.operate(Operation::Txn(Txn { compares: vec![], success, failure: vec![] })), too_large);
    assert_eq!(w.reader.revision(), 4);
    assert_eq!(revision(&w.operate(delete(all()))), 5);
}

// What no proposer should have let into the log is refused, the same on every node, and never a panic.
#[test]
fn unreadable_commands_are_refused() {
    let mut w = World::new(Kind::Memory);
    let unreadable = |response: Response| matches!(response, Response::Refused(Refusal::Unreadable { .. }));
    for bytes in [&b""[..], b"\x01", b"\x07abc", b"\x01\xFF\xFF\xFF"] {
        let response = w.apply(vec![Payload::Command(Bytes::from_static(bytes))]).remove(0);
        assert!(unreadable(response), "{bytes:?}");
    }
    assert!(unreadable(w.operate(put("", "v"))));
    assert!(unreadable(w.operate(put(&"k".repeat(KEY_BYTES_MAX + 1), "v"))));
    assert!(unreadable(w.operate(put(&"\0".repeat(KEY_BYTES_MAX / 2 + 1), "v"))));
    let longest = "k".repeat(KEY_BYTES_MAX);
    w.put(&longest, &"v".repeat(9_000));
    w.put(&"\0".repeat(KEY_BYTES_MAX / 2), "v");
    w.checkpoint();
    assert_eq!(w.get(&longest).map(|value| value.len()), Some(9_000));
    assert_eq!(w.applied().index, Index(9));
}

// No-ops and configurations move the applied position; the configuration is kept, over restarts too.
#[test]
fn configurations_are_kept() {
    for kind in KINDS {
        let mut w = World::new(kind);
        assert_eq!(w.machine().applied().configuration, None);
        w.apply(vec![Payload::Noop, Payload::Configuration(configuration()), Payload::Noop]);
        w.checkpoint();
        w.crash();
        let applied = w.machine().applied();
        assert_eq!((applied.last.index, applied.configuration), (Index(3), Some(configuration())));
    }
}

// A command is done once, however often it comes; its answer is the first one.
#[test]
fn a_retry_is_answered_and_not_done() {
    for kind in KINDS {
        let mut w = World::new(kind);
        let s = w.open_session(1_000);
        let first = w.stamped(s, 1, 0, Operation::Put(put_of("a", "1", true)));
        w.put("a", "2");
        assert_eq!(w.stamped(s, 1, 0, Operation::Put(put_of("a", "1", true))), first);
        assert_eq!(w.get("a").as_deref(), Some("2"));
        // Over a restart, and over a refusal, too.
        let refusal = w.stamped(s, 2, 0, Operation::Compact { revision: 99 });
        w.checkpoint();
        w.crash();
        assert_eq!(w.stamped(s, 1, 0, Operation::Put(put_of("a", "1", true))), first);
        assert_eq!(w.stamped(s, 2, 0, Operation::Compact { revision: 0 }), refusal);
        assert_eq!(w.get("a").as_deref(), Some("2"));
        // Acknowledged answers are forgotten; what comes for them late is told so.
        w.stamped(s, 3, 2, put("b", "1"));
        let forgotten = Response::Refused(Refusal::ResponseForgotten { request: 1 });
        assert_eq!(w.stamped(s, 1, 0, put("a", "9")), forgotten);
        assert_eq!(w.stamped(s, 2, 0, Operation::Compact { revision: 0 }), refusal);
    }
}

// Requests of one session may arrive in any order.
#[test]
fn requests_may_overtake_each_other() {
    let mut w = World::new(Kind::Memory);
    let s = w.open_session(1_000);
    assert_eq!(revision(&w.stamped(s, 3, 0, put("a", "3"))), 1);
    assert_eq!(revision(&w.stamped(s, 1, 0, put("a", "1"))), 2);
    assert_eq!(revision(&w.stamped(s, 3, 0, put("a", "3"))), 1);
    assert_eq!(w.get("a").as_deref(), Some("1"));
}

// A session that was idle too long in cluster time is over: its commands are refused and never done again, not even
// if it is opened anew.
#[test]
fn an_expired_session_is_refused() {
    for kind in KINDS {
        let mut w = World::new(kind);
        let s = w.open_session(100);
        w.now_ms = 100;
        w.stamped(s, 1, 0, put("a", "1"));
        w.now_ms = 200;
        assert_eq!(w.command(CommandBody::KeepAlive { session: s }), Response::Session);
        w.checkpoint();
        w.crash();
        // Cluster time never goes back, whatever a new leader stamps.
        w.now_ms = 50;
        w.put("b", "1");
        assert_eq!(w.reader.cluster_time_ms(), 200);
        w.now_ms = 301;
        let expired = Response::Refused(Refusal::SessionExpired { session: s });
        assert_eq!(w.stamped(s, 1, 0, put("a", "2")), expired);
        assert_eq!(w.stamped(s, 2, 0, put("a", "2")), expired);
        assert_eq!(w.command(CommandBody::KeepAlive { session: s }), expired);
        assert_eq!(w.get("a").as_deref(), Some("1"));
        let again = w.open_session(100);
        assert_ne!(again, s);
        assert_eq!(w.stamped(s, 1, 0, put("a", "2")), expired);
        assert_eq!(
            w.stamped(SessionId(999), 1, 0, put("a", "2")),
            Response::Refused(Refusal::SessionExpired { session: SessionId(999) })
        );
    }
}

// Sessions that are over leave memory by themselves, once time has passed.
#[test]
fn expired_sessions_are_swept_out() {
    let mut w = World::new(Kind::Memory);
    w.open_session(10);
    w.open_session(10_000);
    assert_eq!(w.reader.stats().unwrap().sessions, 2);
    w.now_ms = 2_500;
    w.put("a", "1");
    assert_eq!(w.reader.stats().unwrap().sessions, 1);
    w.checkpoint();
    w.crash();
    assert_eq!(w.reader.stats().unwrap().sessions, 1);
}

#[test]
fn a_closed_session_is_over() {
    let mut w = World::new(Kind::Memory);
    let s = w.open_session(1_000);
    assert_eq!(w.command(CommandBody::CloseSession { session: s }), Response::Session);
    let expired = Response::Refused(Refusal::SessionExpired { session: s });
    assert_eq!(w.command(CommandBody::CloseSession { session: s }), expired);
    assert_eq!(w.stamped(s, 1, 0, put("a", "1")), expired);
}

// One session too many ends the one idle longest.
#[test]
fn the_session_idle_longest_makes_room() {
    let mut w = World::new(Kind::Memory);
    let open: Vec<_> = (0..LIMITS.sessions_max).map(|_| w.open_session(1_000_000)).collect();
    w.command(CommandBody::KeepAlive { session: open[0] });
    let new = w.open_session(1_000_000);
    let alive = |w: &mut World, session| w.command(CommandBody::KeepAlive { session }) == Response::Session;
    assert!(alive(&mut w, open[0]) && alive(&mut w, new));
    assert!(!alive(&mut w, open[1]));
    assert_eq!(w.reader.stats().unwrap().sessions as usize, LIMITS.sessions_max);
}

// A session keeps so many responses; then it must acknowledge. The refusal is not kept: the request can come again.
#[test]
fn a_full_session_must_acknowledge() {
    let mut w = World::new(Kind::Memory);
    let s = w.open_session(1_000);
    let max = LIMITS.responses_max as u64;
    for request in 1..=max {
        w.stamped(s, request, 0, put("a", "v"));
    }
    let full = Response::Refused(Refusal::SessionFull { kept: max });
    assert_eq!(w.stamped(s, max + 1, 0, put("a", "w")), full);
    assert_eq!(w.get("a").as_deref(), Some("v"));
    // A retry of what is kept is answered all the same.
    assert_eq!(revision(&w.stamped(s, 1, 0, put("a", "v"))), 1);
    assert_eq!(revision(&w.stamped(s, max + 1, 2, put("a", "w"))), max + 1);

    // The same in bytes. A single response too large to keep leaves only the fact that the command was done.
    let s = w.open_session(1_000);
    w.put("big", &"x".repeat(200));
    let ask = || Operation::Put(put_of("big", &"x".repeat(200), true));
    w.stamped(s, 1, 0, ask());
    w.stamped(s, 2, 0, ask());
    let full = Response::Refused(Refusal::SessionFull { kept: 2 });
    assert_eq!(w.stamped(s, 3, 0, ask()), full);
    w.put("big", &"x".repeat(1_000));
    let before = w.reader.revision();
    assert_eq!(revision(&w.stamped(s, 3, 3, ask())), before + 1);
    let forgotten = Response::Refused(Refusal::ResponseForgotten { request: 3 });
    assert_eq!(w.stamped(s, 3, 3, ask()), forgotten);
    assert_eq!(w.reader.revision(), before + 1);
}

// The hash runs along the log: equal for equal histories, different from the first different effect on.
#[test]
fn the_state_hash_tells_histories_apart() {
    let history = |kind, values: &[&str]| {
        let mut w = World::new(kind);
        let mut hashes = vec![w.reader.state_hash()];
        for value in values {
            w.put("k", value);
            hashes.push(w.reader.state_hash());
        }
        hashes
    };
    let one = history(Kind::Memory, &["a", "b", "c"]);
    assert_eq!(one, history(Kind::Sled, &["a", "b", "c"]));
    let other = history(Kind::Memory, &["a", "x", "c"]);
    assert_eq!(one[..2], other[..2]);
    assert!(one[2] != other[2] && one[3] != other[3]);
    // The same keys in the end, but done twice.
    let twice = history(Kind::Memory, &["a", "a"]);
    assert_ne!(twice[2].1, history(Kind::Memory, &["a"])[1].1);
}

// A node that does again what another takes for a retry shows at once, even if no key tells them apart.
#[test]
fn the_state_hash_tells_a_retry_from_a_repetition() {
    let history = |requests: [u64; 2]| {
        let mut w = World::new(Kind::Memory);
        let s = w.open_session(1_000);
        for request in requests {
            w.stamped(s, request, 0, delete(key("nothing")));
        }
        w.reader.state_hash()
    };
    assert_ne!(history([1, 1]), history([1, 2]));
}

// Groups are applied as they come: the grouping changes nothing.
#[test]
fn grouping_does_not_matter() {
    let commands: Vec<_> = (0..20)
        .map(|i| {
            let operation = put(&format!("k{}", i % 3), &i.to_string());
            let body = CommandBody::Operate { stamp: None, operation };
            Payload::Command(Command { cluster_time_ms: i, body }.encode())
        })
        .collect();
    let (mut one, mut other) = (World::new(Kind::Memory), World::new(Kind::Memory));
    one.apply(commands.clone());
    for command in commands {
        other.apply(vec![command]);
    }
    assert_eq!(one.fingerprint(), other.fingerprint());
}

#[test]
fn a_condemned_store_is_not_found_again() {
    for kind in KINDS {
        let mut world = World::new(kind);
        world.put("a", "1");
        world.checkpoint();
        let trail = world.machine().hash_trail().unwrap();
        assert!(trail.at(Index(1)).is_some());
        world.machine().condemn("it is wrong").unwrap();
        world.crash();
        assert!(world.machine().lost().is_some_and(|why| why.contains("quorum")), "{kind:?}");
        assert_eq!(world.applied().index, Index(0));
        world.replay();
        assert_eq!(world.get("a").as_deref(), Some("1"), "from the log");
        world.checkpoint();
        world.crash();
        assert_eq!(world.machine().lost(), None, "once is enough");
    }
}
