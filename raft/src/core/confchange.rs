//! What a change makes of a configuration: pure functions, without a log, a role or a clock.
//!
//! A change of who votes goes through a joint configuration (§4.3): [`begin`] gives the new voters beside the old
//! ones, and every decision takes a majority of each; [`leave`] gives what remains once that is committed. A change
//! that leaves the voters as they are needs no second half (§4.2.1): learners, addresses and the lease are decided by
//! the same majority before and after. `raft/src/core/confchange/tests.rs` compares both with a twin that thinks of
//! each member by itself.
//!
//! Divergence: the dissertation prefers changes of one server at a time (§4.2). Joint consensus needs one rule more
//! and spares the user the order of the steps; it also has no need of the repair of 2015, see `membership`.

use std::collections::BTreeSet;

use super::change::{Change, ChangeError};
use super::types::{Configuration, Lease, Member, NodeId};

/// The configuration that begins `changes`: joint if the voters change.
///
/// `current` is not joint: one change at a time.
pub(super) fn begin(current: &Configuration, changes: &[Change]) -> Result<Configuration, ChangeError> {
    let mut next = current.clone();
    let mut seen = BTreeSet::new();
    for change in changes {
        if let Some(id) = subject(change)
            && !seen.insert(id)
        {
            return Err(ChangeError::Twice(id));
        }
        make(&mut next, change)?;
    }
    if next == *current {
        return Err(ChangeError::Nothing);
    }
    if next.voters.is_empty() {
        return Err(ChangeError::NoVoters);
    }
    if next.voters == current.voters {
        return Ok(next);
    }
    next.voters_outgoing.clone_from(&current.voters);
    // Who votes in the old half is no learner yet, and no former member either.
    let outgoing = &next.voters_outgoing;
    next.learners_next = next.learners.intersection(outgoing).copied().collect();
    next.learners.retain(|id| !outgoing.contains(id));
    next.removed.retain(|id| !outgoing.contains(id));
    for id in outgoing {
        if let Some(member) = current.nodes.get(id)
            && !next.nodes.contains_key(id)
        {
            next.nodes.insert(*id, member.clone());
        }
    }
    Ok(next)
}

/// The configuration behind a joint one: the new half alone.
pub(super) fn leave(joint: &Configuration) -> Configuration {
    let mut next = joint.clone();
    let before = joint.members();
    next.voters_outgoing.clear();
    next.learners.append(&mut next.learners_next);
    let members = next.members();
    next.removed.extend(before.difference(&members));
    next.nodes.retain(|id, _| members.contains(id));
    next
}

/// Whom a step is about.
fn subject(change: &Change) -> Option<NodeId> {
    match change {
        Change::AddLearner { id, .. }
        | Change::AddVoter { id, .. }
        | Change::Promote(id)
        | Change::Demote(id)
        | Change::Remove(id)
        | Change::Update { id, .. } => Some(*id),
        Change::SetLease(_) => None,
    }
}

/// Makes one step, as if there were no second half.
fn make(next: &mut Configuration, change: &Change) -> Result<(), ChangeError> {
    match change {
        Change::AddLearner { id, member, joining } => {
            admit(next, *id, member)?;
            next.learners.insert(*id);
            if *joining {
                next.joining.insert(*id);
            }
        }
        Change::AddVoter { id, member } => {
            admit(next, *id, member)?;
            next.voters.insert(*id);
        }
        Change::Promote(id) => {
            if next.voters.contains(id) {
                return Err(ChangeError::AlreadyVoter(*id));
            }
            if !next.learners.remove(id) {
                return Err(ChangeError::NotMember(*id));
            }
            next.joining.remove(id);
            next.voters.insert(*id);
        }
        Change::Demote(id) => {
            if next.learners.contains(id) {
                return Err(ChangeError::NotVoter(*id));
            }
            if !next.voters.remove(id) {
                return Err(ChangeError::NotMember(*id));
            }
            next.learners.insert(*id);
        }
        Change::Remove(id) => {
            if !next.voters.remove(id) && !next.learners.remove(id) {
                return Err(ChangeError::NotMember(*id));
            }
            next.joining.remove(id);
            next.nodes.remove(id);
            next.removed.insert(*id);
        }
        Change::Update { id, member } => update(next, *id, member)?,
        Change::SetLease(lease) => {
            if lease.is_some_and(|lease| !is_sound(lease)) {
                return Err(ChangeError::BadLease);
            }
            next.lease = *lease;
        }
    }
    Ok(())
}

/// An id is given once, for ever (rule 15): else a node could be taken for the one that had it before.
fn admit(next: &mut Configuration, id: NodeId, member: &Member) -> Result<(), ChangeError> {
    if next.contains(id) {
        return Err(ChangeError::AlreadyMember(id));
    }
    if next.removed.contains(&id) {
        return Err(ChangeError::IdUsed(id));
    }
    if id.0 == 0 {
        return Err(ChangeError::NotMember(id));
    }
    next.nodes.insert(id, member.clone());
    Ok(())
}

/// Addresses may change, the disk may not. Where it is not known yet, it becomes known.
fn update(next: &mut Configuration, id: NodeId, member: &Member) -> Result<(), ChangeError> {
    if !next.contains(id) {
        return Err(ChangeError::NotMember(id));
    }
    let known = next.nodes.get(&id).map_or(0, |known| known.incarnation);
    if known != 0 && known != member.incarnation {
        return Err(ChangeError::OtherIncarnation(id));
    }
    next.nodes.insert(id, member.clone());
    Ok(())
}

/// A lease of which the drift takes half or more is none.
fn is_sound(lease: Lease) -> bool {
    lease.duration_ms > 0 && lease.drift_ppm < 1_000_000
}

#[cfg(test)]
mod tests;
