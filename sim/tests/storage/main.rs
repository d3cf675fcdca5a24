//! The log and the snapshot files of `raft`, on the simulated disk and on the real one, and the simulated disk itself.

#![allow(unreachable_pub, reason = "a test binary")]

mod alike;
mod disk;
mod model;
mod snapshot;
mod wal_crash;
mod wal_damage;
mod wal_model;
mod wal_repair;
