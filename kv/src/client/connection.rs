//! One connection to one node: many requests under way, one task, no locks.
//!
//! What matters beside speed is the truth about requests that stay without an answer: whether a byte of them left.
//! The connection knows at which position of its output each request begins, and how far the stream has taken it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use raft::clock::{self, SharedClock};
use raft::codec::FrameError;
use raft::net::SharedNet;
use tokio::sync::{mpsc, oneshot};

use crate::wire::{
    Answer, ClientHello, FRAME_BYTES_MAX, FrameStream, HELLO_BYTES_MAX, NotDone, Outcome, PROTOCOL_MAX,
    PROTOCOL_MIN, REQUEST_OVERHEAD_BYTES, RequestBody, ServerHello, WireError,
};

use super::ClientOptions;

/// Requests that may wait to be written.
const QUEUE_MAX: usize = 256;
/// Requests that may be under way.
const INFLIGHT_MAX: usize = 4096;
/// With so much unsent, no further request is taken from the queue.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// No answer will come.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// Whether a byte of the request left: then the node may have it.
    pub(super) sent: bool,
    /// What happened to the connection.
    pub(super) why: String,
}

type Waiter = oneshot::Sender<Result<Outcome, Lost>>;

struct Outgoing {
    body: Arc<RequestBody>,
    waiter: Waiter,
}

/// An open connection. It closes when all clones are dropped and nothing is under way.
#[derive(Clone)]
pub(super) struct Connection {
    queue: mpsc::Sender<Outgoing>,
}

impl Connection {
    /// Connects and shakes hands.
    pub(super) async fn open(
        clock: &SharedClock,
        net: &SharedNet,
        address: &str,
        options: &ClientOptions,
    ) -> Result<Self, String> {
        let opening = async {
            let stream = net.connect(address).await.map_err(|e| e.to_string())?;
            let mut frames = FrameStream::new(stream, HELLO_BYTES_MAX);
            let request_bytes_max = shake_hands(&mut frames).await.map_err(|e| e.to_string())?;
            let request_bytes_max = u32::try_from(request_bytes_max).unwrap_or(FRAME_BYTES_MAX);
            frames.set_limits(FRAME_BYTES_MAX, request_bytes_max.saturating_add(REQUEST_OVERHEAD_BYTES));
            Ok::<_, String>((frames, request_bytes_max))
        };
        let Ok(opened) = clock::timeout(&**clock, options.connect_timeout, opening).await else {
            return Err(format!("no connection within {} ms", options.connect_timeout.as_millis()));
        };
        let (frames, request_bytes_max) = opened?;
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(Running { frames, requests, request_bytes_max, waiting: BTreeMap::new(), next_id: 1 });
        Ok(Self { queue })
    }

    /// Whether it is known to be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Whether both are handles to one connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.queue.same_channel(&other.queue)
    }

    /// Sends a request and waits for what becomes of it.
    pub(super) async fn request(&self, body: Arc<RequestBody>) -> Result<Outcome, Lost> {
        let (waiter, answer) = oneshot::channel();
        if self.queue.send(Outgoing { body, waiter }).await.is_err() {
            return Err(Lost { sent: false, why: "the connection is closed".into() });
        }
        // The task answers each request before it ends, unless it is torn down with the whole runtime.
        answer.await.unwrap_or_else(|_| Err(Lost { sent: true, why: "the client is going down".into() }))
    }
}

async fn shake_hands(frames: &mut FrameStream) -> Result<u64, WireError> {
    frames.push(&ClientHello::CURRENT)?;
    frames.send().await?;
    match frames.receive::<ServerHello>().await? {
        Some(ServerHello::Welcome { protocol: PROTOCOL_MIN..=PROTOCOL_MAX, request_bytes_max, .. }) => {
            Ok(request_bytes_max)
        }
        Some(ServerHello::Welcome { protocol, .. }) => Err(WireError::Protocol(format!(
            "the server chose protocol version {protocol}, which was not offered"
        ))),
        Some(ServerHello::Refused { reason }) => Err(WireError::Protocol(reason)),
        None => Err(WireError::Protocol("the server closed the connection during the handshake".into())),
    }
}

/// A request that was put into the output.
struct Waiting {
    waiter: Waiter,
    /// Where in the output, counted since the beginning, its first byte stands.
    begins_at: u64,
}

/// The task of a connection.
struct Running {
    frames: FrameStream,
    requests: mpsc::Receiver<Outgoing>,
    request_bytes_max: u32,
    waiting: BTreeMap<u64, Waiting>,
    next_id: u64,
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let why = match this.turn(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => "the connection was closed".to_owned(),
            Poll::Ready(Err(error)) => error.to_string(),
        };
        this.fail_all(&why);
        Poll::Ready(())
    }
}

impl Running {
    /// Does all that can be done now. `Ready` when the connection has ended.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        loop {
            let mut abandoned = false;
            while self.frames.unsent_bytes() < OUTPUT_BYTES_MAX {
                match self.requests.poll_recv(cx) {
                    Poll::Ready(Some(request)) => self.begin(request)?,
                    Poll::Ready(None) => {
                        abandoned = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            if let Poll::Ready(result) = self.frames.poll_send(cx) {
                result?;
            }
            while let Some(Answer { id, outcome }) = self.frames.take()? {
                let Some(waiting) = self.waiting.remove(&id) else {
                    return Poll::Ready(Err(WireError::Protocol(format!(
                        "an answer to request {id}, which is not open"
                    ))));
                };
                // Whoever asked may have given up.
                let _ = waiting.waiter.send(Ok(outcome));
            }
            // Nobody can ask anything more: stay for those who still wait, and only for them.
            if abandoned && self.waiting.values_mut().all(|w| w.waiter.poll_closed(cx).is_ready()) {
                return Poll::Ready(Ok(()));
            }
            match self.frames.poll_receive(cx)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Puts a request into the output.
    fn begin(&mut self, request: Outgoing) -> Result<(), WireError> {
        let Outgoing { body, waiter } = request;
        if waiter.is_closed() {
            return Ok(());
        }
        if self.waiting.len() >= INFLIGHT_MAX {
            // Answers to requests that were given up may never come.
            let what = format!("{INFLIGHT_MAX} requests are under way on the connection");
            let _ = waiter.send(Ok(Outcome::NotDone(NotDone::Overloaded { what })));
            return Ok(());
        }
        let id = self.next_id;
        let begins_at = self.frames.written_bytes() + self.frames.unsent_bytes() as u64;
        match self.frames.push(&(id, &*body)) {
            Ok(()) => {
                self.next_id += 1;
                self.waiting.insert(id, Waiting { waiter, begins_at });
                Ok(())
            }
            Err(WireError::Frame(FrameError::TooLarge { .. })) => {
                let reason =
                    format!("the request is larger than the limit of {} bytes", self.request_bytes_max);
                let _ = waiter.send(Ok(Outcome::NotDone(NotDone::TooLarge { reason })));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn fail_all(&mut self, why: &str) {
        let written = self.frames.written_bytes();
        for (_, Waiting { waiter, begins_at }) in std::mem::take(&mut self.waiting) {
            let _ = waiter.send(Err(Lost { sent: begins_at < written, why: why.to_owned() }));
        }
        self.requests.close();
        while let Ok(Outgoing { waiter, .. }) = self.requests.try_recv() {
            let _ = waiter.send(Err(Lost { sent: false, why: why.to_owned() }));
        }
    }
}
