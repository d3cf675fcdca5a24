//! What the nodes tell of themselves: into the trace, and to the rules.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::core::{Entry, Event as CoreEvent, HardState, LogId, Message, NodeId, ReadyNumber, RoleName, Term};
use raft::driver::Observer;
use tokio::sync::mpsc;

use super::{Signal, World};
use crate::app::View;
use crate::plan::{Moment, Turn};
use crate::trace::{Event, Said, Source};

/// Something that befalls a node at a moment of its core.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// What it waits for.
    pub moment: Moment,
    /// How often that may come before.
    pub skip: u8,
    /// How long after that it comes.
    pub after_ns: u64,
    /// What it is.
    pub then: Then,
}

/// What befalls a node at a moment of its core.
#[derive(Clone, Debug)]
pub enum Then {
    /// It crashes.
    Crash {
        /// How long it is down.
        down_ns: u64,
        /// How long it is then cut off from those who hear the candidate it voted for.
        isolate_ns: u64,
        /// After how many more calls to its disk; 0: at once.
        calls: u64,
    },
    /// It is cut off from all other machines.
    Cut {
        /// But these.
        with: BTreeSet<u8>,
        /// For how long.
        for_ns: u64,
    },
    /// It is cut off from all other machines, and the one before it in the relay is joined again.
    Relay,
}

/// The nodes as seen from outside.
pub struct Watch {
    world: World,
    nodes: Vec<Mutex<Seen>>,
    triggers: Vec<Mutex<Vec<Trigger>>>,
    /// The turns that a relay still waits for.
    relay: Mutex<VecDeque<Turn>>,
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
            relay: Mutex::default(),
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
        self.set_relay(VecDeque::new());
    }

    /// Waits for these moments of whoever leads, one after the other.
    pub(super) fn set_relay(&self, turns: VecDeque<Turn>) {
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = turns;
    }

    /// Takes the next turn of the relay, if this is its moment.
    fn take_turn(&self, moment: Moment) -> Option<Turn> {
        let mut turns = self.relay.lock().unwrap_or_else(PoisonError::into_inner);
        turns.pop_front_if(|turn| turn.moment == moment)
    }

    /// Pulls the trigger that waited for this event, if one did.
    fn pull(&self, node: u8, start: u32, event: &CoreEvent) {
        let (moment, candidate) = match event {
            CoreEvent::VoteGranted { to, .. } if to.0 != u64::from(node) => {
                (Moment::Votes, u8::try_from(to.0).ok())
            }
            CoreEvent::RoleChanged { role: RoleName::Leader, .. } => (Moment::IsElected, None),
            CoreEvent::RoleChanged { role: RoleName::Candidate, .. } => (Moment::Stands, None),
            CoreEvent::Committed { .. } => (Moment::Commits, None),
            CoreEvent::Truncated { .. } => (Moment::CutsItsLog, None),
            CoreEvent::SnapshotAccepted { .. } => (Moment::TakesASnapshot, None),
            CoreEvent::ConfigurationChanged { .. } => (Moment::IsReconfigured, None),
            _ => return,
        };
        // Nobody listens any more when the world ends.
        let pull = |trigger| drop(self.signals.send(Signal::Triggered { node, start, trigger, candidate }));
        if self.lock(node).role == RoleName::Leader
            && let Some(Turn { moment, after_ns }) = self.take_turn(moment)
        {
            pull(Trigger { moment, skip: 0, after_ns, then: Then::Relay });
        }
        let mut triggers = self.triggers(node);
        if let Some(at) = triggers.iter().position(|trigger| trigger.moment == moment) {
            match triggers[at].skip.checked_sub(1) {
                Some(left) => triggers[at].skip = left,
                None => pull(triggers.remove(at)),
            }
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

impl NodeObserver {
    /// Adds an event of the process, if it is not the last word of a dead one.
    fn record(&self, event: &Event<'_>) {
        if self.watch.lock(self.node).start == self.start {
            self.watch.world.record(Source::Node(self.node), event);
        }
    }

    /// If a rule is broken by what this node has just told, the trace says so here.
    fn note_violation(&self) {
        if let Some(failure) = self.watch.world.invariants.news() {
            self.watch.world.record(Source::Node(self.node), &Event::Violation { failure: &failure });
        }
    }
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
        self.note_violation();
        self.watch.pull(self.node, self.start, event);
    }

    fn sent(&self, message: &Message) {
        self.record(&Event::Sent { message: Said(message) });
    }

    fn received(&self, message: &Message) {
        self.record(&Event::Received { message: Said(message) });
    }

    fn writes(&self, number: ReadyNumber, hard_state: Option<HardState>, entries: &[Entry]) {
        let entries = entries.first().zip(entries.last()).map(|(first, last)| (first.index, last.index));
        self.record(&Event::Writes { number: number.0, hard_state, entries });
    }

    fn durable(&self, number: ReadyNumber) {
        self.record(&Event::Durable { number: number.0 });
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
        self.note_violation();
    }
}
