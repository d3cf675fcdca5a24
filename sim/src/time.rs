//! Virtual time: nanoseconds since the world began, and waiting for one.
//!
//! The runtime's own `sleep` lasts at least a millisecond and registers a new timer each time it is polled. An
//! [`Alarm`] is exact, and registers once: its owner says who is to be woken, and when, separately.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use madsim::time::TimeHandle;

/// The world's clock, by which everything happens; no node can read it.
#[derive(Clone)]
pub struct VirtualTime {
    handle: TimeHandle,
}

impl VirtualTime {
    /// The clock of the world that this runs in. Panics outside one.
    #[must_use]
    pub fn current() -> Self {
        Self { handle: TimeHandle::current() }
    }

    /// Nanoseconds since the world began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.handle.elapsed().as_nanos() as u64
    }

    /// Waits until `deadline_ns`.
    pub async fn sleep_until(&self, deadline_ns: u64) {
        let alarm = Alarm::new();
        poll_fn(|cx| {
            if self.now_ns() >= deadline_ns {
                return Poll::Ready(());
            }
            alarm.register(Side::Read, cx.waker());
            alarm.arm(self, deadline_ns);
            Poll::Pending
        })
        .await;
    }

    /// Waits for `duration_ns`.
    pub async fn sleep(&self, duration_ns: u64) {
        self.sleep_until(self.now_ns().saturating_add(duration_ns)).await;
    }
}

/// Which of the (at most) two tasks that wait for one alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that reads, or the only one.
    Read,
    /// The one that writes.
    Write,
}

/// Wakes up to two tasks at a time that can be set anew.
pub struct Alarm {
    entry: Arc<Entry>,
}

#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

struct Entry {
    /// When the earliest registered timer fires; `u64::MAX` if none is registered.
    armed_ns: AtomicU64,
    wakers: Mutex<Wakers>,
}

impl Entry {
    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in [wakers.read, wakers.write].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.armed_ns.store(u64::MAX, Ordering::Relaxed);
        self.wake_all();
    }
}

impl Alarm {
    /// An alarm that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self { entry: Arc::new(Entry { armed_ns: AtomicU64::new(u64::MAX), wakers: Mutex::default() }) }
    }

    /// Whom to wake. Replaces whoever was to be woken before on this side.
    pub fn register(&self, side: Side, waker: &Waker) {
        let mut wakers = self.entry.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match side {
            Side::Read => &mut wakers.read,
            Side::Write => &mut wakers.write,
        };
        match slot {
            Some(old) if old.will_wake(waker) => {}
            _ => *slot = Some(waker.clone()),
        }
    }

    /// Wakes whoever is registered at `deadline_ns`, or earlier if it was set to an earlier time: the woken look
    /// again and set it anew.
    pub fn arm(&self, time: &VirtualTime, deadline_ns: u64) {
        if self.entry.armed_ns.load(Ordering::Relaxed) <= deadline_ns {
            return;
        }
        self.entry.armed_ns.store(deadline_ns, Ordering::Relaxed);
        let now_ns = time.now_ns();
        let wait = Duration::from_nanos(deadline_ns.saturating_sub(now_ns));
        let mut timer = time.handle.sleep(wait);
        let deadline = time.handle.now_instant() + wait;
        // `sleep` rounds up to a millisecond; `reset` does not.
        Pin::new(&mut timer).reset(deadline);
        let waker = Waker::from(Arc::clone(&self.entry));
        if Pin::new(&mut timer).poll(&mut Context::from_waker(&waker)).is_ready() {
            waker.wake();
        }
    }

    /// Wakes whoever is registered now.
    pub fn wake(&self) {
        self.entry.wake_all();
    }

    /// Wakes one side now.
    pub fn wake_side(&self, side: Side) {
        let mut wakers = self.entry.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = match side {
            Side::Read => wakers.read.take(),
            Side::Write => wakers.write.take(),
        };
        drop(wakers);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What can wake this alarm when its owner is not at hand.
    #[must_use]
    pub fn remote(&self) -> RemoteAlarm {
        RemoteAlarm { entry: Arc::downgrade(&self.entry) }
    }
}

impl Default for Alarm {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // A timer cannot be taken back; let it find nobody to wake.
        *self.entry.wakers.lock().unwrap_or_else(PoisonError::into_inner) = Wakers::default();
    }
}

/// Wakes an [`Alarm`] while it exists.
#[derive(Clone)]
pub struct RemoteAlarm {
    entry: std::sync::Weak<Entry>,
}

impl RemoteAlarm {
    /// Wakes whoever is registered; false if the alarm is gone.
    pub fn wake(&self) -> bool {
        self.entry.upgrade().map(|entry| entry.wake_all()).is_some()
    }

    /// Whether the alarm still exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.entry.strong_count() > 0
    }
}
