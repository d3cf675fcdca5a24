//! Random histories with checkpoints, crashes, snapshots and installs, against the twin.

use bytes::Bytes;
use kv::command::{
    Command, CommandBody, Compare, CompareTarget, DeleteRange, KeyRange, Operation, Put, Range, Relation,
    SessionId, SessionStamp, Txn, TxnOperation,
};
use kv::state_machine::ReadError;
use proptest::prelude::*;
use raft::core::Payload;
use raft::state_machine::StateMachine;

use super::twin::Twin;
use super::world::{Kind, World, configuration};

#[derive(Clone, Debug)]
enum Step {
    /// A group of entries. `None` is a no-op.
    Apply(Vec<Option<Command>>),
    Configure,
    Checkpoint,
    /// Begins a checkpoint and a snapshot, applies, and only then does the jobs.
    Overlapped(Vec<Option<Command>>),
    Crash,
    /// A fresh node gets a snapshot and is compared.
    Restore,
    /// A second node, which lags behind, gets a snapshot, and is the one that goes on.
    HandOver,
    Read(Range),
}

const KEYS: [&[u8]; 10] =
    [b"a", b"a\0", b"a\0\0b", b"a\xFF", b"ab", b"b", b"\0", b"\xFF", b"\xFF\xFF", b"bb"];

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        20 => (0..KEYS.len()).prop_map(|i| Bytes::from_static(KEYS[i])),
        1 => Just(Bytes::from(vec![b'k'; 448])),
        1 => Just(Bytes::from(vec![0; 224])),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        1 => Just(Bytes::new()),
        12 => (0..6_u8).prop_map(|i| Bytes::from(vec![b'0' + i; 3])),
        1 => (6_000..7_000_usize).prop_map(|n| Bytes::from(vec![b'x'; n])),
        1 => (12_000..14_000_usize).prop_map(|n| Bytes::from(vec![b'y'; n])),
    ]
}

fn key_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        4 => key().prop_map(KeyRange::Key),
        1 => Just(KeyRange::Prefix(Bytes::new())),
        2 => key().prop_map(KeyRange::Prefix),
        2 => (key(), key()).prop_map(|(start, end)| KeyRange::HalfOpen { start, end }),
        1 => key().prop_map(KeyRange::From),
    ]
}

/// Revisions are small numbers, so that most of them exist and many are compacted.
fn range() -> impl Strategy<Value = Range> {
    let revision = prop_oneof![2 => Just(None), 1 => (0..60_u64).prop_map(Some)];
    (key_range(), revision, 0..4_u64, any::<bool>(), any::<bool>()).prop_map(
        |(range, revision, limit, keys_only, count_only)| Range {
            range,
            revision,
            limit,
            keys_only,
            count_only: count_only && keys_only,
        },
    )
}

fn put() -> impl Strategy<Value = Put> {
    (key(), value(), any::<bool>()).prop_map(|(key, value, prev_kv)| Put { key, value, prev_kv })
}

fn delete() -> impl Strategy<Value = DeleteRange> {
    (key_range(), any::<bool>()).prop_map(|(range, prev_kv)| DeleteRange { range, prev_kv })
}

fn compare() -> impl Strategy<Value = Compare> {
    let relation = prop_oneof![
        Just(Relation::Equal),
        Just(Relation::NotEqual),
        Just(Relation::Greater),
        Just(Relation::Less)
    ];
    let target = prop_oneof![
        value().prop_map(CompareTarget::Value),
        (0..4_u64).prop_map(CompareTarget::Version),
        (0..40_u64).prop_map(CompareTarget::CreateRevision),
        (0..40_u64).prop_map(CompareTarget::ModRevision),
    ];
    (key(), relation, target).prop_map(|(key, relation, target)| Compare { key, relation, target })
}

fn txn_steps() -> impl Strategy<Value = Vec<TxnOperation>> {
    let step = prop_oneof![
        3 => put().prop_map(TxnOperation::Put),
        2 => delete().prop_map(TxnOperation::DeleteRange),
        2 => range().prop_map(TxnOperation::Range),
    ];
    prop::collection::vec(step, 0..4)
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => put().prop_map(Operation::Put),
        3 => delete().prop_map(Operation::DeleteRange),
        4 => (prop::collection::vec(compare(), 0..2), txn_steps(), txn_steps())
            .prop_map(|(compares, success, failure)| Operation::Txn(Txn { compares, success, failure })),
        1 => (0..60_u64).prop_map(|revision| Operation::Compact { revision }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    // 0 stands for the session opened last, 1 for the one before it, and so on.
    let session = prop_oneof![4 => Just(0_u64), 2 => Just(1), 1 => 2..5_u64].prop_map(SessionId);
    let acked = prop_oneof![3 => Just(0_u64), 1 => 1..5_u64];
    let stamp = (session.clone(), 1..6_u64, acked).prop_map(|(session, request, acked_below)| SessionStamp {
        session,
        request,
        acked_below,
    });
    let body = prop_oneof![
        1 => (1..2_000_u64).prop_map(|ttl_ms| CommandBody::OpenSession { ttl_ms }),
        1 => session.clone().prop_map(|session| CommandBody::KeepAlive { session }),
        1 => session.prop_map(|session| CommandBody::CloseSession { session }),
        14 => (prop::option::of(stamp), operation())
            .prop_map(|(stamp, operation)| CommandBody::Operate { stamp, operation }),
    ];
    // Mostly a little later than the command before; `Run` counts on from there.
    (prop_oneof![8 => 0..50_u64, 1 => 0..3_000_u64], body)
        .prop_map(|(cluster_time_ms, body)| Command { cluster_time_ms, body })
}

fn group() -> impl Strategy<Value = Vec<Option<Command>>> {
    prop::collection::vec(prop_oneof![9 => command().prop_map(Some), 1 => Just(None)], 1..6)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => group().prop_map(Step::Apply),
        1 => Just(Step::Configure),
        3 => Just(Step::Checkpoint),
        2 => group().prop_map(Step::Overlapped),
        2 => Just(Step::Crash),
        1 => Just(Step::Restore),
        1 => Just(Step::HandOver),
        8 => range().prop_map(Step::Read),
    ]
}

struct Run {
    kind: Kind,
    world: World,
    twin: Twin,
    now_ms: u64,
    opened: Vec<SessionId>,
}

impl Run {
    /// Gives a command its time and its session, as they are now.
    fn concrete(&mut self, command: &Command, index: u64) -> Command {
        let mut command = command.clone();
        // A clock that goes back now and then is no harm.
        let back = if index.is_multiple_of(7) { 40 } else { 0 };
        self.now_ms += command.cluster_time_ms;
        command.cluster_time_ms = self.now_ms.saturating_sub(back);
        let opened = &self.opened;
        let resolve = |id: &mut SessionId| {
            *id = opened.iter().rev().nth(id.0 as usize).copied().unwrap_or(SessionId(99));
        };
        match &mut command.body {
            CommandBody::OpenSession { .. } => self.opened.push(SessionId(index)),
            CommandBody::KeepAlive { session } | CommandBody::CloseSession { session } => resolve(session),
            CommandBody::Operate { stamp: Some(stamp), .. } => resolve(&mut stamp.session),
            CommandBody::Operate { stamp: None, .. } => {}
        }
        command
    }

    fn apply(&mut self, group: &[Option<Command>]) {
        let first = self.world.log.len() as u64 + 1;
        let group: Vec<_> = (first..)
            .zip(group)
            .map(|(index, command)| command.as_ref().map(|command| self.concrete(command, index)))
            .collect();
        let payloads = group
            .iter()
            .map(|c| c.as_ref().map_or(Payload::Noop, |c| Payload::Command(c.encode())))
            .collect();
        let responses = self.world.apply(payloads);
        for ((index, command), response) in (first..).zip(&group).zip(responses) {
            if let Some(command) = command {
                assert_eq!(response, self.twin.apply(index, command), "{index}: {command:?}");
            }
        }
    }

    fn read(&self, range: &Range) {
        let found = self.world.range(range).map_err(|error| match error {
            ReadError::Refused(refusal) => refusal,
            ReadError::Store(error) => panic!("{error}"),
        });
        assert_eq!(found, self.twin.range(range), "{range:?}");
    }

    fn read_everything(&self) {
        for revision in self.twin.compacted..=self.twin.revision {
            let revision = Some(revision);
            let range = KeyRange::Prefix(Bytes::new());
            self.read(&Range { range, revision, limit: 0, keys_only: false, count_only: false });
        }
    }

    /// A new node with the log and the state of this one.
    fn restored(&mut self, lag: usize) -> World {
        let (meta, bytes) = self.world.snapshot();
        let mut other = World::new(self.kind);
        let behind = self.world.log[..lag].to_vec();
        other.machine().apply(&behind).unwrap();
        other.install(&meta, &bytes).unwrap();
        other.log.clone_from(&self.world.log);
        other.responses.clone_from(&self.world.responses);
        assert_eq!(other.fingerprint(), self.world.fingerprint());
        other
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Apply(group) => self.apply(group),
            Step::Configure => _ = self.world.apply(vec![Payload::Configuration(configuration())]),
            Step::Checkpoint => _ = self.world.checkpoint(),
            Step::Overlapped(group) => {
                let cut = self.world.fingerprint();
                let applied = self.world.machine().applied();
                let checkpoint = self.world.machine().begin_checkpoint();
                let snapshot = self.world.machine().begin_snapshot();
                self.apply(group);
                self.read_everything();
                assert_eq!(checkpoint().unwrap(), applied.last);
                self.world.checkpoint();
                let mut bytes = Vec::new();
                snapshot(&mut bytes).unwrap();
                if applied.last.index.0 > 0 {
                    let mut other = World::new(self.kind);
                    let configuration = applied.configuration.unwrap_or_else(configuration);
                    let meta = raft::core::SnapshotMeta { last: applied.last, configuration };
                    other.install(&meta, &bytes).unwrap();
                    assert_eq!(other.fingerprint(), cut);
                }
            }
            Step::Crash => {
                let before = self.world.fingerprint();
                self.world.crash();
                assert_eq!(self.world.machine().lost(), None);
                self.world.replay();
                assert_eq!(self.world.fingerprint(), before);
            }
            Step::Restore | Step::HandOver if self.world.log.is_empty() => {}
            Step::Restore => _ = self.restored(0),
            Step::HandOver => {
                let lag = self.world.log.len() / 2;
                self.world = self.restored(lag);
                self.world.crash();
            }
            Step::Read(range) => self.read(range),
        }
    }
}

fn run(kind: Kind, steps: &[Step]) {
    let mut run = Run { kind, world: World::new(kind), twin: Twin::default(), now_ms: 0, opened: Vec::new() };
    let open = Command { cluster_time_ms: 0, body: CommandBody::OpenSession { ttl_ms: 1_000 } };
    run.apply(&[Some(open)]);
    for step in steps {
        run.step(step);
    }
    run.read_everything();
    run.step(&Step::Crash);
    run.read_everything();
}

fn cases(normally: u32) -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = normally;
    }
    config
}

proptest! {
    #![proptest_config(cases(200))]
    #[test]
    fn memory_agrees_with_the_twin(steps in prop::collection::vec(step(), 1..40)) {
        run(Kind::Memory, &steps);
    }
}

proptest! {
    #![proptest_config(cases(24))]
    #[test]
    fn sled_agrees_with_the_twin(steps in prop::collection::vec(step(), 1..40)) {
        run(Kind::Sled, &steps);
    }
}
