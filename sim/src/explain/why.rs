//! What a violation depends on.
//!
//! All that happened before it, in the sense of Lamport, is nearly everything: heartbeats tie all nodes together every
//! few milliseconds. So the way back does not follow every line of the diagram. From each event it goes to those that
//! *made* it: from an election to the votes, from a vote to the request and to the role of who asked, from a commit
//! to the acknowledgements, from an acknowledgement to the append, from an answer to a client to what the node had
//! applied by then. Beside them stand the crashes and other faults that befell the nodes concerned, and what those
//! crashes took away.
//!
//! That is a judgement about what matters, not a proof: an event that is left out may still be part of the story.

use std::collections::{BTreeMap, BTreeSet};

use super::Story;
use crate::trace::{Fact, Parcel, Source};

/// What an event is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Aspect {
    /// That it happened.
    Itself,
    /// What it says is committed.
    Commit,
}

/// The events that matter, each with those that made it.
#[derive(Clone, Debug, Default)]
pub struct Why {
    /// Every event that matters, and its causes among them.
    pub causes: BTreeMap<usize, BTreeSet<usize>>,
}

impl Why {
    /// What the violation of `story` depends on. Empty if there is none.
    #[must_use]
    pub fn of(story: &Story) -> Self {
        let mut why = Self::default();
        let Some(violation) = story.violation() else { return why };
        let witnesses = story.witnesses();
        why.causes.insert(violation, witnesses.iter().copied().collect());
        let mut open: Vec<(usize, Aspect)> = witnesses.into_iter().map(|at| (at, Aspect::Itself)).collect();
        let mut seen: BTreeSet<(usize, Aspect)> = open.iter().copied().collect();
        while let Some((at, aspect)) = open.pop() {
            let causes = story.causes(at, aspect);
            why.causes.entry(at).or_default().extend(causes.iter().map(|(cause, _)| *cause));
            open.extend(causes.into_iter().filter(|cause| seen.insert(*cause)));
        }
        why.add_surroundings(story, violation);
        why
    }

    /// Whether an event matters.
    #[must_use]
    pub fn contains(&self, at: usize) -> bool {
        self.causes.contains_key(&at)
    }

    /// The faults and crashes that befell the nodes concerned while they were, and the writes that crashes took away.
    fn add_surroundings(&mut self, story: &Story, violation: usize) {
        let mut spans: BTreeMap<Source, (usize, usize)> = BTreeMap::new();
        for &at in self.causes.keys().filter(|at| **at != violation) {
            let span = spans.entry(story.records[at].source).or_insert((at, at));
            *span = (span.0.min(at), span.1.max(at));
        }
        for (&source, &(first, last)) in &spans {
            let Source::Node(node) = source else { continue };
            for &at in story.of(source).iter().filter(|at| (first..=last).contains(*at)) {
                if matches!(story.records[at].fact, Fact::Stopped { .. } | Fact::Started) {
                    let lost = story.lost_writes(source, at);
                    lost.iter().for_each(|write| self.note(*write));
                    self.causes.entry(at).or_default().extend(lost);
                }
            }
            for &at in story.of(Source::World).iter().filter(|at| **at <= last) {
                if let Fact::Fault { stage, number, nodes } = &story.records[at].fact
                    && stage == "begin"
                    && nodes.contains(&node)
                {
                    let end = story.end_of_fault(at, *number);
                    if at >= first || end.is_some_and(|end| end >= first) {
                        self.note(at);
                        end.filter(|end| *end <= violation).into_iter().for_each(|end| self.note(end));
                    }
                }
            }
        }
    }

    fn note(&mut self, at: usize) {
        self.causes.entry(at).or_default();
    }
}

type Causes = Vec<(usize, Aspect)>;

impl Story {
    /// When a fault ended that began at `begin`, if it did.
    fn end_of_fault(&self, begin: usize, number: u32) -> Option<usize> {
        let later = self.of(Source::World).iter().copied().filter(|at| *at > begin);
        later.into_iter().find(|at| {
            matches!(&self.records[*at].fact, Fact::Fault { stage, number: n, .. } if stage == "end" && *n == number)
        })
    }

    /// What a process had not yet made durable when it stopped at `stopped`.
    fn lost_writes(&self, source: Source, stopped: usize) -> Vec<usize> {
        if !matches!(self.records[stopped].fact, Fact::Stopped { .. }) {
            return Vec::new();
        }
        let ends = |fact: &Fact| matches!(fact, Fact::Durable { .. } | Fact::Started);
        let from = self.last_before(source, stopped, ends).unwrap_or(0);
        let durable = match self.records[from].fact {
            Fact::Durable { number } => number,
            _ => 0,
        };
        let events = self.of(source).iter().copied().filter(|at| *at < stopped);
        let start = self.last_before(source, stopped, |fact| matches!(fact, Fact::Started)).unwrap_or(0);
        let is_lost = |at: &usize| {
            *at > start && matches!(self.records[*at].fact, Fact::Writes { number, .. } if number > durable)
        };
        events.filter(is_lost).collect()
    }

    /// What made an event.
    fn causes(&self, at: usize, aspect: Aspect) -> Causes {
        let record = &self.records[at];
        let source = record.source;
        let itself = |at: Option<usize>| at.map(|at| (at, Aspect::Itself)).into_iter().collect::<Causes>();
        match &record.fact {
            Fact::Received(_) => self.other_end(at).map(|sent| (sent, aspect)).into_iter().collect(),
            Fact::Sent(parcel) => self.causes_of_sending(at, parcel, aspect),
            Fact::Role { role, term } => self.causes_of_role(at, role, *term),
            Fact::Vote { to, term } => {
                let (to, term) = (*to, *term);
                if source == Source::Node(to) {
                    return Vec::new();
                }
                itself(self.last_before(source, at, |fact| is_message(fact, to, &["RequestVote"], term)))
            }
            Fact::Committed { index, .. } => self.causes_of_commit(at, *index),
            Fact::Applied { index, .. } => {
                let restart = self.start_of(at);
                let gave = self.last_before(source, at, |fact| {
                    matches!(fact, Fact::Committed { index: to, .. } | Fact::Snapshot { index: to, .. } if to >= index)
                });
                itself(gave.filter(|gave| *gave > restart))
            }
            Fact::Snapshot { index, .. } => itself(self.last_before(
                source,
                at,
                |fact| matches!(fact, Fact::Received(it) if it.message == "InstallSnapshot" && it.up_to == *index),
            )),
            Fact::Truncated { .. } => itself(self.last_before(
                source,
                at,
                |fact| matches!(fact, Fact::Received(it) if it.message == "AppendEntries"),
            )),
            Fact::Configured { .. } => itself(self.last_role(at)),
            Fact::Durable { number } => itself(
                self.last_before(source, at, |fact| matches!(fact, Fact::Writes { number: n, .. } if n == number)),
            ),
            Fact::Return { number, .. } => self.causes_of_return(at, *number),
            Fact::Exchange { from: Source::Node(_), .. } => {
                let mut causes =
                    itself(self.last_before(source, at, |fact| matches!(fact, Fact::Applied { .. })));
                causes.extend(itself(self.last_role(at)));
                causes
            }
            _ => Vec::new(),
        }
    }

    /// The beginning of the process that an event is of.
    fn start_of(&self, at: usize) -> usize {
        self.last_before(self.records[at].source, at, |fact| matches!(fact, Fact::Started)).unwrap_or(0)
    }

    fn last_role(&self, at: usize) -> Option<usize> {
        let start = self.start_of(at);
        let role = self.last_before(self.records[at].source, at, |fact| matches!(fact, Fact::Role { .. }));
        role.filter(|role| *role > start)
    }

    fn causes_of_sending(&self, at: usize, parcel: &Parcel, aspect: Aspect) -> Causes {
        let source = self.records[at].source;
        let (peer, term) = (parcel.peer, parcel.term);
        let answers = |names: &[&str]| {
            self.last_before(source, at, |fact| {
                matches!(fact, Fact::Received(it) if it.peer == peer && names.contains(&it.message.as_str()))
            })
        };
        let cause = match parcel.message.as_str() {
            "VoteResponse" if parcel.granted == Some(true) => self.last_before(
                source,
                at,
                |fact| matches!(fact, Fact::Vote { to, term: t } if *to == peer && *t == term),
            ),
            "VoteResponse" => answers(&["RequestVote"]),
            "PreVoteResponse" => answers(&["PreVote"]),
            "AppendAccepted" => answers(&["AppendEntries", "InstallSnapshot"]),
            "AppendRejected" => answers(&["AppendEntries"]),
            "HeartbeatResponse" => answers(&["Heartbeat"]),
            "ReadIndexResponse" => answers(&["ReadIndex"]),
            "AppendEntries" | "Heartbeat" if aspect == Aspect::Commit => {
                let told = parcel.commit;
                self.last_before(
                    source,
                    at,
                    |fact| matches!(fact, Fact::Committed { index, .. } if *index >= told),
                )
            }
            _ => None,
        };
        let role = match parcel.message.as_str() {
            "AppendEntries" | "Heartbeat" | "PreVote" | "RequestVote" | "InstallSnapshot" | "TimeoutNow" => {
                self.last_role(at)
            }
            _ => None,
        };
        cause.into_iter().chain(role).map(|cause| (cause, Aspect::Itself)).collect()
    }

    fn causes_of_role(&self, at: usize, role: &str, term: u64) -> Causes {
        let source = self.records[at].source;
        let start = self.start_of(at);
        let since = |name: &str| {
            self.last_before(source, at, |fact| matches!(fact, Fact::Role { role, .. } if role == name))
                .filter(|at| *at > start)
        };
        let granted = |from: usize, name: &'static str| {
            let between = self.of(source).iter().copied().filter(move |i| (from..at).contains(i));
            between.filter(move |i| {
                matches!(&self.records[*i].fact, Fact::Received(it) if it.message == name && it.granted == Some(true))
            })
        };
        let mut causes = BTreeSet::new();
        match role {
            "leader" => {
                let stood = since("candidate");
                causes.extend(stood);
                causes.extend(granted(stood.unwrap_or(start), "VoteResponse"));
            }
            "candidate" => {
                let asked = since("pre-candidate");
                causes.extend(asked);
                causes.extend(granted(asked.unwrap_or(start), "PreVoteResponse"));
                let told = self.last_before(
                    source,
                    at,
                    |fact| matches!(fact, Fact::Received(it) if it.message == "TimeoutNow" && it.term + 1 == term),
                );
                causes.extend(told);
            }
            // Deposed: by whoever spoke of that term.
            "follower" => causes.extend(self.last_before(
                source,
                at,
                |fact| matches!(fact, Fact::Received(it) if it.term == term),
            )),
            _ => {}
        }
        causes.into_iter().map(|cause| (cause, Aspect::Itself)).collect()
    }

    /// A leader commits by acknowledgements, all others because they are told.
    fn causes_of_commit(&self, at: usize, index: u64) -> Causes {
        let source = self.records[at].source;
        let role = self.last_role(at);
        let leads = role.is_some_and(
            |role| matches!(&self.records[role].fact, Fact::Role { role, .. } if role == "leader"),
        );
        if !leads {
            let told = self.last_before(
                source,
                at,
                |fact| matches!(fact, Fact::Received(it) if it.commit >= index && it.commit > 0),
            );
            return told.map(|told| (told, Aspect::Commit)).into_iter().collect();
        }
        let mut causes: Causes = role.map(|role| (role, Aspect::Itself)).into_iter().collect();
        let mut heard = BTreeSet::new();
        let from = role.unwrap_or(0);
        for &i in self.of(source).iter().filter(|i| (from..at).contains(*i)) {
            if let Fact::Received(it) = &self.records[i].fact
                && it.message == "AppendAccepted"
                && it.up_to >= index
                && heard.insert(it.peer)
            {
                causes.push((i, Aspect::Itself));
            }
        }
        causes
    }

    /// An operation's answer came from a node: the last that sent this client anything while it waited.
    fn causes_of_return(&self, at: usize, number: u32) -> Causes {
        let client = self.records[at].source;
        let invoked =
            self.last_before(client, at, |fact| matches!(fact, Fact::Invoke { number: n } if *n == number));
        let Some(invoked) = invoked else { return Vec::new() };
        let ended_ns = self.records[at].at_ns;
        let answer = (invoked..at).rev().find(|i| {
            matches!(&self.records[*i].fact, Fact::Exchange { to, arrives_ns, .. } if *to == client && *arrives_ns <= ended_ns)
        });
        let causes = [Some(invoked), answer];
        causes.into_iter().flatten().map(|cause| (cause, Aspect::Itself)).collect()
    }
}

fn is_message(fact: &Fact, from: u8, names: &[&str], term: u64) -> bool {
    matches!(fact, Fact::Received(it) if it.peer == from && it.term == term && names.contains(&it.message.as_str()))
}
