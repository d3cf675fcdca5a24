//! What the nodes tell of themselves: into the trace, and to the rules.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv::state_machine::KvReader;
use raft::core::{Event as CoreEvent, LogId, NodeId, RoleName, Term};
use raft::driver::Observer;

use super::World;
use crate::trace::{Event, Source};

/// The nodes as seen from outside.
pub struct Watch {
    world: World,
    nodes: Vec<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    term: Term,
    role: RoleName,
    reader: Option<KvReader>,
    /// Counts the starts, so that the last words of a dead process are not taken for those of the living one.
    start: u32,
}

impl Watch {
    pub(super) fn new(world: World, nodes: u8) -> Self {
        Self { world, nodes: (0..nodes).map(|_| Mutex::default()).collect() }
    }

    fn lock(&self, node: u8) -> MutexGuard<'_, Seen> {
        self.nodes[usize::from(node) - 1].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process begins.
    pub(super) fn started(&self, node: u8) {
        let mut seen = self.lock(node);
        *seen = Seen { start: seen.start + 1, ..Seen::default() };
    }

    /// A process has ended.
    pub(super) fn stopped(&self, node: u8) {
        let mut seen = self.lock(node);
        *seen = Seen { start: seen.start, ..Seen::default() };
    }

    /// A process is up, and this is its state.
    pub(super) fn ready(&self, node: u8, reader: KvReader) {
        self.lock(node).reader = Some(reader);
    }

    pub(super) fn role(&self, node: u8) -> (Term, RoleName) {
        let seen = self.lock(node);
        (seen.term, seen.role)
    }

    pub(super) fn reader(&self, node: u8) -> Option<KvReader> {
        self.lock(node).reader.clone()
    }

    /// The observer for the process of `node` that has just begun.
    pub(super) fn observer(self: &Arc<Self>, node: u8) -> Arc<dyn Observer> {
        Arc::new(NodeObserver { watch: Arc::clone(self), node, start: self.lock(node).start })
    }
}

struct NodeObserver {
    watch: Arc<Watch>,
    node: u8,
    start: u32,
}

impl Observer for NodeObserver {
    fn event(&self, event: &CoreEvent) {
        let world = &self.watch.world;
        let mut seen = self.watch.lock(self.node);
        if seen.start != self.start {
            return;
        }
        if let CoreEvent::RoleChanged { role, term } = event {
            (seen.role, seen.term) = (*role, *term);
        }
        drop(seen);
        world.record(Source::Node(self.node), &Event::Core { event });
        world.invariants.event(NodeId(u64::from(self.node)), event);
    }

    fn applied(&self, last: LogId) {
        let world = &self.watch.world;
        let seen = self.watch.lock(self.node);
        if seen.start != self.start {
            return;
        }
        let state = seen.reader.as_ref().map(KvReader::state_hash);
        drop(seen);
        world.record(Source::Node(self.node), &Event::Applied { last });
        world.invariants.applied(NodeId(u64::from(self.node)), last, state);
    }
}
