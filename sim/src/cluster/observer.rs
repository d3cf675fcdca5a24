//! What the nodes tell of themselves: into the trace, and to the rules.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::core::{Event as CoreEvent, LogId, NodeId, RoleName, Term};
use raft::driver::Observer;
use tokio::sync::mpsc;

use super::{Signal, World};
use crate::app::View;
use crate::plan::Moment;
use crate::trace::{Event, Source};

/// A crash that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub struct Trigger {
    /// What it waits for.
    pub moment: Moment,
    /// How long after that it comes.
    pub after_ns: u64,
    /// How long the node is down then.
    pub down_ns: u64,
    /// How long it is then cut off from those who hear the candidate it voted for.
    pub isolate_ns: u64,
}

/// The nodes as seen from outside.
pub struct Watch {
    world: World,
    nodes: Vec<Mutex<Seen>>,
    triggers: Vec<Mutex<Vec<Trigger>>>,
    signals: mpsc::UnboundedSender<Signal>,
}

#[derive(Default)]
struct Seen {
    term: Term,
    role: RoleName,
    view: Option<Arc<dyn View>>,
    /// Whether some process of it ever was up, on the disk that it has.
    was_ready: bool,
    /// Counts the starts, so that the last words of a dead process are not taken for those of the living one.
    start: u32,
}

impl Watch {
    pub(super) fn new(world: World, nodes: u8, signals: mpsc::UnboundedSender<Signal>) -> Self {
        Self {
            world,
            nodes: (0..nodes).map(|_| Mutex::default()).collect(),
            triggers: (0..nodes).map(|_| Mutex::default()).collect(),
            signals,
        }
    }

    fn triggers(&self, node: u8) -> MutexGuard<'_, Vec<Trigger>> {
        self.triggers[usize::from(node) - 1].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a moment of `node`, in whichever of its processes it comes.
    pub(super) fn arm(&self, node: u8, trigger: Trigger) {
        self.triggers(node).push(trigger);
    }

    /// Waits for nothing more.
    pub(super) fn disarm(&self, node: u8) {
        self.triggers(node).clear();
    }

    /// Pulls the trigger that waited for this event, if one did.
    fn pull(&self, node: u8, start: u32, event: &CoreEvent) {
        let mut triggers = self.triggers(node);
        if triggers.is_empty() {
            return;
        }
        let (moment, candidate) = match event {
            CoreEvent::VoteGranted { to, .. } if to.0 != u64::from(node) => {
                (Moment::Votes, u8::try_from(to.0).ok())
            }
            CoreEvent::RoleChanged { role: RoleName::Leader, .. } => (Moment::IsElected, None),
            CoreEvent::Committed { .. } => (Moment::Commits, None),
            CoreEvent::Truncated { .. } => (Moment::CutsItsLog, None),
            CoreEvent::SnapshotAccepted { .. } => (Moment::TakesASnapshot, None),
            _ => return,
        };
        if let Some(at) = triggers.iter().position(|trigger| trigger.moment == moment) {
            let trigger = triggers.remove(at);
            // Nobody listens any more when the world ends.
            let _ = self.signals.send(Signal::Triggered { node, start, trigger, candidate });
        }
    }

    fn lock(&self, node: u8) -> MutexGuard<'_, Seen> {
        self.nodes[usize::from(node) - 1].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process begins.
    pub(super) fn started(&self, node: u8) {
        let mut seen = self.lock(node);
        *seen = Seen { start: seen.start + 1, was_ready: seen.was_ready, ..Seen::default() };
    }

    /// A process has ended.
    pub(super) fn stopped(&self, node: u8) {
        let mut seen = self.lock(node);
        *seen = Seen { start: seen.start, was_ready: seen.was_ready, ..Seen::default() };
    }

    /// A process is up, and this is its state.
    pub(super) fn ready(&self, node: u8, view: Arc<dyn View>) {
        let membership = view.raft().membership();
        let mut seen = self.lock(node);
        (seen.view, seen.was_ready) = (Some(view), true);
        drop(seen);
        let id = NodeId(u64::from(node));
        self.world.invariants.booted(id, membership.index, &membership.configuration);
    }

    pub(super) fn role(&self, node: u8) -> (Term, RoleName) {
        let seen = self.lock(node);
        (seen.term, seen.role)
    }

    pub(super) fn was_ready(&self, node: u8) -> bool {
        self.lock(node).was_ready
    }

    pub(super) fn view(&self, node: u8) -> Option<Arc<dyn View>> {
        self.lock(node).view.clone()
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
        if let CoreEvent::Committed { last } = event {
            // Nobody listens any more when the world ends.
            let _ = self.watch.signals.send(Signal::Committed { last: *last });
        }
        self.watch.pull(self.node, self.start, event);
    }

    fn applied(&self, last: LogId) {
        let world = &self.watch.world;
        let seen = self.watch.lock(self.node);
        if seen.start != self.start {
            return;
        }
        let state = seen.view.as_ref().map(|view| view.state_hash());
        drop(seen);
        world.record(Source::Node(self.node), &Event::Applied { last });
        world.invariants.applied(NodeId(u64::from(self.node)), last, state);
    }
}
