//! Linearizable reads without an entry in the log (§6.4).
//!
//! A leader may have been deposed without knowing it. So it notes its commit index when a read arrives, and then
//! asks, with a heartbeat round that *begins after* the read arrived, whether a quorum still follows it. If it
//! does, no later leader had committed anything before the read began. Reads that arrive together share a round;
//! a leader that is asked constantly runs a few rounds behind each other.
//!
//! A fresh leader does not know the commit index until its no-op is committed; its reads wait for that.
//! When leadership ends first, the read ends with `index: None`, and nothing is known.
//!
//! Shown in `testdata/reads/`.

use super::Raft;
use super::error::ReadIndexError;
use super::quorum;
use super::ready::ReadState;
use super::role::{Leader, PendingRead, Role};

/// Reading rounds under way at the same time. With one, a read waits half a round for its own to begin.
const ROUNDS_OPEN_MAX: u64 = 2;

impl Raft {
    pub(super) fn on_read_index(&mut self, context: u64) -> Result<(), ReadIndexError> {
        let hint = self.leader();
        let Role::Leader(leader) = &mut self.role else {
            return Err(ReadIndexError::NotLeader { hint });
        };
        if leader.reads.pending.len() >= self.shared.config.reads_pending_max {
            return Err(ReadIndexError::Overloaded);
        }
        if crate::mutant!("local-read") {
            let index = Some(self.shared.commit);
            self.shared.outbox.reads.push(ReadState { context, index });
            return Ok(());
        }
        let index = self.shared.commit.max(leader.first_index);
        let round = leader.reads.round + 1;
        leader.reads.pending.push_back(PendingRead { context, index, round });
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
            let decided = ReadState { context: read.context, index: Some(read.index) };
            self.shared.outbox.reads.push(decided);
        }
    }
}

impl Leader {
    /// Whether reads wait for a round to begin, and one may.
    pub(super) fn wants_round(&self) -> bool {
        let reads = &self.reads;
        reads.pending.back().is_some_and(|read| read.round > reads.round)
            && reads.round - reads.confirmed < ROUNDS_OPEN_MAX
    }
}
