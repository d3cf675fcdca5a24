//! Handing the leadership over (§3.10).
//!
//! The leader takes no more proposals, lets the target have all of its log, and then asks it to stand at once. The
//! target skips the pre-vote, and its voters forget that they hear a leader (`election`). If it has not come to lead
//! within an election timeout, the leader goes on as before, and takes proposals again. Asking twice does no harm, so
//! the question goes out again with each heartbeat.
//!
//! A leader also hands over when the committed configuration has no vote for it (`membership`), and when its disk is
//! stalled: its oldest write has been under way for an election timeout, while another voter durably holds more than
//! it does itself. Then replication still moves, but whatever waits for the leader's own disk does not: it applies
//! nothing. In both cases it steps down if it cannot hand over.
//!
//! Divergence: the dissertation leaves open what a leader does about its own disk; and lets the target wait for its log
//! to be complete, where here the leader asks only when it is.
//!
//! Shown in `testdata/transfer/`.

use super::Raft;
use super::change::TransferError;
use super::message::MessageBody;
use super::ready::Event;
use super::role::{Leader, Role, Stall, Transfer};
use super::types::{Index, NodeId};

impl Raft {
    pub(super) fn on_transfer_leader(&mut self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let Role::Leader(leader) = &self.role else {
            return Err(TransferError::NotLeader { hint: self.leader() });
        };
        if let Some(transfer) = leader.transfer {
            return Err(TransferError::InProgress { to: transfer.to });
        }
        let to = match to {
            Some(id) if id == self.shared.id() => return Err(TransferError::AlreadyLeader(id)),
            Some(id) if !self.shared.configurations.current().is_voter(id) => {
                return Err(TransferError::NotVoter(id));
            }
            Some(id) => id,
            None => self.best_successor(leader).ok_or(TransferError::NoTarget)?,
        };
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer = Some(Transfer { to, ticks: 0, is_asked: false });
        }
        self.shared.tell(Event::TransferBegan { to });
        self.advance_transfer();
        Ok(to)
    }

    /// The voter, of the new half if there are two, that has most of the log, among those that answered lately.
    fn best_successor(&self, leader: &Leader) -> Option<NodeId> {
        let patience = self.shared.config.election_timeout_ticks;
        let voters = self.shared.configurations.current().voters.iter();
        let answering = voters.filter_map(|id| leader.progress.get(id).map(|progress| (*id, progress)));
        let lately = answering.filter(|(_, progress)| progress.silent_ticks < patience);
        lately.max_by_key(|(id, progress)| (progress.matched, std::cmp::Reverse(*id))).map(|(id, _)| id)
    }

    /// Asks the target to stand, if it has all of the log and was not asked yet.
    pub(super) fn advance_transfer(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.transfer.is_some_and(|transfer| !transfer.is_asked) {
            self.ask_to_stand();
        }
    }

    fn ask_to_stand(&mut self) {
        let last = self.shared.log.last().index;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let held = leader.progress.get(&transfer.to).map(|progress| progress.matched);
        if held != Some(last) {
            return;
        }
        crate::sometimes!("transfer/asks");
        transfer.is_asked = true;
        leader.lease.is_over = true;
        self.shared.send(transfer.to, MessageBody::TimeoutNow);
    }

    /// A tick. `with_heartbeat`: heartbeats went out with it.
    pub(super) fn tick_transfer(&mut self, with_heartbeat: bool) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        transfer.ticks += 1;
        if transfer.ticks >= self.shared.config.election_timeout_ticks {
            self.abort_transfer();
        } else if with_heartbeat {
            self.ask_to_stand();
        }
    }

    /// The target has not come to lead in time: go on, unless this node had reason to stop.
    fn abort_transfer(&mut self) {
        let is_stalled = self.is_stalled();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = leader.transfer.take() else { return };
        crate::sometimes!("transfer/given-up");
        self.shared.tell(Event::TransferFailed { to: transfer.to });
        let is_left_out = self.shared.is_configuration_committed() && !self.shared.is_voter();
        if is_left_out || is_stalled {
            crate::sometimes!("transfer/steps-down-unheard");
            self.become_follower(self.shared.term(), None);
        } else {
            // What a change of membership put off during the hand-over.
            self.advance_membership();
        }
    }

    /// A tick: how long has the oldest write been under way?
    pub(super) fn tick_stall(&mut self) {
        let oldest = self.shared.writes.front().map(|write| write.number);
        let Role::Leader(leader) = &mut self.role else { return };
        let stall = &mut leader.stall;
        if oldest.is_some() && oldest == stall.oldest {
            stall.ticks = stall.ticks.saturating_add(1);
        } else {
            *stall = Stall { oldest, ticks: 0 };
        }
        if leader.transfer.is_none() && self.is_stalled() && self.on_transfer_leader(None).is_err() {
            self.become_follower(self.shared.term(), None);
        }
    }

    /// Whether the disk has not answered for an election timeout, while another voter's has.
    fn is_stalled(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        if leader.stall.ticks < self.shared.config.election_timeout_ticks {
            return false;
        }
        let durable = self.shared.log.durable();
        let held = |id: &NodeId| leader.progress.get(id).map_or(Index::ZERO, |progress| progress.matched);
        let configuration = self.shared.configurations.current();
        let mut voters = configuration.voters.iter().chain(&configuration.voters_outgoing);
        voters.any(|id| held(id) > durable)
    }
}
