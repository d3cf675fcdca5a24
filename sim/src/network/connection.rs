//! The state of one connection: two pipes and two ends.
//!
//! End 0 is the one that connected, end 1 the one that accepted. Pipe 0 goes from end 0 to end 1.

use std::collections::VecDeque;

use tokio::io::ReadBuf;

use super::{HostId, Shared, State};
use crate::time::{Alarm, Side, VirtualTime};
use crate::trace::{Event, Source};

/// Bytes that were written together, on their way.
#[derive(Clone, Copy)]
struct Segment {
    arrives_ns: u64,
    bytes: usize,
}

/// One direction of a connection.
#[derive(Default)]
pub(super) struct Pipe {
    /// Written and not yet read.
    data: VecDeque<u8>,
    /// How many bytes at the front of `data` have arrived.
    arrived: usize,
    /// What has not; in order of arrival, the sum of their bytes being the rest of `data`.
    in_flight: VecDeque<Segment>,
    /// When the end of the stream arrives, if the writer has closed it. Not before the last segment.
    fin_ns: Option<u64>,
    /// No segment arrives before this: the one before it did not.
    last_arrival_ns: u64,
    /// How many bytes take up room. More than `data` while acknowledgements cannot get back.
    taken: usize,
}

impl Pipe {
    /// Counts as arrived what has come by now.
    fn settle(&mut self, now_ns: u64) {
        while let Some(segment) = self.in_flight.front().filter(|segment| segment.arrives_ns <= now_ns) {
            self.arrived += segment.bytes;
            self.in_flight.pop_front();
        }
    }

    /// When there will be more to read, if anything is on its way.
    fn next_arrival_ns(&self) -> Option<u64> {
        self.in_flight.front().map(|segment| segment.arrives_ns).or(self.fin_ns)
    }

    /// Nothing arrives before `at_ns`.
    fn hold_until(&mut self, at_ns: u64) {
        for segment in &mut self.in_flight {
            segment.arrives_ns = segment.arrives_ns.max(at_ns);
        }
        self.fin_ns = self.fin_ns.map(|fin_ns| fin_ns.max(at_ns));
        self.last_arrival_ns = self.last_arrival_ns.max(at_ns);
    }

    fn arrival(&mut self, earliest_ns: u64) -> u64 {
        self.last_arrival_ns = self.last_arrival_ns.max(earliest_ns);
        self.last_arrival_ns
    }
}

/// One end of a connection.
pub(super) struct End {
    pub(super) host: HostId,
    /// Whether a process holds it.
    alive: bool,
    /// When it learns that the connection is broken.
    reset_ns: Option<u64>,
    /// Wakes who reads or writes here.
    alarm: Alarm,
}

/// A connection.
pub(super) struct Connection {
    pub(super) ends: [End; 2],
    pipes: [Pipe; 2],
}

/// What a read found.
pub(super) enum Read {
    /// Bytes, now in the buffer; or the end of the stream, if there are none.
    Done,
    /// Nothing yet; the reader will be woken.
    Wait,
    /// The connection is broken.
    Broken,
}

/// What a write could do.
pub(super) enum Write {
    /// It took so many bytes.
    Taken(usize),
    /// No room; the writer will be woken.
    Wait,
    /// The connection is broken.
    Broken,
    /// The writer has closed this direction.
    Closed,
}

impl Connection {
    pub(super) fn new(from: HostId, to: HostId) -> Self {
        let end = |host| End { host, alive: true, reset_ns: None, alarm: Alarm::new() };
        Self { ends: [end(from), end(to)], pipes: [Pipe::default(), Pipe::default()] }
    }

    /// The end at `told`, if the other one is at `other`.
    pub(super) fn end_between(&self, told: HostId, other: HostId) -> Option<usize> {
        (0..2).find(|end| self.ends[*end].host == told && self.ends[1 - *end].host == other)
    }

    pub(super) fn alarm(&self, end: usize) -> &Alarm {
        &self.ends[end].alarm
    }

    /// Tells an end at `at_ns` that the connection is broken.
    pub(super) fn break_end(&mut self, time: &VirtualTime, end: usize, at_ns: u64) {
        let end = &mut self.ends[end];
        if end.alive && end.reset_ns.is_none_or(|reset_ns| reset_ns > at_ns) {
            end.reset_ns = Some(at_ns);
            end.alarm.arm(time, at_ns);
        }
    }

    fn is_broken(&self, end: usize, now_ns: u64) -> bool {
        self.ends[end].reset_ns.is_some_and(|reset_ns| reset_ns <= now_ns)
    }

    /// Sets the alarm of an end that waits. One alarm serves both who reads and who writes there, and fires once.
    fn wait(&self, time: &VirtualTime, end: usize, until_ns: Option<u64>) {
        let end = &self.ends[end];
        if let Some(at_ns) = until_ns.into_iter().chain(end.reset_ns).min() {
            end.alarm.arm(time, at_ns);
        }
    }

    fn is_over(&self) -> bool {
        !self.ends[0].alive && !self.ends[1].alive
    }
}

impl State {
    /// Reads at one end into `buffer`, part of it if a draw says so.
    pub(super) fn read(
        &mut self,
        shared: &Shared,
        number: u64,
        end: usize,
        buffer: &mut ReadBuf<'_>,
    ) -> Read {
        let now_ns = shared.time.now_ns();
        let Some(connection) = self.connections.get(&number) else { return Read::Broken };
        if connection.is_broken(end, now_ns) {
            return Read::Broken;
        }
        let (here, there) = (connection.ends[end].host, connection.ends[1 - end].host);
        let (hears, heard) = (self.hears(there, here), self.hears(here, there));
        let partial = self.scenario.partial_per_mille;
        let Some(connection) = self.connections.get_mut(&number) else { return Read::Broken };
        let pipe = &mut connection.pipes[1 - end];
        if hears {
            pipe.settle(now_ns);
        }
        let ready = pipe.arrived.min(buffer.remaining());
        if ready == 0 {
            let ended = pipe.in_flight.is_empty() && pipe.fin_ns.is_some_and(|fin_ns| fin_ns <= now_ns);
            if buffer.remaining() == 0 || (hears && ended) {
                return Read::Done;
            }
            let next_ns = pipe.next_arrival_ns().filter(|_| hears);
            connection.wait(&shared.time, end, next_ns);
            return Read::Wait;
        }
        let random = self.links.random(connection.ends[end].host, connection.ends[1 - end].host);
        let taken = if random.chance(partial) { random.between(1, ready as u64) as usize } else { ready };
        take_front(&mut pipe.data, taken, buffer);
        pipe.arrived -= taken;
        if heard {
            pipe.taken = pipe.data.len();
            connection.ends[1 - end].alarm.wake_side(Side::Write);
        }
        Read::Done
    }

    /// Writes at one end.
    pub(super) fn write(&mut self, shared: &Shared, number: u64, end: usize, offered: &[u8]) -> Write {
        let now_ns = shared.time.now_ns();
        let capacity = self.scenario.buffer_bytes as usize;
        let Some(connection) = self.connections.get(&number) else { return Write::Broken };
        if connection.is_broken(end, now_ns) {
            return Write::Broken;
        }
        if connection.pipes[end].fin_ns.is_some() {
            return Write::Closed;
        }
        let room = capacity.saturating_sub(connection.pipes[end].taken);
        let mut bytes = room.min(offered.len());
        if bytes == 0 {
            if offered.is_empty() {
                return Write::Taken(0);
            }
            connection.wait(&shared.time, end, None);
            return Write::Wait;
        }
        let (here, there) = (connection.ends[end].host, connection.ends[1 - end].host);
        let random = self.links.random(here, there);
        if random.chance(self.scenario.partial_per_mille) {
            bytes = random.between(1, bytes as u64) as usize;
        }
        let latency = self.latency(here, there) + self.transmission_ns(bytes);
        let hears = self.hears(here, there);
        let Some(connection) = self.connections.get_mut(&number) else { return Write::Broken };
        let pipe = &mut connection.pipes[end];
        pipe.data.extend(&offered[..bytes]);
        pipe.taken += bytes;
        let arrives_ns = pipe.arrival(now_ns + latency);
        pipe.in_flight.push_back(Segment { arrives_ns, bytes });
        if hears {
            connection.ends[1 - end].alarm.arm(&shared.time, arrives_ns);
        }
        shared.trace.record(
            now_ns,
            Source::Network,
            &Event::Segment { connection: number, direction: end as u8, bytes: bytes as u32, arrives_ns },
        );
        self.answer_for_the_dead(shared, number, end);
        Write::Taken(bytes)
    }

    fn transmission_ns(&self, bytes: usize) -> u64 {
        (bytes as u64 * 1_000_000_000).checked_div(self.scenario.bandwidth).unwrap_or(0)
    }

    /// If what `end` sends comes to a machine that is up, to a process that is gone, the machine answers: reset.
    fn answer_for_the_dead(&mut self, shared: &Shared, number: u64, end: usize) {
        let Some(connection) = self.connections.get(&number) else { return };
        let (here, there) = (connection.ends[end].host, connection.ends[1 - end].host);
        let asks = !connection.pipes[end].in_flight.is_empty();
        if connection.ends[1 - end].alive || !asks || !self.hears(here, there) || !self.hears(there, here) {
            return;
        }
        let answer_ns = shared.time.now_ns() + self.latency(here, there) + self.latency(there, here);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.break_end(&shared.time, end, answer_ns);
        }
    }

    /// The end of what `end` writes.
    pub(super) fn finish(&mut self, shared: &Shared, number: u64, end: usize) {
        let now_ns = shared.time.now_ns();
        let Some(connection) = self.connections.get(&number) else { return };
        if connection.pipes[end].fin_ns.is_some() || connection.is_broken(end, now_ns) {
            return;
        }
        let (here, there) = (connection.ends[end].host, connection.ends[1 - end].host);
        let latency = self.latency(here, there);
        let hears = self.hears(here, there);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let fin_ns = connection.pipes[end].arrival(now_ns + latency);
        connection.pipes[end].fin_ns = Some(fin_ns);
        if hears {
            connection.ends[1 - end].alarm.arm(&shared.time, fin_ns);
        }
    }

    /// The process closes its end: what it wrote still arrives. If it leaves bytes unread, its machine resets.
    pub(super) fn close(&mut self, shared: &Shared, number: u64, end: usize) {
        let Some(connection) = self.connections.get(&number) else { return };
        if !connection.ends[end].alive {
            return; // closed by the crash of its process
        }
        let unread = connection.pipes[1 - end].arrived > 0;
        let how = if unread { "reset" } else { "fin" };
        let event = Event::Closed { connection: number, end: end as u8, how };
        shared.trace.record(shared.time.now_ns(), Source::Network, &event);
        if unread {
            self.reset_other_end(shared, number, end);
        } else {
            self.finish(shared, number, end);
        }
        self.end_is_gone(shared, number, end);
    }

    /// A reset goes out from `end`. It is sent once: a cut link swallows it.
    fn reset_other_end(&mut self, shared: &Shared, number: u64, end: usize) {
        let Some(connection) = self.connections.get(&number) else { return };
        let (here, there) = (connection.ends[end].host, connection.ends[1 - end].host);
        if !self.hears(here, there) {
            return;
        }
        let at_ns = shared.time.now_ns() + self.latency(here, there);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.break_end(&shared.time, 1 - end, at_ns);
        }
    }

    fn end_is_gone(&mut self, shared: &Shared, number: u64, end: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.ends[end].alive = false;
        if connection.is_over() {
            self.connections.remove(&number);
        } else {
            self.answer_for_the_dead(shared, number, 1 - end);
        }
    }

    /// The process at `host` is gone.
    pub(super) fn process_died(&mut self, shared: &Shared, host: HostId, silent: bool) {
        self.down[host] |= silent;
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            for end in 0..2 {
                let Some(connection) = self.connections.get(&number) else { continue };
                if connection.ends[end].host != host || !connection.ends[end].alive {
                    continue;
                }
                // What the kernel had not sent yet is lost with a machine, and with a reset.
                let other = connection.ends[1 - end].host;
                let reset = silent || self.links.random(host, other).chance(500);
                let how = if silent {
                    "lost"
                } else if reset {
                    "reset"
                } else {
                    "fin"
                };
                let event = Event::Closed { connection: number, end: end as u8, how };
                shared.trace.record(shared.time.now_ns(), Source::Network, &event);
                if silent {
                    self.lose_in_flight(shared, number, end);
                } else if reset {
                    self.reset_other_end(shared, number, end);
                } else {
                    self.finish(shared, number, end);
                }
                self.end_is_gone(shared, number, end);
            }
        }
    }

    /// What `end` wrote and has not arrived never will: nobody is left to send it again.
    fn lose_in_flight(&mut self, shared: &Shared, number: u64, end: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let pipe = &mut connection.pipes[end];
        pipe.settle(shared.time.now_ns());
        pipe.in_flight.clear();
        pipe.data.truncate(pipe.arrived);
        pipe.fin_ns = None;
    }

    /// A link was whole and is cut: what has arrived has arrived, the rest waits.
    pub(super) fn link_cut(&mut self, now_ns: u64, from: HostId, to: HostId) {
        for connection in self.connections.values_mut() {
            let Some(end) = connection.end_between(from, to) else { continue };
            connection.pipes[end].settle(now_ns);
            // A reset on its way along this link is lost.
            let receiver = &mut connection.ends[1 - end];
            receiver.reset_ns = receiver.reset_ns.filter(|reset_ns| *reset_ns <= now_ns);
        }
    }

    /// A link is whole again: what waited is sent again, and so are acknowledgements.
    pub(super) fn link_healed(&mut self, shared: &Shared, from: HostId, to: HostId) {
        if !self.hears(from, to) {
            return;
        }
        let now_ns = shared.time.now_ns();
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            let Some(end) = self.connections.get(&number).and_then(|c| c.end_between(from, to)) else {
                continue;
            };
            let wait = self.links.random(from, to).below(self.scenario.retransmit_ns + 1);
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            connection.pipes[end].hold_until(now_ns + wait);
            // Acknowledgements of what `to` wrote travel on this link.
            let returned = &mut connection.pipes[1 - end];
            returned.taken = returned.data.len();
            connection.ends[1 - end].alarm.wake_side(Side::Write);
            if let Some(next_ns) = connection.pipes[end].next_arrival_ns() {
                connection.ends[1 - end].alarm.arm(&shared.time, next_ns);
            }
            self.answer_for_the_dead(shared, number, end);
            self.answer_for_the_dead(shared, number, 1 - end);
        }
    }
}

/// Moves the first `bytes` of `from` to `to`.
fn take_front(from: &mut VecDeque<u8>, bytes: usize, to: &mut ReadBuf<'_>) {
    let (front, back) = from.as_slices();
    let first = front.len().min(bytes);
    to.put_slice(&front[..first]);
    to.put_slice(&back[..bytes - first]);
    from.drain(..bytes);
}
