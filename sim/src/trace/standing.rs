//! Where each node stands, for the column that a timeline has beside a node's name.

use std::collections::BTreeMap;
use std::fmt;

use super::event::Source;
use super::record::Fact;

/// What the events so far say of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its term.
    pub term: u64,
    /// Its role, as a column of eight letters.
    pub role: &'static str,
    /// Its commit index.
    pub commit: u64,
    /// The last entry that it has applied.
    pub applied: u64,
}

impl Default for Standing {
    fn default() -> Self {
        Self { term: 0, role: "follower", commit: 0, applied: 0 }
    }
}

/// What the events so far say of all nodes.
#[derive(Clone, Default)]
pub struct Standings {
    nodes: BTreeMap<u8, Standing>,
}

impl Standings {
    /// Takes in an event, before it is shown.
    pub fn note(&mut self, source: Source, fact: &Fact) {
        let Source::Node(id) = source else { return };
        let node = self.nodes.entry(id).or_default();
        match fact {
            Fact::Started => *node = Standing::default(),
            Fact::Role { role, term } => {
                node.term = *term;
                node.role = match role.as_str() {
                    "leader" => "LEADER",
                    "candidate" => "candidat",
                    "pre-candidate" => "pre-cand",
                    _ => "follower",
                };
            }
            Fact::Committed { index, .. } | Fact::Snapshot { index, .. } => node.commit = *index,
            Fact::Applied { index, .. } => node.applied = *index,
            _ => {}
        }
    }

    /// The column: role, term and commit index of a node, nothing for anybody else.
    #[must_use]
    pub fn of(&self, source: Source) -> Column {
        let Source::Node(id) = source else { return Column(None) };
        Column(self.nodes.get(&id).copied())
    }
}

/// One line's column.
pub struct Column(Option<Standing>);

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Standing { term, role, commit, .. }) = self.0 else { return f.pad("") };
        f.pad(&format!("t{term:<3} {role:<8} c{commit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_shows_what_a_node_said_last() {
        let mut standings = Standings::default();
        let node = Source::Node(2);
        standings.note(node, &Fact::Role { role: "leader".to_owned(), term: 4 });
        standings.note(node, &Fact::Committed { term: 4, index: 17 });
        assert_eq!(standings.of(node).to_string(), "t4   LEADER   c17");
        assert_eq!(standings.of(Source::Client(2)).to_string(), "");
        standings.note(node, &Fact::Started);
        assert_eq!(standings.of(node).to_string(), "t0   follower c0");
    }
}
