//! Who may speak here, and on what way each is answered.
//!
//! *Members* come from the configuration, which the driver hands down; with them stand those that are leaving and
//! are still to get entries. *Strangers* are of the right cluster, but not in the configuration that this node has:
//! most often one that was added while this node was away. A stranger's messages are heard, for a vote that it asks
//! for, or entries that it sends as leader, may be all that this node needs to learn of it; and it is answered at the
//! address that it named, for as long as its stream lives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handshake::{Members, Refusal, Roster, STRANGERS_MAX, check_member};
use super::outbox::Outbox;
use super::support::Task;
use crate::core::NodeId;

/// Shared by those who accept, those who send, and the driver. No call waits.
#[derive(Default)]
pub(super) struct Directory(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    incarnations: BTreeMap<NodeId, u64>,
    removed: BTreeSet<NodeId>,
    /// What waits for each peer, member or stranger.
    outboxes: BTreeMap<NodeId, Arc<Outbox>>,
    /// Invariant: none of them is a member.
    strangers: BTreeMap<NodeId, Stranger>,
    /// How many visits there have been.
    visits: u64,
}

/// One that this node's configuration does not name.
struct Stranger {
    incarnation: u64,
    address: String,
    /// The visit that it came with last.
    visit: u64,
    /// The way back to it, unless it named no address.
    link: Option<Task>,
}

/// The way to a stranger, for the one who makes a member of it.
pub(super) struct Way {
    pub(super) address: String,
    pub(super) outbox: Arc<Outbox>,
    pub(super) link: Task,
}

/// What [`Directory::meet`] found.
pub(super) enum Met {
    Member,
    /// Over when the number is handed to [`Directory::leave`].
    Stranger {
        visit: u64,
        /// Whether there is no way back to it yet.
        is_new: bool,
    },
}

impl Directory {
    /// Takes over a configuration. Returns those whose streams are to be closed: they are not let in any more, or
    /// not with the disk that was let in.
    pub(super) fn update(
        &self,
        incarnations: BTreeMap<NodeId, u64>,
        removed: BTreeSet<NodeId>,
    ) -> BTreeSet<NodeId> {
        let mut entries = self.lock();
        let before = entries.incarnations.iter();
        let mut expelled: BTreeSet<NodeId> =
            before.filter(|(id, disk)| incarnations.get(id) != Some(disk)).map(|(id, _)| *id).collect();
        for (id, stranger) in &entries.strangers {
            let other_disk =
                incarnations.get(id).is_some_and(|disk| ![0, stranger.incarnation].contains(disk));
            if removed.contains(id) && !incarnations.contains_key(id) || other_disk {
                expelled.insert(*id);
            }
        }
        entries.incarnations = incarnations;
        entries.removed = removed;
        expelled
    }

    /// Those who are let in, for the judge of `peer`.
    pub(super) fn roster(&self, peer: NodeId) -> Roster {
        let entries = self.lock();
        Roster::Formed(Members {
            incarnations: entries.incarnations.clone(),
            removed: entries.removed.clone(),
            room: entries.strangers.len() < STRANGERS_MAX || entries.strangers.contains_key(&peer),
        })
    }

    /// Which disk of `peer` is known; 0 if that is not known.
    pub(super) fn incarnation(&self, peer: NodeId) -> u64 {
        let entries = self.lock();
        let stranger = || entries.strangers.get(&peer).map(|stranger| stranger.incarnation);
        entries.incarnations.get(&peer).copied().or_else(stranger).unwrap_or(0)
    }

    /// Takes in one that has been greeted, if it still may come in.
    pub(super) fn meet(&self, peer: NodeId, incarnation: u64, address: &str) -> Result<Met, Refusal> {
        let mut entries = self.lock();
        let Entries { incarnations, removed, strangers, outboxes, visits } = &mut *entries;
        match check_member(incarnations, removed, peer, incarnation) {
            Ok(()) => return Ok(Met::Member),
            Err(Refusal::UnknownMember) => {}
            Err(refusal) => return Err(refusal),
        }
        *visits += 1;
        let visit = *visits;
        if let Some(stranger) = strangers.get_mut(&peer)
            && (stranger.incarnation, stranger.address.as_str()) == (incarnation, address)
        {
            stranger.visit = visit;
            return Ok(Met::Stranger { visit, is_new: false });
        }
        if strangers.len() >= STRANGERS_MAX && !strangers.contains_key(&peer) {
            return Err(Refusal::Crowded);
        }
        outboxes.remove(&peer);
        strangers.insert(peer, Stranger { incarnation, address: address.to_owned(), visit, link: None });
        Ok(Met::Stranger { visit, is_new: true })
    }

    /// Takes note of the way back to a stranger; gives it back if the stranger is none any more.
    pub(super) fn answer_by(
        &self,
        peer: NodeId,
        visit: u64,
        outbox: Arc<Outbox>,
        link: Task,
    ) -> Option<Task> {
        let mut entries = self.lock();
        let Some(stranger) = entries.strangers.get_mut(&peer).filter(|stranger| stranger.visit == visit)
        else {
            return Some(link);
        };
        let before = stranger.link.replace(link);
        entries.outboxes.insert(peer, outbox);
        before
    }

    /// A stranger's stream has ended. Returns the way back to it, unless it has come again or become a member.
    pub(super) fn leave(&self, peer: NodeId, visit: u64) -> Option<Task> {
        let mut entries = self.lock();
        if entries.strangers.get(&peer).is_none_or(|stranger| stranger.visit != visit) {
            return None;
        }
        entries.outboxes.remove(&peer);
        entries.strangers.remove(&peer)?.link
    }

    /// A stranger becomes a member, or is refused from now on. Returns the way to it, if there is one.
    pub(super) fn take_stranger(&self, peer: NodeId) -> Option<Way> {
        let mut entries = self.lock();
        let Stranger { address, link, .. } = entries.strangers.remove(&peer)?;
        Some(Way { address, outbox: entries.outboxes.remove(&peer)?, link: link? })
    }

    /// From now on messages to `peer` go this way.
    pub(super) fn set_outbox(&self, peer: NodeId, outbox: Arc<Outbox>) {
        self.lock().outboxes.insert(peer, outbox);
    }

    /// From now on messages to `peer` are dropped.
    pub(super) fn remove_outbox(&self, peer: NodeId) {
        self.lock().outboxes.remove(&peer);
    }

    /// Does something with what waits for `peer`, if it is reached at all.
    pub(super) fn with_outbox(&self, peer: NodeId, act: impl FnOnce(&Outbox)) {
        // Not under the lock: encoding a message takes its time.
        let outbox = self.lock().outboxes.get(&peer).cloned();
        if let Some(outbox) = outbox {
            act(&outbox);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meet(directory: &Directory, id: u64) -> Result<u64, Refusal> {
        match directory.meet(NodeId(id), id, "somewhere") {
            Ok(Met::Stranger { visit, .. }) => Ok(visit),
            Ok(Met::Member) => panic!("n{id} is no member"),
            Err(refusal) => Err(refusal),
        }
    }

    fn has_room(directory: &Directory, id: u64) -> bool {
        matches!(directory.roster(NodeId(id)), Roster::Formed(Members { room: true, .. }))
    }

    #[test]
    fn strangers_that_were_greeted_together_do_not_get_past_the_limit_together() {
        let directory = Directory::default();
        let visits: Vec<u64> =
            (0..STRANGERS_MAX as u64).map(|id| meet(&directory, id).ok().unwrap()).collect();
        // This one was told that there was room.
        assert_eq!(meet(&directory, 90), Err(Refusal::Crowded));
        assert!(!has_room(&directory, 90) && has_room(&directory, 5), "one that is here has its place");
        let again = meet(&directory, 5).ok().unwrap();
        assert!(directory.leave(NodeId(5), visits[5]).is_none());
        assert!(!has_room(&directory, 90), "its older stream's end is not its own");
        directory.leave(NodeId(5), again);
        assert!(has_room(&directory, 90) && meet(&directory, 90).is_ok());
    }

    #[test]
    fn who_was_removed_meanwhile_does_not_come_in() {
        let directory = Directory::default();
        directory.update([(NodeId(1), 7)].into(), [NodeId(2)].into());
        assert_eq!(meet(&directory, 2), Err(Refusal::Removed));
        assert_eq!(meet(&directory, 1), Err(Refusal::WrongIncarnation { expected: 7 }));
    }
}
