//! The clock seam: what time it is, and waiting. `tokio::time` is used nowhere else.

use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

/// A boxed future, as the seams return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A reading of one node's monotonic clock: nanoseconds since some moment before the process began.
///
/// Readings of different nodes cannot be compared, nor can readings from before and after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// One node's clock. In simulation each node has its own, with offset, drift and steps.
pub trait Clock: Send + Sync + 'static {
    /// The time now. Never goes back, and counts the time for which the whole machine was suspended: a leader that
    /// slept through its lease must see that the lease is over (rule 13). In simulation a suspend shows as a step.
    fn now(&self) -> Monotonic;

    /// Completes when this clock reaches `deadline`, or soon after.
    fn sleep_until(&self, deadline: Monotonic) -> BoxFuture<'static, ()>;
}

/// A clock that many tasks share.
pub type SharedClock = Arc<dyn Clock>;

/// Waits for `duration` by `clock`.
pub async fn sleep(clock: &dyn Clock, duration: Duration) {
    clock.sleep_until(clock.now() + duration).await;
}

/// The time was up before the future was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Runs `future` until `deadline` at the latest. The future is dropped when time is up.
///
/// # Errors
/// [`Elapsed`] if the deadline came first. A future that is ready at the deadline wins.
pub async fn timeout_at<F: Future>(
    clock: &dyn Clock,
    deadline: Monotonic,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut expired = clock.sleep_until(deadline);
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(out) = future.as_mut().poll(cx) {
            return std::task::Poll::Ready(Ok(out));
        }
        expired.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

/// [`timeout_at`], counted from now.
///
/// # Errors
/// [`Elapsed`] if `duration` passed first.
pub async fn timeout<F: Future>(
    clock: &dyn Clock,
    duration: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    timeout_at(clock, clock.now() + duration, future).await
}

/// The real clock: `CLOCK_BOOTTIME`, which goes on while the machine sleeps, so that a suspended leader does not
/// take its lease for valid (rule 13).
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Monotonic {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let secs = u64::try_from(t.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
        Monotonic(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the seam that the ban on tokio::time protects")]
    fn sleep_until(&self, deadline: Monotonic) -> BoxFuture<'static, ()> {
        let clock = *self;
        Box::pin(async move {
            // tokio's timer does not count a suspend: look again before believing it.
            loop {
                let left = deadline.since(clock.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left).await;
            }
        })
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn the_real_clock_is_the_one_that_counts_suspend() {
        let boottime = || {
            let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
        };
        let (before, now, after) = (boottime(), RealClock.now().0, boottime());
        assert!(before <= now && now <= after, "{before} {now} {after}");
    }

    #[tokio::test]
    async fn a_real_sleep_does_not_end_early() {
        let before = RealClock.now();
        sleep(&RealClock, Duration::from_millis(20)).await;
        assert!(RealClock.now().since(before) >= Duration::from_millis(20));
    }
}
