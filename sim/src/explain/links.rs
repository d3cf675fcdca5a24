//! Who heard what from whom.

use std::collections::{BTreeMap, VecDeque};

use crate::trace::{Fact, Record, Source};

/// Finds the two ends of each message. Copies of one message are alike; the first that arrives is taken for the first
/// that was sent, for a stream keeps its order.
pub(super) fn ends(records: &[Record]) -> BTreeMap<usize, usize> {
    let mut under_way: BTreeMap<(Source, u8, u64), VecDeque<usize>> = BTreeMap::new();
    let mut ends = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        match (&record.fact, record.source) {
            (Fact::Sent(parcel), source) => {
                under_way.entry((source, parcel.peer, parcel.digest)).or_default().push_back(at);
            }
            (Fact::Received(parcel), Source::Node(node)) => {
                let key = (Source::Node(parcel.peer), node, parcel.digest);
                if let Some(sent) = under_way.get_mut(&key).and_then(VecDeque::pop_front) {
                    ends.insert(at, sent);
                    ends.insert(sent, at);
                }
            }
            _ => {}
        }
    }
    ends
}

/// Segments of connections between clients and nodes become [`Fact::Exchange`]s of whoever sent them.
pub(super) fn name_exchanges(records: &mut [Record]) {
    let mut connections: BTreeMap<u64, (Source, Source)> = BTreeMap::new();
    for record in records {
        match &record.fact {
            Fact::Connected { connection, from, to } => {
                let to = to.strip_suffix(":client").and_then(|host| host.parse().ok());
                if let (Ok(from @ Source::Client(_)), Some(to)) = (from.parse(), to) {
                    connections.insert(*connection, (from, to));
                }
            }
            Fact::Segment { connection, direction, arrives_ns } => {
                let Some(&(client, node)) = connections.get(connection) else { continue };
                let (from, to) = if *direction == 0 { (client, node) } else { (node, client) };
                let bytes = record.text.split(' ').nth(2).unwrap_or("?").to_owned();
                record.source = from;
                record.text = format!("{bytes} bytes to {to}");
                record.fact = Fact::Exchange { from, to, arrives_ns: *arrives_ns };
            }
            _ => {}
        }
    }
}
