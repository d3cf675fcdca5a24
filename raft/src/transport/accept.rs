//! The receiving half: accepts streams and hands the messages of peers to the event loop.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::{Notify, oneshot};

use super::directory::Met;
use super::handshake::Hello;
use super::handshake::{HELLO_BYTES_MAX, Purpose};
use super::link::{Frame, Link, Pong};
use super::outbox::Outbox;
use super::reception::{Accepted, Stranger};
use super::support::{Patience, Patient, Task, Tasks};
use super::{Incoming, Shared, receive};
use crate::clock::timeout;
use crate::codec::{FrameError, encode_frame};
use crate::core::{Message, NodeId};
use crate::mutant;
use crate::net::{BoxStream, Listener};

/// Accepts streams until dropped; those accepted end with it.
pub(super) async fn run(shared: Arc<Shared>, mut listener: Box<dyn Listener>) {
    let mut tasks = Tasks::default();
    loop {
        let stranger = shared.reception.next(&mut *listener).await;
        tasks.spawn(serve(Arc::clone(&shared), stranger));
    }
}

/// Greets a stream and serves it for its purpose, until it ends.
async fn serve(shared: Arc<Shared>, stranger: Stranger) {
    let greeted = shared.reception.greet(stranger, |peer| shared.directory.roster(peer)).await;
    let Some((hello, mut accepted)) = greeted else { return };
    accepted.reader.set_frame_bytes_max(shared.options.frame_bytes_max);
    match hello.purpose {
        Purpose::Messages => receive_messages(&shared, &hello, accepted).await,
        Purpose::Snapshot => receive::run(&shared, accepted).await,
        // The answer was all there is to say.
        Purpose::Formation { .. } | Purpose::Join | Purpose::Probe => {}
    }
}

/// One that is no member, as long as its stream lives.
struct Visit<'a> {
    shared: &'a Shared,
    peer: NodeId,
    number: u64,
}

impl<'a> Visit<'a> {
    /// Makes a way back to it, and waits until it is there or turned out not to be: an answer to the first message
    /// must find it.
    async fn begin(shared: &'a Arc<Shared>, hello: &Hello, number: u64, is_new: bool) -> Self {
        let Hello { member: peer, incarnation, address, .. } = hello;
        let visit = Visit { shared, peer: *peer, number };
        if !is_new || address.is_empty() {
            return visit;
        }
        tracing::info!(%peer, address, "heard of by one that is not in this node's configuration");
        let (sender, tried) = oneshot::channel();
        let outbox = Arc::new(Outbox::new(&shared.options));
        let seed = incarnation ^ number;
        let link = Link::new(
            Arc::clone(shared),
            *peer,
            address.clone(),
            Arc::clone(&outbox),
            seed,
            false,
            Some(sender),
        );
        drop(shared.directory.answer_by(*peer, number, outbox, Task::spawn(link.run())));
        // Dropped with the link, if that is ended before.
        let _ = tried.await;
        visit
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        drop(self.shared.directory.leave(self.peer, self.number));
    }
}

/// Hands a peer's messages to the event loop, until the stream ends.
async fn receive_messages(shared: &Arc<Shared>, hello: &Hello, mut accepted: Accepted) {
    let (from, remote) = (accepted.from, accepted.remote.clone());
    let place = shared.streams.enter(from);
    let met = match shared.directory.meet(from, hello.incarnation, &hello.address) {
        Ok(met) => met,
        // Between the handshake and now the configuration changed, or others came first.
        Err(refusal) => {
            tracing::debug!(peer = %from, remote, refusal = refusal.name(), "let in too early");
            return;
        }
    };
    shared.directory.with_outbox(from, |outbox| outbox.turn(false));
    let serve = async {
        let _visit = match met {
            Met::Member => None,
            Met::Stranger { visit, is_new } => Some(Visit::begin(shared, hello, visit, is_new).await),
        };
        pump(shared, &mut accepted).await
    };
    let ended = tokio::select! {
        biased;
        // Another one has its place, or it is refused from now on.
        () = place.close.notified() => return,
        ended = serve => ended,
    };
    shared.directory.with_outbox(from, |outbox| outbox.turn(true));
    match ended {
        Ok(()) => tracing::debug!(peer = %from, remote, "the peer's stream ended"),
        Err(error) => shared.reception.warn((from.0, "receiving", error.name()), || {
            format!("closed the stream of {from} at {remote}: {error}")
        }),
    }
}

/// Why a peer's stream was closed from this end.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(
        "a message from {from} to {to} came over it: another member's or cluster's traffic goes to this address"
    )]
    Misdirected { from: NodeId, to: NodeId },
    #[error("nothing came over it for too long")]
    Idle,
}

impl Fault {
    const fn name(&self) -> &'static str {
        match self {
            Self::Frame(error) if error.is_garbage() => "bad frame",
            Self::Frame(_) => "broken",
            Self::Misdirected { .. } => "misdirected",
            Self::Idle => "idle",
        }
    }
}

async fn pump(shared: &Shared, accepted: &mut Accepted) -> Result<(), Fault> {
    let mut ticker = shared.ticker();
    let mut patience = Patience::default();
    let mut out = BytesMut::new();
    loop {
        let frame = tokio::select! {
            biased;
            frame = accepted.reader.read_sized::<Frame>() => frame?,
            () = ticker.tick() => {
                match patience.ticked(accepted.reader.buffered_bytes()) {
                    Patient::GaveUp => return Err(Fault::Idle),
                    // The ping behind the frame cannot be answered yet.
                    Patient::Moving => pong(shared, &mut accepted.writer, &mut out).await?,
                    Patient::Waiting => {}
                }
                continue;
            }
        };
        patience = Patience::default();
        match frame {
            Some((Frame::Message(message), bytes)) => {
                check_direction(shared, accepted.from, &message)?;
                // Here the socket waits for the event loop.
                if shared.inbox.send(Incoming::Message(message), bytes).await.is_err() {
                    return Ok(());
                }
            }
            Some((Frame::Ping, _)) => pong(shared, &mut accepted.writer, &mut out).await?,
            None => return Ok(()),
        }
    }
}

/// A message must be between the two that the handshake named (rule 6).
fn check_direction(shared: &Shared, peer: NodeId, message: &Message) -> Result<(), Fault> {
    let Message { from, to, .. } = *message;
    if (from != peer || to != shared.member()) && !mutant!("cluster-mix") {
        return Err(Fault::Misdirected { from, to });
    }
    Ok(())
}

async fn pong(shared: &Shared, writer: &mut WriteHalf<BoxStream>, out: &mut BytesMut) -> Result<(), Fault> {
    out.clear();
    encode_frame(&Pong::Pong, HELLO_BYTES_MAX, out)?;
    let write = async {
        writer.write_all(out).await?;
        writer.flush().await
    };
    match timeout(&*shared.clock, shared.options.read_idle_max, write).await {
        Ok(written) => written.map_err(|error| Fault::Frame(error.into())),
        Err(_) => Err(Fault::Idle),
    }
}

/// The peers' streams of messages, one a peer: when a peer dials anew, its old stream is half open, and closed.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<BTreeMap<NodeId, Arc<Notify>>>);

/// A stream's place; given up when dropped.
pub(super) struct Place<'a> {
    streams: &'a Streams,
    peer: NodeId,
    /// Notified when the stream is to be closed.
    close: Arc<Notify>,
}

impl Streams {
    /// Takes the peer's place from the stream that has it.
    fn enter(&self, peer: NodeId) -> Place<'_> {
        let close = Arc::new(Notify::new());
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = streams.insert(peer, Arc::clone(&close)) {
            before.notify_one();
        }
        Place { streams: self, peer, close }
    }

    /// Closes the peer's stream, if there is one.
    pub(super) fn close(&self, peer: NodeId) {
        if let Some(close) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer) {
            close.notify_one();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut streams = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(entry) = streams.entry(self.peer)
            && Arc::ptr_eq(entry.get(), &self.close)
        {
            entry.remove();
        }
    }
}
