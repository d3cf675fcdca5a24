//! What a change of the membership would do to the quorum, before it is made.
//!
//! A cluster of *n* voters decides with a majority of them, so it goes on while at most *n* minus that majority are
//! away. A change can spoil this in two ways. It can leave less room for failures than there was: three voters bear
//! one failure, two bear none. And it can ask for a quorum that is not there *now*: a joint configuration (§4.3)
//! is left only once a majority of the new voters holds it, and until then nothing is decided without the
//! old ones either, so a cluster that enters it with too few of the new ones up stops for everybody.
//!
//! The functions are pure: what is there, what is to be done, who answers. Nothing here is needed for safety, which
//! is the core's business whoever asks for what; it keeps operators from stopping a cluster by a command.

use std::collections::BTreeSet;
use std::fmt;

use raft::core::{Change, Configuration, NodeId};

/// How the voters of one configuration stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The voters; of a joint configuration, those of the new half.
    pub voters: BTreeSet<NodeId>,
    /// The voters of the old half of a joint configuration; otherwise none.
    pub outgoing: BTreeSet<NodeId>,
    /// Those of either half that answer.
    pub answering: BTreeSet<NodeId>,
}

impl Standing {
    fn new(voters: &BTreeSet<NodeId>, outgoing: &BTreeSet<NodeId>, answering: &BTreeSet<NodeId>) -> Self {
        Self {
            voters: voters.clone(),
            outgoing: outgoing.clone(),
            answering: voters.union(outgoing).filter(|id| answering.contains(id)).copied().collect(),
        }
    }

    /// How the voters of `configuration` stand when `answering` answer.
    #[must_use]
    pub fn of(configuration: &Configuration, answering: &BTreeSet<NodeId>) -> Self {
        Self::new(&configuration.voters, &configuration.voters_outgoing, answering)
    }

    /// The halves of which each must have its majority.
    fn halves(&self) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        [Some(&self.voters), Some(&self.outgoing).filter(|half| !half.is_empty())].into_iter().flatten()
    }

    /// How many voters decide; of a joint configuration, of its new half.
    #[must_use]
    pub fn needed(&self) -> usize {
        majority(&self.voters)
    }

    /// How many of those that answer may fail, whichever they are, before nothing can be decided. `None`: nothing
    /// can be decided now.
    #[must_use]
    pub fn may_fail(&self) -> Option<usize> {
        let spare =
            |half: &BTreeSet<NodeId>| half.intersection(&self.answering).count().checked_sub(majority(half));
        self.halves().map(spare).min()?
    }

    /// The voters that do not answer.
    #[must_use]
    pub fn silent(&self) -> BTreeSet<NodeId> {
        self.voters.union(&self.outgoing).filter(|id| !self.answering.contains(id)).copied().collect()
    }
}

fn majority(voters: &BTreeSet<NodeId>) -> usize {
    voters.len() / 2 + 1
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answering = self.voters.intersection(&self.answering).count();
        write!(f, "{} ({})", count(self.voters.len(), "voter"), list(&self.voters))?;
        if !self.outgoing.is_empty() {
            write!(f, " and, until the change under way ends, {}", list(&self.outgoing))?;
        }
        let verb = if answering == 1 { "answers" } else { "answer" };
        write!(f, "; {} needed, {answering} {verb}: ", self.needed())?;
        match self.may_fail() {
            None => write!(f, "no quorum"),
            Some(0) => write!(f, "none may fail"),
            Some(n) => write!(f, "{n} may fail"),
        }
    }
}

/// `1 voter`, `2 voters`.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `1, 2 and 3`.
fn list(ids: &BTreeSet<NodeId>) -> String {
    let ids: Vec<_> = ids.iter().map(|id| id.0.to_string()).collect();
    match ids.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// Why a change should not be made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Danger {
    /// The voters as they are have no quorum: nothing can be changed by anybody.
    NoQuorumNow {
        /// The voters that do not answer.
        silent: BTreeSet<NodeId>,
    },
    /// The voters as they would be have none: the cluster would stop in the middle of the change.
    NoQuorumAfter {
        /// Those of them that do not answer.
        silent: BTreeSet<NodeId>,
    },
    /// Nobody would vote.
    NoVoters,
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQuorumNow { silent } => write!(
                f,
                "too few voters answer for anything to be decided: bring back {} first",
                list(silent)
            ),
            Self::NoQuorumAfter { silent } => write!(
                f,
                "the cluster would stop, because too few of the voters that it would have answer: bring back {} first",
                list(silent)
            ),
            Self::NoVoters => write!(f, "no voter would be left: add or promote another member first"),
        }
    }
}

/// A change, reckoned through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// As it is.
    pub before: Standing,
    /// As it would be.
    pub after: Standing,
}

impl DryRun {
    /// What `changes` would do to `configuration` when `answering` answer, the new members among them. Whether the
    /// cluster would take the changes at all is not asked here.
    #[must_use]
    pub fn new(configuration: &Configuration, changes: &[Change], answering: &BTreeSet<NodeId>) -> Self {
        let mut voters = configuration.voters.clone();
        for change in changes {
            match change {
                Change::AddVoter { id, .. }
                | Change::AddLearner { id, joining: true, .. }
                | Change::Promote(id) => {
                    voters.insert(*id);
                }
                Change::Demote(id) | Change::Remove(id) => {
                    voters.remove(id);
                }
                Change::AddLearner { joining: false, .. } | Change::Update { .. } | Change::SetLease(_) => {}
            }
        }
        Self {
            before: Standing::of(configuration, answering),
            after: Standing::new(&voters, &BTreeSet::new(), answering),
        }
    }

    /// Whether it would be other voters afterwards.
    #[must_use]
    pub fn changes_voters(&self) -> bool {
        self.before.voters != self.after.voters
    }

    /// Why it should not be done now, if there is a reason. A change that leaves the voters alone only needs a
    /// quorum.
    #[must_use]
    pub fn danger(&self) -> Option<Danger> {
        if self.before.may_fail().is_none() {
            return Some(Danger::NoQuorumNow { silent: self.before.silent() });
        }
        if !self.changes_voters() {
            return None;
        }
        if self.after.voters.is_empty() {
            return Some(Danger::NoVoters);
        }
        self.after.may_fail().is_none().then(|| Danger::NoQuorumAfter { silent: self.after.silent() })
    }

    /// What it costs, though it can be done: fewer failures would be borne, with all voters up, than are now.
    #[must_use]
    pub fn bears_less(&self) -> bool {
        let bears = |standing: &Standing| standing.voters.len().saturating_sub(standing.needed());
        bears(&self.after) < bears(&self.before)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::core::Member;

    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn run(voters: &[u64], changes: &[Change], answering: &[u64]) -> DryRun {
        DryRun::new(&Configuration::of_voters(ids(voters)), changes, &ids(answering))
    }

    fn learner(id: u64, joining: bool) -> Change {
        Change::AddLearner { id: NodeId(id), member: Member::default(), joining }
    }

    #[test]
    fn it_says_how_many_may_fail_before_and_after() {
        type Case = (&'static [u64], Change, &'static [u64], &'static str, &'static str);
        let cases: [Case; 5] = [
            (
                &[1, 2, 3],
                Change::Remove(NodeId(3)),
                &[1, 2, 3],
                "3 voters (1, 2 and 3); 2 needed, 3 answer: 1 may fail",
                "2 voters (1 and 2); 2 needed, 2 answer: none may fail",
            ),
            (
                &[1, 2],
                Change::Remove(NodeId(2)),
                &[1, 2],
                "2 voters (1 and 2); 2 needed, 2 answer: none may fail",
                "1 voter (1); 1 needed, 1 answers: none may fail",
            ),
            (
                &[1, 2, 3],
                learner(4, true),
                &[1, 2, 3, 4],
                "3 voters (1, 2 and 3); 2 needed, 3 answer: 1 may fail",
                "4 voters (1, 2, 3 and 4); 3 needed, 4 answer: 1 may fail",
            ),
            (
                &[1, 2, 3],
                Change::Promote(NodeId(4)),
                &[1, 2],
                "3 voters (1, 2 and 3); 2 needed, 2 answer: none may fail",
                "4 voters (1, 2, 3 and 4); 3 needed, 2 answer: no quorum",
            ),
            (
                &[1],
                Change::Demote(NodeId(1)),
                &[1],
                "1 voter (1); 1 needed, 1 answers: none may fail",
                "0 voters (none); 1 needed, 0 answer: no quorum",
            ),
        ];
        for (voters, change, answering, before, after) in cases {
            let dry_run = run(voters, std::slice::from_ref(&change), answering);
            assert_eq!(
                (dry_run.before.to_string().as_str(), dry_run.after.to_string().as_str()),
                (before, after),
                "{change:?}"
            );
        }
    }

    #[test]
    fn what_would_leave_no_quorum_is_dangerous() {
        let remove = |id| vec![Change::Remove(NodeId(id))];
        // With 3 away, removing 2 would leave 1 and 3, of which both are needed.
        assert_eq!(
            run(&[1, 2, 3], &remove(2), &[1, 2]).danger(),
            Some(Danger::NoQuorumAfter { silent: ids(&[3]) })
        );
        // The one to be removed is the one that is away.
        assert_eq!(run(&[1, 2, 3], &remove(3), &[1, 2]).danger(), None);
        assert_eq!(
            run(&[1, 2, 3], &remove(3), &[1]).danger(),
            Some(Danger::NoQuorumNow { silent: ids(&[2, 3]) })
        );
        assert_eq!(run(&[1], &remove(1), &[1]).danger(), Some(Danger::NoVoters));
        // A dead voter is replaced by a live one, at once.
        let replace = [Change::Promote(NodeId(4)), Change::Remove(NodeId(3))];
        assert_eq!(run(&[1, 2, 3], &replace, &[1, 2, 4]).danger(), None);
        // A learner asks nothing of the voters but a quorum; a joining one will be a voter.
        assert_eq!(run(&[1, 2, 3], &[learner(4, false)], &[1, 2]).danger(), None);
        assert_eq!(
            run(&[1, 2, 3], &[learner(4, true)], &[1, 2]).danger(),
            Some(Danger::NoQuorumAfter { silent: ids(&[3, 4]) })
        );
        assert_eq!(run(&[1, 2, 3], &[Change::SetLease(None)], &[1, 2]).danger(), None);
    }

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        let joint =
            Configuration { voters_outgoing: ids(&[3, 4, 5]), ..Configuration::of_voters(ids(&[1, 2, 3])) };
        assert_eq!(Standing::of(&joint, &ids(&[1, 2, 3])).may_fail(), None);
        assert_eq!(Standing::of(&joint, &ids(&[1, 2, 3, 4])).may_fail(), Some(0));
        assert_eq!(Standing::of(&joint, &ids(&[1, 2, 3, 4, 5])).may_fail(), Some(1));
    }

    #[test]
    fn fewer_voters_may_bear_less() {
        assert!(run(&[1, 2, 3], &[Change::Remove(NodeId(3))], &[1, 2, 3]).bears_less());
        assert!(!run(&[1, 2, 3, 4], &[Change::Remove(NodeId(4))], &[1, 2, 3, 4]).bears_less());
        assert!(!run(&[1, 2, 3], &[Change::Promote(NodeId(4))], &[1, 2, 3, 4]).bears_less());
    }

    /// Whether `up` decides, counted the dumb way.
    fn decides(half: &BTreeSet<NodeId>, up: &BTreeSet<NodeId>) -> bool {
        2 * half.iter().filter(|id| up.contains(id)).count() > half.len()
    }

    fn some_ids() -> impl Strategy<Value = BTreeSet<NodeId>> {
        prop::collection::btree_set((1u64..=6).prop_map(NodeId), 0..=5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// The twin takes away every set of nodes in turn, and looks whether what is left decides.
        #[test]
        fn agrees_with_the_twin(voters in some_ids(), outgoing in some_ids(), answering in some_ids()) {
            prop_assume!(!voters.is_empty());
            let configuration =
                Configuration { voters, voters_outgoing: outgoing, ..Configuration::default() };
            let standing = Standing::of(&configuration, &answering);
            let left = |failed: u32| -> BTreeSet<NodeId> {
                standing.answering.iter().enumerate().filter(|(n, _)| failed >> n & 1 == 0).map(|(_, id)| *id).collect()
            };
            let goes_on = |failed: u32| {
                let left = left(failed);
                decides(&configuration.voters, &left)
                    && (configuration.voters_outgoing.is_empty() || decides(&configuration.voters_outgoing, &left))
            };
            let all = 1u32 << standing.answering.len();
            let twin = (0..=standing.answering.len())
                .take_while(|n| (0..all).filter(|set| set.count_ones() as usize == *n).all(goes_on))
                .last();
            prop_assert_eq!(standing.may_fail(), twin);
        }
    }
}
