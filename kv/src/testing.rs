//! A network and a clock for tests: streams in memory, and time that passes at once when nothing else is to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use raft::clock::{BoxFuture, Clock, Monotonic};
use raft::net::{BoxStream, Listener, Net};
use tokio::sync::mpsc;

/// Runs a test in a runtime whose time stands still while anything can run.
pub(crate) fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// The runtime's time.
pub(crate) struct TestClock;

#[expect(clippy::disallowed_methods, reason = "the test clock is the runtime's paused one")]
impl Clock for TestClock {
    fn now(&self) -> Monotonic {
        static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
        let start = *START.get_or_init(tokio::time::Instant::now);
        // Paused clocks of different tests may begin before the first one's.
        let now = tokio::time::Instant::now().checked_duration_since(start).unwrap_or_default();
        Monotonic(u64::try_from(now.as_nanos()).unwrap())
    }

    fn sleep_until(&self, deadline: Monotonic) -> BoxFuture<'static, ()> {
        let left = deadline.since(self.now());
        Box::pin(async move {
            if !left.is_zero() {
                tokio::time::sleep(left).await;
            }
        })
    }
}

/// Streams within the process.
#[derive(Default)]
pub(crate) struct TestNet {
    listening: Mutex<BTreeMap<String, mpsc::UnboundedSender<BoxStream>>>,
    hanging: Mutex<BTreeSet<String>>,
    pub(crate) connects: Mutex<Vec<String>>,
}

impl TestNet {
    /// Connecting to this address never ends.
    pub(crate) fn hang(&self, address: &str) {
        self.hanging.lock().unwrap().insert(address.to_owned());
    }
}

impl Net for TestNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxStream>> {
        self.connects.lock().unwrap().push(address.to_owned());
        if self.hanging.lock().unwrap().contains(address) {
            return Box::pin(std::future::pending());
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let accepted = self
            .listening
            .lock()
            .unwrap()
            .get(address)
            .is_some_and(|l| l.send(Box::new(theirs) as BoxStream).is_ok());
        Box::pin(async move {
            if accepted {
                Ok(Box::new(ours) as BoxStream)
            } else {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        })
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let (sender, incoming) = mpsc::unbounded_channel();
        let mut listening = self.listening.lock().unwrap();
        let taken = listening.get(address).is_some_and(|l| !l.is_closed());
        if !taken {
            listening.insert(address.to_owned(), sender);
        }
        let listener = TestListener { address: address.to_owned(), incoming };
        Box::pin(async move {
            if taken {
                Err(io::ErrorKind::AddrInUse.into())
            } else {
                Ok(Box::new(listener) as Box<dyn Listener>)
            }
        })
    }
}

struct TestListener {
    address: String,
    incoming: mpsc::UnboundedReceiver<BoxStream>,
}

impl Listener for TestListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        Box::pin(async move {
            let stream = self.incoming.recv().await.ok_or_else(|| io::Error::other("the network is gone"))?;
            Ok((stream, "test".to_owned()))
        })
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

/// A fresh network.
pub(crate) fn net() -> Arc<TestNet> {
    Arc::new(TestNet::default())
}
