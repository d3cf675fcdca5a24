//! Finding the leader again, spreading reads, and changes of membership.

use raft::core::{Change, Lease};

use super::*;
use crate::wire::{MemberRefusal, Membership, ReadMode};

fn empty_range() -> Act {
    Act::Answer(Outcome::Done(Reply::Range(RangeResult::default())))
}

fn refused_change(refusal: MemberRefusal) -> Act {
    Act::Answer(Outcome::NotDone(NotDone::Refused(refusal)))
}

fn elapsed_ms(begun: raft::clock::Monotonic) -> u128 {
    raft::clock::Clock::now(&TestClock).since(begun).as_millis()
}

fn now() -> raft::clock::Monotonic {
    raft::clock::Clock::now(&TestClock)
}

#[test]
fn a_dead_leader_that_its_followers_still_name_is_not_gone_back_to_in_each_round() {
    run(async {
        let (net, log) = (net(), Log::default());
        // Nobody listens at "a", which led. The others find that out at 30 ms, and then elect "c".
        let begun = now();
        server(&net, "b", &log, move |_, _| match elapsed_ms(begun) {
            0..30 => not_leader(Some("a")),
            _ => not_leader(Some("c")),
        })
        .await;
        server(&net, "c", &log, move |_, _| match elapsed_ms(begun) {
            0..30 => not_leader(Some("a")),
            _ => put_done(7),
        })
        .await;
        assert_eq!(client(&net, &["a", "b", "c"]).put("k", "v").await.unwrap(), 7);
        assert_eq!(sent_to(&log)[..4], ["b", "c", "b", "c"], "each round asks everybody once");
        let took = elapsed_ms(begun);
        assert!(took < 50, "found {took} ms after its loss, 20 ms after the election");
    });
}

#[test]
fn without_a_leader_the_nodes_are_asked_often_at_first_and_ever_less() {
    run(async {
        let (net, log) = (net(), Log::default());
        let begun = now();
        let early = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&early);
        server(&net, "a", &log, move |_, _| {
            *counter.lock().unwrap() += u32::from(elapsed_ms(begun) < 100);
            not_leader(None)
        })
        .await;
        client(&net, &["a"]).put("k", "v").await.unwrap_err();
        let (early, all) = (*early.lock().unwrap(), sent_to(&log).len());
        assert!((6..15).contains(&early), "{early} times in the first 100 ms");
        assert!(all < 60, "{all} times in five seconds");
    });
}

#[test]
fn a_member_that_was_learnt_is_asked_when_those_that_were_given_do_not_help() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |n, _| not_leader(if n == 0 { Some("b") } else { None })).await;
        server(&net, "b", &log, |n, _| if n == 1 { not_leader(None) } else { put_done(n as u64) }).await;
        let client = client(&net, &["a"]);
        assert_eq!(client.put("k", "v").await.unwrap(), 0);
        assert_eq!(client.put("k", "v").await.unwrap(), 2);
        assert_eq!(sent_to(&log), ["a", "b", "b", "a", "b"]);
    });
}

/// A client whose reads are spread.
fn spreading(net: &Arc<TestNet>, endpoints: &[&str]) -> Client {
    let mut client = client(net, endpoints);
    let inner = Arc::get_mut(&mut client.inner).unwrap();
    inner.options.spread_reads = true;
    client
}

#[test]
fn reads_that_are_spread_go_round_the_members_and_leave_out_those_that_fail() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| empty_range()).await;
        // This one has lost its leader.
        server(&net, "c", &log, |n, _| if n < 2 { empty_range() } else { not_leader(Some("a")) }).await;
        let client = spreading(&net, &["a", "dead", "c"]);
        for _ in 0..4 {
            client.get("k").await.unwrap();
        }
        assert_eq!(sent_to(&log), ["a", "c", "a", "c"]);
        let dead = |net: &TestNet| net.connects.lock().unwrap().iter().filter(|a| *a == "dead").count();
        assert_eq!(dead(&net), 1);
        log.lock().unwrap().clear();
        for _ in 0..3 {
            client.get("k").await.unwrap();
        }
        assert_eq!(sent_to(&log), ["a", "c", "a", "a"], "one that knows of no leader is left out too");
        raft::clock::sleep(&TestClock, Duration::from_secs(2)).await;
        client.get("k").await.unwrap();
        client.get("k").await.unwrap();
        assert_eq!(dead(&net), 2, "after a while it is tried again");
        let modes: Vec<_> = log.lock().unwrap().iter().map(|(_, body)| body.clone()).collect();
        assert!(
            modes.iter().all(|body| matches!(body, RequestBody::Range { mode: ReadMode::Any, .. })),
            "{modes:?}"
        );
    });
}

#[test]
fn who_answered_a_read_that_was_spread_is_not_taken_for_the_leader() {
    run(async {
        let (net, log) = (net(), Log::default());
        let script = |_, body: &RequestBody| match body {
            RequestBody::Range { .. } => empty_range(),
            _ => put_done(1),
        };
        server(&net, "a", &log, script).await;
        server(&net, "b", &log, script).await;
        let client = spreading(&net, &["a", "b"]);
        client.get("k").await.unwrap();
        client.get("k").await.unwrap();
        client.put("k", "v").await.unwrap();
        client.get("k").await.unwrap();
        client.get("k").await.unwrap();
        assert_eq!(sent_to(&log), ["a", "b", "a", "a", "b"], "nor do reads go to the leader only");
    });
}

#[test]
fn reads_that_are_not_spread_go_to_the_leader_and_say_so() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| not_leader(Some("b"))).await;
        server(&net, "b", &log, |_, _| empty_range()).await;
        let client = client(&net, &["a", "b"]);
        client.get("k").await.unwrap();
        client.get("k").await.unwrap();
        assert_eq!(sent_to(&log), ["a", "b", "b"]);
        let asks_the_leader = |(_, body): &(String, RequestBody)| {
            matches!(body, RequestBody::Range { mode: ReadMode::Leader, .. })
        };
        assert!(log.lock().unwrap().iter().all(asks_the_leader));
    });
}

#[test]
fn a_change_waits_for_what_passes_and_is_not_sent_again_once_it_may_have_been_begun() {
    run(async {
        let (net, log) = (net(), Log::default());
        let changed = |index| {
            let membership = Membership { index, committed: true, ..Membership::default() };
            Act::Answer(Outcome::Done(Reply::Membership(Box::new(membership))))
        };
        server(&net, "a", &log, move |n, _| match n {
            0 => refused_change(MemberRefusal::NotEstablished),
            1 => refused_change(MemberRefusal::InProgress),
            2 => changed(9),
            3 => refused_change(MemberRefusal::NotMember(NodeId(4))),
            4 => Act::Answer(Outcome::Unknown(Unknown::LeadershipLost)),
            _ => changed(10),
        })
        .await;
        let client = client(&net, &["a"]);
        let remove = || vec![Change::Remove(NodeId(4))];
        assert_eq!(client.change_members(remove(), Some(3)).await.unwrap().index, 9);
        let error = client.change_members(remove(), None).await.unwrap_err();
        let ClientError::NotDone { reason: Reason::NotDone { reason: NotDone::Refused(refusal), .. } } =
            error
        else {
            panic!("{error}");
        };
        assert_eq!(refusal, MemberRefusal::NotMember(NodeId(4)));
        let error = client.change_members(remove(), None).await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
        assert_eq!(sent_to(&log).len(), 5);
        let lease = Lease { duration_ms: 500, drift_ppm: 100 };
        assert_eq!(client.set_lease(Some(lease)).await.unwrap().index, 10);
        let last = log.lock().unwrap().pop().unwrap().1;
        let expected =
            RequestBody::ChangeMembers { changes: vec![Change::SetLease(Some(lease))], expected: None };
        assert_eq!(last, expected);
    });
}
