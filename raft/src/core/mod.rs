//! Raft itself, without I/O: state in, effects out.
//!
//! The core knows no clock, disk, socket, thread or runtime. It is told that a tick went by, that a message came,
//! that a write has reached the disk; it answers with a [`Ready`]: what to write, what to send, what to apply. So
//! the whole of it runs in a unit test, in a message soup of many thousand schedules a minute, and inside a server,
//! and is the same each time. It is `Clone + Eq + Hash`, so a model checker can walk it.
//!
//! # Shape
//!
//! [`Raft`] is what all roles share and one role with data of its own. The rules stand in these files, each with
//! the section of Ongaro's dissertation ("Consensus: Bridging Theory and Practice", 2014) that it comes from:
//!
//! | file | rules |
//! |---|---|
//! | `step` | what a message must be; the term rule (§3.3), in this one place |
//! | `election` | timeouts and votes (§3.4, §3.6.1), pre-vote (§9.6), stickiness (§4.2.3), check-quorum (§6.2) |
//! | `replication` | a leader's pipeline (§3.5, §10.2.1) and the commit rule (§3.6.2) |
//! | `append` | a follower's side of replication (§3.5) |
//! | `failover` | elections that need not wait out the timeout: a broken connection, a quorum that nobody leads |
//! | `membership`, `confchange` | joint consensus (§4.3), members on their way in and out (§4.2.1, §4.2.2) |
//! | `transfer` | handing the leadership over (§3.10): on request, when removed, when the disk stalls |
//! | `read_index` | linearizable reads without the log, on any member (§6.4) |
//! | `lease` | reads without asking, within a bound on the drift of clocks (§6.4.1) |
//! | `install` | snapshots for followers behind the compaction point (§5.3) |
//! | `damage` | a node whose disk lost what it had acknowledged votes as if it had not (§3.6.1) |
//! | `durability` | [`Ready`] out, [`Raft::persisted`] back: nothing counts before it is on disk (§3.8, §10.2.1) |
//! | `log`, `configuration`, `progress`, `quorum` | small data structures, each tested against a dumb twin |
//! | [`invariants`] | what must always hold, checked after every input in builds with debug assertions |
//!
//! # Use
//!
//! Feed inputs, then take a [`Ready`] while [`Raft::has_ready`]; the contract is in [`Ready`]'s documentation. Many
//! inputs may go before one Ready: proposals are then packed into one AppendEntries a follower, and reads share one
//! round.
//!
//! The whole loop, for three members whose disks and state machines are vectors:
//!
//! ```
//! use bytes::Bytes;
//! use raft::core::{Boot, Config, Configuration, Entry, HardState, LogId, Message, NodeId, Payload, Raft};
//!
//! struct Member {
//!     raft: Raft,
//!     disk: (HardState, Vec<Entry>),
//!     state: Vec<Bytes>,
//! }
//!
//! impl Member {
//!     fn new(id: NodeId, configuration: &Configuration) -> Self {
//!         let boot = Boot {
//!             hard_state: HardState::default(),
//!             prev: LogId::ZERO,
//!             entries: Vec::new(),
//!             applied: LogId::ZERO,
//!             configuration: configuration.clone(),
//!             damage: None,
//!         };
//!         let raft = Raft::new(Config::new(id), boot).expect("the defaults are in range");
//!         Self { raft, disk: Default::default(), state: Vec::new() }
//!     }
//!
//!     /// Carries out what the core asks for; `network` takes the messages.
//!     fn carry_out(&mut self, network: &mut Vec<Message>) {
//!         while self.raft.has_ready() {
//!             let ready = self.raft.ready();
//!             // 1. What promises nothing about this disk goes out at once.
//!             network.extend(ready.messages);
//!             // 2. What must be durable is written, and only then acknowledged. A real disk is synced here.
//!             if let Some(hard_state) = ready.hard_state {
//!                 self.disk.0 = hard_state;
//!             }
//!             if let Some(first) = ready.entries.first() {
//!                 self.disk.1.retain(|entry| entry.index < first.index);
//!                 self.disk.1.extend(ready.entries);
//!             }
//!             network.extend(ready.messages_after_persist);
//!             self.raft.persisted(ready.number);
//!             // 3. What is committed is applied.
//!             for entry in ready.committed {
//!                 if let Payload::Command(command) = entry.payload {
//!                     self.state.push(command);
//!                 }
//!                 self.raft.applied(entry.index);
//!             }
//!         }
//!     }
//! }
//!
//! let configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
//! let mut members = [1, 2, 3].map(|id| Member::new(NodeId(id), &configuration));
//! let mut network = Vec::new();
//! let mut proposed = false;
//! // A real one ticks by a clock, and waits for messages meanwhile.
//! while members.iter().any(|member| member.state.is_empty()) {
//!     for member in &mut members {
//!         member.raft.tick();
//!         // Only a leader takes it.
//!         proposed = proposed || member.raft.propose(Bytes::from_static(b"hello")).is_ok();
//!         member.carry_out(&mut network);
//!     }
//!     for message in std::mem::take(&mut network) {
//!         let to = message.to.0 as usize - 1;
//!         members[to].raft.step(message).expect("a message of a correct peer");
//!     }
//! }
//! assert!(members.iter().all(|member| member.state == [Bytes::from_static(b"hello")]));
//! ```
//!
//! # Deliberately absent
//!
//! No synchronous mode: a leader writes its log while it replicates, and counts itself when the write is done. No
//! timers per message: a lost message is found by the answers to the next heartbeat. No broadcast for a commit
//! index alone: it travels with the next append or heartbeat, or at the next tick. Commit is not persisted: it is
//! learnt again from the leader, and the state machine knows what it has applied.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod append;
mod change;
mod confchange;
mod config;
mod configuration;
mod damage;
mod durability;
mod election;
mod error;
mod failover;
mod install;
pub mod invariants;
mod lease;
mod log;
mod membership;
mod message;
mod model;
mod progress;
mod quorum;
mod read_index;
mod ready;
mod replication;
mod rng;
mod role;
mod shared;
mod status;
mod step;
mod transfer;
mod types;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

pub use change::{Change, ChangeError, TransferError};
pub use config::{Boot, Config, ConfigError};
pub use damage::Damage;
pub use error::{ProposeError, ReadIndexError, StepError};
pub use message::*;
pub use progress::ProgressState;
pub use ready::*;
pub use status::{PeerStatus, Status};
pub use types::*;

use configuration::Configurations;
use lease::Clock;
use log::Log;
use rng::Rng;
use role::{Follower, Role};
use shared::{Outbox, Shared};

/// One member's Raft. See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raft {
    shared: Shared,
    role: Role,
}

impl Raft {
    /// A core that goes on from what is durable on this node, as a follower.
    ///
    /// # Errors
    /// A setting is out of its range, or hard state, log and applied position do not fit together.
    pub fn new(config: Config, boot: Boot) -> Result<Self, ConfigError> {
        config.check()?;
        boot.check()?;
        let log = Log::new(boot.prev, boot.entries);
        let applied = boot.applied.index;
        let mut configurations = Configurations::new(applied, boot.configuration);
        for entry in log.entries().filter(|entry| entry.index > applied) {
            configurations.appended(entry);
        }
        let forgotten_ms = boot.damage.map_or(0, |damage| damage.lease_ms);
        let lease_ms_max = configurations.lease_ms_max(log.last().index).max(forgotten_ms);
        let mut rng = Rng::new(config.seed, config.id);
        let next_question = rng.next();
        let mut shared = Shared {
            rng,
            config,
            hard_state: boot.hard_state,
            hard_state_offered: boot.hard_state,
            hard_state_durable: boot.hard_state,
            log,
            damage: None,
            configurations,
            commit: applied,
            given: applied,
            applied,
            clock: Clock::new(lease_ms_max),
            connected: BTreeSet::new(),
            next_question,
            ready_number: ReadyNumber(0),
            writes: VecDeque::new(),
            outbox: Outbox::default(),
        };
        let timer = shared.draw_timer();
        let mut raft = Self { shared, role: Role::Follower(Follower::new(None, timer)) };
        raft.begin_damaged(boot.damage);
        invariants::check(&raft);
        Ok(raft)
    }

    /// One tick of the clock went by.
    pub fn tick(&mut self) {
        self.input(Self::on_tick);
    }

    /// A message came.
    ///
    /// # Errors
    /// No correct peer sends such a message; the core is as it was.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.input(|raft| raft.on_message(message))
    }

    /// Appends a command to the log, if this node leads. It is committed once an entry of this very id comes out
    /// in [`Ready::committed`]; if another entry comes at its index, it never will be.
    ///
    /// # Errors
    /// Not the leader, or no room: nothing was appended.
    pub fn propose(&mut self, command: Bytes) -> Result<LogId, ProposeError> {
        self.input(|raft| raft.on_propose(command))
    }

    /// Begins a change of membership, if this node leads: several members at once, through a joint configuration if
    /// the voters change (§4.3). The joint configuration is left by itself. Done once a configuration that is not
    /// joint is committed at or behind the returned entry; if another entry comes at its index, it was not begun.
    ///
    /// # Errors
    /// See [`ChangeError`]: nothing was appended.
    pub fn propose_change(&mut self, changes: &[Change]) -> Result<LogId, ChangeError> {
        self.input(|raft| raft.on_propose_change(changes))
    }

    /// Begins to hand the leadership over (§3.10), to `to` or to the voter that has most of the log; returns to
    /// whom. Proposals are refused until it has ended: in another leader, or after an election timeout in
    /// [`Event::TransferFailed`].
    ///
    /// # Errors
    /// See [`TransferError`]: nothing was begun.
    pub fn transfer_leader(&mut self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        self.input(|raft| raft.on_transfer_leader(to))
    }

    /// The reading of this node's monotonic clock, in nanoseconds; it must count the time a machine is suspended.
    /// Only leases use it (§6.4.1).
    ///
    /// The clock must be read *after* an input has arrived and before it is handed in: a read that came while the
    /// process was suspended must not be answered by the time from before. A reading that goes back is ignored. A node
    /// that was never told the time promises no lease, relies on none, and waits out for ever one that it may have
    /// promised before it was started.
    pub fn observe_time(&mut self, now_ns: u64) {
        // Every turn of an event loop does this: it can break no invariant, so none is checked.
        self.on_observe_time(now_ns);
    }

    /// Messages to `peer` can be delivered from now on. While nobody leads, a voter that is connected with a quorum
    /// need not wait out the election timeout.
    pub fn report_connected(&mut self, peer: NodeId) {
        self.input(|raft| raft.on_connected(peer));
    }

    /// The connection to `peer` broke. If it leads, and there are no leases, a voter need not wait out the election
    /// timeout, nor hold others to it (rule 13).
    pub fn report_disconnected(&mut self, peer: NodeId) {
        self.input(|raft| raft.on_disconnected(peer));
    }

    /// Begins a linearizable read (§6.4), by asking the leader if this node does not lead. It is decided by a
    /// [`ReadState`] of the same context.
    ///
    /// # Errors
    /// No leader is known, or too many reads are waiting: no [`ReadState`] will come.
    pub fn read_index(&mut self, context: u64) -> Result<(), ReadIndexError> {
        self.input(|raft| raft.on_read_index(context))
    }

    /// All Readies up to `number` are durable.
    pub fn persisted(&mut self, number: ReadyNumber) {
        self.input(|raft| raft.on_persisted(number));
    }

    /// The state machine holds everything up to `index`.
    pub fn applied(&mut self, index: Index) {
        self.input(|raft| {
            let given = raft.shared.given;
            assert!(index <= given, "applied {index}, but only {given} was given out");
            raft.shared.applied = raft.shared.applied.max(index);
        });
    }

    /// Forgets the entries in memory up to `through`, which must be applied. Followers that need them get a
    /// snapshot from now on, so there should be one that reaches at least this far.
    pub fn compact(&mut self, through: Index) {
        self.input(|raft| {
            let applied = raft.shared.applied;
            assert!(through <= applied, "compacting through {through}, applied is {applied}");
            raft.shared.log.compact(through);
            raft.shared.configurations.compacted(through);
        });
    }

    /// Forgets applied entries, oldest first, until the log takes at most `bytes_max` in memory or nothing more is
    /// applied.
    pub fn compact_retaining(&mut self, bytes_max: u64) {
        let through = self.shared.log.compaction_for(bytes_max).min(self.shared.applied);
        if through > self.shared.log.prev().index {
            self.compact(through);
        }
    }

    /// Messages to `peer` may have been lost.
    pub fn report_unreachable(&mut self, peer: NodeId) {
        self.input(|raft| raft.on_unreachable(peer));
    }

    /// The transfer of a snapshot that [`Ready::send_snapshots`] asked for has ended. `last` is the last entry of
    /// the snapshot that was sent.
    pub fn report_snapshot(&mut self, peer: NodeId, outcome: SnapshotOutcome, last: Index) {
        self.input(|raft| raft.on_snapshot_report(peer, outcome, last));
    }

    /// Begins an election as if the timeout had passed. Does nothing on a leader, or on a node that does not vote.
    pub fn campaign(&mut self) {
        self.input(Self::on_campaign);
    }

    /// Sets the present role's election timeout, which is otherwise random: for tests and models. The next role
    /// draws its own again, and one that was cut short stays as it is.
    pub fn set_election_timeout(&mut self, ticks: u32) {
        match &mut self.role {
            Role::Follower(follower) if follower.is_hurried => {}
            Role::Follower(follower) => follower.timer.timeout = ticks,
            Role::PreCandidate(campaign) | Role::Candidate(campaign) => campaign.timer.timeout = ticks,
            Role::Leader(_) => {}
        }
    }

    /// Whether [`Raft::ready`] would ask for anything.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.wants_ready()
    }

    /// What is to be done now; see [`Ready`] for the contract.
    pub fn ready(&mut self) -> Ready {
        self.input(Self::take_ready)
    }

    /// Whom this node believes to lead its term.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.shared.id()),
        }
    }

    /// The role's name.
    #[must_use]
    pub fn role(&self) -> RoleName {
        self.role.name()
    }

    /// The current term and vote, durable or not.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.shared.hard_state
    }

    /// The commit index.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.shared.commit
    }

    /// The first index in memory; one above the last if there is none.
    #[must_use]
    pub fn first_index(&self) -> Index {
        self.shared.log.first_index()
    }

    /// The last entry of the log.
    #[must_use]
    pub fn last_log_id(&self) -> LogId {
        self.shared.log.last()
    }

    /// The bytes of log in memory.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.shared.log.bytes()
    }

    /// The term of the entry at `index`, from the compaction point to the end of the log.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.shared.log.term_at(index)
    }

    /// The configuration in force: the latest in the log, committed or not (§4.1).
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.shared.configurations.current()
    }

    /// The index that brought the configuration in force. It is committed once the commit index has reached it.
    #[must_use]
    pub fn configuration_index(&self) -> Index {
        self.shared.configurations.newest().0
    }

    /// Former members to whom this leader still sends, so that they learn that they are none: stay in touch with them.
    #[must_use]
    pub fn leaving(&self) -> BTreeSet<NodeId> {
        match &self.role {
            Role::Leader(leader) => leader.leaving.keys().copied().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// The configuration in force at `index`: what a snapshot taken there must carry. `None` below the compaction
    /// point, or below the applied position at boot.
    #[must_use]
    pub fn configuration_at(&self, index: Index) -> Option<&Configuration> {
        self.shared.configurations.at(index)
    }

    /// Every input passes here, so that the invariants are checked after each.
    fn input<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        if !cfg!(debug_assertions) {
            return change(self);
        }
        let before = invariants::Before::of(self);
        let answer = change(self);
        invariants::check(self);
        before.compare(self);
        answer
    }
}
