//! The time that the leader stamps on commands (rule 12).
//!
//! Cluster time is what sessions expire by. It only moves when commands are applied, and every node must see the same
//! of it: so it stands in the command, and comes from the leader that proposed it. A leader takes the time last
//! applied when its leadership began and adds what its own monotonic clock has counted since: no wall clock, whose
//! steps would expire sessions, and no clock of any other node.

use std::sync::{Mutex, PoisonError};

use raft::clock::{Monotonic, SharedClock};
use raft::core::{RoleName, Term};
use raft::driver::Leadership;

/// Stamps commands.
pub(super) struct ClusterTime {
    clock: SharedClock,
    base: Mutex<Option<Base>>,
}

/// What the time of one leadership counts from.
#[derive(Clone, Copy)]
struct Base {
    term: Term,
    /// Whether everything that earlier leaders committed had been seen when `time_ms` was taken.
    established: bool,
    time_ms: u64,
    at: Monotonic,
}

impl Base {
    fn time_at(&self, now: Monotonic) -> u64 {
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.time_ms.saturating_add(passed)
    }
}

impl ClusterTime {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self { clock, base: Mutex::new(None) }
    }

    /// The time to stamp on a command now; `applied_ms` is the time last applied, and asked for only when the
    /// leadership has changed. To be called also when it changes, so that the time counts from then on.
    pub(super) fn stamp(&self, leadership: Leadership, applied_ms: impl FnOnce() -> u64) -> u64 {
        let Leadership { term, role, established, .. } = leadership;
        if role != RoleName::Leader {
            // The command will be refused; what it says does not matter.
            return 0;
        }
        let now = self.clock.now();
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        match *base {
            Some(base) if base.term == term && base.established == established => base.time_at(now),
            before => {
                // Within a term it does not go back when inherited entries turn out to be older.
                let reached = before.filter(|b| b.term == term).map_or(0, |b| b.time_at(now));
                let time_ms = applied_ms().max(reached);
                *base = Some(Base { term, established, time_ms, at: now });
                time_ms
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use raft::clock;

    use super::*;
    use crate::testing::{TestClock, run};

    fn leader(term: u64, established: bool) -> Leadership {
        Leadership { term: Term(term), role: RoleName::Leader, leader: None, established }
    }

    async fn pass(seconds: u64) {
        clock::sleep(&TestClock, Duration::from_secs(seconds)).await;
    }

    #[test]
    fn it_is_the_time_last_applied_and_what_has_passed_since_leadership_began() {
        run(async {
            let time = ClusterTime::new(Arc::new(TestClock));
            assert_eq!(time.stamp(leader(1, true), || 7_000), 7_000);
            pass(3).await;
            assert_eq!(time.stamp(leader(1, true), || unreachable!()), 10_000);
            // Another node led, for a time of its own.
            pass(100).await;
            assert_eq!(time.stamp(leader(3, true), || 12_000), 12_000);
            pass(1).await;
            assert_eq!(time.stamp(leader(3, true), || unreachable!()), 13_000);
        });
    }

    #[test]
    fn a_leader_catches_up_with_what_it_inherited_and_never_goes_back() {
        run(async {
            let time = ClusterTime::new(Arc::new(TestClock));
            assert_eq!(time.stamp(leader(1, false), || 1_000), 1_000);
            pass(1).await;
            assert_eq!(time.stamp(leader(1, true), || 50_000), 50_000);
            let time = ClusterTime::new(Arc::new(TestClock));
            assert_eq!(time.stamp(leader(1, false), || 1_000), 1_000);
            pass(1).await;
            assert_eq!(time.stamp(leader(1, true), || 1_500), 2_000);
        });
    }
}
