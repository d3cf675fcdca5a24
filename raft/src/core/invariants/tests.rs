//! Every invariant is broken once, on purpose, and must be noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::super::*;
use super::*;

fn follower() -> Raft {
    let config = Config {
        election_timeout_ticks: 10,
        heartbeat_ticks: 2,
        append_bytes_max: 1000,
        inflight_messages_max: 4,
        inflight_bytes_max: 1000,
        log_bytes_max: 10_000,
        reads_pending_max: 4,
        ..Config::new(NodeId(1))
    };
    let boot = Boot {
        hard_state: HardState::default(),
        prev: LogId::ZERO,
        entries: Vec::new(),
        applied: LogId::ZERO,
        configuration: Configuration::of_voters([1, 2, 3].map(NodeId)),
        damage: None,
    };
    Raft::new(config, boot).unwrap()
}

fn persist(raft: &mut Raft) {
    while raft.has_ready() {
        let number = raft.ready().number;
        raft.persisted(number);
    }
}

fn candidate() -> Raft {
    let mut raft = follower();
    raft.campaign();
    let granted = MessageBody::PreVoteResponse { next_term: Term(1), granted: true };
    raft.step(Message { from: NodeId(2), to: NodeId(1), term: Term(0), body: granted }).unwrap();
    assert_eq!(raft.role(), RoleName::Candidate);
    raft
}

/// Leads term 1; five entries, all but the last committed and given out, nothing applied.
fn leader() -> Raft {
    let mut raft = candidate();
    persist(&mut raft);
    let from_n2 = |body| Message { from: NodeId(2), to: NodeId(1), term: Term(1), body };
    raft.step(from_n2(MessageBody::VoteResponse { granted: true })).unwrap();
    for _ in 0..4 {
        raft.propose(Bytes::from_static(b"x")).unwrap();
    }
    persist(&mut raft);
    raft.step(from_n2(MessageBody::AppendAccepted { matched: Index(4) })).unwrap();
    persist(&mut raft);
    assert_eq!((raft.role(), raft.commit()), (RoleName::Leader, Index(4)));
    raft
}

fn led(raft: &mut Raft) -> &mut Leader {
    match &mut raft.role {
        Role::Leader(leader) => leader,
        _ => panic!("not the leader"),
    }
}

fn noop(term: u64, index: u64) -> Entry {
    Entry { term: Term(term), index: Index(index), payload: Payload::Noop }
}

fn message_of(result: std::thread::Result<()>) -> String {
    match result {
        Ok(()) => "nothing".to_owned(),
        Err(payload) => payload.downcast_ref::<String>().cloned().unwrap_or_else(|| "?".to_owned()),
    }
}

/// Breaks a core, and demands that the check says so in these words.
fn breaking(mut raft: Raft, words: &str, wrong: impl FnOnce(&mut Raft)) {
    check(&raft);
    wrong(&mut raft);
    let said = message_of(catch_unwind(AssertUnwindSafe(|| check(&raft))));
    assert!(said.contains(words), "expected `{words}`, was told `{said}`");
}

#[test]
fn positions() {
    breaking(leader(), "applied 5 beyond given 4", |raft| raft.shared.applied = Index(5));
    breaking(leader(), "given 5 beyond commit 4", |raft| raft.shared.given = Index(5));
    breaking(leader(), "commit 6 beyond last 5", |raft| raft.shared.commit = Index(6));
    breaking(leader(), "the log begins at 4, beyond given 3", |raft| {
        raft.shared.log.compact(Index(4));
        raft.shared.given = Index(3);
    });
    breaking(leader(), "given 4 beyond durable 3", |raft| {
        raft.shared.log.truncate(Index(4));
        raft.shared.log.append(noop(1, 4));
        raft.shared.log.append(noop(1, 5));
    });
    breaking(leader(), "given 7 out of a log whose snapshot at 6 is not durable", |raft| {
        raft.shared.log.reset(LogId::new(1, 6));
        raft.shared.log.append(noop(1, 7));
        (raft.shared.commit, raft.shared.given) = (Index(7), Index(7));
    });
}

#[test]
fn log() {
    breaking(leader(), "of a term beyond the current one", |raft| raft.shared.log.append(noop(2, 6)));
    breaking(leader(), "a gap between 3@1 and 5@1", |raft| {
        let entries = [1, 2, 3, 5].map(|index| noop(1, index));
        raft.shared.log = log::Log::new(LogId::ZERO, entries.into());
    });
    breaking(leader(), "the term falls from 4@1 to 5@0", |raft| {
        let entries = [noop(1, 3), noop(1, 4), noop(0, 5)];
        raft.shared.log = log::Log::new(LogId::new(1, 2), entries.into());
    });
    breaking(leader(), "the log begins at 2@1, then comes 4@1", |raft| {
        raft.shared.log = log::Log::new(LogId::new(1, 2), [noop(1, 4), noop(1, 5)].into());
    });
    breaking(leader(), "the term falls from 4@1 to 5@0", |raft| {
        raft.shared.log = log::Log::new(LogId::new(1, 4), [noop(0, 5)].into());
    });
}

#[test]
fn configuration() {
    let joint = |index| Entry {
        term: Term(1),
        index: Index(index),
        payload: Payload::Configuration(Configuration::of_voters([NodeId(1)])),
    };
    breaking(leader(), "configuration of 0 in force, but 6 is newer", |raft| {
        raft.shared.log.append(joint(6));
    });
    breaking(leader(), "configuration of 6 in force, but the log has none there", |raft| {
        raft.shared.configurations.appended(&joint(6));
    });
    breaking(leader(), "the configuration in force is not the one at 6", |raft| {
        let mut other = joint(6);
        other.payload = Payload::Configuration(Configuration::of_voters([NodeId(2)]));
        raft.shared.log.append(other);
        raft.shared.configurations.appended(&joint(6));
    });
}

#[test]
fn durability() {
    breaking(leader(), "writes out of order", |raft| {
        for number in [8, 7] {
            raft.shared.writes.push_back(shared::Write {
                number: ReadyNumber(number),
                hard_state: None,
                last: None,
            });
        }
    });
    breaking(leader(), "a write stands for 9, beyond offered 5", |raft| {
        let write = shared::Write { number: ReadyNumber(9), hard_state: None, last: Some(Index(9)) };
        raft.shared.writes.push_back(write);
    });
    breaking(leader(), "the term falls from 2 to 1", |raft| {
        raft.shared.hard_state_offered.term = Term(2);
    });
    breaking(leader(), "two votes in term 1", |raft| {
        raft.shared.hard_state_durable.voted_for = Some(NodeId(3));
    });
}

#[test]
fn roles() {
    breaking(follower(), "n1 follows itself", |raft| {
        let timer = raft.shared.draw_timer();
        raft.role = Role::Follower(Follower::new(Some(NodeId(1)), timer));
    });
    breaking(candidate(), "but voted for None", |raft| raft.shared.hard_state.voted_for = None);
    breaking(candidate(), "counts its own vote in 1 before it is durable", |raft| {
        let configuration = raft.configuration().clone();
        let Role::Candidate(campaign) = &mut raft.role else { panic!("not a candidate") };
        campaign.record(NodeId(1), true, &configuration);
    });
    breaking(leader(), "leads term 1, but voted for None", |raft| {
        for state in [
            &mut raft.shared.hard_state,
            &mut raft.shared.hard_state_offered,
            &mut raft.shared.hard_state_durable,
        ] {
            state.voted_for = None;
        }
    });
    breaking(leader(), "the leader of 2 ends its log at 5@1", |raft| {
        raft.shared.hard_state.term = Term(2);
    });
    breaking(leader(), "leadership began at 6, beyond last 5", |raft| led(raft).first_index = Index(6));
}

#[test]
fn progress() {
    fn n2(raft: &mut Raft) -> &mut Progress {
        led(raft).progress.get_mut(&NodeId(2)).unwrap()
    }
    breaking(leader(), "but the other members are {n2, n3}", |raft| {
        led(raft).progress.remove(&NodeId(3));
    });
    breaking(leader(), "n2: matched 4, next 4", |raft| n2(raft).next = Index(4));
    breaking(leader(), "n2: matched 6 beyond last 5", |raft| {
        (n2(raft).matched, n2(raft).next) = (Index(6), Index(7));
    });
    breaking(leader(), "n2: next 7, last 5", |raft| n2(raft).next = Index(7));
    breaking(leader(), "n2 answered round 3", |raft| n2(raft).acked_round = 3);
    breaking(leader(), "n2 promised in round 3, but answered up to 0", |raft| n2(raft).leased_round = 3);
    breaking(leader(), "n2: 1 messages in flight while in Probe", |raft| {
        n2(raft).state = ProgressState::Probe;
    });
}

/// Begins a change, and returns the leader with its uncommitted configuration at 6.
fn changing(changes: &[Change]) -> Raft {
    let mut raft = leader();
    raft.propose_change(changes).unwrap();
    raft
}

fn new_voter(id: u64) -> Change {
    Change::AddVoter { id: NodeId(id), member: Member::default() }
}

#[test]
fn membership() {
    breaking(leader(), "n3 is leaving, but is a member", |raft| {
        led(raft).leaving.insert(NodeId(3), role::Leaving { index: Index(0), ticks: 0 });
    });
    breaking(leader(), "n4 leaves at 9, beyond the newest configuration", |raft| {
        led(raft).leaving.insert(NodeId(4), role::Leaving { index: Index(9), ticks: 0 });
    });
    breaking(leader(), "n3 is catching up, but is not to become a voter", |raft| {
        let round = role::CatchUp { goal: Index(1), ticks: 0, is_close: false };
        led(raft).catching_up.insert(NodeId(3), round);
    });
    let append = |raft: &mut Raft, index, configuration: Configuration| {
        let payload = Payload::Configuration(configuration);
        raft.shared.append(Entry { term: Term(1), index: Index(index), payload });
        let Role::Leader(leader) = &mut raft.role else { panic!("not the leader") };
        leader.follow_configuration(&raft.shared, Index(index));
    };
    breaking(changing(&[new_voter(4)]), "2 configurations are not committed", |raft| {
        let next = confchange::leave(raft.configuration());
        append(raft, 7, next);
    });
    breaking(leader(), "voters change at 6", |raft| {
        append(raft, 6, Configuration::of_voters([1, 2].map(NodeId)));
    });
    breaking(changing(&[new_voter(4)]), "voters change at 7", |raft| {
        raft.shared.log.persisted(Index(5));
        raft.shared.log.offer();
        raft.shared.log.persisted(Index(6));
        raft.shared.commit = Index(6);
        append(raft, 7, Configuration::of_voters([1, 2].map(NodeId)));
    });
}

/// Nobody is two things at once, in a configuration in force.
#[test]
fn configurations_make_sense() {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<std::collections::BTreeSet<_>>();
    let of_three = || Configuration::of_voters([1, 2, 3].map(NodeId));
    let cases = [
        (Configuration { voters: ids(&[]), ..of_three() }, "nobody votes"),
        (Configuration { learners: ids(&[3]), ..of_three() }, "a learner votes"),
        (Configuration { voters_outgoing: ids(&[4]), learners: ids(&[4]), ..of_three() }, "a learner votes"),
        (Configuration { learners_next: ids(&[4]), ..of_three() }, "no voter on its way out"),
        (
            Configuration { voters_outgoing: ids(&[3]), learners_next: ids(&[3]), ..of_three() },
            "no voter on its way out",
        ),
        (Configuration { joining: ids(&[4]), ..of_three() }, "who is to become a voter is no learner"),
        (Configuration { removed: ids(&[3]), ..of_three() }, "a former member is one"),
        (
            Configuration { nodes: [(NodeId(4), Member::default())].into(), ..of_three() },
            "who has an address is no member",
        ),
    ];
    for (configuration, words) in cases {
        breaking(follower(), words, |raft| {
            raft.shared.configurations = configuration::Configurations::new(Index(0), configuration);
        });
    }
}

#[test]
fn reads() {
    fn read(round: u64, index: u64) -> role::PendingRead {
        role::PendingRead { asker: None, context: 7, index: Index(index), round }
    }
    breaking(leader(), "round 1 confirmed, but 0 is the last one begun", |raft| {
        led(raft).reads.confirmed = 1;
    });
    breaking(leader(), "read 7 was decided", |raft| led(raft).reads.pending.push_back(read(0, 1)));
    breaking(leader(), "read 7 waits for 2, after 0", |raft| {
        led(raft).reads.pending.push_back(read(2, 1));
    });
    breaking(leader(), "read 7 overtakes", |raft| {
        led(raft).reads.pending.extend([read(1, 4), read(1, 3)]);
    });
}

/// Changes a core between two looks at it, and demands that the comparison says so in these words.
fn going_back(mut raft: Raft, words: &str, wrong: impl FnOnce(&mut Raft)) {
    let before = Before::of(&raft);
    before.compare(&raft);
    wrong(&mut raft);
    let said = message_of(catch_unwind(AssertUnwindSafe(|| before.compare(&raft))));
    assert!(said.contains(words), "expected `{words}`, was told `{said}`");
}

#[test]
fn nothing_goes_back() {
    going_back(leader(), "commit falls from 4 to 3", |raft| raft.shared.commit = Index(3));
    going_back(leader(), "given falls from 4 to 3", |raft| raft.shared.given = Index(3));
    let mut applied = leader();
    applied.applied(Index(4));
    going_back(applied, "applied falls from 4 to 2", |raft| raft.shared.applied = Index(2));
    going_back(leader(), "the term falls from 1 to 0", |raft| raft.shared.hard_state.term = Term(0));
    going_back(leader(), "two votes in term 1", |raft| {
        raft.shared.hard_state.voted_for = Some(NodeId(2));
    });
    going_back(leader(), "the leader's log falls from 5 to 4", |raft| raft.shared.log.truncate(Index(5)));
}
