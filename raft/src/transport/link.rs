//! The sending half of a peer: dials it, drains its queue into the stream, and dials again when that breaks.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::dial::{DialError, Dialled, dial};
use super::handshake::{Purpose, Refusal, check_accept};
use super::outbox::Outbox;
use super::support::{Backoff, TICKS, Ticker, write_some};
use super::{Incoming, Shared};
use crate::clock::sleep;
use crate::codec::{FrameError, FrameReader};
use crate::core::{Message, NodeId};
use crate::net::BoxStream;

/// What travels on a stream of messages, as it is sent.
#[derive(Debug, Serialize)]
pub(super) enum Outgoing<'a> {
    Message(&'a Message),
    Ping,
}

/// The same, as it is received.
#[derive(Debug, Deserialize)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are messages, and a box would be an allocation for each"
)]
pub(super) enum Frame {
    Message(Message),
    /// To be answered with a [`Pong`].
    Ping,
}

/// All that travels against the direction of the stream once the handshake is over: the answer to a ping, which is
/// also given unasked while a long frame is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Pong {
    Pong,
}

/// Why a stream to a peer ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the peer closed it")]
    Closed,
    #[error("{0}")]
    Broken(#[from] FrameError),
    #[error("the peer takes nothing any more")]
    Stalled,
    #[error("the peer does not answer pings")]
    Silent,
    #[error("the event loop is gone")]
    Gone,
}

/// One peer's link. It lives as long as the peer has this address.
pub(super) struct Link {
    shared: Arc<Shared>,
    to: NodeId,
    address: String,
    outbox: Arc<Outbox>,
    backoff: Backoff,
    /// Whether the event loop was told that the peer cannot be reached, and nothing better since.
    told_unreachable: bool,
    /// Whether the event loop was told that the peer is connected, and nothing worse since.
    told_connected: bool,
    tried: Option<oneshot::Sender<()>>,
}

impl Link {
    /// `told_connected`: whether it takes the place of a link that the event loop takes for connected. `tried` is told
    /// when the first attempt to connect has ended.
    pub(super) fn new(
        shared: Arc<Shared>,
        to: NodeId,
        address: String,
        outbox: Arc<Outbox>,
        seed: u64,
        told_connected: bool,
        tried: Option<oneshot::Sender<()>>,
    ) -> Self {
        let backoff = Backoff::new(shared.options.backoff_min, shared.options.backoff_max, seed);
        Self { shared, to, address, outbox, backoff, told_unreachable: false, told_connected, tried }
    }

    /// Dials and sends until dropped.
    pub(super) async fn run(mut self) {
        // What waited in the queue of the one before is lost.
        if self.told_connected && !self.tell_unreachable().await {
            return;
        }
        loop {
            match self.connect().await {
                Ok(stream) => {
                    let began = self.shared.clock.now();
                    let ended = self.serve(stream).await;
                    if !matches!(ended, Ended::Gone) {
                        self.log_end(&ended);
                    }
                    // A peer that accepts and hangs up at once is left alone for longer and longer.
                    if self.shared.clock.now().since(began) >= self.shared.options.backoff_max {
                        self.backoff.reset();
                    }
                }
                Err(error) => {
                    self.log(&error);
                    let by = self.to;
                    if matches!(error, DialError::Refused(Refusal::Removed))
                        && self.tell(Incoming::Removed { by }).await.is_err()
                    {
                        return;
                    }
                }
            }
            self.tried();
            if self.tell_connected(false).await.is_err() || !self.tell_unreachable().await {
                return;
            }
            sleep(&*self.shared.clock, self.backoff.draw()).await;
        }
    }

    async fn connect(&self) -> Result<Dialled, DialError> {
        let hello = self.shared.hello(self.to, Purpose::Messages);
        let Shared { clock, net, options, record, directory, .. } = &*self.shared;
        let dialled = dial(&**clock, &**net, &self.address, &hello, options).await?;
        check_accept(record.cluster, self.to, directory.incarnation(self.to), &dialled.answer)
            .map_err(DialError::Mismatch)?;
        Ok(dialled)
    }

    /// Sends on a new stream until it ends. The event loop hears of both.
    async fn serve(&mut self, stream: Dialled) -> Ended {
        tracing::debug!(peer = %self.to, address = self.address, "connected");
        self.outbox.open();
        self.told_unreachable = false;
        if let Err(gone) = self.tell_connected(true).await {
            return gone;
        }
        self.tried();
        let ended = match self.pump(stream.reader, stream.writer).await {
            Err(ended) => ended,
            Ok(never) => match never {},
        };
        self.outbox.close();
        ended
    }

    /// The first attempt is over.
    fn tried(&mut self) {
        if let Some(tried) = self.tried.take() {
            // Whoever asked may be gone.
            let _ = tried.send(());
        }
    }

    /// Tells the event loop how it stands with the peer, unless that is what it was told last.
    async fn tell_connected(&mut self, connected: bool) -> Result<(), Ended> {
        if std::mem::replace(&mut self.told_connected, connected) == connected {
            return Ok(());
        }
        let to = self.to;
        self.tell(if connected { Incoming::Connected(to) } else { Incoming::Disconnected(to) }).await
    }

    /// Hears of the stream that comes from the peer: the end of that one, too, may be the end of the peer.
    async fn on_turn(&mut self) -> Result<(), Ended> {
        let (theirs_broke, retell) = self.outbox.take_turn();
        if retell {
            self.told_connected = false;
        }
        self.tell_connected(!theirs_broke).await
    }

    /// Moves what is queued into the stream.
    async fn pump(
        &mut self,
        mut reader: FrameReader<ReadHalf<BoxStream>>,
        mut writer: WriteHalf<BoxStream>,
    ) -> Result<std::convert::Infallible, Ended> {
        let (mut control, mut appends) = (BytesMut::new(), BytesMut::new());
        let mut watch = Watch::new(&self.shared);
        let outbox = Arc::clone(&self.outbox);
        loop {
            if outbox.take(&mut control, &mut appends).report_loss {
                tracing::debug!(peer = %self.to, "the queue was full: messages were dropped");
                self.tell(Incoming::Unreachable(self.to)).await?;
            }
            if control.is_empty() && appends.is_empty() {
                // The rare first, so that a busy queue cannot starve them.
                tokio::select! {
                    biased;
                    pong = reader.read::<Pong>() => watch.heard(pong)?,
                    () = watch.ticker.tick() => watch.ticked(&outbox, false)?,
                    () = outbox.turned() => self.on_turn().await?,
                    () = outbox.pushed() => {}
                }
                continue;
            }
            let mut out = Buf::chain(control.as_ref(), appends.as_ref());
            let mut unflushed = true;
            while unflushed {
                tokio::select! {
                    biased;
                    pong = reader.read::<Pong>() => watch.heard(pong)?,
                    () = watch.ticker.tick() => watch.ticked(&outbox, true)?,
                    () = outbox.turned() => self.on_turn().await?,
                    written = write_some(&mut writer, &mut out, &mut unflushed) => {
                        written.map_err(FrameError::Io)?;
                        watch.stalled_ticks = 0;
                    }
                }
            }
            control.clear();
            appends.clear();
        }
    }

    async fn tell(&self, incoming: Incoming) -> Result<(), Ended> {
        self.shared.inbox.send(incoming, 0).await.map_err(|_| Ended::Gone)
    }

    /// Whether there still is an event loop.
    async fn tell_unreachable(&mut self) -> bool {
        if self.told_unreachable {
            return true;
        }
        self.told_unreachable = true;
        self.tell(Incoming::Unreachable(self.to)).await.is_ok()
    }

    fn log_end(&self, ended: &Ended) {
        let (to, address) = (self.to, &self.address);
        if self.shared.reception.may_log((to.0, "sending", "ended")) {
            tracing::info!(peer = %to, address, "the stream to {to} ended: {ended}");
        }
    }

    fn log(&self, error: &DialError) {
        let (local, to, address) = (self.shared.member(), self.to, &self.address);
        if matches!(error, DialError::Refused(Refusal::NotFormed)) {
            tracing::debug!(peer = %to, address, "it does not know of the cluster yet");
            return;
        }
        self.shared.reception.warn((to.0, "sending", error.name()), || {
            format!("cannot send to {to} at {address}: {}", error.explain(local, to))
        });
    }
}

/// Notices that the other end is gone although nothing breaks: a frozen process, a cut cable.
struct Watch {
    ticker: Ticker,
    /// Ticks since a write last made progress, while one was under way.
    stalled_ticks: u32,
    /// Ticks since anything was heard.
    silent_ticks: u32,
}

impl Watch {
    fn new(shared: &Shared) -> Self {
        Self { ticker: shared.ticker(), stalled_ticks: 0, silent_ticks: 0 }
    }

    fn heard(&mut self, pong: Result<Option<Pong>, FrameError>) -> Result<(), Ended> {
        match pong? {
            Some(Pong::Pong) => self.silent_ticks = 0,
            None => return Err(Ended::Closed),
        }
        Ok(())
    }

    /// Pings at every tick, whatever else is sent: only an answer shows that the other end still takes it in.
    fn ticked(&mut self, outbox: &Outbox, writing: bool) -> Result<(), Ended> {
        self.stalled_ticks = if writing { self.stalled_ticks + 1 } else { 0 };
        self.silent_ticks += 1;
        if self.stalled_ticks > TICKS {
            return Err(Ended::Stalled);
        }
        if self.silent_ticks > TICKS {
            return Err(Ended::Silent);
        }
        outbox.ping();
        Ok(())
    }
}

impl Shared {
    /// A ticker for looking after a stream.
    pub(super) fn ticker(&self) -> Ticker {
        Ticker::new(&self.clock, (self.options.read_idle_max / TICKS).max(Duration::from_millis(1)))
    }
}
