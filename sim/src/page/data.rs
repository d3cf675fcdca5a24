//! What the page is given: columns of numbers, and a table of words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Title;
use crate::explain::{Story, why::Why};
use crate::trace::{Fact, Parcel, Source};

/// The whole run, as the script reads it. Lanes are counted from 0, events in the order of time.
#[derive(Default, Serialize)]
pub(super) struct Data {
    world: String,
    reproduce: String,
    rule: Option<String>,
    detail: Option<String>,
    /// The names of the lanes: the world, nodes, clients.
    lanes: Vec<String>,
    words: Vec<String>,
    /// Of each event: nanoseconds since the one before.
    dt: Vec<u64>,
    lane: Vec<usize>,
    kind: Vec<u8>,
    word: Vec<usize>,
    /// Sent by this event, received by that one or by none (-1), and what kind of message it is.
    messages: Vec<(usize, i64, u8)>,
    /// Between clients and nodes: the event, the lane it goes to, and when it arrives.
    exchanges: Vec<(usize, usize, u64)>,
    /// Of each lane: from when on it is in which state, in which term.
    bands: Vec<Vec<(u64, u8, u64)>>,
    /// Of each lane: from when on it has committed and applied how much.
    progress: Vec<Vec<(u64, u64, u64)>>,
    operations: Vec<Operation>,
    faults: Vec<Span>,
    phases: Vec<(u64, String)>,
    violation: Option<usize>,
    witnesses: Vec<usize>,
    /// An event that matters, and its causes.
    why: Vec<(usize, Vec<usize>)>,
}

/// A client's operation: lane, number, call, end (-1 if it had none), outcome, and the events of both.
type Operation = (usize, u32, u64, i64, u8, usize, i64);
/// A fault: begin, end (-1 if it had none), lanes, its event.
type Span = (u64, i64, Vec<usize>, usize);

/// The states of a band.
mod state {
    pub(super) const DOWN: u8 = 0;
    pub(super) const STARTING: u8 = 1;
    pub(super) const FOLLOWER: u8 = 2;
    pub(super) const PRE_CANDIDATE: u8 = 3;
    pub(super) const CANDIDATE: u8 = 4;
    pub(super) const LEADER: u8 = 5;
}

const fn kind(fact: &Fact) -> Option<u8> {
    Some(match fact {
        Fact::Job | Fact::Segment { .. } | Fact::Connected { .. } | Fact::Closed { .. } => return None,
        Fact::Other => 0,
        Fact::Phase { .. } => 1,
        Fact::Fault { .. } => 2,
        Fact::Started => 3,
        Fact::Ready => 4,
        Fact::Stopped { .. } => 5,
        Fact::Role { .. } => 6,
        Fact::Leader { .. } => 7,
        Fact::Vote { .. } => 8,
        Fact::Committed { .. } => 9,
        Fact::Truncated { .. } => 10,
        Fact::Configured { .. } => 11,
        Fact::Snapshot { .. } => 12,
        Fact::Applied { .. } => 13,
        Fact::Writes { .. } => 14,
        Fact::Durable { .. } => 15,
        Fact::Sent(_) => 16,
        Fact::Received(_) => 17,
        Fact::Invoke { .. } => 18,
        Fact::Return { .. } => 19,
        Fact::Exchange { .. } => 20,
        Fact::Violation { .. } => 21,
    })
}

fn class(parcel: &Parcel) -> u8 {
    match parcel.message.as_str() {
        "PreVote" | "PreVoteResponse" | "RequestVote" | "VoteResponse" | "TimeoutNow" => 0,
        "AppendEntries" | "AppendAccepted" | "AppendRejected" => 1,
        "InstallSnapshot" => 3,
        "ReadIndex" | "ReadIndexResponse" => 4,
        _ => 2,
    }
}

impl Data {
    pub(super) fn of(story: &Story, why: &Why, title: &Title<'_>) -> Self {
        let lanes: BTreeMap<Source, usize> = std::iter::once(Source::World)
            .chain(story.sources().filter(|source| !matches!(source, Source::World | Source::Network)))
            .enumerate()
            .map(|(lane, source)| (source, lane))
            .collect();
        let mut data = Self {
            world: title.world.to_owned(),
            reproduce: title.reproduce.to_owned(),
            rule: title.failure.map(|failure| failure.rule.clone()),
            detail: title.failure.map(|failure| failure.detail.clone()),
            lanes: lanes.keys().map(ToString::to_string).collect(),
            bands: vec![Vec::new(); lanes.len()],
            progress: vec![Vec::new(); lanes.len()],
            ..Self::default()
        };
        let places = data.add_events(story, &lanes);
        data.add_links(story, &lanes, &places);
        let place = |at: &usize| places.get(at).copied();
        data.violation = story.violation().as_ref().and_then(place);
        data.witnesses = story.witnesses().iter().filter_map(place).collect();
        for (at, causes) in &why.causes {
            if let Some(at) = place(at) {
                data.why.push((at, causes.iter().filter_map(place).collect()));
            }
        }
        data
    }

    /// Adds the events; returns where each stands that is shown.
    fn add_events(&mut self, story: &Story, lanes: &BTreeMap<Source, usize>) -> BTreeMap<usize, usize> {
        let mut places = BTreeMap::new();
        let mut words: BTreeMap<&str, usize> = BTreeMap::new();
        let mut last_ns = 0;
        for (at, record) in story.records.iter().enumerate() {
            let (Some(kind), Some(&lane)) = (kind(&record.fact), lanes.get(&record.source)) else { continue };
            places.insert(at, self.kind.len());
            let next = words.len();
            let word = *words.entry(&record.text).or_insert(next);
            if word == next {
                self.words.push(record.text.clone());
            }
            self.dt.push(record.at_ns - last_ns);
            last_ns = record.at_ns;
            self.kind.push(kind);
            self.lane.push(lane);
            self.word.push(word);
            self.add_standing(record.at_ns, lane, &record.fact);
        }
        places
    }

    fn add_standing(&mut self, at_ns: u64, lane: usize, fact: &Fact) {
        let term = self.bands[lane].last().map_or(0, |(_, _, term)| *term);
        let (_, commit, applied) = self.progress[lane].last().copied().unwrap_or_default();
        match fact {
            Fact::Started => {
                self.bands[lane].push((at_ns, state::STARTING, term));
                self.progress[lane].push((at_ns, 0, 0));
            }
            // A role may have been told before the whole process is up.
            Fact::Ready if self.bands[lane].last().is_some_and(|(_, state, _)| *state == state::STARTING) => {
                self.bands[lane].push((at_ns, state::FOLLOWER, term));
            }
            Fact::Stopped { .. } => self.bands[lane].push((at_ns, state::DOWN, term)),
            Fact::Role { role, term } => {
                let state = match role.as_str() {
                    "leader" => state::LEADER,
                    "candidate" => state::CANDIDATE,
                    "pre-candidate" => state::PRE_CANDIDATE,
                    _ => state::FOLLOWER,
                };
                self.bands[lane].push((at_ns, state, *term));
            }
            Fact::Committed { index, .. } | Fact::Snapshot { index, .. } => {
                self.progress[lane].push((at_ns, *index, applied));
            }
            Fact::Applied { index, .. } => self.progress[lane].push((at_ns, commit, *index)),
            Fact::Phase { name } => self.phases.push((at_ns, name.clone())),
            _ => {}
        }
    }

    fn add_links(&mut self, story: &Story, lanes: &BTreeMap<Source, usize>, places: &BTreeMap<usize, usize>) {
        let mut open: BTreeMap<(Source, u32), usize> = BTreeMap::new();
        let mut begun: BTreeMap<u32, usize> = BTreeMap::new();
        for (&at, &place) in places {
            let record = &story.records[at];
            match &record.fact {
                Fact::Sent(parcel) => {
                    let arrival = story.other_end(at).and_then(|end| places.get(&end));
                    self.messages.push((place, arrival.map_or(-1, |end| *end as i64), class(parcel)));
                }
                Fact::Exchange { to, arrives_ns, .. } => {
                    if let Some(to) = lanes.get(to) {
                        self.exchanges.push((place, *to, *arrives_ns));
                    }
                }
                Fact::Invoke { number } => {
                    open.insert((record.source, *number), self.operations.len());
                    let lane = lanes[&record.source];
                    self.operations.push((lane, *number, record.at_ns, -1, 3, place, -1));
                }
                Fact::Return { number, outcome } => {
                    let Some(operation) = open.remove(&(record.source, *number)) else { continue };
                    let operation = &mut self.operations[operation];
                    operation.3 = record.at_ns as i64;
                    operation.4 = match outcome.as_str() {
                        "ok" => 0,
                        "fail" => 1,
                        _ => 2,
                    };
                    operation.6 = place as i64;
                }
                Fact::Fault { stage, number, nodes } if stage == "begin" => {
                    begun.insert(*number, self.faults.len());
                    let nodes = nodes.iter().filter_map(|node| lanes.get(&Source::Node(*node)).copied());
                    self.faults.push((record.at_ns, -1, nodes.collect(), place));
                }
                Fact::Fault { stage, number, .. } if stage == "end" => {
                    if let Some(fault) = begun.remove(number) {
                        self.faults[fault].1 = record.at_ns as i64;
                    }
                }
                Fact::Phase { name } if name == "heal" => {
                    // Those that say for how long, and that was not over, go on until all is healed.
                    for fault in std::mem::take(&mut begun).into_values() {
                        if self.words[self.word[self.faults[fault].3]].contains(" for ") {
                            self.faults[fault].1 = record.at_ns as i64;
                        }
                    }
                }
                _ => {}
            }
        }
    }
}
