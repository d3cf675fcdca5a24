//! Receiving a snapshot from a peer.
//!
//! What is to be ended is ended between two steps, never by dropping the work: a chunk that is being written must be
//! written, or the file could not be gone on with.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::handshake::HELLO_BYTES_MAX;
use super::reception::Accepted;
use super::support::{Patience, Patient, Ticker, on_lane};
use super::transfer::{FRUITLESS_MAX, FileName, Frame, KEPT_MAX, Reply};
use super::{Incoming, Shared};
use crate::blocking::Lane;
use crate::clock::{sleep, timeout};
use crate::codec::{FrameError, encode_frame};
use crate::core::{NodeId, Term};
use crate::mutant;
use crate::snapshot::{SnapshotError, SnapshotFile, SnapshotReceiver};

/// The one place for a snapshot being received. A newer leader's transfer, or the same leader's next attempt, takes
/// it over: the old stream is most likely half open, and two would fight for the disk.
#[derive(Default)]
pub(super) struct Slot {
    holder: Mutex<Option<Holder>>,
    /// Held while something is staged.
    turn: tokio::sync::Mutex<Bench>,
}

struct Holder {
    from: NodeId,
    term: Term,
    close: Arc<Notify>,
}

/// What transfers leave for the next one.
#[derive(Default)]
struct Bench {
    kept: Option<Kept>,
    /// Chunks kept in memory by their number: none, but with a bug planted.
    buffered: BTreeMap<u64, Bytes>,
}

/// The beginning of a file whose rest did not come.
struct Kept {
    from: NodeId,
    file: FileName,
    receiver: SnapshotReceiver,
    /// How many times in a row nothing was added.
    fruitless: u32,
    /// The transfer that broke last.
    transfer: u64,
}

/// Why a transfer ended badly.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the stream broke: {0}")]
    Frame(#[from] FrameError),
    #[error("the sender left in the middle")]
    Left,
    #[error("the sender was silent for too long")]
    Idle,
    #[error("{0}")]
    File(#[from] SnapshotError),
    #[error(
        "the disk here has {free} bytes free, and a snapshot of {bytes} bytes takes that much twice; make room, and \
         it will be sent again"
    )]
    NoRoom { bytes: u64, free: u64 },
    #[error("a frame out of turn: {0}")]
    Protocol(String),
    #[error("a transfer of term {0} is under way")]
    Busy(Term),
    #[error("a newer transfer took its place, or the sender is no member any more")]
    Replaced,
    #[error("the node is stopping")]
    Stopping,
}

impl Fault {
    /// Whether it speaks against the stream only, and not against what came over it before.
    const fn is_of_stream(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Left | Self::Idle | Self::Replaced)
    }
}

/// Receives one snapshot over a greeted stream, makes it durable and hands it to the event loop.
pub(super) async fn run(shared: &Shared, accepted: Accepted) {
    let (from, remote) = (accepted.from, accepted.remote.clone());
    let mut pipe = Pipe {
        accepted,
        ticker: shared.ticker(),
        close: None,
        transfer: None,
        staged: 0,
        out: BytesMut::new(),
    };
    let result = match pipe.begin(shared).await {
        Ok((term, name)) => match receive(shared, &mut pipe, term, name).await {
            Ok(file) => deliver(shared, &mut pipe, term, file).await,
            Err(fault) => Err(fault),
        },
        Err(fault) => Err(fault),
    };
    let Err(fault) = result else { return };
    if let Fault::File(SnapshotError::Io { .. }) = &fault {
        // The receiver is gone only when the node has stopped.
        let _ = shared.inbox.send(Incoming::DiskFailed(format!("receiving a snapshot: {fault}")), 0).await;
    }
    shared.reception.warn((from.0, "receiving", "snapshot"), || {
        format!("a snapshot from {from} at {remote} was given up: {fault}")
    });
    // So that the sender's log says why, too. It may be gone.
    let transfer = pipe.transfer.unwrap_or(0);
    let _ = pipe.reply(shared, &Reply::Failed { transfer, why: fault.to_string() }).await;
    drop(pipe);
    shared.receiving.forget_later(shared, transfer).await;
}

async fn receive(
    shared: &Shared,
    pipe: &mut Pipe,
    term: Term,
    name: FileName,
) -> Result<SnapshotFile, Fault> {
    let close = shared.receiving.enter(pipe.accepted.from, term)?;
    pipe.close = Some(Arc::clone(&close));
    let result = stage(shared, pipe, name).await;
    pipe.close = None;
    shared.receiving.leave(&close);
    result
}

/// Writes the chunks to a staged file, and gives it its name once it is whole. If the stream breaks before that, what
/// is there is kept.
async fn stage(shared: &Shared, pipe: &mut Pipe, name: FileName) -> Result<SnapshotFile, Fault> {
    let mut bench = pipe.during(shared, shared.receiving.turn.lock()).await?;
    let (mut staged, fruitless) = Staged::begin(shared, pipe, &mut bench, &name).await?;
    let begun = pipe.staged;
    match staged.take(shared, pipe, &mut bench.buffered).await {
        Ok(()) => {
            bench.buffered.clear();
            let Some(receiver) = staged.receiver.take() else { return Err(Fault::Stopping) };
            let commit = on_lane(&shared.lane, move || receiver.commit());
            Ok(pipe.during(shared, commit).await?.ok_or(Fault::Stopping)??)
        }
        Err(fault) => {
            let kept = staged.receiver.take_if(|receiver| fault.is_of_stream() && receiver.is_good());
            if let (Some(receiver), Some(transfer)) = (kept, pipe.transfer) {
                let fruitless = if receiver.frames() > begun { 0 } else { fruitless + 1 };
                if receiver.frames() > 0 && fruitless <= FRUITLESS_MAX {
                    let from = pipe.accepted.from;
                    bench.kept = Some(Kept { from, file: name, receiver, fruitless, transfer });
                } else {
                    staged.receiver = Some(receiver);
                }
            }
            Err(fault)
        }
    }
}

/// Hands the file over, and only then says that it is here.
async fn deliver(shared: &Shared, pipe: &mut Pipe, term: Term, file: SnapshotFile) -> Result<(), Fault> {
    let from = pipe.accepted.from;
    tracing::info!(peer = %from, snapshot = %file.meta.last, bytes = file.bytes, "snapshot received");
    let hand_over = shared.inbox.send(Incoming::Snapshot { from, term, file }, 0);
    pipe.during(shared, hand_over).await?.map_err(|_| Fault::Stopping)?;
    pipe.reply(shared, &Reply::Delivered { transfer: pipe.transfer.unwrap_or(0) }).await
}

/// A file being staged. Thrown away on the lane, where removing it may block.
struct Staged {
    receiver: Option<SnapshotReceiver>,
    lane: Arc<dyn Lane>,
}

impl Staged {
    /// Goes on with what was kept of this file, or begins with nothing. Also says how many times in a row nothing was
    /// added to it.
    async fn begin(
        shared: &Shared,
        pipe: &mut Pipe,
        bench: &mut Bench,
        name: &FileName,
    ) -> Result<(Self, u32), Fault> {
        let lane = Arc::clone(&shared.lane);
        let (staged, fruitless) = match bench.kept.take() {
            Some(Kept { from, file, receiver, fruitless, .. })
                if from == pipe.accepted.from && file == *name =>
            {
                crate::sometimes!("snapshot/transfer-resumed");
                (Self { receiver: Some(receiver), lane }, fruitless)
            }
            other => {
                crate::sometimes!("snapshot/transfer-begun");
                drop(other.map(|kept| Self { receiver: Some(kept.receiver), lane: Arc::clone(&lane) }));
                let (snapshots, wanted, bytes) =
                    (Arc::clone(&shared.snapshots), name.meta.clone(), name.bytes);
                let min = shared.options.free_bytes_min;
                let work = on_lane(&lane, move || {
                    // Once as a file, and once as the state that is made of it.
                    let free = snapshots.free_bytes()?;
                    if free < bytes.saturating_mul(2).saturating_add(min) {
                        return Err(Fault::NoRoom { bytes, free });
                    }
                    Ok(snapshots.receive(&wanted)?)
                });
                let receiver = pipe.during(shared, work).await?.ok_or(Fault::Stopping)??;
                (Self { receiver: Some(receiver), lane }, 0)
            }
        };
        pipe.staged = staged.receiver.as_ref().map_or(0, SnapshotReceiver::frames);
        Ok((staged, fruitless))
    }

    /// Tells the sender where to begin, and takes chunks until it says that there are no more.
    async fn take(
        &mut self,
        shared: &Shared,
        pipe: &mut Pipe,
        buffered: &mut BTreeMap<u64, Bytes>,
    ) -> Result<(), Fault> {
        let (transfer, chunk) = (pipe.transfer.unwrap_or(0), pipe.staged);
        pipe.reply(shared, &Reply::From { transfer, chunk }).await?;
        loop {
            match pipe.next(shared).await? {
                Frame::Chunk { transfer, number, bytes } => {
                    pipe.check(transfer, number)?;
                    let bytes = if mutant!("chunk-mix") && number > 0 {
                        // The planted bug: what a broken transfer left is taken for a part of this one.
                        buffered.entry(number).or_insert(bytes).clone()
                    } else {
                        bytes
                    };
                    self.write(shared, pipe, bytes).await?;
                    pipe.staged += 1;
                    pipe.progress(shared).await?;
                }
                Frame::End { transfer, chunks } => return pipe.check(transfer, chunks),
                Frame::Begin { .. } => return Err(Fault::Protocol("a second beginning".to_owned())),
                Frame::Ping => pipe.progress(shared).await?,
            }
        }
    }

    /// Writes a chunk. The file is as good as before if the stream breaks meanwhile.
    async fn write(&mut self, shared: &Shared, pipe: &mut Pipe, bytes: Bytes) -> Result<(), Fault> {
        let Some(mut receiver) = self.receiver.take() else { return Err(Fault::Stopping) };
        let mut work = pin!(on_lane(&shared.lane, move || {
            let written = receiver.chunk(&bytes);
            (receiver, written)
        }));
        let (done, broken) = match pipe.during(shared, work.as_mut()).await {
            Ok(done) => (done, Ok(())),
            Err(fault) => (work.await, Err(fault)),
        };
        let (receiver, written) = done.ok_or(Fault::Stopping)?;
        self.receiver = Some(receiver);
        written?;
        broken
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            self.lane.submit(Box::new(move || drop(receiver)));
        }
    }
}

/// The stream, and how far it has come.
struct Pipe {
    accepted: Accepted,
    ticker: Ticker,
    /// Notified when the transfer is to be ended; once it has its place.
    close: Option<Arc<Notify>>,
    /// Known once the transfer has begun.
    transfer: Option<u64>,
    /// Chunks verified and written.
    staged: u64,
    out: BytesMut,
}

impl Pipe {
    /// Waits for the first frame.
    async fn begin(&mut self, shared: &Shared) -> Result<(Term, FileName), Fault> {
        match self.next(shared).await? {
            Frame::Begin { transfer, term, file } => {
                self.transfer = Some(transfer);
                Ok((term, file))
            }
            _ => Err(Fault::Protocol("no beginning".to_owned())),
        }
    }

    /// Waits for the next frame.
    async fn next(&mut self, shared: &Shared) -> Result<Frame, Fault> {
        let mut patience = Patience::default();
        loop {
            tokio::select! {
                biased;
                () = closed(self.close.as_deref()) => return Err(Fault::Replaced),
                frame = self.accepted.reader.read::<Frame>() => return frame?.ok_or(Fault::Left),
                () = self.ticker.tick() => {}
            }
            match patience.ticked(self.accepted.reader.buffered_bytes()) {
                Patient::GaveUp => return Err(Fault::Idle),
                Patient::Moving => self.progress(shared).await?,
                Patient::Waiting => {}
            }
        }
    }

    /// That a frame is of this transfer, and the next in turn.
    fn check(&self, transfer: u64, number: u64) -> Result<(), Fault> {
        if Some(transfer) != self.transfer {
            return Err(Fault::Protocol(format!("of transfer {transfer:x} within {:x?}", self.transfer)));
        }
        if number != self.staged {
            return Err(Fault::Protocol(format!("chunk {number} where {} was expected", self.staged)));
        }
        Ok(())
    }

    async fn progress(&mut self, shared: &Shared) -> Result<(), Fault> {
        let Some(transfer) = self.transfer else { return Ok(()) };
        self.reply(shared, &Reply::Progress { transfer, chunks: self.staged }).await
    }

    async fn reply(&mut self, shared: &Shared, reply: &Reply) -> Result<(), Fault> {
        self.out.clear();
        encode_frame(reply, HELLO_BYTES_MAX, &mut self.out)?;
        let (writer, out) = (&mut self.accepted.writer, &self.out);
        let write = async {
            writer.write_all(out).await?;
            writer.flush().await
        };
        match timeout(&*shared.clock, shared.options.read_idle_max, write).await {
            Ok(written) => written.map_err(|error| Fault::Frame(error.into())),
            Err(_) => Err(Fault::Idle),
        }
    }

    /// Waits for `work`, and meanwhile lets the sender know that it goes on.
    async fn during<T>(&mut self, shared: &Shared, work: impl Future<Output = T>) -> Result<T, Fault> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                () = closed(self.close.as_deref()) => return Err(Fault::Replaced),
                done = work.as_mut() => return Ok(done),
                () = self.ticker.tick() => {}
            }
            self.progress(shared).await?;
        }
    }
}

/// Waits until the transfer is to be ended.
async fn closed(close: Option<&Notify>) {
    match close {
        Some(close) => close.notified().await,
        None => std::future::pending().await,
    }
}

impl Slot {
    /// Throws away what was kept of this transfer, unless it was taken up again in the meantime.
    async fn forget_later(&self, shared: &Shared, transfer: u64) {
        let is_this = |kept: &mut Kept| kept.transfer == transfer;
        if self.turn.lock().await.kept.as_mut().is_none_or(|kept| !is_this(kept)) {
            return;
        }
        sleep(&*shared.clock, KEPT_MAX).await;
        let kept = self.turn.lock().await.kept.take_if(is_this);
        drop(kept.map(|kept| Staged { receiver: Some(kept.receiver), lane: Arc::clone(&shared.lane) }));
    }

    /// Takes the place; whoever has it is told to leave.
    fn enter(&self, from: NodeId, term: Term) -> Result<Arc<Notify>, Fault> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &*holder {
            if before.term > term {
                return Err(Fault::Busy(before.term));
            }
            before.close.notify_one();
        }
        let close = Arc::new(Notify::new());
        *holder = Some(Holder { from, term, close: Arc::clone(&close) });
        Ok(close)
    }

    /// Ends the transfer from this peer, if there is one.
    pub(super) fn close(&self, from: NodeId) {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = holder.as_ref().filter(|h| h.from == from) {
            holder.close.notify_one();
        }
    }

    /// Gives the place up, if it was not taken over already.
    fn leave(&self, close: &Arc<Notify>) {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if holder.as_ref().is_some_and(|h| Arc::ptr_eq(&h.close, close)) {
            *holder = None;
        }
    }
}
