//! Where each node stands, for the column that a timeline has beside a node's name.

use std::collections::BTreeMap;
use std::fmt;

use raft::core::{Event as CoreEvent, Index, RoleName, Term};

use super::event::{Event, Source};

/// What the events so far say of one node.
#[derive(Clone, Copy, Default)]
struct Standing {
    term: Term,
    role: RoleName,
    commit: Index,
}

/// What the events so far say of all nodes.
#[derive(Default)]
pub(super) struct Standings {
    nodes: BTreeMap<u8, Standing>,
}

impl Standings {
    /// Takes in an event, before it is shown.
    pub(super) fn note(&mut self, source: Source, event: &Event<'_>) {
        let Source::Node(id) = source else { return };
        let node = self.nodes.entry(id).or_default();
        match event {
            Event::Started { .. } => *node = Standing::default(),
            Event::Core { event: CoreEvent::RoleChanged { role, term } } => {
                (node.role, node.term) = (*role, *term)
            }
            Event::Core { event: CoreEvent::Committed { last } } => node.commit = last.index,
            Event::Core { event: CoreEvent::SnapshotAccepted { meta } } => node.commit = meta.last.index,
            _ => {}
        }
    }

    /// The column: role, term and commit index of a node, nothing for anybody else.
    pub(super) fn of(&self, source: Source) -> Column {
        let Source::Node(id) = source else { return Column(None) };
        Column(self.nodes.get(&id).copied())
    }
}

/// One line's column.
pub(super) struct Column(Option<Standing>);

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Standing { term, role, commit }) = self.0 else { return f.pad("") };
        let role = match role {
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre-cand",
            RoleName::Candidate => "candidat",
            RoleName::Leader => "LEADER",
        };
        f.pad(&format!("t{term:<3} {role:<8} c{commit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::core::LogId;

    #[test]
    fn the_column_shows_what_a_node_said_last() {
        let mut standings = Standings::default();
        let node = Source::Node(2);
        let elected = CoreEvent::RoleChanged { role: RoleName::Leader, term: Term(4) };
        standings.note(node, &Event::Core { event: &elected });
        standings.note(node, &Event::Core { event: &CoreEvent::Committed { last: LogId::new(4, 17) } });
        assert_eq!(standings.of(node).to_string(), "t4   LEADER   c17");
        assert_eq!(standings.of(Source::Client(2)).to_string(), "");
        standings.note(node, &Event::Started { start: 2 });
        assert_eq!(standings.of(node).to_string(), "t0   follower c0");
    }
}
