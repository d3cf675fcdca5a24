//! The vocabulary of Raft: ids, terms, indexes, entries, configurations.
//!
//! Newtypes throughout, so that a term cannot be handed where an index is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;

/// A member of the cluster. Ids are chosen by the operator, begin at 1 and are never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeId(pub u64);

/// A term: Raft's logical time (dissertation §3.2). 0 stands before the first election.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Term(pub u64);

/// A position in the log. The first entry has index 1; 0 stands before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Index(pub u64);

/// Names one entry for ever: no two entries with the same term and index differ (Log Matching, §3.5).
///
/// The order is that of the up-to-date test (§3.6.1): term first, then index.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LogId {
    /// The term in which a leader made the entry.
    pub term: Term,
    /// Its position.
    pub index: Index,
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Index {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; 0 stays 0.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl LogId {
    /// Before the first entry: term 0, index 0.
    pub const ZERO: Self = Self { term: Term(0), index: Index(0) };

    /// A log id from bare numbers, for tests and tools.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term: Term(term), index: Index(index) }
    }
}

/// What must survive a crash beside the log: the current term, and whom this node voted for in it (§3.4, fig. 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HardState {
    /// The latest term this node has seen.
    pub term: Term,
    /// Whom it voted for in `term`, if anyone.
    pub voted_for: Option<NodeId>,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Entry {
    /// The term in which a leader made it.
    pub term: Term,
    /// Its position in the log.
    pub index: Index,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Payload {
    /// Nothing. Each leader begins its term with one (§6.4, rule 7), so that it may commit what it inherited.
    Noop,
    /// A command of the state machine, opaque to Raft.
    Command(Bytes),
    /// A cluster configuration, in force from the moment it is in the log (§4.1).
    Configuration(Configuration),
}

impl Entry {
    /// The entry's name.
    #[must_use]
    pub const fn log_id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// About how many bytes the entry takes in memory and on the wire; what the byte limits count.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        const OVERHEAD: u64 = 32;
        OVERHEAD
            + match &self.payload {
                Payload::Noop => 0,
                Payload::Command(bytes) => bytes.len() as u64,
                Payload::Configuration(configuration) => configuration.size_bytes(),
            }
    }
}

/// Who is a member, and who votes (§4).
///
/// In a joint configuration (§4.3) `voters_outgoing` is not empty, and every decision takes a majority of
/// `voters` *and* a majority of `voters_outgoing`, each counted on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Configuration {
    /// The voters; in a joint configuration, those of the new half.
    pub voters: BTreeSet<NodeId>,
    /// The voters of the old half of a joint configuration; otherwise empty.
    pub voters_outgoing: BTreeSet<NodeId>,
    /// Members that receive the log and do not vote (§4.2.1).
    pub learners: BTreeSet<NodeId>,
    /// Voters of the old half that become learners when the joint configuration is left.
    pub learners_next: BTreeSet<NodeId>,
    /// Learners that the leader makes voters by itself, once they have caught up with its log (§4.2.1).
    pub joining: BTreeSet<NodeId>,
    /// Which disk each member is, and where it is reached.
    pub nodes: BTreeMap<NodeId, Member>,
    /// Ids of former members. They are not used again: whoever comes with one is told that it was removed.
    pub removed: BTreeSet<NodeId>,
    /// Whether, and for how long, a leader may answer reads without asking (§6.4.1); `None`: it always asks.
    pub lease: Option<Lease>,
}

/// What the cluster knows of one member beside its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Member {
    /// Which of its disks is the member: a wiped one is another, and is refused (rule 15). 0: not known.
    pub incarnation: u64,
    /// The address at which its peers reach it.
    pub address: String,
    /// What the user of the library wants to be known of it, such as the address for clients. Opaque to Raft.
    pub context: Bytes,
}

/// The terms on which a leader may answer reads from its own state without asking (§6.4.1).
///
/// Whoever answers a heartbeat that asks for it promises, for `duration_ms` of its own clock from receipt, to vote
/// for nobody else. The leader relies on a quorum of such promises for `duration_ms` of its own clock *from
/// sending*, shortened by the drift. Safe while no two clocks run apart by more than `drift_ppm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Lease {
    /// How long a promise holds, in milliseconds.
    pub duration_ms: u32,
    /// The bound on how much faster one clock may run than another, in millionths.
    pub drift_ppm: u32,
}

impl Member {
    /// A member of which only the address is known.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), ..Self::default() }
    }
}

impl Configuration {
    /// A simple configuration of these voters.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Whether two halves must agree.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether `id` votes, in either half.
    #[must_use]
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// Whether `id` receives the log.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// What is wrong with it, if anything: nobody is two things at once, and somebody votes.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        let members = self.members();
        let rules = [
            (!self.voters.is_empty(), "nobody votes"),
            (self.learners.iter().all(|id| !self.is_voter(*id)), "a learner votes"),
            (
                self.learners_next.is_subset(&self.voters_outgoing)
                    && self.learners_next.is_disjoint(&self.voters),
                "who is to be a learner is no voter on its way out",
            ),
            (self.joining.is_subset(&self.learners), "who is to become a voter is no learner"),
            (self.nodes.keys().all(|id| members.contains(id)), "who has an address is no member"),
            (self.removed.is_disjoint(&members), "a former member is one"),
        ];
        rules.iter().find(|(holds, _)| !holds).map(|(_, what)| *what)
    }

    /// About how many bytes it takes.
    fn size_bytes(&self) -> u64 {
        let sets = [
            &self.voters,
            &self.voters_outgoing,
            &self.learners,
            &self.learners_next,
            &self.joining,
            &self.removed,
        ];
        let ids: usize = sets.iter().map(|set| set.len()).sum();
        let texts = self.nodes.values().map(|member| 16 + member.address.len() + member.context.len());
        (8 * ids + texts.sum::<usize>()) as u64
    }

    /// Every member once, in order.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.voters_outgoing).chain(&self.learners).copied().collect()
    }
}

/// What a snapshot stands for: all entries up to and including `last`, and the configuration there (§5.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SnapshotMeta {
    /// The last entry that the snapshot includes.
    pub last: LogId,
    /// The configuration in force at that entry.
    pub configuration: Configuration,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index.0, self.term.0)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
