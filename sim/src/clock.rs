//! One node's clock in the simulation: virtual time seen through an offset, a drift, steps and freezes.
//!
//! The clock seam promises that readings never go back, so a clock that is set back shows as one that stands still
//! until it has been caught up: that is what [`SimClock::freeze`] is for, and why a step goes forward only. Readings
//! from before and after a restart cannot be compared: each start of a node gets a clock of its own offset.
//!
//! A timer is kept in local time. When the clock changes, its sleepers are woken and work out anew when to wake.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use raft::clock::{BoxFuture, Clock, Monotonic};

use crate::time::{Alarm, RemoteAlarm, Side, VirtualTime};

/// Parts in a million.
const MILLION: i128 = 1_000_000;

/// One node's clock. Clones are the same clock.
#[derive(Clone)]
pub struct SimClock {
    shared: Arc<Shared>,
}

struct Shared {
    time: VirtualTime,
    state: Mutex<State>,
}

struct State {
    /// At this virtual time the clock showed `base_local_ns`.
    base_virtual_ns: u64,
    base_local_ns: u64,
    drift_ppm: i64,
    frozen: bool,
    sleepers: Vec<RemoteAlarm>,
    /// Dead sleepers are swept out when there are this many.
    sweep_at: usize,
}

impl State {
    fn local_at(&self, virtual_ns: u64) -> u64 {
        if self.frozen {
            return self.base_local_ns;
        }
        let passed = i128::from(virtual_ns.saturating_sub(self.base_virtual_ns));
        let local = passed + passed * i128::from(self.drift_ppm) / MILLION;
        self.base_local_ns + u64::try_from(local).unwrap_or(0)
    }

    /// The first virtual time at which the clock shows `local_ns`; `None` while it stands still.
    fn virtual_at(&self, local_ns: u64) -> Option<u64> {
        if self.frozen {
            return None;
        }
        let wanted = i128::from(local_ns.saturating_sub(self.base_local_ns));
        let rate = MILLION + i128::from(self.drift_ppm);
        let passed = (wanted * MILLION + rate - 1) / rate;
        Some(self.base_virtual_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    fn rebase(&mut self, virtual_ns: u64) {
        self.base_local_ns = self.local_at(virtual_ns);
        self.base_virtual_ns = virtual_ns;
    }
}

impl SimClock {
    /// A clock that shows `offset_ns` now and runs `drift_ppm` parts in a million too fast (or, below zero, too
    /// slow).
    #[must_use]
    pub fn new(time: VirtualTime, offset_ns: u64, drift_ppm: i64) -> Self {
        assert!(i128::from(drift_ppm).abs() < MILLION, "a drift of {drift_ppm} ppm");
        let state = State {
            base_virtual_ns: time.now_ns(),
            base_local_ns: offset_ns,
            drift_ppm,
            frozen: false,
            sleepers: Vec::new(),
            sweep_at: 64,
        };
        Self { shared: Arc::new(Shared { time, state: Mutex::new(state) }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.rebase(self.shared.time.now_ns());
        change(&mut state);
        state.sleepers.retain(RemoteAlarm::wake);
    }

    /// The clock jumps ahead by `by_ns`.
    pub fn step(&self, by_ns: u64) {
        self.change(|state| state.base_local_ns += by_ns);
    }

    /// From now on the clock runs at another rate.
    pub fn set_drift(&self, drift_ppm: i64) {
        assert!(i128::from(drift_ppm).abs() < MILLION, "a drift of {drift_ppm} ppm");
        self.change(|state| state.drift_ppm = drift_ppm);
    }

    /// The clock stands still until [`thaw`](Self::thaw).
    pub fn freeze(&self) {
        self.change(|state| state.frozen = true);
    }

    /// The clock goes on from where it stands.
    pub fn thaw(&self) {
        self.change(|state| state.frozen = false);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Monotonic {
        Monotonic(self.lock().local_at(self.shared.time.now_ns()))
    }

    fn sleep_until(&self, deadline: Monotonic) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        Box::pin(async move {
            let alarm = Alarm::new();
            let mut enrolled = false;
            poll_fn(|cx| {
                let mut state = clock.lock();
                if state.local_at(clock.shared.time.now_ns()) >= deadline.0 {
                    return Poll::Ready(());
                }
                if !enrolled {
                    enrolled = true;
                    state.sleepers.push(alarm.remote());
                    if state.sleepers.len() >= state.sweep_at {
                        state.sleepers.retain(RemoteAlarm::is_alive);
                        state.sweep_at = 64.max(2 * state.sleepers.len());
                    }
                }
                alarm.register(Side::Read, cx.waker());
                if let Some(virtual_ns) = state.virtual_at(deadline.0) {
                    alarm.arm(&clock.shared.time, virtual_ns);
                }
                Poll::Pending
            })
            .await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use raft::clock::{sleep, timeout};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn world(test: impl Future<Output = ()>) {
        madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(test);
    }

    /// Virtual nanoseconds that `work` takes, to the next ten microseconds: each poll takes a few dozen.
    async fn measure(time: &VirtualTime, work: impl Future<Output = ()>) -> u64 {
        let begin = time.now_ns();
        work.await;
        (time.now_ns() - begin + 5_000) / 10_000 * 10_000
    }

    #[test]
    fn a_sane_clock_shows_virtual_time_and_sleeps_exactly() {
        world(async {
            let time = VirtualTime::current();
            let clock = SimClock::new(time.clone(), 5 * SECOND, 0);
            assert!(clock.now().0 >= 5 * SECOND);
            // Below the runtime's own least sleep of a millisecond.
            assert_eq!(measure(&time, sleep(&clock, Duration::from_micros(20))).await, 20_000);
            assert_eq!(measure(&time, sleep(&clock, Duration::from_secs(2))).await, 2 * SECOND);
        });
    }

    #[test]
    fn a_fast_clock_wakes_early_and_a_slow_one_late() {
        world(async {
            let time = VirtualTime::current();
            let fast = SimClock::new(time.clone(), 0, 250_000);
            let slow = SimClock::new(time.clone(), 0, -200_000);
            assert_eq!(measure(&time, sleep(&fast, Duration::from_secs(1))).await, SECOND * 4 / 5);
            assert_eq!(measure(&time, sleep(&slow, Duration::from_secs(1))).await, SECOND * 5 / 4);
        });
    }

    #[test]
    fn a_step_wakes_those_who_sleep() {
        world(async {
            let time = VirtualTime::current();
            let clock = SimClock::new(time.clone(), 0, 0);
            let (other_time, other) = (time.clone(), clock.clone());
            madsim::task::spawn(async move {
                other_time.sleep(SECOND).await;
                other.step(10 * SECOND);
            });
            let slept = measure(&time, sleep(&clock, Duration::from_secs(5))).await;
            assert_eq!(slept, SECOND);
            assert!(clock.now().0 >= 11 * SECOND);
        });
    }

    #[test]
    fn a_frozen_clock_stands_still_and_goes_on_from_there() {
        world(async {
            let time = VirtualTime::current();
            let clock = SimClock::new(time.clone(), 0, 0);
            clock.freeze();
            let stands = clock.now();
            let other = clock.clone();
            let other_time = time.clone();
            madsim::task::spawn(async move {
                other_time.sleep(3 * SECOND).await;
                assert_eq!(other.now(), stands);
                other.thaw();
            });
            assert_eq!(measure(&time, sleep(&clock, Duration::from_secs(1))).await, 4 * SECOND);
        });
    }

    #[test]
    fn a_drift_that_changes_under_a_sleeper_moves_its_deadline() {
        world(async {
            let time = VirtualTime::current();
            let clock = SimClock::new(time.clone(), 0, 0);
            let other = clock.clone();
            let other_time = time.clone();
            madsim::task::spawn(async move {
                other_time.sleep(SECOND).await;
                other.set_drift(-500_000);
            });
            // One second at full speed, the other at half.
            assert_eq!(measure(&time, sleep(&clock, Duration::from_secs(2))).await, 3 * SECOND);
        });
    }

    #[test]
    fn a_timeout_that_is_dropped_leaves_nothing_behind() {
        world(async {
            let time = VirtualTime::current();
            let clock = SimClock::new(time.clone(), 0, 0);
            for _ in 0..1_000 {
                assert_eq!(timeout(&clock, Duration::from_secs(9), async { 1 }).await, Ok(1));
                let _ = timeout(&clock, Duration::from_micros(1), std::future::pending::<()>()).await;
            }
            assert!(clock.lock().sleepers.len() < 200);
        });
    }
}
