//! `raftkv snapshot`: a backup of a live cluster, what is in one, and a new cluster from one.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kv::backup::{self, Backup};
use kv::client::BackupStream;
use raft::disk::{RealDisk, SharedDisk};
use raft::identity::ClusterId;
use serde_json::{Value, json};

use crate::Failure;
use crate::cli::{RestoreArgs, SaveArgs, SnapshotArgs, SnapshotCommand, SnapshotStatusArgs};
use crate::commands::{NEGATIVE, client, print, print_json, process_seed};

/// The nodes of `raftkv local`.
const LOCAL: [&str; 3] = ["n1", "n2", "n3"];

pub(crate) async fn snapshot(args: SnapshotArgs) -> Result<ExitCode, Failure> {
    match args.command {
        SnapshotCommand::Save(args) => save(args).await,
        SnapshotCommand::Status(args) => status(&args),
        SnapshotCommand::Restore(args) => restore(&args),
    }
}

fn disk() -> SharedDisk {
    Arc::new(RealDisk)
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Definite(format!("{}: {error}", path.display()))
}

/// A file under a name of its own until it is complete. Removed when dropped before that.
struct Part {
    path: PathBuf,
    file: File,
    done: bool,
}

impl Part {
    fn create(target: &Path) -> Result<Self, Failure> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(name);
        let file = File::create_new(&path).map_err(at(&path))?;
        Ok(Self { path, file, done: false })
    }

    /// Makes it durable under its name, which must be free.
    fn finish(mut self, target: &Path) -> Result<(), Failure> {
        self.file.sync_all().map_err(at(&self.path))?;
        // A link, unlike a rename, does not take the place of a file that has come meanwhile.
        std::fs::hard_link(&self.path, target).map_err(at(target))?;
        self.done = true;
        std::fs::remove_file(&self.path).map_err(at(&self.path))?;
        let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.done {
            // What is left then has a name that says what it is.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn save(args: SaveArgs) -> Result<ExitCode, Failure> {
    if args.file.exists() {
        return Err(Failure::Definite(format!("{} exists already", args.file.display())));
    }
    let client = client(&args.client, process_seed())?;
    let mut part = Part::create(&args.file)?;
    let mut stream = client.backup(args.patience).await?;
    receive(&mut stream, &mut part).await?;
    let endpoint = stream.endpoint().to_owned();
    // What is on the disk, not what was sent.
    let found = backup::inspect(&disk(), &part.path).map_err(|e| Failure::Definite(e.to_string()))?;
    part.finish(&args.file)?;
    if args.client.json {
        let mut answer = json(&found);
        answer["file"] = args.file.display().to_string().into();
        answer["endpoint"] = endpoint.into();
        print_json(&answer)?;
    } else {
        let line = format!(
            "saved {} from {endpoint}: revision {}, {} keys, {} bytes",
            args.file.display(),
            found.revision,
            found.keys,
            found.bytes
        );
        print(line.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn receive(stream: &mut BackupStream, part: &mut Part) -> Result<(), Failure> {
    let bar = ProgressBar::with_draw_target(Some(stream.begun().bytes), ProgressDrawTarget::stderr());
    if let Ok(style) =
        ProgressStyle::with_template("{bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {wide_bar}")
    {
        bar.set_style(style);
    }
    while let Some(frame) = stream.next().await? {
        part.file.write_all(&frame).map_err(at(&part.path))?;
        bar.inc(frame.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}

fn status(args: &SnapshotStatusArgs) -> Result<ExitCode, Failure> {
    let found = match backup::inspect(&disk(), &args.file) {
        Ok(found) => found,
        Err(error) if error.is_damage() => {
            eprintln!("raftkv: {error}");
            return Ok(ExitCode::from(NEGATIVE));
        }
        Err(error) => return Err(Failure::Definite(error.to_string())),
    };
    if args.json {
        print_json(&json(&found))?;
    } else {
        print(text(&found).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn json(found: &Backup) -> Value {
    json!({
        "cluster": ClusterId(found.cluster).to_string(),
        "index": found.last.index.0,
        "term": found.last.term.0,
        "members": found.members,
        "revision": found.revision,
        "compacted": found.compacted,
        "keys": found.keys,
        "versions": found.versions,
        "sessions": found.sessions,
        "bytes": found.bytes,
        "cluster_time_ms": found.cluster_time_ms,
        "state_hash": format!("{:016x}", found.state_hash),
    })
}

fn text(found: &Backup) -> String {
    let members: Vec<_> = found.members.iter().map(u64::to_string).collect();
    let rows = [
        ("whole", "yes: every checksum is right".to_owned()),
        ("cluster", ClusterId(found.cluster).to_string()),
        ("members", members.join(", ")),
        ("index", found.last.index.0.to_string()),
        ("term", found.last.term.0.to_string()),
        ("revision", found.revision.to_string()),
        ("compacted", found.compacted.to_string()),
        ("keys", found.keys.to_string()),
        ("versions", found.versions.to_string()),
        ("sessions", found.sessions.to_string()),
        ("bytes", found.bytes.to_string()),
        ("state hash", format!("{:016x}", found.state_hash)),
    ];
    let lines: Vec<_> = rows.iter().map(|(name, value)| format!("{name:<11}{value}")).collect();
    lines.join("\n")
}

fn restore(args: &RestoreArgs) -> Result<ExitCode, Failure> {
    let dirs: Vec<PathBuf> = match args.local {
        true => LOCAL.iter().map(|node| args.data_dir.join(node)).collect(),
        false => vec![args.data_dir.clone()],
    };
    let mut found = None;
    for dir in &dirs {
        let (backup, _) = backup::restore(&disk(), &args.file, dir, args.bump_revision)
            .map_err(|e| Failure::Definite(e.to_string()))?;
        found = Some(backup);
    }
    let Some(found) = found else { return Err(Failure::Definite("nothing to restore into".to_owned())) };
    let revision = found.revision.saturating_add(args.bump_revision);
    if args.json {
        print_json(&json!({
            "data_dirs": dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>(),
            "index": found.last.index.0,
            "keys": found.keys,
            "revision": revision,
        }))?;
    } else {
        for dir in &dirs {
            print(
                format!("restored {}: {} keys, revision {revision}", dir.display(), found.keys).as_bytes(),
            )?;
        }
        let next = match args.local {
            true => format!("start it: raftkv local --data-dir {}", args.data_dir.display()),
            false => {
                "restore every other member from the same file, then start them all: they form a new cluster"
                    .to_owned()
            }
        };
        print(next.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
