//! The leader's side of replication.
//!
//! Proposals only append to the log. What each follower is to get is decided when a Ready is taken: everything
//! that was proposed since goes out in as few AppendEntries as its bounds allow, without waiting for the leader's
//! own disk (§10.2.1). Commit follows the answers: the highest index that a quorum holds durably, if its entry is
//! of the leader's own term (§3.6.2).
//!
//! | rule | story under `testdata/replication/` |
//! |---|---|
//! | entries are packed, without gaps (§3.5) | `batching` |
//! | appends in a pipeline within a window, beside the own write (§10.2.1) | `pipeline`, `own_disk_counts_late` |
//! | back-off by terms (§3.5) | `backtracking` |
//! | lost appends are sent again (§3.5) | `lost_append`, `unreachable`, `reordered_appends` |
//! | commit by counting only in the own term (§3.6.2) | `commit_only_own_term` |
//! | a full log refuses, and too much that is not committed or not applied | `overloaded`, `uncommitted_bound`, `unapplied_bound` |

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Raft;
use super::error::ProposeError;
use super::message::MessageBody;
use super::progress::Progress;
use super::quorum;
use super::role::{Leader, Role};
use super::shared::Shared;
use super::types::{Entry, Index, LogId, NodeId, Payload};

impl Raft {
    /// Leads, beginning with a no-op: with it, what earlier terms left can be committed (§3.6.2), and the leader
    /// learns how far it is (§6.4).
    pub(super) fn become_leader(&mut self) {
        let next = self.shared.log.last().index.next();
        let mut leader = Leader::new(BTreeMap::new(), next);
        // A former leader may have begun to let members go: whoever does not know yet will learn from its silence.
        leader.follow_configuration(&self.shared, next);
        let term = self.shared.term();
        self.enter(term, Role::Leader(leader));
        self.shared.append(Entry { term, index: next, payload: Payload::Noop });
    }

    pub(super) fn tick_leader(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.ticks_since_heartbeat += 1;
        let is_heartbeat_due = leader.ticks_since_heartbeat >= self.shared.config.heartbeat_ticks;
        if is_heartbeat_due {
            leader.ticks_since_heartbeat = 0;
            leader.begin_round(&mut self.shared, true);
        }
        for progress in leader.progress.values_mut() {
            progress.tick(self.shared.commit);
        }
        self.advance_reads();
        self.tick_leaving();
        self.tick_catching_up();
        self.tick_transfer(is_heartbeat_due);
        self.tick_stall();
        self.check_quorum();
    }

    /// Appends a command.
    ///
    /// Three bounds hold a leader back: all of the log in memory, what is not committed (followers that are slow or
    /// gone), what is committed and not applied (a slow state machine). All three are distances between positions in
    /// the log, which move on by themselves: there is no quota that could leak (cockroach#27774).
    pub(super) fn on_propose(&mut self, command: Bytes) -> Result<LogId, ProposeError> {
        let Role::Leader(leader) = &self.role else {
            return Err(ProposeError::NotLeader { hint: self.leader() });
        };
        if let Some(transfer) = leader.transfer {
            return Err(ProposeError::Transferring { to: transfer.to });
        }
        let id = LogId { term: self.shared.term(), index: self.shared.log.last().index.next() };
        let entry = Entry { term: id.term, index: id.index, payload: Payload::Command(command) };
        if !self.shared.has_room_for(&entry) {
            return Err(ProposeError::Overloaded);
        }
        self.shared.append(entry);
        Ok(id)
    }

    /// Whether any follower should be sent something.
    pub(super) fn wants_flush(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let last = self.shared.log.last().index;
        leader.wants_round() || leader.progress.values().any(|progress| progress.wants_append(last))
    }

    /// Sends each follower what it should be sent.
    pub(super) fn flush(&mut self) {
        self.ask_leader();
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.wants_round() {
            leader.begin_round(&mut self.shared, false);
        }
        for (&peer, progress) in &mut leader.progress {
            send_appends(&mut self.shared, peer, progress);
        }
        self.advance_reads();
    }

    /// The follower holds everything up to `matched`, durably.
    pub(super) fn on_append_accepted(&mut self, from: NodeId, matched: Index) {
        let reachable = self.shared.log.prev().index;
        let Some(progress) = self.progress_of(from) else { return };
        progress.heard();
        if progress.accepted(matched, reachable) {
            self.advance_commit();
            self.advance_transfer();
        }
        self.heard_from_leaving(from);
    }

    /// The logs do not meet where they were tried: go back, a term of disagreement at a time (§3.5).
    ///
    /// The follower's hint bounds where they can meet from its side, the leader's log bounds it from this side.
    /// Shown in `testdata/replication/backtracking.txt`.
    pub(super) fn on_append_rejected(&mut self, from: NodeId, prev_index: Index, hint: LogId, damaged: bool) {
        let bound = LogId { index: hint.index.min(prev_index), ..hint };
        let meet = if crate::mutant!("probe-stuck") {
            self.shared.log.last_within(bound).max(self.shared.log.prev())
        } else {
            self.shared.log.last_within(bound)
        };
        let Some(progress) = self.progress_of(from) else { return };
        progress.heard();
        if damaged {
            progress.forget(prev_index, meet.index);
        }
        progress.rejected(prev_index, meet);
    }

    pub(super) fn on_heartbeat_response(&mut self, from: NodeId, round: u64, leased: bool, damaged: bool) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.progress.get_mut(&from) else { return };
        progress.heard();
        progress.answered_heartbeat(round, leader.reads.regular_round, self.shared.log.last().index);
        if damaged {
            progress.ask();
        }
        if leased {
            self.on_lease_promised(from, round);
        }
        self.advance_reads();
        self.heard_from_leaving(from);
    }

    pub(super) fn on_unreachable(&mut self, peer: NodeId) {
        let Some(progress) = self.progress_of(peer) else { return };
        progress.lost();
    }

    pub(super) fn progress_of(&mut self, peer: NodeId) -> Option<&mut Progress> {
        match &mut self.role {
            Role::Leader(leader) => leader.progress.get_mut(&peer),
            _ => None,
        }
    }

    /// Advances the commit index to the highest one that a quorum holds durably.
    ///
    /// §3.6.2: counting replicas is safe only for the leader's own term; older entries are committed with it. The
    /// leader's own disk counts like any other, and only if the leader votes.
    /// Shown in `testdata/replication/commit_only_own_term.txt` and `own_disk_counts_late.txt`.
    pub(super) fn advance_commit(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let id = self.shared.id();
        let durable = self.shared.log.durable();
        let held = |peer: NodeId| {
            if peer == id {
                return durable;
            }
            leader.progress.get(&peer).map_or(Index::ZERO, |progress| progress.matched)
        };
        let is_overcounted = crate::mutant!("self-in-quorum") && !self.shared.is_voter();
        let short = usize::from(is_overcounted);
        let current = self.shared.configurations.current();
        let Some(index) = quorum::reached_short_of(current, short, held) else { return };
        let is_own = self.shared.log.term_at(index) == Some(self.shared.term()) || crate::mutant!("fig8");
        if index > self.shared.commit && is_own {
            self.shared.commit_to(index);
            self.advance_reads();
            self.advance_membership();
        }
    }
}

impl Leader {
    /// Broadcasts a heartbeat: the sign of life, the commit index, and a reading round all at once.
    pub(super) fn begin_round(&mut self, shared: &mut Shared, regular: bool) {
        self.reads.round += 1;
        if regular {
            self.reads.regular_round = self.reads.round;
        }
        let round = self.reads.round;
        let lease_from = self.begin_lease_round(shared, round);
        for (&peer, progress) in &mut self.progress {
            // A follower may only be told of what it is known to hold: the rest of its log may differ.
            let commit = shared.commit.min(progress.matched);
            progress.sent_heartbeat(commit, regular);
            let lease = lease_from.is_some_and(|index| progress.matched >= index);
            shared.send(peer, MessageBody::Heartbeat { commit, round, lease });
        }
    }
}

/// Sends one follower as much as it may be sent now.
fn send_appends(shared: &mut Shared, peer: NodeId, progress: &mut Progress) {
    while progress.wants_append(shared.log.last().index) {
        let prev_index = progress.next.prev();
        let Some(prev_term) = shared.log.term_at(prev_index) else {
            send_snapshot(shared, peer, progress);
            return;
        };
        let prev = LogId { term: prev_term, index: prev_index };
        let entries = if progress.may_carry_entries() {
            shared.log.pack(progress.next, shared.config.append_bytes_max)
        } else {
            Vec::new()
        };
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        let last = entries.last().map_or(prev_index, |entry| entry.index);
        let commit = shared.commit;
        progress.sent_append(last, bytes, commit);
        shared.send(peer, MessageBody::AppendEntries { prev, entries, commit });
    }
}

/// The log no longer reaches back to the follower: it needs a snapshot first (§5.3). One that has been silent is
/// asked first whether it is there at all; the answer to a heartbeat brings it back here.
fn send_snapshot(shared: &mut Shared, peer: NodeId, progress: &mut Progress) {
    if crate::mutant!("probe-stuck") || progress.silent_ticks >= shared.config.election_timeout_ticks {
        progress.pause();
        return;
    }
    progress.become_snapshot();
    shared.outbox.send_snapshots.push(peer);
}
