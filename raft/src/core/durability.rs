//! Ready out, `persisted` back.
//!
//! Many Readies may be on their way to the disk at once. The core keeps, for each, what will be durable with it;
//! when the disk answers, a candidate's own vote, a leader's own entries, and what may be applied move on (rule 1,
//! §10.2.1). A log that is cut in between lowers what the earlier writes stand for: see `Write::last`.
//!
//! Shown in `testdata/replication/own_disk_counts_late.txt` and `testdata/replication/deposed_while_writing.txt`.

use super::Raft;
use super::ready::{Ready, ReadyNumber};
use super::shared::Write;
use super::types::Index;

impl Raft {
    pub(super) fn wants_ready(&self) -> bool {
        let shared = &self.shared;
        !shared.outbox.is_empty()
            || shared.hard_state != shared.hard_state_offered
            || shared.log.offered() < shared.log.last().index
            || shared.given < self.may_be_given()
            || self.wants_flush()
            || self.wants_question()
    }

    /// Entries are applied once they are committed and durable here: else the state could keep what the log loses.
    fn may_be_given(&self) -> Index {
        self.shared.commit.min(self.shared.log.durable())
    }

    pub(super) fn take_ready(&mut self) -> Ready {
        self.flush();
        let through = self.may_be_given().max(self.shared.given);
        let shared = &mut self.shared;
        shared.ready_number.0 += 1;
        let committed = shared.log.between(shared.given, through);
        shared.given = through;
        let hard_state = (shared.hard_state != shared.hard_state_offered).then_some(shared.hard_state);
        shared.hard_state_offered = shared.hard_state;
        let outbox = std::mem::take(&mut shared.outbox);
        let ready = Ready {
            number: shared.ready_number,
            hard_state,
            entries: shared.log.offer(),
            snapshot: outbox.snapshot,
            messages: outbox.messages,
            messages_after_persist: outbox.messages_after_persist,
            committed,
            reads: outbox.reads,
            send_snapshots: outbox.send_snapshots,
            events: outbox.events,
        };
        if ready.must_persist() {
            let has_log = ready.snapshot.is_some() || !ready.entries.is_empty();
            let last = has_log.then_some(shared.log.offered());
            shared.writes.push_back(Write { number: ready.number, hard_state, last });
        }
        ready
    }

    pub(super) fn on_persisted(&mut self, number: ReadyNumber) {
        let shared = &mut self.shared;
        let newest = shared.ready_number;
        assert!(number <= newest, "persisted {number:?}, but the newest Ready is {newest:?}");
        while let Some(write) = shared.writes.pop_front_if(|write| write.number <= number) {
            if let Some(hard_state) = write.hard_state {
                shared.hard_state_durable = hard_state;
            }
            if let Some(last) = write.last {
                shared.log.persisted(last);
            }
        }
        self.end_damage();
        self.count_own_vote();
        self.advance_commit();
    }
}
