//! Listening: connections wait here until they are accepted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Poll, Waker};

use raft::clock::BoxFuture;
use raft::net::{BoxStream, Listener};

use super::stream::SimStream;
use super::{HostId, Network};

/// More connections than this are not kept waiting.
const BACKLOG_MAX: usize = 64;

/// Connections to one address that were not yet accepted.
pub(super) struct Backlog {
    /// Tells a listener from one at the same address before it.
    number: u64,
    waiting: VecDeque<(SimStream, String)>,
    acceptor: Option<Waker>,
}

impl Backlog {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= BACKLOG_MAX
    }

    pub(super) fn push(&mut self, stream: SimStream, from: String) {
        self.waiting.push_back((stream, from));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.wake();
        }
    }
}

/// A listener on one address.
pub(super) struct SimListener {
    network: Network,
    address: String,
    number: u64,
}

impl SimListener {
    pub(super) fn bind(network: &Network, host: HostId, address: &str) -> io::Result<Self> {
        let mut state = network.lock();
        let prefix = format!("{}:", state.names[host]);
        if !address.starts_with(&prefix) {
            let text = format!("{address} is not an address of this host ({prefix}*)");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        if state.listeners.contains_key(address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{address} is in use")));
        }
        state.listeners_made += 1;
        let number = state.listeners_made;
        let backlog = Backlog { number, waiting: VecDeque::new(), acceptor: None };
        state.listeners.insert(address.to_owned(), backlog);
        drop(state);
        network.shared.changed.notify_waiters();
        Ok(Self { network: network.clone(), address: address.to_owned(), number })
    }
}

impl Listener for SimListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, String)>> {
        Box::pin(poll_fn(|cx| {
            let mut state = self.network.lock();
            let Some(backlog) = state.listeners.get_mut(&self.address).filter(|b| b.number == self.number)
            else {
                // The process of this listener is dead and only waits to be dropped.
                return Poll::Pending;
            };
            match backlog.waiting.pop_front() {
                Some((stream, from)) => Poll::Ready(Ok((Box::new(stream) as BoxStream, from))),
                None => {
                    backlog.acceptor = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        }))
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let mine = state.listeners.get(&self.address).is_some_and(|backlog| backlog.number == self.number);
        let backlog = if mine { state.listeners.remove(&self.address) } else { None };
        // The streams in it lock the network when they are dropped.
        drop(state);
        drop(backlog);
    }
}
