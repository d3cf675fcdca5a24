//! Messages in: what a message must be, what its term does, and who handles it.
//!
//! The term rule of §3.3 stands here and nowhere else. Three exceptions to "a later term is adopted, an earlier one
//! refused" come with pre-vote, stickiness and check-quorum (§9.6, §4.2.3, §6.2), and are listed at
//! `observe_term`.

use super::Raft;
use super::error::StepError;
use super::message::{Message, MessageBody};
use super::role::Role;
use super::space::Space;
use super::types::{Entry, Index, LogId, NodeId, Payload, SnapshotMeta, Term};

/// Terms and indexes above this are nonsense; below it, counting on cannot overflow.
const NUMBER_MAX: u64 = u64::MAX / 2;

impl MessageBody {
    /// Whether only the leader of the message's term sends this.
    fn comes_from_leader(&self) -> bool {
        matches!(
            self,
            Self::AppendEntries { .. }
                | Self::Heartbeat { .. }
                | Self::InstallSnapshot { .. }
                | Self::TimeoutNow
        )
    }
}

impl Raft {
    pub(super) fn on_message(&mut self, message: Message) -> Result<(), StepError> {
        self.check_message(&message)?;
        if self.observe_term(&message) {
            self.dispatch(message);
        }
        Ok(())
    }

    /// Refuses what no correct peer sends. Nothing is changed before this has passed.
    fn check_message(&self, message: &Message) -> Result<(), StepError> {
        let shared = &self.shared;
        if message.to != shared.id() {
            return Err(StepError::NotForThisNode(message.to));
        }
        if message.from == shared.id() {
            return Err(StepError::FromThisNode);
        }
        if message.term.0 > NUMBER_MAX {
            return Err(StepError::OutOfRange);
        }
        if message.body.is_about_states() {
            return Err(StepError::AboutStates);
        }
        let is_current = message.term == shared.term();
        if is_current && message.body.comes_from_leader() {
            self.check_leader(message.term, message.from)?;
        }
        let last = shared.log.last().index;
        match &message.body {
            MessageBody::PreVote { next_term, .. } if *next_term != message.term.next() => {
                Err(StepError::PreVoteTerm { term: message.term, next_term: *next_term })
            }
            MessageBody::AppendEntries { prev, entries, .. } => check_entries(message.term, *prev, entries),
            // A leader may still take a damaged log for what it was; the index is then not believed.
            MessageBody::Heartbeat { .. } if self.is_damaged() => Ok(()),
            MessageBody::Heartbeat { commit, .. } if message.term >= shared.term() && *commit > last => {
                Err(StepError::BeyondLog { index: *commit, last })
            }
            MessageBody::InstallSnapshot { meta } => check_snapshot(message.term, meta),
            MessageBody::AppendAccepted { matched } if is_current => self.check_accepted(*matched),
            MessageBody::HeartbeatResponse { round, .. } if is_current => self.check_round(*round),
            _ => Ok(()),
        }
    }

    /// A term has one leader (§3.6.3, Election Safety).
    fn check_leader(&self, term: Term, other: NodeId) -> Result<(), StepError> {
        match self.leader() {
            Some(known) if known != other => Err(StepError::TwoLeaders { term, known, other }),
            _ => Ok(()),
        }
    }

    fn check_accepted(&self, matched: Index) -> Result<(), StepError> {
        let last = self.shared.log.last().index;
        match &self.role {
            Role::Leader(_) if matched > last => Err(StepError::BeyondLog { index: matched, last }),
            _ => Ok(()),
        }
    }

    fn check_round(&self, round: u64) -> Result<(), StepError> {
        match &self.role {
            Role::Leader(leader) if round > leader.reads.round => Err(StepError::RoundNotBegun(round)),
            _ => Ok(()),
        }
    }

    /// The term rule (§3.3): a later term is adopted, whatever the role; an earlier one is refused, and the sender
    /// is told. Says whether the message is to be handled.
    ///
    /// The exceptions:
    /// - A pre-vote moves no term; it is answered in any case, a refusal with this node's own term, so that later
    ///   terms spread (§9.6, etcd#8501; `testdata/election/prevote_spreads_term.txt`).
    /// - The answer to a pre-vote is bound to its question by `next_term`: a voter of an earlier term may well grant
    ///   one, and stays in its term (`testdata/election/prevote_of_an_earlier_term.txt`).
    /// - A request for a vote is not even looked at while this node hears a leader or has promised it a lease, unless
    ///   that leader asked for the election (§4.2.3, §6.4.1, §3.10; `testdata/election/stickiness.txt`).
    /// - A leader of an earlier term is answered, so that it steps down and this node gets back in: else a node
    ///   that was once ahead in terms could be shut out by the two rules above
    ///   (`testdata/election/stale_leader_is_taught.txt`).
    fn observe_term(&mut self, message: &Message) -> bool {
        let term = self.shared.term();
        if let MessageBody::PreVote { .. } = message.body {
            return true;
        }
        if message.term < term {
            crate::sometimes!("election/hears-of-an-earlier-term");
            self.teach(message);
            let is_vote = matches!(message.body, MessageBody::VoteResponse { .. });
            return matches!(message.body, MessageBody::PreVoteResponse { .. })
                || (is_vote && crate::mutant!("stale-votes"));
        }
        if message.term == term {
            return true;
        }
        let is_own_will = matches!(message.body, MessageBody::RequestVote { leadership_transfer: false, .. });
        if is_own_will && (self.hears_leader() || self.shared.clock.is_bound()) {
            crate::sometimes!("election/keeps-its-leader");
            return false;
        }
        if crate::mutant!("prevote-term") && matches!(message.body, MessageBody::PreVoteResponse { .. }) {
            return true;
        }
        let leader = message.body.comes_from_leader().then_some(message.from);
        self.become_follower(message.term, leader);
        true
    }

    /// Answers a message of an earlier term, if its sender would otherwise go on in that term.
    ///
    /// The answer must mean nothing but its term: the sender may have come to lead or to stand in this very term
    /// by the time it arrives, and would take the answer to an old question for one to a new question (rule 6).
    /// No round has number 0. Shown in `testdata/reads/old_round_confirms_nothing.txt`.
    fn teach(&mut self, message: &Message) {
        let is_request = matches!(message.body, MessageBody::RequestVote { .. });
        if is_request || message.body.comes_from_leader() {
            let space = Space::Ample;
            let body = MessageBody::HeartbeatResponse { round: 0, leased: false, space, damaged: false };
            self.shared.respond(message.from, body);
        }
    }

    /// Hands a message of the current term (or a pre-vote) to its handler.
    fn dispatch(&mut self, message: Message) {
        let Message { from, term, body, .. } = message;
        if body.comes_from_leader() {
            self.follow(from);
        }
        match body {
            MessageBody::PreVote { next_term, last } => self.on_pre_vote(from, next_term, last),
            MessageBody::PreVoteResponse { next_term, granted } => {
                self.on_pre_vote_response(from, next_term, granted);
            }
            MessageBody::RequestVote { last, leadership_transfer } => {
                self.on_request_vote(from, term, last, leadership_transfer);
            }
            MessageBody::VoteResponse { granted } => self.on_vote_response(from, granted),
            MessageBody::AppendEntries { prev, entries, commit } => {
                self.on_append_entries(from, prev, entries, commit);
            }
            MessageBody::AppendAccepted { matched } => self.on_append_accepted(from, matched),
            MessageBody::AppendRejected { prev_index, hint, damaged } => {
                self.on_append_rejected(from, prev_index, hint, damaged);
            }
            MessageBody::Heartbeat { commit, round, lease } => self.on_heartbeat(from, commit, round, lease),
            MessageBody::HeartbeatResponse { round, leased, space, damaged } => {
                self.on_heartbeat_response(from, round, leased, space, damaged);
            }
            MessageBody::InstallSnapshot { meta } => self.on_install_snapshot(from, meta),
            MessageBody::TimeoutNow => self.on_timeout_now(),
            MessageBody::ReadIndex { context } => self.on_forwarded_read(from, context),
            MessageBody::ReadIndexResponse { context, index } => self.on_read_answer(context, index),
            // Refused before it comes here.
            MessageBody::CompareHashes { .. }
            | MessageBody::HashesCompared(_)
            | MessageBody::StateCondemned { .. } => {}
            MessageBody::SnapshotWanted { .. } => {}
        }
    }
}

/// Entries must be contiguous behind `prev`, with terms that do not fall and do not exceed the leader's (rule 5), and
/// configurations that make sense.
fn check_entries(term: Term, prev: LogId, entries: &[Entry]) -> Result<(), StepError> {
    if prev.index.0 > NUMBER_MAX {
        return Err(StepError::OutOfRange);
    }
    let mut before = prev;
    for entry in entries {
        let at = entry.log_id();
        let is_sound = match &entry.payload {
            Payload::Configuration(configuration) => configuration.flaw().is_none(),
            Payload::Noop | Payload::Command(_) => true,
        };
        if at.index != before.index.next() || at.term < before.term || !is_sound {
            return Err(StepError::BrokenEntries { at });
        }
        before = at;
    }
    if before.term > term {
        return Err(StepError::BrokenEntries { at: before });
    }
    Ok(())
}

fn check_snapshot(term: Term, meta: &SnapshotMeta) -> Result<(), StepError> {
    if meta.last.index.0 > NUMBER_MAX {
        return Err(StepError::OutOfRange);
    }
    if meta.last.term > term || meta.configuration.flaw().is_some() {
        return Err(StepError::BrokenSnapshot(meta.last));
    }
    Ok(())
}
