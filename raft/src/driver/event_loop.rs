//! The event loop: one task that owns the core.
//!
//! A turn: wait until anything is there; take all that has gathered (completions of the lanes, peers' messages,
//! requests, a tick), give it to the core, and carry out the Readies that come of it. Batching comes from this by
//! itself: the more has gathered, the more goes into one Ready, one log write and one message.
//!
//! The loop never waits for a disk. It hands work to the lanes and hears of it as a [`Completion`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::clock::{BoxFuture, Monotonic, SharedClock};
use crate::core::{
    Entry, Index, LogId, Message, MessageBody, NodeId, ProposeError as CoreProposeError, Raft,
    ReadIndexError, Ready, ReadyNumber, RoleName, SnapshotMeta, SnapshotOutcome, TransferError,
};
use crate::snapshot::SnapshotFile;
use crate::state_machine::StateMachine;
use crate::transport::{Incoming, IncomingReceiver, Transport};
use crate::wal::WalStats;

use super::apply_lane::{ApplyLane, Waiter};
use super::divergence::Divergence;
use super::handle::{Leadership, ProposeError, ReadError, ReadWaiter, Request, StopReason};
use super::handover::HandOvers;
use super::log_lane::{LogLane, LogWork};
use super::membership::{Changes, Membership};
use super::options::{NodeOptions, Observer};
use super::snapshots::Snapshots;
use super::space::SpaceWatch;
use super::status::NodeStatus;
use super::waiters::{Proposals, Reads};

/// How much of each kind of input one turn takes at most, so that no kind starves the others.
const TURN_MAX: usize = 1024;
/// The log is verified in pieces of this size ..
const SCRUB_BYTES_MIN: u64 = 64 << 10;
/// .. or up to this, if it had no time for a while.
const SCRUB_BYTES_MAX: u64 = 256 << 10;

/// What a lane has done.
pub(super) enum Completion {
    /// All Readies up to this one are durable.
    Persisted { number: ReadyNumber, stats: WalStats },
    /// Entries up to here are applied; `answers` tells those who wait for that.
    Applied { last: LogId, unsaved_bytes: u64, answers: Box<dyn FnOnce() + Send> },
    /// The store holds everything up to here durably.
    Checkpointed { last: LogId },
    /// A snapshot file is written.
    SnapshotTaken { file: SnapshotFile },
    /// A snapshot has replaced the state.
    Installed { meta: SnapshotMeta },
    /// The disk was measured; `None`: it could not be.
    SpaceMeasured { free_bytes: Option<u64> },
    /// A disk or the store failed: the node stops.
    Failed(String),
}

/// Where the loop's inputs come from.
pub(super) struct Inputs<R> {
    pub(super) completions: mpsc::UnboundedReceiver<Completion>,
    pub(super) peers: IncomingReceiver,
    pub(super) requests: mpsc::Receiver<Request<R>>,
}

/// What a Ready still owes: its messages may go out, and the core be told, once all before it is durable.
struct Owed {
    number: ReadyNumber,
    /// Whether the log lane will answer for this one; else it is settled with the one before it.
    writes: bool,
    messages: Vec<Message>,
}

/// A snapshot on its way into the state machine and the log.
struct Install {
    number: ReadyNumber,
    file: SnapshotFile,
    /// Log work that has to wait until the state machine has the snapshot; `None` once it has.
    held: Option<Vec<LogWork>>,
}

pub(super) struct EventLoop<S: StateMachine> {
    pub(super) raft: Raft,
    pub(super) transport: Transport,
    pub(super) log: LogLane,
    pub(super) apply: ApplyLane<S>,
    pub(super) snapshots: Snapshots,
    pub(super) space: SpaceWatch,
    pub(super) clock: SharedClock,
    /// Where this node's own configuration says that others are.
    pub(super) addresses: BTreeMap<NodeId, String>,
    /// Who is reached though the configuration in force does not name him.
    pub(super) retained: BTreeSet<NodeId>,
    /// Who is told that he was removed.
    pub(super) removed: BTreeSet<NodeId>,
    pub(super) options: NodeOptions,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) membership: watch::Sender<Membership>,
    pub(super) state: State,
    pub(super) divergence: Divergence,
    pub(super) changes: Changes,
    pub(super) hand_overs: HandOvers,
    /// How many ticks are left until this node, which was removed, stops.
    pub(super) removed_ticks_left: Option<u32>,
    /// Who told this node that it was removed, before it knew.
    pub(super) told_removed_by: Option<NodeId>,
    proposals: Proposals<S::Response>,
    reads: Reads,
    owed: VecDeque<Owed>,
    /// Committed groups that wait for a checkpoint to end, with their waiters.
    held_back: Vec<Group<S::Response>>,
    /// Snapshot files received in this turn, of which the core may accept one.
    received: Vec<SnapshotFile>,
    install: Option<Install>,
}

/// Entries to be applied together, and who waits for each.
type Group<R> = (Vec<Entry>, Vec<Waiter<R>>);

/// How far disk and state machine have come.
pub(super) struct State {
    pub(super) applied: LogId,
    /// How many groups the state machine has been given and has not applied yet.
    pub(super) applying: usize,
    pub(super) checkpoint: LogId,
    pub(super) checkpointing: bool,
    /// Bytes applied since the last checkpoint was cut.
    pub(super) unsaved_bytes: u64,
    pub(super) wal: WalStats,
    /// Whether something was appended since the log last wrote down how far it is durable.
    pub(super) unattested: bool,
    /// How much of the log may be verified now.
    pub(super) scrub_bytes: u64,
}

impl State {
    /// That of a node whose store holds what is up to `applied`.
    pub(super) fn new(applied: LogId, wal: WalStats) -> Self {
        Self {
            applied,
            applying: 0,
            checkpoint: applied,
            checkpointing: false,
            unsaved_bytes: 0,
            wal,
            unattested: false,
            scrub_bytes: 0,
        }
    }
}

/// What [`EventLoop::new`] is given, beside the options.
pub(super) struct Parts<S: StateMachine> {
    pub(super) raft: Raft,
    pub(super) transport: Transport,
    pub(super) log: LogLane,
    pub(super) apply: ApplyLane<S>,
    pub(super) snapshots: Snapshots,
    pub(super) space: SpaceWatch,
    pub(super) clock: SharedClock,
    pub(super) addresses: BTreeMap<NodeId, String>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) membership: watch::Sender<Membership>,
    pub(super) state: State,
    pub(super) divergence: Divergence,
}

impl<S: StateMachine> EventLoop<S> {
    pub(super) fn new(options: NodeOptions, parts: Parts<S>) -> Self {
        let Parts { raft, transport, log, apply, snapshots, space, clock, addresses, .. } = parts;
        let Parts { leadership, membership, state, divergence, .. } = parts;
        let (id, patience) = (options.core.id, options.core.election_timeout_ticks);
        Self {
            raft,
            transport,
            log,
            apply,
            snapshots,
            space,
            clock,
            addresses,
            retained: BTreeSet::new(),
            removed: BTreeSet::new(),
            observer: options.observer.clone(),
            options,
            leadership,
            membership,
            state,
            divergence,
            changes: Changes::new(patience),
            hand_overs: HandOvers::new(id, patience),
            removed_ticks_left: None,
            told_removed_by: None,
            proposals: Proposals::new(),
            reads: Reads::new(),
            owed: VecDeque::new(),
            held_back: Vec::new(),
            received: Vec::new(),
            install: None,
        }
    }

    /// Runs until asked to stop or until a disk fails.
    pub(super) async fn run(mut self, mut inputs: Inputs<S::Response>) -> StopReason {
        let mut next_tick = self.clock.now() + self.options.tick;
        let mut timer = self.clock.sleep_until(next_tick);
        self.reconcile_peers(false);
        let reason = loop {
            if let Some(reason) = self.turn(&mut inputs, &mut timer, &mut next_tick).await {
                break reason;
            }
        };
        self.proposals.stop();
        self.reads.stop();
        self.changes.stop();
        self.hand_overs.stop();
        self.transport.shutdown().await;
        reason
    }

    /// One turn: wait, take what has gathered, carry out what comes of it.
    async fn turn(
        &mut self,
        inputs: &mut Inputs<S::Response>,
        timer: &mut BoxFuture<'static, ()>,
        next_tick: &mut Monotonic,
    ) -> Option<StopReason> {
        let mut reads = Vec::new();
        let mut stop = None;
        let mut ticked = false;
        tokio::select! {
            biased;
            () = timer.as_mut() => ticked = true,
            Some(completion) = inputs.completions.recv() => stop = self.on_completion(completion),
            Some(incoming) = inputs.peers.recv() => stop = self.on_incoming(incoming),
            Some(request) = inputs.requests.recv() => stop = self.on_request(request, &mut reads),
        }
        for _ in 1..TURN_MAX {
            let Ok(completion) = inputs.completions.try_recv() else { break };
            stop = stop.or(self.on_completion(completion));
        }
        for _ in 1..TURN_MAX {
            let Ok(incoming) = inputs.peers.try_recv() else { break };
            stop = stop.or(self.on_incoming(incoming));
        }
        for _ in 1..TURN_MAX {
            let Ok(request) = inputs.requests.try_recv() else { break };
            stop = stop.or(self.on_request(request, &mut reads));
        }
        if stop.is_some() {
            return stop;
        }
        if ticked {
            self.on_tick();
            // A node that was paused does not catch up on ticks: it first hears what its peers have to say.
            let now = self.clock.now();
            *next_tick = (*next_tick + self.options.tick).max(now);
            *timer = self.clock.sleep_until(*next_tick);
        }
        self.begin_reads(reads);
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            self.carry_out(ready);
        }
        self.received.clear();
        self.is_over()
    }

    /// Tells the core what time it is. A lease, and the promise of one, count from or against this: it must be read
    /// *after* the input that it is to be used for came (rule 13).
    fn observe_time(&mut self) {
        self.raft.observe_time(self.clock.now().0);
    }

    /// Whether there is a reason to stop that has been waited out.
    fn is_over(&self) -> Option<StopReason> {
        let follows = self.raft.leader().is_some_and(|leader| leader != self.options.core.id);
        let answered = self.proposals.is_empty() && self.state.applying == 0 && self.held_back.is_empty();
        if self.hand_overs.is_time_to_stop(follows && answered) {
            return Some(StopReason::Shutdown);
        }
        self.is_removed().then_some(StopReason::Removed)
    }

    fn on_tick(&mut self) {
        self.observe_time();
        self.raft.tick();
        self.changes.tick(self.raft.role() == RoleName::Leader);
        self.hand_overs.tick();
        self.tick_membership();
        self.space.tick();
        self.compare_states();
        if self.state.unattested && self.owed.is_empty() {
            self.state.unattested = false;
            self.log.submit(LogWork::Attest);
        }
        self.tick_scrub();
    }

    /// Has a little of the old log verified, at the rate that the options say, when nothing waits for the log.
    fn tick_scrub(&mut self) {
        let per_tick =
            u128::from(self.options.scrub_bytes_per_second) * self.options.tick.as_nanos() / 1_000_000_000;
        let per_tick = u64::try_from(per_tick).unwrap_or(u64::MAX);
        self.state.scrub_bytes = self.state.scrub_bytes.saturating_add(per_tick).min(SCRUB_BYTES_MAX);
        if self.state.scrub_bytes >= SCRUB_BYTES_MIN && self.owed.is_empty() && self.state.wal.segments > 1 {
            let bytes_max = std::mem::take(&mut self.state.scrub_bytes);
            self.log.submit(LogWork::Scrub { bytes_max });
        }
    }

    fn on_request(
        &mut self,
        request: Request<S::Response>,
        reads: &mut Vec<ReadWaiter>,
    ) -> Option<StopReason> {
        match request {
            Request::Propose { command, growth, waiter } => {
                let refused = match self.raft.propose_as(command, growth) {
                    Ok(id) => {
                        self.proposals.insert(id, waiter);
                        return None;
                    }
                    Err(CoreProposeError::NotLeader { hint }) => ProposeError::NotLeader { hint },
                    Err(CoreProposeError::Overloaded) => ProposeError::Overloaded,
                    Err(CoreProposeError::NoSpace) => {
                        ProposeError::NoSpace { growth, full: self.raft.without_room(growth) }
                    }
                    Err(CoreProposeError::Transferring { to }) => ProposeError::NotLeader { hint: Some(to) },
                };
                // The asker may have gone away.
                let _ = waiter.send(Err(refused));
            }
            Request::Read { waiter } => reads.push(waiter),
            Request::Status { waiter } => {
                let _ = waiter.send(self.status());
            }
            Request::Change { changes, waiter } => match self.raft.propose_change(&changes) {
                Ok(begun) => self.changes.insert(begun, waiter),
                Err(error) => {
                    let _ = waiter.send(Err(error.into()));
                }
            },
            Request::Transfer { to, waiter } => match self.raft.transfer_leader(to) {
                Ok(to) => self.hand_overs.wait(to, waiter),
                Err(error) => {
                    let _ = waiter.send(Err(error.into()));
                }
            },
            Request::Snapshot { at_least, waiter } => {
                if self.snapshots.wanted(at_least, waiter, &self.space) {
                    self.apply.snapshot();
                }
            }
            Request::Shutdown => return self.on_shutdown(),
        }
        None
    }

    /// A leader hands over before it stops.
    fn on_shutdown(&mut self) -> Option<StopReason> {
        if self.hand_overs.is_stopping() {
            return None;
        }
        match self.raft.transfer_leader(None) {
            Ok(_) | Err(TransferError::InProgress { .. }) => {
                self.hand_overs.stop_when_over();
                None
            }
            // It does not lead, or there is nobody to hand over to.
            Err(_) => Some(StopReason::Shutdown),
        }
    }

    /// Begins one confirmation round for all reads of this turn.
    fn begin_reads(&mut self, waiters: Vec<ReadWaiter>) {
        if waiters.is_empty() {
            return;
        }
        self.observe_time();
        let context = self.reads.begin(waiters);
        match self.raft.read_index(context) {
            Ok(()) => {}
            Err(ReadIndexError::NotLeader { hint }) => {
                self.reads.fail(context, &ReadError::NotLeader { hint })
            }
            Err(ReadIndexError::Overloaded) => self.reads.fail(context, &ReadError::Overloaded),
        }
    }

    fn on_incoming(&mut self, incoming: Incoming) -> Option<StopReason> {
        match incoming {
            Incoming::Message(message) if message.body.is_about_states() => self.on_states(message),
            Incoming::Message(Message { from, body: MessageBody::SnapshotWanted { at_least }, .. }) => {
                self.help(from, at_least);
            }
            Incoming::Message(message) => self.step(message),
            // One at a time. The leader finds that this node is still behind, and sends another.
            Incoming::Snapshot { .. } if self.install.is_some() => {}
            Incoming::Snapshot { from, term, file } => {
                let body = MessageBody::InstallSnapshot { meta: file.meta.clone() };
                self.received.push(file);
                self.step(Message { from, to: self.options.core.id, term, body });
            }
            Incoming::DiskFailed(why) => return Some(StopReason::Failed(why)),
            Incoming::Unreachable(peer) => self.raft.report_unreachable(peer),
            Incoming::SnapshotSent { to, outcome, last } => {
                self.raft.report_snapshot(to, outcome, last.index);
                self.snapshots.transfer_ended(to);
                if outcome == SnapshotOutcome::Delivered || !self.raft.configuration().contains(to) {
                    self.snapshots.sent(to);
                }
            }
            Incoming::Connected(peer) => {
                tracing::info!(%peer, "connected");
                self.observe_time();
                self.raft.report_connected(peer);
            }
            Incoming::Disconnected(peer) => {
                tracing::info!(%peer, "disconnected");
                self.observe_time();
                self.raft.report_disconnected(peer);
            }
            Incoming::Removed { by } => self.on_told_removed(by),
        }
        None
    }

    fn step(&mut self, message: Message) {
        let (from, kind) = (message.from, message.body.name());
        if let Some(observer) = &self.observer {
            observer.received(&message);
        }
        self.observe_time();
        if let Err(error) = self.raft.step(message) {
            tracing::debug!(%from, kind, %error, "refused a message");
        }
    }

    fn on_completion(&mut self, completion: Completion) -> Option<StopReason> {
        match completion {
            Completion::Persisted { number, stats } => {
                self.state.wal = stats;
                self.state.unattested = true;
                self.settle(Some(number));
            }
            Completion::Applied { last, unsaved_bytes, answers } => {
                answers();
                self.state.applying -= 1;
                self.state.unsaved_bytes = unsaved_bytes;
                self.on_applied(last);
                self.checkpoint_if_due();
            }
            Completion::Checkpointed { last } => {
                self.state.checkpointing = false;
                self.state.checkpoint = self.state.checkpoint.max(last);
                self.checkpoint_if_due();
                self.compact_log();
                for (entries, waiters) in std::mem::take(&mut self.held_back) {
                    self.apply(entries, waiters);
                }
            }
            Completion::SnapshotTaken { file } => {
                for peer in self.snapshots.taken(&file) {
                    self.send_snapshot_file(peer, file.clone());
                }
                if self.snapshots.hand_out(&file, &self.space) {
                    self.apply.snapshot();
                }
                self.compact_log();
            }
            Completion::Installed { meta } => self.on_installed(&meta),
            Completion::SpaceMeasured { free_bytes } => self.on_space_measured(free_bytes),
            Completion::Failed(why) => return Some(StopReason::Failed(why)),
        }
        None
    }

    fn checkpoint_if_due(&mut self) {
        if self.state.unsaved_bytes >= self.options.checkpoint_bytes {
            self.begin_checkpoint();
        }
    }

    /// Begins a checkpoint, unless one is under way.
    pub(super) fn begin_checkpoint(&mut self) {
        if !self.state.checkpointing {
            self.state.checkpointing = true;
            self.state.unsaved_bytes = 0;
            self.apply.checkpoint();
        }
    }

    /// Applies a group, unless so much is applied and not yet in the store that the checkpoint under way must end
    /// first. What is held back counts against the log in memory, so proposals are refused in the end.
    fn apply(&mut self, entries: Vec<Entry>, waiters: Vec<Waiter<S::Response>>) {
        let full = self.state.checkpointing && self.state.unsaved_bytes >= self.options.checkpoint_bytes;
        if full || !self.held_back.is_empty() {
            // Behind what is held back already, or it would overtake it.
            self.held_back.push((entries, waiters));
            return;
        }
        self.snapshots.applying(&entries);
        self.state.applying += 1;
        self.apply.apply(entries, waiters);
    }

    fn on_applied(&mut self, last: LogId) {
        self.state.applied = last;
        self.raft.applied(last.index);
        self.reads.applied(last.index);
        if let Some(observer) = &self.observer {
            observer.applied(last);
        }
        if self.snapshots.is_due(last.index, &self.space) {
            self.apply.snapshot();
        }
        self.raft.compact_retaining(self.options.retain_log_bytes);
    }

    /// The log is needed for recovery only behind what is durable elsewhere: in the store *and* in a snapshot, so
    /// that a store which is lost can be rebuilt from the snapshot and the log.
    fn compact_log(&mut self) {
        if let Some((last, _)) = self.snapshots.newest() {
            self.log.submit(LogWork::Compact { through: last.index.min(self.state.checkpoint.index) });
        }
    }

    /// Carries out one Ready, as its contract says.
    fn carry_out(&mut self, ready: Ready) {
        for event in &ready.events {
            self.on_event(event);
        }
        for message in ready.messages {
            self.send(message);
        }
        let writes = ready.hard_state.is_some() || ready.snapshot.is_some() || !ready.entries.is_empty();
        self.owed.push_back(Owed { number: ready.number, writes, messages: ready.messages_after_persist });
        if let Some(meta) = ready.snapshot {
            self.begin_install(ready.number, meta);
        }
        if writes {
            let (number, hard_state, entries) = (ready.number, ready.hard_state, ready.entries);
            if let Some(observer) = &self.observer {
                observer.writes(number, hard_state, &entries);
            }
            let work = match &self.install {
                Some(install) if install.number == number => {
                    LogWork::Reset { number, prev: install.file.meta.last, hard_state, entries }
                }
                _ => LogWork::Append { number, hard_state, entries },
            };
            match self.install.as_mut().and_then(|install| install.held.as_mut()) {
                Some(held) => held.push(work),
                None => self.log.submit(work),
            }
        } else {
            self.settle(None);
        }
        if !ready.committed.is_empty() {
            for entry in &ready.committed {
                self.changes.committed(entry);
            }
            let waiters = ready.committed.iter().map(|entry| self.proposals.take(entry)).collect();
            self.apply(ready.committed, waiters);
        }
        for read in ready.reads {
            match read.index {
                Some(index) => self.reads.confirmed(read.context, index, self.state.applied.index),
                None => self.reads.fail(read.context, &ReadError::LeadershipLost),
            }
        }
        for peer in ready.send_snapshots {
            self.send_snapshot(peer);
        }
    }

    /// Sends the messages and tells the core of every Ready that is durable, given that the log has answered for
    /// all up to `durable`.
    fn settle(&mut self, durable: Option<ReadyNumber>) {
        let mut settled = None;
        while let Some(first) = self.owed.front() {
            if first.writes && durable.is_none_or(|durable| first.number > durable) {
                break;
            }
            let Some(owed) = self.owed.pop_front() else { break };
            if owed.writes
                && let Some(observer) = &self.observer
            {
                observer.durable(owed.number);
            }
            for message in owed.messages {
                self.send(message);
            }
            settled = Some(owed.number);
        }
        let Some(settled) = settled else { return };
        self.raft.persisted(settled);
        if self.install.as_ref().is_some_and(|install| install.number <= settled)
            && let Some(install) = self.install.take()
        {
            assert!(install.held.is_none(), "the log answered for work it was not given");
            self.on_applied(install.file.meta.last);
        }
    }

    /// Hands the received snapshot to the state machine; the log follows when that is done.
    ///
    /// The order makes a crash harmless: the state machine's store switches at once and is the authority; a log
    /// that is behind it or differs from it is begun anew at the next start.
    fn begin_install(&mut self, number: ReadyNumber, meta: SnapshotMeta) {
        assert!(self.install.is_none(), "one snapshot at a time");
        let file = self.received.iter().find(|file| file.meta == meta).cloned();
        let Some(file) = file else {
            panic!("the core accepted snapshot {} that was not received", meta.last)
        };
        tracing::info!(last = %meta.last, bytes = file.bytes, "installing a snapshot");
        // The snapshot holds what these would have done; what became of each is not known here.
        for (_, waiters) in std::mem::take(&mut self.held_back) {
            for waiter in waiters.into_iter().flatten() {
                let _ = waiter.send(Err(ProposeError::OutcomeUnknown));
            }
        }
        self.install = Some(Install { number, file: file.clone(), held: Some(Vec::new()) });
        self.apply.install(file);
    }

    fn on_installed(&mut self, meta: &SnapshotMeta) {
        let Some(install) = &mut self.install else { panic!("snapshot {} installed unasked", meta.last) };
        assert_eq!(install.file.meta, *meta, "the snapshot that was to be installed");
        let held = install.held.take().unwrap_or_default();
        self.state.checkpoint = self.state.checkpoint.max(meta.last);
        self.proposals.forget_through(meta.last);
        self.changes.forget_through(meta.last.index);
        for work in held {
            self.log.submit(work);
        }
    }

    /// The core hears of it. When it becomes less, what may be dropped of the log is made droppable; a snapshot for a
    /// follower that waits for one is tried again.
    fn on_space_measured(&mut self, free_bytes: Option<u64>) {
        let Some(space) = self.space.measured(free_bytes) else { return };
        let before = self.raft.space();
        let id = self.options.core.id;
        match space.cmp(&before) {
            Ordering::Greater => tracing::warn!(%id, ?space, free_bytes, "the disk is short of room"),
            Ordering::Less => tracing::info!(%id, ?space, free_bytes, "the disk has room again"),
            Ordering::Equal => {}
        }
        self.raft.report_space(space);
        if space > before {
            self.begin_checkpoint();
        }
        if (space > before || self.snapshots.is_awaited()) && self.snapshots.begin(&self.space) {
            self.apply.snapshot();
        }
    }

    /// A member lost its state. Whatever is applied here is committed, whoever leads: it may have that, if it reaches
    /// as far as it needs.
    fn help(&mut self, peer: NodeId, at_least: Index) {
        if self.state.applied.index >= at_least && self.snapshots.help(peer) {
            tracing::info!(%peer, %at_least, "a member lost its state and is sent a snapshot");
            self.send_snapshot_from(peer, at_least);
        }
    }

    fn send_snapshot(&mut self, peer: NodeId) {
        self.send_snapshot_from(peer, self.raft.first_index().prev());
    }

    /// Sends a snapshot that reaches at least so far, as soon as there is one.
    fn send_snapshot_from(&mut self, peer: NodeId, at_least: Index) {
        match self.snapshots.for_peer(peer, at_least) {
            Some(file) => self.send_snapshot_file(peer, file),
            None => {
                if self.snapshots.begin(&self.space) {
                    self.apply.snapshot();
                }
            }
        }
    }

    fn send(&self, message: Message) {
        if let Some(observer) = &self.observer {
            observer.sent(&message);
        }
        self.transport.send(message);
    }

    fn send_snapshot_file(&self, to: NodeId, file: SnapshotFile) {
        let (from, term) = (self.options.core.id, self.raft.hard_state().term);
        if let Some(observer) = &self.observer {
            let body = MessageBody::InstallSnapshot { meta: file.meta.clone() };
            observer.sent(&Message { from, to, term, body });
        }
        self.transport.send_snapshot(to, term, file);
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            core: self.raft.status(),
            configuration: self.raft.configuration().clone(),
            transferring_to: self.hand_overs.target(),
            wal_bytes: self.state.wal.bytes,
            wal_segments: self.state.wal.segments as u64,
            snapshot: self.snapshots.newest(),
            checkpoint: self.state.checkpoint,
            free_bytes: self.space.free_bytes(),
            proposals_waiting: self.proposals.len() as u64,
            agreed: self.divergence.agreed(self.options.core.id, self.raft.configuration()),
            diverged: self.divergence.found(),
        }
    }
}
