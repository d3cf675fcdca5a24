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

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = oneshot::Receiver<Result<NodeId, HandOverError>>;

    const ME: NodeId = NodeId(1);
    const TO: NodeId = NodeId(2);

    fn begun() -> (HandOvers, Answer) {
        let mut hand_overs = HandOvers::new(ME, 10);
        let (waiter, answer) = oneshot::channel();
        hand_overs.wait(TO, waiter);
        hand_overs.began(TO);
        assert_eq!(hand_overs.target(), Some(TO));
        (hand_overs, answer)
    }

    #[test]
    fn a_hand_over_has_ended_when_another_node_leads() {
        let (mut hand_overs, mut answer) = begun();
        hand_overs.leader_changed(None);
        assert!(answer.try_recv().is_err(), "nobody leads yet");
        hand_overs.leader_changed(Some(TO));
        assert_eq!(answer.try_recv().unwrap(), Ok(TO));
        assert_eq!(hand_overs.target(), None);
        let (mut hand_overs, mut answer) = begun();
        hand_overs.leader_changed(Some(NodeId(3)));
        assert_eq!(answer.try_recv().unwrap(), Ok(NodeId(3)), "who leads now, not who was to");
    }

    #[test]
    fn a_hand_over_failed_when_the_core_says_so_or_this_node_leads_again() {
        let (mut hand_overs, mut answer) = begun();
        hand_overs.failed();
        assert_eq!(answer.try_recv().unwrap(), Err(HandOverError::Failed { to: TO }));
        let (mut hand_overs, mut answer) = begun();
        hand_overs.leader_changed(None);
        hand_overs.leader_changed(Some(ME));
        assert_eq!(answer.try_recv().unwrap(), Err(HandOverError::Failed { to: TO }));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut hand_overs, mut answer) = begun();
        hand_overs.leader_changed(None);
        for _ in 0..19 {
            hand_overs.tick();
        }
        assert!(answer.try_recv().is_err());
        hand_overs.tick();
        assert_eq!(answer.try_recv().unwrap(), Err(HandOverError::OutcomeUnknown { to: TO }));
        let (mut hand_overs, mut answer) = begun();
        hand_overs.stop();
        assert_eq!(answer.try_recv().unwrap(), Err(HandOverError::Stopped));
    }

    #[test]
    fn a_stop_waits_for_the_hand_over_but_for_an_election_timeout_at_most() {
        let (mut hand_overs, _answer) = begun();
        assert!(!hand_overs.is_time_to_stop(true), "nobody asked for it");
        hand_overs.stop_when_over();
        assert!(!hand_overs.is_time_to_stop(false));
        assert!(hand_overs.is_time_to_stop(true), "another node leads, and nobody waits here");
        for _ in 0..9 {
            hand_overs.tick();
        }
        hand_overs.stop_when_over();
        assert!(!hand_overs.is_time_to_stop(false));
        hand_overs.tick();
        assert!(hand_overs.is_time_to_stop(false), "asking twice does not make it longer");
        let (mut hand_overs, _answer) = begun();
        hand_overs.stop_when_over();
        hand_overs.failed();
        assert!(hand_overs.is_time_to_stop(false), "nobody will take over");
    }
}
