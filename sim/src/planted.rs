//! The planted bugs, and the worlds in which the simulator is to find them.
//!
//! A test holds the list against the source (`sim/tests/planted.rs`): a bug without a row cannot be measured, and would be
//! forgotten.

/// A bug that is planted somewhere.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Its name.
    pub id: &'static str,
    /// What else is planted with it: a bug of the simulator itself shows only in what it no longer finds.
    pub with: Option<&'static str>,
    /// What the worlds are given beside their seeds.
    pub arguments: &'static [&'static str],
    /// Whether the simulator is to find it. One that it is not to find is planted in the simulator itself, and takes away
    /// what the bug beside it is found by.
    pub found: bool,
}

const fn drawn(id: &'static str) -> Planted {
    Planted { id, with: None, arguments: &[], found: true }
}

const fn of_leases(id: &'static str) -> Planted {
    Planted { id, with: None, arguments: &["--leases", "within"], found: true }
}

/// All of them: those of the product first, then those of the simulator.
pub const ALL: &[Planted] = &[
    drawn("ack-nosync"),
    drawn("ambiguous"),
    drawn("applied-split"),
    drawn("chunk-mix"),
    drawn("client-retry"),
    drawn("clock-apply"),
    drawn("cluster-mix"),
    drawn("conf-early"),
    drawn("conf-rollback"),
    drawn("corrupt-as-torn"),
    drawn("damage-forgotten"),
    drawn("damaged-vote"),
    drawn("dedup-skip"),
    drawn("dirsync"),
    drawn("diverge"),
    drawn("double-recovery"),
    drawn("dup-vote"),
    drawn("eager-trunc"),
    drawn("early-prune"),
    drawn("fig8"),
    drawn("index-regress"),
    drawn("install-crash"),
    drawn("learner-mute"),
    of_leases("lease-ack-time"),
    of_leases("lease-drift"),
    of_leases("lease-transfer"),
    drawn("local-read"),
    drawn("logcmp"),
    drawn("misdirect"),
    drawn("noncontig"),
    drawn("nospace-ignored"),
    drawn("nospace-sticky"),
    drawn("persist-aba"),
    drawn("prev-compacted"),
    drawn("prevote-term"),
    drawn("probe-stuck"),
    drawn("purge-meta"),
    drawn("read-quorum"),
    drawn("read-unapplied"),
    drawn("self-in-quorum"),
    drawn("snap-old"),
    drawn("snap-sessions"),
    drawn("snap-tail"),
    drawn("stale-votes"),
    drawn("term-regress"),
    drawn("torn-fatal"),
    drawn("trunc-order"),
    drawn("unapplied-campaign"),
    drawn("unbounded"),
    drawn("union-quorum"),
    drawn("vote-nosync"),
    drawn("waiter-strand"),
    drawn("wiped-id"),
    // A checker that does not see is noticed by the other one.
    Planted { id: "checker-search-blind", with: Some("local-read"), arguments: &[], found: true },
    Planted { id: "checker-witness-time", with: Some("read-unapplied"), arguments: &[], found: true },
    // Faults that do not happen: what is found by them is found no more.
    Planted { id: "injector-keeps-unsynced", with: Some("vote-nosync"), arguments: &[], found: false },
    Planted { id: "injector-cuts-nothing", with: Some("local-read"), arguments: &[], found: false },
];
