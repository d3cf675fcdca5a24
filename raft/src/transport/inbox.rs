//! The way from the peers' streams to the event loop: bounded in messages and in bytes; when it is full, the readers
//! wait, and so in the end the senders.

use std::sync::Arc;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Semaphore, mpsc};

use super::{Incoming, PeerOptions};

/// The event loop's end. `None` from [`recv`](Self::recv) means that the transport is gone.
#[derive(Debug)]
pub struct IncomingReceiver {
    queue: mpsc::Receiver<(Incoming, u32)>,
    bytes: Arc<Semaphore>,
}

impl IncomingReceiver {
    /// The next thing the transport has to tell; `None` after it ended. May be cancelled without loss.
    pub async fn recv(&mut self) -> Option<Incoming> {
        let (incoming, bytes) = self.queue.recv().await?;
        self.release(bytes);
        Some(incoming)
    }

    /// The next thing, if it is there already.
    ///
    /// # Errors
    /// `Empty`, or `Disconnected` after the transport ended.
    pub fn try_recv(&mut self) -> Result<Incoming, TryRecvError> {
        let (incoming, bytes) = self.queue.try_recv()?;
        self.release(bytes);
        Ok(incoming)
    }

    fn release(&self, bytes: u32) {
        self.bytes.add_permits(bytes as usize);
    }
}

/// The transport's end.
#[derive(Clone, Debug)]
pub(super) struct InboxSender {
    queue: mpsc::Sender<(Incoming, u32)>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

/// The event loop is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl InboxSender {
    /// Hands over something that took `bytes` on the wire; waits until there is room.
    ///
    /// What is larger than the whole bound waits until nothing else is there. If the caller is cancelled, its share
    /// goes back.
    pub(super) async fn send(&self, incoming: Incoming, bytes: usize) -> Result<(), Gone> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let share = self.bytes.acquire_many(bytes).await.map_err(|_| Gone)?;
        let place = self.queue.reserve().await.map_err(|_| Gone)?;
        share.forget();
        place.send((incoming, bytes));
        Ok(())
    }
}

/// A bounded way, as the options say.
pub(super) fn channel(options: &PeerOptions) -> (InboxSender, IncomingReceiver) {
    let (sender, queue) = mpsc::channel(options.incoming_messages_max.max(1));
    let bytes_max =
        u32::try_from(options.incoming_bytes_max).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
    let bytes = Arc::new(Semaphore::new(bytes_max as usize));
    (InboxSender { queue: sender, bytes: Arc::clone(&bytes), bytes_max }, IncomingReceiver { queue, bytes })
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::core::NodeId;

    fn small() -> (InboxSender, IncomingReceiver) {
        let options =
            PeerOptions { incoming_messages_max: 2, incoming_bytes_max: 100, ..PeerOptions::default() };
        channel(&options)
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_sender_waits_for_room_in_messages() {
        let (sender, mut receiver) = small();
        let event = Incoming::Connected(NodeId(1));
        for _ in 0..2 {
            assert_eq!(poll(pin!(sender.send(event.clone(), 1))), Poll::Ready(Ok(())));
        }
        let mut third = pin!(sender.send(Incoming::Connected(NodeId(3)), 1));
        assert!(poll(third.as_mut()).is_pending());
        assert_eq!(receiver.try_recv(), Ok(event));
        assert_eq!(poll(third), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_sender_waits_for_room_in_bytes_and_a_giant_waits_for_all_of_it() {
        let (sender, mut receiver) = small();
        assert!(poll(pin!(sender.send(Incoming::Connected(NodeId(1)), 60))).is_ready());
        let mut giant = pin!(sender.send(Incoming::Connected(NodeId(2)), 1_000_000));
        assert!(poll(giant.as_mut()).is_pending());
        assert_eq!(receiver.try_recv(), Ok(Incoming::Connected(NodeId(1))));
        assert!(poll(giant).is_ready());
        assert_eq!(receiver.try_recv(), Ok(Incoming::Connected(NodeId(2))));
        assert_eq!(sender.bytes.available_permits(), 100, "every byte was given back");
    }

    #[test]
    fn a_cancelled_sender_gives_its_share_back() {
        let (sender, mut receiver) = small();
        for id in 1..=2 {
            assert!(poll(pin!(sender.send(Incoming::Connected(NodeId(id)), 10))).is_ready());
        }
        {
            // It has its bytes, and waits for a place in the queue.
            let mut waiting = pin!(sender.send(Incoming::Connected(NodeId(3)), 80));
            assert!(poll(waiting.as_mut()).is_pending());
        }
        while receiver.try_recv().is_ok() {}
        assert_eq!(sender.bytes.available_permits(), 100);
    }

    #[test]
    fn a_sender_learns_that_the_event_loop_is_gone() {
        let (sender, receiver) = small();
        drop(receiver);
        assert_eq!(poll(pin!(sender.send(Incoming::Connected(NodeId(1)), 1))), Poll::Ready(Err(Gone)));
    }
}
