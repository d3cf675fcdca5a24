//! Handing the leadership over (§3.10), and stopping a leader so that nobody has to wait for an election timeout.
//!
//! The core decides whether a hand-over can begin, and gives it up after an election timeout. Here is only who waits
//! for its end: it has ended when another node is known to lead, or when the core says that it failed.
//!
//! A node that is asked to stop while it leads hands over first. It then goes on until another node leads and
//! everything that was proposed here is answered, for at most an election timeout: a stop is not an error, and should
//! leave neither a cluster without a leader nor clients without an answer.

use tokio::sync::oneshot;

use crate::core::{NodeId, TransferError};

/// Why the leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// Not begun; the reason says what to do.
    #[error(transparent)]
    Refused(#[from] TransferError),
    /// Not begun: too many requests wait for this node. Try again after a little while.
    #[error("overloaded: too many requests are waiting; try again later")]
    Overloaded,
    /// It did not take over in time; this node leads as before.
    #[error("{to} did not take over within an election timeout; this node leads as before")]
    Failed {
        /// Who was to lead.
        to: NodeId,
    },
    /// This node no longer leads, and has not heard who does.
    #[error("this node no longer leads, but who does is not known: {to} was to")]
    OutcomeUnknown {
        /// Who was to lead.
        to: NodeId,
    },
    /// The node stopped.
    #[error("the node stopped")]
    Stopped,
}

/// What waits for the end of a hand-over.
pub(super) type HandOverWaiter = oneshot::Sender<Result<NodeId, HandOverError>>;

/// The hand-over under way, and the stop that may wait for it.
pub(super) struct HandOvers {
    id: NodeId,
    /// To whom, and who waits for it.
    under_way: Option<(NodeId, Option<HandOverWaiter>)>,
    /// How many ticks are left until its outcome counts as unknown.
    ticks_left: u32,
    /// How many ticks are left until the node stops.
    stop_ticks_left: Option<u32>,
    ticks_max: u32,
}

impl HandOvers {
    pub(super) fn new(id: NodeId, election_timeout_ticks: u32) -> Self {
        Self { id, under_way: None, ticks_left: 0, stop_ticks_left: None, ticks_max: election_timeout_ticks }
    }

    /// To whom the leadership is being handed over.
    pub(super) fn target(&self) -> Option<NodeId> {
        self.under_way.as_ref().map(|(to, _)| *to)
    }

    /// The core began a hand-over, asked or by itself.
    pub(super) fn began(&mut self, to: NodeId) {
        if self.target() != Some(to) {
            self.end(|to| Err(HandOverError::OutcomeUnknown { to }));
            self.under_way = Some((to, None));
        }
        // One election timeout until the core gives it up, one more to hear who leads.
        self.ticks_left = self.ticks_max.saturating_mul(2);
    }

    /// `waiter` asked for the hand-over that has just begun.
    pub(super) fn wait(&mut self, to: NodeId, waiter: HandOverWaiter) {
        self.began(to);
        if let Some((_, waiting)) = &mut self.under_way {
            *waiting = Some(waiter);
        }
    }

    /// The core gave it up.
    pub(super) fn failed(&mut self) {
        self.end(|to| Err(HandOverError::Failed { to }));
        if self.stop_ticks_left.is_some() {
            self.stop_ticks_left = Some(0);
        }
    }

    /// Another leader is known, or none.
    pub(super) fn leader_changed(&mut self, leader: Option<NodeId>) {
        match leader {
            Some(leader) if leader == self.id => self.end(|to| Err(HandOverError::Failed { to })),
            Some(leader) => self.end(|_| Ok(leader)),
            None => {}
        }
    }

    /// Whether the node was asked to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop_ticks_left.is_some()
    }

    /// The node is to stop when the hand-over under way has ended.
    pub(super) fn stop_when_over(&mut self) {
        if self.stop_ticks_left.is_none() {
            self.stop_ticks_left = Some(self.ticks_max);
        }
    }

    /// Whether the node was asked to stop and need not go on; `settled` says that another node leads and that
    /// nobody waits for an answer here.
    pub(super) fn is_time_to_stop(&self, settled: bool) -> bool {
        self.stop_ticks_left.is_some_and(|left| left == 0 || settled)
    }

    /// A tick went by.
    pub(super) fn tick(&mut self) {
        self.stop_ticks_left = self.stop_ticks_left.map(|left| left.saturating_sub(1));
        if self.under_way.is_some() {
            self.ticks_left = self.ticks_left.saturating_sub(1);
            if self.ticks_left == 0 {
                self.end(|to| Err(HandOverError::OutcomeUnknown { to }));
            }
        }
    }

    /// The node stops.
    pub(super) fn stop(&mut self) {
        self.end(|_| Err(HandOverError::Stopped));
    }

    fn end(&mut self, outcome: impl Fn(NodeId) -> Result<NodeId, HandOverError>) {
        if let Some((to, Some(waiter))) = self.under_way.take() {
            // The asker may have gone away.
            let _ = waiter.send(outcome(to));
        }
    }
}
