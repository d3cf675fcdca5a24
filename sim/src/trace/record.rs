//! Events as data: one JSON object a line, for whoever looks at a trace after the world has ended.
//!
//! A [`Record`] has the words of the timeline, and beside them what a program needs to follow one event to another:
//! terms, indexes, who is spoken to, which copy of a message this is.

use raft::core::{Event as CoreEvent, NodeId, RoleName};
use serde::{Deserialize, Serialize};

use super::event::{Event, Source, StopKind};
use super::said::Said;
use super::standing::Standings;
use crate::report::Witness;

/// One event of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, in virtual nanoseconds.
    #[serde(rename = "t")]
    pub at_ns: u64,
    /// Who it is about.
    #[serde(rename = "s")]
    pub source: Source,
    /// What it is.
    #[serde(flatten)]
    pub fact: Fact,
    /// How it reads in the timeline.
    #[serde(rename = "x")]
    pub text: String,
}

/// A message, as its sender or its receiver has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parcel {
    /// The other one.
    pub peer: u8,
    /// The kind's name.
    pub message: String,
    /// The sender's term.
    pub term: u64,
    /// Equal at both ends.
    pub digest: u64,
    /// What a vote says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<bool>,
    /// The last entry that it brings or acknowledges; 0 if it speaks of none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub up_to: u64,
    /// Up to where it says that is committed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub commit: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What an event is, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the event of the same name")]
pub enum Fact {
    Phase {
        name: String,
    },
    Fault {
        stage: String,
        number: u32,
        nodes: Vec<u8>,
    },
    Started,
    Ready,
    Stopped {
        killed: bool,
    },
    Role {
        role: String,
        term: u64,
    },
    Leader {
        leader: Option<u8>,
        term: u64,
    },
    Vote {
        to: u8,
        term: u64,
    },
    Committed {
        term: u64,
        index: u64,
    },
    Truncated {
        from: u64,
    },
    Configured {
        index: u64,
    },
    Snapshot {
        term: u64,
        index: u64,
    },
    Applied {
        term: u64,
        index: u64,
    },
    Writes {
        number: u64,
        last: u64,
    },
    Durable {
        number: u64,
    },
    Sent(Parcel),
    Received(Parcel),
    Invoke {
        number: u32,
    },
    Return {
        number: u32,
        outcome: String,
    },
    Connected {
        connection: u64,
        from: String,
        to: String,
    },
    Segment {
        connection: u64,
        direction: u8,
        arrives_ns: u64,
    },
    /// A segment between a client and a node, once it is known to be one.
    Exchange {
        from: Source,
        to: Source,
        arrives_ns: u64,
    },
    Closed {
        connection: u64,
    },
    Job,
    Violation {
        rule: String,
        witnesses: Vec<Witness>,
    },
    Other,
}

fn small(id: NodeId) -> u8 {
    u8::try_from(id.0).unwrap_or(u8::MAX)
}

/// The name of a role.
#[must_use]
pub const fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}

fn parcel(said: Said<'_>, peer: NodeId) -> Parcel {
    Parcel {
        peer: small(peer),
        message: said.0.body.name().to_owned(),
        term: said.0.term.0,
        digest: said.digest(),
        granted: said.granted(),
        up_to: said.up_to().0,
        commit: said.commit().0,
    }
}

impl Fact {
    fn of_core(event: &CoreEvent) -> Self {
        match event {
            CoreEvent::RoleChanged { role, term } => {
                Self::Role { role: role_name(*role).to_owned(), term: term.0 }
            }
            CoreEvent::LeaderChanged { leader, term } => {
                Self::Leader { leader: leader.map(small), term: term.0 }
            }
            CoreEvent::VoteGranted { to, term } => Self::Vote { to: small(*to), term: term.0 },
            CoreEvent::Committed { last } => Self::Committed { term: last.term.0, index: last.index.0 },
            CoreEvent::Truncated { from } => Self::Truncated { from: from.0 },
            CoreEvent::ConfigurationChanged { index, .. } => Self::Configured { index: index.0 },
            CoreEvent::SnapshotAccepted { meta } => {
                Self::Snapshot { term: meta.last.term.0, index: meta.last.index.0 }
            }
            _ => Self::Other,
        }
    }
}

impl From<&Event<'_>> for Fact {
    fn from(event: &Event<'_>) -> Self {
        match *event {
            Event::Phase { name } => Self::Phase { name: name.to_owned() },
            Event::Fault { stage, number, fault, node } => Self::Fault {
                stage: stage.to_owned(),
                number,
                nodes: fault.befalls(node).into_iter().collect(),
            },
            Event::Started { .. } => Self::Started,
            Event::Ready { .. } => Self::Ready,
            Event::Stopped { kind, .. } => Self::Stopped { killed: kind == StopKind::Killed },
            Event::Core { event } => Self::of_core(event),
            Event::Applied { last } => Self::Applied { term: last.term.0, index: last.index.0 },
            Event::Sent { message } => Self::Sent(parcel(message, message.0.to)),
            Event::Received { message } => Self::Received(parcel(message, message.0.from)),
            Event::Writes { number, entries, .. } => {
                Self::Writes { number, last: entries.map_or(0, |(_, last)| last.0) }
            }
            Event::Durable { number } => Self::Durable { number },
            Event::Invoke { number, .. } => Self::Invoke { number },
            Event::Return { number, outcome, .. } => Self::Return { number, outcome: outcome.to_owned() },
            Event::Connected { connection, from, to } => {
                Self::Connected { connection, from: from.to_owned(), to: to.to_owned() }
            }
            Event::Segment { connection, direction, arrives_ns, .. } => {
                Self::Segment { connection, direction, arrives_ns }
            }
            Event::Closed { connection, .. } => Self::Closed { connection },
            Event::Job { .. } => Self::Job,
            Event::Violation { failure } => {
                Self::Violation { rule: failure.rule.clone(), witnesses: failure.witnesses.clone() }
            }
            _ => Self::Other,
        }
    }
}

impl Record {
    /// The record of an event.
    #[must_use]
    pub fn new(at_ns: u64, source: Source, event: &Event<'_>) -> Self {
        Self { at_ns, source, fact: event.into(), text: event.to_string() }
    }

    /// Its line in a timeline, given where all nodes stand after it.
    #[must_use]
    pub fn line(&self, standings: &Standings) -> String {
        let (seconds, nanos) = (self.at_ns / 1_000_000_000, self.at_ns % 1_000_000_000);
        let (source, standing) = (self.source, standings.of(self.source));
        format!("{seconds:>4}.{nanos:09} {source:<6} {standing:<20} {}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::core::Term;

    #[test]
    fn a_record_survives_a_line() {
        let elected = CoreEvent::RoleChanged { role: RoleName::Leader, term: Term(3) };
        let failure = crate::report::Failure::new("a rule", "is broken")
            .seen_in([Witness::Elected { node: 2, term: 3 }, Witness::Operation { number: 7 }]);
        let events = [
            Event::Core { event: &elected },
            Event::Segment { connection: 5, direction: 1, bytes: 10, arrives_ns: u64::MAX },
            Event::Violation { failure: &failure },
            Event::Note { text: "a \"quoted\" word" },
        ];
        for event in &events {
            let record = Record::new(12, Source::Node(2), event);
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record, "{line}");
        }
        let line = serde_json::to_string(&Record::new(12, Source::Node(2), &events[0])).unwrap();
        assert_eq!(
            line,
            r#"{"t":12,"s":"n2","k":"role","role":"leader","term":3,"x":"is Leader in term 3"}"#
        );
    }
}
