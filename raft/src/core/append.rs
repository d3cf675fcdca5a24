//! The follower's side of replication.
//!
//! A follower trusts only what a message proves (rule 5): if it holds `prev`, then its log and the leader's are
//! the same up to there (Log Matching, §3.5), and behind it the message's entries are the leader's. So it cuts its
//! log only where an entry really differs, acknowledges at most what the message covered, and commits at most that.
//!
//! Shown in `testdata/replication/late_append.txt`, `reordered_appends.txt`, `prev_is_compacted.txt` and
//! `ack_waits_for_disk.txt`, and in `tests/core_api.rs`.

use super::Raft;
use super::message::MessageBody;
use super::types::{Entry, Index, LogId, NodeId};

impl Raft {
    /// Takes entries from the leader, or says where the logs may meet (`testdata/replication/backtracking.txt`).
    pub(super) fn on_append_entries(
        &mut self,
        from: NodeId,
        prev: LogId,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        if self.is_behind_with_apply() {
            return;
        }
        let reaches = Index(prev.index.0 + entries.len() as u64);
        // What is committed here is the leader's too (Leader Completeness, §3.6.3), also where this log is compacted
        // and cannot be compared.
        let is_known = prev.index <= self.shared.commit && !crate::mutant!("prev-compacted");
        if !is_known && !self.shared.log.matches(prev) {
            let hint = self.shared.log.last_within(prev);
            let damaged = self.is_damaged();
            let rejected = MessageBody::AppendRejected { prev_index: prev.index, hint, damaged };
            self.shared.respond(from, rejected);
            return;
        }
        if crate::mutant!("eager-trunc") && prev.index < self.shared.log.last().index {
            self.shared.truncate(prev.index.next());
        }
        self.take_entries(entries);
        self.shared.promise(from, MessageBody::AppendAccepted { matched: reaches });
        self.shared.commit_to(commit.min(reaches));
    }

    /// Appends what is new, cutting the log first if, and where, it differs.
    fn take_entries(&mut self, entries: Vec<Entry>) {
        let commit = self.shared.commit;
        let prev = self.shared.log.prev().index;
        for entry in entries {
            match self.shared.log.term_at(entry.index) {
                None if entry.index < prev => continue,
                Some(term) if term == entry.term => continue,
                Some(term) => {
                    let LogId { term: sent, index } = entry.log_id();
                    assert!(
                        index > commit,
                        "the leader's entry {index} is of term {sent}, here it is of term {term} and committed"
                    );
                    self.shared.truncate(index);
                }
                None => {}
            }
            self.shared.append(entry);
        }
    }

    /// Whether so much is committed here and not yet applied that more must wait. The append is dropped as if lost;
    /// the leader's window fills, and it asks again with each heartbeat. What is committed can always be applied,
    /// so this ends by itself.
    fn is_behind_with_apply(&self) -> bool {
        let shared = &self.shared;
        shared.applied < shared.commit && shared.log.bytes() / 2 > shared.config.log_bytes_max
    }

    /// The leader is there. If it asks for the promise of a lease, that is given if it can be (§6.4.1).
    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: Index, round: u64, lease: bool) {
        self.shared.commit_to(self.believed_commit(commit));
        let leased = lease && self.promise_lease();
        let damaged = self.is_damaged();
        self.shared.respond(from, MessageBody::HeartbeatResponse { round, leased, damaged });
    }
}
