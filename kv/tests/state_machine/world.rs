//! One node's state machine with its disk and its log, and ways to hurt it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kv::command::{
    Command, CommandBody, KeyRange, Operation, OperationResult, Put, Range, RangeResult, Response, Revision,
    SessionId, SessionStamp,
};
use kv::state_machine::{KvOptions, KvReader, KvStateMachine, ReadError, SessionLimits};
use kv::store::{MemoryPlatter, SledOptions, StoreKind};
use raft::core::{Configuration, Entry, Index, LogId, NodeId, Payload, SnapshotMeta, Term};
use raft::disk::{DirLock, Disk, File, OpenMode, RealDisk, SharedDisk};
use raft::state_machine::{StateMachine, StateMachineError};

/// The power of one node: it goes off after so many disk calls that change something. From then on these fail, and so
/// does every flush of a memory engine.
#[derive(Clone)]
pub(crate) struct Power {
    left: Arc<AtomicI64>,
    store: StoreKind,
    /// Directories with names that a loss of power could take back.
    unsynced: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Power {
    fn on(store: StoreKind) -> Self {
        Self { left: Arc::new(AtomicI64::new(i64::MAX)), store, unsynced: Arc::default() }
    }

    fn cut_after(&self, calls: i64) {
        self.left.store(calls, Ordering::Relaxed);
        if calls == 0 {
            self.cut();
        }
    }

    fn cut(&self) {
        if let StoreKind::Memory(platter) = &self.store {
            platter.cut_power();
        }
    }

    fn call<T>(&self, call: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        if left <= 0 {
            return Err(std::io::Error::other("power off"));
        }
        let done = call();
        if left == 1 {
            self.cut();
        }
        done
    }
}

/// A real disk whose power may go off.
pub(crate) struct FailingDisk(Power);

struct FailingFile {
    file: Box<dyn File>,
    power: Power,
}

impl File for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        self.power.call(|| self.file.write_at(data, offset))
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.power.call(|| self.file.sync_data())
    }
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.power.call(|| self.file.set_len(len))
    }
    fn preallocate(&self, len: u64) -> std::io::Result<()> {
        self.power.call(|| self.file.preallocate(len))
    }
}

impl Disk for FailingDisk {
    fn create_dir_all(&self, path: &Path) -> std::io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> std::io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn exists(&self, path: &Path) -> std::io::Result<bool> {
        RealDisk.exists(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn File>> {
        let open = || RealDisk.open(path, mode);
        let file = if mode == OpenMode::CreateNew { self.0.call(open) } else { open() }?;
        Ok(Box::new(FailingFile { file, power: self.0.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.0.unsynced.lock().unwrap().insert(to.parent().unwrap().to_owned());
        self.0.call(|| RealDisk.rename(from, to))
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        self.0.call(|| RealDisk.remove_file(path))
    }
    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        self.0.unsynced.lock().unwrap().remove(path);
        self.0.call(|| RealDisk.sync_dir(path))
    }
    fn lock_dir(&self, path: &Path) -> std::io::Result<DirLock> {
        RealDisk.lock_dir(path)
    }
    fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
        RealDisk.free_bytes(path)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Sled,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Memory, Kind::Sled];

/// Small, so that tests reach them.
pub(crate) const LIMITS: SessionLimits =
    SessionLimits { sessions_max: 3, responses_max: 4, response_bytes_max: 300 };

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: StoreKind,
    power: Power,
    limits: SessionLimits,
    machine: Option<KvStateMachine>,
    pub(crate) reader: KvReader,
    pub(crate) log: Vec<Entry>,
    pub(crate) responses: Vec<Response>,
    pub(crate) now_ms: u64,
}

/// A directory in memory where there is one: nothing here depends on what a disk does in a power cut.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn open(
    dir: &Path,
    power: &Power,
    sessions: SessionLimits,
) -> Result<(KvStateMachine, KvReader), StateMachineError> {
    let disk: SharedDisk = Arc::new(FailingDisk(power.clone()));
    let options = KvOptions { dir: dir.join("node/store"), store: power.store.clone(), sessions };
    KvStateMachine::open(disk, options)
}

impl World {
    pub(crate) fn new(kind: Kind) -> Self {
        Self::with_limits(kind, LIMITS)
    }

    pub(crate) fn with_limits(kind: Kind, limits: SessionLimits) -> Self {
        let dir = scratch();
        let store = match kind {
            Kind::Memory => StoreKind::Memory(MemoryPlatter::default()),
            Kind::Sled => {
                let mut options = SledOptions::new(dir.path().join("node/store"));
                options.cache_bytes = 1 << 20;
                StoreKind::Sled(options)
            }
        };
        let power = Power::on(store.clone());
        let (machine, reader) = open(dir.path(), &power, limits).unwrap();
        assert_eq!(machine.lost(), None);
        assert_eq!(machine.applied().last, LogId::ZERO);
        let (log, responses) = (Vec::new(), Vec::new());
        Self { dir, store, power, limits, machine: Some(machine), reader, log, responses, now_ms: 0 }
    }

    pub(crate) fn machine(&mut self) -> &mut KvStateMachine {
        self.machine.as_mut().unwrap()
    }

    pub(crate) fn applied(&mut self) -> LogId {
        self.machine().applied().last
    }

    /// Applies one group of entries.
    pub(crate) fn apply(&mut self, payloads: Vec<Payload>) -> Vec<Response> {
        let first = self.log.len();
        for payload in payloads {
            let index = Index(self.log.len() as u64 + 1);
            self.log.push(Entry { term: Term(1), index, payload });
        }
        let entries = self.log[first..].to_vec();
        let responses = self.machine().apply(&entries).unwrap();
        assert_eq!(responses.len(), entries.len());
        self.responses.extend(responses.clone());
        responses
    }

    pub(crate) fn command(&mut self, body: CommandBody) -> Response {
        let command = Command { cluster_time_ms: self.now_ms, body };
        self.apply(vec![Payload::Command(command.encode())]).remove(0)
    }

    pub(crate) fn operate(&mut self, operation: Operation) -> Response {
        self.command(CommandBody::Operate { stamp: None, operation })
    }

    pub(crate) fn stamped(
        &mut self,
        session: SessionId,
        request: u64,
        acked_below: u64,
        operation: Operation,
    ) -> Response {
        let stamp = Some(SessionStamp { session, request, acked_below });
        self.command(CommandBody::Operate { stamp, operation })
    }

    pub(crate) fn open_session(&mut self, ttl_ms: u64) -> SessionId {
        match self.command(CommandBody::OpenSession { ttl_ms }) {
            Response::SessionOpened { session } => session,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> Revision {
        revision(&self.operate(put(key, value)))
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let found = self.range(&range(KeyRange::Key(key.to_owned().into()))).unwrap();
        found.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
    }

    pub(crate) fn range(&self, range: &Range) -> Result<RangeResult, ReadError> {
        self.reader.range(range)
    }

    pub(crate) fn checkpoint(&mut self) -> LogId {
        let job = self.machine().begin_checkpoint();
        let durable = job().unwrap();
        assert_eq!(durable, self.applied());
        assert_eq!(*self.power.unsynced.lock().unwrap(), BTreeSet::new());
        durable
    }

    /// Whatever was not made durable is gone. The disk works again. The state is then that of the last checkpoint, or
    /// of the last install.
    pub(crate) fn crash(&mut self) {
        self.try_crash().unwrap();
    }

    /// Opens again what is there, as after a crash; the error if that fails.
    pub(crate) fn try_crash(&mut self) -> Result<(), StateMachineError> {
        self.close();
        let (machine, reader) = open(self.dir.path(), &self.power, self.limits)?;
        self.machine = Some(machine);
        self.reader = reader;
        Ok(())
    }

    /// Lets go of everything, without making anything durable.
    pub(crate) fn close(&mut self) {
        self.machine = None;
        self.reader = Self::detached_reader();
        self.power.cut();
        self.power = Power::on(self.store.clone());
    }

    /// A reader of nothing, to let go of the one that holds a store open.
    fn detached_reader() -> KvReader {
        let dir = scratch();
        let store = StoreKind::Memory(MemoryPlatter::default());
        open(dir.path(), &Power::on(store), LIMITS).unwrap().1
    }

    /// Applies what of the log is not applied, and demands the responses of the first time.
    pub(crate) fn replay(&mut self) {
        let from = self.applied().index.0 as usize;
        let entries = self.log[from..].to_vec();
        for group in entries.chunks(7) {
            let responses = self.machine().apply(group).unwrap();
            let first = group[0].index.0 as usize - 1;
            assert_eq!(responses, self.responses[first..first + group.len()]);
        }
    }

    pub(crate) fn snapshot(&mut self) -> (SnapshotMeta, Vec<u8>) {
        let applied = self.machine().applied();
        let configuration = applied.configuration.unwrap_or_else(configuration);
        let meta = SnapshotMeta { last: applied.last, configuration };
        let mut bytes = Vec::new();
        let job = self.machine().begin_snapshot();
        job(&mut bytes).unwrap();
        (meta, bytes)
    }

    pub(crate) fn install(&mut self, meta: &SnapshotMeta, mut bytes: &[u8]) -> Result<(), StateMachineError> {
        let from: &mut dyn Read = &mut bytes;
        self.machine().install(meta, from)
    }

    /// The power goes off after `calls` more disk calls that change something.
    pub(crate) fn cut_power_after(&mut self, calls: i64) {
        self.power.cut_after(calls);
    }

    /// Everything that can be compared between nodes that applied the same.
    pub(crate) fn fingerprint(&mut self) -> Fingerprint {
        let applied = self.applied();
        let (meta, snapshot) = self.snapshot();
        assert_eq!(meta.last, applied);
        assert_eq!(self.reader.applied(), applied);
        Fingerprint {
            hash: self.reader.state_hash(),
            audit: self.reader.audit().unwrap(),
            // Without the checksum at its end: a checksum over data and its own checksum is always the same.
            snapshot: (snapshot.len(), crc32c::crc32c(&snapshot[..snapshot.len() - 4])),
            revisions: (self.reader.compacted(), self.reader.revision()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    hash: (Index, u64),
    audit: (Index, u64),
    snapshot: (usize, u32),
    revisions: (Revision, Revision),
}

pub(crate) fn configuration() -> Configuration {
    Configuration::of_voters([NodeId(1), NodeId(2), NodeId(3)])
}

pub(crate) fn put(key: &str, value: &str) -> Operation {
    Operation::Put(put_of(key, value, false))
}

pub(crate) fn put_of(key: &str, value: &str, prev_kv: bool) -> Put {
    Put { key: Bytes::from(key.to_owned()), value: Bytes::from(value.to_owned()), prev_kv }
}

pub(crate) fn range(range: KeyRange) -> Range {
    Range { range, revision: None, limit: 0, keys_only: false, count_only: false }
}

pub(crate) fn revision(response: &Response) -> Revision {
    match response {
        Response::Done { revision, .. } => *revision,
        other => panic!("not done: {other:?}"),
    }
}

pub(crate) fn result(response: Response) -> OperationResult {
    match response {
        Response::Done { result, .. } => result,
        other => panic!("not done: {other:?}"),
    }
}
