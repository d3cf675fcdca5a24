//! A client of the gate: finds the leader, and tells what it knows of each operation.

use std::time::Duration;

use bytes::BytesMut;
use raft::clock::{SharedClock, timeout};
use raft::codec::{FrameReader, encode_frame};
use raft::net::SharedNet;
use tokio::io::AsyncWriteExt;

use super::Model;
use super::gate::{FRAME_BYTES_MAX, Reply};
use crate::random::Random;
use crate::time::VirtualTime;

/// How long a client waits before it asks the next node.
const PAUSE_NS: u64 = 20_000_000;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended<O> {
    /// Done.
    Ok(O),
    /// Not done, nor will it be.
    Fail,
    /// Unknown.
    Info,
}

/// One client.
pub(super) struct GateClient {
    pub(super) clock: SharedClock,
    pub(super) net: SharedNet,
    pub(super) time: VirtualTime,
    pub(super) random: Random,
    /// The nodes that it knows.
    pub(super) nodes: Vec<u8>,
    /// The one that it asks next.
    pub(super) next: u8,
    pub(super) timeout_ns: u64,
}

impl GateClient {
    /// Asks for `operation` until it is done or time is up. A write is sent again only if it was certainly not done.
    pub(super) async fn perform<M: Model>(
        &mut self,
        model: &M,
        number: u64,
        operation: &M::Operation,
    ) -> Ended<M::Output> {
        let reads = model.command(operation).is_none();
        let end_ns = self.time.now_ns() + self.timeout_ns;
        while self.time.now_ns() < end_ns {
            let attempt = self.attempt::<M>(number, operation);
            match attempt.await {
                Some(Reply::Done(output)) => return Ended::Ok(output),
                Some(Reply::NotDone(_, Some(hint))) => self.next = u8::try_from(hint).unwrap_or(self.next),
                Some(Reply::NotDone(_, None)) => self.next = *self.random.pick(&self.nodes),
                Some(Reply::Unknown(_)) if !reads => return Ended::Info,
                Some(Reply::Unknown(_)) | None => self.next = *self.random.pick(&self.nodes),
            }
            self.time.sleep(PAUSE_NS).await;
        }
        Ended::Fail
    }

    /// Asks one node; `None` if it was certainly not reached.
    async fn attempt<M: Model>(&self, number: u64, operation: &M::Operation) -> Option<Reply<M::Output>> {
        let wait = Duration::from_nanos(self.timeout_ns / 3);
        let address = format!("n{}:client", self.next);
        let stream = timeout(&*self.clock, wait, self.net.connect(&address)).await.ok()?.ok()?;
        let (reading, mut writing) = tokio::io::split(stream);
        let mut frame = BytesMut::new();
        if let Err(error) = encode_frame(&(number, operation), FRAME_BYTES_MAX, &mut frame) {
            panic!("an operation that cannot be sent: {error}");
        }
        let mut frames = FrameReader::new(reading, FRAME_BYTES_MAX);
        let exchange = async {
            writing.write_all(&frame).await.ok()?;
            writing.flush().await.ok()?;
            frames.read::<Reply<M::Output>>().await.ok()?
        };
        // From the first byte on it may have been done.
        let answer = timeout(&*self.clock, wait, exchange).await.ok().flatten();
        Some(answer.unwrap_or_else(|| Reply::Unknown("no answer".to_owned())))
    }
}
