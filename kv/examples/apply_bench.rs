//! What one put costs in the state machine: with the table before sled, and with every group written to sled at once.
//!
//! `cargo run --release -p raftkv-kv --example apply_bench [PUTS [VALUE_BYTES [CHECKPOINT_MIB [GROUP]]]]`
//!
//! Both ways get the same puts, keys in random order, in groups of 64 by default, and make everything durable once every
//! `CHECKPOINT_MIB` of applied entries and at the end. The direct way is favoured: it decodes no commands, has no
//! sessions and no hash, only the rows. Figures and their meaning: `docs/adr/0002-table-before-sled.md`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kv::command::{Command, CommandBody, Operation, Put};
use kv::state_machine::{KvOptions, KvStateMachine, SessionLimits};
use kv::store::{SledOptions, StoreKind};
use raft::blocking::{Blocking, RealBlocking};
use raft::clock::{Clock, RealClock};
use raft::core::{Entry, Index, LogId, Payload, Term};
use raft::disk::RealDisk;
use raft::state_machine::StateMachine;

struct Load {
    puts: u64,
    value: Bytes,
    checkpoint_bytes: u64,
    group: u64,
}

impl Load {
    /// Every number below `puts` once, far from the one before it.
    fn key(&self, i: u64) -> Vec<u8> {
        format!("key-{:016x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into_bytes()
    }
}

/// User and system time of this process, in ticks of 10 ms.
fn cpu_ms() -> Result<u64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks * 10)
}

fn through_the_table(dir: &Path, load: &Load) -> Result<(), Box<dyn Error>> {
    let store = StoreKind::Sled(SledOptions::new(dir));
    let options = KvOptions { dir: dir.to_owned(), store, sessions: SessionLimits::default() };
    let (mut machine, reader) = KvStateMachine::open(Arc::new(RealDisk), options)?;
    let mut group = Vec::new();
    // As the driver does it: checkpoints on a lane of their own, one at a time.
    let lane = RealBlocking.lane("checkpoint");
    let (done, wait) = std::sync::mpsc::channel();
    done.send(Ok(LogId::ZERO))?;
    let checkpoint = |machine: &mut KvStateMachine| -> Result<(), Box<dyn Error>> {
        wait.recv()??;
        let (job, done) = (machine.begin_checkpoint(), done.clone());
        lane.submit(Box::new(move || _ = done.send(job())));
        Ok(())
    };
    for i in 0..load.puts {
        let put = Put { key: load.key(i).into(), value: load.value.clone(), prev_kv: false };
        let body = CommandBody::Operate { stamp: None, operation: Operation::Put(put) };
        let payload = Payload::Command(Command { cluster_time_ms: i, body }.encode());
        group.push(Entry { term: Term(1), index: Index(i + 1), payload });
        if (i + 1) % load.group == 0 || i + 1 == load.puts {
            machine.apply(&group)?;
            group.clear();
            if machine.unsaved_bytes() >= load.checkpoint_bytes {
                checkpoint(&mut machine)?;
            }
        }
    }
    checkpoint(&mut machine)?;
    wait.recv()??;
    assert_eq!(reader.revision(), load.puts);
    Ok(())
}

fn straight_to_sled(dir: &Path, load: &Load) -> Result<(), Box<dyn Error>> {
    let config = sled::Config::new().path(dir.join("direct")).cache_capacity(64 << 20);
    let db = config.segment_size(512 * 1024).flush_every_ms(None).open()?;
    let mut batch = sled::Batch::default();
    let mut unsaved = 0;
    for i in 0..load.puts {
        let mut row = load.key(i);
        let mut end = row.clone();
        end.push(1);
        row.push(0);
        let before = db.range(row.clone()..end).next().transpose()?;
        row.extend_from_slice(&(!i).to_be_bytes());
        let mut value = [0; 17].to_vec();
        value.push(u8::from(before.is_some()));
        value.extend_from_slice(&load.value);
        unsaved += (value.len() + 160) as u64;
        batch.insert(row, value);
        if (i + 1) % load.group == 0 || i + 1 == load.puts {
            batch.insert(&b"applied"[..], &(i + 1).to_be_bytes());
            db.apply_batch(std::mem::take(&mut batch))?;
            if unsaved >= load.checkpoint_bytes {
                db.flush()?;
                unsaved = 0;
            }
        }
    }
    db.flush()?;
    Ok(())
}

type Way = fn(&Path, &Load) -> Result<(), Box<dyn Error>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u64>());
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (puts, value_bytes, checkpoint_mib, group) = (next(300_000)?, next(100)?, next(32)?, next(64)?);
    let value = Bytes::from(vec![b'v'; usize::try_from(value_bytes)?]);
    let load = Load { puts, value, checkpoint_bytes: checkpoint_mib << 20, group: group.max(1) };
    println!("{puts} puts of {value_bytes} bytes in groups of {group}, durable every {checkpoint_mib} MiB");
    let ways: [(&str, Way); 2] =
        [("table, then sled", through_the_table), ("straight to sled", straight_to_sled)];
    for (name, way) in ways {
        let dir = tempfile::tempdir_in(".")?;
        let (start, cpu) = (RealClock.now(), cpu_ms()?);
        way(dir.path(), &load)?;
        let (wall, cpu) = (RealClock.now().since(start).as_secs_f64(), cpu_ms()? - cpu);
        let per_put = cpu as f64 * 1e3 / puts as f64;
        println!("{name}: {:.0} puts/s, {per_put:.2} µs of CPU per put", puts as f64 / wall);
    }
    Ok(())
}
