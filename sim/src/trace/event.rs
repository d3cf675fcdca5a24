//! What can stand in a trace, and how it reads.

use std::fmt;

use raft::core::{Event as CoreEvent, LogId};

/// Who an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The world itself: phases, faults.
    World,
    /// A node, by its number from 1.
    Node(u8),
    /// A client, by its number from 1.
    Client(u16),
    /// The network.
    Network,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` so that columns line up.
        match self {
            Self::World => f.pad("world"),
            Self::Node(id) => f.pad(&format!("n{id}")),
            Self::Client(id) => f.pad(&format!("c{id}")),
            Self::Network => f.pad("net"),
        }
    }
}

/// Why a node's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopKind {
    /// The simulation killed it.
    Killed,
    /// It stopped by itself: a disk that failed, or a shutdown that was asked for.
    ByItself,
}

/// One event. Borrowed throughout: building one allocates nothing.
#[derive(Clone, Debug, Hash)]
pub enum Event<'a> {
    /// A phase of the run begins.
    Phase {
        /// Which.
        name: &'static str,
    },
    /// A fault begins or ends.
    Fault {
        /// `begin` or `end`, or `skipped` if it could not be done.
        stage: &'static str,
        /// Its number in the plan.
        number: u32,
        /// What it is.
        fault: &'a crate::plan::Fault,
    },
    /// A node's process begins.
    Started {
        /// Counts the node's starts from 1.
        start: u32,
    },
    /// A node's process is up: its log is read, its store open, its addresses listened on.
    Ready {
        /// The last entry that its store held.
        applied: u64,
    },
    /// A node's process has ended.
    Stopped {
        /// Why.
        kind: StopKind,
        /// More about it.
        reason: &'a str,
    },
    /// Something happened in a node's core.
    Core {
        /// What.
        event: &'a CoreEvent,
    },
    /// A node applied entries.
    Applied {
        /// The last of them.
        last: LogId,
    },
    /// A client begins an operation.
    Invoke {
        /// The operation's number in the plan.
        number: u32,
        /// What it is.
        operation: &'a crate::plan::OperationKind,
    },
    /// A client's operation ends.
    Return {
        /// The operation's number in the plan.
        number: u32,
        /// `ok`, `fail` or `info`.
        outcome: &'static str,
        /// What came back.
        detail: &'a str,
    },
    /// A connection is open.
    Connected {
        /// Its number.
        connection: u64,
        /// Who opened it.
        from: &'a str,
        /// The address.
        to: &'a str,
    },
    /// A piece of a byte stream is on its way.
    Segment {
        /// The connection's number.
        connection: u64,
        /// Which of its two directions.
        direction: u8,
        /// How many bytes.
        bytes: u32,
        /// When it arrives, if nothing comes between.
        arrives_ns: u64,
    },
    /// An end of a connection is closed, cut off or told that it was.
    Closed {
        /// The connection's number.
        connection: u64,
        /// Which of its two ends.
        end: u8,
        /// How: `fin`, `reset`, `dropped`, `lost`.
        how: &'static str,
    },
    /// A lane takes up a job.
    Job {
        /// The lane's name.
        lane: &'a str,
        /// Counts the lane's jobs from 1.
        number: u64,
    },
    /// Anything else worth a line.
    Note {
        /// The line.
        text: &'a str,
    },
}

impl Event<'_> {
    /// Whether the event is left out of a timeline: one of thousands of the same kind.
    #[must_use]
    pub const fn is_detail(&self) -> bool {
        matches!(self, Self::Segment { .. } | Self::Job { .. } | Self::Connected { .. } | Self::Closed { .. })
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase { name } => write!(f, "==== {name} ===="),
            Self::Fault { stage, number, fault } => write!(f, "fault {number} {stage}: {fault}"),
            Self::Started { start } => write!(f, "starts, for the {start}. time"),
            Self::Ready { applied } => write!(f, "ready, applied={applied}"),
            Self::Stopped { kind: StopKind::Killed, reason } => write!(f, "killed: {reason}"),
            Self::Stopped { kind: StopKind::ByItself, reason } => write!(f, "stops: {reason}"),
            Self::Core { event } => core_event(f, event),
            Self::Applied { last } => write!(f, "applied {last}"),
            Self::Invoke { number, operation } => write!(f, "#{number} {operation}"),
            Self::Return { number, outcome, detail } => write!(f, "#{number} -> {outcome} {detail}"),
            Self::Connected { connection, from, to } => write!(f, "connection {connection}: {from} to {to}"),
            Self::Segment { connection, direction, bytes, arrives_ns } => {
                write!(f, "segment {connection}.{direction} {bytes} B arrives {arrives_ns}")
            }
            Self::Closed { connection, end, how } => write!(f, "connection {connection}.{end} {how}"),
            Self::Job { lane, number } => write!(f, "job {lane} {number}"),
            Self::Note { text } => f.write_str(text),
        }
    }
}

fn core_event(f: &mut fmt::Formatter<'_>, event: &CoreEvent) -> fmt::Result {
    match event {
        CoreEvent::RoleChanged { role, term } => write!(f, "is {role:?} in term {term}"),
        CoreEvent::LeaderChanged { leader: Some(leader), term } => {
            write!(f, "takes {leader} for the leader of term {term}")
        }
        CoreEvent::LeaderChanged { leader: None, term } => write!(f, "knows no leader of term {term}"),
        CoreEvent::VoteGranted { to, term } => write!(f, "votes for {to} in term {term}"),
        CoreEvent::Committed { last } => write!(f, "committed {last}"),
        CoreEvent::Truncated { from } => write!(f, "log cut from {from}"),
        CoreEvent::ConfigurationChanged { index, configuration } => {
            write!(f, "configuration at {index}: voters {:?}", configuration.voters)
        }
        CoreEvent::TransferBegan { to } => write!(f, "hands the leadership over to {to}"),
        CoreEvent::TransferFailed { to } => write!(f, "could not hand the leadership over to {to}"),
        CoreEvent::Damaged { last } => write!(f, "its log has lost entries up to {last}"),
        CoreEvent::Repaired { last } => write!(f, "its log has made good what it lost, with {last}"),
        CoreEvent::SnapshotAccepted { meta } => write!(f, "snapshot accepted, last={}", meta.last),
    }
}
