//! What is told of one world after it has run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::marks::Marks;

/// The result of one seed, as its process prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedReport {
    /// The seed, or that of the plan.
    pub seed: u64,
    /// What was wrong, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// How much virtual time passed.
    pub virtual_ns: u64,
    /// The number of events in the trace.
    pub events: u64,
    /// The trace's hash: equal in every run of the seed.
    pub trace_hash: String,
    /// What the run was about, in numbers.
    pub figures: Figures,
    /// The marks in the source that the run came to.
    #[serde(default)]
    pub marks: Marks,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which rule.
    pub rule: String,
    /// How, in a line or a few.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

impl Failure {
    /// A failure of `rule`.
    pub fn new(rule: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { rule: rule.into(), detail: detail.into() }
    }
}

/// How much happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Nodes in the cluster.
    pub nodes: u64,
    /// Faults carried out.
    pub faults: u64,
    /// Times a node's process was killed.
    pub crashes: u64,
    /// Times a machine lost its disk.
    pub wipes: u64,
    /// Changes of membership that were made.
    pub changes: u64,
    /// Times the leadership was handed over on request.
    pub transfers: u64,
    /// Times somebody was elected.
    pub elections: u64,
    /// The highest index that was committed.
    pub committed: u64,
    /// Snapshots that were installed.
    pub installs: u64,
    /// Operations that were done.
    pub ok: u64,
    /// Operations that were definitely not done.
    pub fail: u64,
    /// Operations of unknown outcome.
    pub info: u64,
}

impl Figures {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.nodes += other.nodes;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.wipes += other.wipes;
        self.changes += other.changes;
        self.transfers += other.transfers;
        self.elections += other.elections;
        self.committed += other.committed;
        self.installs += other.installs;
        self.ok += other.ok;
        self.fail += other.fail;
        self.info += other.info;
    }
}
