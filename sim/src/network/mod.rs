//! The simulated network: ordered byte streams between named addresses, as TCP gives them, and all that TCP does
//! when a network is bad.
//!
//! An address is `host:port`, both of them names: `n1:peer`, `n1:client`. A host is a node's machine or a client's.
//!
//! What is modelled, because code over TCP meets it:
//! - Bytes take time. They arrive in order and in pieces; a read may give part of what was written, and a write may
//!   take part of what was offered. Two connections between the same hosts overtake each other.
//! - A connection holds a bounded number of bytes. Who does not read makes the other end wait.
//! - A lost segment comes later, and everything behind it too: bytes are never lost out of a stream, nor doubled,
//!   nor reordered within it. (Loss, duplication and reordering of whole *messages* do not exist on TCP; the core's
//!   own tests have them.)
//! - A cut link is silence. What was on its way arrives when the link heals; who connects into a cut hangs.
//!   A link cut one way carries no acknowledgements either, so that the other way fills up and stalls.
//! - A process that dies has its connections closed or reset by its machine, if the machine lives and the link does.
//!   If not, the other end hears nothing: the connection is half open, until something is sent on it, or for ever.
//! - A machine that is up, with nobody listening, refuses at once. One that is down is silence.
//!
//! Deliberately absent: congestion control, datagrams, addresses that resolve to something else.

mod connection;
mod links;
mod listener;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::clock::BoxFuture;
use raft::net::{BoxStream, Listener, Net};
use tokio::sync::Notify;

use self::connection::Connection;
use self::links::Links;
use self::listener::{Backlog, SimListener};
use self::stream::SimStream;
use crate::scenario::NetworkScenario;
use crate::time::VirtualTime;
use crate::trace::{Event, Source, Trace};

/// A host's number: its place in the list that the network was made with.
pub type HostId = usize;

/// The network of a world. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    time: VirtualTime,
    trace: Trace,
    state: Mutex<State>,
    /// Rung when a link heals, a host comes up or somebody listens: whoever is connecting looks again.
    changed: Notify,
}

struct State {
    scenario: NetworkScenario,
    names: Vec<String>,
    /// Hosts whose machine is down.
    down: Vec<bool>,
    links: Links,
    listeners: BTreeMap<String, Backlog>,
    connections: BTreeMap<u64, Connection>,
    connections_made: u64,
    listeners_made: u64,
}

impl Network {
    /// A network of these hosts, all up and all hearing each other. Each link draws from a stream of its own, that
    /// comes from `seed` and the names of its ends.
    #[must_use]
    pub fn new(
        time: VirtualTime,
        trace: Trace,
        seed: u64,
        scenario: NetworkScenario,
        names: Vec<String>,
    ) -> Self {
        let state = State {
            down: vec![false; names.len()],
            links: Links::new(seed, &names),
            scenario,
            names,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            connections_made: 0,
            listeners_made: 0,
        };
        Self { shared: Arc::new(Shared { time, trace, state: Mutex::new(state), changed: Notify::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        self.shared.time.now_ns()
    }

    fn record(&self, event: &Event<'_>) {
        self.shared.trace.record(self.now_ns(), Source::Network, event);
    }

    /// The network as `host` sees it.
    #[must_use]
    pub fn of_host(&self, host: HostId) -> SimNet {
        SimNet { network: self.clone(), host }
    }

    /// Cuts the link from one host to another. Links are cut as often as they are healed: each cut counts.
    pub fn cut(&self, from: HostId, to: HostId) {
        let now_ns = self.now_ns();
        let mut state = self.lock();
        if state.links.cut(from, to) {
            state.link_cut(now_ns, from, to);
        }
    }

    /// Takes back one [`cut`](Self::cut).
    pub fn heal(&self, from: HostId, to: HostId) {
        let mut state = self.lock();
        if state.links.heal(from, to) {
            state.link_healed(&self.shared, from, to);
            drop(state);
            self.shared.changed.notify_waiters();
        }
    }

    /// Whether what `from` sends reaches `to`.
    #[must_use]
    pub fn hears(&self, from: HostId, to: HostId) -> bool {
        self.lock().hears(from, to)
    }

    /// Takes back every cut, and makes all links as fast and as good as at first.
    pub fn heal_all(&self) {
        let hosts = self.lock().names.len();
        for from in 0..hosts {
            for to in 0..hosts {
                self.lock().links.forget_cuts_but_one(from, to);
                self.heal(from, to);
            }
        }
        self.lock().links.forget_faults();
    }

    /// Makes the link from one host to another slower, this many times; 1 makes it as it was.
    pub fn slow_down(&self, from: HostId, to: HostId, factor: u32) {
        self.lock().links.set_factor(from, to, factor);
    }

    /// Makes the link from one host to another lose this many more of 1,000 segments; 0 makes it as it was.
    pub fn lose(&self, from: HostId, to: HostId, per_mille: u32) {
        self.lock().links.set_loss(from, to, per_mille);
    }

    /// Breaks all connections between two hosts: the ends at `told` learn it, those at `other` only if `both`.
    pub fn reset(&self, told: HostId, other: HostId, both: bool) {
        let mut state = self.lock();
        let now_ns = self.now_ns();
        for (number, connection) in &mut state.connections {
            let Some(end) = connection.end_between(told, other) else { continue };
            self.record(&Event::Closed { connection: *number, end: end as u8, how: "reset" });
            connection.break_end(&self.shared.time, end, now_ns);
            if both {
                connection.break_end(&self.shared.time, 1 - end, now_ns);
            }
        }
    }

    /// The process at `host` has died. If the machine did too (`silent`), the host is down until [`Network::boot`].
    pub fn crash(&self, host: HostId, silent: bool) {
        let mut state = self.lock();
        let prefix = format!("{}:", state.names[host]);
        let (closed, open) = std::mem::take(&mut state.listeners)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(address, _)| address.starts_with(&prefix));
        state.listeners = open;
        state.process_died(&self.shared, host, silent);
        // The streams that wait in them lock the network when they are dropped.
        drop(state);
        drop(closed);
    }

    /// The machine of `host` is up.
    pub fn boot(&self, host: HostId) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.down[host], false) {
            for from in 0..state.names.len() {
                state.link_healed(&self.shared, from, host);
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// How many connections have at least one living end.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.lock().connections.len()
    }

    async fn open(self, from: HostId, address: String) -> io::Result<BoxStream> {
        let Some(to) = self.resolve(&address) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no host has the address {address}"),
            ));
        };
        loop {
            let changed = self.shared.changed.notified();
            let there = {
                let mut state = self.lock();
                if state.hears(from, to) { Some(state.latency(from, to)) } else { None }
            };
            let Some(there) = there else {
                changed.await;
                // The kernel sends its request again at times of its own.
                let wait = self.retransmission(from, to);
                self.shared.time.sleep(wait).await;
                continue;
            };
            self.shared.time.sleep(there).await;
            let arrived = self.arrive(from, to, &address);
            let back = match arrived {
                Arrival::Lost => continue,
                Arrival::Dropped => {
                    let wait = self.retransmission(from, to);
                    self.shared.time.sleep(wait).await;
                    continue;
                }
                Arrival::Refused(back) | Arrival::Accepted(back, _) => back,
            };
            self.shared.time.sleep(back).await;
            self.until_heard(to, from).await;
            return match arrived {
                Arrival::Accepted(_, stream) => Ok(Box::new(stream)),
                _ => Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("{address} refused"))),
            };
        }
    }

    fn resolve(&self, address: &str) -> Option<HostId> {
        let (host, _) = address.split_once(':')?;
        self.lock().names.iter().position(|name| name == host)
    }

    fn retransmission(&self, from: HostId, to: HostId) -> u64 {
        let mut state = self.lock();
        let most = state.scenario.retransmit_ns;
        state.links.random(from, to).below(most + 1)
    }

    /// A request to connect has come to `to`.
    fn arrive(&self, from: HostId, to: HostId, address: &str) -> Arrival {
        let mut state = self.lock();
        if !state.hears(from, to) {
            return Arrival::Lost;
        }
        let back = state.latency(to, from);
        let Some(backlog) = state.listeners.get_mut(address) else { return Arrival::Refused(back) };
        if backlog.is_full() {
            return Arrival::Dropped;
        }
        state.connections_made += 1;
        let number = state.connections_made;
        let connection = Connection::new(from, to);
        state.connections.insert(number, connection);
        let name = state.names[from].clone();
        let accepted = SimStream::new(self.clone(), number, 1);
        if let Some(backlog) = state.listeners.get_mut(address) {
            backlog.push(accepted, name.clone());
        }
        drop(state);
        self.record(&Event::Connected { connection: number, from: &name, to: address });
        Arrival::Accepted(back, SimStream::new(self.clone(), number, 0))
    }

    async fn until_heard(&self, from: HostId, to: HostId) {
        loop {
            let changed = self.shared.changed.notified();
            if self.lock().hears(from, to) {
                return;
            }
            changed.await;
        }
    }
}

enum Arrival {
    /// The link was cut on the way: try again once it is whole.
    Lost,
    /// The queue of connections not yet accepted is full.
    Dropped,
    /// Nobody listens; the answer takes so long.
    Refused(u64),
    /// The connection is there at the far end; the answer takes so long.
    Accepted(u64, SimStream),
}

impl State {
    /// Whether what `from` sends reaches `to`.
    fn hears(&self, from: HostId, to: HostId) -> bool {
        !self.down[from] && !self.down[to] && !self.links.is_cut(from, to)
    }

    /// Draws how long a segment takes, lost ones and their repetition included.
    fn latency(&mut self, from: HostId, to: HostId) -> u64 {
        let factor = u64::from(self.links.factor(from, to));
        let loss = self.scenario.loss_per_mille + self.links.loss(from, to);
        let random = self.links.random(from, to);
        let mut latency = self.scenario.latency.draw(random) * factor;
        let mut wait = self.scenario.retransmit_ns;
        while random.chance(loss.min(900)) {
            latency += wait;
            wait = (2 * wait).min(2_000_000_000);
        }
        if raft::mutant!("sim-address") {
            // What the system draws and not the seed: where the stack is.
            latency += (std::ptr::from_ref(&wait).addr() as u64 >> 4) % 1_000;
        }
        latency
    }
}

/// One host's network.
#[derive(Clone)]
pub struct SimNet {
    network: Network,
    host: HostId,
}

impl Net for SimNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<BoxStream>> {
        Box::pin(self.network.clone().open(self.host, address.to_owned()))
    }

    fn listen(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let listener = SimListener::bind(&self.network, self.host, address);
        Box::pin(async move { listener.map(|listener| Box::new(listener) as Box<dyn Listener>) })
    }
}
