//! What the event loop makes of the core's events: log lines, what others can watch, and whom the transport reaches.

use std::sync::Arc;

use crate::core::{Configuration, Event, Index, NodeId, RoleName};
use crate::state_machine::StateMachine;

use super::event_loop::EventLoop;
use super::membership::{Membership, removed, retained};

impl<S: StateMachine> EventLoop<S> {
    pub(super) fn on_event(&mut self, event: &Event) {
        if let Some(observer) = &self.observer {
            observer.event(event);
        }
        let id = self.options.core.id;
        match event {
            Event::RoleChanged { role, term } => {
                tracing::info!(%id, ?role, %term, "role changed");
                if *role != RoleName::Leader {
                    self.snapshots.lost_leadership();
                }
                self.leadership.send_modify(|now| {
                    now.established = false;
                    now.role = *role;
                    now.term = *term;
                });
            }
            Event::LeaderChanged { leader, term } => {
                tracing::info!(%id, ?leader, %term, "leader changed");
                self.hand_overs.leader_changed(*leader);
                self.reconcile_peers(false);
                self.leadership.send_modify(|now| {
                    now.leader = *leader;
                    now.term = *term;
                });
            }
            Event::Committed { last } => {
                let now = *self.leadership.borrow();
                if now.role == RoleName::Leader && last.term == now.term && !now.established {
                    self.leadership.send_modify(|now| now.established = true);
                }
                let news = self.membership.send_if_modified(|now| {
                    let news = !now.committed && now.index <= last.index;
                    now.committed |= news;
                    news
                });
                if news {
                    self.reconcile_peers(false);
                }
            }
            Event::Truncated { from } => tracing::info!(%id, %from, "log truncated"),
            Event::VoteGranted { to, term } => tracing::debug!(%id, %to, %term, "vote granted"),
            Event::ConfigurationChanged { index, configuration } => {
                tracing::info!(%id, %index, ?configuration, "configuration changed");
                self.on_configuration(*index, configuration);
            }
            Event::TransferBegan { to } => {
                tracing::info!(%id, %to, "handing the leadership over");
                self.hand_overs.began(*to);
            }
            Event::TransferFailed { to } => {
                tracing::warn!(%id, %to, "the leadership could not be handed over");
                self.hand_overs.failed();
            }
            Event::Damaged { last } => tracing::warn!(%id, %last, "the log has lost entries to damage"),
            Event::Repaired { last } => tracing::info!(%id, %last, "the log has made good what it lost"),
            Event::SnapshotAccepted { meta } => tracing::info!(%id, last = %meta.last, "snapshot accepted"),
        }
    }

    fn on_configuration(&mut self, index: Index, configuration: &Configuration) {
        let committed = index <= self.raft.commit();
        let configuration = Arc::new(configuration.clone());
        self.membership.send_replace(Membership { index, configuration, committed });
        self.reconcile_peers(true);
    }

    /// Has the transport reach whom it must reach now. `changed`: the configuration in force is another one.
    pub(super) fn reconcile_peers(&mut self, changed: bool) {
        let (retained, removed) = (retained(&self.raft), removed(&self.raft));
        if changed || retained != self.retained || removed != self.removed {
            let configuration = self.raft.configuration();
            self.transport.set_members(configuration, &self.addresses, &retained, removed.clone());
            (self.retained, self.removed) = (retained, removed);
        }
    }

    /// A member says that this node was removed. It knows that from a committed configuration of the same cluster
    /// (`removed`), so it is so, and whatever this node has of the log.
    pub(super) fn on_told_removed(&mut self, by: NodeId) {
        if self.told_removed_by.is_none() && self.known_removed().is_none() {
            crate::sometimes!("membership/told-that-it-was-removed");
            tracing::warn!(id = %self.options.core.id, %by, "this node was removed from the cluster, as another says");
            self.told_removed_by = Some(by);
        }
    }

    /// If this node has applied that it was removed: the index of the configuration that says so.
    fn known_removed(&self) -> Option<Index> {
        let now = self.membership.borrow();
        let is_removed = now.committed && now.configuration.removed.contains(&self.options.core.id);
        (is_removed && now.index <= self.state.applied.index).then_some(now.index)
    }

    /// A node that was removed goes on for an election timeout after it has applied that, or was told, and no longer
    /// leads (§4.2.2): whoever asked it for the change is to get an answer. Meanwhile it makes sure that it will know at
    /// its next start what it has applied. What it was merely told it will be told again.
    pub(super) fn tick_membership(&mut self) {
        if !self.retained.is_empty() {
            self.reconcile_peers(false);
        }
        let known = self.known_removed();
        let is_removed = known.is_some() || self.told_removed_by.is_some();
        if !is_removed || self.raft.role() == RoleName::Leader {
            return;
        }
        match &mut self.removed_ticks_left {
            None => {
                tracing::warn!(id = %self.options.core.id, "this node was removed from the cluster, and stops");
                self.removed_ticks_left = Some(self.options.core.election_timeout_ticks);
            }
            Some(left) => *left = left.saturating_sub(1),
        }
        if known.is_some_and(|index| self.state.checkpoint.index < index) {
            self.begin_checkpoint();
        }
    }

    /// Whether this node was removed, and all is done that comes of it.
    pub(super) fn is_removed(&self) -> bool {
        let is_kept = self.known_removed().is_none_or(|index| self.state.checkpoint.index >= index);
        self.removed_ticks_left == Some(0) && is_kept
    }
}
