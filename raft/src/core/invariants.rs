//! What must always hold. The core checks it after every input in builds with debug assertions: tests and the
//! simulator, not release servers.
//!
//! These are the invariants that one node can see by itself. What only the whole cluster can see (Election Safety,
//! Log Matching, Leader Completeness, State Machine Safety; §3.6.3, fig. 3.2) is checked by the tests that run
//! clusters.

use super::Raft;
use super::progress::{Progress, ProgressState};
use super::role::{Leader, Role};
use super::shared::Shared;
use super::types::{Entry, HardState, Index, LogId, NodeId, Payload};

/// How many entries, counted from the end of the log, are looked at one by one: enough for every test, little
/// enough not to slow down a long simulation.
const ENTRIES_CHECKED_MAX: usize = 128;

/// Panics, with the numbers, if an invariant does not hold.
pub fn check(raft: &Raft) {
    check_positions(&raft.shared);
    check_log(&raft.shared);
    check_configuration(&raft.shared);
    check_durability(&raft.shared);
    check_damage(raft);
    check_role(raft);
}

/// `applied <= given <= commit <= last`, and the log begins at or below what was given out.
fn check_positions(shared: &Shared) {
    let (applied, given, commit) = (shared.applied, shared.given, shared.commit);
    let (prev, last) = (shared.log.prev().index, shared.log.last().index);
    assert!(applied <= given, "applied {applied} beyond given {given}");
    assert!(given <= commit, "given {given} beyond commit {commit}");
    assert!(commit <= last, "commit {commit} beyond last {last}");
    assert!(prev <= given, "the log begins at {prev}, beyond given {given}");
    let (durable, offered) = (shared.log.durable(), shared.log.offered());
    assert!(durable <= offered, "durable {durable} beyond offered {offered}");
    assert!(offered <= last, "offered {offered} beyond last {last}");
    if shared.log.is_installing() {
        assert!(given == prev, "given {given} out of a log whose snapshot at {prev} is not durable");
    } else {
        assert!(given <= durable, "given {given} beyond durable {durable}");
    }
}

/// Contiguous, of terms that neither fall nor exceed the current one; its bytes add up.
fn check_log(shared: &Shared) {
    let log = &shared.log;
    let term = shared.term();
    let is_whole = log.entries().len() <= ENTRIES_CHECKED_MAX;
    let mut above = None;
    for entry in log.entries().rev().take(ENTRIES_CHECKED_MAX) {
        let id = entry.log_id();
        assert!(id.term <= term, "entry {id} of a term beyond the current one, {term}");
        if let Some(above) = above {
            check_neighbours(entry, above);
        }
        above = Some(entry);
    }
    if let Some(first) = above.filter(|_| is_whole) {
        let prev = log.prev();
        assert!(first.index == prev.index.next(), "the log begins at {prev}, then comes {}", first.log_id());
        assert!(first.term >= prev.term, "the term falls from {prev} to {}", first.log_id());
    }
    if is_whole {
        let bytes: u64 = log.entries().map(Entry::size_bytes).sum();
        assert!(log.bytes() == bytes, "the log counts {} bytes, but holds {bytes}", log.bytes());
    }
}

fn check_neighbours(entry: &Entry, above: &Entry) {
    let (low, high) = (entry.log_id(), above.log_id());
    assert!(low.index.next() == high.index, "a gap between {low} and {high}");
    assert!(low.term <= high.term, "the term falls from {low} to {high}");
}

/// The configuration in force is the newest in the log (rule 10).
fn check_configuration(shared: &Shared) {
    let (index, current) = shared.configurations.newest();
    let recent = shared.log.entries().rev().take(ENTRIES_CHECKED_MAX);
    let base = shared.configurations.base_index();
    let newest = recent.filter(|entry| entry.index > base).find_map(|entry| match &entry.payload {
        Payload::Configuration(configuration) => Some((entry.index, configuration)),
        Payload::Noop | Payload::Command(_) => None,
    });
    match newest {
        Some((at, configuration)) => {
            assert!(at == *index, "configuration of {index} in force, but {at} is newer");
            assert!(configuration == current, "the configuration in force is not the one at {at}");
        }
        None => {
            let seen_to = shared.log.last().index.0.saturating_sub(ENTRIES_CHECKED_MAX as u64);
            assert!(
                *index <= base || index.0 <= seen_to,
                "configuration of {index} in force, but the log has none there"
            );
        }
    }
    let last = shared.log.last().index;
    assert!(*index <= last, "configuration of {index}, beyond last {last}");
    assert!(current.flaw().is_none(), "{}: {current:?}", current.flaw().unwrap_or_default());
}

/// Nothing counts as written beyond what was handed out, and the hard state only moves on.
fn check_durability(shared: &Shared) {
    let offered = shared.log.offered();
    let mut number = None;
    for write in &shared.writes {
        assert!(number < Some(write.number), "writes out of order: {number:?}, {:?}", write.number);
        number = Some(write.number);
        if let Some(last) = write.last {
            assert!(last <= offered, "a write stands for {last}, beyond offered {offered}");
        }
    }
    check_later(shared.hard_state_durable, shared.hard_state_offered);
    check_later(shared.hard_state_offered, shared.hard_state);
}

fn check_later(before: HardState, after: HardState) {
    assert!(before.term <= after.term, "the term falls from {} to {}", before.term, after.term);
    if before.term == after.term && before.voted_for.is_some() {
        assert!(
            before.voted_for == after.voted_for,
            "two votes in term {}: {:?}, then {:?}",
            after.term,
            before.voted_for,
            after.voted_for
        );
    }
}

/// Who lost entries that it may have acknowledged has not got them back, and stands for no election (`damage`).
fn check_damage(raft: &Raft) {
    let Some(lost) = raft.shared.damage else { return };
    let durable = raft.shared.log.durable();
    if let Some(term) = raft.shared.log.term_at(durable) {
        assert!(
            LogId { term, index: durable } < lost,
            "damaged up to {lost}, but {durable}@{term} is durable"
        );
    }
    assert!(matches!(raft.role, Role::Follower(_)), "damaged up to {lost}, but {:?}", raft.role.name());
}

fn check_role(raft: &Raft) {
    let shared = &raft.shared;
    let (id, HardState { term, voted_for }) = (shared.id(), shared.hard_state);
    match &raft.role {
        Role::Follower(follower) => {
            assert!(follower.leader != Some(id), "{id} follows itself in term {term}");
        }
        Role::PreCandidate(_) => {}
        Role::Candidate(campaign) => {
            assert!(voted_for == Some(id), "{id} stands in term {term}, but voted for {voted_for:?}");
            let counts_itself = campaign.granted().contains(&id);
            let is_durable = shared.hard_state_durable == shared.hard_state;
            assert!(!counts_itself || is_durable, "{id} counts its own vote in {term} before it is durable");
        }
        Role::Leader(leader) => {
            assert!(voted_for == Some(id), "{id} leads term {term}, but voted for {voted_for:?}");
            assert!(!shared.log.is_installing(), "{id} leads term {term} on half an install");
            check_leader(shared, leader);
        }
    }
}

fn check_leader(shared: &Shared, leader: &Leader) {
    let last = shared.log.last();
    assert!(last.term == shared.term(), "the leader of {} ends its log at {last}", shared.term());
    let first = leader.first_index;
    assert!(first <= last.index, "leadership began at {first}, beyond last {last}");
    check_followers(shared, leader);
    check_changes(shared, leader);
    for (&peer, progress) in &leader.progress {
        check_progress(peer, progress, last.index, leader.reads.round);
    }
    let reads = &leader.reads;
    let (round, confirmed) = (reads.round, reads.confirmed);
    assert!(confirmed <= round, "round {confirmed} confirmed, but {round} is the last one begun");
    let mut before = (0, Index::ZERO);
    for read in &reads.pending {
        assert!(read.round > confirmed || read.index > shared.commit, "read {} was decided", read.context);
        assert!(read.round <= round + 1, "read {} waits for {}, after {round}", read.context, read.round);
        assert!(
            before.0 <= read.round && before.1 <= read.index,
            "read {} overtakes {before:?}",
            read.context
        );
        before = (read.round, read.index);
    }
}

/// What this leader did to the membership (§4.3): at most one configuration that is not committed, and voters change
/// only through a joint one. Of what earlier leaders did it may not know how far it is committed.
fn check_changes(shared: &Shared, leader: &Leader) {
    let own = shared.configurations.steps().filter(|(_, (index, _))| *index >= leader.first_index);
    let mut uncommitted = 0;
    for (before, (index, after)) in own {
        let same = before.voters == after.voters && before.voters_outgoing == after.voters_outgoing;
        let begins = !before.is_joint() && after.voters_outgoing == before.voters;
        let ends = before.is_joint() && !after.is_joint() && after.voters == before.voters;
        assert!(same || begins || ends, "voters change at {index} from {before:?} to {after:?}");
        uncommitted += usize::from(*index > shared.commit);
    }
    assert!(uncommitted <= 1, "{uncommitted} configurations are not committed, commit is {}", shared.commit);
}

/// A leader supplies the other members, and those who still have to learn that they are none (§4.2.2).
fn check_followers(shared: &Shared, leader: &Leader) {
    let mut expected = shared.configurations.current().members();
    expected.remove(&shared.id());
    for (id, leaving) in &leader.leaving {
        assert!(expected.insert(*id), "{id} is leaving, but is a member");
        let newest = shared.configurations.newest().0;
        assert!(leaving.index <= newest, "{id} leaves at {}, beyond the newest configuration", leaving.index);
    }
    assert!(
        leader.progress.keys().eq(expected.iter()),
        "progress of {:?}, but the other members are {expected:?}",
        leader.progress.keys()
    );
    let joining = &shared.configurations.current().joining;
    for id in leader.catching_up.keys() {
        assert!(joining.contains(id), "{id} is catching up, but is not to become a voter");
    }
}

fn check_progress(peer: NodeId, progress: &Progress, last: Index, round: u64) {
    let (matched, next) = (progress.matched, progress.next);
    assert!(matched < next, "{peer}: matched {matched}, next {next}");
    assert!(matched <= last, "{peer}: matched {matched} beyond last {last}");
    assert!(next <= last.next(), "{peer}: next {next}, last {last}");
    let acked = progress.acked_round;
    assert!(acked <= round, "{peer} answered round {acked}, the last one begun is {round}");
    let leased = progress.leased_round;
    assert!(leased <= acked, "{peer} promised in round {leased}, but answered up to {acked}");
    if progress.state != ProgressState::Replicate {
        let messages = progress.inflights.len();
        assert!(messages == 0, "{peer}: {messages} messages in flight while in {:?}", progress.state);
    }
}

/// What must not go back, as it was before an input.
pub(super) struct Before {
    hard_state: HardState,
    commit: Index,
    given: Index,
    applied: Index,
    /// The end of the log, if this node leads: a leader only appends (§3.5).
    led: Option<(HardState, Index)>,
}

impl Before {
    pub(super) fn of(raft: &Raft) -> Self {
        let shared = &raft.shared;
        let leads = matches!(raft.role, Role::Leader(_));
        Self {
            hard_state: shared.hard_state,
            commit: shared.commit,
            given: shared.given,
            applied: shared.applied,
            led: leads.then_some((shared.hard_state, shared.log.last().index)),
        }
    }

    pub(super) fn compare(&self, raft: &Raft) {
        let shared = &raft.shared;
        check_later(self.hard_state, shared.hard_state);
        for (what, before, after) in [
            ("commit", self.commit, shared.commit),
            ("given", self.given, shared.given),
            ("applied", self.applied, shared.applied),
        ] {
            assert!(before <= after, "{what} falls from {before} to {after}");
        }
        let Some((hard_state, last)) = self.led else { return };
        if matches!(raft.role, Role::Leader(_)) && shared.hard_state == hard_state {
            let now = shared.log.last().index;
            assert!(last <= now, "the leader's log falls from {last} to {now}");
        }
    }
}

#[cfg(test)]
mod tests;
