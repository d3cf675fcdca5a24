//! What a node does with a request, once it is read from a connection.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use raft::blocking::Lane;
use raft::clock::{BoxFuture, SharedClock};
use raft::core::{NodeId, RoleName};
use raft::driver::{NodeStatus, ProposeError, RaftHandle, ReadError as ReadIndexError};
use tokio::sync::{oneshot, watch};

use crate::command::{Command, CommandBody, KeyRange, Range, Response};
use crate::limits::LimitError;
use crate::state_machine::{KvReader, ReadError, StoreStats};
use crate::wire::{
    Answer, NodeReport, NotDone, Outcome, PeerReport, ReadMode, Reply, Request, RequestBody, Unknown,
};

use super::ServerOptions;
use super::backup::Backups;
use super::cluster_time::ClusterTime;
use super::limits::{Permit, Quota};

/// What all connections of a server share.
pub(super) struct Service {
    pub(super) options: ServerOptions,
    pub(super) clock: SharedClock,
    /// Absent until the node has formed its cluster and read its log.
    node: OnceLock<Attached>,
    time: ClusterTime,
    stopping: AtomicBool,
    /// Told when the store cannot be read: then the node must stop (rule 2).
    failed: watch::Sender<Option<String>>,
    /// Where ranges are read and directories are measured.
    pub(super) lane: Arc<dyn Lane>,
    pub(super) backups: Backups,
    proposals: Arc<Quota>,
    proposal_bytes: Arc<Quota>,
    reads: Arc<Quota>,
    scans: Arc<Quota>,
    /// Held while the membership is being changed from here.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// The node that a server is the front of.
pub(super) struct Attached {
    pub(super) raft: RaftHandle<Response>,
    pub(super) reader: KvReader,
    pub(super) leadership: watch::Receiver<raft::driver::Leadership>,
    pub(super) membership: watch::Receiver<raft::driver::Membership>,
}

/// A request under way. Completes with its answer.
pub(super) enum Pending {
    /// Waits for a command to be applied.
    Proposal {
        id: u64,
        service: Arc<Service>,
        answer: oneshot::Receiver<Result<Response, ProposeError>>,
        /// Held until the answer is there.
        _permits: (Permit, Permit),
    },
    /// Anything else.
    Other { id: u64, outcome: BoxFuture<'static, Outcome> },
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match &mut *self {
            Self::Proposal { id, service, answer, .. } => Pin::new(answer).poll(cx).map(|answered| {
                let outcome = match answered {
                    Ok(Ok(response)) => Outcome::Done(Reply::Command(response)),
                    Ok(Err(error)) => service.propose_failed(error),
                    // The event loop is gone, and with it what it knew.
                    Err(_) => Outcome::Unknown(Unknown::Stopped),
                };
                Answer { id: *id, outcome }
            }),
            Self::Other { id, outcome } => {
                outcome.as_mut().poll(cx).map(|outcome| Answer { id: *id, outcome })
            }
        }
    }
}

/// What became of a request at once.
pub(super) enum Started {
    Answered(Answer),
    Pending(Pending),
}

impl Service {
    pub(super) fn new(options: ServerOptions, clock: SharedClock, lane: Arc<dyn Lane>) -> Arc<Self> {
        let limits = options.limits;
        Arc::new(Self {
            time: ClusterTime::new(Arc::clone(&clock)),
            clock,
            node: OnceLock::new(),
            stopping: AtomicBool::new(false),
            failed: watch::Sender::new(None),
            lane,
            backups: Backups::default(),
            proposals: Quota::new("commands", limits.proposals_max),
            proposal_bytes: Quota::new("bytes of commands", limits.proposal_bytes_max),
            reads: Quota::new("reads", limits.reads_max),
            scans: Quota::new("reads of ranges", limits.scans_max),
            changing: tokio::sync::Mutex::new(()),
            options,
        })
    }

    /// The node is there. Before that, nothing can be done and everybody is told that there is no leader.
    pub(super) fn attach(self: &Arc<Self>, raft: RaftHandle<Response>, reader: KvReader) {
        let (leadership, membership) = (raft.leadership(), raft.membership());
        let mut changes = leadership.clone();
        // A second node behind one server would be a mistake in this crate.
        assert!(
            self.node.set(Attached { raft, reader, leadership, membership }).is_ok(),
            "the server has its node already"
        );
        let service = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                // Cluster time counts from the moment of the election, not from the first command after it.
                let Some(service) = service.upgrade() else { return };
                service.stamp();
                drop(service);
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// From now on nothing new is begun.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Tells when and why the store failed.
    pub(super) fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    fn stamp(&self) -> u64 {
        let Some(node) = self.node.get() else { return 0 };
        let leadership = *node.leadership.borrow();
        self.time.stamp(leadership, || node.reader.cluster_time_ms())
    }

    /// Begins what is asked.
    pub(super) fn start(self: &Arc<Self>, request: Request) -> Started {
        let Request { id, body } = request;
        let started = match body {
            RequestBody::Propose(body) => self.propose(id, body),
            RequestBody::Range { range, mode } => self.range(id, range, mode),
            RequestBody::Members => Ok(Started::Answered(Answer { id, outcome: self.members() })),
            RequestBody::Status => Ok(self.status(id)),
            RequestBody::Membership
            | RequestBody::LeaderStatus
            | RequestBody::ChangeMembers { .. }
            | RequestBody::AddMember { .. }
            | RequestBody::TransferLeader { .. } => self.lead(id, body),
            RequestBody::BackupBegin | RequestBody::BackupRead { .. } | RequestBody::BackupEnd { .. } => {
                self.back_up(id, body)
            }
        };
        started
            .unwrap_or_else(|not_done| Started::Answered(Answer { id, outcome: Outcome::NotDone(not_done) }))
    }

    /// The node, once it is there.
    pub(super) fn node(&self) -> Option<&Attached> {
        self.node.get()
    }

    /// The node, if it can begin something.
    pub(super) fn ready(&self) -> Result<&Attached, NotDone> {
        if self.is_stopping() {
            return Err(NotDone::ShuttingDown);
        }
        self.node.get().ok_or(NotDone::NotLeader { leader: None })
    }

    fn propose(self: &Arc<Self>, id: u64, body: CommandBody) -> Result<Started, NotDone> {
        let node = self.ready()?;
        if let CommandBody::Operate { operation, .. } = &body {
            self.options.requests.check(operation).map_err(over_limit)?;
        }
        let growth = body.growth();
        let place = self.proposals.take(1)?;
        let command = Command { cluster_time_ms: self.stamp(), body }.encode();
        let space = self.proposal_bytes.take(command.len() as u64)?;
        Ok(match node.raft.propose_start(command, growth) {
            Ok(answer) => Started::Pending(Pending::Proposal {
                id,
                service: Arc::clone(self),
                answer,
                _permits: (place, space),
            }),
            Err(error) => Started::Answered(Answer { id, outcome: self.propose_failed(error) }),
        })
    }

    fn propose_failed(&self, error: ProposeError) -> Outcome {
        let text = error.to_string();
        match error {
            ProposeError::NotLeader { hint } => Outcome::NotDone(self.not_leader(hint)),
            ProposeError::Overloaded => Outcome::NotDone(NotDone::Overloaded {
                what: "too much waits to be committed or applied".into(),
            }),
            ProposeError::NoSpace { .. } => Outcome::NotDone(NotDone::NoSpace { reason: text }),
            ProposeError::TooLarge { .. } => Outcome::NotDone(NotDone::TooLarge { reason: text }),
            ProposeError::Superseded => Outcome::NotDone(NotDone::Superseded),
            ProposeError::OutcomeUnknown => Outcome::Unknown(Unknown::Overtaken),
            ProposeError::Stopped => Outcome::Unknown(Unknown::Stopped),
        }
    }

    pub(super) fn not_leader(&self, hint: Option<NodeId>) -> NotDone {
        NotDone::NotLeader { leader: hint.and_then(|id| self.client_of(id)) }
    }

    fn range(self: &Arc<Self>, id: u64, range: Range, mode: ReadMode) -> Result<Started, NotDone> {
        let node = self.ready()?;
        self.options.requests.check_read(&range).map_err(over_limit)?;
        let serializable = mode == ReadMode::Serializable;
        let leadership = *node.leadership.borrow();
        if mode == ReadMode::Leader && leadership.role != RoleName::Leader {
            return Err(self.not_leader(leadership.leader));
        }
        let single = matches!(range.range, KeyRange::Key(_));
        if single && serializable {
            return Ok(Started::Answered(Answer { id, outcome: self.read(&node.reader, &range) }));
        }
        let permit = if single { self.reads.take(1)? } else { self.scans.take(1)? };
        let (service, raft, reader) = (Arc::clone(self), node.raft.clone(), node.reader.clone());
        let outcome = Box::pin(async move {
            let _permit = permit;
            if !serializable && let Err(error) = raft.read_index().await {
                return service.read_index_failed(error);
            }
            if single { service.read(&reader, &range) } else { service.scan(reader, range).await }
        });
        Ok(Started::Pending(Pending::Other { id, outcome }))
    }

    pub(super) fn read_index_failed(&self, error: ReadIndexError) -> Outcome {
        Outcome::NotDone(match error {
            ReadIndexError::NotLeader { hint } => self.not_leader(hint),
            ReadIndexError::LeadershipLost => NotDone::Superseded,
            ReadIndexError::Overloaded => {
                NotDone::Overloaded { what: "too many reads wait to be confirmed".into() }
            }
            ReadIndexError::Stopped => NotDone::ShuttingDown,
        })
    }

    /// Reads a range on a lane: it may be large, and the connections must not wait for it.
    async fn scan(self: Arc<Self>, reader: KvReader, range: Range) -> Outcome {
        let service = Arc::clone(&self);
        // Only a process that is going down does not do the job.
        on_lane(&self.lane, move || service.read(&reader, &range))
            .await
            .unwrap_or(Outcome::NotDone(NotDone::ShuttingDown))
    }

    fn read(&self, reader: &KvReader, range: &Range) -> Outcome {
        match reader.range(range) {
            Ok(result) => Outcome::Done(Reply::Range(result)),
            Err(ReadError::Refused(refusal)) => Outcome::Done(Reply::RangeRefused(refusal)),
            Err(ReadError::Store(error)) => {
                self.fail(&error);
                Outcome::NotDone(NotDone::ShuttingDown)
            }
        }
    }

    fn fail(&self, error: &crate::store::StoreError) {
        self.stop();
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| error.to_string());
            first
        });
    }

    fn status(self: &Arc<Self>, id: u64) -> Started {
        let service = Arc::clone(self);
        let outcome = Box::pin(async move { Outcome::Done(Reply::Status(Box::new(service.report().await))) });
        Started::Pending(Pending::Other { id, outcome })
    }

    pub(super) async fn report(&self) -> NodeReport {
        let mut report = NodeReport {
            id: self.options.id.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu_us: self.options.process.cpu_us.and_then(|measure| measure()),
            voters: self.options.clients.keys().map(|id| id.0).collect(),
            ..NodeReport::default()
        };
        let Some(node) = self.node.get() else { return report };
        if let Some(status) = node.raft.status().await {
            tell_status(&mut report, status, self.options.silent_ticks_max);
        }
        let (reader, disk_bytes) = (node.reader.clone(), self.options.process.disk_bytes.clone());
        report.revision = reader.revision();
        report.compacted = reader.compacted();
        let measured =
            on_lane(&self.lane, move || (reader.stats().ok(), disk_bytes.and_then(|measure| measure())))
                .await;
        if let Some((stats, disk_bytes)) = measured {
            let stats: Option<StoreStats> = stats;
            report.store_bytes = stats.map_or(0, |stats| stats.disk_bytes);
            report.sessions = stats.map_or(0, |stats| stats.sessions);
            report.disk_bytes = disk_bytes;
        }
        report
    }
}

fn tell_status(report: &mut NodeReport, status: NodeStatus, silent_ticks_max: u32) {
    let core = status.core;
    report.role = core.role;
    report.term = core.term.0;
    report.leader = core.leader.map(|id| id.0);
    report.commit = core.commit.0;
    report.applied = core.applied.0;
    report.last = core.last.index.0;
    report.damaged = core.damaged.map(|last| last.index.0);
    report.log_bytes = status.wal_bytes;
    report.log_segments = status.wal_segments;
    (report.snapshot, report.snapshot_bytes) =
        status.snapshot.map_or((0, 0), |(last, bytes)| (last.index.0, bytes));
    report.checkpoint = status.checkpoint.index.0;
    (report.free_bytes, report.space) = (status.free_bytes, core.space);
    report.agreed = status.agreed.0;
    report.diverged = status.diverged.map(|index| index.0);
    let ids = |ids: &BTreeSet<NodeId>| ids.iter().map(|id| id.0).collect();
    let configuration = status.configuration;
    report.voters = ids(&configuration.voters);
    report.voters_outgoing = ids(&configuration.voters_outgoing);
    report.learners = ids(&configuration.learners);
    report.joining = ids(&configuration.joining);
    report.lease = configuration.lease;
    report.transferring = status.transferring_to.map(|id| id.0);
    let peers = core.peers.iter();
    let peers = peers.map(|p| PeerReport {
        id: p.id.0,
        matched: p.matched.0,
        next: p.next.0,
        silent_ticks: p.silent_ticks,
        space: p.space,
        answers: p.silent_ticks < silent_ticks_max,
    });
    report.peers = peers.collect();
}

fn over_limit(error: LimitError) -> NotDone {
    let reason = error.to_string();
    match error {
        LimitError::KeyEmpty => NotDone::Invalid { reason },
        LimitError::KeyTooLong { .. }
        | LimitError::RequestTooLarge { .. }
        | LimitError::TooManyOperations { .. } => NotDone::TooLarge { reason },
    }
}

/// Runs `job` on `lane`. `None` if the lane is gone before it is done.
pub(super) async fn on_lane<T: Send + 'static>(
    lane: &Arc<dyn Lane>,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    lane.submit(Box::new(move || {
        // Whoever asked may have gone away.
        let _ = sender.send(job());
    }));
    receiver.await.ok()
}
