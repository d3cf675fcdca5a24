//! The seeds of the corpus: a few inputs for each target that are understood, so that the fuzzer need not find out the
//! encodings by itself.

use bytes::{Bytes, BytesMut};
use kv::command::{
    Command, CommandBody, Compare, CompareTarget, DeleteRange, KeyRange, Operation, Put, Range, Relation,
    SessionId, SessionStamp, Txn, TxnOperation,
};
use kv::wire::{Answer, ClientHello, Outcome, ReadMode, Reply, Request, RequestBody};
use raft::codec;
use raft::core::{
    Change, Configuration, Entry, Index, LogId, Member, Message, MessageBody, NodeId, Payload, SnapshotMeta,
    Space, Term,
};

use super::bytes_of;
use super::core::Step as CoreStep;
use super::snapshots::Case;
use super::wal::Step as WalStep;

/// The seeds of a target, each with a name.
#[must_use]
pub fn of(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        "frames" => frames(),
        "requests" => requests(),
        "commands" => commands(),
        "histories" => histories(),
        "wal" => logs(),
        "snapshots" => snapshots(),
        "core" => core(),
        other => panic!("there is no target {other}"),
    }
}

fn entries(first: u64, count: u64, term: u64) -> Vec<Entry> {
    let payload = |index| Payload::Command(Bytes::from(vec![index as u8; 5]));
    (first..first + count)
        .map(|index| Entry { term: Term(term), index: Index(index), payload: payload(index) })
        .collect()
}

fn append(prev: LogId, entries: Vec<Entry>, commit: u64) -> MessageBody {
    MessageBody::AppendEntries { prev, entries, commit: Index(commit) }
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let message = |body| Message { from: NodeId(1), to: NodeId(2), term: Term(3), body };
    let meta = SnapshotMeta { last: LogId::new(2, 7), configuration: Configuration::of_voters([NodeId(1)]) };
    let appended = message(append(LogId::new(2, 4), entries(5, 3, 3), 4));
    let mut framed = BytesMut::new();
    codec::encode_frame(&appended, 1 << 16, &mut framed).expect("a small message");
    vec![
        ("append", bytes_of(&[appended])),
        ("framed", framed.to_vec()),
        (
            "heartbeat",
            bytes_of(&[message(MessageBody::Heartbeat { commit: Index(4), round: 9, lease: true })]),
        ),
        ("snapshot", bytes_of(&[message(MessageBody::InstallSnapshot { meta })])),
    ]
}

fn put(key: &'static str, value: &'static str) -> Put {
    Put { key: key.into(), value: value.into(), prev_kv: true }
}

fn range(range: KeyRange) -> Range {
    Range { range, revision: None, limit: 2, keys_only: false, count_only: false }
}

fn txn() -> Txn {
    let compare =
        Compare { key: "a".into(), relation: Relation::Greater, target: CompareTarget::ModRevision(0) };
    Txn {
        compares: vec![compare],
        success: vec![
            TxnOperation::Put(put("b", "2")),
            TxnOperation::Range(range(KeyRange::Prefix(Bytes::new()))),
        ],
        failure: vec![TxnOperation::DeleteRange(DeleteRange {
            range: KeyRange::HalfOpen { start: "a".into(), end: "c".into() },
            prev_kv: true,
        })],
    }
}

fn operate(request: Option<u64>, operation: Operation) -> CommandBody {
    let stamp =
        request.map(|request| SessionStamp { session: SessionId(1), request, acked_below: request / 2 });
    CommandBody::Operate { stamp, operation }
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let request = |body| bytes_of(&[Request { id: 7, body }]);
    let member = NodeId(4);
    vec![
        ("answer", bytes_of(&[Answer { id: 7, outcome: Outcome::Done(Reply::Membership(Box::default())) }])),
        ("change", request(RequestBody::ChangeMembers { changes: changes(), expected: Some(3) })),
        ("hello", bytes_of(&[ClientHello::CURRENT])),
        ("propose", request(RequestBody::Propose(operate(Some(3), Operation::Txn(txn()))))),
        (
            "range",
            request(RequestBody::Range { range: range(KeyRange::From("a".into())), mode: ReadMode::Any }),
        ),
        ("transfer", request(RequestBody::TransferLeader { to: Some(member) })),
    ]
}

fn changes() -> Vec<Change> {
    let member = Member { incarnation: 4, address: "127.0.0.1:4".to_owned(), context: "c".into() };
    vec![
        Change::AddLearner { id: NodeId(4), member, joining: true },
        Change::Remove(NodeId(3)),
        Change::SetLease(None),
    ]
}

fn commands() -> Vec<(&'static str, Vec<u8>)> {
    let command = |cluster_time_ms, body| Command { cluster_time_ms, body };
    let delete = DeleteRange { range: KeyRange::Key("a".into()), prev_kv: true };
    let story = [
        command(1, CommandBody::OpenSession { ttl_ms: 50 }),
        command(2, operate(Some(1), Operation::Put(put("a", "1")))),
        command(3, operate(Some(1), Operation::Put(put("a", "1")))),
        command(4, operate(Some(2), Operation::Txn(txn()))),
        command(5, operate(None, Operation::DeleteRange(delete))),
        command(6, operate(None, Operation::Compact { revision: 2 })),
        command(7, operate(None, Operation::Txn(txn()))),
        command(60, CommandBody::KeepAlive { session: SessionId(1) }),
        command(61, CommandBody::CloseSession { session: SessionId(1) }),
    ];
    vec![("entry", story[3].encode().to_vec()), ("story", bytes_of(&story))]
}

fn histories() -> Vec<(&'static str, Vec<u8>)> {
    let text = include_str!("../../testdata/histories/linearizable/ambiguous_append_between_two.jsonl");
    let other = include_str!("../../testdata/histories/linearizable/cas_from_and_to_absence.jsonl");
    vec![("appends", text.into()), ("cas", other.into())]
}

fn logs() -> Vec<(&'static str, Vec<u8>)> {
    let append = |back, count, size| WalStep::Append { vote: true, back, count, size };
    let crash = [
        append(0, 3, 40),
        WalStep::Sync,
        append(1, 2, 200),
        WalStep::PowerLoss { seed: 5 },
        append(0, 1, 3),
        WalStep::Attest,
    ];
    let damage = [
        append(0, 4, 300),
        WalStep::Attest,
        WalStep::Damage { file: 0, at: 540, mask: vec![1] },
        append(0, 1, 3),
    ];
    let compacted = [append(0, 7, 300), WalStep::Compact { keep: 1 }, WalStep::Reopen, append(2, 2, 9)];
    let replaced = [append(0, 2, 20), WalStep::Sync, WalStep::Replace { file: 0, content: vec![0; 64] }];
    vec![
        ("compacted", bytes_of(&compacted)),
        ("crash", bytes_of(&crash)),
        ("damage", bytes_of(&damage)),
        ("replaced", bytes_of(&replaced)),
    ]
}

fn snapshots() -> Vec<(&'static str, Vec<u8>)> {
    let state = b"a state".to_vec();
    let values = vec![b"one".to_vec(), vec![2; 9000]];
    let seed = |case: Case| bytes_of(&[case]);
    let sent =
        Case::Sent { state: vec![3; 4000], repeat: 20, order: vec![0, 1, 2, 3], frame: 9, at: 0, mask: 0 };
    let damaged = Case::Damaged { state: state.clone(), repeat: 3, at: 40, mask: vec![0, 4] };
    vec![
        ("damaged", seed(damaged)),
        ("installed", seed(Case::Installed { state: state.clone() })),
        ("passed", seed(Case::Passed { values: values.clone(), at: 9, mask: vec![0] })),
        ("passed_damaged", seed(Case::Passed { values, at: 30, mask: vec![1, 2] })),
        ("received", seed(Case::Received { frames: vec![state.clone(), state.clone()] })),
        ("replaced", seed(Case::Replaced { content: state })),
        ("sent", seed(sent)),
    ]
}

fn core() -> Vec<(&'static str, Vec<u8>)> {
    let from = |from, body| CoreStep::Message { from, ahead: 0, body };
    let settle = || [CoreStep::Ready, CoreStep::Persisted, CoreStep::Persisted, CoreStep::Applied];
    let mut lead = vec![CoreStep::Ticks(11), CoreStep::Ready];
    lead.push(from(0, MessageBody::PreVoteResponse { next_term: Term(1), granted: true }));
    lead.extend(settle());
    lead.push(from(0, MessageBody::VoteResponse { granted: true }));
    lead.extend(settle());
    lead.push(from(0, MessageBody::AppendAccepted { matched: Index(1) }));
    lead.extend(settle());
    let mut changed = lead.clone();
    changed.extend([CoreStep::Propose { bytes: 9 }, CoreStep::Change(changes()), CoreStep::Read(5)]);
    changed.extend(settle());
    changed.push(from(0, MessageBody::AppendAccepted { matched: Index(3) }));
    changed.push(from(
        0,
        MessageBody::HeartbeatResponse { round: 1, leased: true, space: Space::Ample, damaged: false },
    ));
    changed.extend(settle());
    changed.extend([CoreStep::Compact { keep: 1 }, CoreStep::Ticks(3)]);
    changed.push(from(
        1,
        MessageBody::AppendRejected { prev_index: Index(0), hint: LogId::ZERO, damaged: false },
    ));
    changed.extend(settle());
    changed.extend([CoreStep::Transfer(Some(NodeId(2))), CoreStep::Ticks(9)]);
    let meta =
        SnapshotMeta { last: LogId::new(2, 9), configuration: Configuration::of_voters([1, 2].map(NodeId)) };
    let mut follow = vec![CoreStep::Time { ms: 90 }];
    follow.push(CoreStep::Message { from: 0, ahead: 1, body: append(LogId::ZERO, entries(1, 3, 1), 2) });
    follow.extend(settle());
    follow.push(CoreStep::Read(3));
    follow.push(from(0, MessageBody::Heartbeat { commit: Index(3), round: 1, lease: true }));
    follow.extend(settle());
    follow.push(CoreStep::Message { from: 1, ahead: 1, body: MessageBody::InstallSnapshot { meta } });
    follow.extend(settle());
    follow.push(from(1, MessageBody::TimeoutNow));
    vec![("changed", bytes_of(&changed)), ("follow", bytes_of(&follow)), ("lead", bytes_of(&lead))]
}
