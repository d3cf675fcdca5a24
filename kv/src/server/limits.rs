//! How much may be under way. A bound that is met is told as `Overloaded`: nothing was done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::NotDone;

/// What may be under way at most. See `docs/limits.md` for what happens at each bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// The most connections of clients; further ones are closed at once.
    pub connections_max: usize,
    /// The most requests under way on one connection.
    pub requests_per_connection_max: usize,
    /// The most commands under way in the whole node.
    pub proposals_max: u64,
    /// The most bytes of commands under way in the whole node.
    pub proposal_bytes_max: u64,
    /// The most reads of single keys under way in the whole node.
    pub reads_max: u64,
    /// The most reads of ranges under way in the whole node: each may hold a large answer.
    pub scans_max: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            requests_per_connection_max: 1024,
            proposals_max: 8192,
            proposal_bytes_max: 64 << 20,
            reads_max: 8192,
            scans_max: 64,
        }
    }
}

/// Something of which only so much may be taken.
pub(super) struct Quota {
    what: &'static str,
    taken: AtomicU64,
    max: u64,
}

/// A part of a quota; given back when dropped, whatever becomes of the request.
pub(super) struct Permit {
    quota: Arc<Quota>,
    amount: u64,
}

impl Quota {
    pub(super) fn new(what: &'static str, max: u64) -> Arc<Self> {
        Arc::new(Self { what, taken: AtomicU64::new(0), max })
    }

    /// Takes `amount`, if there is so much. What is larger than the whole quota still goes, alone.
    pub(super) fn take(self: &Arc<Self>, amount: u64) -> Result<Permit, NotDone> {
        let before = self.taken.fetch_add(amount, Ordering::Relaxed);
        let permit = Permit { quota: Arc::clone(self), amount };
        if before == 0 || before.saturating_add(amount) <= self.max {
            return Ok(permit);
        }
        Err(NotDone::Overloaded { what: format!("{} {} are under way", self.max, self.what) })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.quota.taken.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_met_and_given_back() {
        let quota = Quota::new("things", 10);
        let all = quota.take(10).unwrap();
        assert!(matches!(quota.take(1), Err(NotDone::Overloaded { .. })));
        drop(all);
        let some = quota.take(4).unwrap();
        assert!(matches!(quota.take(7), Err(NotDone::Overloaded { .. })));
        let rest = quota.take(6).unwrap();
        drop((some, rest));
        assert!(quota.take(11).is_ok(), "alone, it goes");
        assert_eq!(quota.taken.load(Ordering::Relaxed), 0);
    }
}
