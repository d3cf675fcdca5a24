//! A world of memory: disks, a network and lanes that cost next to nothing, so that what is measured is the library.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::blocking::{Blocking, Job, Lane};
use raft::clock::BoxFuture;
use raft::disk::{DirLock, Disk, File, OpenMode};
use raft::net::{BoxStream, Listener, Net};
use tokio::sync::mpsc;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk that forgets everything with the process, and whose syncs cost nothing.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    files: Mutex<BTreeMap<PathBuf, Content>>,
}

type Content = Arc<Mutex<Vec<u8>>>;

struct MemoryFile(Content);

impl File for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = lock(&self.0);
        let rest = content.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let (mut content, start) = (lock(&self.0), offset as usize);
        let end = start + data.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(data);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.0).resize(len as usize, 0);
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut content = lock(&self.0);
        let len = content.len().max(len as usize);
        content.resize(len, 0);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let files = lock(&self.files);
        let name = |file: &PathBuf| Some(file.strip_prefix(path).ok()?.to_str()?.to_owned());
        Ok(files.keys().filter_map(name).filter(|name| !name.contains('/')).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(lock(&self.files).keys().any(|file| file.starts_with(path)))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let mut files = lock(&self.files);
        let content = match (files.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => Arc::clone(content),
            (None, OpenMode::CreateNew) => Arc::clone(files.entry(path.to_owned()).or_default()),
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(MemoryFile(content)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = lock(&self.files);
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        lock(&self.files).remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock_dir(&self, _: &Path) -> io::Result<DirLock> {
        Ok(Box::new(()))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

/// Streams that are pipes in memory.
#[derive(Clone, Default)]
pub(crate) struct MemoryNet {
    listening: Arc<Mutex<BTreeMap<String, mpsc::UnboundedSender<BoxStream>>>>,
}

struct MemoryListener {
    address: String,
    arriving: mpsc::UnboundedReceiver<BoxStream>,
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        Box::pin(async {
            match self.arriving.recv().await {
                Some(stream) => Ok((stream, "memory".to_owned())),
                None => std::future::pending().await,
            }
        })
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

impl Net for MemoryNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxStream>> {
        const PIPE_BYTES: usize = 1 << 20;
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let delivered = lock(&self.listening).get(address).is_some_and(|to| to.send(Box::new(far)).is_ok());
        Box::pin(async move {
            if delivered {
                Ok(Box::new(near) as BoxStream)
            } else {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        })
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (sender, arriving) = mpsc::unbounded_channel();
        lock(&self.listening).insert(address.to_owned(), sender);
        let listener = MemoryListener { address: address.to_owned(), arriving };
        Box::pin(async move { Ok(Box::new(listener) as Box<dyn Listener>) })
    }
}

/// Lanes that do each job on the spot: nothing blocks in this world.
pub(crate) struct Inline;

impl Lane for Inline {
    fn submit(&self, job: Job) {
        job();
    }
}

impl Blocking for Inline {
    fn lane(&self, _: &'static str) -> Arc<dyn Lane> {
        Arc::new(Self)
    }
}
