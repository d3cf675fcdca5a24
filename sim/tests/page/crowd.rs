//! A long run, made up: five nodes, a leader that changes, heartbeats, appends, clients, faults, and a violation at
//! the end.

use raftkv_sim::explain::Story;
use raftkv_sim::random::Random;
use raftkv_sim::report::Witness;
use raftkv_sim::trace::{Fact, Parcel, Record, Source};

const NODES: u8 = 5;
const CLIENTS: u16 = 6;

struct Crowd {
    records: Vec<Record>,
    random: Random,
    digest: u64,
}

impl Crowd {
    fn add(&mut self, at_ns: u64, source: Source, fact: Fact, text: String) {
        self.records.push(Record { at_ns, source, fact, text });
    }

    /// A message that arrives, nearly always.
    fn say(&mut self, at_ns: u64, from: u8, to: u8, message: &str, term: u64) -> u64 {
        self.digest += 1;
        let (digest, text) = (self.digest, format!("{message} term={term} round={}", self.digest));
        let parcel = |peer| Parcel {
            peer,
            message: message.to_owned(),
            term,
            digest,
            granted: None,
            up_to: 0,
            commit: 0,
        };
        self.add(at_ns, Source::Node(from), Fact::Sent(parcel(to)), format!("to n{to}: {text}"));
        let arrives_ns = at_ns + self.random.between(200_000, 3_000_000);
        if self.random.below(100) > 2 {
            self.add(
                arrives_ns,
                Source::Node(to),
                Fact::Received(parcel(from)),
                format!("from n{from}: {text}"),
            );
        }
        arrives_ns
    }
}

/// A story of at least so many events.
pub(crate) fn story(events: usize) -> Story {
    let mut crowd = Crowd { records: Vec::new(), random: Random::new(7), digest: 0 };
    for node in 1..=NODES {
        crowd.add(0, Source::Node(node), Fact::Started, "starts".to_owned());
        crowd.add(1_000_000, Source::Node(node), Fact::Ready, "ready".to_owned());
    }
    let (mut now, mut term, mut index, mut number) = (2_000_000, 0, 0, 0);
    while crowd.records.len() < events {
        term += 1;
        let leader = (term % u64::from(NODES)) as u8 + 1;
        for (role, text) in [("candidate", "is Candidate"), ("leader", "is Leader")] {
            let fact = Fact::Role { role: role.to_owned(), term };
            crowd.add(now, Source::Node(leader), fact, format!("{text} in term {term}"));
            now += 4_000_000;
        }
        let fault = u32::try_from(term).unwrap_or(0);
        let nodes = vec![leader % NODES + 1];
        let begin = Fact::Fault { stage: "begin".to_owned(), number: fault, nodes: nodes.clone() };
        let name = format!("n{} cut off from all for 300.000 ms", nodes[0]);
        crowd.add(now, Source::World, begin, format!("fault {fault} begin: {name}"));
        for _ in 0..120 {
            index += 1;
            number += 1;
            let client = Source::Client((number % u32::from(CLIENTS)) as u16 + 1);
            crowd.add(now, client, Fact::Invoke { number }, format!("#{number} put k{}", number % 7));
            for node in (1..=NODES).filter(|node| *node != leader) {
                let heard = crowd.say(now, leader, node, "AppendEntries", term);
                crowd.say(heard, node, leader, "AppendAccepted", term);
                crowd.say(now, leader, node, "Heartbeat", term);
            }
            now += 7_000_000;
            for node in 1..=NODES {
                crowd.add(
                    now,
                    Source::Node(node),
                    Fact::Committed { term, index },
                    format!("committed {index}@{term}"),
                );
                crowd.add(
                    now,
                    Source::Node(node),
                    Fact::Applied { term, index },
                    format!("applied {index}@{term}"),
                );
            }
            let outcome = ["ok", "ok", "ok", "fail", "info"][(number % 5) as usize].to_owned();
            crowd.add(
                now,
                client,
                Fact::Return { number, outcome: outcome.clone() },
                format!("#{number} -> {outcome}"),
            );
        }
        let end = Fact::Fault { stage: "end".to_owned(), number: fault, nodes };
        crowd.add(now, Source::World, end, format!("fault {fault} end: {name}"));
    }
    let witnesses = vec![Witness::Committed { node: 1, index }, Witness::Committed { node: 2, index }];
    let fact = Fact::Violation { rule: "committed logs agree".to_owned(), witnesses };
    crowd.records.sort_by_key(|record| record.at_ns);
    let last = crowd.records.last().map_or(0, |record| record.at_ns);
    crowd.add(last, Source::Node(2), fact, "VIOLATED: committed logs agree: n1 and n2 differ".to_owned());
    Story::new(crowd.records, None)
}
