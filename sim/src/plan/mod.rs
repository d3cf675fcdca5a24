//! The plan: a world as data. What a seed draws is written out as a list of faults and a list of operations, each
//! with its time; whatever runs a world runs a plan.
//!
//! A plan can be saved, edited, shrunk and replayed. A regression is a plan and not a seed, because any commit may
//! change what a seed draws. The seed in a plan still feeds the streams that are used up as the world runs (delays,
//! torn writes).

mod text;

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::scenario::{Fixed, Scenario};

/// The version of the form that plans are saved in.
pub const FORMAT: u32 = 3;
/// The oldest version that is still read. Format 1 knew no changes of membership and no leases: what it does not say
/// stands for what there was then. Formats 1 and 2 did not number faults: they are numbered when they are read.
pub const FORMAT_OLDEST: u32 = 1;

/// A world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`FORMAT`].
    pub format: u32,
    /// Feeds what is drawn while the world runs.
    pub seed: u64,
    /// The rule that it broke when it was written down, if it was written down for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violates: Option<String>,
    /// The planted bug that it takes to break the rule. A build without planted bugs refuses such a plan, unless it is
    /// told to run it without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    /// Its options.
    pub scenario: Scenario,
    /// What goes wrong, in order of time.
    pub faults: Vec<ScheduledFault>,
    /// What the clients do; each client does its own one after the other.
    pub operations: Vec<Operation>,
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledFault {
    /// Names it in the timeline. It stays the same when other faults are taken out.
    #[serde(default)]
    pub number: u32,
    /// Nanoseconds from the beginning of the chaos phase.
    pub at_ns: u64,
    /// What happens.
    #[serde(flatten)]
    pub fault: Fault,
}

/// The node that a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Whoever leads then; a fault that finds no leader is skipped.
    Leader,
    /// This one.
    Node(u8),
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// A node's process dies, and loses what it had not synced, unless its machine keeps it.
    Crash {
        /// Which.
        node: Target,
        /// When it starts again.
        down_ns: u64,
        /// Whether its machine goes down too, so that its peers hear nothing; otherwise only its process does, and
        /// the machine tells them.
        silent: bool,
        /// Whether the machine keeps what the process had written and not synced.
        keeps_unsynced: bool,
        /// After so many disk calls of its next start it loses power again; 0 is never.
        again_after_calls: u64,
    },
    /// A node loses power right after so many more calls to its disk.
    CrashAtDiskCall {
        /// Which.
        node: Target,
        /// After how many calls.
        calls: u64,
        /// How long it is down then.
        down_ns: u64,
    },
    /// A node crashes the next time that something happens in its core.
    CrashWhen {
        /// Which node.
        node: Target,
        /// What happens.
        moment: Moment,
        /// How long after it.
        after_ns: u64,
        /// How long it is down then.
        down_ns: u64,
        /// If it has voted, it is then cut off from whoever hears the candidate, for so long; 0 is not at all.
        isolate_ns: u64,
    },
    /// Every node loses power at once.
    PowerCut {
        /// When each starts again, after its number times this.
        down_ns: u64,
    },
    /// A node is asked to shut down. Once it has, what it had not synced is lost.
    Shutdown {
        /// Which.
        node: Target,
        /// When it starts again, whether it had come to an end by then or not.
        down_ns: u64,
    },
    /// A node's process stands still, its machine's kernel does not.
    Pause {
        /// Which.
        node: Target,
        /// For how long.
        for_ns: u64,
    },
    /// Links are cut.
    Cut {
        /// Which.
        cut: Cut,
        /// For how long.
        for_ns: u64,
    },
    /// All connections between two nodes break.
    Reset {
        /// The one that is told.
        node: Target,
        /// The other one.
        peer: u8,
        /// Whether the other one is told too.
        both: bool,
    },
    /// All links to and from a node become slow.
    SlowLinks {
        /// Which node.
        node: Target,
        /// This many times slower.
        factor: u32,
        /// For how long.
        for_ns: u64,
    },
    /// All links to and from a node lose segments.
    Loss {
        /// Which node.
        node: Target,
        /// How many of 1,000.
        per_mille: u32,
        /// For how long.
        for_ns: u64,
    },
    /// A node's lanes become slow.
    SlowDisk {
        /// Which node.
        node: Target,
        /// This many times slower.
        factor: u32,
        /// For how long.
        for_ns: u64,
    },
    /// A clock jumps ahead.
    ClockStep {
        /// Whose.
        node: Target,
        /// By how much.
        by_ns: u64,
    },
    /// A clock runs at another rate from now on.
    ClockDrift {
        /// Whose.
        node: Target,
        /// How many parts in a million too fast.
        ppm: i64,
    },
    /// A clock stands still.
    ClockFreeze {
        /// Whose.
        node: Target,
        /// For how long.
        for_ns: u64,
    },
    /// The leader is asked for one change of membership.
    Change {
        /// All that changes at once.
        steps: Vec<Step>,
    },
    /// The next spare machine takes the place of a member: it is added as a learner, and once it has caught up, one
    /// change makes it a voter and removes the other.
    Replace {
        /// The one that goes: this voter of those there are then, or the leader.
        old: Voter,
    },
    /// The leader is asked to hand over.
    Transfer {
        /// To whom; whoever is best if this is not said.
        to: Option<u8>,
    },
    /// A node's machine comes back with an empty disk, and the node with its old id. Skipped if that could lose what
    /// was acknowledged.
    Wipe {
        /// Which.
        node: Target,
    },
    /// Reads by lease are allowed, on the scenario's terms, or forbidden.
    Lease {
        /// Allowed.
        on: bool,
    },
}

/// A voter of the configuration of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Voter {
    /// The one that leads.
    Leader,
    /// This one, counted from 0 in the order of ids, and round again.
    Nth(u8),
}

/// One step of a change of membership. It names no ids, for which there are depends on what became of earlier changes:
/// a new member is the next spare machine, and others are counted among those there are then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A new learner; if `joining`, one that is to be made a voter by the leader itself.
    AddLearner {
        /// Whether it is.
        joining: bool,
    },
    /// A new voter, with nothing in its log yet.
    AddVoter,
    /// A learner, counted like [`Voter::Nth`], becomes a voter.
    Promote(u8),
    /// A voter becomes a learner.
    Demote(Voter),
    /// A voter goes.
    Remove(Voter),
    /// A learner goes.
    RemoveLearner(u8),
}

/// Something that happens in a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// It grants its vote to another.
    Votes,
    /// It is elected.
    IsElected,
    /// Its commit index advances.
    Commits,
    /// It cuts entries from the end of its log.
    CutsItsLog,
    /// It takes a snapshot in place of its state.
    TakesASnapshot,
}

impl Moment {
    /// Every moment.
    pub const ALL: [Self; 5] =
        [Self::Votes, Self::IsElected, Self::Commits, Self::CutsItsLog, Self::TakesASnapshot];
}

/// Which links are cut. Nodes are numbered from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Both ways between these nodes and all others, clients included.
    Apart(BTreeSet<u8>),
    /// Both ways between the leader with so many nodes beside it (those that follow it in number) and all other
    /// nodes; clients still reach both sides.
    LeaderSide {
        /// How many.
        with: u8,
    },
    /// Both ways between the leader with all learners and all other nodes; clients still reach both sides.
    LeaderAndLearners,
    /// From each of `from` to each of `to`.
    OneWay {
        /// Not heard.
        from: BTreeSet<u8>,
        /// Not hearing.
        to: BTreeSet<u8>,
    },
    /// Both ways between `left` and `right`; who is in neither hears both.
    Between {
        /// One side.
        left: BTreeSet<u8>,
        /// The other.
        right: BTreeSet<u8>,
    },
    /// Both ways between all that are not neighbours in this ring.
    Ring(Vec<u8>),
    /// Both ways between a node and all clients.
    Clients(u8),
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its number: names it in the timeline, and makes what it writes unlike anything else written.
    pub number: u32,
    /// Which client, from 1.
    pub client: u16,
    /// How long the client waits before it.
    pub pause_ns: u64,
    /// If given, the client waits for this time instead, counted from the beginning of the chaos phase: taking out other
    /// operations does not move this one. A client that is still busy then begins as soon as it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ns: Option<u64>,
    /// What it is.
    #[serde(flatten)]
    pub kind: OperationKind,
}

/// The kinds of operation. Keys are numbered; what is written is made from the operation's number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OperationKind {
    /// Reads a key.
    Get {
        /// Which.
        key: u16,
    },
    /// Writes a key.
    Put {
        /// Which.
        key: u16,
    },
    /// Removes a key.
    Delete {
        /// Which.
        key: u16,
    },
    /// Writes a key if it holds what this client last knew it to hold.
    Cas {
        /// Which.
        key: u16,
    },
    /// Adds to the end of a key's value.
    Append {
        /// Which.
        key: u16,
    },
    /// Reads all keys at one revision.
    Range,
    /// Writes one key and reads another, at one revision.
    Txn {
        /// The one written.
        put: u16,
        /// The one read.
        get: u16,
    },
    /// Forgets all history but the newest few revisions.
    Compact {
        /// How many revisions stay.
        keep: u64,
    },
    /// Reads a key at one node, which need not lead; the answer is as fresh as any.
    GetAt {
        /// Which key.
        key: u16,
        /// Which node.
        node: u8,
    },
    /// Reads a key at one node, as it has it, however old.
    GetStale {
        /// Which key.
        key: u16,
        /// Which node.
        node: u8,
    },
}

/// What every version of a plan says.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Why a plan cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a plan.
    #[error("{path}: not a plan: {source}")]
    Form {
        /// Which file.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It is a plan of another version.
    #[error(
        "{path}: a plan of format {found}; this build reads formats {FORMAT_OLDEST} to {FORMAT}. Draw it again from its seed, or use \
         the build that wrote it"
    )]
    Format {
        /// Which file.
        path: String,
        /// Its version.
        found: u32,
    },
    /// It speaks of a node or client that the scenario does not have.
    #[error("{path}: {reason}")]
    Content {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl Plan {
    /// Draws the plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, fixed: Fixed) -> Self {
        let scenario = Scenario::draw(seed, fixed);
        let faults = crate::nemesis::draw::faults(seed, &scenario);
        let operations = crate::workload::draw::operations(seed, &scenario);
        Self { format: FORMAT, seed, violates: None, mutant: None, scenario, faults, operations }
    }

    /// Reads a plan from a file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a plan that this build can run.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::File { path: shown.clone(), source })?;
        let form = |source| PlanError::Form { path: shown.clone(), source };
        // The version first: what else stands in a plan of another one, nobody knows.
        let Version { format } = serde_json::from_str(&text).map_err(form)?;
        if !(FORMAT_OLDEST..=FORMAT).contains(&format) {
            return Err(PlanError::Format { path: shown, found: format });
        }
        let mut plan: Self = serde_json::from_str(&text).map_err(form)?;
        if format < FORMAT {
            plan.format = FORMAT;
            plan.faults.iter_mut().zip(0..).for_each(|(fault, number)| fault.number = number);
        }
        plan.check().map_err(|reason| PlanError::Content { path: shown, reason })?;
        Ok(plan)
    }

    /// Writes the plan to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), PlanError> {
        let shown = path.display().to_string();
        let text = serde_json::to_string_pretty(self)
            .map_err(|source| PlanError::Form { path: shown.clone(), source })?;
        std::fs::write(path, text + "\n").map_err(|source| PlanError::File { path: shown, source })
    }

    fn check(&self) -> Result<(), String> {
        let (nodes, machines) = (self.scenario.nodes, self.scenario.machines());
        if nodes == 0 || usize::from(machines) != self.scenario.clocks.len() {
            return Err(format!("{machines} machines and {} clocks", self.scenario.clocks.len()));
        }
        let unknown = |id: &u8| *id == 0 || *id > machines;
        for (number, scheduled) in self.faults.iter().enumerate() {
            if let Some(id) = scheduled.fault.nodes().iter().find(|id| unknown(id)) {
                return Err(format!("fault {number} names node {id} of {machines}"));
            }
        }
        let numbers: BTreeSet<u32> = self.faults.iter().map(|scheduled| scheduled.number).collect();
        if numbers.len() < self.faults.len() {
            return Err("two faults have one number".to_owned());
        }
        for operation in &self.operations {
            if operation.client == 0 || operation.client > self.scenario.workload.clients {
                return Err(format!("operation {} names client {}", operation.number, operation.client));
            }
        }
        Ok(())
    }
}

impl Fault {
    /// The nodes that the fault names.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<u8> {
        let of = |target: &Target| match target {
            Target::Leader => BTreeSet::new(),
            Target::Node(id) => BTreeSet::from([*id]),
        };
        match self {
            Self::PowerCut { .. } | Self::Change { .. } | Self::Replace { .. } | Self::Lease { .. } => {
                BTreeSet::new()
            }
            Self::Transfer { to } => to.iter().copied().collect(),
            Self::Reset { node, peer, .. } => &of(node) | &BTreeSet::from([*peer]),
            Self::Cut { cut, .. } => match cut {
                Cut::LeaderSide { .. } | Cut::LeaderAndLearners => BTreeSet::new(),
                Cut::Apart(nodes) => nodes.clone(),
                Cut::OneWay { from: a, to: b } | Cut::Between { left: a, right: b } => a | b,
                Cut::Ring(order) => order.iter().copied().collect(),
                Cut::Clients(node) => BTreeSet::from([*node]),
            },
            Self::Crash { node, .. }
            | Self::CrashAtDiskCall { node, .. }
            | Self::CrashWhen { node, .. }
            | Self::Shutdown { node, .. }
            | Self::Pause { node, .. }
            | Self::SlowLinks { node, .. }
            | Self::Loss { node, .. }
            | Self::SlowDisk { node, .. }
            | Self::ClockStep { node, .. }
            | Self::ClockDrift { node, .. }
            | Self::ClockFreeze { node, .. }
            | Self::Wipe { node } => of(node),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        for seed in 0..50 {
            let plan = Plan::draw(seed, Fixed::default());
            plan.save(&path).unwrap();
            assert_eq!(Plan::load(&path).unwrap(), plan);
        }
    }

    #[test]
    fn a_plan_of_another_format_or_with_an_unknown_node_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        let mut plan = Plan::draw(1, Fixed::default());
        plan.format = 99;
        plan.save(&path).unwrap();
        let error = Plan::load(&path).unwrap_err().to_string();
        assert!(error.contains("plan.json: a plan of format 99"), "{error}");

        plan.format = FORMAT;
        plan.faults = vec![ScheduledFault {
            number: 0,
            at_ns: 0,
            fault: Fault::Pause { node: Target::Node(9), for_ns: 1 },
        }];
        plan.save(&path).unwrap();
        let error = Plan::load(&path).unwrap_err().to_string();
        assert!(error.contains("fault 0 names node 9"), "{error}");

        std::fs::write(&path, "{").unwrap();
        let error = Plan::load(&path).unwrap_err().to_string();
        assert!(error.contains("not a plan"), "{error}");
    }

    #[test]
    fn a_plan_of_a_format_that_is_not_read_is_refused_whatever_else_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        std::fs::write(&path, r#"{"format": 0, "world": "of long ago"}"#).unwrap();
        let error = Plan::load(&path).unwrap_err().to_string();
        assert!(error.contains("a plan of format 0; this build reads formats 1 to 3"), "{error}");
    }

    #[test]
    fn faults_of_an_older_plan_get_numbers_and_those_of_a_new_one_must_differ() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        let mut plan = Plan::draw(2, Fixed::default());
        assert!(plan.faults.len() > 2, "{}", plan.faults.len());
        plan.faults.iter_mut().for_each(|fault| fault.number = 0);
        plan.save(&path).unwrap();
        let error = Plan::load(&path).unwrap_err().to_string();
        assert!(error.contains("two faults have one number"), "{error}");
        plan.format = 2;
        plan.save(&path).unwrap();
        assert_eq!(Plan::load(&path).unwrap(), Plan::draw(2, Fixed::default()));
    }

    #[test]
    fn removing_faults_from_the_scenario_leaves_the_operations_alone() {
        let with = Plan::draw(5, Fixed::default());
        let mut scenario = with.scenario.clone();
        scenario.faults.clear();
        scenario.lease = None;
        assert!(crate::nemesis::draw::faults(5, &scenario).is_empty());
        assert_eq!(crate::workload::draw::operations(5, &scenario), with.operations);
    }
}
