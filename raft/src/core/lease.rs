//! Reads without asking, for as long as a quorum has promised to elect nobody else (§6.4.1).
//!
//! Off unless the cluster's configuration says otherwise, because safety then rests on clocks: no two of them may
//! run apart by more than the drift that the configuration states. What makes it safe within that bound:
//!
//! - A follower that answers `leased` promises, for the length of the lease by its own clock and from receipt, not to
//!   vote, not to say that it would, and not to stand, unless the leader itself asked for the election.
//! - The promise must survive a crash. So it is given only by a node that has a lease in its *durable* configurations,
//!   and a node that starts with one waits it out. The longest lease of all configurations that the node knows counts,
//!   in both places: whichever of them the leader relies on, the promise is at least as long.
//! - A leader asks a follower for the promise only once that follower durably holds the leader's newest configuration,
//!   and relies on it only while that configuration is committed and the newest: so both mean the same lease, and as
//!   soon as the voters or the lease begin to change, it asks again for every read.
//! - The leader counts from when it *sent* the round that a quorum has answered (sofa-jraft#26), itself included from
//!   the same moment, and takes off what the drift could take.
//! - Before it asks another to take over, it ends its lease, for the rest of the term (tikv#1593).
//!
//! A leader elected in spite of a promise cannot be: its voters and those who promised are both a quorum, and share a
//! node that kept its word. A vote asked for by the leader itself is the exception, and needs no more care: it is for
//! the term after that leader's own, and any earlier leader's promises had run out before that one was elected.
//!
//! Shown in `testdata/reads/lease.txt`, `testdata/reads/lease_promise.txt` and `testdata/reads/lease_transfer.txt`, and
//! under drifting clocks in `tests/soup.rs`.

use super::Raft;
use super::quorum;
use super::role::{Leader, Role};
use super::shared::Shared;
use super::types::{Index, Lease, NodeId};

/// Rounds whose sending time is remembered at once. A round beyond that prolongs no lease.
const ROUNDS_MAX: usize = 256;

const NS_IN_MS: u64 = 1_000_000;
const MILLION: u64 = 1_000_000;

/// This node's clock as it was last observed, and what this node has promised by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Clock {
    /// `None` before the first observation: then nothing is promised, and nothing that was is over.
    now_ns: Option<u64>,
    /// Until then this node elects nobody.
    bound_until_ns: u64,
    /// What an earlier life of this node may have promised, from the first observation on.
    bound_at_boot_ns: u64,
}

impl Clock {
    /// A clock of a node whose configurations have had leases of at most so long.
    pub(super) fn new(lease_ms_max: u32) -> Self {
        Self { now_ns: None, bound_until_ns: 0, bound_at_boot_ns: u64::from(lease_ms_max) * NS_IN_MS }
    }

    fn observe(&mut self, now_ns: u64) {
        match self.now_ns {
            Some(before) => self.now_ns = Some(before.max(now_ns)),
            None => {
                self.now_ns = Some(now_ns);
                self.bound_until_ns = now_ns.saturating_add(self.bound_at_boot_ns);
            }
        }
    }

    /// Whether a promise stands.
    pub(super) fn is_bound(&self) -> bool {
        match self.now_ns {
            Some(now) => now < self.bound_until_ns,
            None => self.bound_at_boot_ns > 0,
        }
    }

    /// Makes the promise; says whether there was one to make, and a time from which to count.
    fn bind(&mut self, lease_ms: u32) -> bool {
        let Some(now) = self.now_ns else { return false };
        let until = now.saturating_add(u64::from(lease_ms) * NS_IN_MS);
        self.bound_until_ns = self.bound_until_ns.max(until);
        lease_ms > 0
    }
}

impl Lease {
    /// For how long a leader may rely on a promise: on the fastest clock of the cluster the promise still stands.
    fn relied_on_ns(self) -> u64 {
        let promised = u64::from(self.duration_ms) * NS_IN_MS;
        if crate::mutant!("lease-drift") {
            return promised;
        }
        let shortened =
            u128::from(promised) * u128::from(MILLION) / u128::from(MILLION + u64::from(self.drift_ppm));
        u64::try_from(shortened).unwrap_or(0)
    }
}

impl Raft {
    pub(super) fn on_observe_time(&mut self, now_ns: u64) {
        self.shared.clock.observe(now_ns);
    }

    /// A leader asks for the promise. Says whether it was given.
    pub(super) fn promise_lease(&mut self) -> bool {
        let shared = &mut self.shared;
        let lease_ms = shared.configurations.lease_ms_max(shared.log.durable());
        shared.clock.bind(lease_ms)
    }

    /// Whether the leader may answer a read now, without asking.
    pub(super) fn has_lease(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let now = self.shared.clock.now_ns;
        leader.lease_ends_ns(&self.shared).is_some_and(|ends| now.is_some_and(|now| now < ends))
    }

    /// A promise came with the answer to a round.
    pub(super) fn on_lease_promised(&mut self, from: NodeId, round: u64) {
        let Role::Leader(leader) = &mut self.role else { return };
        if crate::mutant!("lease-ack-time")
            && let Some(now) = self.shared.clock.now_ns
        {
            leader.lease.sent.retain(|(sent, _)| *sent < round);
            leader.lease.sent.push_back((round, now));
        }
        if let Some(progress) = leader.progress.get_mut(&from) {
            progress.leased_round = progress.leased_round.max(round);
        }
    }
}

impl Leader {
    /// The lease that may be relied on, and the index of its configuration.
    fn lease_in_use(&self, shared: &Shared) -> Option<(Lease, Index)> {
        let (index, configuration) = shared.configurations.newest();
        let is_settled = *index <= shared.commit && self.first_index <= shared.commit;
        let is_over = self.lease.is_over && !crate::mutant!("lease-transfer");
        configuration.lease.filter(|_| is_settled && !is_over).map(|lease| (lease, *index))
    }

    /// A round begins. Returns from which index on a follower must hold the log to be asked for its promise.
    ///
    /// The leader promises to itself in the same moment, if its own disk has the configuration: it would vote again
    /// as soon as it has stepped down.
    pub(super) fn begin_lease_round(&mut self, shared: &mut Shared, round: u64) -> Option<Index> {
        let (lease, index) = self.lease_in_use(shared)?;
        let now = shared.clock.now_ns?;
        let relied_on = lease.relied_on_ns();
        while self.lease.sent.pop_front_if(|(_, sent)| sent.saturating_add(relied_on) <= now).is_some() {}
        if self.lease.sent.len() < ROUNDS_MAX {
            self.lease.sent.push_back((round, now));
        }
        let lease_ms = shared.configurations.lease_ms_max(shared.log.durable());
        if shared.log.durable() >= index && shared.clock.bind(lease_ms) {
            self.lease.own_round = round;
        }
        Some(index)
    }

    /// The configuration changes: what was promised by the old one no longer counts.
    pub(super) fn forget_lease_rounds(&mut self) {
        self.lease.sent.clear();
    }

    /// When the lease ends: the last round that a quorum has promised, from when it was sent.
    fn lease_ends_ns(&self, shared: &Shared) -> Option<u64> {
        let (lease, _) = self.lease_in_use(shared)?;
        let id = shared.id();
        let promised = |peer| {
            if peer == id {
                return self.lease.own_round;
            }
            self.progress.get(&peer).map_or(0, |progress| progress.leased_round)
        };
        let round = quorum::reached(shared.configurations.current(), promised)?;
        let (_, sent) = self.lease.sent.iter().rev().find(|(sent, _)| *sent <= round)?;
        Some(sent.saturating_add(lease.relied_on_ns()))
    }
}
