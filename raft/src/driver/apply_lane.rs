//! The state machine's lane: apply, and the cuts for checkpoints and snapshots.
//!
//! What one Ready commits is one group. Checkpoints and snapshot files are cut here, between two groups, and written
//! on lanes of their own while applying goes on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::blocking::{Lane, SharedBlocking};
use crate::core::{Configuration, Entry, Index, LogId, SnapshotMeta};
use crate::snapshot::{SnapshotDir, SnapshotError, SnapshotFile};
use crate::state_machine::{Applied, SnapshotJob, StateMachine, StateMachineError};

use super::event_loop::Completion;
use super::handle::ProposalWaiter;

/// A committed entry's waiter, if it was proposed here.
pub(super) type Waiter<R> = Option<ProposalWaiter<R>>;

/// Hands work to the state machine.
pub(super) struct ApplyLane<S: StateMachine> {
    apply: Arc<dyn Lane>,
    checkpoint: Arc<dyn Lane>,
    snapshot: Arc<dyn Lane>,
    machine: Arc<Mutex<S>>,
    snapshots: Arc<SnapshotDir>,
    /// What `Applied::configuration: None` stands for.
    formed: Configuration,
    completions: mpsc::UnboundedSender<Completion>,
}

impl<S: StateMachine> ApplyLane<S> {
    pub(super) fn new(
        blocking: &SharedBlocking,
        machine: S,
        snapshots: Arc<SnapshotDir>,
        formed: Configuration,
        completions: mpsc::UnboundedSender<Completion>,
    ) -> Self {
        Self {
            apply: blocking.lane("apply"),
            checkpoint: blocking.lane("checkpoint"),
            snapshot: blocking.lane("snapshot"),
            machine: Arc::new(Mutex::new(machine)),
            snapshots,
            formed,
            completions,
        }
    }

    /// Applies `entries`; the completion answers their waiters (one for each entry).
    pub(super) fn apply(&self, entries: Vec<Entry>, waiters: Vec<Waiter<S::Response>>) {
        assert_eq!(entries.len(), waiters.len(), "a waiter's place for each entry");
        let (machine, completions) = (Arc::clone(&self.machine), self.completions.clone());
        self.apply.submit(Box::new(move || {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            let completion = match machine.apply(&entries) {
                Ok(responses) => {
                    assert_eq!(responses.len(), entries.len(), "a response for each entry");
                    let last = machine.applied().last;
                    let unsaved_bytes = machine.unsaved_bytes();
                    drop(machine);
                    // Given on the event loop's thread: to wake its tasks from here would take a system call each.
                    let answers = Box::new(move || answer(waiters, responses));
                    Completion::Applied { last, unsaved_bytes, answers }
                }
                // The waiters are dropped unanswered: their outcome is unknown.
                Err(error) => failed(&error),
            };
            let _ = completions.send(completion);
        }));
    }

    /// Cuts a checkpoint and writes it.
    pub(super) fn checkpoint(&self) {
        let (machine, completions) = (Arc::clone(&self.machine), self.completions.clone());
        let lane = Arc::clone(&self.checkpoint);
        self.apply.submit(Box::new(move || {
            let job = machine.lock().unwrap_or_else(PoisonError::into_inner).begin_checkpoint();
            lane.submit(Box::new(move || {
                let completion = match job() {
                    Ok(last) => Completion::Checkpointed { last },
                    Err(error) => failed(&error),
                };
                let _ = completions.send(completion);
            }));
        }));
    }

    /// Cuts a snapshot and writes its file.
    pub(super) fn snapshot(&self) {
        let (machine, completions) = (Arc::clone(&self.machine), self.completions.clone());
        let (lane, snapshots, formed) =
            (Arc::clone(&self.snapshot), Arc::clone(&self.snapshots), self.formed.clone());
        self.apply.submit(Box::new(move || {
            let (meta, job) = {
                let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
                let job = machine.begin_snapshot();
                (snapshot_meta(machine.applied(), &formed), job)
            };
            lane.submit(Box::new(move || {
                let completion = match write_snapshot(&snapshots, &meta, job) {
                    Ok(file) => Completion::SnapshotTaken { file },
                    Err(error) => Completion::Failed(error),
                };
                let _ = completions.send(completion);
            }));
        }));
    }

    /// Sees to it that neither the state nor a snapshot of it, from the entry at `from` on, is found again; and then
    /// fails.
    pub(super) fn condemn(&self, from: Index, why: String) {
        let (machine, completions) = (Arc::clone(&self.machine), self.completions.clone());
        let snapshots = Arc::clone(&self.snapshots);
        self.apply.submit(Box::new(move || {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            // The store last: as long as it is there, the next comparison finds what this one found.
            let done = snapshots.discard(from).map_err(|e| snapshot_failed(&e));
            let done =
                done.and_then(|()| machine.condemn(&why).map_err(|e| format!("the state machine: {e}")));
            let told = match done {
                Ok(()) => why,
                Err(error) => format!("{why}; but: {error}"),
            };
            let _ = completions.send(Completion::Failed(told));
        }));
    }

    /// Replaces the state by that of a snapshot file.
    pub(super) fn install(&self, file: SnapshotFile) {
        let (machine, completions) = (Arc::clone(&self.machine), self.completions.clone());
        let snapshots = Arc::clone(&self.snapshots);
        self.apply.submit(Box::new(move || {
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            let completion = match install_file(&mut *machine, &snapshots, &file) {
                Ok(()) => Completion::Installed { meta: file.meta },
                Err(error) => Completion::Failed(error),
            };
            drop(machine);
            let _ = completions.send(completion);
        }));
    }
}

fn answer<R>(waiters: Vec<Waiter<R>>, responses: Vec<R>) {
    for (waiter, response) in waiters.into_iter().zip(responses) {
        if let Some(waiter) = waiter {
            // The asker may have gone away.
            let _ = waiter.send(Ok(response));
        }
    }
}

/// What a snapshot of this state stands for.
fn snapshot_meta(applied: Applied, formed: &Configuration) -> SnapshotMeta {
    let configuration = applied.configuration.unwrap_or_else(|| formed.clone());
    SnapshotMeta { last: applied.last, configuration }
}

fn write_snapshot(
    snapshots: &SnapshotDir,
    meta: &SnapshotMeta,
    job: SnapshotJob,
) -> Result<SnapshotFile, String> {
    let mut writer = snapshots.create(meta).map_err(|e| snapshot_failed(&e))?;
    job(&mut writer).map_err(|e| format!("the state machine: {e}"))?;
    writer.commit().map_err(|e| snapshot_failed(&e))
}

/// Reads `file` into `machine`; the file's checksums are verified on the way.
pub(super) fn install_file<S: StateMachine>(
    machine: &mut S,
    snapshots: &SnapshotDir,
    file: &SnapshotFile,
) -> Result<(), String> {
    let mut reader = snapshots.reader(file).map_err(|e| snapshot_failed(&e))?;
    machine.install(&file.meta, &mut reader).map_err(|e| format!("the state machine: {e}"))?;
    let now: LogId = machine.applied().last;
    assert_eq!(now, file.meta.last, "an installed snapshot leaves the state where the snapshot stands");
    Ok(())
}

fn snapshot_failed(error: &SnapshotError) -> String {
    format!("the snapshot: {error}")
}

fn failed(error: &StateMachineError) -> Completion {
    Completion::Failed(format!("the state machine: {error}"))
}
