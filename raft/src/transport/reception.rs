//! Where streams come in: whoever is there is greeted, judged and answered, before and after the cluster is formed.
//!
//! A stranger costs little: its hello is short and has a deadline, and only so many strangers are heard at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PeerOptions;
use super::handshake::{
    Answer, Greeting, HELLO_BYTES_MAX, Hello, PROTOCOL_MAX, PROTOCOL_MIN, Purpose, Refusal, Roster, judge,
    read_hello, write_answer,
};
use super::support::{LogLimiter, Topic};
use crate::clock::{SharedClock, sleep, timeout};
use crate::codec::FrameReader;
use crate::core::NodeId;
use crate::identity::Identity;
use crate::net::{BoxStream, Listener};

/// How long to wait after a failed accept: too many open files pass by themselves.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Greets those who connect, in the name of one member.
pub(crate) struct Reception {
    clock: SharedClock,
    local: Identity,
    handshake_timeout: Duration,
    strangers: Arc<Semaphore>,
    log: LogLimiter,
}

/// A connection of someone who has not spoken yet.
pub(crate) struct Stranger {
    stream: BoxStream,
    remote: String,
    _place: OwnedSemaphorePermit,
}

/// A stream after the handshake.
pub(crate) struct Accepted {
    pub(crate) reader: FrameReader<ReadHalf<BoxStream>>,
    pub(crate) writer: WriteHalf<BoxStream>,
    pub(crate) from: NodeId,
    /// The address of the other end, for logs.
    pub(crate) remote: String,
}

impl Reception {
    pub(crate) fn new(clock: SharedClock, local: Identity, options: &PeerOptions) -> Self {
        Self {
            clock,
            local,
            handshake_timeout: options.handshake_timeout,
            strangers: Arc::new(Semaphore::new(options.handshakes_max.max(1))),
            log: LogLimiter::default(),
        }
    }

    /// Who this node is.
    pub(crate) fn local(&self) -> &Identity {
        &self.local
    }

    /// Whether to log about `topic` now: not if that was done a short while ago.
    pub(crate) fn may_log(&self, topic: Topic) -> bool {
        self.log.allow(topic, self.clock.now()).is_some()
    }

    /// Logs a warning about `topic`, unless that was done a short while ago.
    pub(crate) fn warn(&self, topic: Topic, line: impl FnOnce() -> String) {
        if let Some(held_back) = self.log.allow(topic, self.clock.now()) {
            tracing::warn!(held_back, "{}", line());
        }
    }

    /// Waits for the next connection that there is room for.
    pub(crate) async fn next(&self, listener: &mut dyn Listener) -> Stranger {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => match Arc::clone(&self.strangers).try_acquire_owned() {
                    Ok(place) => return Stranger { stream, remote, _place: place },
                    Err(_) => self.warn((0, "accepting", "strangers"), || {
                        format!("closed a connection from {remote}: too many have not said yet who they are")
                    }),
                },
                Err(error) => {
                    self.warn((0, "accepting", "accept"), || format!("cannot accept connections: {error}"));
                    sleep(&*self.clock, ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Hears and answers a stranger. `None` if that was all: it was refused, or not understood, or silent.
    ///
    /// `roster` is asked, when the hello is there, for those who are let in.
    pub(crate) async fn greet(
        &self,
        stranger: Stranger,
        roster: impl Fn(NodeId) -> Roster,
    ) -> Option<(Hello, Accepted)> {
        let Stranger { stream, remote, _place } = stranger;
        match timeout(&*self.clock, self.handshake_timeout, self.converse(stream, &remote, roster)).await {
            Ok(accepted) => accepted,
            Err(_) => {
                self.warn((0, "accepting", "slow"), || {
                    format!("closed the connection from {remote}: no hello in time")
                });
                None
            }
        }
    }

    async fn converse(
        &self,
        stream: BoxStream,
        remote: &str,
        roster: impl Fn(NodeId) -> Roster,
    ) -> Option<(Hello, Accepted)> {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader, HELLO_BYTES_MAX);
        let (hello, protocol) = match read_hello(&mut reader).await {
            Ok(Some(Greeting::Hello(hello, protocol))) => (hello, protocol),
            Ok(Some(Greeting::OtherVersion { min, max })) => {
                self.warn((0, "accepting", "version"), || {
                    format!(
                        "refused {remote}: it speaks protocol versions {min} to {max}, this node {PROTOCOL_MIN} to \
                         {PROTOCOL_MAX}: upgrade the older program"
                    )
                });
                let refusal = Refusal::Version { min: PROTOCOL_MIN, max: PROTOCOL_MAX };
                let _ = write_answer(&mut writer, &Answer::Refuse(refusal)).await;
                return None;
            }
            Ok(None) => return None,
            Err(error) => {
                self.warn((0, "accepting", "garbage"), || {
                    format!("closed the connection from {remote}: it sent no hello of a member: {error}")
                });
                return None;
            }
        };
        let answer = judge(&self.local, &roster(hello.member), &hello, protocol);
        let said = write_answer(&mut writer, &answer).await;
        if let Answer::Refuse(refusal) = &answer {
            self.log_refusal(&hello, remote, refusal);
            return None;
        }
        said.ok()?;
        let accepted = Accepted { reader, writer, from: hello.member, remote: remote.to_owned() };
        Some((hello, accepted))
    }

    fn log_refusal(&self, hello: &Hello, remote: &str, refusal: &Refusal) {
        if matches!(refusal, Refusal::NotFormed) || matches!(hello.purpose, Purpose::Join) {
            // Expected of every member that learns of the cluster a moment later than the others, and of one that
            // waits to be added; the latter's own log says what is missing.
            tracing::debug!(from = %hello.member, remote, "a member connected too early");
            return;
        }
        self.warn((hello.member.0, "accepting", refusal.name()), || {
            let why = refusal.explain(hello.member, hello.to);
            format!("refused {} from {} at {remote}: {why}", hello.purpose.name(), hello.member)
        });
    }
}
