//! A message between nodes as a trace shows it, and how its copies are told from one another.

use std::fmt;
use std::hash::{Hash, Hasher};

use raft::core::{Index, Message, MessageBody};

use super::TraceHasher;

/// What a node says to another. Hashed by what names it, not by the commands that it carries.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a>(pub &'a Message);

impl Said<'_> {
    /// The same for a message and its copy at the other end; another for all but repetitions.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = TraceHasher::default();
        self.hash(&mut hasher);
        hasher.digest()
    }

    /// Whether it grants what it was asked for, if it says so.
    #[must_use]
    pub const fn granted(&self) -> Option<bool> {
        match self.0.body {
            MessageBody::PreVoteResponse { granted, .. } | MessageBody::VoteResponse { granted } => {
                Some(granted)
            }
            _ => None,
        }
    }

    /// Up to where it tells of the log: the last entry that it brings, or up to which it acknowledges.
    #[must_use]
    pub const fn up_to(&self) -> Index {
        match &self.0.body {
            MessageBody::AppendEntries { prev, entries, .. } => Index(prev.index.0 + entries.len() as u64),
            MessageBody::AppendAccepted { matched } => *matched,
            MessageBody::InstallSnapshot { meta } => meta.last.index,
            MessageBody::ReadIndexResponse { index: Some(index), .. } => *index,
            MessageBody::PreVote { last, .. } | MessageBody::RequestVote { last, .. } => last.index,
            _ => Index::ZERO,
        }
    }

    /// Up to where it says that is committed.
    #[must_use]
    pub const fn commit(&self) -> Index {
        match self.0.body {
            MessageBody::AppendEntries { commit, .. } | MessageBody::Heartbeat { commit, .. } => commit,
            _ => Index::ZERO,
        }
    }
}

impl Hash for Said<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Message { from, to, term, body } = self.0;
        (from, to, term).hash(state);
        std::mem::discriminant(body).hash(state);
        match body {
            MessageBody::AppendEntries { prev, entries, commit } => {
                (prev, entries.len(), entries.last().map(|entry| entry.term), commit).hash(state);
            }
            MessageBody::InstallSnapshot { meta } => meta.last.hash(state),
            other => other.hash(state),
        }
    }
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { term, body, .. } = self.0;
        write!(f, "{} term={term}", body.name())?;
        match body {
            MessageBody::PreVote { next_term, last } => {
                write!(f, " next_term={next_term} last={}", last)
            }
            MessageBody::PreVoteResponse { next_term, granted } => {
                write!(f, " next_term={next_term} granted={granted}")
            }
            MessageBody::RequestVote { last, leadership_transfer } => {
                write!(f, " last={}{}", last, if *leadership_transfer { " asked by the leader" } else { "" })
            }
            MessageBody::VoteResponse { granted } => write!(f, " granted={granted}"),
            MessageBody::AppendEntries { prev, entries, commit } => {
                write!(f, " prev={} entries={} commit={commit}", prev, entries.len())
            }
            MessageBody::AppendAccepted { matched } => write!(f, " matched={matched}"),
            MessageBody::AppendRejected { prev_index, hint, .. } => {
                write!(f, " prev={prev_index} hint={}", hint)
            }
            MessageBody::Heartbeat { commit, round, lease } => {
                write!(f, " commit={commit} round={round}{}", if *lease { " lease" } else { "" })
            }
            MessageBody::HeartbeatResponse { round, leased, .. } => {
                write!(f, " round={round}{}", if *leased { " leased" } else { "" })
            }
            MessageBody::InstallSnapshot { meta } => write!(f, " last={}", meta.last),
            MessageBody::ReadIndexResponse { index: Some(index), .. } => write!(f, " index={index}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use raft::core::{Entry, LogId, NodeId, Payload, Term};

    fn heartbeat(round: u64) -> Message {
        let body = MessageBody::Heartbeat { commit: Index(3), round, lease: false };
        Message { from: NodeId(1), to: NodeId(2), term: Term(4), body }
    }

    #[test]
    fn a_copy_has_the_digest_of_the_original_and_another_message_has_not() {
        let (one, other) = (heartbeat(7), heartbeat(8));
        assert_eq!(Said(&one).digest(), Said(&one.clone()).digest());
        assert_ne!(Said(&one).digest(), Said(&other).digest());
        assert_eq!(Said(&one).to_string(), "Heartbeat term=4 commit=3 round=7");
        assert_eq!(Said(&one).commit(), Index(3));
    }

    #[test]
    fn an_append_tells_how_far_it_reaches() {
        let entry = Entry { term: Term(4), index: Index(6), payload: Payload::Command(Bytes::from("x")) };
        let body =
            MessageBody::AppendEntries { prev: LogId::new(3, 5), entries: vec![entry], commit: Index(5) };
        let message = Message { from: NodeId(1), to: NodeId(2), term: Term(4), body };
        assert_eq!(Said(&message).up_to(), Index(6));
        assert_eq!(Said(&message).to_string(), "AppendEntries term=4 prev=5@3 entries=1 commit=5");
    }
}
