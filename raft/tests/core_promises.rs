//! What a node may promise and rely on: leases at their edges (§6.4.1), and the numbers of forwarded reads. What the
//! stories under `testdata/reads/` show is not repeated here.

use bytes::Bytes;
use raft::core::*;

const MS: u64 = 1_000_000;

fn leased(duration_ms: u32) -> Configuration {
    let lease = Some(Lease { duration_ms, drift_ppm: 0 });
    Configuration { lease, ..Configuration::of_voters([1, 2, 3].map(NodeId)) }
}

fn boot(configuration: Configuration) -> Boot {
    Boot {
        hard_state: HardState::default(),
        prev: LogId::ZERO,
        entries: Vec::new(),
        applied: LogId::ZERO,
        configuration,
        damage: None,
    }
}

fn node(configuration: Configuration) -> Raft {
    let config = Config { election_timeout_ticks: 10, heartbeat_ticks: 2, ..Config::new(NodeId(1)) };
    Raft::new(config, boot(configuration)).unwrap()
}

fn message(from: u64, term: u64, body: MessageBody) -> Message {
    Message { from: NodeId(from), to: NodeId(1), term: Term(term), body }
}

fn configured(term: u64, index: u64, configuration: Configuration) -> Entry {
    Entry { term: Term(term), index: Index(index), payload: Payload::Configuration(configuration) }
}

/// Takes every Ready and makes it durable; returns all messages.
fn settle(raft: &mut Raft) -> Vec<MessageBody> {
    let mut said = Vec::new();
    while raft.has_ready() {
        let ready = raft.ready();
        raft.persisted(ready.number);
        said.extend(ready.messages.into_iter().chain(ready.messages_after_persist).map(|m| m.body));
    }
    said
}

/// Asks for the promise; says whether it was given.
fn ask(raft: &mut Raft, round: u64) -> bool {
    let heartbeat = MessageBody::Heartbeat { commit: Index::ZERO, round, lease: true };
    raft.step(message(2, 1, heartbeat)).unwrap();
    let said = settle(raft);
    let answer = said.iter().find_map(|body| match body {
        MessageBody::HeartbeatResponse { round: answered, leased, .. } if *answered == round => Some(*leased),
        _ => None,
    });
    answer.expect("an answer")
}

/// Whether it would vote for n3, which stands in the next term.
fn would_vote(raft: &mut Raft) -> bool {
    let term = raft.hard_state().term;
    let last = LogId::new(term.0, 99);
    raft.step(message(3, term.0, MessageBody::PreVote { next_term: term.next(), last })).unwrap();
    let said = settle(raft);
    let granted = said.iter().any(|body| matches!(body, MessageBody::PreVoteResponse { granted: true, .. }));
    // Whoever would not, does not even look at a real request.
    let mut voter = raft.clone();
    let request = MessageBody::RequestVote { last, leadership_transfer: false };
    voter.step(message(3, term.next().0, request)).unwrap();
    assert_eq!(voter.hard_state().term > term, granted, "pre-vote and vote disagree");
    granted
}

/// Leads term 1; nobody has its no-op yet.
fn fresh_leader(configuration: Configuration) -> Raft {
    let mut raft = node(configuration);
    raft.observe_time(0);
    raft.observe_time(10_000 * MS);
    raft.campaign();
    let granted = MessageBody::PreVoteResponse { next_term: Term(1), granted: true };
    raft.step(message(2, 0, granted)).unwrap();
    settle(&mut raft);
    raft.step(message(2, 1, MessageBody::VoteResponse { granted: true })).unwrap();
    settle(&mut raft);
    assert_eq!((raft.role(), raft.commit()), (RoleName::Leader, Index(0)));
    raft
}

fn leader(configuration: Configuration) -> Raft {
    let mut raft = fresh_leader(configuration);
    raft.step(message(2, 1, MessageBody::AppendAccepted { matched: Index(1) })).unwrap();
    settle(&mut raft);
    assert_eq!(raft.commit(), Index(1));
    raft
}

/// Lets n2 answer the heartbeats that are due, with its promise.
fn renew(raft: &mut Raft) {
    raft.tick();
    raft.tick();
    let asked = settle(raft).into_iter().find_map(|body| match body {
        MessageBody::Heartbeat { round, lease: true, .. } => Some(round),
        _ => None,
    });
    let round = asked.expect("a heartbeat that asks");
    raft.step(message(2, 1, MessageBody::HeartbeatResponse { round, leased: true, damaged: false })).unwrap();
}

/// A promise must survive a crash, so it is given only once the configuration is on disk that tells of leases.
#[test]
fn a_promise_waits_for_the_disk() {
    let mut raft = node(Configuration::of_voters([1, 2, 3].map(NodeId)));
    raft.observe_time(MS);
    assert!(!ask(&mut raft, 1), "there are no leases");
    let entries = vec![configured(1, 1, leased(50))];
    let append = MessageBody::AppendEntries { prev: LogId::ZERO, entries, commit: Index::ZERO };
    raft.step(message(2, 1, append)).unwrap();
    let writing = raft.ready();
    let heartbeat = MessageBody::Heartbeat { commit: Index::ZERO, round: 2, lease: true };
    raft.step(message(2, 1, heartbeat)).unwrap();
    let answers = raft.ready().messages;
    assert_eq!(answers[0].body, MessageBody::HeartbeatResponse { round: 2, leased: false, damaged: false });
    raft.persisted(writing.number);
    assert!(ask(&mut raft, 3));
}

/// The longest lease that is known counts: the leader may mean an older one than the newest here.
#[test]
fn a_promise_covers_every_lease_that_is_known() {
    let mut raft = node(leased(100));
    raft.observe_time(0);
    raft.observe_time(1000 * MS);
    let entries =
        vec![configured(1, 1, leased(10)), configured(1, 2, Configuration { lease: None, ..leased(1) })];
    let append = MessageBody::AppendEntries { prev: LogId::ZERO, entries, commit: Index::ZERO };
    raft.step(message(2, 1, append)).unwrap();
    settle(&mut raft);
    assert!(ask(&mut raft, 1));
    (0..50).for_each(|_| raft.tick());
    raft.observe_time(1100 * MS - 1);
    assert!(!would_vote(&mut raft));
    raft.observe_time(1100 * MS);
    assert!(would_vote(&mut raft));

    // So does it after a crash, from the first look at the clock.
    let entries = vec![configured(1, 1, Configuration { lease: None, ..leased(1) })];
    let hard_state = HardState { term: Term(1), voted_for: None };
    let boot = Boot { hard_state, entries, ..boot(leased(100)) };
    let mut raft = Raft::new(Config::new(NodeId(1)), boot).unwrap();
    assert!(!would_vote(&mut raft), "no look at the clock yet");
    raft.observe_time(5 * MS);
    raft.observe_time(105 * MS - 1);
    assert!(!would_vote(&mut raft));
    raft.observe_time(105 * MS);
    assert!(would_vote(&mut raft));
}

/// It covers the term that the node is in as well: it may have promised to a leader of that very term, or of one before.
#[test]
fn a_promise_from_before_a_crash_covers_the_own_term() {
    let hard_state = HardState { term: Term(1), voted_for: None };
    let mut raft = Raft::new(Config::new(NodeId(1)), Boot { hard_state, ..boot(leased(100)) }).unwrap();
    raft.observe_time(0);
    let request = MessageBody::RequestVote { last: LogId::ZERO, leadership_transfer: false };
    raft.step(message(3, 1, request.clone())).unwrap();
    assert_eq!(settle(&mut raft), [MessageBody::VoteResponse { granted: false }]);
    raft.observe_time(100 * MS);
    raft.step(message(3, 1, request)).unwrap();
    assert_eq!(settle(&mut raft), [MessageBody::VoteResponse { granted: true }]);
}

/// A reading that goes back neither shortens a promise nor prolongs a lease.
#[test]
fn a_clock_that_goes_back_is_ignored() {
    let mut raft = leader(leased(100));
    renew(&mut raft);
    assert!(raft.status().has_lease);
    raft.observe_time(10_100 * MS);
    assert!(!raft.status().has_lease);
    raft.observe_time(10_000 * MS);
    assert!(!raft.status().has_lease);
}

/// The leader's own promise outlives its leadership, and a candidate keeps it too.
#[test]
fn a_deposed_leader_keeps_its_own_promise() {
    let mut raft = leader(leased(100));
    renew(&mut raft);
    settle(&mut raft);
    // n2 leads term 2: it had promised nothing any more by its own clock, or n1 had it stand.
    let heartbeat = MessageBody::Heartbeat { commit: Index(1), round: 1, lease: false };
    raft.step(message(2, 2, heartbeat)).unwrap();
    settle(&mut raft);
    (0..9).for_each(|_| raft.tick());
    raft.observe_time(10_099 * MS);
    raft.campaign();
    assert_eq!(raft.role(), RoleName::Follower);
    raft.observe_time(10_100 * MS);
    raft.campaign();
    assert_eq!(raft.role(), RoleName::PreCandidate);
}

/// The leader counts itself only if its own promise would survive a crash: with n2's alone there is no quorum.
#[test]
fn a_leader_counts_its_own_promise_once_its_disk_has_the_lease() {
    let mut raft = leader(Configuration::of_voters([1, 2, 3].map(NodeId)));
    let change = Change::SetLease(Some(Lease { duration_ms: 100, drift_ppm: 0 }));
    raft.propose_change(&[change]).unwrap();
    let writing = raft.ready();
    assert_eq!(writing.entries.len(), 1);
    for peer in [2, 3] {
        raft.step(message(peer, 1, MessageBody::AppendAccepted { matched: Index(2) })).unwrap();
    }
    assert_eq!(raft.commit(), Index(2), "committed by the other two");
    let renew_without_own = |raft: &mut Raft| {
        raft.tick();
        raft.tick();
        let messages = raft.ready().messages;
        let round = messages.iter().find_map(|message| match message.body {
            MessageBody::Heartbeat { round, lease: true, .. } => Some(round),
            _ => None,
        });
        let answer = MessageBody::HeartbeatResponse { round: round.unwrap(), leased: true, damaged: false };
        raft.step(message(2, 1, answer)).unwrap();
    };
    renew_without_own(&mut raft);
    assert!(!raft.status().has_lease);
    raft.persisted(writing.number);
    renew_without_own(&mut raft);
    assert!(raft.status().has_lease);
}

/// A lease is no licence to read what is not known to be committed: a fresh leader asks.
#[test]
fn a_lease_does_not_replace_the_noop() {
    let mut raft = fresh_leader(leased(100));
    raft.tick();
    raft.tick();
    let asks = |body: &MessageBody| matches!(body, MessageBody::Heartbeat { lease: true, .. });
    assert!(!settle(&mut raft).iter().any(asks), "it does not know what is committed");
    raft.step(message(2, 1, MessageBody::HeartbeatResponse { round: 1, leased: true, damaged: false }))
        .unwrap();
    assert!(!raft.status().has_lease);

    let mut raft = leader(leased(100));
    renew(&mut raft);
    raft.read_index(1).unwrap();
    assert_eq!(raft.ready().reads, [ReadState { context: 1, index: Some(Index(1)) }]);
    // Nor is a proposal under way part of what is read.
    raft.propose(Bytes::from_static(b"x")).unwrap();
    raft.read_index(2).unwrap();
    assert_eq!(raft.ready().reads, [ReadState { context: 2, index: Some(Index(1)) }]);
}

/// An answer to a question that an earlier life of this node asked is none to a question of this one: the leader may
/// have committed more between the two.
#[test]
fn an_answer_to_an_earlier_life_is_dropped() {
    let question_of = |seed: u64| {
        let hard_state = HardState { term: Term(1), voted_for: None };
        let config = Config { seed, ..Config::new(NodeId(1)) };
        let boot = Boot { hard_state, ..boot(Configuration::of_voters([1, 2, 3].map(NodeId))) };
        let mut raft = Raft::new(config, boot).unwrap();
        let heartbeat = MessageBody::Heartbeat { commit: Index::ZERO, round: 1, lease: false };
        raft.step(message(2, 1, heartbeat)).unwrap();
        raft.read_index(7).unwrap();
        let asked = settle(&mut raft).into_iter().find_map(|body| match body {
            MessageBody::ReadIndex { context } => Some(context),
            _ => None,
        });
        (raft, asked.expect("a question"))
    };
    let (_, before) = question_of(1);
    let (mut raft, now) = question_of(2);
    let answer = |context| MessageBody::ReadIndexResponse { context, index: Some(Index(3)) };
    raft.step(message(2, 1, answer(before))).unwrap();
    assert!(!raft.has_ready());
    raft.step(message(2, 1, answer(now))).unwrap();
    assert_eq!(raft.ready().reads, [ReadState { context: 7, index: Some(Index(3)) }]);
    // Nor does it count twice.
    raft.step(message(2, 1, answer(now))).unwrap();
    assert!(!raft.has_ready());
}

/// Several rounds may be under way. The answer to an earlier one counts from when that one was sent.
#[test]
fn an_answer_to_an_earlier_round_counts_from_that_round() {
    let mut raft = leader(leased(100));
    let mut rounds = Vec::new();
    for ms in [10_000, 10_050] {
        raft.observe_time(ms * MS);
        raft.tick();
        raft.tick();
        rounds.extend(settle(&mut raft).into_iter().find_map(|body| match body {
            MessageBody::Heartbeat { round, lease: true, .. } => Some(round),
            _ => None,
        }));
    }
    let answer = MessageBody::HeartbeatResponse { round: rounds[0], leased: true, damaged: false };
    raft.step(message(2, 1, answer)).unwrap();
    raft.observe_time(10_099 * MS);
    assert!(raft.status().has_lease);
    raft.observe_time(10_100 * MS);
    assert!(!raft.status().has_lease);
}
