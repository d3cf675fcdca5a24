//! The replicated state machine: keys with history, transactions, sessions, cluster time.
//!
//! Apply is a pure function of the state and the entry (rule 12). It knows no clock, no randomness and no order but that of
//! the log; time comes in the commands. What it makes goes to a table in memory and is published, group by group;
//! checkpoints bring it to the engine. After a crash the state is that of the last checkpoint, and the log
//! is applied again from there: same entries, same rows, same responses, same [hash](KvReader::state_hash).
//!
//! | room | what it is |
//! |---|---|
//! | `execute`, `range` | the multi-version model: what each operation does, sees and answers |
//! | `sessions` | each command once (§6.3) |
//! | `meta` | what stands beside keys and sessions, and the hash chain |
//! | `view`, `reader` | reads beside the apply lane |
//! | `checkpoint`, `sweep`, `snapshot` | making a cut durable, removing compacted history, the state as a stream |
//!
//! Deliberately absent: leases and watches (issues of their own), and any way to read a state that is not yet published.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod checkpoint;
mod execute;
mod meta;
mod range;
mod reader;
mod sessions;
pub(crate) mod snapshot;
mod sweep;
mod view;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use raft::core::{Entry, Index, LogId, Payload, SnapshotMeta};
use raft::disk::SharedDisk;
use raft::state_machine::{Applied, CheckpointJob, HashTrail, SnapshotJob, StateMachine, StateMachineError};

pub use range::ReadError;
pub use reader::{KvReader, StoreStats};
pub use sessions::SessionLimits;

use crate::command::{Command, CommandBody, Operation, Refusal, Response, SessionId};
use crate::store::engine::Engine;
use crate::store::home::{Found, Home};
use crate::store::layers::Layers;
use crate::store::table::Table;
use crate::store::{Store, StoreError, StoreKind, rows};
use checkpoint::Checkpoint;
use execute::Outcome;
use meta::Meta;
use sessions::{Admission, Session, Sessions};
use sweep::Sweep;
use view::{Published, Shared};

/// What an applied entry counts for in [`StateMachine::unsaved_bytes`] beside its own size: its row in memory.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// What stands in the hash chain for each operation that was executed, as against answered from a session.
const EXECUTED: u64 = 0xE0;

/// How to open the state.
#[derive(Clone)]
pub struct KvOptions {
    /// The directory, on the [`Disk`](raft::disk::Disk), that names the store in use.
    pub dir: PathBuf,
    /// Where the rows are kept.
    pub store: StoreKind,
    /// The same on every node of a cluster.
    pub sessions: SessionLimits,
}

/// The replicated key-value state.
pub struct KvStateMachine {
    home: Arc<Home>,
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    sweep: Arc<Sweep>,
    limits: SessionLimits,
    meta: Meta,
    sessions: Sessions,
    unsaved_bytes: u64,
    lost: Option<String>,
    /// The hash chain as it was after each of the last entries.
    trail: Arc<HashTrail>,
}

/// The state as an engine holds it.
struct Loaded {
    meta: Meta,
    sessions: BTreeMap<SessionId, Arc<Session>>,
}

impl KvStateMachine {
    /// Opens the state that the directory holds, or an empty one in an empty directory.
    ///
    /// If the store is missing, damaged, or behind what was recorded as durable, it is *lost*: it is discarded, the
    /// state begins empty at index 0, and [`lost`](Self::lost) says why. The state must then come back from a snapshot
    /// and the log, or from a peer.
    ///
    /// # Errors
    /// The disk failed, or the files are of a newer version.
    pub fn open(disk: SharedDisk, options: KvOptions) -> Result<(Self, KvReader), StateMachineError> {
        Ok(Self::open_inner(disk, options)?)
    }

    fn open_inner(disk: SharedDisk, options: KvOptions) -> Result<(Self, KvReader), StoreError> {
        let Found { home, engine } = Home::open(disk, options.dir, options.store)?;
        let durable = home.current().durable;
        let found = match engine {
            Ok(engine) => match load(&engine, durable)? {
                Ok(loaded) => Ok((engine, loaded)),
                Err(damage) => Err(Some(format!("store.{}: {damage}", engine.number()))),
            },
            Err(lost) => Err(lost),
        };
        let (engine, loaded, lost) = match found {
            Ok((engine, loaded)) => (engine, loaded, None),
            Err(lost) => {
                if let Some(why) = &lost {
                    tracing::error!(why, "the store is lost and begins empty; it must be rebuilt");
                }
                let engine = home.create()?;
                engine.write(vec![(rows::META.to_vec(), Some(Meta::default().encode()))])?;
                engine.seal()?;
                home.switch(&engine, LogId::ZERO)?;
                home.absolve()?;
                (engine, Loaded { meta: Meta::default(), sessions: BTreeMap::new() }, lost)
            }
        };
        home.remove_leftovers(engine.number())?;
        let engine = Arc::new(engine);
        let published = Published::of(&loaded.meta, loaded.sessions.len());
        let shared = Shared::new(published, Layers::over(engine.clone()));
        let trail = Arc::new(HashTrail::default());
        trail.reset(loaded.meta.applied.index, loaded.meta.chain.0);
        let machine = Self {
            trail,
            home: Arc::new(home),
            shared: shared.clone(),
            sweep: Arc::new(Sweep::open(&*engine)?),
            engine,
            limits: options.sessions,
            meta: loaded.meta,
            sessions: Sessions::restore(options.sessions, loaded.sessions),
            unsaved_bytes: 0,
            lost,
        };
        Ok((machine, KvReader::new(shared)))
    }

    /// Why the state that was here before could not be opened, if it could not.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    fn apply_entry(&mut self, layers: &Layers, entry: &Entry) -> Result<Response, StoreError> {
        let (applied, index) = (self.meta.applied.index, entry.index);
        assert!(index == applied.next(), "entry {index} was handed in after entry {applied}");
        self.meta.chain.word(entry.term.0);
        // Nobody waits for an answer to what is not a command.
        let mut response = Response::Session;
        match &entry.payload {
            Payload::Noop => {}
            Payload::Configuration(configuration) => {
                for members in [
                    &configuration.voters,
                    &configuration.voters_outgoing,
                    &configuration.learners,
                    &configuration.learners_next,
                ] {
                    self.meta.chain.word(members.len() as u64);
                    members.iter().for_each(|member| self.meta.chain.word(member.0));
                }
                self.meta.configuration = Some(configuration.clone());
            }
            Payload::Command(bytes) => {
                response = match Command::decode(bytes) {
                    Ok(command) => self.apply_command(layers, index, command)?,
                    Err(error) => Response::Refused(Refusal::Unreadable { reason: error.to_string() }),
                };
            }
        }
        self.meta.chain.word(outcome_code(&response));
        self.meta.chain.word(self.sessions.len() as u64);
        self.meta.applied = entry.log_id();
        self.unsaved_bytes += entry.size_bytes() + ENTRY_OVERHEAD_BYTES;
        Ok(response)
    }

    fn apply_command(
        &mut self,
        layers: &Layers,
        index: Index,
        command: Command,
    ) -> Result<Response, StoreError> {
        let before = self.meta.cluster_time_ms;
        let stamp = if raft::mutant!("clock-apply") { local_clock_ms() } else { command.cluster_time_ms };
        let now = before.max(stamp);
        self.meta.cluster_time_ms = now;
        if raft::mutant!("diverge") && index.0.is_multiple_of(17) && self.home.is_odd() {
            self.meta.chain.word(17);
        }
        self.meta.chain.word(now);
        self.sessions.time_passed(before, now);
        Ok(match command.body {
            CommandBody::OpenSession { ttl_ms } => {
                Response::SessionOpened { session: self.sessions.open(index, ttl_ms, now) }
            }
            CommandBody::KeepAlive { session } => self.sessions.keep_alive(session, index, now),
            CommandBody::CloseSession { session } => self.sessions.close(session, index, now),
            CommandBody::Operate { stamp: None, operation } => self.operate(layers, operation)?,
            CommandBody::Operate { stamp: Some(stamp), operation } => {
                match self.sessions.admit(&stamp, index, now) {
                    Admission::Answer(response) => response,
                    Admission::Execute => {
                        let response = self.operate(layers, operation)?;
                        self.sessions.keep(&stamp, &response);
                        response
                    }
                }
            }
        })
    }

    fn operate(&mut self, layers: &Layers, operation: Operation) -> Result<Response, StoreError> {
        let Outcome { response, changes, compact } =
            execute::execute(layers, self.meta.revision, self.meta.compacted, operation)?;
        self.meta.chain.word(EXECUTED);
        if !changes.is_empty() {
            self.meta.revision += 1;
        }
        for (key, version) in changes {
            self.meta.chain.version(&key, &version);
            layers.active.insert(key, version);
        }
        if let Some(revision) = compact {
            self.meta.compacted = revision;
            self.meta.chain.word(revision);
        }
        Ok(response)
    }

    fn published(&self) -> Published {
        Published::of(&self.meta, self.sessions.len())
    }

    /// Fills a new store from a snapshot.
    fn fill(engine: &Engine, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<Filled, StoreError> {
        let (head, mut input) = snapshot::Input::open(state)?;
        let mut new = head.meta;
        if new.applied != meta.last {
            let what = format!("it holds the state at {} and is labelled {}", new.applied, meta.last);
            return Err(StoreError::corrupt("read a snapshot", what));
        }
        new.configuration = Some(meta.configuration.clone());
        let (mut parts, mut data, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut late = Vec::new();
        while let Some((key, version)) = input.next_row()? {
            checkpoint::encode_into(&key, &version, &mut parts, &mut data, &mut bytes);
            if raft::mutant!("install-crash") {
                late.append(&mut parts);
                late.append(&mut data);
            } else if bytes >= checkpoint::RUN_BYTES {
                checkpoint::load_run(engine, &mut parts, &mut data)?;
                bytes = 0;
            }
        }
        checkpoint::load_run(engine, &mut parts, &mut data)?;
        let mut batch = vec![(rows::META.to_vec(), Some(new.encode()))];
        for (id, session) in &head.sessions {
            checkpoint::session_rows(engine, *id, Some(session), &mut batch)?;
        }
        engine.write(batch)?;
        engine.seal()?;
        Ok(Filled { loaded: Loaded { meta: new, sessions: head.sessions }, late })
    }

    fn install_inner(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StoreError> {
        let (last, applied) = (meta.last, self.meta.applied);
        assert!(
            last.index > applied.index,
            "a snapshot at {last} was to replace the newer state at {applied}"
        );
        let engine = self.home.create()?;
        let Filled { loaded, late } = match Self::fill(&engine, meta, state) {
            Ok(filled) => filled,
            Err(error) => {
                engine.retire();
                return Err(error);
            }
        };
        // If this fails nobody knows which store is the current one after a crash: both must stay.
        self.home.switch(&engine, last)?;
        if !late.is_empty() {
            engine.load(late)?;
            engine.flush()?;
        }
        let new = Arc::new(engine);
        let old = std::mem::replace(&mut self.engine, new.clone());
        old.retire();
        self.sweep = Arc::new(Sweep::default());
        self.meta = loaded.meta;
        self.trail.reset(self.meta.applied.index, self.meta.chain.0);
        self.sessions = Sessions::restore(self.limits, loaded.sessions);
        self.unsaved_bytes = 0;
        let replaced = {
            let published = self.published();
            let mut view = self.shared.lock();
            view.published = published;
            std::mem::replace(&mut view.layers, Layers::over(new))
        };
        // Outside the lock: it may be the last to let go of the old store, which then is closed and removed.
        drop(replaced);
        Ok(())
    }
}

/// What filling a store gives.
struct Filled {
    loaded: Loaded,
    /// Rows that a planted bug holds back; otherwise empty.
    late: Vec<crate::store::RowChange>,
}

impl StateMachine for KvStateMachine {
    type Response = Response;

    fn applied(&self) -> Applied {
        Applied { last: self.meta.applied, configuration: self.meta.configuration.clone() }
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Response>, StateMachineError> {
        let layers = self.shared.lock().layers.clone();
        let mut responses = Vec::with_capacity(entries.len());
        for entry in entries {
            responses.push(self.apply_entry(&layers, entry)?);
            self.trail.record(entry.index, self.meta.chain.0);
        }
        self.shared.lock().published = self.published();
        Ok(responses)
    }

    fn unsaved_bytes(&self) -> u64 {
        self.unsaved_bytes
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        let frozen = {
            let mut view = self.shared.lock();
            assert!(
                view.layers.frozen.is_none(),
                "a checkpoint was begun before the one before it had ended"
            );
            let frozen = std::mem::replace(&mut view.layers.active, Arc::new(Table::default()));
            view.layers.frozen = Some(frozen.clone());
            frozen
        };
        self.unsaved_bytes = 0;
        let job = Checkpoint {
            home: self.home.clone(),
            shared: self.shared.clone(),
            engine: self.engine.clone(),
            frozen,
            sessions: self.sessions.take_dirty(),
            meta: self.meta.clone(),
            sweep: self.sweep.clone(),
        };
        Box::new(move || Ok(job.run()?))
    }

    fn begin_snapshot(&mut self) -> SnapshotJob {
        let Ok(pinned) = self.shared.pin(|now| Ok::<_, std::convert::Infallible>(now.compacted));
        let cut = snapshot::Cut {
            meta: self.meta.clone(),
            sessions: self.sessions.cut(),
            layers: pinned.layers.clone(),
        };
        Box::new(move |out: &mut dyn Write| {
            let written = cut.write(out);
            drop(pinned);
            Ok(written?)
        })
    }

    fn install(&mut self, meta: &SnapshotMeta, state: &mut dyn Read) -> Result<(), StateMachineError> {
        Ok(self.install_inner(meta, state)?)
    }

    fn hash_trail(&self) -> Option<Arc<HashTrail>> {
        Some(self.trail.clone())
    }

    fn condemn(&mut self, why: &str) -> Result<(), StateMachineError> {
        Ok(self.home.condemn(why)?)
    }
}

/// Reads the state of an engine, if it is one, and is not behind what was recorded. Says what is wrong with it if not.
fn load(engine: &Engine, durable: LogId) -> Result<Result<Loaded, String>, StoreError> {
    let Some(bytes) = engine.get(rows::META)? else {
        return Ok(Err("it opened empty".to_owned()));
    };
    let meta = match Meta::decode(&bytes) {
        Ok(meta) => meta,
        Err(damage) => return Ok(Err(damage)),
    };
    let behind = meta.applied.index < durable.index
        || (meta.applied.index == durable.index && meta.applied.term != durable.term);
    if behind {
        return Ok(Err(format!("it holds the state at {}, and {durable} was durable", meta.applied)));
    }
    let mut encoded: BTreeMap<SessionId, Vec<u8>> = BTreeMap::new();
    let (from, to) = rows::SESSIONS;
    let mut damage = None;
    engine.scan(from, Some(to), &mut |row, value| match rows::parse_session_key(row) {
        Some((id, _)) => {
            encoded.entry(SessionId(id)).or_default().extend_from_slice(value);
            ControlFlow::Continue(())
        }
        None => {
            damage = Some(format!("the session row {row:02x?} cannot be read"));
            ControlFlow::Break(())
        }
    })?;
    let mut sessions = BTreeMap::new();
    for (id, bytes) in encoded {
        match Session::decode(&bytes) {
            Ok(session) => _ = sessions.insert(id, Arc::new(session)),
            Err(what) => damage = Some(format!("session {}: {what}", id.0)),
        }
    }
    Ok(damage.map_or_else(|| Ok(Loaded { meta, sessions }), Err))
}

/// What kind of answer a command got, for the hash chain.
fn outcome_code(response: &Response) -> u64 {
    match response {
        Response::SessionOpened { session } => 0x100 + session.0,
        Response::Session => 1,
        Response::Done { .. } => 2,
        Response::Refused(refusal) => match refusal {
            Refusal::SessionExpired { .. } => 10,
            Refusal::ResponseForgotten { .. } => 11,
            Refusal::SessionFull { .. } => 12,
            Refusal::RevisionCompacted { .. } => 13,
            Refusal::RevisionInFuture { .. } => 14,
            Refusal::DuplicateKey { .. } => 15,
            Refusal::Unreadable { .. } => 16,
            Refusal::ResponseTooLarge { .. } => 17,
        },
    }
}

/// This machine's clock: what apply must never look at. Here for the planted bug that does.
#[expect(clippy::disallowed_methods, reason = "the ban is right, and what a planted bug breaks")]
fn local_clock_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
