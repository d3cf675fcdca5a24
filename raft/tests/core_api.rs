//! What the core's public face promises, beside what the stories show: errors that leave no trace, boots that do not
//! fit, configurations that follow the log, bounds.

use bytes::Bytes;
use raft::core::*;

fn config(id: u64) -> Config {
    Config {
        election_timeout_ticks: 10,
        heartbeat_ticks: 2,
        append_bytes_max: 1000,
        inflight_messages_max: 4,
        inflight_bytes_max: 1000,
        log_bytes_max: 1000,
        reads_pending_max: 4,
        seed: 1,
        ..Config::new(NodeId(id))
    }
}

fn voters(ids: &[u64]) -> Configuration {
    Configuration::of_voters(ids.iter().copied().map(NodeId))
}

fn boot() -> Boot {
    Boot {
        hard_state: HardState::default(),
        prev: LogId::ZERO,
        entries: Vec::new(),
        applied: LogId::ZERO,
        configuration: voters(&[1, 2, 3]),
        damage: None,
    }
}

fn entry(term: u64, index: u64, payload: Payload) -> Entry {
    Entry { term: Term(term), index: Index(index), payload }
}

fn noop(term: u64, index: u64) -> Entry {
    entry(term, index, Payload::Noop)
}

fn configured(term: u64, index: u64, configuration: Configuration) -> Entry {
    entry(term, index, Payload::Configuration(configuration))
}

fn message(from: u64, to: u64, term: u64, body: MessageBody) -> Message {
    Message { from: NodeId(from), to: NodeId(to), term: Term(term), body }
}

fn append(prev: LogId, entries: Vec<Entry>, commit: u64) -> MessageBody {
    MessageBody::AppendEntries { prev, entries, commit: Index(commit) }
}

/// Takes every Ready and makes it durable and applied; returns them.
fn settle(raft: &mut Raft) -> Vec<Ready> {
    let mut readies = Vec::new();
    while raft.has_ready() {
        let ready = raft.ready();
        raft.persisted(ready.number);
        if let Some(meta) = &ready.snapshot {
            raft.applied(meta.last.index);
        }
        if let Some(last) = ready.committed.last() {
            raft.applied(last.index);
        }
        readies.push(ready);
    }
    readies
}

fn follower() -> Raft {
    Raft::new(config(1), boot()).unwrap()
}

fn leader() -> Raft {
    let mut raft = follower();
    raft.campaign();
    let pre = MessageBody::PreVoteResponse { next_term: Term(1), granted: true };
    raft.step(message(2, 1, 0, pre)).unwrap();
    settle(&mut raft);
    raft.step(message(2, 1, 1, MessageBody::VoteResponse { granted: true })).unwrap();
    settle(&mut raft);
    assert_eq!(raft.role(), RoleName::Leader);
    raft
}

/// Peers are not programmers: what no correct peer sends is refused, and changes nothing.
#[test]
fn a_bad_message_is_an_error_and_leaves_no_trace() {
    let meta = |term, index, ids: &[u64]| MessageBody::InstallSnapshot {
        meta: SnapshotMeta { last: LogId::new(term, index), configuration: voters(ids) },
    };
    let heartbeat = |commit| MessageBody::Heartbeat { commit: Index(commit), round: 1, lease: false };
    let broken = |at| StepError::BrokenEntries { at };
    let cases = [
        (follower(), message(2, 3, 1, MessageBody::TimeoutNow), StepError::NotForThisNode(NodeId(3))),
        (follower(), message(1, 1, 1, MessageBody::TimeoutNow), StepError::FromThisNode),
        (follower(), message(2, 1, u64::MAX, MessageBody::TimeoutNow), StepError::OutOfRange),
        (
            follower(),
            message(2, 1, 3, MessageBody::PreVote { next_term: Term(5), last: LogId::ZERO }),
            StepError::PreVoteTerm { term: Term(3), next_term: Term(5) },
        ),
        (follower(), message(2, 1, 3, append(LogId::new(0, u64::MAX), vec![], 0)), StepError::OutOfRange),
        (
            follower(),
            message(2, 1, 3, append(LogId::ZERO, vec![noop(1, 1), noop(1, 3)], 0)),
            broken(LogId::new(1, 3)),
        ),
        (follower(), message(2, 1, 3, append(LogId::ZERO, vec![noop(1, 2)], 0)), broken(LogId::new(1, 2))),
        (
            follower(),
            message(2, 1, 3, append(LogId::ZERO, vec![noop(2, 1), noop(1, 2)], 0)),
            broken(LogId::new(1, 2)),
        ),
        (follower(), message(2, 1, 3, append(LogId::ZERO, vec![noop(4, 1)], 0)), broken(LogId::new(4, 1))),
        (
            follower(),
            message(2, 1, 3, append(LogId::ZERO, vec![configured(1, 1, voters(&[]))], 0)),
            broken(LogId::new(1, 1)),
        ),
        (
            follower(),
            message(2, 1, 3, heartbeat(1)),
            StepError::BeyondLog { index: Index(1), last: Index(0) },
        ),
        (follower(), message(2, 1, 3, meta(4, 9, &[1])), StepError::BrokenSnapshot(LogId::new(4, 9))),
        (follower(), message(2, 1, 3, meta(3, 9, &[])), StepError::BrokenSnapshot(LogId::new(3, 9))),
        (follower(), message(2, 1, 3, meta(3, u64::MAX, &[1])), StepError::OutOfRange),
        (
            leader(),
            message(2, 1, 1, heartbeat(0)),
            StepError::TwoLeaders { term: Term(1), known: NodeId(1), other: NodeId(2) },
        ),
        (
            leader(),
            message(2, 1, 1, MessageBody::AppendAccepted { matched: Index(2) }),
            StepError::BeyondLog { index: Index(2), last: Index(1) },
        ),
        (
            leader(),
            message(2, 1, 1, MessageBody::HeartbeatResponse { round: 1, leased: false, damaged: false }),
            StepError::RoundNotBegun(1),
        ),
    ];
    for (mut raft, message, expected) in cases {
        let before = raft.clone();
        let shown = format!("{message:?}");
        assert_eq!(raft.step(message), Err(expected.clone()), "{shown}");
        assert_eq!(raft, before, "{shown} left a trace");
        assert!(!expected.to_string().is_empty());
    }
}

#[test]
fn a_second_leader_of_a_term_is_refused_by_a_follower_too() {
    let mut raft = follower();
    raft.step(message(2, 1, 1, append(LogId::ZERO, vec![noop(1, 1)], 0))).unwrap();
    let answer = raft.step(message(3, 1, 1, append(LogId::ZERO, vec![], 0)));
    let expected = StepError::TwoLeaders { term: Term(1), known: NodeId(2), other: NodeId(3) };
    assert_eq!(answer, Err(expected));
}

#[test]
fn a_boot_that_does_not_fit_is_refused() {
    let hard_state = HardState { term: Term(2), voted_for: None };
    let entries = vec![noop(1, 4), noop(2, 5)];
    let good = Boot { hard_state, prev: LogId::new(1, 3), entries, applied: LogId::new(1, 4), ..boot() };
    let raft = Raft::new(config(1), good.clone()).unwrap();
    assert_eq!((raft.commit(), raft.first_index()), (Index(4), Index(4)));
    assert_eq!(raft.last_log_id(), LogId::new(2, 5));
    let at_prev = Boot { applied: LogId::new(1, 3), ..good.clone() };
    assert_eq!(Raft::new(config(1), at_prev).unwrap().commit(), Index(3));

    let refused = |boot: Boot| Raft::new(config(1), boot).unwrap_err();
    let gap = Boot { entries: vec![noop(1, 4), noop(2, 6)], ..good.clone() };
    assert_eq!(refused(gap), ConfigError::LogBroken(LogId::new(2, 6)));
    let falling = Boot { entries: vec![noop(1, 4), noop(0, 5)], ..good.clone() };
    assert_eq!(refused(falling), ConfigError::LogBroken(LogId::new(0, 5)));
    let old = Boot { hard_state: HardState { term: Term(1), voted_for: None }, ..good.clone() };
    assert!(matches!(refused(old), ConfigError::TermBehindLog { .. }));
    let nobody = Boot { configuration: voters(&[]), ..good.clone() };
    assert!(matches!(refused(nobody), ConfigError::Configuration(_)));
    for applied in [LogId::new(2, 4), LogId::new(1, 2), LogId::new(2, 6)] {
        let elsewhere = Boot { applied, ..good.clone() };
        assert!(matches!(refused(elsewhere), ConfigError::AppliedNotInLog { .. }), "{applied}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let wrong: [fn(&mut Config); 10] = [
        |config| config.id = NodeId(0),
        |config| config.heartbeat_ticks = 0,
        |config| config.election_timeout_ticks = config.heartbeat_ticks,
        |config| config.election_timeout_ticks = u32::MAX,
        |config| config.inflight_messages_max = 0,
        |config| config.inflight_bytes_max = 0,
        |config| config.append_bytes_max = 0,
        |config| config.uncommitted_bytes_max = 0,
        |config| config.unapplied_bytes_max = 0,
        |config| config.hurried_election_ticks = 11,
    ];
    for change in wrong {
        let mut config = config(1);
        change(&mut config);
        let error = Raft::new(config, boot()).unwrap_err();
        assert!(matches!(error, ConfigError::Setting(_)), "{error}");
    }
}

/// §4.1, rule 10: the newest configuration in the log is in force, committed or not; what is cut off is no longer.
#[test]
fn the_configuration_follows_the_log() {
    let with = |term, index, ids: &[u64]| entry(term, index, Payload::Configuration(voters(ids)));
    let mut raft = follower();
    let entries = vec![noop(1, 1), with(1, 2, &[1, 2]), with(1, 3, &[1])];
    raft.step(message(2, 1, 1, append(LogId::ZERO, entries, 2))).unwrap();
    assert_eq!(raft.configuration(), &voters(&[1]));
    assert_eq!(raft.configuration_at(Index(2)), Some(&voters(&[1, 2])));
    assert_eq!(raft.configuration_at(Index(1)), Some(&voters(&[1, 2, 3])));

    // A leader of term 2 has something else at index 3 (canonical/raft#250).
    raft.step(message(3, 1, 2, append(LogId::new(1, 2), vec![noop(2, 3)], 3))).unwrap();
    assert_eq!(raft.configuration(), &voters(&[1, 2]));
    let events: Vec<Event> = settle(&mut raft).into_iter().flat_map(|ready| ready.events).collect();
    let changed =
        |index, ids: &[u64]| Event::ConfigurationChanged { index: Index(index), configuration: voters(ids) };
    let told: Vec<&Event> =
        events.iter().filter(|event| matches!(event, Event::ConfigurationChanged { .. })).collect();
    assert_eq!(told, [&changed(2, &[1, 2]), &changed(3, &[1]), &changed(2, &[1, 2])]);

    // Compaction past its entry does not lose it, nor does a second one (openraft dba24036).
    raft.compact(Index(2));
    raft.compact(Index(3));
    assert_eq!(raft.configuration(), &voters(&[1, 2]));
    assert_eq!(raft.configuration_at(Index(3)), Some(&voters(&[1, 2])));
    assert_eq!(raft.configuration_at(Index(2)), None);

    // A snapshot brings its own.
    let meta = SnapshotMeta { last: LogId::new(2, 9), configuration: voters(&[1, 3, 4]) };
    raft.step(message(3, 1, 2, MessageBody::InstallSnapshot { meta })).unwrap();
    assert_eq!(raft.configuration(), &voters(&[1, 3, 4]));
    assert_eq!(raft.configuration_at(Index(9)), Some(&voters(&[1, 3, 4])));

    // A restart finds it in the log again, above what the state machine knows.
    let hard_state = HardState { term: Term(2), voted_for: None };
    let entries = vec![noop(1, 1), with(1, 2, &[1, 2]), noop(2, 3)];
    let raft = Raft::new(config(1), Boot { hard_state, entries, ..boot() }).unwrap();
    assert_eq!(raft.configuration(), &voters(&[1, 2]));
}

/// etcd#10998: a node that does not know yet that it was made a voter votes all the same. It does not stand.
#[test]
fn who_is_no_voter_votes_but_does_not_stand() {
    let mut outsider = Raft::new(config(9), boot()).unwrap();
    outsider.campaign();
    (0..50).for_each(|_| outsider.tick());
    assert_eq!(outsider.role(), RoleName::Follower);
    let request = MessageBody::RequestVote { last: LogId::ZERO, leadership_transfer: false };
    outsider.step(message(1, 9, 1, request)).unwrap();
    let readies = settle(&mut outsider);
    let answers: Vec<&MessageBody> =
        readies.iter().flat_map(|ready| &ready.messages_after_persist).map(|m| &m.body).collect();
    assert_eq!(answers, [&MessageBody::VoteResponse { granted: true }]);
}

/// A follower that cannot apply fast enough takes no more than twice the bound; once it has applied and compacted, it
/// goes on.
#[test]
fn a_follower_behind_with_apply_takes_no_more() {
    let mut raft = follower();
    let bytes = Payload::Command(Bytes::from(vec![0; 500]));
    let mut taken = 0;
    for index in 1..10 {
        let prev = LogId { term: Term(u64::from(index > 1)), index: Index(index - 1) };
        raft.step(message(2, 1, 1, append(prev, vec![entry(1, index, bytes.clone())], index))).unwrap();
        while raft.has_ready() {
            let number = raft.ready().number;
            raft.persisted(number);
        }
        taken = raft.last_log_id().index.0;
        if taken < index {
            break;
        }
    }
    assert_eq!(taken, 4, "{} bytes", raft.log_bytes());
    raft.applied(Index(4));
    raft.step(message(2, 1, 1, append(LogId::new(1, 4), vec![entry(1, 5, bytes)], 5))).unwrap();
    assert_eq!(raft.last_log_id(), LogId::new(1, 5));
}

/// A seed is a whole core: the same inputs give the same state, byte for byte, and other seeds other timeouts.
#[test]
fn a_core_is_a_function_of_its_seed_and_inputs() {
    let ticks_to_campaign = |seed: u64| {
        let mut raft = Raft::new(Config { seed, ..config(1) }, boot()).unwrap();
        let copy = raft.clone();
        let mut ticks = 0u32;
        while raft.role() == RoleName::Follower {
            raft.tick();
            ticks += 1;
        }
        let mut again = copy;
        (0..ticks).for_each(|_| again.tick());
        assert_eq!(raft, again);
        assert_eq!(raft.ready(), again.ready());
        ticks
    };
    let timeouts: std::collections::BTreeSet<u32> = (0..200).map(ticks_to_campaign).collect();
    assert_eq!(timeouts, (10..20).collect(), "drawn from n..2n, and all of it");
}

/// Rule 5: what is committed is never cut. If a leader demands it, one of the two has lost its disk: stop.
#[test]
#[should_panic(expected = "and committed")]
fn what_is_committed_is_never_cut() {
    let mut raft = follower();
    raft.step(message(2, 1, 1, append(LogId::ZERO, vec![noop(1, 1)], 1))).unwrap();
    let _ = raft.step(message(3, 1, 2, append(LogId::ZERO, vec![noop(2, 1)], 1)));
}

#[test]
#[should_panic(expected = "but the newest Ready is")]
fn only_a_ready_that_was_given_out_can_be_durable() {
    follower().persisted(ReadyNumber(1));
}

#[test]
#[should_panic(expected = "but only 0 was given out")]
fn only_what_was_given_out_can_be_applied() {
    follower().applied(Index(1));
}

#[test]
#[should_panic(expected = "applied is 0")]
fn only_what_is_applied_can_be_compacted() {
    leader().compact(Index(1));
}

/// Several Readies may be under way; one report speaks for all up to it.
#[test]
fn one_report_speaks_for_several_readies() {
    let mut raft = leader();
    let ids: Vec<LogId> = (0..3)
        .map(|_| {
            let id = raft.propose(Bytes::from_static(b"x")).unwrap();
            assert_eq!(raft.ready().entries.len(), 1);
            id
        })
        .collect();
    assert_eq!(raft.status().durable, Index(1));
    let last = raft.ready().number;
    raft.persisted(last);
    assert_eq!(raft.status().durable, ids[2].index);
}

/// A write that was under way when a snapshot replaced the log stands for nothing in the new log.
#[test]
fn a_write_from_before_an_install_does_not_count() {
    let mut raft = follower();
    let old = (1..=6).map(|index| noop(1, index)).collect();
    raft.step(message(2, 1, 1, append(LogId::ZERO, old, 0))).unwrap();
    let writing_old = raft.ready().number;
    let meta = SnapshotMeta { last: LogId::new(2, 3), configuration: voters(&[1, 2, 3]) };
    raft.step(message(3, 1, 2, MessageBody::InstallSnapshot { meta })).unwrap();
    let new = (4..=8).map(|index| noop(2, index)).collect();
    raft.step(message(3, 1, 2, append(LogId::new(2, 3), new, 8))).unwrap();
    let writing_new = raft.ready().number;
    raft.persisted(writing_old);
    assert_eq!(raft.status().durable, Index(0));
    assert!(!raft.has_ready(), "nothing behind a snapshot is given out before the install is durable");
    raft.persisted(writing_new);
    assert_eq!(raft.status().durable, Index(8));
    assert_eq!(raft.ready().committed.len(), 5);
}

/// Rule 5: an append proves nothing about what lies behind its entries, so nothing there is committed by it, and it is
/// acknowledged only as far as it goes. 3@1 here is what an old leader left.
#[test]
fn a_commit_index_reaches_no_further_than_its_append() {
    let mut raft = follower();
    let old = (1..=3).map(|index| noop(1, index)).collect();
    raft.step(message(2, 1, 1, append(LogId::ZERO, old, 0))).unwrap();
    raft.step(message(3, 1, 2, append(LogId::new(1, 1), vec![noop(1, 2)], 9))).unwrap();
    assert_eq!(raft.commit(), Index(2));
    let ready = raft.ready();
    let last = ready.messages_after_persist.last().map(|message| &message.body);
    assert_eq!(last, Some(&MessageBody::AppendAccepted { matched: Index(2) }));
    assert_eq!(raft.last_log_id(), LogId::new(1, 3), "what does not differ is not cut");
}

/// A snapshot may end with an entry of an earlier term than the one its receiver is in (willemt/raft#118).
#[test]
fn a_snapshot_does_not_take_the_term_back() {
    let mut raft = follower();
    let meta = SnapshotMeta { last: LogId::new(1, 3), configuration: voters(&[1, 2, 3]) };
    raft.step(message(2, 1, 4, MessageBody::InstallSnapshot { meta })).unwrap();
    assert_eq!((raft.hard_state().term, raft.commit()), (Term(4), Index(3)));
}

/// What the byte limits count of a configuration is all of it: addresses are as long as users like.
#[test]
fn a_configuration_counts_with_its_addresses() {
    let bare = configured(1, 1, voters(&[1, 2, 3]));
    let member = Member { address: "a".repeat(500), context: Bytes::from(vec![0; 300]), ..Member::default() };
    let nodes = [(NodeId(1), member)].into();
    let addressed = configured(1, 1, Configuration { nodes, ..voters(&[1, 2, 3]) });
    assert!(addressed.size_bytes() >= bare.size_bytes() + 800);
}
