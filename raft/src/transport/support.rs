//! Small tools of the transport: tasks that end with their owner, ticks, waits that grow, and quiet logging.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::blocking::Lane;
use crate::clock::{BoxFuture, Monotonic, SharedClock};
use crate::random::SplitMix;

/// A task that is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Task(Option<JoinHandle<()>>);

impl Task {
    /// Begins `work` beside the others.
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(tokio::spawn(work)))
    }

    /// Whether it has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it, and waits until all that it held is dropped.
    pub(crate) async fn end(mut self) {
        if let Some(handle) = self.0.take() {
            handle.abort();
            // Cancelled, or finished before that: both are an end.
            let _ = handle.await;
        }
    }

    /// Waits until it ends by itself.
    pub(crate) async fn finished(mut self) {
        if let Some(handle) = self.0.take() {
            let _ = handle.await;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

/// Tasks that are ended together when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Tasks(Vec<Task>);

impl Tasks {
    /// Begins `work`; forgets those that have ended.
    pub(crate) fn spawn(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.retain(|task| !task.is_finished());
        self.0.push(Task::spawn(work));
    }
}

/// Completes again and again, `period` apart. After a freeze of the process it completes once, not for every period
/// missed: what counts ticks then does not take its own sleep for the other end's.
pub(crate) struct Ticker {
    clock: SharedClock,
    period: Duration,
    next: BoxFuture<'static, ()>,
}

impl Ticker {
    pub(crate) fn new(clock: &SharedClock, period: Duration) -> Self {
        let next = clock.sleep_until(clock.now() + period);
        Self { clock: Arc::clone(clock), period, next }
    }

    /// Waits for the next tick. May be cancelled without losing one.
    pub(crate) async fn tick(&mut self) {
        self.next.as_mut().await;
        self.next = self.clock.sleep_until(self.clock.now() + self.period);
    }
}

/// A stream is looked after this many times within `read_idle_max`.
pub(crate) const TICKS: u32 = 4;

/// Counts the ticks in which nothing came from the other end.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    idle_ticks: u32,
    /// How much of the next frame was there at the last tick.
    buffered_bytes: usize,
}

/// What a tick found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patient {
    /// More of the next frame has come.
    Moving,
    /// Nothing has come, not for too long yet.
    Waiting,
    /// The other end is gone.
    GaveUp,
}

impl Patience {
    pub(crate) fn ticked(&mut self, buffered_bytes: usize) -> Patient {
        if std::mem::replace(&mut self.buffered_bytes, buffered_bytes) != buffered_bytes {
            self.idle_ticks = 0;
            return Patient::Moving;
        }
        self.idle_ticks += 1;
        if self.idle_ticks > TICKS { Patient::GaveUp } else { Patient::Waiting }
    }
}

/// Waits that double from a smallest to a largest, each shortened by up to half at random, so that peers that lost
/// each other together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: SplitMix,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, next: min, random: SplitMix::new(seed) }
    }

    /// How long to wait now.
    pub(crate) fn draw(&mut self) -> Duration {
        let whole = u64::try_from(self.next.as_nanos()).unwrap_or(u64::MAX);
        self.next = self.next.saturating_mul(2).min(self.max);
        Duration::from_nanos(whole - self.random.below(whole / 2 + 1))
    }

    /// The next wait is a short one again.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

/// Lets a log line through once in a while for each thing and member it speaks of, so that a peer that tries again
/// and again does not fill the log.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(Mutex<BTreeMap<Topic, Said>>);

/// A member (0 for strangers), what this node was doing with it, and what went wrong.
pub(crate) type Topic = (u64, &'static str, &'static str);

/// When it was let through last, and how often it was held back since.
type Said = (Monotonic, u64);

impl LogLimiter {
    /// How long a line keeps quiet after it was let through.
    const QUIET: Duration = Duration::from_secs(30);
    /// Members are claimed by strangers too: no more than this many are remembered.
    const ENTRIES_MAX: usize = 256;

    /// Whether to log about `topic` now; if so, how many times it was held back since the last time.
    pub(crate) fn allow(&self, topic: Topic, now: Monotonic) -> Option<u64> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, held_back)) = seen.get_mut(&topic) {
            if now.since(*since) < Self::QUIET {
                *held_back += 1;
                return None;
            }
            *since = now;
            return Some(std::mem::take(held_back));
        }
        if seen.len() >= Self::ENTRIES_MAX {
            seen.retain(|_, (since, _)| now.since(*since) < Self::QUIET);
            if seen.len() >= Self::ENTRIES_MAX {
                return None;
            }
        }
        seen.insert(topic, (now, 0));
        Some(0)
    }
}

/// Writes some of `out`, or flushes what was written before. Remembers in `unflushed` what is left to do, so that it
/// may be cancelled and called again until `out` is empty and nothing is unflushed.
pub(crate) async fn write_some<W: AsyncWrite + Unpin>(
    writer: &mut W,
    out: &mut impl Buf,
    unflushed: &mut bool,
) -> io::Result<()> {
    if !out.has_remaining() {
        writer.flush().await?;
        *unflushed = false;
        return Ok(());
    }
    *unflushed = true;
    match writer.write_buf(out).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        _ => Ok(()),
    }
}

/// Runs `job` on `lane` and waits for its result; `None` if the lane is gone with its node.
///
/// The job runs to its end even if the waiter is cancelled; its result is then dropped on the lane, where dropping
/// may block.
pub(crate) async fn on_lane<T: Send + 'static>(
    lane: &Arc<dyn Lane>,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, result) = oneshot::channel();
    lane.submit(Box::new(move || {
        let _ = sender.send(job());
    }));
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_bound_with_jitter_and_starts_anew() {
        let (min, max) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut backoff = Backoff::new(min, max, 7);
        let waits: Vec<Duration> = (0..8).map(|_| backoff.draw()).collect();
        for (i, wait) in waits.iter().enumerate() {
            let whole = (min * (1 << i)).min(max);
            assert!(*wait <= whole && *wait >= whole / 2, "wait {i} is {wait:?} of {whole:?}");
        }
        assert_ne!(waits.get(5), waits.get(6), "two waits at the bound differ by their jitter");
        backoff.reset();
        assert!(backoff.draw() <= min);
    }

    #[test]
    fn a_repeated_line_is_logged_once_and_then_counted() {
        let log = LogLimiter::default();
        let at = |s: u64| Monotonic(s * 1_000_000_000);
        assert_eq!(log.allow((1, "sending", "refused"), at(0)), Some(0));
        assert_eq!(log.allow((1, "sending", "refused"), at(1)), None);
        assert_eq!(log.allow((1, "sending", "refused"), at(2)), None);
        assert_eq!(
            log.allow((2, "sending", "refused"), at(2)),
            Some(0),
            "another member's line is another line"
        );
        assert_eq!(log.allow((1, "receiving", "refused"), at(2)), Some(0), "so is the other direction's");
        assert_eq!(log.allow((1, "sending", "refused"), at(31)), Some(2));
    }

    #[test]
    fn strangers_cannot_make_the_limiter_grow() {
        let log = LogLimiter::default();
        for member in 0..10_000 {
            log.allow((member, "sending", "refused"), Monotonic(0));
        }
        assert_eq!(log.0.lock().unwrap().len(), LogLimiter::ENTRIES_MAX);
        assert_eq!(log.allow((10_001, "sending", "refused"), Monotonic(60_000_000_000)), Some(0));
    }
}
