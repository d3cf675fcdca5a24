//! The seam for work that blocks: fsync, apply, checkpoints.
//!
//! Work is done on *lanes*. A lane does one job after the other, in the order in which they were handed in; lanes
//! run beside each other. In the real world a lane is a thread. In simulation a job runs inline after a drawn
//! delay, and a crash may fall before it, after it, or between any two of its disk calls.

use std::sync::Arc;
use std::sync::mpsc;

/// A piece of work for a lane. What it finds out it sends on by itself, through a channel.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Does jobs one by one, in order. Dropping it lets the jobs already handed in finish.
pub trait Lane: Send + Sync {
    /// Hands in a job. Never blocks; who submits without bound must count by itself.
    fn submit(&self, job: Job);
}

/// Where lanes come from.
pub trait Blocking: Send + Sync + 'static {
    /// A new lane. `name` is what it is for (`wal`, `apply`, `checkpoint`, `reads`); it names the thread, and in
    /// simulation chooses the delays.
    fn lane(&self, name: &'static str) -> Arc<dyn Lane>;
}

/// A source of lanes that many parts share.
pub type SharedBlocking = Arc<dyn Blocking>;

/// Lanes that are threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealBlocking;

struct ThreadLane {
    jobs: mpsc::Sender<Job>,
}

impl Lane for ThreadLane {
    fn submit(&self, job: Job) {
        // The thread ends only when the sender is dropped or a job panicked; release builds abort on panic.
        let _ = self.jobs.send(job);
    }
}

impl Blocking for RealBlocking {
    #[expect(clippy::disallowed_methods, reason = "this is the seam that the ban on thread::spawn protects")]
    fn lane(&self, name: &'static str) -> Arc<dyn Lane> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for job in queue {
                job();
            }
        });
        if let Err(error) = spawned {
            panic!("cannot start the thread for lane {name}: {error}");
        }
        Arc::new(ThreadLane { jobs })
    }
}
