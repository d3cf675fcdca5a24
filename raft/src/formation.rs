//! How a cluster comes to be: once, by itself, of exactly the members that every configuration lists.
//!
//! # Rules
//!
//! - Only the listed member with the lowest id forms a cluster, and only when every other listed member has told it,
//!   in one round, that it is empty and lists the same members. It then draws the cluster's id, writes the
//!   *record* (the id, and every member's incarnation) into its own identity file, and only when that is durable does
//!   anyone hear of it.
//! - Members that are given a state to begin with, out of a backup, form a cluster only with those that are given the
//!   same one: it stands in the record as the cluster's *origin*. So all members that are restored from one file make
//!   one cluster, and an empty node, or one with another file, is noticed before there is any.
//! - Everyone else asks the listed members whether there is a record yet. Who has it gives it to a member that stands
//!   in it *with the incarnation that stands in it*. Who gets it makes it durable before doing anything else.
//! - A node without the record starts no consensus: it neither votes nor acknowledges.
//! - A member that stands in the record with another incarnation has lost its disk, and with it its promises. It is
//!   refused, and stops with a message that says so. A member that does not stand in it was added to the lists later:
//!   joining a cluster is a change of membership and goes through the log; it never forms one.
//! - A node that is told to *join* ([`join`]) takes no part in forming, whatever its list says. It asks the listed
//!   members, again and again, until one of them has it in its configuration, with this incarnation: then the cluster
//!   has added it (§4.2.1), and it gets the record. The record names the members that the cluster was formed of, not
//!   the node itself: that it is a member it learns from the log, as everyone does. Meanwhile whoever is about to add
//!   it can ask for its incarnation ([`probe`](crate::transport::probe)).
//! - Who gives the record looks at its newest configuration, committed or not: a node that was let in too early by a
//!   change that never commits has a record and no cluster that talks to it, which is what it had before.
//!
//! # Why there is never a second cluster
//!
//! A record is drawn only by the lowest member, and its identity file holds one. Crashes: before the record is durable
//! nobody has heard of it, and it may be drawn anew; afterwards it is there for ever. Should that one disk be wiped,
//! whoever has the record answers "formed", not "empty", and no new one is drawn; if nobody has it, the lost record
//! stood for nothing. Two members that each believe to be the lowest have different lists, and refuse each other.
//! What one would have to lose for two clusters to work at once is the disks of a majority.
//!
//! There is no message that carries the record unasked: members ask (every `backoff_min` at first), so that there is
//! only one way to get it, the same before and after any crash.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::blocking::SharedBlocking;
use crate::clock::{SharedClock, sleep};
use crate::core::{Member, NodeId};
use crate::disk::SharedDisk;
use crate::identity::{self, ClusterId, ClusterRecord, Identity, IdentityError};
use crate::mutant;
use crate::net::{Listener, SharedNet};
use crate::random::SplitMix;
use crate::snapshot::Origin;
use crate::transport::PeerOptions;
use crate::transport::dial::{DialError, dial};
use crate::transport::handshake::{Answer, Hello, Purpose, Refusal, Roster};
use crate::transport::reception::Reception;
use crate::transport::support::{Backoff, Tasks, on_lane};

/// The longest wait between two rounds of questions: a cluster whose last member has come up forms within two.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// What forming needs.
#[derive(Clone)]
pub struct FormationConfig {
    /// The time.
    pub clock: SharedClock,
    /// Streams to the other members.
    pub net: SharedNet,
    /// Where the identity file lies.
    pub disk: SharedDisk,
    /// Where the lane for writing it comes from.
    pub blocking: SharedBlocking,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Every member that is to form the cluster, this one included, with its address and context; the incarnations
    /// are not looked at. For a node that joins: itself, and members that it may ask.
    pub members: BTreeMap<NodeId, Member>,
    /// The state that this node is to begin with, if its cluster is restored from a backup.
    pub origin: Option<Origin>,
    /// Patience toward peers.
    pub options: PeerOptions,
    /// What the cluster's id is drawn from, if this node draws it. Must be fresh at every start.
    pub seed: u64,
}

/// The cluster cannot be formed, nor joined. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FormationError {
    /// The configuration does not list the node itself.
    #[error("this node is {member}, but its list of members does not contain it: correct the id or the list")]
    NotListed {
        /// This node.
        member: NodeId,
    },
    /// The cluster knows this member with another disk.
    #[error(
        "{member} is a member of the cluster already, with another disk (incarnation {expected:016x}, this one has \
         {found:016x}), as {by} at {address} says: restore its data directory, or remove {member} from the cluster \
         and add a new member with another id and an empty directory"
    )]
    Wiped {
        /// This node.
        member: NodeId,
        /// The incarnation in the cluster's record.
        expected: u64,
        /// The incarnation in the data directory.
        found: u64,
        /// Who said so.
        by: NodeId,
        /// Its address.
        address: String,
    },
    /// The cluster was formed without this member.
    #[error(
        "the cluster was formed without {member}, as {by} at {address} says: start it as one that joins and add it as a \
         new member, or correct its id or its list of members"
    )]
    FormedWithout {
        /// This node.
        member: NodeId,
        /// Who said so.
        by: NodeId,
        /// Its address.
        address: String,
    },
    /// The cluster had this member, and has it no more.
    #[error(
        "{member} was removed from the cluster, as {by} at {address} says, and its id is not used again: start with an \
         empty data directory and an id that was never used, and add that as a new member"
    )]
    Removed {
        /// This node.
        member: NodeId,
        /// Who said so.
        by: NodeId,
        /// Its address.
        address: String,
    },
    /// The cluster was formed without what this node was to begin with, or with something else.
    #[error(
        "the cluster began with {}, as {by} at {address} says, and this data directory was to begin with {}: restore \
         all members from the same file, each into an empty directory",
        origin_text(*.theirs), origin_text(*.ours)
    )]
    OtherOrigin {
        /// What the cluster began with.
        theirs: Option<Origin>,
        /// What this node was to begin with.
        ours: Option<Origin>,
        /// Who said so.
        by: NodeId,
        /// Its address.
        address: String,
    },
    /// There is nobody whom a node that is to join could ask.
    #[error(
        "{member} is to join a cluster, but its list names no other member: list at least one that is in it"
    )]
    NobodyToAsk {
        /// This node.
        member: NodeId,
    },
    /// The record cannot be written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The lane is gone: the node is being stopped.
    #[error("stopped while the cluster was being formed")]
    Stopped,
}

fn origin_text(origin: Option<Origin>) -> String {
    origin.map_or_else(|| "nothing".to_owned(), |origin| origin.to_string())
}

/// Waits until the cluster is formed, taking part in forming it, and returns this node's identity with the cluster's
/// record in it, durable. At once, if it is formed already.
///
/// `listener` is the one that peers dial later, too; meanwhile other members are answered on it. The future may be
/// dropped at any time; nothing goes on behind it.
///
/// # Errors
/// See [`FormationError`]. Members that are not reachable, or list others, are no error: this waits for them, and
/// says in the log what for.
pub async fn form(
    config: FormationConfig,
    identity: Identity,
    listener: &mut dyn Listener,
) -> Result<Identity, FormationError> {
    if identity.cluster.is_some() {
        return Ok(identity);
    }
    if !config.members.contains_key(&identity.member) {
        return Err(FormationError::NotListed { member: identity.member });
    }
    let listed = config.members.keys().copied().collect();
    let origin = config.origin;
    obtain(config, identity, listener, Roster::Forming { listed, origin }).await
}

/// Waits until the cluster has added this node, and returns its identity with the cluster's record in it, durable. At
/// once, if the node has the record already. Never forms a cluster.
///
/// `listener` and dropping are as for [`form`].
///
/// # Errors
/// See [`FormationError`]. Members that are not reachable, or do not know of this node yet, are no error: this waits
/// for them, and says in the log what for.
pub async fn join(
    config: FormationConfig,
    identity: Identity,
    listener: &mut dyn Listener,
) -> Result<Identity, FormationError> {
    let member = identity.member;
    if identity.cluster.is_some() {
        return Ok(identity);
    }
    if !config.members.contains_key(&member) {
        return Err(FormationError::NotListed { member });
    }
    if config.members.len() < 2 {
        return Err(FormationError::NobodyToAsk { member });
    }
    obtain(config, identity, listener, Roster::Joining).await
}

/// Asks for the record, or draws it, while others are answered by `roster`; makes it durable.
async fn obtain(
    config: FormationConfig,
    identity: Identity,
    listener: &mut dyn Listener,
    roster: Roster,
) -> Result<Identity, FormationError> {
    let reception = Arc::new(Reception::new(Arc::clone(&config.clock), identity.clone(), &config.options));
    let roster = Arc::new(roster);
    let asking = Asking { config: &config, identity: &identity, roster: &roster, reception: &reception };
    // Whoever calls while the record is being written is not answered: "empty" is over, "formed" not true yet.
    let record = tokio::select! {
        biased;
        record = asking.run() => record?,
        never = answer(&reception, &roster, listener) => match never {},
    };
    let members: Vec<NodeId> = record.members.keys().copied().collect();
    let cluster = ClusterId(record.cluster);
    let identity = Identity { cluster: Some(record), ..identity };
    let lane = config.blocking.lane("identity");
    let (disk, dir, formed) = (config.disk, config.data_dir, identity.clone());
    let stored = on_lane(&lane, move || identity::store(&*disk, &dir, &formed)).await;
    stored.ok_or(FormationError::Stopped)??;
    tracing::info!(%cluster, formed_of = ?members, "this node has its cluster");
    Ok(identity)
}

/// Answers the other members, until dropped.
async fn answer(reception: &Arc<Reception>, roster: &Arc<Roster>, listener: &mut dyn Listener) -> Infallible {
    let mut tasks = Tasks::default();
    loop {
        let stranger = reception.next(listener).await;
        let (reception, roster) = (Arc::clone(reception), Arc::clone(roster));
        tasks.spawn(async move {
            reception.greet(stranger, |_| (*roster).clone()).await;
        });
    }
}

/// What a member said, or why it said nothing.
type Told = (NodeId, Result<Answer, DialError>);

/// What a round of questions has brought.
enum Round {
    /// There is a cluster.
    Formed(ClusterRecord),
    /// All others are empty and list the same members; these are everyone's disks.
    AllEmpty(BTreeMap<NodeId, u64>),
    /// Neither; what is missing, and whether someone said that this node is not a member yet.
    Waiting { reasons: Vec<String>, not_added: bool },
}

struct Asking<'a> {
    config: &'a FormationConfig,
    identity: &'a Identity,
    roster: &'a Roster,
    reception: &'a Reception,
}

impl Asking<'_> {
    /// Asks until there is a record.
    async fn run(&self) -> Result<ClusterRecord, FormationError> {
        let FormationConfig { options, seed, clock, .. } = self.config;
        let mut random = SplitMix::derived(*seed, 0x666f_726d);
        let wait_max = options.backoff_max.min(WAIT_MAX);
        let mut backoff = Backoff::new(options.backoff_min, wait_max, random.draw());
        loop {
            match self.round().await? {
                Round::Formed(record) => return Ok(record),
                Round::AllEmpty(disks) if disks.keys().next() == Some(&self.identity.member) => {
                    let cluster = (u128::from(random.draw()) << 64) | u128::from(random.draw());
                    let origin = self.config.origin;
                    return Ok(ClusterRecord { cluster, members: self.members(&disks), origin });
                }
                // The lowest member will notice it too.
                Round::AllEmpty(_) => {}
                Round::Waiting { reasons, not_added } => self.log_waiting(&reasons, not_added),
            }
            sleep(&**clock, backoff.draw()).await;
        }
    }

    /// Asks every other listed member, all at the same time.
    async fn round(&self) -> Result<Round, FormationError> {
        let (sender, mut told) = mpsc::channel::<Told>(self.config.members.len());
        let mut tasks = Tasks::default();
        for (id, member) in self.config.members.iter().filter(|(id, _)| **id != self.identity.member) {
            tasks.spawn(ask(self.config.clone(), self.hello(*id), member.address.clone(), sender.clone()));
        }
        drop(sender);
        let mut disks = BTreeMap::from([(self.identity.member, self.identity.incarnation)]);
        let (mut reasons, mut not_added) = (Vec::new(), false);
        while let Some((by, answer)) = told.recv().await {
            match self.weigh(by, answer)? {
                Weighed::Formed(record) => return Ok(Round::Formed(record)),
                Weighed::Empty(incarnation) => {
                    disks.insert(by, incarnation);
                }
                Weighed::NotAdded => not_added = true,
                Weighed::Nothing(why) => reasons.push(format!("{by}: {why}")),
            }
        }
        if disks.len() == self.config.members.len() {
            Ok(Round::AllEmpty(disks))
        } else {
            Ok(Round::Waiting { reasons, not_added })
        }
    }

    /// The members as they will stand in the record: their disks as they told, the rest as this node's list has it.
    fn members(&self, disks: &BTreeMap<NodeId, u64>) -> BTreeMap<NodeId, Member> {
        let listed = self.config.members.iter();
        let known = listed.filter_map(|(id, member)| Some((id, member, *disks.get(id)?)));
        known.map(|(id, member, incarnation)| (*id, Member { incarnation, ..member.clone() })).collect()
    }

    /// What one member's answer means.
    fn weigh(&self, by: NodeId, answer: Result<Answer, DialError>) -> Result<Weighed, FormationError> {
        let joining = matches!(self.roster, Roster::Joining);
        let listed: BTreeSet<NodeId> = self.config.members.keys().copied().collect();
        match answer {
            Ok(Answer::Formed(record)) => self.check(by, &record).map(|()| Weighed::Formed(record)),
            Ok(Answer::Empty { .. }) if joining => Ok(Weighed::Nothing("it makes no sense".to_owned())),
            Ok(Answer::Empty { incarnation, listed: its, origin }) if its == listed => {
                Ok(self.weigh_origin(by, incarnation, origin))
            }
            Ok(Answer::Empty { listed: its, .. }) => {
                let why = format!("it lists {its:?}, this node {listed:?}: make the lists the same");
                self.reception
                    .warn((by.0, "forming", "lists"), || format!("{by} is not of the same cluster: {why}"));
                Ok(Weighed::Nothing(why))
            }
            Ok(Answer::Accept { .. } | Answer::Refuse(_) | Answer::Probed(_)) => {
                Ok(Weighed::Nothing("it makes no sense".to_owned()))
            }
            Err(DialError::Refused(Refusal::WrongIncarnation { expected })) => Err(self.wiped(by, expected)),
            Err(DialError::Refused(Refusal::Removed)) => {
                let member = self.identity.member;
                Err(FormationError::Removed { member, by, address: self.address(by) })
            }
            Err(DialError::Refused(Refusal::UnknownMember)) if joining => Ok(Weighed::NotAdded),
            Err(DialError::Refused(Refusal::UnknownMember)) => Err(self.formed_without(by)),
            Err(error) => {
                let why = error.explain(self.identity.member, by);
                if let DialError::Refused(refusal) = &error {
                    self.reception
                        .warn((by.0, "forming", refusal.name()), || format!("{by} refused this node: {why}"));
                }
                Ok(Weighed::Nothing(why))
            }
        }
    }

    /// What an empty member is worth that is to begin with `origin`.
    fn weigh_origin(&self, by: NodeId, incarnation: u64, origin: Option<Origin>) -> Weighed {
        let ours = self.config.origin;
        if origin == ours {
            return Weighed::Empty(incarnation);
        }
        let (its, ours) = (origin_text(origin), origin_text(ours));
        let why = format!("it is to begin with {its}, this node with {ours}: restore all from the same file");
        self.reception
            .warn((by.0, "forming", "origins"), || format!("{by} forms no cluster with this node: {why}"));
        Weighed::Nothing(why)
    }

    /// That no other disk stands in the record under this node's id. That this one may have the record at all the
    /// giver has seen: it may have been added since the cluster was formed.
    fn check(&self, by: NodeId, record: &ClusterRecord) -> Result<(), FormationError> {
        match record.members.get(&self.identity.member) {
            // The planted bug: a wiped disk takes up its old id again.
            Some(_) if mutant!("wiped-id") => Ok(()),
            Some(member) if member.incarnation != self.identity.incarnation => {
                Err(self.wiped(by, member.incarnation))
            }
            Some(_) if record.origin != self.config.origin => Err(FormationError::OtherOrigin {
                theirs: record.origin,
                ours: self.config.origin,
                by,
                address: self.address(by),
            }),
            _ => Ok(()),
        }
    }

    fn hello(&self, to: NodeId) -> Hello {
        let Identity { member, incarnation, .. } = *self.identity;
        let purpose = match self.roster {
            Roster::Forming { listed, .. } => Purpose::Formation { listed: listed.clone() },
            _ => Purpose::Join,
        };
        Hello { cluster: None, member, incarnation, address: self.address(member), to, purpose }
    }

    fn wiped(&self, by: NodeId, expected: u64) -> FormationError {
        let Identity { member, incarnation: found, .. } = *self.identity;
        FormationError::Wiped { member, expected, found, by, address: self.address(by) }
    }

    fn formed_without(&self, by: NodeId) -> FormationError {
        FormationError::FormedWithout { member: self.identity.member, by, address: self.address(by) }
    }

    fn address(&self, id: NodeId) -> String {
        self.config.members.get(&id).map(|member| member.address.clone()).unwrap_or_default()
    }

    fn log_waiting(&self, reasons: &[String], not_added: bool) {
        let (member, topic) = (self.identity.member, if not_added { "not added" } else { "waiting" });
        if !self.reception.may_log((0, "forming", topic)) {
            return;
        }
        let reasons = reasons.join("; ");
        match self.roster {
            Roster::Joining if not_added => tracing::info!(
                "the cluster does not have {member} yet: add it, with the id {} and the address {} (`raftkv member \
                 add`); this node waits",
                member.0,
                self.address(member)
            ),
            Roster::Joining => {
                tracing::info!("waiting for a member of the cluster that {member} is to join; {reasons}")
            }
            _ => tracing::info!("waiting for all members to form the cluster; {reasons}"),
        }
    }
}

/// What one answer is worth.
enum Weighed {
    Formed(ClusterRecord),
    Empty(u64),
    /// There is a cluster, and this node, which is to join, is not in it yet.
    NotAdded,
    Nothing(String),
}

/// Asks one member.
async fn ask(config: FormationConfig, hello: Hello, address: String, told: mpsc::Sender<Told>) {
    let answer = dial(&*config.clock, &*config.net, &address, &hello, &config.options).await;
    // The round may be over already.
    let _ = told.send((hello.to, answer.map(|dialled| dialled.answer))).await;
}

#[cfg(all(test, not(madsim)))]
mod tests;
