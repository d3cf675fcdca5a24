//! What must hold over the whole cluster, whatever happens to it (fig. 3.2 of the dissertation, and a little more).
//!
//! The checker sees everything: all logs, all disks, all messages as they are sent. It remembers what was ever
//! true, and compares.

use std::collections::BTreeMap;

use raft::core::{
    Configuration, Entry, Index, LogId, Message, MessageBody, NodeId, Payload, Raft, ReadState, Ready,
    RoleName, Term,
};

use crate::common::{Disk, Node};

#[derive(Default)]
pub(crate) struct Checker {
    /// Who has led each term.
    leaders: BTreeMap<Term, NodeId>,
    /// Whom each node has told that it voted for them.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Every entry that was ever in a log, with the term of the one before it.
    entries: BTreeMap<LogId, (Term, Entry)>,
    /// What was committed, from index 1, and the least term in which that was known.
    committed: Vec<(Term, Term)>,
    /// The newest configuration that is committed, if one was.
    configuration: Option<(Index, Configuration)>,
    /// What each node went by when it was last looked at.
    configurations: BTreeMap<NodeId, Configuration>,
    /// The state behind each index.
    states: BTreeMap<Index, (LogId, u64)>,
    /// The commit index of each node since it started.
    commits: BTreeMap<NodeId, Index>,
    /// What each open read must at least see.
    reads: BTreeMap<u64, Index>,
    pub(crate) reads_decided: usize,
    pub(crate) leaders_seen: usize,
}

impl Checker {
    pub(crate) fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// The newest configuration that was ever known to be committed, and its index; none but the first: 0.
    pub(crate) fn newest_configuration(&self) -> (Index, Option<&Configuration>) {
        let newest = self.configuration.as_ref();
        newest.map_or((Index::ZERO, None), |(index, configuration)| (*index, Some(configuration)))
    }

    /// Looks at a node after an input.
    pub(crate) fn observe(&mut self, nodes: &[Node], at: usize) {
        let Some(raft) = &nodes[at].raft else { return };
        let id = nodes[at].id;
        if raft.role() == RoleName::Leader {
            self.observe_leader(id, raft);
        }
        let before = self.commits.get(&id).copied().unwrap_or(Index::ZERO);
        let commit = raft.commit();
        assert!(commit >= before, "{id}: commit falls from {before} to {commit}");
        if commit > before {
            self.observe_commit(nodes, id, raft, before);
            self.commits.insert(id, commit);
            if raft.role() == RoleName::Leader {
                // A configuration that the same input brought decided nothing yet, or everything behind it.
                let last = LogId { term: raft.term_at(commit).unwrap(), index: commit };
                let by = [Some(raft.configuration()), self.configurations.get(&id)];
                let is_durable = by.into_iter().flatten().any(|by| is_durable(nodes, by, last));
                assert!(is_durable, "{id} commits {last}, which is not on the disks of a quorum");
            }
        }
        let before = self.configurations.insert(id, raft.configuration().clone());
        if let Some(before) = before.filter(|_| raft.role() == RoleName::Leader) {
            observe_leaving(id, raft, &before);
        }
    }

    /// Election Safety and Leader Completeness (§3.6.3).
    fn observe_leader(&mut self, id: NodeId, raft: &Raft) {
        let term = raft.hard_state().term;
        let known = *self.leaders.entry(term).or_insert_with(|| {
            self.leaders_seen += 1;
            id
        });
        assert_eq!(known, id, "two leaders of term {term}");
        for (at, (of, in_term)) in self.committed.iter().enumerate() {
            let index = Index(at as u64 + 1);
            if *in_term < term && index >= raft.first_index() {
                let has = raft.term_at(index);
                assert_eq!(has, Some(*of), "{id} leads {term} without the committed entry {index}@{of}");
            }
        }
    }

    /// State Machine Safety, for what is known as committed.
    fn observe_commit(&mut self, nodes: &[Node], id: NodeId, raft: &Raft, before: Index) {
        let now = raft.hard_state().term;
        for index in before.0 + 1..=raft.commit().0 {
            let Some(term) = raft.term_at(Index(index)) else { continue };
            match self.committed.get(index as usize - 1) {
                Some((known, _)) => {
                    assert_eq!(term, *known, "{id} commits {index}@{term}, but {index}@{known} is committed");
                }
                None => {
                    assert_eq!(index as usize, self.committed.len() + 1, "{id} commits {index} first");
                    self.committed.push((term, now));
                    self.observe_configuration(nodes, LogId { term, index: Index(index) });
                }
            }
        }
    }

    /// A joint configuration that is committed is on the disks of a majority of each half (§4.3).
    fn observe_configuration(&mut self, nodes: &[Node], id: LogId) {
        let Some((_, Entry { payload: Payload::Configuration(configuration), .. })) = self.entries.get(&id)
        else {
            return;
        };
        let is_safe = !configuration.is_joint() || is_durable(nodes, configuration, id);
        assert!(is_safe, "{id} is committed, but not on the disks of both halves");
        self.configuration = Some((id.index, configuration.clone()));
    }

    /// A leader begins a change only on a configuration that is committed (§4.3).
    fn observe_change(&self, id: NodeId, raft: &Raft, entry: &Entry) {
        let is_own = raft.role() == RoleName::Leader && entry.term == raft.hard_state().term;
        let Payload::Configuration(configuration) = &entry.payload else { return };
        if !is_own {
            return;
        }
        let below = entry.index.prev();
        let committed = raft.configuration_at(self.committed().min(below));
        let before = raft.configuration_at(below);
        assert_eq!(
            before, committed,
            "{id} appends {configuration:?} on a configuration that is not committed"
        );
    }

    /// Log Matching (§3.5): term and index name one entry, and with it all before it.
    pub(crate) fn observe_ready(&mut self, node: &Node, ready: &Ready) {
        let (id, raft) = (node.id, node.raft.as_ref().unwrap());
        let first = ready.entries.first().map(|entry| entry.index.prev());
        let mut before = first.and_then(|index| raft.term_at(index));
        for entry in &ready.entries {
            let before_term = before.expect("the entry before the first is known");
            let known = self.entries.entry(entry.log_id()).or_insert_with(|| (before_term, entry.clone()));
            assert_eq!(known, &(before_term, entry.clone()), "{id}: another entry of the same name");
            before = Some(entry.term);
            self.observe_change(id, raft, entry);
        }
        for message in &ready.messages {
            self.observe_message(&node.disk, message);
        }
        for read in &ready.reads {
            self.observe_read(id, read);
        }
    }

    /// A message as it leaves: what it promises must be on disk by now.
    pub(crate) fn observe_message(&mut self, disk: &Disk, message: &Message) {
        let (from, term) = (message.from, message.term);
        match &message.body {
            MessageBody::VoteResponse { granted: true } => {
                assert!(disk.hard_state.term >= term, "{from} votes in {term} before that is durable");
                let voted = *self.votes.entry((from, term)).or_insert(message.to);
                assert_eq!(voted, message.to, "{from} votes twice in {term}");
            }
            MessageBody::RequestVote { .. } => {
                assert!(disk.hard_state.term >= term, "{from} stands in {term} before that is durable");
            }
            MessageBody::AppendAccepted { matched } => {
                assert!(disk.hard_state.term >= term, "{from} answers in {term} before that is durable");
                let last = disk.last().index;
                let is_current = disk.hard_state.term == term;
                assert!(!is_current || *matched <= last, "{from} acknowledges {matched}, has {last}");
            }
            _ => {}
        }
    }

    pub(crate) fn read_began(&mut self, context: u64) {
        self.reads.insert(context, self.committed());
    }

    /// A read sees everything that was committed, anywhere, before it began (§6.4).
    fn observe_read(&mut self, id: NodeId, read: &ReadState) {
        let context = read.context;
        let least = self.reads.remove(&context).expect("a read is decided once");
        if let Some(index) = read.index {
            assert!(index >= least, "{id}: read {context} at {index}, but {least} was committed before it");
            self.reads_decided += 1;
        }
    }

    /// State Machine Safety, for what is applied.
    pub(crate) fn observe_state(&mut self, id: NodeId, last: LogId, hash: u64) {
        let known = *self.states.entry(last.index).or_insert((last, hash));
        assert_eq!(known, (last, hash), "{id}: another state behind {last}");
        let committed = self.committed.get(last.index.0.wrapping_sub(1) as usize);
        assert!(last.index.0 == 0 || committed.is_some(), "{id} applies {last}, which nobody committed");
    }

    pub(crate) fn crashed(&mut self, id: NodeId) {
        self.commits.remove(&id);
        self.configurations.remove(&id);
    }

    /// Reads of a node that crashed are never decided.
    pub(crate) fn forget_reads(&mut self, contexts: impl IntoIterator<Item = u64>) {
        for context in contexts {
            self.reads.remove(&context);
        }
    }
}

/// Whether `set` holds a majority of each half.
pub(crate) fn is_quorum(configuration: &Configuration, set: impl Fn(NodeId) -> bool) -> bool {
    [&configuration.voters, &configuration.voters_outgoing]
        .into_iter()
        .all(|half| half.is_empty() || half.iter().filter(|id| set(**id)).count() * 2 > half.len())
}

/// A leader that has just taken up a configuration still supplies whom that leaves out (§4.2.2).
fn observe_leaving(id: NodeId, raft: &Raft, before: &Configuration) {
    if raft.configuration() == before || raft.configuration_index() <= raft.commit() {
        return;
    }
    let supplied: Vec<NodeId> = raft.status().peers.iter().map(|peer| peer.id).collect();
    let forgotten = before.members().into_iter().find(|member| *member != id && !supplied.contains(member));
    assert!(forgotten.is_none(), "{id} supplies {supplied:?}, and has forgotten {forgotten:?}");
}

/// Whether an entry is on the disks of a quorum.
fn is_durable(nodes: &[Node], configuration: &Configuration, last: LogId) -> bool {
    let holds = |id: NodeId| nodes.iter().any(|node| node.id == id && node.disk.holds(last));
    is_quorum(configuration, holds)
}
