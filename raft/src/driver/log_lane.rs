//! The write side of the log: what the core wants durable, written in order, one fsync for all that has gathered.
//!
//! While one fsync runs, the work of later Readies gathers in a queue; the next round takes all of it. So the more
//! there is to do, the larger the groups, and no one waits for a timer (group commit).

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::blocking::Lane;
use crate::core::{Entry, HardState, Index, LogId, ReadyNumber};
use crate::wal::{Wal, WalError};

use super::event_loop::Completion;

/// A piece of work for the log, in the order in which it is to be done.
pub(super) enum LogWork {
    /// Makes a Ready's hard state and entries durable.
    Append { number: ReadyNumber, hard_state: Option<HardState>, entries: Vec<Entry> },
    /// A snapshot has replaced the state up to here: the log begins anew behind it.
    Reset { number: ReadyNumber, prev: LogId, hard_state: Option<HardState>, entries: Vec<Entry> },
    /// Entries up to here are no longer needed for recovery.
    Compact { through: Index },
    /// The log is idle: write down how far fsync has come.
    Attest,
    /// Time to verify a little of what was written long ago.
    Scrub { bytes_max: u64 },
}

struct Shared {
    wal: Wal,
    failed: bool,
}

struct Queue {
    work: Vec<LogWork>,
    scheduled: bool,
}

/// Hands work to the log's lane.
pub(super) struct LogLane {
    lane: Arc<dyn Lane>,
    inner: Arc<Inner>,
}

struct Inner {
    shared: Mutex<Shared>,
    queue: Mutex<Queue>,
    completions: mpsc::UnboundedSender<Completion>,
}

impl LogLane {
    pub(super) fn new(lane: Arc<dyn Lane>, wal: Wal, completions: mpsc::UnboundedSender<Completion>) -> Self {
        let inner = Inner {
            shared: Mutex::new(Shared { wal, failed: false }),
            queue: Mutex::new(Queue { work: Vec::new(), scheduled: false }),
            completions,
        };
        Self { lane, inner: Arc::new(inner) }
    }

    /// Hands in `work`. Never blocks on the disk.
    pub(super) fn submit(&self, work: LogWork) {
        let must_schedule = {
            let mut queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.work.push(work);
            !std::mem::replace(&mut queue.scheduled, true)
        };
        if must_schedule {
            schedule(&self.lane, &self.inner);
        }
    }
}

fn schedule(lane: &Arc<dyn Lane>, inner: &Arc<Inner>) {
    let (lane_again, inner) = (Arc::clone(lane), Arc::clone(inner));
    lane.submit(Box::new(move || {
        inner.round();
        let more = {
            let mut queue = inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.scheduled = !queue.work.is_empty();
            queue.scheduled
        };
        if more {
            schedule(&lane_again, &inner);
        }
    }));
}

impl Inner {
    /// Does everything that has gathered, with one fsync for all appends.
    fn round(&self) {
        let work = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut queue.work)
        };
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.failed {
            return;
        }
        match shared.wal.carry_out(&work) {
            Ok(Some(number)) => {
                let stats = shared.wal.stats();
                // The receiver is gone only when the node has stopped.
                let _ = self.completions.send(Completion::Persisted { number, stats });
            }
            Ok(None) => {}
            Err(error) => {
                shared.failed = true;
                let _ = self.completions.send(Completion::Failed(format!("the log: {error}")));
            }
        }
    }
}

/// Does `work` in order; returns the number of the last Ready that is durable thereby.
trait CarryOut {
    fn carry_out(&mut self, work: &[LogWork]) -> Result<Option<ReadyNumber>, WalError>;
}

impl CarryOut for Wal {
    fn carry_out(&mut self, work: &[LogWork]) -> Result<Option<ReadyNumber>, WalError> {
        let mut durable = None;
        let mut compact = None;
        let mut scrub = None;
        for item in work {
            match item {
                LogWork::Append { number, hard_state, entries } => {
                    self.append(*hard_state, entries)?;
                    durable = Some(*number);
                }
                LogWork::Reset { number, prev, hard_state, entries } => {
                    self.reset(*prev)?;
                    self.append(*hard_state, entries)?;
                    durable = Some(*number);
                }
                LogWork::Compact { through } => compact = Some(*through),
                LogWork::Attest => self.attest()?,
                // However many have gathered, one is enough.
                LogWork::Scrub { bytes_max } => scrub = Some(*bytes_max),
            }
        }
        if durable.is_some() {
            self.sync()?;
        }
        if let Some(through) = compact {
            self.compact(through)?;
        }
        if let Some(bytes_max) = scrub {
            self.scrub(bytes_max)?;
        }
        Ok(durable)
    }
}
