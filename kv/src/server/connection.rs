//! One client's connection: reads requests, begins them, and writes answers as they come.
//!
//! All of it is one task that is polled, without a task or a channel for each request. A turn first collects the
//! answers that are ready, however many, and sends them with one write; then it reads, and begins all requests that
//! came with one read. So a connection with many requests under way costs few system calls, and one with a single
//! request costs one read and one write.
//!
//! Everything is bounded: requests under way (further ones are answered `Overloaded`), and answers that the client
//! does not read (no further requests are read meanwhile; a client that reads nothing for a long time is dropped).

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use raft::clock::{self, BoxFuture};
use raft::codec::FrameError;
use raft::net::BoxStream;
use tokio::sync::watch;

use crate::wire::{
    Answer, ClientHello, FRAME_BYTES_MAX, FrameStream, HELLO_BYTES_MAX, NotDone, Outcome,
    REQUEST_OVERHEAD_BYTES, Request, ServerHello, Unknown, WireError,
};

use super::Phase;
use super::service::{Pending, Service, Started};

/// With so much unsent, no more answers are collected and no more requests are read.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Serves one client until it goes away, misbehaves, or the server closes.
pub(super) async fn serve(
    service: Arc<Service>,
    stream: BoxStream,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), WireError> {
    let mut frames = FrameStream::new(stream, HELLO_BYTES_MAX);
    let handshake_timeout = service.options.handshake_timeout;
    let handshake = clock::timeout(&*service.clock, handshake_timeout, shake_hands(&service, &mut frames));
    let welcome = tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase != Phase::Serving) => return Ok(()),
        welcome = handshake => welcome,
    };
    match welcome {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Err(clock::Elapsed) => {
            return Err(WireError::Protocol(format!("no hello within {} ms", handshake_timeout.as_millis())));
        }
    }
    let mut connection = Connection {
        next_phase: next_phase(phase, Phase::Serving),
        phase: Phase::Serving,
        idle: idle(&service),
        moved_bytes: 0,
        frames,
        pending: FuturesUnordered::new(),
        service,
    };
    std::future::poll_fn(|cx| connection.turn(cx)).await
}

/// Waits until the server is further on its way to its end than `phase`.
fn next_phase(mut phases: watch::Receiver<Phase>, phase: Phase) -> PhaseFuture {
    Box::pin(async move {
        // Without a sender there is no server any more.
        let next = phases.wait_for(|now| *now > phase).await.map_or(Phase::Closed, |now| *now);
        (phases, next)
    })
}

type PhaseFuture = BoxFuture<'static, (watch::Receiver<Phase>, Phase)>;

/// Whether the client was let in.
async fn shake_hands(service: &Service, frames: &mut FrameStream) -> Result<bool, WireError> {
    let Some(hello) = frames.receive::<ClientHello>().await? else { return Ok(false) };
    let request_bytes_max = service.options.requests.request_bytes_max + super::ENCODING_BYTES;
    let request_bytes_max = u32::try_from(request_bytes_max).unwrap_or(FRAME_BYTES_MAX);
    let answer = ServerHello::answer(&hello, service.options.id, u64::from(request_bytes_max));
    frames.push(&answer)?;
    frames.send().await?;
    if let ServerHello::Refused { reason } = answer {
        return Err(WireError::Protocol(reason));
    }
    frames.set_limits(request_bytes_max + REQUEST_OVERHEAD_BYTES, FRAME_BYTES_MAX);
    Ok(true)
}

fn idle(service: &Service) -> BoxFuture<'static, ()> {
    service.clock.sleep_until(service.clock.now() + service.options.idle_max)
}

struct Connection {
    service: Arc<Service>,
    frames: FrameStream,
    pending: FuturesUnordered<Pending>,
    phase: Phase,
    next_phase: PhaseFuture,
    /// Rings now and then, to see whether anything moved since the last time.
    idle: BoxFuture<'static, ()>,
    /// What had moved then.
    moved_bytes: u64,
}

impl Connection {
    /// Does all that can be done now. `Ready` when the connection has ended.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        while self.phase != Phase::Closed
            && let Poll::Ready((phases, phase)) = self.next_phase.as_mut().poll(cx)
        {
            self.phase = phase;
            self.next_phase = next_phase(phases, phase);
        }
        if self.phase == Phase::Closed {
            return Poll::Ready(Ok(()));
        }
        if self.is_idle(cx) {
            return Poll::Ready(Err(WireError::Protocol(
                "nothing moved on the connection for too long".into(),
            )));
        }
        loop {
            self.collect_answers(cx)?;
            let sent = self.frames.poll_send(cx)?.is_ready();
            if self.phase == Phase::Draining && sent && self.pending.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !sent && self.frames.unsent_bytes() >= OUTPUT_BYTES_MAX {
                return Poll::Pending;
            }
            if self.begin_requests()? {
                continue;
            }
            match self.frames.poll_receive(cx)? {
                Poll::Ready(true) => {}
                // The answers would not be read: what is under way goes on without them.
                Poll::Ready(false) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Puts the answers that are ready into the output.
    fn collect_answers(&mut self, cx: &mut Context<'_>) -> Result<(), WireError> {
        while self.frames.unsent_bytes() < OUTPUT_BYTES_MAX && !self.pending.is_empty() {
            let Poll::Ready(Some(answer)) = self.pending.poll_next_unpin(cx) else { break };
            self.answer(&answer)?;
        }
        Ok(())
    }

    /// Begins the requests that are in the input. Whether there were any.
    fn begin_requests(&mut self) -> Result<bool, WireError> {
        let mut any = false;
        while self.frames.unsent_bytes() < OUTPUT_BYTES_MAX {
            let Some(request) = self.frames.take::<Request>()? else { break };
            any = true;
            let max = self.service.options.limits.requests_per_connection_max;
            if self.pending.len() >= max {
                let what = format!("{max} requests are under way on the connection");
                let outcome = Outcome::NotDone(NotDone::Overloaded { what });
                self.answer(&Answer { id: request.id, outcome })?;
                continue;
            }
            match self.service.start(request) {
                Started::Answered(answer) => self.answer(&answer)?,
                Started::Pending(pending) => self.pending.push(pending),
            }
        }
        Ok(any)
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), WireError> {
        match self.frames.push(answer) {
            Err(WireError::Frame(FrameError::TooLarge { .. })) => self
                .frames
                .push(&Answer { id: answer.id, outcome: Outcome::Unknown(Unknown::AnswerTooLarge) }),
            result => result,
        }
    }

    /// Whether nothing moved for so long that the client is taken for gone. A request under way is not idle.
    fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        while self.idle.as_mut().poll(cx).is_ready() {
            let waits_for_us = !self.pending.is_empty() && self.frames.unsent_bytes() == 0;
            let moved_bytes = self.frames.moved_bytes();
            if moved_bytes == self.moved_bytes && !waits_for_us {
                return true;
            }
            self.moved_bytes = moved_bytes;
            self.idle = idle(&self.service);
        }
        false
    }
}
