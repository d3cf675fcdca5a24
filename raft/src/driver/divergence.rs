//! Nodes compare what they made of the log.
//!
//! Equal entries in equal order give equal states (§2.1 of Ongaro's dissertation, the replicated state machine). If they do
//! not, by a fault of the machine's memory, a store that gave back something else, or an error in this program, no rule
//! of consensus notices. So a state machine may keep a [hash](HashTrail) that runs along the log, and the leader compares
//! its own with everybody's, in the background.
//!
//! # Rules
//! - The leader names some of its hashes, (index, hash), densest at the end. The other answers the last one at which it
//!   has the same and the first one at which it has another. Hashes run on, so nodes that agree at an index agree on all
//!   before, and nodes that differ differ on all behind. Between the two the leader asks again, until they are next to each
//!   other, or nobody remembers what lies between: that is the first entry at which the states part.
//! - A quorum of voters that has one hash there is right. A node that has another is wrong, be it the leader itself. It
//!   *condemns* its state, durably, and the snapshots that hold it; and it stops. At its next start it has no store, and
//!   is made anew from what is left, or from a peer.
//! - Without such a quorum (two nodes of two, or too few that answer) nobody can say who is wrong: both say so, in
//!   their logs and their status, and go on.
//! - What is compared is applied, so it is committed: neither terms nor the question who leads matter to what an answer
//!   says. A verdict names the hash that is condemned; a node that has another by now takes no notice.
//!
//! # Deliberately absent
//! Comparing what lies in the stores. The hash is that of effects, as they were made; rows that a store loses are the
//! store's matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::{Configuration, HashAnswer, Index, Message, MessageBody, NodeId, RoleName};
use crate::state_machine::{HashTrail, StateMachine};

use super::event_loop::EventLoop;

/// How many hashes a question names at most.
const POINTS_MAX: usize = 64;

/// What a node is to do about an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing.
    Fine,
    /// Ask this, to find where the states part.
    Ask(MessageBody),
    /// The states part at `at`, and a quorum has what this node has: tell the other that it is wrong.
    Condemn { at: Index, verdict: MessageBody },
    /// The states part at `at`, and a quorum has something else: this node is wrong.
    Wrong { at: Index },
    /// The states part at `at`, and no quorum says how it should be.
    Undecided { at: Index },
}

/// What is known of another node's hashes, against one's own.
#[derive(Clone, Copy, Debug, Default)]
struct Compared {
    agree: Index,
    differ: Option<(Index, u64)>,
}

/// The leader's side of the comparison; and the trail, for answering.
pub(super) struct Divergence {
    trail: Option<Arc<HashTrail>>,
    every_ticks: u32,
    ticks: u32,
    compared: BTreeMap<NodeId, Compared>,
    /// The first entry at which this node's state was found to differ from another's.
    found: Option<Index>,
    /// What was said already, so that it is said once.
    said: BTreeSet<(NodeId, Index)>,
    /// This node's state is being condemned.
    condemned: bool,
}

impl Divergence {
    pub(super) fn new(trail: Option<Arc<HashTrail>>, every_ticks: u32) -> Self {
        Self {
            trail,
            every_ticks,
            ticks: 0,
            compared: BTreeMap::new(),
            found: None,
            said: BTreeSet::new(),
            condemned: false,
        }
    }

    /// Whether it is time for the leader to ask everybody; and what.
    pub(super) fn tick(&mut self, leads: bool) -> Option<MessageBody> {
        if !leads {
            self.compared.clear();
            return None;
        }
        self.ticks += 1;
        if self.every_ticks == 0 || self.ticks < self.every_ticks {
            return None;
        }
        self.ticks = 0;
        let points = self.trail.as_ref()?.newest();
        (!points.is_empty()).then_some(MessageBody::CompareHashes { points })
    }

    /// Answers another's question.
    pub(super) fn answer(&self, points: &[(Index, u64)]) -> Option<HashAnswer> {
        let trail = self.trail.as_ref()?;
        let mut answer = HashAnswer { agree: Index::ZERO, differ: None };
        for &(index, hash) in points {
            match trail.at(index) {
                Some(own) if own == hash => answer.agree = answer.agree.max(index),
                Some(own) if answer.differ.is_none_or(|(other, _)| index < other) => {
                    answer.differ = Some((index, own));
                }
                _ => {}
            }
        }
        Some(answer)
    }

    /// Weighs what `from` has answered to this node, `id`, in this configuration.
    pub(super) fn weigh(
        &mut self,
        id: NodeId,
        from: NodeId,
        answer: HashAnswer,
        configuration: &Configuration,
    ) -> Finding {
        let Some(trail) = self.trail.clone() else { return Finding::Fine };
        let before = self.compared.get(&from).copied().unwrap_or_default();
        let now = match answer.differ {
            // It has forgotten what was asked for, or it agrees there; only behind a difference does that undo it.
            None => Compared {
                agree: before.agree.max(answer.agree),
                differ: before.differ.filter(|(at, _)| answer.agree < *at),
            },
            Some(differ) => {
                // The answer to a closer question knows less of what lies before. But a search begins with what its
                // first answer says: an agreement of old may be one of the state before a restart, which is gone.
                let goes_on = before.differ.is_some() && before.agree < differ.0;
                let agree = if goes_on { before.agree.max(answer.agree) } else { answer.agree };
                Compared { agree, differ: Some(differ) }
            }
        };
        self.compared.insert(from, now);
        let Some((at, hash)) = now.differ else { return Finding::Fine };
        if trail.at(at).is_none_or(|own| own == hash) {
            // This node has no such hash (any more): a late answer, or a lie.
            return Finding::Fine;
        }
        let closer = before.differ != now.differ || before.agree != now.agree;
        let between = trail.between(now.agree, at, POINTS_MAX);
        if closer && !between.is_empty() {
            return Finding::Ask(MessageBody::CompareHashes { points: between });
        }
        self.found = Some(self.found.map_or(at, |found| found.min(at)));
        self.judge(id, configuration, at, hash)
    }

    /// Who is wrong about the entry at `at`.
    fn judge(&self, id: NodeId, configuration: &Configuration, at: Index, hash: u64) -> Finding {
        let with_us: BTreeSet<NodeId> = self
            .compared
            .iter()
            .filter(|(_, other)| other.agree >= at)
            .map(|(peer, _)| *peer)
            .chain([id])
            .collect();
        if is_quorum(configuration, &with_us) {
            return Finding::Condemn { at, verdict: MessageBody::StateCondemned { at, hash } };
        }
        let against: BTreeSet<NodeId> = self
            .compared
            .iter()
            .filter(|(_, other)| other.differ == Some((at, hash)))
            .map(|(peer, _)| *peer)
            .collect();
        if is_quorum(configuration, &against) { Finding::Wrong { at } } else { Finding::Undecided { at } }
    }

    /// Whether a verdict is about the state as it is here.
    pub(super) fn is_condemned(&mut self, at: Index, hash: u64) -> bool {
        let condemned = self.trail.as_ref().is_some_and(|trail| trail.at(at) == Some(hash));
        if condemned {
            self.found = Some(at);
        }
        condemned
    }

    /// Whether this is the first time that it is said.
    pub(super) fn is_news(&mut self, peer: NodeId, at: Index) -> bool {
        self.said.insert((peer, at))
    }

    /// The first entry at which this node's state was found to differ from another's.
    pub(super) const fn found(&self) -> Option<Index> {
        self.found
    }

    /// Up to where all others are known to have the same state as this node, which leads.
    pub(super) fn agreed(&self, id: NodeId, configuration: &Configuration) -> Index {
        let others = configuration.members().into_iter().filter(|member| *member != id);
        others
            .map(|member| self.compared.get(&member).map_or(Index::ZERO, |c| c.agree))
            .min()
            .unwrap_or_default()
    }
}

impl<S: StateMachine> EventLoop<S> {
    /// Asks all members for their hashes, if this node leads and it is time.
    pub(super) fn compare_states(&mut self) {
        let Some(question) = self.divergence.tick(self.raft.role() == RoleName::Leader) else { return };
        for peer in self.raft.configuration().members() {
            if peer != self.options.core.id {
                self.tell(peer, question.clone());
            }
        }
    }

    fn tell(&mut self, to: NodeId, body: MessageBody) {
        let (from, term) = (self.options.core.id, self.raft.hard_state().term);
        self.transport.send(Message { from, to, term, body });
    }

    /// A message about states, of a member.
    pub(super) fn on_states(&mut self, message: Message) {
        let (id, from) = (self.options.core.id, message.from);
        if message.to != id || from == id || !self.raft.configuration().contains(from) {
            return;
        }
        match message.body {
            MessageBody::CompareHashes { points } => {
                if let Some(answer) = self.divergence.answer(&points) {
                    self.tell(from, MessageBody::HashesCompared(answer));
                }
            }
            MessageBody::HashesCompared(answer) => {
                let finding = self.divergence.weigh(id, from, answer, self.raft.configuration());
                self.act_on(from, finding);
            }
            MessageBody::StateCondemned { at, hash } if self.divergence.is_condemned(at, hash) => {
                self.condemn(at);
            }
            _ => {}
        }
    }

    fn act_on(&mut self, peer: NodeId, finding: Finding) {
        match finding {
            Finding::Fine => {}
            Finding::Ask(question) => self.tell(peer, question),
            Finding::Condemn { at, verdict } => {
                if self.divergence.is_news(peer, at) {
                    tracing::error!(%peer, first = %at, "a node's state differs from that of a quorum: it is told to stop");
                }
                self.tell(peer, verdict);
            }
            Finding::Wrong { at } => self.condemn(at),
            Finding::Undecided { at } => {
                if self.divergence.is_news(peer, at) {
                    tracing::error!(
                        %peer, first = %at,
                        "this node's state and a peer's differ, and no quorum says which is right: compare both with a \
                         backup, and remove the wrong member"
                    );
                }
            }
        }
    }

    /// This node's state is wrong from the entry at `at` on.
    fn condemn(&mut self, at: Index) {
        if self.divergence.condemned {
            return;
        }
        self.divergence.condemned = true;
        let why = format!(
            "the state of this node differs from that of a quorum, first at entry {at}; it is discarded, and made anew \
             at the next start"
        );
        tracing::error!(first = %at, "{why}");
        self.apply.condemn(at, why);
    }
}

/// Whether these are a majority of each set of voters (§4.3).
fn is_quorum(configuration: &Configuration, nodes: &BTreeSet<NodeId>) -> bool {
    let majority = |voters: &BTreeSet<NodeId>| 2 * voters.intersection(nodes).count() > voters.len();
    majority(&configuration.voters)
        && (configuration.voters_outgoing.is_empty() || majority(&configuration.voters_outgoing))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);

    fn trail(hashes: impl IntoIterator<Item = u64>) -> Arc<HashTrail> {
        let trail = HashTrail::default();
        (1..).zip(hashes).for_each(|(index, hash)| trail.record(Index(index), hash));
        Arc::new(trail)
    }

    /// The hashes of 3,000 entries, other ones from `part` on.
    fn parted(part: u64, by: u64) -> Arc<HashTrail> {
        trail((1..=3_000).map(|n| if n < part { n } else { n + by }))
    }

    fn of(trail: Arc<HashTrail>) -> Divergence {
        Divergence::new(Some(trail), 10)
    }

    fn voters(n: u64) -> Configuration {
        Configuration::of_voters((1..=n).map(NodeId))
    }

    /// A whole comparison with everyone, until nothing is asked any more.
    fn compare(
        leader: &mut Divergence,
        others: &[(u64, Divergence)],
        voters: &Configuration,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for _ in 0..2 {
            findings.clear();
            let Some(MessageBody::CompareHashes { points }) = (0..10).find_map(|_| leader.tick(true)) else {
                panic!("nothing is asked")
            };
            for (id, other) in others {
                let mut points = points.clone();
                for round in 0.. {
                    assert!(round < 100, "it comes to an end");
                    let answer = other.answer(&points).unwrap();
                    match leader.weigh(ME, NodeId(*id), answer, voters) {
                        Finding::Ask(MessageBody::CompareHashes { points: closer }) => points = closer,
                        finding => {
                            findings.push(finding);
                            break;
                        }
                    }
                }
            }
        }
        findings
    }

    #[test]
    fn equal_states_are_fine_and_it_is_known_how_far() {
        let mut leader = of(parted(u64::MAX, 0));
        let others = [(2, of(parted(u64::MAX, 0))), (3, of(trail(1..=700)))];
        assert_eq!(compare(&mut leader, &others, &voters(3)), [Finding::Fine, Finding::Fine]);
        assert!(leader.agreed(ME, &voters(3)) <= Index(700));
        assert_eq!(leader.found(), None);
    }

    #[test]
    fn the_first_entry_at_which_they_part_is_named_wherever_it_is() {
        for part in [1, 2, 63, 64, 65, 1_000, 1_500, 2_998, 2_999, 3_000] {
            let mut leader = of(parted(u64::MAX, 0));
            let others = [(2, of(parted(u64::MAX, 0))), (3, of(parted(part, 1_000_000)))];
            let findings = compare(&mut leader, &others, &voters(3));
            let verdict = MessageBody::StateCondemned { at: Index(part), hash: part + 1_000_000 };
            assert_eq!(findings, [Finding::Fine, Finding::Condemn { at: Index(part), verdict }], "{part}");
            let mut wrong = of(parted(part, 1_000_000));
            assert!(wrong.is_condemned(Index(part), part + 1_000_000));
            assert!(!of(parted(u64::MAX, 0)).is_condemned(Index(part), part + 1_000_000), "made anew since");
        }
    }

    #[test]
    fn that_they_agreed_before_a_restart_does_not_hide_where_they_part_now() {
        let mut leader = of(parted(u64::MAX, 0));
        let right = || (2, of(parted(u64::MAX, 0)));
        compare(&mut leader, &[right(), (3, of(parted(u64::MAX, 0)))], &voters(3));
        assert_eq!(leader.agreed(ME, &voters(3)), Index(3_000));
        // Its state was made anew, from a store that went bad.
        let findings = compare(&mut leader, &[right(), (3, of(parted(1_500, 9)))], &voters(3));
        assert!(matches!(findings[1], Finding::Condemn { at: Index(1_500), .. }), "{findings:?}");
        assert!(leader.agreed(ME, &voters(3)) < Index(1_500));
    }

    #[test]
    fn a_leader_that_is_alone_with_its_state_is_wrong() {
        let mut leader = of(parted(40, 7_000));
        let others = [(2, of(parted(u64::MAX, 0))), (3, of(parted(u64::MAX, 0)))];
        let findings = compare(&mut leader, &others, &voters(3));
        assert_eq!(findings[1], Finding::Wrong { at: Index(40) });
    }

    #[test]
    fn one_against_one_is_not_decided() {
        let mut leader = of(parted(40, 7_000));
        let others = [(2, of(parted(u64::MAX, 0)))];
        assert_eq!(compare(&mut leader, &others, &voters(2)), [Finding::Undecided { at: Index(40) }]);
        // Nor is one against one of three, while the third is silent.
        let mut leader = of(parted(40, 7_000));
        assert_eq!(compare(&mut leader, &others, &voters(3)), [Finding::Undecided { at: Index(40) }]);
        // A learner has no say.
        let mut leader = of(parted(40, 7_000));
        let others = [(2, of(parted(u64::MAX, 0))), (9, of(parted(u64::MAX, 0)))];
        assert_eq!(compare(&mut leader, &others, &voters(2))[1], Finding::Undecided { at: Index(40) });
    }

    #[test]
    fn what_nobody_remembers_is_named_by_the_first_that_is_remembered() {
        let short = HashTrail::default();
        short.reset(Index(2_000), 5);
        (2_001..=3_000).for_each(|index| short.record(Index(index), 5 + index));
        let mut leader = of(parted(u64::MAX, 0));
        let others = [(2, of(parted(u64::MAX, 0))), (3, of(Arc::new(short)))];
        let findings = compare(&mut leader, &others, &voters(3));
        assert!(matches!(findings[1], Finding::Condemn { at: Index(2_000), .. }), "{findings:?}");
    }
}
