//! The client against scripted servers: what it sends where, what it sends again, and what it says came of it.

use raft::core::NodeId;
use raft::net::Net;

use super::*;
use crate::command::{Range, RangeResult, SessionId, SessionStamp};
use crate::testing::{TestClock, TestNet, net, run};
use crate::wire::{Answer, ClientHello, FRAME_BYTES_MAX, FrameStream, Outcome, Request, ServerHello};

mod finding;

/// What a scripted server does with a request.
enum Act {
    Answer(Outcome),
    /// Never answers.
    Ignore,
    /// Closes the connection.
    Close,
}

type Log = Arc<Mutex<Vec<(String, RequestBody)>>>;

/// A server at `address` that does what `script` says, and notes what it was asked.
async fn server(
    net: &Arc<TestNet>,
    address: &'static str,
    log: &Log,
    script: impl Fn(usize, &RequestBody) -> Act + Send + Sync + 'static,
) {
    let mut listener = net.listen(address).await.unwrap();
    let log = Arc::clone(log);
    let script = Arc::new(script);
    let count = Arc::new(Mutex::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, script, count) = (Arc::clone(&log), Arc::clone(&script), Arc::clone(&count));
            tokio::spawn(async move {
                let mut frames = FrameStream::new(stream, FRAME_BYTES_MAX);
                let hello: ClientHello = frames.receive().await.unwrap().unwrap();
                frames.push(&ServerHello::answer(&hello, NodeId(1), 10_000)).unwrap();
                frames.send().await.unwrap();
                while let Ok(Some(Request { id, body })) = frames.receive::<Request>().await {
                    let n = {
                        let mut count = count.lock().unwrap();
                        *count += 1;
                        *count - 1
                    };
                    log.lock().unwrap().push((address.to_owned(), body.clone()));
                    match script(n, &body) {
                        Act::Answer(outcome) => {
                            frames.push(&Answer { id, outcome }).unwrap();
                            frames.send().await.unwrap();
                        }
                        Act::Ignore => {}
                        Act::Close => return,
                    }
                }
            });
        }
    });
}

fn client(net: &Arc<TestNet>, endpoints: &[&str]) -> Client {
    let net: SharedNet = Arc::<TestNet>::clone(net);
    // The first endpoint is asked first.
    let seed = (0..).find(|s| Directory::new(endpoints.iter().copied(), *s).unwrap().starts_at(0)).unwrap();
    let options = ClientOptions { seed, ..ClientOptions::default() };
    Client::new(Arc::new(TestClock), net, endpoints.iter().copied(), options).unwrap()
}

fn put_done(revision: Revision) -> Act {
    let result = OperationResult::Put { prev_kv: None };
    Act::Answer(Outcome::Done(Reply::Command(Response::Done { revision, result })))
}

fn not_leader(leader: Option<&str>) -> Act {
    Act::Answer(Outcome::NotDone(NotDone::NotLeader { leader: leader.map(str::to_owned) }))
}

fn refused(refusal: Refusal) -> Act {
    Act::Answer(Outcome::Done(Reply::Command(Response::Refused(refusal))))
}

/// Opens sessions and keeps them; everything else is up to `script`, which counts from 0.
fn with_session(
    script: impl Fn(usize, SessionStamp) -> Act + Send + Sync + 'static,
) -> impl Fn(usize, &RequestBody) -> Act + Send + Sync + 'static {
    let n = Mutex::new(0);
    move |_, body| match body {
        RequestBody::Propose(CommandBody::OpenSession { .. }) => {
            let response = Response::SessionOpened { session: SessionId(7) };
            Act::Answer(Outcome::Done(Reply::Command(response)))
        }
        RequestBody::Propose(CommandBody::Operate { stamp: Some(stamp), .. }) => {
            let mut n = n.lock().unwrap();
            *n += 1;
            script(*n - 1, *stamp)
        }
        RequestBody::Propose(_) => Act::Answer(Outcome::Done(Reply::Command(Response::Session))),
        _ => Act::Ignore,
    }
}

fn stamps(log: &Log) -> Vec<SessionStamp> {
    let log = log.lock().unwrap();
    let stamp = |(_, body): &(String, RequestBody)| match body {
        RequestBody::Propose(CommandBody::Operate { stamp, .. }) => *stamp,
        _ => None,
    };
    log.iter().filter_map(stamp).collect()
}

fn sent_to(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|(to, _)| to.clone()).collect()
}

#[test]
fn a_hint_is_followed_and_remembered() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| not_leader(Some("b"))).await;
        server(&net, "b", &log, |n, _| put_done(n as u64)).await;
        let client = client(&net, &["a"]);
        assert_eq!(client.put("k", "v").await.unwrap(), 0);
        assert_eq!(client.put("k", "v").await.unwrap(), 1);
        assert_eq!(sent_to(&log), ["a", "b", "b"]);
    });
}

#[test]
fn two_nodes_that_name_each_other_do_not_keep_the_client_spinning() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| not_leader(Some("b"))).await;
        server(&net, "b", &log, |_, _| not_leader(Some("a"))).await;
        let error = client(&net, &["a", "b"]).put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::NotDone { reason: Reason::Deadline { .. } }), "{error}");
        let sent = sent_to(&log).len();
        assert!(sent < 300, "{sent} requests in five seconds");
    });
}

#[test]
fn without_a_session_a_command_is_not_sent_again_once_a_byte_has_left() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| Act::Close).await;
        server(&net, "b", &log, |n, _| put_done(n as u64)).await;
        let error = client(&net, &["a", "b"]).put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { reason: Reason::NoAnswer { .. } }), "{error}");
        assert_eq!(sent_to(&log), ["a"]);
    });
}

#[test]
fn without_a_session_silence_ends_as_unknown_at_the_deadline() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| Act::Ignore).await;
        let (clock, begun) = (TestClock, raft::clock::Clock::now(&TestClock));
        let error = client(&net, &["a"]).put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
        let took = raft::clock::Clock::now(&clock).since(begun);
        assert!((5000..5100).contains(&took.as_millis()), "{took:?}");
        assert_eq!(sent_to(&log), ["a"]);
    });
}

#[test]
fn without_a_session_definite_refusals_of_a_node_are_tried_elsewhere() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| Act::Answer(Outcome::NotDone(NotDone::ShuttingDown))).await;
        server(&net, "b", &log, |n, _| match n {
            0 => Act::Answer(Outcome::NotDone(NotDone::Superseded)),
            1 => Act::Answer(Outcome::NotDone(NotDone::Overloaded { what: "test".into() })),
            _ => put_done(5),
        })
        .await;
        assert_eq!(client(&net, &["a", "b"]).put("k", "v").await.unwrap(), 5);
        assert_eq!(sent_to(&log), ["a", "b", "b", "b"]);
    });
}

#[test]
fn what_never_left_is_definitely_not_done() {
    run(async {
        let net = net();
        net.hang("hangs");
        let error = client(&net, &["hangs", "nobody"]).put("k", "v").await.unwrap_err();
        let ClientError::NotDone { reason: Reason::Deadline { after_ms: 5000..5100, last: Some(last) } } =
            &error
        else {
            panic!("{error}");
        };
        assert!(matches!(**last, Reason::Unreachable { .. }), "{error}");
        assert!(net.connects.lock().unwrap().len() > 4, "both were tried again and again");
    });
}

#[test]
fn an_unknown_outcome_that_a_node_reports_is_passed_on_and_not_sent_again() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| Act::Answer(Outcome::Unknown(Unknown::Overtaken))).await;
        let error = client(&net, &["a"]).put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { reason: Reason::Unknown { .. } }), "{error}");
        assert_eq!(sent_to(&log).len(), 1);
    });
}

#[test]
fn a_session_sends_again_under_the_same_number() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(
            &net,
            "a",
            &log,
            with_session(|n, _| match n {
                0 => Act::Close,
                1 => Act::Ignore,
                2 => Act::Answer(Outcome::Unknown(Unknown::Stopped)),
                _ => put_done(n as u64),
            }),
        )
        .await;
        let client = client(&net, &["a"]);
        let session = client.session(Duration::from_secs(60)).await.unwrap();
        assert_eq!(session.put("k", "v").await.unwrap(), 3);
        assert_eq!(session.put("k", "v").await.unwrap(), 4);
        let stamp = |request, acked_below| SessionStamp { session: SessionId(7), request, acked_below };
        assert_eq!(stamps(&log), [stamp(1, 1), stamp(1, 1), stamp(1, 1), stamp(1, 1), stamp(2, 2)]);
    });
}

#[test]
fn not_done_is_said_only_if_no_other_sending_may_have_been() {
    run(async {
        let (net, log) = (net(), Log::default());
        let script = |n, _| match n {
            0 => Act::Close,
            _ => Act::Answer(Outcome::NotDone(NotDone::Invalid { reason: "test".into() })),
        };
        server(&net, "a", &log, with_session(script)).await;
        let client = client(&net, &["a"]);
        let session = client.session(Duration::from_secs(60)).await.unwrap();
        let error = session.put("k", "v").await.unwrap_err();
        assert!(
            matches!(error, ClientError::Unknown { .. }),
            "the first sending may have been done: {error}"
        );
        let error = session.put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::NotDone { .. }), "there was only one sending: {error}");
    });
}

#[test]
fn an_expired_session_is_definite_for_a_first_sending_only() {
    run(async {
        let (net, log) = (net(), Log::default());
        let script = |n, _| match n {
            1 => Act::Close,
            _ => refused(Refusal::SessionExpired { session: SessionId(7) }),
        };
        server(&net, "a", &log, with_session(script)).await;
        let client = client(&net, &["a"]);
        let session = client.session(Duration::from_secs(60)).await.unwrap();
        let error = session.put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::Refused(Refusal::SessionExpired { .. })), "{error}");
        let error = session.put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { reason: Reason::Refused { .. } }), "{error}");
    });
}

#[test]
fn an_answer_that_was_too_large_to_keep_is_not_taken_for_a_refusal() {
    run(async {
        let (net, log) = (net(), Log::default());
        let script = |n, _| match n {
            0 => Act::Close,
            _ => refused(Refusal::ResponseForgotten { request: 1 }),
        };
        server(&net, "a", &log, with_session(script)).await;
        let client = client(&net, &["a"]);
        let session = client.session(Duration::from_secs(60)).await.unwrap();
        let error = session.put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { reason: Reason::AnswerForgotten { .. } }), "{error}");
    });
}

#[test]
fn a_full_session_is_tried_again_and_acknowledges_what_was_answered_meanwhile() {
    run(async {
        let (net, log) = (net(), Log::default());
        // The second request finds the session full for as long as the first one is not acknowledged.
        let script = |n, stamp: SessionStamp| match (n, stamp.request) {
            (0, 1) => Act::Ignore,
            (_, 2) if stamp.acked_below < 2 => refused(Refusal::SessionFull { kept: 1 }),
            (_, request) => put_done(request),
        };
        server(&net, "a", &log, with_session(script)).await;
        let client = client(&net, &["a"]);
        let session = Arc::new(client.session(Duration::from_secs(60)).await.unwrap());
        let other = Arc::clone(&session);
        let first = tokio::spawn(async move { other.put("k", "v").await });
        tokio::task::yield_now().await;
        assert_eq!(session.put("k", "v").await.unwrap(), 2);
        assert_eq!(first.await.unwrap().unwrap(), 1);
        let last = stamps(&log).pop().unwrap();
        assert_eq!((last.request, last.acked_below), (2, 2));
    });
}

#[test]
fn a_session_does_not_run_further_ahead_than_servers_keep_responses() {
    run(async {
        let (net, log) = (net(), Log::default());
        // The first command is never answered before its deadline.
        let script =
            |_, stamp: SessionStamp| if stamp.request == 1 { Act::Ignore } else { put_done(stamp.request) };
        server(&net, "a", &log, with_session(script)).await;
        let client = client(&net, &["a"]);
        let session = Arc::new(client.session(Duration::from_secs(60)).await.unwrap());
        let puts: Vec<_> = (0..200)
            .map(|_| {
                let session = Arc::clone(&session);
                tokio::spawn(async move { session.put("k", "v").await })
            })
            .collect();
        for put in puts {
            let _ = put.await.unwrap();
        }
        for stamp in stamps(&log) {
            assert!(stamp.request - stamp.acked_below < 64, "{stamp:?}");
        }
    });
}

#[test]
fn an_idle_session_is_kept_alive_and_a_busy_one_needs_no_sign() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, with_session(|n, _| put_done(n as u64))).await;
        let client = client(&net, &["a"]);
        let session = client.session(Duration::from_secs(9)).await.unwrap();
        let signs = || {
            let is_sign = |(_, body): &&(String, RequestBody)| {
                matches!(body, RequestBody::Propose(CommandBody::KeepAlive { session: SessionId(7) }))
            };
            log.lock().unwrap().iter().filter(is_sign).count()
        };
        for _ in 0..10 {
            raft::clock::sleep(&TestClock, Duration::from_secs(1)).await;
            session.put("k", "v").await.unwrap();
        }
        assert_eq!(signs(), 0);
        raft::clock::sleep(&TestClock, Duration::from_secs(10)).await;
        assert_eq!(signs(), 3);
        session.close().await.unwrap();
        raft::clock::sleep(&TestClock, Duration::from_secs(10)).await;
        assert_eq!(signs(), 3);
    });
}

#[test]
fn a_request_over_the_servers_limit_is_not_sent() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |n, _| put_done(n as u64)).await;
        let error = client(&net, &["a"]).put("k", vec![0; 10_020]).await.unwrap_err();
        let ClientError::NotDone { reason: Reason::NotDone { reason: NotDone::TooLarge { reason }, .. } } =
            &error
        else {
            panic!("{error}");
        };
        assert!(reason.ends_with("the limit of 10000 bytes"), "{reason}");
        assert!(sent_to(&log).is_empty());
    });
}

#[test]
fn reads_are_tried_again_when_a_node_is_silent_or_goes_away() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |_, _| Act::Ignore).await;
        server(&net, "b", &log, |_, _| Act::Close).await;
        server(&net, "c", &log, |_, _| Act::Answer(Outcome::Done(Reply::Range(RangeResult::default()))))
            .await;
        assert_eq!(client(&net, &["a", "b", "c"]).get("k").await.unwrap(), None);
        assert_eq!(sent_to(&log), ["a", "b", "c"]);
    });
}

#[test]
fn a_range_in_pieces_is_read_at_one_revision_and_up_to_its_limit() {
    run(async {
        let (net, log) = (net(), Log::default());
        let kv = |n: u64| KeyValue {
            key: format!("k{n}").into(),
            value: Bytes::new(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
        };
        // Ten keys, k0 to k9, three to an answer.
        server(&net, "a", &log, move |_, body| {
            let RequestBody::Range { range, .. } = body else { return Act::Ignore };
            let from = match &range.range {
                KeyRange::Prefix(_) => 0,
                KeyRange::HalfOpen { start, .. } => u64::from(start[1] - b'0') + 1,
                _ => return Act::Ignore,
            };
            let n = if range.limit == 0 { 3 } else { range.limit.min(3) };
            let kvs: Vec<_> = (from..10).take(n as usize).map(kv).collect();
            let more = from + n < 10;
            let result = RangeResult { revision: range.revision.unwrap_or(42), kvs, more, count: 10 - from };
            Act::Answer(Outcome::Done(Reply::Range(result)))
        })
        .await;
        let client = client(&net, &["a"]);
        let range = |limit| Range {
            range: KeyRange::Prefix("k".into()),
            revision: None,
            limit,
            keys_only: false,
            count_only: false,
        };
        let all = client.range(range(0), Consistency::Linearizable).await.unwrap();
        assert_eq!((all.kvs.len(), all.more, all.count, all.revision), (10, false, 10, 42));
        let revisions: Vec<_> = log
            .lock()
            .unwrap()
            .iter()
            .map(|(_, body)| match body {
                RequestBody::Range { range, .. } => range.revision,
                _ => None,
            })
            .collect();
        assert_eq!(revisions, [None, Some(42), Some(42), Some(42)]);
        let some = client.range(range(4), Consistency::Linearizable).await.unwrap();
        assert_eq!((some.kvs.len(), some.more, some.count), (4, true, 10));
        let few = client.range(range(3), Consistency::Linearizable).await.unwrap();
        assert_eq!((few.kvs.len(), few.more), (3, true));
    });
}

#[test]
fn a_refused_handshake_is_told_word_for_word() {
    run(async {
        let net = net();
        let mut listener = net.listen("a").await.unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut frames = FrameStream::new(stream, FRAME_BYTES_MAX);
                let _: Option<ClientHello> = frames.receive().await.unwrap();
                frames.push(&ServerHello::Refused { reason: "wrong door".into() }).unwrap();
                frames.send().await.unwrap();
            }
        });
        let error = client(&net, &["a"]).status("a").await.unwrap_err();
        assert_eq!(error.to_string(), "not done: a: wrong door");
    });
}

#[test]
fn a_request_of_which_no_byte_left_is_sent_elsewhere_when_its_connection_breaks() {
    run(async {
        let (net, log) = (net(), Log::default());
        let mut listener = net.listen("a").await.unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            drop(listener);
            let mut frames = FrameStream::new(stream, FRAME_BYTES_MAX);
            let hello: ClientHello = frames.receive().await.unwrap().unwrap();
            frames.push(&ServerHello::answer(&hello, NodeId(1), 10_000)).unwrap();
            frames.send().await.unwrap();
            // It reads nothing more: the stream takes 64 KiB, and then breaks.
            raft::clock::sleep(&TestClock, Duration::from_secs(1)).await;
        });
        server(&net, "b", &log, |n, _| put_done(n as u64)).await;
        let client = client(&net, &["a", "b"]);
        let puts: Vec<_> = (0..12)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.put("k", vec![0; 9_000]).await })
            })
            .collect();
        let (mut done, mut unknown) = (0, 0);
        for put in puts {
            match put.await.unwrap() {
                Ok(_) => done += 1,
                Err(ClientError::Unknown { .. }) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        }
        // Seven and a part of the eighth have left.
        assert_eq!((unknown, done), (8, 4));
        assert_eq!(sent_to(&log), ["b"; 4]);
    });
}

#[test]
fn many_requests_share_a_connection() {
    run(async {
        let (net, log) = (net(), Log::default());
        server(&net, "a", &log, |n, _| put_done(n as u64)).await;
        let client = client(&net, &["a"]);
        let puts: Vec<_> = (0..100)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.put("k", "v").await })
            })
            .collect();
        for put in puts {
            put.await.unwrap().unwrap();
        }
        assert_eq!(net.connects.lock().unwrap().len(), 1);
        assert_eq!(log.lock().unwrap().len(), 100);
    });
}
