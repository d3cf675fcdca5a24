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

/// The configuration that a node has when it starts.
pub(super) fn at_boot(raft: &Raft) -> Membership {
    let index = raft.status().configuration_index;
    let configuration = Arc::new(raft.configuration().clone());
    Membership { index, configuration, committed: index <= raft.commit() }
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

/// Who may be told that he was removed, and stops then: whom a configuration says so that is known to be committed.
///
/// It will be said by every later one, too, for an id is not used again. So whoever hears it from any member of his own
/// cluster need not ask another: he is needed for nothing any more.
pub(super) fn removed(raft: &Raft) -> BTreeSet<NodeId> {
    raft.configuration_at(raft.commit()).map(|committed| committed.removed.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Boot, Config, HardState, Term};

    type Answer = oneshot::Receiver<Result<Configuration, MembershipError>>;

    fn entry(term: u64, index: u64, payload: Payload) -> Entry {
        Entry { term: Term(term), index: Index(index), payload }
    }

    fn of(voters: &[u64]) -> Configuration {
        Configuration::of_voters(voters.iter().copied().map(NodeId))
    }

    fn joint(voters: &[u64], outgoing: &[u64]) -> Configuration {
        Configuration { voters_outgoing: of(outgoing).voters, ..of(voters) }
    }

    fn begun(changes: &mut Changes, term: u64, index: u64) -> Answer {
        let (waiter, answer) = oneshot::channel();
        changes.insert(LogId::new(term, index), waiter);
        answer
    }

    #[test]
    fn a_change_is_done_when_the_final_configuration_is_committed_and_not_when_the_joint_one_is() {
        let mut changes = Changes::new(10);
        let mut answer = begun(&mut changes, 2, 5);
        changes.committed(&entry(2, 4, Payload::Configuration(of(&[1, 2, 3]))));
        assert!(answer.try_recv().is_err(), "that was an earlier change");
        changes.committed(&entry(2, 5, Payload::Configuration(joint(&[1, 2, 4], &[1, 2, 3]))));
        assert!(answer.try_recv().is_err(), "the joint configuration is the middle of it");
        changes.committed(&entry(2, 6, Payload::Noop));
        assert!(answer.try_recv().is_err());
        changes.committed(&entry(3, 7, Payload::Configuration(of(&[1, 2, 4]))));
        assert_eq!(answer.try_recv().unwrap(), Ok(of(&[1, 2, 4])), "a later leader may have ended it");
    }

    #[test]
    fn another_entry_in_its_place_means_that_it_was_never_begun() {
        let mut changes = Changes::new(10);
        let mut answer = begun(&mut changes, 2, 5);
        changes.committed(&entry(3, 5, Payload::Configuration(of(&[1, 2]))));
        assert_eq!(answer.try_recv().unwrap(), Err(MembershipError::Superseded));
    }

    #[test]
    fn a_snapshot_over_it_leaves_it_unknown_and_so_does_a_leadership_lost_for_long() {
        let mut changes = Changes::new(2);
        let mut answer = begun(&mut changes, 2, 5);
        changes.forget_through(Index(4));
        assert!(answer.try_recv().is_err());
        changes.forget_through(Index(5));
        assert_eq!(answer.try_recv().unwrap(), Err(MembershipError::OutcomeUnknown));

        let mut answer = begun(&mut changes, 2, 6);
        for leading in [true, false, false, false, true, false, false, false] {
            changes.tick(leading);
        }
        assert!(answer.try_recv().is_err(), "never for two election timeouts on end");
        changes.tick(false);
        assert_eq!(answer.try_recv().unwrap(), Err(MembershipError::OutcomeUnknown));
        let mut answer = begun(&mut changes, 2, 7);
        changes.stop();
        assert_eq!(answer.try_recv().unwrap(), Err(MembershipError::Stopped));
    }

    /// Node 1, with these configurations in its log, of which the first `applied` entries are applied.
    fn booted(log: &[Configuration], applied: u64) -> Raft {
        let entries: Vec<_> =
            log.iter().zip(1..).map(|(c, i)| entry(1, i, Payload::Configuration(c.clone()))).collect();
        let formed = of(&[1, 2, 3]);
        let configuration = match applied.checked_sub(1) {
            Some(at) => log[at as usize].clone(),
            None => formed,
        };
        let boot = Boot {
            hard_state: HardState { term: Term(1), voted_for: None },
            prev: LogId::ZERO,
            entries,
            applied: if applied == 0 { LogId::ZERO } else { LogId::new(1, applied) },
            configuration,
            damage: None,
        };
        Raft::new(Config::new(NodeId(1)), boot).unwrap()
    }

    #[test]
    fn at_boot_the_newest_configuration_of_the_log_counts_and_is_committed_only_if_applied() {
        let log = [joint(&[1, 2, 4], &[1, 2, 3]), of(&[1, 2, 4])];
        for (applied, index, committed) in [(0, 2, false), (1, 2, false), (2, 2, true)] {
            let now = at_boot(&booted(&log, applied));
            assert_eq!((now.index, now.committed), (Index(index), committed), "applied {applied}");
            assert_eq!(*now.configuration, log[1]);
        }
        let formed = at_boot(&booted(&[], 0));
        assert_eq!((formed.index, formed.committed), (Index(0), true));
    }

    #[test]
    fn who_is_removed_is_still_reached_until_that_is_committed() {
        let log = [joint(&[1, 2], &[1, 2, 3]), of(&[1, 2])];
        assert_eq!(
            retained(&booted(&log, 1)),
            BTreeSet::from([NodeId(3)]),
            "the committed configuration still has it"
        );
        assert_eq!(retained(&booted(&log, 2)), BTreeSet::new());
    }

    #[test]
    fn who_was_removed_is_told_only_by_what_is_committed() {
        let without = Configuration { removed: [NodeId(3)].into(), ..of(&[1, 2]) };
        let log = [joint(&[1, 2], &[1, 2, 3]), without];
        assert_eq!(removed(&booted(&log, 1)), BTreeSet::new(), "that may yet be taken back");
        assert_eq!(removed(&booted(&log, 2)), BTreeSet::from([NodeId(3)]));
    }
}
