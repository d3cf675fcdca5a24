//! Sending a snapshot to a peer.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Notify;

use super::dial::{DialError, Dialled, dial};
use super::handshake::{Purpose, check_accept};
use super::support::{TICKS, Task, Ticker, on_lane, write_some};
use super::transfer::{FileName, Frame, Reply, WINDOW};
use super::{Incoming, Shared};
use crate::codec::{FrameError, FrameReader, encode_frame};
use crate::core::{NodeId, SnapshotOutcome, Term};
use crate::net::BoxStream;
use crate::snapshot::{SnapshotError, SnapshotFile};

/// What is to be sent where.
pub(super) struct Order {
    pub(super) to: NodeId,
    pub(super) address: String,
    pub(super) term: Term,
    pub(super) file: SnapshotFile,
    pub(super) transfer_id: u64,
}

/// A transfer under way. Dropping it ends it without a word.
pub(super) struct Transfer {
    task: Task,
    cancel: Arc<Notify>,
}

impl Transfer {
    pub(super) async fn end(self) {
        self.task.end().await;
    }
}

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Dial(DialError),
    #[error("the connection broke: {0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    File(#[from] SnapshotError),
    #[error("the receiver closed the connection")]
    Closed,
    #[error("the receiver has not answered for too long")]
    Silent,
    #[error("the receiver could not take it: {0}")]
    Refused(String),
    #[error("the receiver answered something that was not asked")]
    Confused,
    #[error("the node is stopping")]
    Stopping,
}

/// Begins a transfer once `before` has ended, which is made to.
pub(super) fn start(shared: Arc<Shared>, order: Order, before: Option<Transfer>) -> Transfer {
    let cancel = Arc::new(Notify::new());
    let cancelled = Arc::clone(&cancel);
    let task = Task::spawn(async move {
        if let Some(before) = before {
            before.cancel.notify_one();
            before.task.finished().await;
        }
        let Order { to, file, .. } = &order;
        let (snapshot, bytes) = (file.meta.last, file.bytes);
        let result = tokio::select! {
            biased;
            () = cancelled.notified() => {
                // Nothing is reported: it would be taken for the end of the transfer that took its place, which
                // would then be begun anew, and so on for ever.
                tracing::debug!(peer = %to, %snapshot, "another transfer took its place");
                return;
            }
            result = attempt(&shared, &order) => result,
        };
        let outcome = match result {
            Ok(()) => {
                tracing::info!(peer = %to, %snapshot, bytes, "snapshot delivered");
                SnapshotOutcome::Delivered
            }
            Err(fault) => {
                shared.reception.warn((to.0, "sending", "snapshot"), || {
                    format!("snapshot {snapshot} did not reach {to}: {fault}")
                });
                SnapshotOutcome::Failed
            }
        };
        // Without an event loop nobody needs to know.
        let _ = shared.inbox.send(Incoming::SnapshotSent { to: *to, outcome, last: snapshot }, 0).await;
    });
    Transfer { task, cancel }
}

/// Says that a snapshot for someone who is not a peer was not sent.
pub(super) async fn fail(shared: Arc<Shared>, to: NodeId, file: SnapshotFile) {
    let failed = Incoming::SnapshotSent { to, outcome: SnapshotOutcome::Failed, last: file.meta.last };
    let _ = shared.inbox.send(failed, 0).await;
}

async fn attempt(shared: &Shared, order: &Order) -> Result<(), Fault> {
    let hello = shared.hello(order.to, Purpose::Snapshot);
    let dialled = dial(&*shared.clock, &*shared.net, &order.address, &hello, &shared.options).await;
    let Dialled { reader, writer, answer } = dialled.map_err(Fault::Dial)?;
    check_accept(shared.record.cluster, order.to, shared.directory.incarnation(order.to), &answer)
        .map_err(|why| Fault::Dial(DialError::Mismatch(why)))?;
    let transfer = order.transfer_id;
    let mut pipe = Pipe {
        reader,
        writer,
        ticker: shared.ticker(),
        transfer,
        frame_bytes_max: shared.options.frame_bytes_max,
        out: BytesMut::new(),
        unflushed: false,
        silent_ticks: 0,
        from: None,
        sent: 0,
        acknowledged: 0,
        delivered: false,
    };
    pipe.put(&Frame::Begin { transfer, term: order.term, file: FileName::of(&order.file) })?;
    let from = pipe.from().await?;
    let (snapshots, file) = (Arc::clone(&shared.snapshots), order.file.clone());
    let opened = pipe
        .during(on_lane(&shared.lane, move || {
            let mut chunks = snapshots.chunks(&file)?;
            chunks.skip(from).map(|()| chunks)
        }))
        .await?;
    let mut chunks = opened.ok_or(Fault::Stopping)??;
    if from > 0 {
        tracing::info!(peer = %order.to, snapshot = %order.file.meta.last, from, "going on with a snapshot");
    }
    let mut sent = from;
    pipe.sent = from;
    pipe.acknowledged = from;
    loop {
        while sent - pipe.acknowledged >= WINDOW {
            pipe.step().await?;
        }
        let read = on_lane(&shared.lane, move || {
            let chunk = chunks.next_chunk();
            (chunks, chunk)
        });
        let (back, chunk) = pipe.during(read).await?.ok_or(Fault::Stopping)?;
        chunks = back;
        let Some(bytes) = chunk? else { break };
        pipe.during(shared.pace.wait(&*shared.clock, bytes.len())).await?;
        pipe.put(&Frame::Chunk { transfer, number: sent, bytes })?;
        sent += 1;
        pipe.sent = sent;
    }
    pipe.put(&Frame::End { transfer, chunks: sent })?;
    while !pipe.delivered {
        pipe.step().await?;
    }
    Ok(())
}

/// A stream with what is to be written to it, and what was heard on it.
struct Pipe {
    reader: FrameReader<ReadHalf<BoxStream>>,
    writer: WriteHalf<BoxStream>,
    ticker: Ticker,
    transfer: u64,
    frame_bytes_max: u32,
    /// At most the window's chunks.
    out: BytesMut,
    unflushed: bool,
    silent_ticks: u32,
    /// The chunk that the receiver wants to begin with, once it has said so.
    from: Option<u64>,
    /// Chunks put into `out`.
    sent: u64,
    /// Invariant: at most `sent`.
    acknowledged: u64,
    delivered: bool,
}

impl Pipe {
    fn put(&mut self, frame: &Frame) -> Result<(), Fault> {
        Ok(encode_frame(frame, self.frame_bytes_max, &mut self.out)?)
    }

    /// Waits until the receiver has said where to begin.
    async fn from(&mut self) -> Result<u64, Fault> {
        loop {
            match self.from {
                Some(from) => return Ok(from),
                None => self.step().await?,
            }
        }
    }

    /// Keeps the stream going until `work` is done.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Fault> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                stepped = self.step() => stepped?,
            }
        }
    }

    /// Does one thing: hears a reply, looks after the stream, or writes. May be cancelled without losing any of them.
    async fn step(&mut self) -> Result<(), Fault> {
        let to_write = !self.out.is_empty() || self.unflushed;
        tokio::select! {
            biased;
            reply = self.reader.read::<Reply>() => {
                let reply = reply?.ok_or(Fault::Closed)?;
                self.silent_ticks = 0;
                self.on_reply(reply)
            }
            () = self.ticker.tick() => {
                self.silent_ticks += 1;
                if self.silent_ticks > TICKS {
                    return Err(Fault::Silent);
                }
                if self.out.is_empty() { self.put(&Frame::Ping) } else { Ok(()) }
            }
            written = write_some(&mut self.writer, &mut self.out, &mut self.unflushed), if to_write => {
                Ok(written.map_err(FrameError::Io)?)
            }
        }
    }

    fn on_reply(&mut self, reply: Reply) -> Result<(), Fault> {
        match reply {
            Reply::From { transfer, chunk } if transfer == self.transfer && self.from.is_none() => {
                self.from = Some(chunk);
                Ok(())
            }
            Reply::Progress { transfer, chunks } if transfer == self.transfer && chunks <= self.sent => {
                self.acknowledged = self.acknowledged.max(chunks);
                Ok(())
            }
            Reply::Delivered { transfer } if transfer == self.transfer => {
                self.delivered = true;
                Ok(())
            }
            Reply::Failed { why, .. } => Err(Fault::Refused(why)),
            Reply::From { .. } | Reply::Progress { .. } | Reply::Delivered { .. } => Err(Fault::Confused),
        }
    }
}
