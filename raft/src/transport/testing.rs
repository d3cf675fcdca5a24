//! A world for tests: a network in memory whose faults are switched on and off, a disk that forgets what was not
//! synced, lanes that run inline, and the virtual clock of a paused tokio runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

use crate::blocking::{Blocking, Job, Lane};
use crate::clock::{BoxFuture, Clock, Monotonic};
use crate::disk::{DirLock, Disk, File, OpenMode};
use crate::net::{BoxStream, Listener, Net};

/// The clock of a runtime started with `start_paused = true`: when every task waits, it jumps to the next deadline.
pub(crate) struct PausedClock(tokio::time::Instant);

impl PausedClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Monotonic {
        Monotonic(u64::try_from(self.0.elapsed().as_nanos()).unwrap() + 1)
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time")]
    fn sleep_until(&self, deadline: Monotonic) -> BoxFuture<'static, ()> {
        let at = self.0 + Duration::from_nanos(deadline.0);
        Box::pin(tokio::time::sleep_until(at))
    }
}

/// Runs every job at once, in the caller. `delay` makes it take virtual time instead.
#[derive(Default)]
pub(crate) struct Inline {
    pub(crate) delay: Option<Duration>,
}

struct InlineLane(Option<mpsc::UnboundedSender<Job>>);

impl Lane for InlineLane {
    fn submit(&self, job: Job) {
        match &self.0 {
            Some(queue) => drop(queue.send(job)),
            None => job(),
        }
    }
}

impl Blocking for Inline {
    #[expect(clippy::disallowed_methods, reason = "virtual time")]
    fn lane(&self, _: &'static str) -> Arc<dyn Lane> {
        let Some(delay) = self.delay else { return Arc::new(InlineLane(None)) };
        let (queue, mut jobs) = mpsc::unbounded_channel::<Job>();
        tokio::spawn(async move {
            while let Some(job) = jobs.recv().await {
                tokio::time::sleep(delay).await;
                job();
            }
        });
        Arc::new(InlineLane(Some(queue)))
    }
}

/// What happens to whoever dials an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialling {
    #[default]
    Works,
    Refused,
    Hangs,
}

/// One connection's faults. Both ends share them.
#[derive(Default)]
pub(crate) struct Wire {
    /// Both ends get a reset.
    cut: AtomicBool,
    /// Nothing moves any more; nobody is told.
    frozen: AtomicBool,
    /// What is written is gone, and nobody is told: the other end, or the way to it, is no more.
    lost: AtomicBool,
    /// At most this much moves in one call; 0 is no limit.
    piece_bytes: AtomicUsize,
    /// The byte at this position of what the dialler writes is changed. 0 is none, so positions count from 1.
    corrupt_at: AtomicU64,
    /// The connection breaks when the dialler has written so much. 0 is never.
    cut_at: AtomicU64,
    /// How much the dialler has written.
    written: AtomicU64,
    /// In how many calls.
    writes: AtomicU64,
    wakers: Mutex<Vec<Waker>>,
}

impl Wire {
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.wakers.lock().unwrap().drain(..).for_each(Waker::wake);
    }

    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    pub(crate) fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// Whether something is in the way.
    fn check(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut wakers = self.wakers.lock().unwrap();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        drop(wakers);
        if self.frozen.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

/// One end of a connection.
struct End {
    stream: DuplexStream,
    wire: Arc<Wire>,
    dialler: bool,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.wire.check(cx))?;
        if self.wire.lost.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        let piece = self.wire.piece_bytes.load(Ordering::SeqCst);
        if piece == 0 {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let mut small = vec![0; piece.min(buf.remaining())];
        let mut read = ReadBuf::new(&mut small);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.wire.check(cx))?;
        let wire = Arc::clone(&self.wire);
        if wire.lost.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(buf.len()));
        }
        let piece = wire.piece_bytes.load(Ordering::SeqCst);
        let mut data = if piece == 0 { buf } else { &buf[..piece.min(buf.len())] }.to_vec();
        let before = wire.written();
        let target = wire.corrupt_at.load(Ordering::SeqCst);
        if self.dialler && target > before && target <= before + data.len() as u64 {
            data[(target - before - 1) as usize] ^= 0x40;
        }
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, &data))?;
        if self.dialler {
            wire.written.fetch_add(written as u64, Ordering::SeqCst);
            wire.writes.fetch_add(1, Ordering::SeqCst);
            let cut_at = wire.cut_at.load(Ordering::SeqCst);
            if cut_at > 0 && wire.written() >= cut_at {
                wire.cut();
            }
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A network in memory.
#[derive(Default)]
pub(crate) struct TestNet {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    listeners: BTreeMap<String, mpsc::UnboundedSender<(BoxStream, String)>>,
    dialling: BTreeMap<String, Dialling>,
    /// Every connection that was made, by the address dialled.
    wires: Vec<(String, Arc<Wire>)>,
    piece_bytes: usize,
    corrupt_at: Option<u64>,
    cut_at: Option<u64>,
    connects: usize,
}

impl TestNet {
    pub(crate) fn set_dialling(&self, address: &str, dialling: Dialling) {
        self.inner.lock().unwrap().dialling.insert(address.to_owned(), dialling);
    }

    /// From now on connections move at most so much in one call.
    pub(crate) fn set_piece_bytes(&self, bytes: usize) {
        self.inner.lock().unwrap().piece_bytes = bytes;
    }

    /// The next connection has its byte at this position (from 1) changed.
    pub(crate) fn corrupt_next_at(&self, position: u64) {
        self.inner.lock().unwrap().corrupt_at = Some(position);
    }

    /// The next connection breaks when its dialler has written so much.
    pub(crate) fn cut_next_at(&self, position: u64) {
        self.inner.lock().unwrap().cut_at = Some(position);
    }

    /// The connections made to an address so far, the newest last.
    pub(crate) fn wires(&self, address: &str) -> Vec<Arc<Wire>> {
        let inner = self.inner.lock().unwrap();
        inner.wires.iter().filter(|(to, _)| to == address).map(|(_, wire)| Arc::clone(wire)).collect()
    }

    pub(crate) fn connects(&self) -> usize {
        self.inner.lock().unwrap().connects
    }
}

impl Net for TestNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxStream>> {
        let mut inner = self.inner.lock().unwrap();
        inner.connects += 1;
        let refused = || -> BoxFuture<'static, io::Result<BoxStream>> {
            Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
        };
        match inner.dialling.get(address).copied().unwrap_or_default() {
            Dialling::Hangs => return Box::pin(std::future::pending()),
            Dialling::Refused => return refused(),
            Dialling::Works => {}
        }
        let Some(listener) = inner.listeners.get(address).cloned() else { return refused() };
        let wire = Arc::new(Wire::default());
        wire.piece_bytes.store(inner.piece_bytes, Ordering::SeqCst);
        wire.corrupt_at.store(inner.corrupt_at.take().unwrap_or(0), Ordering::SeqCst);
        wire.cut_at.store(inner.cut_at.take().unwrap_or(0), Ordering::SeqCst);
        let (near, far) = tokio::io::duplex(64 * 1024);
        let near = End { stream: near, wire: Arc::clone(&wire), dialler: true };
        let far = End { stream: far, wire: Arc::clone(&wire), dialler: false };
        let number = inner.wires.len();
        if listener.send((Box::new(far), format!("caller-{number}"))).is_err() {
            return refused();
        }
        inner.wires.push((address.to_owned(), wire));
        Box::pin(async move { Ok(Box::new(near) as BoxStream) })
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (sender, queue) = mpsc::unbounded_channel();
        self.inner.lock().unwrap().listeners.insert(address.to_owned(), sender);
        let listener = TestListener { address: address.to_owned(), queue };
        Box::pin(async move { Ok(Box::new(listener) as Box<dyn Listener>) })
    }
}

struct TestListener {
    address: String,
    queue: mpsc::UnboundedReceiver<(BoxStream, String)>,
}

impl Listener for TestListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        Box::pin(async {
            match self.queue.recv().await {
                Some(accepted) => Ok(accepted),
                None => std::future::pending().await,
            }
        })
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

/// A disk in memory that keeps apart what is there and what a crash would leave, and that can be switched off between
/// any two calls.
#[derive(Clone, Default)]
pub(crate) struct CrashDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Default)]
struct DiskState {
    names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: Vec<PathBuf>,
    /// Calls that change something, so far.
    calls: u64,
    /// After so many calls the power fails.
    calls_max: Option<u64>,
}

#[derive(Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
}

/// What a crash does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    Kept,
}

impl CrashDisk {
    /// Lets the power fail after so many more changing calls.
    pub(crate) fn fail_after(&self, calls: u64) {
        let mut state = self.state.lock().unwrap();
        state.calls_max = Some(state.calls + calls);
    }

    pub(crate) fn has_failed(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.calls_max.is_some_and(|max| state.calls > max)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.state.lock().unwrap().calls
    }

    /// The disk as the next start finds it.
    pub(crate) fn crash(&self, unsynced: Unsynced) -> Self {
        let state = self.state.lock().unwrap();
        let from = match unsynced {
            Unsynced::Lost => &state.durable_names,
            Unsynced::Kept => &state.names,
        };
        let names: BTreeMap<_, _> = from
            .iter()
            .map(|(path, content)| {
                let content = content.lock().unwrap();
                let bytes = match unsynced {
                    Unsynced::Lost => content.durable.clone(),
                    Unsynced::Kept => content.live.clone(),
                };
                (path.clone(), Arc::new(Mutex::new(Content { live: bytes.clone(), durable: bytes })))
            })
            .collect();
        let dirs = state.dirs.clone();
        let after = DiskState { durable_names: names.clone(), names, dirs, ..DiskState::default() };
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// Puts bytes into a file, durably, behind everyone's back.
    pub(crate) fn plant(&self, path: &Path, bytes: &[u8]) {
        let content = Arc::new(Mutex::new(Content { live: bytes.to_vec(), durable: bytes.to_vec() }));
        let mut state = self.state.lock().unwrap();
        state.dirs.push(path.parent().unwrap().to_owned());
        state.names.insert(path.to_owned(), Arc::clone(&content));
        state.durable_names.insert(path.to_owned(), content);
    }

    pub(crate) fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        state.names.get(path).map(|content| content.lock().unwrap().live.clone())
    }

    fn change(&self) -> io::Result<std::sync::MutexGuard<'_, DiskState>> {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        if state.calls_max.is_some_and(|max| state.calls > max) {
            return Err(io::Error::other("the power is off"));
        }
        Ok(state)
    }
}

struct CrashFile {
    disk: CrashDisk,
    content: Arc<Mutex<Content>>,
}

impl File for CrashFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock().unwrap();
        let rest = content.live.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let _state = self.disk.change()?;
        let mut content = self.content.lock().unwrap();
        let end = offset as usize + data.len();
        if content.live.len() < end {
            content.live.resize(end, 0);
        }
        content.live[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let _state = self.disk.change()?;
        let mut content = self.content.lock().unwrap();
        content.durable = content.live.clone();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _state = self.disk.change()?;
        self.content.lock().unwrap().live.resize(len as usize, 0);
        Ok(())
    }

    fn preallocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for CrashDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if self.exists(path)? {
            return Ok(());
        }
        self.change()?.dirs.push(path.to_owned());
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock().unwrap();
        let inside = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(inside.map(|name| name.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock().unwrap();
        Ok(state.names.contains_key(path) || state.dirs.iter().any(|dir| dir == path))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let found = self.state.lock().unwrap().names.get(path).cloned();
        let content = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content,
            (None, OpenMode::CreateNew) => {
                let content = Arc::new(Mutex::new(Content::default()));
                self.change()?.names.insert(path.to_owned(), Arc::clone(&content));
                content
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(CrashFile { disk: self.clone(), content }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change()?.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        let inside = |name: &Path| name.parent() == Some(path);
        let DiskState { names, durable_names, .. } = &mut *state;
        durable_names.retain(|name, _| !inside(name));
        let now = names.iter().filter(|(name, _)| inside(name));
        durable_names.extend(now.map(|(name, content)| (name.clone(), Arc::clone(content))));
        Ok(())
    }

    fn lock_dir(&self, _: &Path) -> io::Result<DirLock> {
        Ok(Box::new(()))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

/// Lets every other task go on until nothing moves, without letting virtual time pass.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Fails the test instead of waiting for ever.
#[expect(clippy::disallowed_methods, reason = "virtual time")]
pub(crate) async fn within<T>(limit: Duration, what: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, what).await {
        Ok(out) => out,
        Err(_) => panic!("not done within {limit:?}"),
    }
}

/// The lines logged by this thread while it lives, at level info and above.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Begins to listen; the guard ends it.
    pub(crate) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        // While there is one subscriber in the whole process, `tracing` asks only the thread that comes by a log line
        // first whether anybody listens, and believes that for all threads. A second one makes it ask for all.
        static SECOND: std::sync::OnceLock<tracing::Dispatch> = std::sync::OnceLock::new();
        SECOND.get_or_init(|| tracing::Dispatch::new(Self::default()));
        let lines = Self::default();
        let guard = tracing::subscriber::set_default(lines.clone());
        (lines, guard)
    }

    /// The lines that contain `words`.
    pub(crate) fn with(&self, words: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|line| line.contains(words)).cloned().collect()
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                use std::fmt::Write;
                write!(self.0, "{}={value:?} ", field.name()).unwrap();
            }
        }
        let mut text = Text(format!("{} ", event.metadata().level()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
