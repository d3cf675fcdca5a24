use bytes::Bytes;
use proptest::prelude::*;
use raft::codec::FrameError;
use raft::net::BoxStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::command::{KeyRange, Operation, Put, SessionId, SessionStamp};
use serde::Serialize;

const LIMIT: u32 = 1 << 20;

fn pair() -> (FrameStream, tokio::io::DuplexStream) {
    let (a, b) = tokio::io::duplex(1 << 16);
    (FrameStream::new(Box::new(a) as BoxStream, LIMIT), b)
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn put(key: &[u8], value: &[u8]) -> RequestBody {
    RequestBody::Propose(CommandBody::Operate {
        stamp: Some(SessionStamp { session: SessionId(7), request: 3, acked_below: 2 }),
        operation: Operation::Put(Put {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            prev_kv: true,
        }),
    })
}

fn add_member() -> RequestBody {
    RequestBody::AddMember {
        id: NodeId(4),
        peer: "h:41".into(),
        client: "h:40".into(),
        joining: true,
        expected: Some(9),
    }
}

/// The bytes of `values`, framed.
fn framed<T: Serialize>(values: &[T]) -> Vec<u8> {
    run(async {
        let (mut frames, mut raw) = pair();
        for value in values {
            frames.push(value).unwrap();
        }
        frames.send().await.unwrap();
        drop(frames);
        let mut bytes = Vec::new();
        raw.read_to_end(&mut bytes).await.unwrap();
        bytes
    })
}

/// What a reader makes of `bytes`.
fn received<T: serde::de::DeserializeOwned>(bytes: &[u8], limit: u32) -> Result<Vec<T>, WireError> {
    run(async {
        let (a, mut b) = tokio::io::duplex(bytes.len().max(1));
        let mut frames = FrameStream::new(Box::new(a) as BoxStream, limit);
        b.write_all(bytes).await.unwrap();
        drop(b);
        let mut values = Vec::new();
        while let Some(value) = frames.receive().await? {
            values.push(value);
        }
        Ok(values)
    })
}

#[test]
fn requests_and_answers_come_back_as_they_were_sent() {
    let range = Range {
        range: KeyRange::Prefix(Bytes::from_static(b"a")),
        revision: Some(9),
        limit: 3,
        keys_only: true,
        count_only: false,
    };
    let requests = vec![
        Request { id: 1, body: put(b"k", b"v") },
        Request { id: u64::MAX, body: RequestBody::Range { range, mode: ReadMode::Serializable } },
        Request { id: 3, body: RequestBody::Status },
        Request { id: 4, body: RequestBody::Members },
        Request { id: 5, body: RequestBody::Membership },
        Request { id: 6, body: RequestBody::LeaderStatus },
        Request { id: 7, body: RequestBody::TransferLeader { to: Some(NodeId(2)) } },
        Request { id: 8, body: add_member() },
        Request {
            id: 9,
            body: RequestBody::ChangeMembers { changes: vec![Change::Remove(NodeId(2))], expected: Some(4) },
        },
    ];
    assert_eq!(received::<Request>(&framed(&requests), LIMIT).unwrap(), requests);
    let answers = vec![
        Answer { id: 1, outcome: Outcome::Done(Reply::Command(Response::Session)) },
        Answer { id: 2, outcome: Outcome::NotDone(NotDone::NotLeader { leader: Some("h:1".into()) }) },
        Answer { id: 3, outcome: Outcome::Unknown(Unknown::Stopped) },
        Answer { id: 4, outcome: Outcome::Done(Reply::Status(Box::default())) },
        Answer { id: 5, outcome: Outcome::Done(Reply::Membership(Box::default())) },
        Answer { id: 6, outcome: Outcome::Done(Reply::Leader(NodeId(3))) },
        Answer {
            id: 7,
            outcome: Outcome::NotDone(NotDone::Refused(MemberRefusal::TransferFailed { to: NodeId(2) })),
        },
    ];
    assert_eq!(received::<Answer>(&framed(&answers), LIMIT).unwrap(), answers);
}

#[test]
fn each_refusal_of_a_change_is_one_line_that_says_what_to_do() {
    use MemberRefusal as R;
    let (id, to) = (NodeId(4), NodeId(4));
    let why = "nobody lives there; start it".to_owned();
    let refusals = [
        R::NotEstablished,
        R::InProgress,
        R::Transferring { to },
        R::Changed { index: 9 },
        R::AlreadyMember(id),
        R::NotMember(id),
        R::AlreadyVoter(id),
        R::NotVoter(id),
        R::IdUsed(id),
        R::OtherIncarnation(id),
        R::Twice(id),
        R::NoVoters,
        R::Nothing,
        R::BadLease,
        R::NotReady { id, address: "h:41".into(), why },
        R::AlreadyLeader(id),
        R::NoTarget,
        R::TransferFailed { to },
    ];
    for refusal in &refusals {
        let text = refusal.to_string();
        let (what, then) = text.split_once(": ").unwrap_or_else(|| panic!("{text}"));
        assert!(!what.is_empty() && !then.is_empty() && text.lines().count() == 1, "{text}");
        assert!(!text.contains("n4"), "clients call it member 4: {text}");
    }
    let passing: Vec<_> = refusals.iter().filter(|refusal| refusal.is_temporary()).collect();
    assert_eq!(passing, [&R::NotEstablished, &R::InProgress, &R::Transferring { to }]);
}

#[test]
fn what_a_member_is_follows_from_the_configuration() {
    let mut configuration = raft::core::Configuration::of_voters([1, 2].map(NodeId));
    configuration.voters_outgoing = [2, 3].map(NodeId).into();
    configuration.learners = [4, 5].map(NodeId).into();
    configuration.joining = [5].map(NodeId).into();
    let roles = (1..=6).map(|n| MemberRole::of(NodeId(n), &configuration).map(MemberRole::name));
    let expected = ["voter", "voter", "leaving", "learner", "joining"].map(Some);
    assert_eq!(roles.collect::<Vec<_>>(), [&expected[..], &[None]].concat());
    let membership = |index, committed, configuration| Membership { index, committed, configuration };
    assert!(!membership(1, true, configuration).is_settled());
    assert!(!membership(1, false, Default::default()).is_settled());
    assert!(membership(1, true, Default::default()).is_settled());
}

#[test]
fn the_hello_never_changes() {
    assert_eq!(framed(&[ClientHello::CURRENT])[8..], *b"raftkv/c\x01\x01");
}

#[test]
fn a_server_speaks_the_newest_version_that_both_know_or_refuses() {
    let hello = |protocol_min, protocol_max| ClientHello { magic: MAGIC, protocol_min, protocol_max };
    let welcome = ServerHello::Welcome { protocol: PROTOCOL_MAX, node: NodeId(1), request_bytes_max: 9 };
    assert_eq!(ServerHello::answer(&ClientHello::CURRENT, NodeId(1), 9), welcome);
    assert_eq!(ServerHello::answer(&hello(PROTOCOL_MAX, PROTOCOL_MAX + 5), NodeId(1), 9), welcome);
    for bad in [hello(PROTOCOL_MAX + 1, PROTOCOL_MAX + 2), hello(0, 0), hello(2, 1)] {
        assert!(matches!(ServerHello::answer(&bad, NodeId(1), 9), ServerHello::Refused { .. }), "{bad:?}");
    }
    let stranger = ClientHello { magic: *b"GET / HT", ..ClientHello::CURRENT };
    assert!(matches!(ServerHello::answer(&stranger, NodeId(1), 9), ServerHello::Refused { .. }));
}

#[test]
fn a_frame_over_the_limit_is_neither_sent_nor_read() {
    let request = Request { id: 1, body: put(b"k", &[b'v'; 1000]) };
    let bytes = framed(std::slice::from_ref(&request));
    let error = received::<Request>(&bytes, 1000).unwrap_err();
    assert!(matches!(error, WireError::Frame(FrameError::TooLarge { bytes_max: 1000, .. })), "{error}");
    let before = framed(&[ClientHello::CURRENT]);
    run(async {
        let (mut frames, mut raw) = pair();
        frames.set_limits(LIMIT, 1000);
        frames.push(&ClientHello::CURRENT).unwrap();
        assert!(matches!(frames.push(&request), Err(WireError::Frame(FrameError::TooLarge { .. }))));
        frames.send().await.unwrap();
        drop(frames);
        let mut bytes = Vec::new();
        raw.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, before, "the frame before it is whole, nothing follows");
    });
}

#[test]
fn text_of_another_protocol_is_refused_by_its_length_alone() {
    let error = received::<ClientHello>(b"GET / HTTP/1.1\r\n\r\n", HELLO_BYTES_MAX).unwrap_err();
    assert!(matches!(error, WireError::Frame(FrameError::TooLarge { .. })), "{error}");
}

#[test]
fn a_frame_with_bytes_left_over_is_refused() {
    #[derive(serde::Serialize)]
    struct Longer(Request, u8);
    let bytes = framed(&[Longer(Request { id: 1, body: RequestBody::Status }, 0)]);
    assert!(matches!(
        received::<Request>(&bytes, LIMIT),
        Err(WireError::Frame(FrameError::Trailing { bytes: 1 }))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever one bit of damage or a cut does, it is never taken for other requests than were sent.
    #[test]
    fn damage_is_noticed(bit in 0usize..4000, cut in 0usize..500) {
        let sent = vec![
            Request { id: 5, body: put(b"key", b"some value or other") },
            Request { id: 6, body: RequestBody::Members },
        ];
        let clean = framed(&sent);
        let mut bytes = clean.clone();
        bytes[(bit / 8) % clean.len()] ^= 1 << (bit % 8);
        prop_assert!(received::<Request>(&bytes, LIMIT).is_err());
        let cut = cut % clean.len();
        match received::<Request>(&clean[..cut], LIMIT) {
            Ok(values) => prop_assert!(sent.starts_with(&values)),
            Err(error) => prop_assert!(matches!(error, WireError::Frame(FrameError::Cut)), "{}", error),
        }
    }

    /// Garbage ends the connection; it never panics and never allocates what its length claims.
    #[test]
    fn garbage_is_an_error_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(values) = received::<Request>(&bytes, LIMIT) {
            prop_assert!(values.is_empty());
        }
    }
}
