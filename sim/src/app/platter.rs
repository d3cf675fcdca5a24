//! What is left of a node's store after a crash: what it had flushed.
//!
//! sled writes from threads of its own, at times that differ from run to run. So a crash does not leave what its
//! files hold at that moment, but what they held right after the last flush: the same in every run of a seed. That
//! the rows in them are laid out differently from run to run does not matter; their content is the same.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kv::store::{MemoryPlatter, SledOptions, StoreKind as KvStoreKind};

use super::Platter;
use crate::disk::SimDisk;
use crate::scenario::StoreKind;

/// A small cache: the stores are small, and every node has one.
const CACHE_BYTES: u64 = 4 << 20;
/// The segments of the product: with smaller ones sled puts what is larger than a quarter of a segment into blobs, which
/// `SledStore` refuses; a leaf of large values is.
const SEGMENT_BYTES: usize = 512 * 1024;

/// The files of one store, by their path in its directory.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The durable side of a node's store.
pub(super) enum KvPlatter {
    Sled(SledPlatter),
    Memory(MemoryPlatter),
}

/// The images of a node's sled stores.
pub(super) struct SledPlatter {
    /// The directory for this node's stores, one below it for each start of the process.
    root: PathBuf,
    /// By the name of the store's directory.
    images: Arc<Mutex<BTreeMap<String, Files>>>,
}

impl KvPlatter {
    pub(super) fn new(kind: StoreKind, scratch: &Path, node: u8) -> Self {
        match kind {
            StoreKind::Sled => {
                Self::Sled(SledPlatter { root: scratch.join(format!("n{node}")), images: Arc::default() })
            }
            StoreKind::Memory => Self::Memory(MemoryPlatter::default()),
        }
    }
}

impl Platter for KvPlatter {
    /// The store for the next start, holding what was flushed. Once `disk` is off nothing more is.
    fn open(&mut self, start: u32, disk: &SimDisk) -> io::Result<Box<dyn Any + Send>> {
        let store = match self {
            Self::Memory(platter) => {
                let disk = disk.clone();
                platter.powered_like(move || disk.is_off());
                KvStoreKind::Memory(platter.clone())
            }
            Self::Sled(platter) => platter.store(start, disk)?,
        };
        Ok(Box::new(store))
    }

    fn cut_power(&self) {
        match self {
            Self::Memory(platter) => platter.cut_power(),
            Self::Sled(_) => {}
        }
    }
}

impl SledPlatter {
    fn store(&self, start: u32, disk: &SimDisk) -> io::Result<KvStoreKind> {
        // A directory of its own for each start: the threads of the last one may still hold its files.
        let root = self.root.join(start.to_string());
        for (name, files) in &*self.images.lock().unwrap_or_else(PoisonError::into_inner) {
            write_files(&root.join(name), files)?;
        }
        let (images, disk) = (Arc::clone(&self.images), disk.clone());
        let mut options = SledOptions::new(root.clone());
        options.cache_bytes = CACHE_BYTES;
        options.segment_bytes = SEGMENT_BYTES;
        options.after_flush = Some(Arc::new(move |dir| {
            if disk.is_off() {
                return;
            }
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut images = images.lock().unwrap_or_else(PoisonError::into_inner);
            images.retain(|name, _| root.join(name).is_dir());
            let files = images.entry(name).or_default();
            if let Err(error) = read_files(dir, files) {
                panic!("cannot take the image of {}: {error}", dir.display());
            }
        }));
        Ok(KvStoreKind::Sled(options))
    }
}

/// Makes `files` the files below `dir`, as they are now.
fn read_files(dir: &Path, files: &mut Files) -> io::Result<()> {
    let mut found = Vec::new();
    walk(dir, Path::new(""), &mut found)?;
    files.retain(|path, _| found.contains(path));
    for path in found {
        let content = files.entry(path.clone()).or_default();
        content.clear();
        match std::fs::File::open(dir.join(&path)) {
            Ok(mut file) => {
                io::Read::read_to_end(&mut file, content)?;
            }
            // One of sled's threads has just removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files.remove(&path);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn walk(dir: &Path, below: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(dir, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

fn write_files(dir: &Path, files: &Files) -> io::Result<()> {
    // sled wants this one even when it is empty.
    std::fs::create_dir_all(dir.join("blobs"))?;
    for (path, content) in files {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, content)?;
    }
    Ok(())
}
