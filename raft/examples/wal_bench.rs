//! What the log costs over the disk, and how long it takes to be read again.
//!
//! ```text
//! cargo run --release -p raftkv-raft --example wal_bench -- [--json] [--dir DIRECTORY] [--rounds N] [--entries N]
//! ```
//!
//! *Group commit*: so many writers each append one entry of 100 bytes and wait until it is durable. A log lane takes what has
//! gathered, appends it, and syncs once, as in a node. Beside it, turn by turn in the same run, a bare write of as many
//! bytes and an `fdatasync` within a preallocated file: the ratio is what the log adds. It is taken of the time on
//! the lane (`x lane`), and for one writer also of what the writer waits (`wait`), which has the way to the lane and
//! back in it.
//!
//! *Recovery*: a log of `--entries` entries of 256 bytes is written, and opened: once with all of it brought into memory, and
//! once as a node does whose store holds all of it, which keeps 64 MiB for others.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use raft::blocking::{Blocking, RealBlocking};
use raft::core::{Entry, Index, NodeId, Payload, Term};
use raft::disk::{File, OpenMode, RealDisk, SharedDisk};
use raft::wal::{Retain, Wal, WalIdentity, WalOptions};

const VALUE_BYTES: usize = 100;
/// What a record of the log takes beside its payload.
const RECORD_BYTES: usize = 25;
const IDENTITY: WalIdentity = WalIdentity { cluster: 1, member: NodeId(1), incarnation: 1 };
/// What a node keeps in memory of what is applied.
const RETAIN_BYTES: u64 = 64 << 20;
const RECOVERED_VALUE_BYTES: usize = 256;

type Failure = Box<dyn std::error::Error>;

struct Args {
    json: bool,
    dir: PathBuf,
    rounds: usize,
    entries: u64,
}

fn args() -> Result<Args, Failure> {
    let mut args = Args { json: false, dir: ".".into(), rounds: 2000, entries: 1_000_000 };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--json" => args.json = true,
            "--dir" => args.dir = value()?.into(),
            "--rounds" => args.rounds = value()?.parse()?,
            "--entries" => args.entries = value()?.parse()?,
            _ => return Err(format!("{flag} is not known").into()),
        }
    }
    Ok(args)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(Duration, T), E> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed(), done))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { term: Term(1), index: Index(index), payload: Payload::Command(vec![7; bytes].into()) }
}

/// The value that `share` of all lie at or below.
fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let rank = (times.len() as f64 * share).ceil().max(1.0) as usize;
    times.get(rank - 1).copied().unwrap_or_default()
}

/// A writer's entry, and since when he waits for it.
struct Asked {
    index: u64,
    since: Instant,
    done: mpsc::Sender<Instant>,
}

/// What one number of writers saw.
struct Groups {
    writers: usize,
    bare: Vec<Duration>,
    lane: Vec<Duration>,
    waits: Vec<Duration>,
}

impl Groups {
    fn report(&mut self, json: bool) -> String {
        let (bare, lane) = (percentile(&mut self.bare, 0.5), percentile(&mut self.lane, 0.5));
        let (bare99, lane99) = (percentile(&mut self.bare, 0.99), percentile(&mut self.lane, 0.99));
        let wait = percentile(&mut self.waits, 0.5);
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let (ratio, wait_ratio) = (us(lane) / us(bare), us(wait) / us(bare));
        let spent: Duration = self.lane.iter().sum();
        let rate = self.waits.len() as f64 / spent.as_secs_f64();
        let writers = self.writers;
        if json {
            format!(
                r#"{{"writers":{writers},"bare_us":{{"p50":{:.1},"p99":{:.1}}},"lane_us":{{"p50":{:.1},"p99":{:.1}}},"wait_us_p50":{:.1},"ratio_lane":{ratio:.3},"ratio_wait":{wait_ratio:.3},"appends_per_second":{rate:.0}}}"#,
                us(bare),
                us(bare99),
                us(lane),
                us(lane99),
                us(wait),
            )
        } else {
            format!(
                "{writers:>8} {bare:>10.1?} {bare99:>10.1?} {lane:>10.1?} {lane99:>10.1?} {ratio:>7.2} {wait:>10.1?} {rate:>11.0}"
            )
        }
    }
}

/// Rounds: all writers ask, the lane serves them with one sync, then the bare file has its turn.
fn group_commit(dir: &Path, writers: usize, rounds: usize) -> Result<Groups, Failure> {
    let disk: SharedDisk = Arc::new(RealDisk);
    disk.create_dir_all(dir)?;
    let data = vec![7; writers * (VALUE_BYTES + RECORD_BYTES)];
    let file = disk.open(&dir.join("bare"), OpenMode::CreateNew)?;
    file.preallocate((data.len() * rounds) as u64)?;
    file.sync_data()?;
    let wal = Arc::new(std::sync::Mutex::new(Wal::create(
        disk,
        &dir.join("wal"),
        IDENTITY,
        WalOptions::default(),
    )?));
    let lane = RealBlocking.lane("wal");
    let (done, waits) = mpsc::channel();
    let (told, spent) = mpsc::channel();
    let mut seen = Groups { writers, bare: Vec::new(), lane: Vec::new(), waits: Vec::new() };
    for round in 0..rounds {
        seen.bare.push(bare_turn(&*file, &data, round)?);
        let asked: Vec<_> = (0..writers)
            .map(|n| Asked { index: (round * writers + n + 1) as u64, since: now(), done: done.clone() })
            .collect();
        let (wal, told) = (Arc::clone(&wal), told.clone());
        lane.submit(Box::new(move || {
            let mut wal = wal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let entries: Vec<_> = asked.iter().map(|one| entry(one.index, VALUE_BYTES)).collect();
            let time = timed(|| {
                wal.append(None, &entries)?;
                wal.sync()
            });
            let _ = told.send(time.map(|(time, ())| time));
            for one in asked {
                let _ = one.done.send(one.since);
            }
        }));
        seen.lane.push(spent.recv()??);
        for _ in 0..writers {
            seen.waits.push(waits.recv()?.elapsed());
        }
    }
    Ok(seen)
}

fn bare_turn(file: &dyn File, data: &[u8], round: usize) -> std::io::Result<Duration> {
    let (time, ()) = timed(|| {
        file.write_at(data, (round * data.len()) as u64)?;
        file.sync_data()
    })?;
    Ok(time)
}

/// The time to open a log, with everything and with what is retained; bytes of its entries, and entries retained.
fn recovery(dir: &Path, entries: u64) -> Result<(Duration, Duration, u64, usize), Failure> {
    let disk: SharedDisk = Arc::new(RealDisk);
    disk.create_dir_all(dir)?;
    let dir = dir.join("wal");
    let mut wal = Wal::create(Arc::clone(&disk), &dir, IDENTITY, WalOptions::default())?;
    for first in (1..=entries).step_by(1000) {
        let batch: Vec<_> = (first..=entries).take(1000).map(|i| entry(i, RECOVERED_VALUE_BYTES)).collect();
        wal.append(None, &batch)?;
        wal.sync()?;
    }
    wal.attest()?;
    drop(wal);
    let open = |retain| {
        timed(|| Wal::open_if(Arc::clone(&disk), &dir, IDENTITY, WalOptions::default(), retain, |_| true))
    };
    let (all, (_, recovered)) = open(Retain::default())?;
    assert_eq!(recovered.entries.len() as u64, entries, "every entry comes back");
    let bytes = recovered.entries_bytes;
    drop(recovered);
    let (some, (_, recovered)) = open(Retain { applied: Index(entries), bytes: RETAIN_BYTES })?;
    Ok((all, some, bytes, recovered.entries.len()))
}

fn main() -> Result<(), Failure> {
    let args = args()?;
    let dir = args.dir.join(format!("wal-bench-{}", std::process::id()));
    let result = run(&args, &dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn run(args: &Args, dir: &Path) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for writers in [1, 16, 256] {
        let mut groups = group_commit(&dir.join(writers.to_string()), writers, args.rounds)?;
        lines.push(groups.report(args.json));
    }
    let (all, some, bytes, kept) = recovery(&dir.join("recovery"), args.entries)?;
    let per_million = |time: Duration| time.as_secs_f64() * 1e6 / args.entries.max(1) as f64;
    if args.json {
        println!(
            r#"{{"rounds":{},"value_bytes":{VALUE_BYTES},"group_commit":[{}],"recovery":{{"entries":{},"value_bytes":{RECOVERED_VALUE_BYTES},"bytes":{bytes},"seconds_per_million":{:.3},"retained_entries":{kept},"retained_seconds_per_million":{:.3}}}}}"#,
            args.rounds,
            lines.join(","),
            args.entries,
            per_million(all),
            per_million(some),
        );
        return Ok(());
    }
    println!("{} rounds in {}, values of {VALUE_BYTES} bytes", args.rounds, dir.display());
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>7} {:>10} {:>11}",
        "writers", "bare p50", "bare p99", "lane p50", "lane p99", "x lane", "wait p50", "appends/s"
    );
    lines.iter().for_each(|line| println!("{line}"));
    println!(
        "recovery of {} entries of {RECOVERED_VALUE_BYTES} bytes: {:.2} s a million with all in memory, {:.2} s with {kept} retained",
        args.entries,
        per_million(all),
        per_million(some),
    );
    Ok(())
}
