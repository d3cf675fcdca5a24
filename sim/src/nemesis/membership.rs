//! Changes of membership, hand-overs and lost disks: what an operator does, at bad moments.
//!
//! The operator is not careless, for there is nothing to be learned from a cluster that was asked to kill itself: no
//! change leaves so many voters without a disk that the others are no majority, and no disk is lost whose loss could
//! lose what was acknowledged. Everything else may be asked for, also what must be refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use raft::core::{Change, Configuration, Lease, NodeId};

use super::Nemesis;
use crate::app::View;
use crate::app::admin::AdminError;
use crate::plan::{Fault, Step, Voter};
use crate::trace::{Event, Source};

const MILLISECOND: u64 = 1_000_000;

/// How long an operator tries again what may be taken later.
const PATIENCE_NS: u64 = 2_000 * MILLISECOND;
/// How long it waits in between.
const PAUSE_NS: u64 = 60 * MILLISECOND;
/// How long it waits for a new member to catch up before it lets the old one go.
const CATCH_UP_NS: u64 = 3_000 * MILLISECOND;

/// How a request ended.
type Ended = Result<String, AdminError>;

/// The request cannot be made sense of as things are.
fn senseless(why: impl Into<String>) -> AdminError {
    AdminError::Refused(why.into())
}

impl Nemesis {
    /// Begins what `fault` asks for; it goes on by itself.
    pub(super) fn administer(&self, number: u32, fault: Fault) {
        let nemesis = self.clone();
        self.requests.begin();
        tokio::spawn(async move {
            let ended = match &fault {
                Fault::Change { steps } => nemesis.change(steps).await,
                Fault::Replace { old } => nemesis.replace(*old).await,
                Fault::Transfer { to } => nemesis.transfer(*to).await,
                Fault::Lease { on } => nemesis.lease(*on).await,
                _ => Ok(String::new()),
            };
            nemesis.requests.end(&fault, &ended);
            let text = match ended {
                Ok(what) => format!("fault {number} done: {what}"),
                Err(error) => format!("fault {number} not done: {error}"),
            };
            nemesis.cluster.world().record(Source::World, &Event::Note { text: &text });
        });
    }

    /// Tries until it is taken, or time is up. What is asked for is worked out anew each time.
    async fn persist<F>(&self, attempt: impl Fn(u8, Arc<dyn View>) -> F) -> Ended
    where
        F: Future<Output = Ended>,
    {
        let time = &self.cluster.world().time;
        let end_ns = time.now_ns() + PATIENCE_NS;
        let mut last = AdminError::Later("nobody leads".to_owned());
        while time.now_ns() < end_ns && !self.is_over() {
            let leader = self.cluster.leader();
            if let Some((node, view)) = leader.and_then(|node| Some((node, self.cluster.view(node)?))) {
                match attempt(node, view).await {
                    Err(AdminError::Later(why)) => last = AdminError::Later(why),
                    ended => return ended,
                }
            }
            time.sleep(PAUSE_NS).await;
        }
        Err(last)
    }

    async fn change(&self, steps: &[Step]) -> Ended {
        // A machine that was enlisted for a step stays so if the step is tried again.
        let spares = std::sync::Mutex::new(Vec::new());
        self.persist(|leader, view| {
            let spares = &spares;
            async move {
                if let [Step::AddLearner { joining }] = *steps {
                    let node = self.newcomer(spares, 0)?;
                    return self.add(&view, node, joining).await;
                }
                let configuration = view.raft().membership().configuration;
                let mut changes = Vec::new();
                let mut newcomers = 0;
                for step in steps {
                    changes.push(match *step {
                        Step::AddLearner { joining } => {
                            let (id, member) = self.probe(&view, self.newcomer(spares, newcomers)?).await?;
                            newcomers += 1;
                            Change::AddLearner { id, member, joining }
                        }
                        Step::AddVoter => {
                            let (id, member) = self.probe(&view, self.newcomer(spares, newcomers)?).await?;
                            newcomers += 1;
                            Change::AddVoter { id, member }
                        }
                        step => change_of(step, leader, &configuration)?,
                    });
                }
                self.propose(&view, changes).await
            }
        })
        .await
    }

    /// The n-th machine that a request has made its own, or the next spare one.
    fn newcomer(&self, spares: &std::sync::Mutex<Vec<u8>>, n: usize) -> Result<u8, AdminError> {
        let mut spares = spares.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while spares.len() <= n {
            spares.push(self.cluster.enlist().ok_or_else(|| senseless("no spare machine is left"))?);
        }
        Ok(spares[n])
    }

    async fn add(&self, view: &Arc<dyn View>, node: u8, joining: bool) -> Ended {
        view.raft().add(id(node), self.cluster.member(node, 0), joining).await?;
        Ok(format!("n{node} is a learner"))
    }

    async fn propose(&self, view: &Arc<dyn View>, changes: Vec<Change>) -> Ended {
        let configuration = view.raft().membership().configuration;
        self.is_survivable(&configuration, &changes)?;
        let changed = view.raft().change(changes).await?;
        Ok(format!("voters {:?} learners {:?}", changed.voters, changed.learners))
    }

    /// Has the leader look for a machine's node; tells which disk it has.
    async fn probe(
        &self,
        view: &Arc<dyn View>,
        node: u8,
    ) -> Result<(NodeId, raft::core::Member), AdminError> {
        let member = self.cluster.member(node, 0);
        let incarnation = view.raft().probe(id(node), member.address).await?;
        Ok((id(node), self.cluster.member(node, incarnation)))
    }

    /// Whether those that have their disks can decide everything, before and after.
    fn is_survivable(&self, before: &Configuration, changes: &[Change]) -> Result<(), AdminError> {
        let mut after = before.voters.clone();
        for change in changes {
            match change {
                Change::AddVoter { id, .. } | Change::Promote(id) => _ = after.insert(*id),
                Change::Demote(id) | Change::Remove(id) => _ = after.remove(id),
                _ => {}
            }
        }
        let lost: BTreeSet<NodeId> = self.cluster.wiped_nodes().into_iter().map(id).collect();
        // While disks are missing, one request at a time: what two do together is not foreseen here.
        if !lost.is_empty() && self.requests.open() > 1 {
            return Err(AdminError::Later("disks are missing, and another request is under way".to_owned()));
        }
        let enough = |voters: &BTreeSet<NodeId>| voters.difference(&lost).count() > voters.len() / 2;
        if after.is_empty() || !enough(&after) || !enough(&before.voters) {
            return Err(senseless(format!("of the voters {after:?} too many have lost their disks")));
        }
        Ok(())
    }

    /// Adds a machine, waits until it has the log, and lets it take the place of a voter in one change.
    async fn replace(&self, old: Voter) -> Ended {
        let spares = std::sync::Mutex::new(Vec::new());
        self.persist(|_, view| {
            let spares = &spares;
            async move { self.add(&view, self.newcomer(spares, 0)?, false).await }
        })
        .await?;
        let new = self.newcomer(&spares, 0)?;
        self.until_caught_up(new).await?;
        self.persist(|leader, view| async move {
            let configuration = view.raft().membership().configuration;
            // Whoever has lost its disk goes first.
            let wiped = self.cluster.wiped_nodes().into_iter().map(id);
            let gone = wiped.into_iter().find(|id| configuration.voters.contains(id));
            let old = match gone {
                Some(gone) => gone,
                None => voter(old, leader, &configuration)?,
            };
            self.propose(&view, vec![Change::Promote(id(new)), Change::Remove(old)]).await
        })
        .await
    }

    async fn until_caught_up(&self, node: u8) -> Result<(), AdminError> {
        let time = &self.cluster.world().time;
        let end_ns = time.now_ns() + CATCH_UP_NS;
        while time.now_ns() < end_ns && !self.is_over() {
            let applied = |node| self.cluster.view(node).map(|view| view.applied().index);
            let of_leader = self.cluster.leader().and_then(applied);
            if applied(node).is_some_and(|index| of_leader.is_some_and(|most| index.0 + 5 >= most.0)) {
                return Ok(());
            }
            time.sleep(PAUSE_NS).await;
        }
        Err(AdminError::Unknown(format!("n{node} is added, and has not caught up")))
    }

    async fn transfer(&self, to: Option<u8>) -> Ended {
        self.persist(|_, view| async move {
            let leader = view.raft().transfer(to.map(id)).await?;
            Ok(format!("{leader} leads"))
        })
        .await
    }

    async fn lease(&self, on: bool) -> Ended {
        let scenario = self.cluster.world().scenario.lease;
        let Some(lease) = scenario else { return Err(senseless("the scenario has no leases")) };
        let lease = on.then_some(Lease { duration_ms: lease.duration_ms, drift_ppm: lease.drift_ppm });
        self.persist(|_, view| async move {
            view.raft().change(vec![Change::SetLease(lease)]).await?;
            Ok(format!("leases are {}", if on { "on" } else { "off" }))
        })
        .await
    }

    /// A disk is lost, if whatever was acknowledged is certain to be elsewhere.
    pub(super) fn wipe(&self, node: u8) -> bool {
        let cluster = &self.cluster;
        // What two requests make of the voters together is not foreseen here.
        if self.requests.open() > 0 || !cluster.nodes().contains(&node) || !cluster.was_ready(node) {
            return false;
        }
        let mut lost: BTreeSet<NodeId> = cluster.wiped_nodes().into_iter().map(id).collect();
        lost.insert(id(node));
        let mut in_play = cluster.world().invariants.configurations_in_play();
        in_play.extend(cluster.nodes().into_iter().filter_map(|node| {
            let view = cluster.view(node)?;
            Some((*view.raft().membership().configuration).clone())
        }));
        // A voter that has never been up may be one that knows nothing yet.
        let good =
            |id: &&NodeId| !lost.contains(id) && u8::try_from(id.0).is_ok_and(|id| cluster.was_ready(id));
        let enough = |voters: &BTreeSet<NodeId>| {
            voters.is_empty() || voters.iter().filter(good).count() > voters.len() / 2
        };
        let survives = in_play.iter().all(|c| enough(&c.voters) && enough(&c.voters_outgoing));
        if survives {
            cluster.wipe(node);
        }
        survives
    }
}

fn id(node: u8) -> NodeId {
    NodeId(u64::from(node))
}

/// A step about members there are.
fn change_of(step: Step, leader: u8, configuration: &Configuration) -> Result<Change, AdminError> {
    Ok(match step {
        Step::Promote(n) => Change::Promote(nth(&configuration.learners, n)?),
        Step::Demote(old) => Change::Demote(voter(old, leader, configuration)?),
        Step::Remove(old) => Change::Remove(voter(old, leader, configuration)?),
        Step::RemoveLearner(n) => Change::Remove(nth(&configuration.learners, n)?),
        Step::AddLearner { .. } | Step::AddVoter => panic!("{step} names no member"),
    })
}

fn voter(which: Voter, leader: u8, configuration: &Configuration) -> Result<NodeId, AdminError> {
    match which {
        Voter::Leader => Ok(id(leader)),
        Voter::Nth(n) => nth(&configuration.voters, n),
    }
}

fn nth(set: &BTreeSet<NodeId>, n: u8) -> Result<NodeId, AdminError> {
    let at = usize::from(n) % set.len().max(1);
    set.iter().nth(at).copied().ok_or_else(|| senseless("there is none"))
}

/// What operators have asked for.
#[derive(Default)]
pub(super) struct Requests {
    counts: std::sync::Mutex<Counts>,
}

/// How many requests there were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) open: u32,
    pub(super) changes: u32,
    pub(super) transfers: u32,
    /// How many ended without telling whether they took effect.
    pub(super) unknown: u32,
}

impl Requests {
    pub(super) fn counts(&self) -> Counts {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn open(&self) -> u32 {
        self.lock().open
    }

    fn begin(&self) {
        self.lock().open += 1;
    }

    fn end(&self, fault: &Fault, ended: &Ended) {
        let mut counts = self.lock();
        counts.open -= 1;
        match (ended, fault) {
            (Ok(_), Fault::Transfer { .. }) => counts.transfers += 1,
            (Ok(_), _) => counts.changes += 1,
            (Err(AdminError::Unknown(_)), _) => counts.unknown += 1,
            (Err(_), _) => {}
        }
    }
}
