//! How fast a state is written to a snapshot file, and a store made from one.
//!
//! ```text
//! cargo run --release -p raftkv-kv --example snapshot_bench -- [--json] [--dir DIRECTORY] [--keys N] [--value-bytes N]
//! ```
//!
//! *Save* is what a node does: the state is cut, written in checksummed chunks, and committed durably; once from the table in
//! memory and sled below it, as it is after the load, whose rows sled has. *Restore* reads the file, verifies it, fills a new
//! sled store, and makes it durable. *Bare* is the same number of bytes written to a file and synced, and read again, in the same
//! run. All are counted in bytes of the snapshot file.

use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kv::command::{Command, CommandBody, Operation, Put};
use kv::state_machine::{KvOptions, KvStateMachine, SessionLimits};
use kv::store::{SledOptions, StoreKind};
use raft::clock::{Clock, RealClock};
use raft::core::{Configuration, Entry, Index, NodeId, Payload, SnapshotMeta, Term};
use raft::disk::{RealDisk, SharedDisk};
use raft::snapshot::{SnapshotDir, SnapshotFile};
use raft::state_machine::StateMachine;

const GROUP: u64 = 64;
const CHECKPOINT_BYTES: u64 = 32 << 20;

struct Args {
    json: bool,
    dir: PathBuf,
    keys: u64,
    value_bytes: usize,
}

fn args() -> Result<Args, Box<dyn Error>> {
    let mut args = Args { json: false, dir: ".".into(), keys: 500_000, value_bytes: 256 };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--json" => args.json = true,
            "--dir" => args.dir = value()?.into(),
            "--keys" => args.keys = value()?.parse()?,
            "--value-bytes" => args.value_bytes = value()?.parse()?,
            _ => return Err(format!("{flag} is not known").into()),
        }
    }
    Ok(args)
}

fn machine(disk: &SharedDisk, dir: &Path) -> Result<KvStateMachine, Box<dyn Error>> {
    let store = StoreKind::Sled(SledOptions::new(dir));
    let options = KvOptions { dir: dir.to_owned(), store, sessions: SessionLimits::default() };
    Ok(KvStateMachine::open(Arc::clone(disk), options)?.0)
}

/// Keys in random order, as clients write them.
fn load(machine: &mut KvStateMachine, args: &Args) -> Result<(), Box<dyn Error>> {
    let value = Bytes::from(vec![b'v'; args.value_bytes]);
    let mut group = Vec::new();
    for i in 0..args.keys {
        let key = format!("key-{:016x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let put = Put { key: key.into(), value: value.clone(), prev_kv: false };
        let body = CommandBody::Operate { stamp: None, operation: Operation::Put(put) };
        let payload = Payload::Command(Command { cluster_time_ms: i, body }.encode());
        group.push(Entry { term: Term(1), index: Index(i + 1), payload });
        if group.len() as u64 == GROUP || i + 1 == args.keys {
            machine.apply(&group)?;
            group.clear();
            if machine.unsaved_bytes() >= CHECKPOINT_BYTES {
                machine.begin_checkpoint()()?;
            }
        }
    }
    machine.begin_checkpoint()()?;
    Ok(())
}

fn save(machine: &mut KvStateMachine, dir: &SnapshotDir) -> Result<SnapshotFile, Box<dyn Error>> {
    let configuration = Configuration::of_voters([NodeId(1)]);
    let meta = SnapshotMeta { last: machine.applied().last, configuration };
    let job = machine.begin_snapshot();
    let mut writer = dir.create(&meta)?;
    job(&mut writer)?;
    Ok(writer.commit()?)
}

fn restore(
    disk: &SharedDisk,
    to: &Path,
    dir: &SnapshotDir,
    file: &SnapshotFile,
) -> Result<(), Box<dyn Error>> {
    let mut machine = machine(disk, to)?;
    machine.install(&file.meta, &mut dir.reader(file)?)?;
    assert_eq!(machine.applied().last, file.meta.last, "the restored state stands where the snapshot does");
    Ok(())
}

fn bare_write(path: &Path, bytes: u64) -> Result<(), Box<dyn Error>> {
    let chunk = vec![7; 1 << 20];
    let mut file = std::fs::File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(chunk.len() as u64);
        file.write_all(chunk.get(..usize::try_from(piece)?).unwrap_or_default())?;
        left -= piece;
    }
    Ok(file.sync_all()?)
}

fn bare_read(path: &Path) -> Result<(), Box<dyn Error>> {
    let (mut file, mut chunk) = (std::fs::File::open(path)?, vec![0; 1 << 20]);
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

/// Seconds that `work` takes, and what it gives.
fn timed<T>(work: impl FnOnce() -> Result<T, Box<dyn Error>>) -> Result<(f64, T), Box<dyn Error>> {
    let begun = RealClock.now();
    let done = work()?;
    Ok((RealClock.now().since(begun).as_secs_f64(), done))
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = args()?;
    let scratch = tempfile::tempdir_in(&args.dir)?;
    let dir = scratch.path();
    let disk: SharedDisk = Arc::new(RealDisk);
    let snapshots = SnapshotDir::open(Arc::clone(&disk), &dir.join("snapshots"), 1)?;
    let mut from = machine(&disk, &dir.join("from"))?;
    load(&mut from, &args)?;
    let (saved, file) = timed(|| save(&mut from, &snapshots))?;
    let (written, ()) = timed(|| bare_write(&dir.join("bare"), file.bytes))?;
    let (read, ()) = timed(|| bare_read(&dir.join("bare")))?;
    let (restored, ()) = timed(|| restore(&disk, &dir.join("to"), &snapshots, &file))?;
    let rate = |seconds: f64| file.bytes as f64 / 1e6 / seconds;
    let (save, restore, write, read) = (rate(saved), rate(restored), rate(written), rate(read));
    if args.json {
        println!(
            r#"{{"keys":{},"value_bytes":{},"file_bytes":{},"mb_per_second":{{"save":{save:.1},"restore":{restore:.1},"bare_write":{write:.1},"bare_read":{read:.1}}},"seconds":{{"save":{saved:.3},"restore":{restored:.3}}}}}"#,
            args.keys, args.value_bytes, file.bytes
        );
        return Ok(());
    }
    println!("{} keys of {} bytes: a file of {:.1} MB", args.keys, args.value_bytes, file.bytes as f64 / 1e6);
    println!("save    {save:>8.1} MB/s ({saved:.2} s); bare write and fsync {write:.1} MB/s");
    println!("restore {restore:>8.1} MB/s ({restored:.2} s); bare read {read:.1} MB/s");
    Ok(())
}
