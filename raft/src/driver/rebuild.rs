//! Bringing back a state that is lost.
//!
//! The log may no longer begin at the beginning: what it does not have is in the store and in a snapshot. If the store
//! is lost too, or was set back, the state comes from, in this order,
//!
//! 1. this node's newest snapshot, and the log behind it;
//! 2. a snapshot of another member, and the log behind it.
//!
//! The second needs no leader and no election. Whatever a member has applied is committed (State Machine Safety, §3.6.3),
//! so any snapshot of the same cluster that reaches at least to where this node's log begins will do; and the entries
//! behind it, some of which only this node may hold durably, stay in the log. The hard state and the log are whole, so
//! nothing that this node ever promised is forgotten: neither its vote nor an entry that it acknowledged. It is merely
//! late. Until it has the state it answers nobody, for it could commit without knowing the configuration to count in.
//!
//! A crash at any moment is harmless: the store switches to an installed snapshot at once, the log is touched only
//! after that, and the next start does the rest.

use std::time::Duration;

use crate::clock::{SharedClock, timeout_at};
use crate::core::{Configuration, Index, Message, MessageBody, NodeId, Term};
use crate::snapshot::{SnapshotDir, SnapshotError, SnapshotFile};
use crate::state_machine::StateMachine;
use crate::transport::{Incoming, IncomingReceiver, Transport};
use crate::wal::Recovered;

use super::apply_lane::install_file;
use super::boot::{Opened, StartError};

/// So long one member is given to send a snapshot, and longer with each one that did not.
const PATIENCE_MIN: Duration = Duration::from_secs(5);
const PATIENCE_MAX: Duration = Duration::from_secs(300);
/// A question may be lost: it is asked again.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Brings store and log together after a crash at any moment, or after damage. If that needs a snapshot that is not here,
/// says how far it must reach.
///
/// - The store is behind the log's start: it was lost, or set back. It is rebuilt from `received`, or from the newest
///   snapshot, and the log behind that is applied again.
/// - The log does not have the store's last entry: the crash fell between the install of a snapshot and the reset of
///   the log, or damage took it. The log begins anew behind the state. (An entry is applied only when it is durable here,
///   so nothing else leads there.) If more was lost than the state holds, the mark of that goes over to the new log.
pub(super) fn reconcile<S: StateMachine>(
    mut opened: Opened<S>,
    received: Option<SnapshotFile>,
    is_alone: bool,
) -> Result<(Opened<S>, Option<Index>), StartError> {
    let store = opened.machine.applied().last;
    let log = opened.recovered.prev;
    if store.index < log.index {
        let is_own = received.is_none();
        let file = received.or_else(|| opened.snapshots.newest());
        let Some(file) = file.filter(|file| file.meta.last.index >= log.index) else {
            return if is_alone {
                Err(StartError::StoreBehindLog { store, log })
            } else {
                Ok((opened, Some(log.index)))
            };
        };
        tracing::warn!(%store, %log, snapshot = %file.meta.last, "the store is behind the log: rebuilding it");
        match install_file(&mut opened.machine, &opened.snapshots, &file) {
            Ok(()) => {
                crate::sometimes!("boot/store-rebuilt");
            }
            // Only if it is damaged: it may also be that the store could not take it, for want of room say.
            Err(why) if is_own && !is_alone && is_damaged(&opened.snapshots, &file) => {
                tracing::error!(
                    why,
                    "this node's snapshot is damaged: it is removed, and another member's taken"
                );
                drop(file);
                opened.snapshots.discard(log.index)?;
                return Ok((opened, Some(log.index)));
            }
            Err(why) => return Err(StartError::Rebuild(why)),
        }
    }
    let store = opened.machine.applied().last;
    if term_at(&opened.recovered, store.index) != Some(store.term) {
        tracing::info!(%store, "the log does not have the last entry of the state: beginning it anew behind that");
        crate::sometimes!("boot/log-begun-anew");
        opened.wal.reset(store)?;
        opened.recovered.prev = store;
        opened.recovered.entries.clear();
        opened.recovered.entries_bytes = 0;
    }
    Ok((opened, None))
}

fn is_damaged(snapshots: &SnapshotDir, file: &SnapshotFile) -> bool {
    let read = snapshots.chunks(file).and_then(|mut chunks| {
        while chunks.next_chunk()?.is_some() {}
        Ok(())
    });
    matches!(read, Err(SnapshotError::Corrupt { .. }))
}

/// The term of the recovered log's entry at `index`, or of the entry just before its first.
fn term_at(recovered: &Recovered, index: Index) -> Option<Term> {
    if index == recovered.prev.index {
        return Some(recovered.prev.term);
    }
    let at = index.0.checked_sub(recovered.prev.index.0 + 1)?;
    recovered.entries.get(usize::try_from(at).ok()?).map(|entry| entry.term)
}

/// The members that may have a snapshot, asked one after the other.
pub(super) struct Helpers {
    id: NodeId,
    members: Vec<NodeId>,
    next: usize,
    patience: Duration,
}

impl Helpers {
    pub(super) fn new(id: NodeId, configuration: Configuration) -> Self {
        let members = configuration.members().into_iter().filter(|member| *member != id).collect();
        Self { id, members, next: 0, patience: PATIENCE_MIN }
    }

    /// Whether there is nobody to ask.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Asks until a snapshot that reaches far enough has come, whoever sent it.
    pub(super) async fn ask(
        &mut self,
        (transport, incoming): &mut (Transport, IncomingReceiver),
        clock: &SharedClock,
        term: Term,
        at_least: Index,
    ) -> Result<SnapshotFile, StartError> {
        loop {
            let Some(&to) = self.members.get(self.next % self.members.len().max(1)) else {
                return std::future::pending().await;
            };
            self.next += 1;
            tracing::warn!(%to, %at_least, "the state is lost, and no snapshot here brings it back: asking a member");
            let end = clock.now() + self.patience;
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
            while clock.now() < end {
                let body = MessageBody::SnapshotWanted { at_least };
                transport.send(Message { from: self.id, to, term, body });
                let until = (clock.now() + ASK_EVERY).min(end);
                match timeout_at(clock.as_ref(), until, next_snapshot(incoming, at_least)).await {
                    Ok(Ok(file)) => return Ok(file),
                    Ok(Err(by)) => return Err(StartError::Removed { member: self.id, by }),
                    Err(_) => {}
                }
            }
        }
    }
}

/// Waits for a snapshot that reaches far enough, or for a member to say that this node was removed: then nobody will send
/// one. Everything else that peers say is dropped, as if this node were down.
async fn next_snapshot(incoming: &mut IncomingReceiver, at_least: Index) -> Result<SnapshotFile, NodeId> {
    loop {
        match incoming.recv().await {
            Some(Incoming::Snapshot { from, file, .. }) if file.meta.last.index >= at_least => {
                tracing::info!(%from, last = %file.meta.last, bytes = file.bytes, "received a snapshot");
                return Ok(file);
            }
            Some(Incoming::Removed { by }) => return Err(by),
            Some(_) => {}
            // The transport is going down, and this with it.
            None => return std::future::pending().await,
        }
    }
}
