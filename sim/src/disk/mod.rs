//! A disk in memory that forgets what was not synced.
//!
//! It keeps two views of every file and directory: what programs see, and what is on the platter for certain. In
//! between stands every version that a 512-byte sector, a length or a name had since its last sync. A power loss
//! ([`SimDisk::power_loss_image`]) draws from a seed which of those versions are found afterwards, each on its own
//! or in order; a crash of the process alone ([`SimDisk::process_crash_image`]) keeps what programs saw.
//!
//! Rules, those of the seam ([`raft::disk`]) taken at their word:
//! - `sync_data` makes a file's sectors and length durable, and nothing else: not its name.
//! - `sync_dir` makes the names in one directory durable, and nothing below it.
//! - A sector is written whole or not at all, a rename happens whole or not at all (per directory).
//! - A file none of whose names survives is gone, whatever of it was synced.
//! - After a failed sync, some of the data is on the platter, and the rest counts as clean although it is not: it
//!   can still be read, and no later sync writes it.
//!
//! Mutating calls are counted. [`SimDisk::set_crash_after`] switches the power off behind a chosen one; from then on
//! every call fails and changes nothing. [`SimDisk::set_failure_after`] makes a chosen one fail, whatever it is, and
//! [`SimDisk::fail_after`] one of a kind. [`SimDisk::set_free`] makes it a disk that fills: what grows a file beyond
//! that fails, and does nothing. Everything is deterministic by the seeds handed in.
//!
//! Cheap on purpose: sectors full of zeros take no memory, an image shares all sectors with its origin.
//!
//! Deliberately absent: time (how long a call takes is drawn by the simulated lanes), and faults that are drawn rather
//! than placed.

mod draw;
mod fate;
mod file;
mod tree;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::disk::{DirLock, Disk, File, OpenMode};
use serde::{Deserialize, Serialize};

use draw::Draw;
use fate::Fate;
use tree::{FileCell, Tree, lock};

/// The bytes on a disk that does not fill.
const CAPACITY_BYTES: u64 = 1 << 40;

/// The kinds of call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `File::write_at`: an unknown part of the data is written.
    Write,
    /// `File::sync_data`: see the [module](self).
    SyncData,
    /// `File::set_len` and `File::preallocate`: nothing happens.
    Resize,
    /// `File::read_at`.
    Read,
    /// `Disk::open` of a new file, `create_dir_all`, `rename`, `remove_file`: nothing happens.
    Name,
    /// `Disk::sync_dir`: nothing becomes durable.
    SyncDir,
}

/// A simulated disk. Clones are the same disk; images are disks of their own.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Debug)]
struct World {
    tree: Tree,
    /// The files that stand for locks, while these are held.
    locks: Vec<FileCell>,
    draw: Draw,
    /// Mutating calls so far.
    calls: u64,
    crash_at: Option<u64>,
    /// How many more writes until the power goes off.
    writes_left: Option<u64>,
    off: bool,
    /// Kinds of call to fail, with how many of them are still to succeed before.
    faults: Vec<(Call, u64)>,
    /// The number of the mutating call that is to fail.
    fail_at: Option<u64>,
    /// What failed because it was to, and where.
    failed: Vec<(Call, PathBuf)>,
    /// The bytes that all files together may have.
    capacity: u64,
}

impl SimDisk {
    /// An empty disk, switched on.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(Tree::new(), Draw::new(seed))
    }

    fn with(tree: Tree, draw: Draw) -> Self {
        let world = World {
            tree,
            locks: Vec::new(),
            draw,
            calls: 0,
            crash_at: None,
            writes_left: None,
            off: false,
            faults: Vec::new(),
            fail_at: None,
            failed: Vec::new(),
            capacity: CAPACITY_BYTES,
        };
        Self { world: Arc::new(Mutex::new(world)) }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Switches the power off: every later call fails and changes nothing.
    pub fn power_off(&self) {
        self.lock().off = true;
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().off
    }

    /// How many mutating calls have been made and let through.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Switches the power off right behind the mutating call after `calls` more of them (at once for 0); replaces
    /// an earlier such point.
    pub fn set_crash_after(&self, calls: u64) {
        let mut world = self.lock();
        (world.crash_at, world.writes_left) = (Some(world.calls + calls), None);
        world.off |= calls == 0;
    }

    /// The same, counting only writes to files: the last one is then not synced.
    pub fn set_crash_after_writes(&self, writes: u64) {
        let mut world = self.lock();
        (world.crash_at, world.writes_left) = (None, Some(writes.max(1)));
    }

    /// Makes one call of this kind fail with an I/O error, after `successes` more of them have succeeded.
    pub fn fail_after(&self, kind: Call, successes: u64) {
        self.lock().faults.push((kind, successes));
    }

    /// Makes the mutating call after `calls` more of them fail with an I/O error, whatever it is.
    pub fn set_failure_after(&self, calls: u64) {
        let mut world = self.lock();
        world.fail_at = Some(world.calls + calls + 1);
    }

    /// Makes this disk, an image of `other`, fail as that one still would.
    pub fn inherit_failures(&self, other: &Self) {
        let faults = other.lock().faults.clone();
        self.lock().faults = faults;
    }

    /// Takes back all failures that have not come yet, and any bound on its size.
    pub fn heal(&self) {
        let mut world = self.lock();
        world.faults.clear();
        world.fail_at = None;
        world.capacity = CAPACITY_BYTES;
    }

    /// What has failed so far on demand, or for want of room: which call, and of which file or directory.
    #[must_use]
    pub fn failed(&self) -> Vec<(Call, PathBuf)> {
        self.lock().failed.clone()
    }

    /// Leaves so many bytes for files to grow into; `None`: as many as anyone could want. What is removed or cut makes
    /// room again.
    pub fn set_free(&self, bytes: Option<u64>) {
        let mut world = self.lock();
        world.capacity = bytes.map_or(CAPACITY_BYTES, |bytes| world.tree.bytes() + bytes);
    }

    /// The disk as found after a power loss now: what was synced, and of the rest whatever `seed` leaves. Switched
    /// on, without locks, crash point or faults. This disk does not change.
    #[must_use]
    pub fn power_loss_image(&self, seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let world = self.lock();
        let oldest = world.tree.oldest_unsynced().unwrap_or(world.calls);
        let fate = Fate::draw(&mut draw, oldest, world.calls);
        let image = Self::with(world.tree.after_power_loss(&fate, &mut draw), draw);
        image.lock().capacity = world.capacity;
        image
    }

    /// The disk with nothing but what is certain to survive a power loss.
    #[must_use]
    pub fn durable_image(&self) -> Self {
        let mut draw = Draw::new(0);
        Self::with(self.lock().tree.after_power_loss(&Fate::Lost, &mut draw), draw)
    }

    /// The disk as found after the process crashed and the machine did not: as programs saw it, with all that was
    /// unsynced still so. Switched on, without locks, crash point or faults. This disk does not change.
    #[must_use]
    pub fn process_crash_image(&self) -> Self {
        let world = self.lock();
        let image = Self::with(world.tree.copy(), world.draw.clone());
        let mut found = image.lock();
        (found.calls, found.capacity) = (world.calls, world.capacity);
        drop(found);
        image
    }

    /// The paths and lengths of all files, in order, as programs see them; also when the power is off.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let files = self.lock().tree.files();
        files.into_iter().map(|(path, file)| (path.into(), lock(&file).len())).collect()
    }

    /// A file's content as programs see it; also when the power is off.
    ///
    /// # Errors
    /// There is no such file.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.lock().tree.file(path)?;
        let file = lock(&file);
        let mut content = vec![0; file.len() as usize];
        file.read(&mut content, 0);
        Ok(content)
    }

    /// Replaces bytes of a file behind everyone's back, on the platter too, as rot or a misdirected write does.
    /// Grows nothing.
    ///
    /// # Errors
    /// There is no such file, or it is too short.
    pub fn damage(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.lock().tree.file(path)?;
        let mut file = lock(&file);
        if offset + bytes.len() as u64 > file.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.rot(bytes, offset);
        Ok(())
    }
}

impl World {
    /// Lets a call that changes nothing through.
    fn reading(&mut self, of: Option<(Call, &Path)>) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        if of.is_some_and(|(kind, path)| self.is_to_fail(kind, path)) { Err(injected()) } else { Ok(()) }
    }

    /// Counts a mutating call; returns its number, and whether it is to fail.
    fn mutating(&mut self, kind: Call, path: &Path) -> io::Result<(u64, bool)> {
        self.reading(None)?;
        self.calls += 1;
        if kind == Call::Write
            && let Some(left) = &mut self.writes_left
        {
            *left -= 1;
            if *left == 0 {
                (self.crash_at, self.writes_left) = (Some(self.calls), None);
            }
        }
        Ok((self.calls, self.is_to_fail(kind, path)))
    }

    /// Whether so many bytes more fit on the disk.
    fn take(&mut self, kind: Call, path: &Path, bytes: u64) -> io::Result<()> {
        // Counting takes time, and most disks never fill.
        if bytes > 0 && self.capacity < CAPACITY_BYTES && self.tree.bytes() + bytes > self.capacity {
            self.failed.push((kind, path.to_owned()));
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn is_to_fail(&mut self, kind: Call, path: &Path) -> bool {
        let mut fails = kind != Call::Read && self.fail_at == Some(self.calls);
        self.faults.retain_mut(|(of, successes)| {
            if *of != kind {
                return true;
            }
            fails |= *successes == 0;
            successes.checked_sub(1).is_some_and(|left| {
                *successes = left;
                true
            })
        });
        if fails {
            self.failed.push((kind, path.to_owned()));
        }
        fails
    }

    /// Switches the power off if the call just done is the chosen one.
    fn done<T>(&mut self, result: T) -> T {
        self.off |= self.crash_at.is_some_and(|at| self.calls >= at);
        result
    }

    /// Carries out a mutating call of which nothing happens when it is to fail.
    fn whole_or_not<T>(
        &mut self,
        kind: Call,
        path: &Path,
        work: impl FnOnce(&mut Tree, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        let (call, fails) = self.mutating(kind, path)?;
        let result = if fails { Err(injected()) } else { work(&mut self.tree, call) };
        self.done(result)
    }
}

fn injected() -> io::Error {
    // EIO, as Linux reports it.
    io::Error::from_raw_os_error(5)
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.lock().whole_or_not(Call::Name, path, |tree, call| tree.create_dir_all(path, call))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut world = self.lock();
        world.reading(None)?;
        world.tree.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut world = self.lock();
        world.reading(None)?;
        match world.tree.node(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut world = self.lock();
        let file = match mode {
            OpenMode::CreateNew => {
                world.whole_or_not(Call::Name, path, |tree, call| tree.create_file(path, call))?
            }
            OpenMode::Read | OpenMode::Write => {
                world.reading(None)?;
                world.tree.file(path)?
            }
        };
        let writable = mode != OpenMode::Read;
        Ok(Box::new(SimFile { disk: self.clone(), file, writable, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.lock().whole_or_not(Call::Name, to, |tree, call| tree.rename(from, to, call))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.lock().whole_or_not(Call::Name, path, |tree, call| tree.remove_file(path, call))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.lock().whole_or_not(Call::SyncDir, path, |tree, _| tree.sync_dir(path))
    }

    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let mut world = self.lock();
        world.reading(None)?;
        let file = world.tree.lock_file(path)?;
        if world.locks.iter().any(|held| Arc::ptr_eq(held, &file)) {
            let text = format!("{} is in use by another process", path.display());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
        }
        world.locks.push(Arc::clone(&file));
        Ok(Box::new(SimDirLock { disk: self.clone(), file }))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let mut world = self.lock();
        world.reading(None)?;
        world.tree.node(path)?;
        Ok(world.capacity.saturating_sub(world.tree.bytes()))
    }
}

struct SimDirLock {
    disk: SimDisk,
    file: FileCell,
}

impl Drop for SimDirLock {
    fn drop(&mut self) {
        self.disk.lock().locks.retain(|held| !Arc::ptr_eq(held, &self.file));
    }
}

struct SimFile {
    disk: SimDisk,
    file: FileCell,
    writable: bool,
    /// As it was when it was opened.
    path: PathBuf,
}

impl SimFile {
    fn writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.lock().reading(Some((Call::Read, &self.path)))?;
        Ok(lock(&self.file).read(buf, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.lock();
        let (call, fails) = world.mutating(Call::Write, &self.path)?;
        let end = if data.is_empty() { 0 } else { offset + data.len() as u64 };
        let grows = end.saturating_sub(lock(&self.file).len());
        let result = if let Err(full) = world.take(Call::Write, &self.path, grows) {
            Err(full)
        } else if fails {
            let part = world.draw.below(data.len() as u64 + 1) as usize;
            lock(&self.file).write(&data[..part], offset, call);
            Err(injected())
        } else {
            lock(&self.file).write(data, offset, call);
            Ok(())
        };
        world.done(result)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.lock();
        let (_, fails) = world.mutating(Call::SyncData, &self.path)?;
        let result = if fails {
            lock(&self.file).sync_badly(&mut world.draw);
            Err(injected())
        } else {
            lock(&self.file).sync();
            Ok(())
        };
        world.done(result)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.lock().reading(None)?;
        Ok(lock(&self.file).len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.lock();
        let grows = len.saturating_sub(lock(&self.file).len());
        let room = world.take(Call::Resize, &self.path, grows);
        world.whole_or_not(Call::Resize, &self.path, |_, call| {
            room?;
            lock(&self.file).set_len(len, call);
            Ok(())
        })
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.writable()?;
        let mut world = self.disk.lock();
        let grows = len.saturating_sub(lock(&self.file).len());
        let room = world.take(Call::Resize, &self.path, grows);
        world.whole_or_not(Call::Resize, &self.path, |_, call| {
            room?;
            lock(&self.file).grow(len, call);
            Ok(())
        })
    }
}
