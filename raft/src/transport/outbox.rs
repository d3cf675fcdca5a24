//! What waits for one peer: messages already encoded, so that the queue is counted in the bytes it really takes and
//! many messages go out in one write.
//!
//! There are two lines. *Appends* are large and may pile up behind a slow follower. *Control* (votes, heartbeats,
//! answers) is small, has its own share of room, and goes first. Each line keeps its order.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use serde::Serialize;
use tokio::sync::Notify;

use super::PeerOptions;
use super::link::Outgoing;
use crate::codec::encode_frame;
use crate::core::{Message, MessageBody};

/// Appends are gathered into batches of about this size, and control may go between two batches.
const BATCH_BYTES: usize = 256 * 1024;
/// The share of control messages.
const CONTROL_BYTES_MAX: usize = 256 * 1024;
const CONTROL_MESSAGES_MAX: usize = 1024;
/// Buffers kept for reuse, and the largest that is kept.
const SPARE_MAX: usize = 4;
const SPARE_BYTES_MAX: usize = 2 * BATCH_BYTES;

/// The queue to one peer.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
    /// Something about the peer has changed that the event loop may have to hear.
    turned: Notify,
    appends_max: usize,
    append_bytes_max: usize,
    frame_bytes_max: u32,
}

#[derive(Debug, Default)]
struct State {
    /// Whether there is a stream to drain it into. Without one everything is dropped: what would wait here for a peer
    /// to come back is stale by then.
    open: bool,
    loss: Loss,
    /// Whether the stream that came from the peer has broken, and no other come since ours was made.
    theirs_broke: bool,
    /// Whether the event loop is to be told again how things stand.
    retell: bool,
    control: Batch,
    appends: VecDeque<Batch>,
    append_messages: usize,
    append_bytes: usize,
    spare: Vec<BytesMut>,
}

#[derive(Debug, Default)]
struct Batch {
    frames: BytesMut,
    messages: usize,
}

/// Whether messages were dropped for want of room since the queue was last empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Loss {
    #[default]
    None,
    Unreported,
    Reported,
}

/// What [`Outbox::take`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Messages were dropped, which was not said before.
    pub(super) report_loss: bool,
}

impl Outbox {
    pub(super) fn new(options: &PeerOptions) -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            turned: Notify::new(),
            appends_max: options.queue_messages_max.max(1),
            append_bytes_max: options.queue_bytes_max.max(1),
            frame_bytes_max: options.frame_bytes_max,
        }
    }

    /// Puts a message in its line, or drops it if there is no room or no stream.
    pub(super) fn push(&self, message: &Message) {
        let mut state = self.lock();
        if !state.open {
            return;
        }
        let queued = if matches!(message.body, MessageBody::AppendEntries { .. }) {
            self.push_append(&mut state, message)
        } else {
            self.push_control(&mut state, &Outgoing::Message(message))
        };
        if !queued && state.loss == Loss::None {
            state.loss = Loss::Unreported;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Puts a ping in the control line. With no room for it, what stands there already will show that the stream
    /// lives.
    pub(super) fn ping(&self) {
        self.push_control(&mut self.lock(), &Outgoing::Ping);
    }

    fn push_control(&self, state: &mut State, frame: &Outgoing<'_>) -> bool {
        if state.control.messages >= CONTROL_MESSAGES_MAX || state.control.frames.len() >= CONTROL_BYTES_MAX {
            return false;
        }
        self.encode(frame, &mut state.control)
    }

    fn push_append(&self, state: &mut State, message: &Message) -> bool {
        if state.append_messages >= self.appends_max || state.append_bytes >= self.append_bytes_max {
            return false;
        }
        if state.appends.back().is_none_or(|batch| batch.frames.len() >= BATCH_BYTES) {
            let frames = state.spare.pop().unwrap_or_default();
            state.appends.push_back(Batch { frames, messages: 0 });
        }
        let Some(batch) = state.appends.back_mut() else { return false };
        let before = batch.frames.len();
        if !self.encode(&Outgoing::Message(message), batch) {
            return false;
        }
        state.append_bytes += batch.frames.len() - before;
        state.append_messages += 1;
        true
    }

    fn encode(&self, frame: &impl Serialize, batch: &mut Batch) -> bool {
        match encode_frame(frame, self.frame_bytes_max, &mut batch.frames) {
            Ok(()) => {
                batch.messages += 1;
                true
            }
            Err(error) => {
                // Only a configuration whose limits contradict each other leads here.
                tracing::error!(%error, "a message cannot be sent: raise frame_bytes_max");
                false
            }
        }
    }

    /// Moves all control messages, and the first batch of appends, into the buffers, which must be empty; their
    /// memory is reused.
    pub(super) fn take(&self, control: &mut BytesMut, appends: &mut BytesMut) -> Taken {
        assert!(
            control.is_empty() && appends.is_empty(),
            "taking over {} + {} bytes",
            control.len(),
            appends.len()
        );
        let mut state = self.lock();
        std::mem::swap(control, &mut state.control.frames);
        state.control.messages = 0;
        if let Some(mut batch) = state.appends.pop_front() {
            state.append_messages -= batch.messages;
            state.append_bytes -= batch.frames.len();
            std::mem::swap(appends, &mut batch.frames);
            if batch.frames.capacity() <= SPARE_BYTES_MAX && state.spare.len() < SPARE_MAX {
                state.spare.push(batch.frames);
            }
        }
        let report_loss = state.loss == Loss::Unreported;
        if control.is_empty() && appends.is_empty() {
            state.loss = Loss::None;
        } else if report_loss {
            state.loss = Loss::Reported;
        }
        Taken { report_loss }
    }

    /// Waits until something was pushed since the last wait. May be cancelled without losing the news.
    pub(super) async fn pushed(&self) {
        self.wake.notified().await;
    }

    /// The stream from the peer to this node broke, or another one came.
    pub(super) fn turn(&self, theirs_broke: bool) {
        self.lock().theirs_broke = theirs_broke;
        self.turned.notify_one();
    }

    /// Lets the event loop be told again how things stand: it may not have cared so far.
    pub(super) fn retell(&self) {
        self.lock().retell = true;
        self.turned.notify_one();
    }

    /// Whether the event loop takes the peer for connected.
    pub(super) fn is_connected(&self) -> bool {
        let state = self.lock();
        state.open && !state.theirs_broke
    }

    /// Waits until [`turn`](Self::turn) or [`retell`](Self::retell) was called. May be cancelled without losing the news.
    pub(super) async fn turned(&self) {
        self.turned.notified().await;
    }

    /// Whether the stream from the peer is broken, and whether all is to be told again.
    pub(super) fn take_turn(&self) -> (bool, bool) {
        let mut state = self.lock();
        (state.theirs_broke, std::mem::take(&mut state.retell))
    }

    /// From now on messages are kept. What was there before is gone.
    pub(super) fn open(&self) {
        *self.lock() = State { open: true, ..State::default() };
    }

    /// From now on messages are dropped; what waits is dropped now, and its memory given back.
    pub(super) fn close(&self) {
        *self.lock() = State::default();
    }

    /// How many bytes wait.
    #[cfg(all(test, not(madsim)))]
    pub(super) fn bytes(&self) -> usize {
        let state = self.lock();
        state.control.frames.len() + state.appends.iter().map(|batch| batch.frames.len()).sum::<usize>()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, Bytes};

    use super::*;
    use crate::codec::{FRAME_HEADER_BYTES, decode_body, first_frame};
    use crate::core::{Entry, Index, LogId, NodeId, Payload, Term};
    use crate::transport::link::Frame;

    fn append(number: u64, bytes: usize) -> Message {
        let payload = Payload::Command(Bytes::from(vec![7; bytes]));
        let entry = Entry { term: Term(1), index: Index(number), payload };
        let body =
            MessageBody::AppendEntries { prev: LogId::ZERO, entries: vec![entry], commit: Index(number) };
        Message { from: NodeId(1), to: NodeId(2), term: Term(1), body }
    }

    fn heartbeat(round: u64) -> Message {
        let body = MessageBody::Heartbeat { commit: Index(0), round, lease: false };
        Message { from: NodeId(1), to: NodeId(2), term: Term(1), body }
    }

    fn open(messages: usize, bytes: usize) -> Outbox {
        let options =
            PeerOptions { queue_messages_max: messages, queue_bytes_max: bytes, ..PeerOptions::default() };
        let outbox = Outbox::new(&options);
        outbox.open();
        outbox
    }

    /// The messages in a buffer, by number.
    fn decode(buffer: &mut BytesMut) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(body) = first_frame(buffer, u32::MAX).unwrap() {
            let name = match decode_body(body).unwrap() {
                Frame::Ping => "ping".to_owned(),
                Frame::Message(m) => match m.body {
                    MessageBody::AppendEntries { commit, .. } => format!("append {commit}"),
                    MessageBody::Heartbeat { round, .. } => format!("heartbeat {round}"),
                    other => other.name().to_owned(),
                },
            };
            found.push(name);
            let length = body.len();
            buffer.advance(FRAME_HEADER_BYTES + length);
        }
        assert!(buffer.is_empty(), "{} bytes are not a frame", buffer.len());
        found
    }

    fn take(outbox: &Outbox) -> (Vec<String>, Vec<String>, bool) {
        let (mut control, mut appends) = (BytesMut::new(), BytesMut::new());
        let taken = outbox.take(&mut control, &mut appends);
        (decode(&mut control), decode(&mut appends), taken.report_loss)
    }

    #[test]
    fn messages_keep_their_order_within_their_line() {
        let outbox = open(10, 1000);
        for i in 1..=3 {
            outbox.push(&append(i, 1));
            outbox.push(&heartbeat(i));
        }
        outbox.ping();
        let (control, appends, lost) = take(&outbox);
        assert_eq!(control, ["heartbeat 1", "heartbeat 2", "heartbeat 3", "ping"]);
        assert_eq!(appends, ["append 1", "append 2", "append 3"]);
        assert!(!lost);
    }

    #[test]
    fn a_full_queue_drops_appends_and_says_so_once() {
        let outbox = open(2, usize::MAX);
        for i in 1..=5 {
            outbox.push(&append(i, 1));
        }
        let (_, appends, lost) = take(&outbox);
        assert_eq!(appends, ["append 1", "append 2"]);
        assert!(lost);
        for i in 6..=9 {
            outbox.push(&append(i, 1));
        }
        assert!(!take(&outbox).2, "it never was empty since: the loss is known");
        assert_eq!(take(&outbox), (vec![], vec![], false));
        for i in 10..=13 {
            outbox.push(&append(i, 1));
        }
        assert!(take(&outbox).2, "a new loss");
    }

    #[test]
    fn bytes_are_bounded_to_within_one_message() {
        let outbox = open(usize::MAX, 1000);
        for i in 1..=100 {
            outbox.push(&append(i, 300));
        }
        let (_, appends, lost) = take(&outbox);
        assert_eq!((appends.len(), lost), (4, true));
        let state = outbox.lock();
        assert_eq!((state.append_bytes, state.append_messages), (0, 0), "quota goes back with what is taken");
    }

    #[test]
    fn control_has_its_own_room_and_does_not_wait_behind_appends() {
        let outbox = open(1, 1);
        for i in 1..=5 {
            outbox.push(&append(i, 1000));
        }
        outbox.push(&heartbeat(1));
        let (control, appends, _) = take(&outbox);
        assert_eq!(
            (control.as_slice(), appends.as_slice()),
            (["heartbeat 1".into()].as_slice(), ["append 1".into()].as_slice())
        );
        assert_eq!(take(&outbox), (vec![], vec![], false));
        for i in 0..10_000 {
            outbox.push(&heartbeat(i));
        }
        let (control, _, lost) = take(&outbox);
        assert_eq!((control.len(), lost), (CONTROL_MESSAGES_MAX, true), "and it is bounded too");
    }

    #[test]
    fn appends_are_taken_batch_by_batch() {
        let outbox = open(usize::MAX, usize::MAX);
        for i in 1..=5 {
            outbox.push(&append(i, BATCH_BYTES));
        }
        for i in 1..=5 {
            outbox.push(&heartbeat(i));
            let (control, appends, _) = take(&outbox);
            assert_eq!(control, [format!("heartbeat {i}")], "control goes between two batches");
            assert_eq!(appends, [format!("append {i}")]);
        }
    }

    #[test]
    fn without_a_stream_everything_is_dropped() {
        let outbox = open(10, 1000);
        outbox.push(&append(1, 1));
        outbox.close();
        outbox.push(&append(2, 1));
        outbox.open();
        outbox.push(&append(3, 1));
        assert_eq!(take(&outbox), (vec![], vec!["append 3".to_owned()], false));
    }

    #[test]
    fn a_message_over_the_frame_limit_counts_as_lost_and_leaves_the_others_whole() {
        let outbox = Outbox::new(&PeerOptions { frame_bytes_max: 200, ..PeerOptions::default() });
        outbox.open();
        outbox.push(&append(1, 10));
        outbox.push(&append(2, 500));
        outbox.push(&append(3, 10));
        assert_eq!(take(&outbox), (vec![], vec!["append 1".to_owned(), "append 3".to_owned()], true));
    }
}
