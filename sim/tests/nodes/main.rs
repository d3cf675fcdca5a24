//! Whole nodes on simulated disks, under faults at every single disk call.
//!
//! One node alone is run in one thread, with its lanes inline, so that the calls of a run come in the same order each
//! time, but for those that wait for a tick. A short script takes it through everything it does with its disk.

#![allow(unreachable_pub, reason = "a test binary")]

mod crashes;
mod fail_stop;
mod full_disk;
mod list;
mod world;
