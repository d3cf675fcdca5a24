//! Who is in the cluster, as this node can tell, and what is done with requests to change it.
//!
//! Members and their addresses come from the configuration in force (§4.1): a member's context is its client address.
//! What the node's own options say of a member goes before that, so that an operator can mend an address that is
//! wrong in the configuration; before the node runs, they are all there is.
//!
//! Changes are made one at a time: whoever names the configuration that it reckoned with is refused if another one is
//! in force by now, and that is only worth something if nothing comes between looking and changing. The leader's own
//! doings (leaving a joint configuration, promoting who has caught up) may come between; then the core refuses,
//! because a change is under way, or they are done, and the index is another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use raft::clock::BoxFuture;
use raft::core::{Change, ChangeError, Configuration, NodeId, RoleName, TransferError};
use raft::driver::{HandOverError, MembershipError};

use crate::wire::{
    Member, MemberRefusal, MemberRole, Membership, NotDone, Outcome, Reply, RequestBody, Unknown,
};

use super::service::{Attached, Pending, Service, Started};

impl Service {
    /// The newest configuration in this node's log, if it has one yet.
    fn newest(&self) -> Option<Membership> {
        let newest = self.node()?.membership.borrow();
        Some(Membership {
            index: newest.index.0,
            committed: newest.committed,
            configuration: (*newest.configuration).clone(),
        })
    }

    /// Where `id` serves clients.
    pub(super) fn client_of(&self, id: NodeId) -> Option<String> {
        let known = self.options.clients.get(&id).cloned();
        known.or_else(|| client_in(&self.node()?.membership.borrow().configuration, id))
    }

    /// Who is in the cluster. Before the node runs: who is meant to be.
    pub(super) fn members(&self) -> Outcome {
        let leader = self.node().and_then(|node| node.leadership.borrow().leader);
        let member = |id: NodeId, peer: String, role| {
            let client = self.client_of(id).unwrap_or_default();
            Member { id, client, peer, role, leader: leader == Some(id) }
        };
        let members = match self.newest() {
            Some(Membership { configuration, .. }) => {
                let role = |id| MemberRole::of(id, &configuration).unwrap_or(MemberRole::Learner);
                let peer = |id| configuration.nodes.get(&id).map(|m| m.address.clone()).unwrap_or_default();
                configuration.members().into_iter().map(|id| member(id, peer(id), role(id))).collect()
            }
            None => {
                let meant = self.options.clients.keys();
                meant.map(|id| member(*id, String::new(), MemberRole::Voter)).collect()
            }
        };
        Outcome::Done(Reply::Members(members))
    }

    /// Begins a request that only the leader can do something about.
    pub(super) fn lead(self: &Arc<Self>, id: u64, body: RequestBody) -> Result<Started, NotDone> {
        let node = self.ready()?;
        let leadership = *node.leadership.borrow();
        if leadership.role != RoleName::Leader {
            return Err(self.not_leader(leadership.leader));
        }
        let service = Arc::clone(self);
        let outcome: BoxFuture<'static, Outcome> = match body {
            RequestBody::Membership => Box::pin(async move { service.membership().await }),
            RequestBody::LeaderStatus => {
                Box::pin(async move { Outcome::Done(Reply::Status(Box::new(service.report().await))) })
            }
            RequestBody::ChangeMembers { changes, expected } => {
                Box::pin(async move { service.change(changes, expected).await })
            }
            RequestBody::AddMember { id, peer, client, joining, expected } => {
                let member = NewMember { id, peer, client, joining };
                Box::pin(async move { service.add(member, expected).await })
            }
            RequestBody::TransferLeader { to } => Box::pin(async move { service.transfer(to).await }),
            other => panic!("{other:?} is not a request for the leader"),
        };
        Ok(Started::Pending(Pending::Other { id, outcome }))
    }

    async fn membership(&self) -> Outcome {
        let Ok(node) = self.ready() else { return Outcome::NotDone(NotDone::ShuttingDown) };
        // Everything acknowledged before is then in this node's log, configurations too.
        if let Err(error) = node.raft.read_index().await {
            return self.read_index_failed(error);
        }
        self.now()
    }

    /// The answer to a change that was made.
    fn now(&self) -> Outcome {
        Outcome::Done(Reply::Membership(Box::new(self.newest().unwrap_or_default())))
    }

    /// Whether the configuration in force is the one that was reckoned with.
    fn check_expected(&self, node: &Attached, expected: Option<u64>) -> Result<(), NotDone> {
        let index = node.membership.borrow().index.0;
        match expected {
            Some(expected) if expected != index => Err(NotDone::Refused(MemberRefusal::Changed { index })),
            _ => Ok(()),
        }
    }

    async fn change(&self, changes: Vec<Change>, expected: Option<u64>) -> Outcome {
        let Ok(node) = self.ready() else { return Outcome::NotDone(NotDone::ShuttingDown) };
        if let Err(reason) = check_changes(&changes) {
            return Outcome::NotDone(NotDone::Invalid { reason });
        }
        let Ok(_one_at_a_time) = self.changing.try_lock() else {
            return Outcome::NotDone(NotDone::Refused(MemberRefusal::InProgress));
        };
        if let Err(not_done) = self.check_expected(node, expected) {
            return Outcome::NotDone(not_done);
        }
        match node.raft.change_membership(changes).await {
            Ok(_) => self.now(),
            Err(error) => self.change_failed(error),
        }
    }

    async fn add(&self, member: NewMember, expected: Option<u64>) -> Outcome {
        let Ok(node) = self.ready() else { return Outcome::NotDone(NotDone::ShuttingDown) };
        if let Err(refusal) = self.check_new(node, &member) {
            return Outcome::NotDone(refusal);
        }
        let Ok(_one_at_a_time) = self.changing.try_lock() else {
            return Outcome::NotDone(NotDone::Refused(MemberRefusal::InProgress));
        };
        if let Err(not_done) = self.check_expected(node, expected) {
            return Outcome::NotDone(not_done);
        }
        let NewMember { id, peer, client, joining } = member;
        match node.raft.add_member(id, peer, client.into(), joining).await {
            Ok(_) => self.now(),
            Err(error) => self.change_failed(error),
        }
    }

    /// What can be known to be wrong before the new member is asked.
    fn check_new(&self, node: &Attached, new: &NewMember) -> Result<(), NotDone> {
        let invalid = |reason: String| Err(NotDone::Invalid { reason });
        if new.id.0 == 0 {
            return invalid("a member has id 0; ids begin at 1".into());
        }
        if let Err(reason) = check_addresses(new.id, &new.peer, &new.client) {
            return invalid(reason);
        }
        let configuration = Arc::clone(&node.membership.borrow().configuration);
        let refuse = |refusal| Err(NotDone::Refused(refusal));
        if configuration.contains(new.id) {
            return refuse(MemberRefusal::AlreadyMember(new.id));
        }
        if configuration.removed.contains(&new.id) {
            return refuse(MemberRefusal::IdUsed(new.id));
        }
        match taken(&configuration, new) {
            Some((address, id)) => {
                invalid(format!("the address {address} is that of member {} already", id.0))
            }
            None => Ok(()),
        }
    }

    fn change_failed(&self, error: MembershipError) -> Outcome {
        Outcome::NotDone(match error {
            MembershipError::Refused(ChangeError::NotLeader { hint }) => self.not_leader(hint),
            MembershipError::Refused(error) => match MemberRefusal::of_change(&error) {
                Some(refusal) => NotDone::Refused(refusal),
                None => NotDone::Overloaded { what: error.to_string() },
            },
            MembershipError::NotReady { id, address, why } => {
                NotDone::Refused(MemberRefusal::NotReady { id, address, why })
            }
            MembershipError::Overloaded => NotDone::Overloaded { what: "the node's requests".into() },
            MembershipError::Superseded => NotDone::Superseded,
            MembershipError::OutcomeUnknown => return Outcome::Unknown(Unknown::LeadershipLost),
            MembershipError::Stopped => return Outcome::Unknown(Unknown::Stopped),
        })
    }

    async fn transfer(&self, to: Option<NodeId>) -> Outcome {
        let Ok(node) = self.ready() else { return Outcome::NotDone(NotDone::ShuttingDown) };
        Outcome::NotDone(match node.raft.transfer_leadership(to).await {
            Ok(leader) => return Outcome::Done(Reply::Leader(leader)),
            Err(HandOverError::Refused(TransferError::NotLeader { hint })) => self.not_leader(hint),
            Err(HandOverError::Refused(error)) => match MemberRefusal::of_transfer(error) {
                Some(refusal) => NotDone::Refused(refusal),
                None => NotDone::NotLeader { leader: None },
            },
            Err(HandOverError::Failed { to }) => NotDone::Refused(MemberRefusal::TransferFailed { to }),
            Err(HandOverError::Overloaded) => NotDone::Overloaded { what: "the node's requests".into() },
            Err(HandOverError::OutcomeUnknown { .. }) => return Outcome::Unknown(Unknown::LeadershipLost),
            Err(HandOverError::Stopped) => return Outcome::Unknown(Unknown::Stopped),
        })
    }
}

/// As it comes in a request.
struct NewMember {
    id: NodeId,
    peer: String,
    client: String,
    joining: bool,
}

/// A host's name has at most 253 bytes.
const ADDRESS_BYTES_MAX: usize = 300;

/// What an address looks like is the network's business; but it is put into messages, files and logs.
fn is_address(address: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || c.is_control();
    !address.is_empty() && address.len() <= ADDRESS_BYTES_MAX && !address.contains(strange)
}

fn check_addresses(id: NodeId, peer: &str, client: &str) -> Result<(), String> {
    for (what, address) in [("peer", peer), ("client", client)] {
        if !is_address(address) {
            return Err(format!(
                "the {what} address of member {} is {address:?}; it must have 1 to \
                 {ADDRESS_BYTES_MAX} bytes, and no blanks",
                id.0
            ));
        }
    }
    Ok(())
}

/// Steps of one change, at most: the configuration stands in the log whole.
const CHANGES_MAX: usize = 64;

/// What is wrong with changes for this store, beyond what the core says of them.
fn check_changes(changes: &[Change]) -> Result<(), String> {
    if changes.len() > CHANGES_MAX {
        return Err(format!(
            "the change has {} steps; at most {CHANGES_MAX} are made at once",
            changes.len()
        ));
    }
    for change in changes {
        let (Change::AddLearner { id, member, .. }
        | Change::AddVoter { id, member }
        | Change::Update { id, member }) = change
        else {
            continue;
        };
        if member.incarnation == 0 {
            return Err(format!(
                "it is not said which disk member {} has: use AddMember, which asks it",
                id.0
            ));
        }
        let Ok(client) = std::str::from_utf8(&member.context) else {
            return Err(format!("the client address of member {} is not text", id.0));
        };
        check_addresses(*id, &member.address, client)?;
    }
    Ok(())
}

/// Where `id` serves clients, as the configuration has it.
fn client_in(configuration: &Configuration, id: NodeId) -> Option<String> {
    let context = &configuration.nodes.get(&id)?.context;
    let client = std::str::from_utf8(context).ok()?;
    (!client.is_empty()).then(|| client.to_owned())
}

/// An address of the new member that another one has, and which one.
fn taken(configuration: &Configuration, new: &NewMember) -> Option<(String, NodeId)> {
    let mut addresses = BTreeMap::new();
    for (&id, member) in configuration.nodes.iter().filter(|(id, _)| configuration.contains(**id)) {
        addresses.insert(member.address.clone(), id);
        addresses.extend(client_in(configuration, id).map(|client| (client, id)));
    }
    let wanted: BTreeSet<&String> = BTreeSet::from([&new.peer, &new.client]);
    wanted.into_iter().find_map(|address| Some((address.clone(), *addresses.get(address)?)))
}
