//! The clients' way to a node: one operation at a time on a connection, each answered before the next.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use raft::codec::{FrameReader, encode_frame};
use raft::driver::{ProposeError, RaftHandle, ReadError};
use raft::net::{BoxStream, Listener};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::Model;
use super::shown::numbered;

/// The largest message.
pub(super) const FRAME_BYTES_MAX: u32 = 1 << 20;

/// What a node says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply<O> {
    /// Done.
    Done(O),
    /// Not done, nor will it be; who probably leads.
    NotDone(String, Option<u64>),
    /// Nobody knows.
    Unknown(String),
}

/// A node's gate.
pub(super) struct Gate<M: Model> {
    pub(super) model: Arc<M>,
    pub(super) raft: RaftHandle<M::Output>,
    pub(super) machine: Arc<Mutex<M::Machine>>,
}

impl<M: Model> Clone for Gate<M> {
    fn clone(&self) -> Self {
        Self { model: Arc::clone(&self.model), raft: self.raft.clone(), machine: Arc::clone(&self.machine) }
    }
}

impl<M: Model> Gate<M> {
    /// Lets clients in, for as long as the process runs.
    pub(super) async fn serve(self, mut listener: Box<dyn Listener>) {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let gate = self.clone();
                tokio::spawn(async move { gate.connection(stream).await });
            }
        }
    }

    async fn connection(self, stream: BoxStream) {
        let (reading, mut writing) = tokio::io::split(stream);
        let mut frames = FrameReader::new(reading, FRAME_BYTES_MAX);
        while let Ok(Some((number, operation))) = frames.read::<(u64, M::Operation)>().await {
            let reply = self.answer(number, &operation).await;
            let mut frame = BytesMut::new();
            let sent = match encode_frame(&reply, FRAME_BYTES_MAX, &mut frame) {
                Ok(_) => writing.write_all(&frame).await.and(writing.flush().await),
                Err(error) => panic!("an answer that cannot be sent: {error}"),
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, number: u64, operation: &M::Operation) -> Reply<M::Output> {
        let Some(command) = self.model.command(operation) else { return self.read(operation).await };
        match self.raft.propose(numbered(number, &command)).await {
            Ok(output) => Reply::Done(output),
            Err(error @ (ProposeError::OutcomeUnknown | ProposeError::Stopped)) => {
                Reply::Unknown(error.to_string())
            }
            Err(error) => {
                let hint = if let ProposeError::NotLeader { hint } = &error { *hint } else { None };
                Reply::NotDone(error.to_string(), hint.map(|id| id.0))
            }
        }
    }

    async fn read(&self, operation: &M::Operation) -> Reply<M::Output> {
        match self.raft.read_index().await {
            Ok(_) => {
                let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
                Reply::Done(self.model.read(&machine, operation))
            }
            Err(error) => {
                let hint = if let ReadError::NotLeader { hint } = &error { *hint } else { None };
                Reply::NotDone(error.to_string(), hint.map(|id| id.0))
            }
        }
    }
}
