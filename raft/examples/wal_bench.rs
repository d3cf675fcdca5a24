//! What the log costs over the disk: a bare write and `fdatasync` within a preallocated file, against append and
//! sync of the log, turn by turn in one run.
//!
//! ```text
//! cargo run --release -p raftkv-raft --example wal_bench [DIRECTORY]
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft::core::{Entry, Index, NodeId, Payload, Term};
use raft::disk::{Disk, OpenMode, RealDisk};
use raft::wal::{Wal, WalIdentity, WalOptions};

const ROUNDS: usize = 400;
const VALUE_BYTES: usize = 100;
/// What a record of the log takes beside its payload.
const RECORD_BYTES: usize = 25;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("wal-bench-{}", std::process::id()));
    println!("{ROUNDS} rounds in {}, values of {VALUE_BYTES} bytes", dir.display());
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>12} {:>7}",
        "entries", "bare p50", "bare p99", "wal p50", "wal p99", "p50 x"
    );
    let result = [1, 16, 256].into_iter().try_for_each(|batch| {
        let (mut bare, mut wal) = measure(&dir.join(batch.to_string()), batch)?;
        bare.sort_unstable();
        wal.sort_unstable();
        let at = |times: &[Duration], percent: usize| {
            times.get(times.len() * percent / 100).copied().unwrap_or_default()
        };
        let ratio = at(&wal, 50).as_secs_f64() / at(&bare, 50).as_secs_f64();
        println!(
            "{batch:>8} {:>12.1?} {:>12.1?} {:>12.1?} {:>12.1?} {ratio:>7.2}",
            at(&bare, 50),
            at(&bare, 99),
            at(&wal, 50),
            at(&wal, 99)
        );
        Ok(())
    });
    std::fs::remove_dir_all(&dir)?;
    result
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn measure(dir: &Path, batch: usize) -> Result<(Vec<Duration>, Vec<Duration>), Box<dyn std::error::Error>> {
    let disk = Arc::new(RealDisk);
    disk.create_dir_all(dir)?;
    let data = vec![7; batch * (VALUE_BYTES + RECORD_BYTES)];
    let file = disk.open(&dir.join("bare"), OpenMode::CreateNew)?;
    file.preallocate((data.len() * ROUNDS) as u64)?;
    file.sync_data()?;
    let identity = WalIdentity { cluster: 1, member: NodeId(1), incarnation: 1 };
    let mut wal = Wal::create(disk, &dir.join("wal"), identity, WalOptions::default())?;
    let (mut bare_times, mut wal_times) = (Vec::new(), Vec::new());
    let mut next = 1;
    for round in 0..ROUNDS {
        bare_times.push(timed(|| {
            file.write_at(&data, (round * data.len()) as u64)?;
            file.sync_data()
        })?);
        let entries: Vec<_> = (next..).take(batch).map(entry).collect();
        next += batch as u64;
        wal_times.push(timed(|| {
            wal.append(None, &entries)?;
            wal.sync()
        })?);
    }
    Ok((bare_times, wal_times))
}

fn entry(index: u64) -> Entry {
    Entry { term: Term(1), index: Index(index), payload: Payload::Command(vec![7; VALUE_BYTES].into()) }
}
