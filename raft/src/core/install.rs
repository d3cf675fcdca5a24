//! Snapshots for followers behind the compaction point, on both sides (§5.3).
//!
//! The leader only says who needs one; the file travels outside the core, and its end is reported back. The
//! follower's core gets a message once the whole file is there. A snapshot is installed only if it is newer than
//! what is committed here (rule 11), and then replaces the whole log. Until the install is durable nothing behind
//! it is given out as committed, and this node does not stand for election.

use super::Raft;
use super::configuration::Configurations;
use super::message::MessageBody;
use super::ready::{Event, SnapshotOutcome};
use super::types::{Index, NodeId, SnapshotMeta};

impl Raft {
    /// A complete and verified snapshot is in hand.
    ///
    /// Three cases. It is not newer than what is committed here: the leader learns how far this node is. The log
    /// holds its last entry: then it holds all before it as well (Log Matching), so committing is enough and the
    /// entries behind it stay (§5.3). Else it replaces the log.
    /// Shown in `testdata/snapshots/`.
    pub(super) fn on_install_snapshot(&mut self, from: NodeId, meta: SnapshotMeta) {
        let last = meta.last;
        if last.index <= self.shared.commit && !crate::mutant!("snap-old") {
            crate::sometimes!("snapshot/older-than-commit");
            let matched = self.shared.commit;
            self.shared.promise(from, MessageBody::AppendAccepted { matched });
            return;
        }
        if self.shared.log.matches(last) {
            crate::sometimes!("snapshot/commits-what-the-log-holds");
            self.shared.commit_to(last.index);
        } else {
            crate::sometimes!("snapshot/replaces-the-log");
            self.install(meta);
        }
        self.shared.promise(from, MessageBody::AppendAccepted { matched: last.index });
    }

    fn install(&mut self, meta: SnapshotMeta) {
        let shared = &mut self.shared;
        if crate::mutant!("term-regress") {
            shared.hard_state.term = meta.last.term;
        }
        shared.log.reset(meta.last);
        for write in &mut shared.writes {
            write.last = None;
        }
        shared.configurations = Configurations::new(meta.last.index, meta.configuration.clone());
        shared.commit = meta.last.index;
        shared.given = meta.last.index;
        shared.tell(Event::SnapshotAccepted { meta: meta.clone() });
        shared.tell_configuration();
        shared.outbox.snapshot = Some(meta);
    }

    /// A transfer to a follower has ended.
    pub(super) fn on_snapshot_report(&mut self, peer: NodeId, outcome: SnapshotOutcome, last: Index) {
        let log_last = self.shared.log.last().index;
        let Some(progress) = self.progress_of(peer) else { return };
        let delivered = match outcome {
            SnapshotOutcome::Delivered => Some(last.min(log_last)),
            SnapshotOutcome::Failed => {
                crate::sometimes!("snapshot/transfer-failed");
                None
            }
        };
        progress.snapshot_ended(delivered);
    }
}
