//! The simulated directories: names now, names that are durable, and the changes in between.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, PoisonError};

use super::draw::Draw;
use super::fate::Fate;
use super::file::FileState;

/// A file, shared by its names and by whoever has it open.
pub(super) type FileCell = Arc<Mutex<FileState>>;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(FileCell),
    Dir(u64),
}

type Names = BTreeMap<String, Node>;

/// The name that the real disk gives its locks.
const LOCK_NAME: &str = "LOCK";

/// The root directory.
const ROOT: u64 = 0;

#[derive(Clone, Debug, Default)]
struct Dir {
    names: Names,
    durable: Names,
}

/// One operation on names: all of it survives a power loss, or nothing. A rename sets two names.
#[derive(Clone, Debug)]
struct Change {
    call: u64,
    names: Vec<(u64, String, Option<Node>)>,
}

/// All directories of one disk.
#[derive(Debug)]
pub(super) struct Tree {
    dirs: BTreeMap<u64, Dir>,
    /// Changes of names that are not synced, in order.
    pending: Vec<Change>,
}

pub(super) fn lock(file: &FileCell) -> std::sync::MutexGuard<'_, FileState> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { dirs: BTreeMap::from([(ROOT, Dir::default())]), pending: Vec::new() }
    }

    fn dir(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in parts(path)? {
            match self.dirs[&at].names.get(name) {
                Some(Node::Dir(dir)) => at = *dir,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(not_found(path)),
            }
        }
        Ok(at)
    }

    /// The directory of `path`, and its name there.
    fn place<'p>(&self, path: &'p Path) -> io::Result<(u64, &'p str)> {
        let name = parts(path)?.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.dir(parent)?, name))
    }

    pub(super) fn node(&self, path: &Path) -> io::Result<Node> {
        if parts(path)?.is_empty() {
            return Ok(Node::Dir(ROOT));
        }
        let (dir, name) = self.place(path)?;
        self.dirs[&dir].names.get(name).cloned().ok_or_else(|| not_found(path))
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<FileCell> {
        match self.node(path)? {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.dirs[&self.dir(path)?].names.keys().cloned().collect())
    }

    /// The file that stands for the lock on a directory, made if it is not there. It is durable from the first, which spares
    /// every image the question; nothing reads it.
    pub(super) fn lock_file(&mut self, path: &Path) -> io::Result<FileCell> {
        let at = self.dir(path)?;
        let dir = self.dirs.entry(at).or_default();
        match dir.names.entry(LOCK_NAME.to_owned()).or_insert_with(|| Node::File(FileCell::default())) {
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
            Node::File(file) => {
                dir.durable.insert(LOCK_NAME.to_owned(), Node::File(Arc::clone(file)));
                Ok(Arc::clone(file))
            }
        }
    }

    fn change(&mut self, call: u64, names: Vec<(u64, String, Option<Node>)>) {
        for (dir, name, node) in &names {
            set(&mut self.dirs.entry(*dir).or_default().names, name, node.as_ref());
        }
        self.pending.push(Change { call, names });
    }

    pub(super) fn create_dir_all(&mut self, path: &Path, call: u64) -> io::Result<()> {
        let mut at = ROOT;
        let parts = parts(path)?;
        for (depth, name) in (1..).zip(&parts) {
            at = match self.dirs[&at].names.get(*name) {
                Some(Node::Dir(dir)) => *dir,
                Some(Node::File(_)) if depth < parts.len() => {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => {
                    let dir = self.dirs.last_key_value().map_or(ROOT, |(last, _)| last + 1);
                    self.dirs.insert(dir, Dir::default());
                    self.change(call, vec![(at, (*name).to_owned(), Some(Node::Dir(dir)))]);
                    dir
                }
            };
        }
        Ok(())
    }

    pub(super) fn create_file(&mut self, path: &Path, call: u64) -> io::Result<FileCell> {
        let (dir, name) = self.place(path)?;
        if self.dirs[&dir].names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = FileCell::default();
        self.change(call, vec![(dir, name.to_owned(), Some(Node::File(Arc::clone(&file))))]);
        Ok(file)
    }

    /// As Linux does it: a file takes the place of a file, a directory that of an empty one.
    pub(super) fn rename(&mut self, from: &Path, to: &Path, call: u64) -> io::Result<()> {
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        let node = self.node(from)?;
        let (from_parts, to_parts) = (parts(from)?, parts(to)?);
        if to_parts.len() > from_parts.len() && to_parts.starts_with(&from_parts) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if from_parts.len() > to_parts.len() && from_parts.starts_with(&to_parts) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let same = (from_dir, from_name) == (to_dir, to_name);
        match (&node, self.dirs[&to_dir].names.get(to_name)) {
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::Dir(_), Some(Node::Dir(there))) if !same && !self.dirs[there].names.is_empty() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            _ => {}
        }
        if (from_dir, from_name) != (to_dir, to_name) {
            let names =
                vec![(from_dir, from_name.to_owned(), None), (to_dir, to_name.to_owned(), Some(node))];
            self.change(call, names);
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path, call: u64) -> io::Result<()> {
        self.file(path)?;
        let (dir, name) = self.place(path)?;
        self.change(call, vec![(dir, name.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let synced = self.dir(path)?;
        if let Some(dir) = self.dirs.get_mut(&synced) {
            dir.durable.clone_from(&dir.names);
        }
        for change in &mut self.pending {
            change.names.retain(|(dir, ..)| *dir != synced);
        }
        self.pending.retain(|change| !change.names.is_empty());
        Ok(())
    }

    /// The oldest call whose change is not synced.
    pub(super) fn oldest_unsynced(&self) -> Option<u64> {
        let names = self.pending.first().map(|change| change.call);
        let reachable = self.dirs.values().flat_map(|dir| dir.names.values().chain(dir.durable.values()));
        let files = reachable.filter_map(|node| match node {
            Node::File(file) => lock(file).oldest_unsynced(),
            Node::Dir(_) => None,
        });
        files.chain(names).min()
    }

    /// The directories as a power loss leaves them, and with them the files.
    pub(super) fn after_power_loss(&self, fate: &Fate, draw: &mut Draw) -> Self {
        let mut dirs: BTreeMap<u64, Names> =
            self.dirs.iter().map(|(id, dir)| (*id, dir.durable.clone())).collect();
        for change in &self.pending {
            if fate.keeps(draw, change.call) {
                for (dir, name, node) in &change.names {
                    set(dirs.entry(*dir).or_default(), name, node.as_ref());
                }
            }
        }
        let copy = |file: &FileState| file.after_power_loss(fate, draw);
        let dirs = copy_reachable(dirs, copy);
        let dirs = dirs.into_iter().map(|(id, names)| (id, Dir { durable: names.clone(), names })).collect();
        Self { dirs, pending: Vec::new() }
    }

    /// A copy that shares nothing with this one, with everything unsynced still so.
    pub(super) fn copy(&self) -> Self {
        let mut copies = Copies::default();
        let mut copy_names = |names: &Names| -> Names {
            names.iter().map(|(name, node)| (name.clone(), copies.node(node, FileState::clone))).collect()
        };
        let dirs = self
            .dirs
            .iter()
            .map(|(id, dir)| (*id, Dir { names: copy_names(&dir.names), durable: copy_names(&dir.durable) }))
            .collect();
        let pending = self.pending.iter().map(|change| {
            let names = change.names.iter().map(|(dir, name, node)| {
                let node = node.as_ref().map(|node| copies.node(node, FileState::clone));
                (*dir, name.clone(), node)
            });
            Change { call: change.call, names: names.collect() }
        });
        let pending = pending.collect();
        Self { dirs, pending }
    }

    /// The bytes of all files together. A file that is open and has no name any more takes none.
    pub(super) fn bytes(&self) -> u64 {
        self.files().iter().map(|(_, file)| lock(file).len()).sum()
    }

    /// The paths of all files, in order.
    pub(super) fn files(&self) -> Vec<(String, FileCell)> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), ROOT)];
        while let Some((path, dir)) = open.pop() {
            for (name, node) in &self.dirs[&dir].names {
                let path = format!("{path}/{name}");
                match node {
                    Node::File(file) => found.push((path, Arc::clone(file))),
                    Node::Dir(dir) => open.push((path, *dir)),
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }
}

/// Copies of files, so that a file with two names stays one file. Keyed by address, and never iterated.
#[derive(Default)]
struct Copies(BTreeMap<usize, FileCell>);

impl Copies {
    fn node(&mut self, node: &Node, copy: impl FnOnce(&FileState) -> FileState) -> Node {
        match node {
            Node::Dir(dir) => Node::Dir(*dir),
            Node::File(file) => {
                let made = self.0.entry(Arc::as_ptr(file) as usize);
                Node::File(Arc::clone(made.or_insert_with(|| Arc::new(Mutex::new(copy(&lock(file)))))))
            }
        }
    }
}

/// Copies the directories that have a path from the root, and their files, in the order of paths.
fn copy_reachable(
    mut dirs: BTreeMap<u64, Names>,
    mut copy: impl FnMut(&FileState) -> FileState,
) -> BTreeMap<u64, Names> {
    let mut copies = Copies::default();
    let mut copied = BTreeMap::new();
    let mut open = vec![ROOT];
    while let Some(dir) = open.pop() {
        let Some(names) = dirs.remove(&dir) else { continue };
        let names = names.iter().map(|(name, node)| {
            if let Node::Dir(dir) = node {
                open.push(*dir);
            }
            (name.clone(), copies.node(node, &mut copy))
        });
        copied.insert(dir, names.collect());
    }
    copied
}

fn set(names: &mut Names, name: &str, node: Option<&Node>) {
    match node {
        Some(node) => names.insert(name.to_owned(), node.clone()),
        None => names.remove(name),
    };
}

fn parts(path: &Path) -> io::Result<Vec<&str>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_str().ok_or(io::ErrorKind::InvalidInput)?),
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(parts)
}
