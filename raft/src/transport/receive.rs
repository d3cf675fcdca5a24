//! Receiving a snapshot from a peer.

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
use super::transfer::{Frame, Reply};
use super::{Incoming, Shared};
use crate::blocking::Lane;
use crate::clock::timeout;
use crate::codec::{FrameError, encode_frame};
use crate::core::{NodeId, SnapshotMeta, Term};
use crate::mutant;
use crate::snapshot::{SnapshotError, SnapshotFile, SnapshotReceiver};

/// The one place for a snapshot being received. A newer leader's transfer, or the same leader's next attempt, takes
/// it over: the old stream is most likely half open, and two would fight for the disk.
#[derive(Default)]
pub(super) struct Slot {
    holder: Mutex<Option<Holder>>,
    /// Held while something is staged.
    turn: tokio::sync::Mutex<Buffered>,
}

struct Holder {
    from: NodeId,
    term: Term,
    close: Arc<Notify>,
}

/// Chunks kept in memory by their number: none, but with a bug planted.
type Buffered = BTreeMap<u64, Bytes>;

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
    #[error("a frame out of turn: {0}")]
    Protocol(String),
    #[error("a transfer of term {0} is under way")]
    Busy(Term),
    #[error("a newer transfer took its place, or the sender is no member any more")]
    Replaced,
    #[error("the node is stopping")]
    Stopping,
}

/// Receives one snapshot over a greeted stream, makes it durable and hands it to the event loop.
pub(super) async fn run(shared: &Shared, accepted: Accepted) {
    let (from, remote) = (accepted.from, accepted.remote.clone());
    let mut pipe =
        Pipe { accepted, ticker: shared.ticker(), transfer: None, staged: 0, out: BytesMut::new() };
    let result = match pipe.begin(shared).await {
        Ok((term, meta)) => match receive(shared, &mut pipe, term, &meta).await {
            Ok(file) => deliver(shared, &mut pipe, term, file).await,
            Err(fault) => Err(fault),
        },
        Err(fault) => Err(fault),
    };
    let Err(fault) = result else { return };
    shared.reception.warn((from.0, "receiving", "snapshot"), || {
        format!("a snapshot from {from} at {remote} was given up: {fault}")
    });
    // So that the sender's log says why, too. It may be gone.
    let _ = pipe
        .reply(shared, &Reply::Failed { transfer: pipe.transfer.unwrap_or(0), why: fault.to_string() })
        .await;
}

async fn receive(
    shared: &Shared,
    pipe: &mut Pipe,
    term: Term,
    meta: &SnapshotMeta,
) -> Result<SnapshotFile, Fault> {
    let close = shared.receiving.enter(pipe.accepted.from, term)?;
    let result = tokio::select! {
        biased;
        () = close.notified() => Err(Fault::Replaced),
        result = stage(shared, pipe, meta) => result,
    };
    shared.receiving.leave(&close);
    result
}

/// Writes the chunks to a staged file, and gives it its name once it is whole.
async fn stage(shared: &Shared, pipe: &mut Pipe, meta: &SnapshotMeta) -> Result<SnapshotFile, Fault> {
    let mut buffered = shared.receiving.turn.lock().await;
    let (snapshots, wanted) = (Arc::clone(&shared.snapshots), meta.clone());
    let work = on_lane(&shared.lane, move || snapshots.receive(&wanted));
    let receiver = pipe.during(shared, work).await?.ok_or(Fault::Stopping)??;
    let mut staged = Staged { receiver: Some(receiver), lane: Arc::clone(&shared.lane) };
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
                staged.write(shared, pipe, bytes).await?;
                pipe.staged += 1;
                pipe.progress(shared).await?;
            }
            Frame::End { transfer, chunks } => {
                pipe.check(transfer, chunks)?;
                break;
            }
            Frame::Begin { .. } => return Err(Fault::Protocol("a second beginning".to_owned())),
            Frame::Ping => pipe.progress(shared).await?,
        }
    }
    let Some(receiver) = staged.receiver.take() else { return Err(Fault::Stopping) };
    let file = pipe.during(shared, on_lane(&shared.lane, move || receiver.commit())).await?;
    buffered.clear();
    Ok(file.ok_or(Fault::Stopping)??)
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
    async fn write(&mut self, shared: &Shared, pipe: &mut Pipe, bytes: Bytes) -> Result<(), Fault> {
        let Some(mut receiver) = self.receiver.take() else { return Err(Fault::Stopping) };
        let work = on_lane(&shared.lane, move || {
            let written = receiver.chunk(&bytes);
            (receiver, written)
        });
        let (receiver, written) = pipe.during(shared, work).await?.ok_or(Fault::Stopping)?;
        self.receiver = Some(receiver);
        Ok(written?)
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
    /// Known once the transfer has begun.
    transfer: Option<u64>,
    /// Chunks verified and written.
    staged: u64,
    out: BytesMut,
}

impl Pipe {
    /// Waits for the first frame.
    async fn begin(&mut self, shared: &Shared) -> Result<(Term, SnapshotMeta), Fault> {
        match self.next(shared).await? {
            Frame::Begin { transfer, term, meta } => {
                self.transfer = Some(transfer);
                Ok((term, meta))
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
                done = work.as_mut() => return Ok(done),
                () = self.ticker.tick() => {}
            }
            self.progress(shared).await?;
        }
    }
}

impl Slot {
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
