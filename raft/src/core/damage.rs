//! A node whose disk lost entries that it had acknowledged.
//!
//! Raft counts on a node to remember what it acknowledged (§3.8). When the durable log is damaged, all behind the damage
//! is forgotten, and an entry that is committed may no longer be on a quorum of disks. What saves it is who may be
//! elected (the idea: Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018).
//!
//! The node knows *how far* its log may have reached: [`Damage::last`], which the log keeps durably until it is made
//! good. While its log ends before that:
//!
//! - It votes, and says that it would, only for a log at least as up to date as `last`. That is the vote it would have
//!   given with its log whole: the up-to-date test (§3.6.1) looks at nothing but the id of the last entry. So the proof
//!   of Leader Completeness (§3.6.3) stands word for word: a leader that this node helps to elect has every entry that
//!   it had acknowledged, as far as they were committed.
//! - It does not stand for election, not even when asked to (§3.10): it would count its own vote for a log that is less
//!   up to date than the one it had.
//! - A leader may still count an acknowledgement from before. It may: such a count means that no later leader can be
//!   elected here without the entry, and that holds. But the copy is gone, so it says with each answer that it is
//!   damaged; the leader then forgets how far this node was, and sends again what is missing.
//! - It does not believe a heartbeat's commit index, which leans on what it acknowledged before. An AppendEntries
//!   proves by itself how far the two logs agree.
//! - It promises leases as ever, and waits at boot for the longest one that it may have promised under a configuration
//!   which is now lost.
//!
//! It ends when the durable log has come to an id that is not less than `last`. Is that of the same term, then the
//! log holds the very entry, and with it all before it (Log Matching, §3.5). Is it of a later term, then the log is that
//! of a later leader up to there, and that leader had all that was committed before its term; what this node had
//! acknowledged in the leader's own term cannot lie behind `last`, whose term is earlier.
//!
//! Nothing is repaired from what stands whole behind the damage, and no leader repairs itself from followers. So the
//! cluster goes on as long as those who are damaged at the same time are a minority and the others are up; if entries
//! are lost on so many that nobody can be elected, it waits.
//!
//! Divergence: the dissertation has no such nodes (§11.7.3 names the problem). Shown in `testdata/storage/`.

use super::Raft;
use super::ready::Event;
use super::types::{Index, LogId};

/// What a node's durable log lost, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Damage {
    /// The log may have held, and this node acknowledged, everything up to this entry.
    pub last: LogId,
    /// The longest lease of any configuration that was in the log, in milliseconds.
    pub lease_ms: u32,
}

impl Raft {
    /// Whether entries that this node may have acknowledged are not in its durable log.
    pub(super) fn is_damaged(&self) -> bool {
        self.shared.damage.is_some()
    }

    /// Begins with the damage that the log was found with.
    pub(super) fn begin_damaged(&mut self, damage: Option<Damage>) {
        let last = self.shared.log.last();
        let Some(damage) = damage.filter(|damage| last < damage.last) else { return };
        self.shared.damage = Some(damage.last);
        self.shared.tell(Event::Damaged { last: damage.last });
    }

    /// More is durable: it may be all that was lost.
    pub(super) fn end_damage(&mut self) {
        let Some(lost) = self.shared.damage else { return };
        let durable = self.shared.log.durable();
        let Some(term) = self.shared.log.term_at(durable) else { return };
        let last = LogId { term, index: durable };
        if last >= lost {
            self.shared.damage = None;
            self.shared.tell(Event::Repaired { last });
        }
    }

    /// The log that a candidate's must not be behind (§3.6.1): this node's own, as far as it may have reached.
    pub(super) fn log_to_match(&self) -> LogId {
        let own = self.shared.log.last();
        let lost = self.shared.damage.filter(|_| !crate::mutant!("damaged-vote"));
        lost.map_or(own, |lost| lost.max(own))
    }

    /// The commit index of a heartbeat, as far as it may be believed.
    pub(super) fn believed_commit(&self, commit: Index) -> Index {
        if self.is_damaged() { self.shared.commit } else { commit }
    }
}
