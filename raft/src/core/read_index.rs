//! Linearizable reads without an entry in the log (§6.4).
//!
//! A leader may have been deposed without knowing it. So it notes its commit index when a read arrives, and then
//! asks, with a heartbeat round that *begins after* the read arrived, whether a quorum still follows it. If it
//! does, no later leader had committed anything before the read began. Reads that arrive together share a round;
//! a leader that is asked constantly runs a few rounds behind each other. With a lease it need not ask (`lease`).
//!
//! A fresh leader does not know the commit index until its no-op is committed; its reads wait for that.
//! When leadership ends first, the read ends with `index: None`, and nothing is known.
//!
//! A member that does not lead asks the leader for the index, and reads from its own state once it has applied that far
//! (§6.4): so reads are spread over all members, learners included. All reads that come before one Ready share one
//! question; the question counts as a read of the leader's. It ends with `index: None` if another leader is followed,
//! if the leader would not say, or if it has not answered for an election timeout: the question or the answer was lost.
//!
//! Shown in `testdata/reads/`.

use super::Raft;
use super::error::ReadIndexError;
use super::message::MessageBody;
use super::quorum;
use super::ready::ReadState;
use super::role::{Leader, PendingRead, Question, Role};
use super::shared::Shared;
use super::types::{Index, NodeId};

/// Reading rounds under way at the same time. With one, a read waits half a round for its own to begin.
const ROUNDS_OPEN_MAX: u64 = 2;

impl Raft {
    pub(super) fn on_read_index(&mut self, context: u64) -> Result<(), ReadIndexError> {
        let reads_max = self.shared.config.reads_pending_max;
        match &mut self.role {
            Role::Leader(_) => self.begin_read(None, context),
            Role::Follower(follower) if follower.leader.is_some() => {
                if follower.reads.len() >= reads_max {
                    return Err(ReadIndexError::Overloaded);
                }
                follower.reads.unasked.push(context);
                Ok(())
            }
            _ => Err(ReadIndexError::NotLeader { hint: None }),
        }
    }

    /// A member asks how far it must have applied.
    pub(super) fn on_forwarded_read(&mut self, from: NodeId, context: u64) {
        if self.begin_read(Some(from), context).is_err() {
            crate::sometimes!("reads/forwarded-and-refused");
            self.shared.respond(from, MessageBody::ReadIndexResponse { context, index: None });
        }
    }

    fn begin_read(&mut self, asker: Option<NodeId>, context: u64) -> Result<(), ReadIndexError> {
        let has_lease = self.has_lease();
        let Role::Leader(leader) = &mut self.role else {
            return Err(ReadIndexError::NotLeader { hint: None });
        };
        if leader.reads.pending.len() >= self.shared.config.reads_pending_max {
            return Err(ReadIndexError::Overloaded);
        }
        if has_lease || crate::mutant!("local-read") {
            crate::sometimes!("reads/by-lease");
            let index = self.shared.commit;
            decide(&mut self.shared, asker, context, index);
            return Ok(());
        }
        let index = self.shared.commit.max(leader.first_index);
        let round = leader.reads.round + 1;
        leader.reads.pending.push_back(PendingRead { asker, context, index, round });
        Ok(())
    }

    /// Hands out the reads whose round a quorum has answered and whose index is committed.
    pub(super) fn advance_reads(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        let id = self.shared.id();
        let answered = |peer| {
            if peer == id {
                return leader.reads.round;
            }
            leader.progress.get(&peer).map_or(0, |progress| progress.acked_round)
        };
        let short = usize::from(crate::mutant!("read-quorum"));
        let confirmed = quorum::reached_short_of(self.shared.configurations.current(), short, answered);
        let reads = &mut leader.reads;
        reads.confirmed = reads.confirmed.max(confirmed.unwrap_or(0));
        let (confirmed, commit) = (reads.confirmed, self.shared.commit);
        while let Some(read) =
            reads.pending.pop_front_if(|read| read.round <= confirmed && read.index <= commit)
        {
            decide(&mut self.shared, read.asker, read.context, read.index);
        }
    }

    /// Whether reads wait to be asked about.
    pub(super) fn wants_question(&self) -> bool {
        matches!(&self.role, Role::Follower(follower) if !follower.reads.unasked.is_empty())
    }

    /// Asks the leader, once for all reads that have come since the last Ready.
    pub(super) fn ask_leader(&mut self) {
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(leader) = follower.leader.filter(|_| !follower.reads.unasked.is_empty()) else { return };
        let number = self.shared.next_question;
        self.shared.next_question = number.wrapping_add(1);
        let contexts = std::mem::take(&mut follower.reads.unasked);
        crate::sometimes!("reads/asks-the-leader");
        follower.reads.asked.push_back(Question { number, contexts, ticks: 0 });
        self.shared.respond(leader, MessageBody::ReadIndex { context: number });
    }

    pub(super) fn on_read_answer(&mut self, number: u64, index: Option<Index>) {
        let Role::Follower(follower) = &mut self.role else { return };
        let asked = &mut follower.reads.asked;
        let at = asked.iter().position(|question| question.number == number);
        let Some(question) = at.and_then(|at| asked.remove(at)) else { return };
        answer(&mut self.shared, question.contexts, index);
    }

    /// Gives up questions that were not answered for an election timeout.
    pub(super) fn tick_questions(&mut self) {
        let Role::Follower(follower) = &mut self.role else { return };
        let patience = self.shared.config.election_timeout_ticks;
        for question in &mut follower.reads.asked {
            question.ticks += 1;
        }
        while let Some(question) = follower.reads.asked.pop_front_if(|question| question.ticks >= patience) {
            answer(&mut self.shared, question.contexts, None);
        }
    }

    /// The reads of a role end with it.
    pub(super) fn forget_reads(&mut self, old: Role) {
        let shared = &mut self.shared;
        match old {
            Role::Leader(leader) => {
                let own = leader.reads.pending.into_iter().filter(|read| read.asker.is_none());
                answer(shared, own.map(|read| read.context), None);
                shared.outbox.send_snapshots.clear();
            }
            Role::Follower(follower) => {
                let asked = follower.reads.asked.into_iter().flat_map(|question| question.contexts);
                answer(shared, asked.chain(follower.reads.unasked), None);
            }
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }
}

/// Tells whoever asked, this node's caller or another member.
fn decide(shared: &mut Shared, asker: Option<NodeId>, context: u64, index: Index) {
    match asker {
        None => answer(shared, [context], Some(index)),
        Some(peer) => shared.respond(peer, MessageBody::ReadIndexResponse { context, index: Some(index) }),
    }
}

fn answer(shared: &mut Shared, contexts: impl IntoIterator<Item = u64>, index: Option<Index>) {
    let decided = contexts.into_iter().map(|context| ReadState { context, index });
    shared.outbox.reads.extend(decided);
}

impl Leader {
    /// Whether reads wait for a round to begin, and one may.
    pub(super) fn wants_round(&self) -> bool {
        let reads = &self.reads;
        reads.pending.back().is_some_and(|read| read.round > reads.round)
            && reads.round - reads.confirmed < ROUNDS_OPEN_MAX
    }
}
