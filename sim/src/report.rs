//! What is told of one world after it has run.

use std::fmt;

use raft::core::{Index, NodeId, Term};
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// Which rule.
    pub rule: String,
    /// How, in a line or a few.
    pub detail: String,
    /// The events that show it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<Witness>,
}

/// An event that shows that a rule is broken, by what it says: rules know nothing of traces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Witness {
    /// A node was elected.
    Elected {
        /// Which.
        node: u8,
        /// In which term.
        term: u64,
    },
    /// A node had everything up to here as committed.
    Committed {
        /// Which.
        node: u8,
        /// Up to where.
        index: u64,
    },
    /// A node had applied everything up to here.
    Applied {
        /// Which.
        node: u8,
        /// Up to where.
        index: u64,
    },
    /// A client's operation.
    Operation {
        /// Its number in the plan.
        number: u32,
    },
    /// What a node did last.
    Node {
        /// Which.
        node: u8,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)
    }
}

impl Witness {
    /// A node as rules name it.
    #[must_use]
    pub fn node_number(node: NodeId) -> u8 {
        u8::try_from(node.0).unwrap_or(u8::MAX)
    }

    /// [`Witness::Elected`].
    #[must_use]
    pub fn elected(node: NodeId, term: Term) -> Self {
        Self::Elected { node: Self::node_number(node), term: term.0 }
    }

    /// [`Witness::Committed`].
    #[must_use]
    pub fn committed(node: NodeId, index: Index) -> Self {
        Self::Committed { node: Self::node_number(node), index: index.0 }
    }

    /// [`Witness::Applied`].
    #[must_use]
    pub fn applied(node: NodeId, index: Index) -> Self {
        Self::Applied { node: Self::node_number(node), index: index.0 }
    }

    /// [`Witness::Node`].
    #[must_use]
    pub fn last_of(node: NodeId) -> Self {
        Self::Node { node: Self::node_number(node) }
    }
}

impl Failure {
    /// A failure of `rule`.
    pub fn new(rule: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { rule: rule.into(), detail: detail.into(), witnesses: Vec::new() }
    }

    /// The same, with the events that show it.
    #[must_use]
    pub fn seen_in(mut self, witnesses: impl IntoIterator<Item = Witness>) -> Self {
        self.witnesses.extend(witnesses);
        self
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
