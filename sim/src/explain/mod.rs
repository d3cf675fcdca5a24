//! A run that has ended, looked at again: who spoke to whom, what came of what, and what the broken rule has to do
//! with it.
//!
//! A world writes its events as data ([`Record`]). A [`Story`] is all of them, with each message's two ends found,
//! and what clients and nodes said to each other. From it come the events that matter ([`why`]), a page
//! ([`page`](crate::page)), and a log for ShiViz ([`shiviz`]).

mod links;
pub mod shiviz;
#[cfg(test)]
mod tests;
pub mod why;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use crate::report::{Failure, Witness};
use crate::trace::{Fact, Record, Source};

/// The events of one run.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// In the order in which they happened.
    pub records: Vec<Record>,
    /// For a message that arrived the event of its sending, and the other way round.
    other_end: BTreeMap<usize, usize>,
    /// The events of each node and client.
    of_source: BTreeMap<Source, Vec<usize>>,
    /// The event at which the rule was broken.
    violation: Option<usize>,
}

impl Story {
    /// The story of these events, which ended as said.
    #[must_use]
    pub fn new(mut records: Vec<Record>, failure: Option<&Failure>) -> Self {
        if let Some(failure) = failure {
            conclude(&mut records, failure);
        }
        links::name_exchanges(&mut records);
        let mut of_source: BTreeMap<Source, Vec<usize>> = BTreeMap::new();
        for (at, record) in records.iter().enumerate() {
            of_source.entry(record.source).or_default().push(at);
        }
        let violation = records.iter().position(|record| matches!(record.fact, Fact::Violation { .. }));
        Self { other_end: links::ends(&records), records, of_source, violation }
    }

    /// Reads what a world has written. A last line that is not whole is left out: the world ended there.
    ///
    /// # Errors
    /// It cannot be read, or is something else.
    pub fn read(reader: impl BufRead, failure: Option<&Failure>) -> io::Result<Self> {
        let mut records = Vec::new();
        let mut broken = None;
        for line in reader.lines() {
            if let Some(error) = broken.take() {
                return Err(error);
            }
            match serde_json::from_str(&line?) {
                Ok(record) => records.push(record),
                Err(error) => broken = Some(io::Error::from(error)),
            }
        }
        Ok(Self::new(records, failure))
    }

    /// The event at which the rule was broken, if one was.
    #[must_use]
    pub const fn violation(&self) -> Option<usize> {
        self.violation
    }

    /// The other end of a message: of its sending the arrival, of its arrival the sending.
    #[must_use]
    pub fn other_end(&self, at: usize) -> Option<usize> {
        self.other_end.get(&at).copied()
    }

    /// The events of a node or client, in order.
    #[must_use]
    pub fn of(&self, source: Source) -> &[usize] {
        self.of_source.get(&source).map_or(&[], Vec::as_slice)
    }

    /// Everybody who had a part in it.
    pub fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        self.of_source.keys().copied()
    }

    /// The last event of `source` before `before` that `is` what is looked for.
    fn last_before(&self, source: Source, before: usize, is: impl Fn(&Fact) -> bool) -> Option<usize> {
        let events = self.of(source);
        let end = events.partition_point(|at| *at < before);
        events[..end].iter().rev().copied().find(|at| is(&self.records[*at].fact))
    }

    /// The events that witness the violation.
    #[must_use]
    pub fn witnesses(&self) -> Vec<usize> {
        let Some(violation) = self.violation else { return Vec::new() };
        let Fact::Violation { witnesses, .. } = &self.records[violation].fact else { return Vec::new() };
        let mut found: Vec<usize> =
            witnesses.iter().filter_map(|witness| self.find(witness, violation)).collect();
        if let (true, source @ Source::Node(_)) = (found.is_empty(), self.records[violation].source) {
            found.extend(self.last_before(source, violation, is_told));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn find(&self, witness: &Witness, before: usize) -> Option<usize> {
        match *witness {
            Witness::Elected { node, term } => self.last_before(Source::Node(node), before, |fact| {
                matches!(fact, Fact::Role { role, term: at } if role == "leader" && *at == term)
            }),
            Witness::Committed { node, index } => self.last_before(Source::Node(node), before, |fact| {
                matches!(fact, Fact::Committed { index: at, .. } | Fact::Snapshot { index: at, .. } if *at == index)
            }),
            Witness::Applied { node, index } => self.last_before(Source::Node(node), before, |fact| {
                matches!(fact, Fact::Applied { index: at, .. } if *at == index)
            }),
            Witness::Node { node } => self.last_before(Source::Node(node), before, is_told),
            Witness::Operation { number } => {
                let of = |at: &usize| match &self.records[*at].fact {
                    Fact::Return { number: n, .. } => *n == number,
                    _ => false,
                };
                let invoked = |at: &usize| match &self.records[*at].fact {
                    Fact::Invoke { number: n } => *n == number,
                    _ => false,
                };
                let all = 0..self.records.len();
                all.clone().rev().find(of).or_else(|| all.rev().find(invoked))
            }
        }
    }
}

/// Whether an event stands in a timeline by itself.
fn is_told(fact: &Fact) -> bool {
    !matches!(
        fact,
        Fact::Sent(_)
            | Fact::Received(_)
            | Fact::Writes { .. }
            | Fact::Durable { .. }
            | Fact::Job
            | Fact::Violation { .. }
    )
}

/// A run that ended by a panic or a hang has no event that says so: here it gets one.
fn conclude(records: &mut Vec<Record>, failure: &Failure) {
    if records.iter().any(|record| matches!(record.fact, Fact::Violation { .. })) {
        return;
    }
    let node = panicked(&failure.detail);
    let mut witnesses = failure.witnesses.clone();
    witnesses.extend(node.map(|node| Witness::Node { node }));
    records.push(Record {
        at_ns: records.last().map_or(0, |record| record.at_ns),
        source: node.map_or(Source::World, Source::Node),
        fact: Fact::Violation { rule: failure.rule.clone(), witnesses },
        text: format!("VIOLATED: {failure}"),
    });
}

/// The node whose process panicked, by the panic's own words: `node=8 "n7.1"`.
fn panicked(words: &str) -> Option<u8> {
    let (_, behind) = words.split_once("context: node=")?;
    let (_, name) = behind.split_once("\"n")?;
    name.split_once('.')?.0.parse().ok()
}
