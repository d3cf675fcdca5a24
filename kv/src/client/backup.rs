//! Backups of a live cluster.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use raft::clock::{self, BoxFuture};
use raft::snapshot::FrameCheck;

use crate::wire::{BackupBegun, Reply, RequestBody};

use super::{Client, ClientError, Reason, confused};

/// Frames that are asked for ahead of the one that is taken: enough that node and client both have something to do.
const FRAMES_AHEAD: usize = 3;
/// The pause between two rounds of asking all nodes.
const PAUSE: Duration = Duration::from_millis(100);

/// A backup that is being read: frame by frame, each one verified. Their bytes, one after the other, are the file.
pub struct BackupStream {
    client: Client,
    endpoint: String,
    begun: BackupBegun,
    check: FrameCheck,
    /// The next frame to ask for.
    next: u64,
    asked: FuturesOrdered<BoxFuture<'static, Result<Reply, ClientError>>>,
}

impl Client {
    /// Begins a backup: of everything that was acknowledged before the call. The nodes are asked in turn, beginning with
    /// the first endpoint, until one has the backup ready; any member will do. It first writes it to its own disk, for
    /// which it has `patience`.
    ///
    /// # Errors
    /// No node had it ready in time.
    pub async fn backup(&self, patience: Duration) -> Result<BackupStream, ClientError> {
        let deadline = self.inner.clock.now() + patience;
        let give_up_at = self.inner.clock.now() + self.inner.options.request_timeout;
        let mut round: VecDeque<String> = VecDeque::new();
        loop {
            if round.is_empty() {
                round = self.inner.directory().endpoints();
            }
            let Some(endpoint) = round.pop_front() else {
                return Err(ClientError::NotDone {
                    reason: Reason::Argument("no endpoints were given".into()),
                });
            };
            let error = match self.inner.call_at_until(&endpoint, RequestBody::BackupBegin, deadline).await {
                Ok(Reply::Backup(begun)) => return Ok(self.stream(endpoint, begun)),
                Ok(_) => return Err(confused(&endpoint)),
                Err(error) => error,
            };
            // A node that has just lost its leader, or does not run: others may, and this one may soon.
            if !round.is_empty() {
                continue;
            }
            if self.inner.clock.now() >= give_up_at.min(deadline) {
                return Err(error);
            }
            clock::sleep(&*self.inner.clock, PAUSE).await;
        }
    }

    fn stream(&self, endpoint: String, begun: BackupBegun) -> BackupStream {
        let (check, asked) = (FrameCheck::default(), FuturesOrdered::new());
        BackupStream { client: self.clone(), endpoint, begun, check, next: 0, asked }
    }
}

impl BackupStream {
    /// What the node has said about it.
    #[must_use]
    pub fn begun(&self) -> &BackupBegun {
        &self.begun
    }

    /// The node that it is read from.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The next bytes of the file, verified; `None` behind the last, when all of it was there.
    ///
    /// # Errors
    /// The node failed, or what it sent is not the backup. The backup is then to be begun anew.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.check.is_complete() {
            return Ok(None);
        }
        while self.asked.len() <= FRAMES_AHEAD && self.next < self.begun.frames {
            self.ask();
        }
        let Some(reply) = self.asked.next().await else { return Err(confused(&self.endpoint)) };
        let Reply::BackupFrame(frame) = reply? else { return Err(confused(&self.endpoint)) };
        if let Err(error) = self.check.take(&frame) {
            let reason = Reason::NoAnswer { endpoint: self.endpoint.clone(), reason: error.to_string() };
            return Err(ClientError::NotDone { reason });
        }
        if self.check.is_complete() {
            self.asked.clear();
            let end = RequestBody::BackupEnd { backup: self.begun.backup };
            // If the node does not hear it, it lets the backup go by itself.
            let _ = self.client.inner.call_at(&self.endpoint, end).await;
        }
        Ok(Some(frame))
    }

    fn ask(&mut self) {
        let body = RequestBody::BackupRead { backup: self.begun.backup, frame: self.next };
        self.next += 1;
        let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
        self.asked.push_back(Box::pin(async move { client.inner.call_at(&endpoint, body).await }));
    }
}
