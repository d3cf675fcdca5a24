//! What was done to the files below one directory, in the order in which it was done.
//!
//! One lock is held over each call and its record, so that the order is true. Calls on other files pass by.
//!
//! [`Recipe`] leaves out one ingredient of what makes sled safe, by what a process would have done without it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// A file or directory, whatever its name.
pub(crate) type Inode = usize;
/// The directory that is recorded.
pub(crate) const ROOT: Inode = 0;

/// One call that changed something, or made it durable.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Make {
        dir: Inode,
        name: String,
        inode: Inode,
        is_dir: bool,
    },
    Write {
        inode: Inode,
        offset: u64,
        data: Vec<u8>,
    },
    SetLen {
        inode: Inode,
        length: u64,
    },
    Sync {
        inode: Inode,
    },
    Rename {
        from: (Inode, String),
        to: (Inode, String),
    },
    Remove {
        dir: Inode,
        name: String,
    },
    /// Not a call: from here on the state up to this entry must survive.
    Promised {
        index: u64,
    },
}

/// Which ingredient is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// None.
    #[default]
    Whole,
    /// `sync_file_range` is the system's: it succeeds, sled does not fall back to `fsync`, nothing is durable.
    RangeSync,
    /// `rename` is the C library's: the directory is not synced.
    PlainRename,
    /// Half-written page tables are not removed before a store is opened.
    KeepGenerating,
    /// Both of the last: what a process without our symbols and without the removal does.
    PlainRenameAndKeep,
    /// What sled leaves unsynced in a new store is not synced by us either.
    UnsyncedConf,
    /// The names in a new store, and its own, are not synced before it is recorded as the current one.
    UnsyncedNames,
    /// The file that names the store is replaced without being synced.
    UnsyncedCurrent,
    /// sled as it comes: the first four and the conf.
    Bare,
}

#[derive(Default)]
struct Recorder {
    root: PathBuf,
    recipe: Recipe,
    names: BTreeMap<PathBuf, (Inode, bool)>,
    open: BTreeMap<RawFd, (PathBuf, Inode)>,
    inodes: usize,
    events: Vec<Event>,
    range_syncs: u64,
}

static ON: AtomicBool = AtomicBool::new(false);
static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

thread_local! {
    /// A `rename` of ours is under way in this thread: its next sync is that of the directory.
    static RENAMING: Cell<bool> = const { Cell::new(false) };
}

fn lock() -> Option<MutexGuard<'static, Option<Recorder>>> {
    if !ON.load(Ordering::Acquire) {
        return None;
    }
    Some(RECORDER.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Begins: what is below `root` is there already, and is durable.
pub(crate) fn start(root: &Path, recipe: Recipe) -> BTreeMap<PathBuf, (Inode, bool)> {
    let mut recorder = Recorder { root: root.to_owned(), recipe, ..Recorder::default() };
    recorder.names.insert(root.to_owned(), (ROOT, true));
    recorder.inodes = 1;
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let mut paths: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let is_dir = path.is_dir();
            recorder.names.insert(path.clone(), (recorder.inodes, is_dir));
            recorder.inodes += 1;
            if is_dir {
                left.push(path);
            }
        }
    }
    recorder.range_syncs = kv::store::power_safe::range_syncs();
    let names = recorder.names.clone();
    *RECORDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorder);
    ON.store(true, Ordering::Release);
    names
}

/// Ends; what was recorded.
pub(crate) fn stop() -> Vec<Event> {
    ON.store(false, Ordering::Release);
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap().events
}

/// The state up to this entry was just acknowledged as durable.
pub(crate) fn promised(index: u64) {
    if let Some(mut guard) = lock()
        && let Some(recorder) = guard.as_mut()
    {
        recorder.events.push(Event::Promised { index });
    }
}

impl Recorder {
    /// The whole path, if it is below the root.
    fn below(&self, dir: RawFd, path: &Path) -> Option<PathBuf> {
        let path = if path.is_absolute() { path.to_owned() } else { self.open.get(&dir)?.0.join(path) };
        path.starts_with(&self.root).then_some(path)
    }

    fn place(&self, path: &Path) -> (Inode, String) {
        let parent = path.parent().and_then(|parent| self.names.get(parent));
        let Some(&(dir, true)) = parent else {
            panic!("{} is in no directory that is known", path.display())
        };
        (dir, path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    fn make(&mut self, path: &Path, is_dir: bool) -> Inode {
        let ((dir, name), inode) = (self.place(path), self.inodes);
        self.inodes += 1;
        self.names.insert(path.to_owned(), (inode, is_dir));
        self.events.push(Event::Make { dir, name, inode, is_dir });
        inode
    }

    /// Whether the sync of this file or directory would not be there without the ingredient.
    fn sync_is_left_out(&mut self, path: &Path, renaming: bool) -> bool {
        let is_dir = self.names.get(path).is_some_and(|(_, is_dir)| *is_dir);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let asked = kv::store::power_safe::range_syncs();
        let fallback = name == "db" && self.range_syncs < asked;
        self.range_syncs += u64::from(fallback);
        match self.recipe {
            Recipe::Whole | Recipe::KeepGenerating => false,
            Recipe::RangeSync => fallback,
            Recipe::PlainRename | Recipe::PlainRenameAndKeep => renaming && is_dir,
            Recipe::UnsyncedConf => name == "conf",
            Recipe::UnsyncedNames => is_dir && !renaming && (name.starts_with("store.") || name == "blobs"),
            Recipe::UnsyncedCurrent => name.starts_with("CURRENT"),
            Recipe::Bare => fallback || (renaming && is_dir) || name == "conf",
        }
    }
}

const O_CREAT: i32 = 0o100;
const O_TRUNC: i32 = 0o1000;

pub(crate) fn open(
    dir: RawFd,
    path: &Path,
    flags: i32,
    call: impl FnOnce() -> Result<RawFd, Errno>,
) -> Result<RawFd, Errno> {
    let Some(mut guard) = lock() else { return call() };
    let fd = call()?;
    let Some(recorder) = guard.as_mut() else { return Ok(fd) };
    // The number may be known from a file that was closed where we could not see it.
    recorder.open.remove(&fd);
    let Some(path) = recorder.below(dir, path) else { return Ok(fd) };
    let known = recorder.names.get(&path).copied();
    let inode = match known {
        Some((inode, _)) => {
            if flags & O_TRUNC != 0 {
                recorder.events.push(Event::SetLen { inode, length: 0 });
            }
            inode
        }
        None if flags & O_CREAT != 0 => recorder.make(&path, false),
        None => panic!("{} was made where the recorder did not see it", path.display()),
    };
    recorder.open.insert(fd, (path, inode));
    Ok(fd)
}

pub(crate) fn close(fd: RawFd, call: impl FnOnce()) {
    let Some(mut guard) = lock() else { return call() };
    if let Some(recorder) = guard.as_mut() {
        recorder.open.remove(&fd);
    }
    call();
}

pub(crate) fn write(
    fd: RawFd,
    data: &[u8],
    offset: impl FnOnce() -> u64,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let Some(mut guard) = lock() else { return call() };
    let Some(recorder) = guard.as_mut() else { return call() };
    let Some(&(_, inode)) = recorder.open.get(&fd) else { return call() };
    let offset = offset();
    let written = call()?;
    recorder.events.push(Event::Write { inode, offset, data: data[..written].to_vec() });
    Ok(written)
}

pub(crate) fn set_len(fd: RawFd, length: u64, call: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let Some(mut guard) = lock() else { return call() };
    call()?;
    if let Some(recorder) = guard.as_mut()
        && let Some(&(_, inode)) = recorder.open.get(&fd)
    {
        recorder.events.push(Event::SetLen { inode, length });
    }
    Ok(())
}

pub(crate) fn sync(fd: RawFd, call: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let Some(mut guard) = lock() else { return call() };
    let Some(recorder) = guard.as_mut() else { return call() };
    let Some((path, inode)) = recorder.open.get(&fd).cloned() else { return call() };
    if !recorder.sync_is_left_out(&path, RENAMING.take()) {
        recorder.events.push(Event::Sync { inode });
    }
    Ok(())
}

pub(crate) fn make_dir(path: &Path, call: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let Some(mut guard) = lock() else { return call() };
    call()?;
    if let Some(recorder) = guard.as_mut()
        && let Some(path) = recorder.below(-1, path)
    {
        recorder.make(&path, true);
    }
    Ok(())
}

/// Whether a call is to do nothing and to succeed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ignore {
    Yes,
    No,
}

/// Removes one name; `single` if not as part of a whole directory.
pub(crate) fn remove(
    dir: RawFd,
    path: &Path,
    single: bool,
    call: impl FnOnce(Ignore) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let Some(mut guard) = lock() else { return call(Ignore::No) };
    let Some(recorder) = guard.as_mut() else { return call(Ignore::No) };
    let Some(path) = recorder.below(dir, path) else { return call(Ignore::No) };
    let kept = single
        && matches!(recorder.recipe, Recipe::KeepGenerating | Recipe::PlainRenameAndKeep | Recipe::Bare)
        && path.extension().is_some_and(|extension| extension == "generating");
    if kept {
        return call(Ignore::Yes);
    }
    call(Ignore::No)?;
    let (dir, name) = recorder.place(&path);
    recorder.names.remove(&path);
    recorder.events.push(Event::Remove { dir, name });
    Ok(())
}

pub(crate) fn rename(from: &Path, to: &Path, call: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let Some(mut guard) = lock() else { return call() };
    call()?;
    let Some(recorder) = guard.as_mut() else { return Ok(()) };
    let (Some(from), Some(to)) = (recorder.below(-1, from), recorder.below(-1, to)) else { return Ok(()) };
    RENAMING.set(true);
    let node = recorder.names.remove(&from).unwrap();
    assert!(!node.1, "the store renames no directory");
    let event = Event::Rename { from: recorder.place(&from), to: recorder.place(&to) };
    recorder.names.insert(to, node);
    recorder.events.push(event);
    Ok(())
}
