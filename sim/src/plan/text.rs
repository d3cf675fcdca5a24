//! How faults and operations read in a timeline.

use std::collections::BTreeSet;
use std::fmt;

use super::{Cut, Fault, Moment, OperationKind, Step, Target, Voter};

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Votes => "votes",
            Self::IsElected => "is elected",
            Self::Commits => "commits",
            Self::CutsItsLog => "cuts its log",
            Self::TakesASnapshot => "takes a snapshot",
            Self::Stands => "stands for election",
            Self::IsReconfigured => "is reconfigured",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Node(id) => write!(f, "n{id}"),
        }
    }
}

/// A duration in milliseconds, for people.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ms", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}

/// Node numbers, for people.
struct Nodes<'a>(&'a BTreeSet<u8>);

impl fmt::Display for Nodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, id) in self.0.iter().enumerate() {
            write!(f, "{}n{id}", if i == 0 { "" } else { "+" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = |silent: &bool| if *silent { "machine" } else { "process" };
        match self {
            Self::Crash { node, down_ns, silent, keeps_unsynced, again_after_calls } => {
                let keeps = if *keeps_unsynced { " that keeps what it wrote" } else { "" };
                write!(f, "crash of {node}'s {}{keeps}, down {}", machine(silent), Millis(*down_ns))?;
                if *again_after_calls > 0 {
                    write!(f, ", and again after {again_after_calls} disk calls")?;
                }
                Ok(())
            }
            Self::CrashAtDiskCall { node, calls, down_ns, writes } => {
                let calls_of = if *writes { "writes" } else { "disk calls" };
                write!(f, "crash of {node} after {calls} {calls_of}, down {}", Millis(*down_ns))
            }
            Self::CrashWhen { node, moment, after_ns, down_ns, calls, .. } => {
                write!(f, "crash of {node} ")?;
                match calls {
                    0 => write!(f, "{} after it {moment}", Millis(*after_ns))?,
                    calls => write!(f, "{calls} disk calls after it {moment}")?,
                }
                write!(f, ", down {}", Millis(*down_ns))
            }
            Self::CutWhen { node, moment, skip, after_ns, with, for_ns } => {
                write!(f, "{node}")?;
                if !with.is_empty() {
                    write!(f, " with {}", Nodes(with))?;
                }
                let (after, lasts) = (Millis(*after_ns), Millis(*for_ns));
                write!(f, " cut off {after} after it {moment} for time {}, for {lasts}", skip + 1)
            }
            Self::Relay { turns, for_ns } => {
                let count = turns.len();
                write!(f, "{count} leaders in turn cut off at a moment of theirs, within {}", Millis(*for_ns))
            }
            Self::PowerCut { down_ns } => write!(f, "power cut, down {}", Millis(*down_ns)),
            Self::Shutdown { node, down_ns } => {
                write!(f, "shutdown of {node}, up again after {}", Millis(*down_ns))
            }
            Self::Pause { node, for_ns } => write!(f, "{node} paused for {}", Millis(*for_ns)),
            Self::Cut { cut, for_ns } => write!(f, "{cut} for {}", Millis(*for_ns)),
            Self::Reset { node, peer, both } => {
                write!(f, "connections of {node} and n{peer} break{}", if *both { "" } else { " at one end" })
            }
            Self::SlowLinks { node, factor, for_ns } => {
                write!(f, "links of {node} {factor} times slower for {}", Millis(*for_ns))
            }
            Self::Loss { node, per_mille, for_ns } => {
                write!(f, "links of {node} lose {per_mille} of 1000 for {}", Millis(*for_ns))
            }
            Self::SlowDisk { node, factor, for_ns } => {
                write!(f, "disk of {node} {factor} times slower for {}", Millis(*for_ns))
            }
            Self::DiskFails { node, call, after_calls, down_ns } => {
                write!(f, "disk of {node} fails a {call:?} after {after_calls}, down {}", Millis(*down_ns))
            }
            Self::DiskFull { node, free_bytes, for_ns } => {
                write!(f, "disk of {node} has {free_bytes} bytes left for {}", Millis(*for_ns))
            }
            Self::ClockStep { node, by_ns } => write!(f, "clock of {node} jumps ahead {}", Millis(*by_ns)),
            Self::ClockDrift { node, ppm } => write!(f, "clock of {node} drifts by {ppm} ppm"),
            Self::ClockFreeze { node, for_ns } => {
                write!(f, "clock of {node} stands still for {}", Millis(*for_ns))
            }
            Self::Change { steps } => write!(f, "change: {}", Steps(steps)),
            Self::Replace { old } => write!(f, "a spare machine takes the place of {old}"),
            Self::Transfer { to: None } => f.write_str("the leader hands over"),
            Self::Transfer { to: Some(to) } => write!(f, "the leader hands over to n{to}"),
            Self::Wipe { node } => write!(f, "{node} comes back with an empty disk"),
            Self::Lease { on } => write!(f, "leases are switched {}", if *on { "on" } else { "off" }),
        }
    }
}

/// The steps of a change, for people.
struct Steps<'a>(&'a [Step]);

impl fmt::Display for Steps<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            write!(f, "{}{step}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for Voter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Nth(n) => write!(f, "voter {n}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddLearner { joining: false } => f.write_str("add a learner"),
            Self::AddLearner { joining: true } => f.write_str("add a learner that is to vote"),
            Self::AddVoter => f.write_str("add a voter"),
            Self::Promote(n) => write!(f, "promote learner {n}"),
            Self::Demote(voter) => write!(f, "demote {voter}"),
            Self::Remove(voter) => write!(f, "remove {voter}"),
            Self::RemoveLearner(n) => write!(f, "remove learner {n}"),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart(nodes) => write!(f, "{} cut off from all", Nodes(nodes)),
            Self::LeaderSide { with } => write!(f, "the leader and {with} others cut off from the rest"),
            Self::LeaderSideAndClients { with } => {
                write!(f, "the leader, {with} others and half of the clients cut off from the rest")
            }
            Self::LeaderAndLearners => f.write_str("the leader and the learners cut off from the rest"),
            Self::OneWay { from, to } => write!(f, "{} not heard by {}", Nodes(from), Nodes(to)),
            Self::Between { left, right } => write!(f, "{} cut off from {}", Nodes(left), Nodes(right)),
            Self::Ring(order) => {
                f.write_str("only neighbours hear each other in the ring")?;
                order.iter().try_for_each(|id| write!(f, " n{id}"))
            }
            Self::Clients(node) => write!(f, "clients cut off from n{node}"),
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get { key } => write!(f, "get k{key}"),
            Self::Put { key } => write!(f, "put k{key}"),
            Self::Delete { key } => write!(f, "delete k{key}"),
            Self::Cas { key } => write!(f, "cas k{key}"),
            Self::Append { key } => write!(f, "append k{key}"),
            Self::Range => f.write_str("range"),
            Self::Txn { put, get } => write!(f, "txn put k{put} get k{get}"),
            Self::Compact { keep } => write!(f, "compact all but {keep}"),
            Self::GetAt { key, node } => write!(f, "get k{key} at n{node}"),
            Self::GetStale { key, node } => write!(f, "get k{key} as n{node} has it"),
        }
    }
}
