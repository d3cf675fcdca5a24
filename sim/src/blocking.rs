//! A node's lanes in the simulation: jobs run inline, one after the other, each after a drawn delay.
//!
//! The delay comes *before* the job, so that its effects appear when it is done, as with a disk that takes its
//! time. A crash that falls into the delay finds the job not done; one that falls behind it, before the node has
//! heard of it, finds it done and not known. Crashes between two disk calls of one job are
//! [`SimDisk`](crate::disk::SimDisk)'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use raft::blocking::{Blocking, Job, Lane};
use tokio::sync::mpsc;

use crate::random::{Delay, Random};
use crate::scenario::LaneScenario;
use crate::time::VirtualTime;
use crate::trace::{Event, Source, Trace};

/// The lanes of one process.
pub struct SimBlocking {
    time: VirtualTime,
    trace: Trace,
    node: u8,
    seed: u64,
    scenario: LaneScenario,
    slowness: Arc<AtomicU32>,
    after_job: Arc<dyn Fn() + Send + Sync>,
}

impl SimBlocking {
    /// Lanes for the process of `node`, each with a stream of draws of its own from `seed`. `slowness` multiplies all delays, and may be changed at any time;
    /// `after_job` is called after each job.
    #[must_use]
    pub fn new(
        time: VirtualTime,
        trace: Trace,
        node: u8,
        seed: u64,
        scenario: LaneScenario,
        slowness: Arc<AtomicU32>,
        after_job: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { time, trace, node, seed, scenario, slowness, after_job }
    }

    fn delay(&self, name: &str) -> Delay {
        match name {
            "wal" => self.scenario.wal,
            "apply" => self.scenario.apply,
            "reads" => self.scenario.reads,
            _ => self.scenario.checkpoint,
        }
    }
}

impl Blocking for SimBlocking {
    fn lane(&self, name: &'static str) -> Arc<dyn Lane> {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (time, trace, node) = (self.time.clone(), self.trace.clone(), self.node);
        let (slowness, delay) = (Arc::clone(&self.slowness), self.delay(name));
        let mut random = Random::stream(self.seed, name);
        let after_job = Arc::clone(&self.after_job);
        // On the node's own simulated machine, so that it dies and pauses with it.
        tokio::spawn(async move {
            let mut number = 0;
            while let Some(job) = queue.recv().await {
                let drawn = delay.draw(&mut random);
                time.sleep(drawn * u64::from(slowness.load(Ordering::Relaxed))).await;
                number += 1;
                trace.record(time.now_ns(), Source::Node(node), &Event::Job { lane: name, number });
                job();
                after_job();
            }
        });
        Arc::new(SimLane { jobs })
    }
}

struct SimLane {
    jobs: mpsc::UnboundedSender<Job>,
}

impl Lane for SimLane {
    fn submit(&self, job: Job) {
        // The lane's task is gone only when its process is.
        let _ = self.jobs.send(job);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::trace::Keep;

    #[test]
    fn jobs_of_a_lane_keep_their_order_and_take_their_time_and_lanes_run_side_by_side() {
        madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async {
            let time = VirtualTime::current();
            let fast = Delay::Uniform { low_ns: 1_000_000, high_ns: 1_000_000 };
            let scenario = LaneScenario { wal: fast, apply: fast, checkpoint: fast, reads: fast };
            let slowness = Arc::new(AtomicU32::new(1));
            let trace = Trace::new(Keep::Nothing);
            let blocking =
                SimBlocking::new(time.clone(), trace, 1, 1, scenario, Arc::clone(&slowness), Arc::new(|| {}));
            let done = Arc::new(Mutex::new(Vec::new()));
            let submit = |lane: &Arc<dyn Lane>, number: u32| {
                let (done, time) = (Arc::clone(&done), time.clone());
                lane.submit(Box::new(move || done.lock().unwrap().push((number, time.now_ns() / 1_000_000))));
            };
            let (wal, apply) = (blocking.lane("wal"), blocking.lane("apply"));
            for number in 0..3 {
                submit(&wal, number);
            }
            submit(&apply, 10);
            drop(wal); // what was handed in is still done
            time.sleep(20_000_000).await;
            let mut seen = std::mem::take(&mut *done.lock().unwrap());
            seen.sort_unstable();
            assert_eq!(seen, [(0, 1), (1, 2), (2, 3), (10, 1)]);
            slowness.store(5, Ordering::Relaxed);
            submit(&apply, 11);
            time.sleep(20_000_000).await;
            assert_eq!(*done.lock().unwrap(), [(11, 25)]);
        });
    }
}
