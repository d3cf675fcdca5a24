//! Changes of membership, as the event loop sees them: who waits for one, and who is to be reached meanwhile.
//!
//! A change begins with one entry and is done with another: a joint configuration (§4.3) is followed by the final
//! one, which any later leader may append. So a waiter is kept under the *(term, index)* of its first entry and is
//! answered by the first configuration behind it that is committed and not joint. If another entry is committed in
//! the place of the first, the change was never begun. A node that lost the leadership usually hears how it went on;
//! but it may be cut off, or be the one that was removed, so it waits two election timeouts for that, and no longer.
//!
//! Whom the transport reaches follows the configuration from the moment it is in the log (rule 10), but nobody is
//! let go as long as he may be needed: not before the removal is committed, not while he leads (§4.2.2), and not
//! while this node, leading, still supplies him with the configuration that removes him.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::core::{ChangeError, Configuration, Entry, Index, LogId, NodeId, Payload, Raft};

/// The configuration in force on a node: the newest in its log (§4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The index it came with; after a restart or the install of a snapshot, an index at which it holds.
    pub index: Index,
    /// Who is a member, and who votes.
    pub configuration: Arc<Configuration>,
    /// Whether this node knows it to be committed: if not, another leader may take it back.
    pub committed: bool,
}

/// Why a change of membership was not answered with a configuration. Only [`OutcomeUnknown`] and [`Stopped`] leave
/// open whether it was, or will be, made; [`RaftHandle::membership`](super::RaftHandle::membership) tells later.
///
/// [`OutcomeUnknown`]: MembershipError::OutcomeUnknown
/// [`Stopped`]: MembershipError::Stopped
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Not begun; the reason says what to do.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// Not begun: the new member does not answer as it should at its address.
    #[error("{id} at {address} cannot be added: {why}")]
    NotReady {
        /// The new member.
        id: NodeId,
        /// Where it was looked for.
        address: String,
        /// What is wrong, and the mend.
        why: String,
    },
    /// Not begun: too many requests wait for this node. Try again after a little while.
    #[error("overloaded: too many requests are waiting; try again later")]
    Overloaded,
    /// Not begun: a new leader committed another entry in its place. It may be tried again.
    #[error("not done: a new leader committed another entry in its place; it may be tried again")]
    Superseded,
    /// It was begun, and then the leadership was lost: look at the membership to see what became of it.
    #[error(
        "outcome unknown: the leadership was lost while the change was under way; look at the membership"
    )]
    OutcomeUnknown,
    /// The node stopped while the change was under way.
    #[error("outcome unknown: the node stopped; look at the membership of another one")]
    Stopped,
}

/// What waits for a change of membership.
pub(super) type ChangeWaiter = oneshot::Sender<Result<Configuration, MembershipError>>;

/// The changes that were begun here.
pub(super) struct Changes {
    waiting: Vec<(LogId, ChangeWaiter)>,
    /// For how many ticks this node has not led.
    ticks_not_leading: u32,
    /// After how many of them what became of a change counts as unknown.
    ticks_max: u32,
}

impl Changes {
    pub(super) fn new(election_timeout_ticks: u32) -> Self {
        Self {
            waiting: Vec::new(),
            ticks_not_leading: 0,
            ticks_max: election_timeout_ticks.saturating_mul(2),
        }
    }

    pub(super) fn insert(&mut self, begun: LogId, waiter: ChangeWaiter) {
        self.ticks_not_leading = 0;
        self.waiting.push((begun, waiter));
    }

    /// An entry was committed.
    pub(super) fn committed(&mut self, entry: &Entry) {
        if self.waiting.is_empty() {
            return;
        }
        let superseded = |begun: &LogId| begun.index == entry.index && begun.term != entry.term;
        self.answer(superseded, &Err(MembershipError::Superseded));
        if let Payload::Configuration(configuration) = &entry.payload
            && !configuration.is_joint()
        {
            self.answer(|begun| begun.index <= entry.index, &Ok(configuration.clone()));
        }
    }

    /// A snapshot has replaced everything up to here: what became of changes begun there cannot be told.
    pub(super) fn forget_through(&mut self, through: Index) {
        self.answer(|begun| begun.index <= through, &Err(MembershipError::OutcomeUnknown));
    }

    /// A tick went by.
    pub(super) fn tick(&mut self, leading: bool) {
        if leading || self.waiting.is_empty() {
            self.ticks_not_leading = 0;
            return;
        }
        self.ticks_not_leading += 1;
        if self.ticks_not_leading >= self.ticks_max {
            self.answer(|_| true, &Err(MembershipError::OutcomeUnknown));
        }
    }

    /// The node stops.
    pub(super) fn stop(&mut self) {
        self.answer(|_| true, &Err(MembershipError::Stopped));
    }

    fn answer(&mut self, whom: impl Fn(&LogId) -> bool, answer: &Result<Configuration, MembershipError>) {
        for (_, waiter) in self.waiting.extract_if(.., |(begun, _)| whom(begun)) {
            // The asker may have gone away.
            let _ = waiter.send(answer.clone());
        }
    }
}

/// The configuration that `log` ends with, if the state machine holds what is up to `applied`.
pub(super) fn at_boot(raft: &Raft, applied: LogId, log: &[Entry]) -> Membership {
    let newest = log.iter().rev().find(|entry| matches!(entry.payload, Payload::Configuration(_)));
    let index = newest.map_or(applied.index, |entry| entry.index.max(applied.index));
    Membership {
        index,
        configuration: Arc::new(raft.configuration().clone()),
        committed: index <= applied.index,
    }
}

/// Who is to be reached beside the members of the configuration in force.
pub(super) fn retained(raft: &Raft) -> BTreeSet<NodeId> {
    let now = raft.configuration();
    let mut retained = raft.configuration_at(raft.commit()).map(Configuration::members).unwrap_or_default();
    retained.extend(raft.leader());
    retained.extend(raft.status().peers.iter().map(|peer| peer.id));
    retained.retain(|id| !now.contains(*id));
    retained
}
