//! One request from beginning to end: where to send it, when again, and what may be said of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft::clock::{self, Monotonic};

use crate::wire::{NotDone, Outcome, Reply, RequestBody};

use super::connection::{Connection, Lost};
use super::{ClientError, Inner, Reason};

/// How many hints are followed in a row without a pause: two nodes that take each other for the leader must not keep
/// the client running between them.
const FOLLOWS_MAX: u32 = 3;

/// Addresses that were learnt from hints are kept beside those that were given, at most so many.
const LEARNT_MAX: usize = 8;

/// Reads that are spread over the nodes leave out one that failed for so long, unless all have.
const SHUN: Duration = Duration::from_secs(1);

/// What a request is, as far as sending it again goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Changes nothing, and only the leader can answer it.
    Read,
    /// Changes nothing, and any member can answer it: they take turns.
    Spread,
    /// Changes nothing, and any node can answer it.
    Anywhere,
    /// Done once, however often it is sent.
    Repeatable,
    /// Done as often as it arrives.
    Once,
}

/// What the client knows of the cluster.
pub(super) struct Directory {
    /// As given, and behind them those that were learnt; never empty.
    endpoints: Vec<Arc<str>>,
    /// How many were given.
    given: usize,
    /// The endpoint to try when no leader is known, counted round.
    cursor: usize,
    /// The endpoint whose turn it is with reads that are spread, counted round.
    turn: usize,
    /// Endpoints that failed such a read, and until when they are left out.
    shunned: BTreeMap<Arc<str>, Monotonic>,
    /// The node that last did something that only a leader does, or was said to be the leader.
    leader: Option<Arc<str>>,
    /// The connections, by address.
    slots: BTreeMap<Arc<str>, Arc<Slot>>,
    random: SplitMix64,
}

/// The connection to one address. Whoever opens it holds the lock, so that the others wait for the same one.
#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    connection: Option<Connection>,
    used_at: Monotonic,
    /// When connecting failed last, and why.
    failed: Option<(Monotonic, String)>,
}

impl SlotState {
    /// The connection, if it is fit for use; it counts as used then.
    fn usable(&mut self, now: Monotonic, idle_max: Duration) -> Option<Connection> {
        let idle = now.since(self.used_at) > idle_max;
        self.used_at = now;
        self.connection.take_if(|connection| idle || connection.is_closed());
        self.connection.clone()
    }
}

impl Directory {
    pub(super) fn new(endpoints: impl IntoIterator<Item = impl Into<String>>, seed: u64) -> Option<Self> {
        let endpoints: Vec<Arc<str>> = endpoints.into_iter().map(|e| Arc::from(e.into())).collect();
        let mut random = SplitMix64(seed);
        let cursor = usize::try_from(random.below(endpoints.len() as u64)?).ok()?;
        let given = endpoints.len();
        let (slots, shunned) = (BTreeMap::new(), BTreeMap::new());
        Some(Self { endpoints, given, cursor, turn: cursor, shunned, leader: None, slots, random })
    }

    /// The node to ask: the leader if one is known and needed.
    fn target(&mut self, kind: Kind, now: Monotonic) -> Option<Arc<str>> {
        match kind {
            Kind::Spread => self.next_turn(now),
            Kind::Anywhere => self.at(self.cursor),
            Kind::Read | Kind::Repeatable | Kind::Once => {
                self.leader.clone().or_else(|| self.at(self.cursor))
            }
        }
    }

    /// All endpoints, those that were given first.
    pub(super) fn endpoints(&self) -> std::collections::VecDeque<String> {
        self.endpoints.iter().map(|endpoint| endpoint.to_string()).collect()
    }

    /// The endpoint at this position, counted round.
    fn at(&self, position: usize) -> Option<Arc<str>> {
        self.endpoints.get(position.checked_rem(self.endpoints.len())?).cloned()
    }

    /// The next endpoint for a read that is spread: one that works, if there is one.
    fn next_turn(&mut self, now: Monotonic) -> Option<Arc<str>> {
        self.shunned.retain(|_, until| *until > now);
        let turns = (0..self.endpoints.len()).map(|n| self.turn.wrapping_add(n));
        let works = |turn: &usize| self.at(*turn).is_some_and(|address| !self.shunned.contains_key(&address));
        let turn = turns.clone().find(works).unwrap_or(self.turn);
        self.turn = turn.wrapping_add(1);
        self.at(turn)
    }

    #[cfg(test)]
    pub(super) fn starts_at(&self, position: usize) -> bool {
        self.cursor == position
    }

    /// `address` was no help: the next request goes elsewhere.
    fn turn_away_from(&mut self, address: &Arc<str>) {
        if self.leader.as_ref() == Some(address) {
            self.leader = None;
        }
        if self.at(self.cursor).as_ref() == Some(address) {
            self.cursor = self.cursor.wrapping_add(1);
        }
    }

    /// `address` did what only a leader does. Members that were not known are asked in future too: those that were
    /// given may all have been replaced by then.
    fn remember_leader(&mut self, address: &Arc<str>) {
        if self.leader.as_ref() != Some(address) {
            self.leader = Some(Arc::clone(address));
        }
        if !self.endpoints.contains(address) {
            if self.endpoints.len() >= self.given + LEARNT_MAX {
                self.endpoints.remove(self.given);
            }
            self.endpoints.push(Arc::clone(address));
        }
    }

    fn slot(&mut self, address: &Arc<str>) -> Arc<Slot> {
        if let Some(slot) = self.slots.get(address) {
            return Arc::clone(slot);
        }
        Arc::clone(self.slots.entry(Arc::clone(address)).or_default())
    }
}

/// A request that was answered.
pub(super) struct Called {
    pub(super) reply: Reply,
    /// Who answered.
    pub(super) endpoint: Arc<str>,
    /// An earlier sending may have been done too.
    pub(super) maybe_done_before: bool,
}

/// What became of one sending.
enum Attempt {
    Answered(Outcome),
    NotSent(String),
    NoAnswer(String),
}

/// What one request has been through.
struct Story {
    kind: Kind,
    begun: Monotonic,
    deadline: Monotonic,
    /// A sending may have been done, or may yet be.
    maybe_done: bool,
    last: Option<Reason>,
    failures: usize,
    follows: u32,
    /// Who did not answer since the last pause. Others may still take it for the leader.
    silent: Vec<Arc<str>>,
    pause: Duration,
}

/// What to do after an attempt.
enum Next {
    Return(Result<Reply, ClientError>),
    /// Try again, at once or after a pause.
    Again {
        pause: bool,
    },
}

impl Story {
    fn fail(&self, reason: Reason) -> ClientError {
        if self.maybe_done { ClientError::Unknown { reason } } else { ClientError::NotDone { reason } }
    }

    fn out_of_time(&mut self, now: Monotonic) -> ClientError {
        let after_ms = u64::try_from(now.since(self.begun).as_millis()).unwrap_or(u64::MAX);
        let last = self.last.take().map(Box::new);
        self.fail(Reason::Deadline { after_ms, last })
    }

    /// A sending may have been done. Reads do not mind.
    fn may_be_done(&mut self) {
        if raft::mutant!("ambiguous") {
            return;
        }
        self.maybe_done |= matches!(self.kind, Kind::Repeatable | Kind::Once);
    }
}

impl Inner {
    /// Has `body` done somewhere, within the time that a request may take.
    pub(super) async fn call(&self, body: RequestBody, kind: Kind) -> Result<Called, ClientError> {
        let deadline = self.clock.now() + self.options.request_timeout;
        self.call_until(Arc::new(body), kind, deadline).await
    }

    /// Has `body` done somewhere.
    pub(super) async fn call_until(
        &self,
        body: Arc<RequestBody>,
        kind: Kind,
        deadline: Monotonic,
    ) -> Result<Called, ClientError> {
        let begun = self.clock.now();
        let mut story = Story {
            kind,
            begun,
            deadline,
            maybe_done: false,
            last: None,
            failures: 0,
            follows: 0,
            silent: Vec::new(),
            pause: self.options.backoff_min,
        };
        loop {
            let now = self.clock.now();
            let Some(address) = self.directory().target(kind, now) else {
                return Err(story.fail(Reason::Argument("no endpoints were given".into())));
            };
            if now >= story.deadline {
                return Err(story.out_of_time(now));
            }
            // What cannot be sent twice may as well wait for its answer as long as there is time.
            let patience =
                if kind == Kind::Once { story.deadline } else { now + self.options.attempt_timeout };
            let attempt = self.attempt(&address, Arc::clone(&body), patience.min(story.deadline)).await;
            match self.judge(&mut story, &address, attempt) {
                Next::Return(result) => {
                    let maybe_done_before = story.maybe_done;
                    return result.map(|reply| Called { reply, endpoint: address, maybe_done_before });
                }
                Next::Again { pause: false } => {}
                Next::Again { pause: true } => self.pause(&mut story).await,
            }
        }
    }

    /// Asks one node, once, something that changes nothing.
    pub(super) async fn call_at(&self, endpoint: &str, body: RequestBody) -> Result<Reply, ClientError> {
        let deadline = self.clock.now() + self.options.request_timeout;
        self.call_at_until(endpoint, body, deadline).await
    }

    /// As [`call_at`](Self::call_at), with another deadline.
    pub(super) async fn call_at_until(
        &self,
        endpoint: &str,
        body: RequestBody,
        deadline: Monotonic,
    ) -> Result<Reply, ClientError> {
        let body = Arc::new(body);
        let endpoint: Arc<str> = Arc::from(endpoint);
        let reason = match self.attempt(&endpoint, body, deadline).await {
            Attempt::Answered(Outcome::Done(reply)) => return Ok(reply),
            Attempt::Answered(Outcome::NotDone(reason)) => {
                Reason::NotDone { endpoint: endpoint.to_string(), reason }
            }
            Attempt::Answered(Outcome::Unknown(reason)) => {
                Reason::Unknown { endpoint: endpoint.to_string(), reason }
            }
            Attempt::NotSent(reason) => Reason::Unreachable { endpoint: endpoint.to_string(), reason },
            Attempt::NoAnswer(reason) => Reason::NoAnswer { endpoint: endpoint.to_string(), reason },
        };
        Err(ClientError::NotDone { reason })
    }

    /// What an attempt means for its request.
    fn judge(&self, story: &mut Story, address: &Arc<str>, attempt: Attempt) -> Next {
        let endpoint = || address.to_string();
        let pause = match attempt {
            Attempt::Answered(Outcome::Done(reply)) => {
                if !matches!(story.kind, Kind::Anywhere | Kind::Spread) {
                    self.directory().remember_leader(address);
                }
                return Next::Return(Ok(reply));
            }
            Attempt::Answered(Outcome::NotDone(reason)) => {
                let temporary = reason.is_temporary();
                let pause = self.after_not_done(story, address, &reason);
                let reason = Reason::NotDone { endpoint: endpoint(), reason };
                if !temporary {
                    return Next::Return(Err(story.fail(reason)));
                }
                story.last = Some(reason);
                pause
            }
            Attempt::NotSent(reason) => {
                story.last = Some(Reason::Unreachable { endpoint: endpoint(), reason });
                story.silent.push(Arc::clone(address));
                self.after_failure(story, address)
            }
            Attempt::Answered(Outcome::Unknown(reason)) => {
                story.may_be_done();
                story.last = Some(Reason::Unknown { endpoint: endpoint(), reason });
                self.after_failure(story, address)
            }
            Attempt::NoAnswer(reason) => {
                story.may_be_done();
                story.last = Some(Reason::NoAnswer { endpoint: endpoint(), reason });
                story.silent.push(Arc::clone(address));
                self.after_failure(story, address)
            }
        };
        match (&story.last, story.kind, story.maybe_done) {
            (Some(reason), Kind::Once, true) => Next::Return(Err(story.fail(reason.clone()))),
            _ => Next::Again { pause },
        }
    }

    /// The node is no help now. Whether to pause: only when a whole round of endpoints has failed.
    fn after_failure(&self, story: &mut Story, address: &Arc<str>) -> bool {
        let mut directory = self.directory();
        directory.turn_away_from(address);
        if story.kind == Kind::Spread {
            directory.shunned.insert(Arc::clone(address), self.clock.now() + SHUN);
        }
        story.failures += 1;
        story.failures.is_multiple_of(directory.endpoints.len().max(1))
    }

    /// Where to go after a node said no. Whether to pause.
    ///
    /// When a leader dies, its followers name it for a while yet. Whoever went back there each time would find out
    /// about the new leader last, so a hint to a node that did not answer a moment ago counts as none.
    fn after_not_done(&self, story: &mut Story, address: &Arc<str>, reason: &NotDone) -> bool {
        let is_silent = |leader: &str| story.silent.iter().any(|address| **address == *leader);
        match reason {
            // A read that any member answers has met one that knows of no leader, or has lost it.
            NotDone::NotLeader { .. } | NotDone::Superseded if story.kind == Kind::Spread => {
                self.after_failure(story, address)
            }
            NotDone::NotLeader { leader: Some(leader) }
                if **leader != **address && !is_silent(leader) && story.follows < FOLLOWS_MAX =>
            {
                story.follows += 1;
                self.directory().leader = Some(Arc::from(leader.as_str()));
                false
            }
            NotDone::NotLeader { .. } | NotDone::ShuttingDown => self.after_failure(story, address),
            // The node may well be the right one.
            NotDone::Overloaded { .. } | NotDone::Superseded => true,
            NotDone::Refused(refusal) => refusal.is_temporary(),
            NotDone::NoSpace { .. } | NotDone::TooLarge { .. } | NotDone::Invalid { .. } => false,
        }
    }

    /// Waits a little before the next round; each time half as long again, never beyond the deadline. After the loss
    /// of a leader the next one is there within some tens of milliseconds: so it begins short, and grows slowly.
    async fn pause(&self, story: &mut Story) {
        let half = story.pause / 2;
        let jitter = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        let drawn = self.directory().random.below(jitter.saturating_add(1)).unwrap_or(0);
        let until = self.clock.now() + half + Duration::from_nanos(drawn);
        story.pause = (story.pause.saturating_mul(3) / 2).min(self.options.backoff_max);
        story.follows = 0;
        story.silent.clear();
        self.clock.sleep_until(until.min(story.deadline)).await;
    }

    /// Sends once, and waits until `deadline` for what becomes of it.
    async fn attempt(&self, address: &Arc<str>, body: Arc<RequestBody>, deadline: Monotonic) -> Attempt {
        let slot = self.directory().slot(address);
        let connection = match self.open_connection(&slot) {
            Some(connection) => connection,
            None => match clock::timeout_at(&*self.clock, deadline, self.connection(&slot, address)).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(why)) => return Attempt::NotSent(why),
                Err(clock::Elapsed) => return Attempt::NotSent("no connection in time".into()),
            },
        };
        match clock::timeout_at(&*self.clock, deadline, connection.request(body)).await {
            Ok(Ok(outcome)) => Attempt::Answered(outcome),
            Ok(Err(Lost { sent: false, why })) => Attempt::NotSent(why),
            Ok(Err(Lost { sent: true, why })) => Attempt::NoAnswer(why),
            Err(clock::Elapsed) => {
                // Whatever holds it up, do not wait behind it again.
                if let Ok(mut state) = slot.state.try_lock() {
                    state.connection.take_if(|c| c.is_same(&connection));
                }
                Attempt::NoAnswer("no answer in time".into())
            }
        }
    }

    /// The connection to an address if it is there and fit for use, without waiting.
    fn open_connection(&self, slot: &Slot) -> Option<Connection> {
        slot.state.try_lock().ok()?.usable(self.clock.now(), self.options.idle_max)
    }

    /// The connection to an address; opens one if there is none that is fit for use.
    async fn connection(&self, slot: &Slot, address: &Arc<str>) -> Result<Connection, String> {
        let mut state = slot.state.lock().await;
        let now = self.clock.now();
        if let Some(connection) = state.usable(now, self.options.idle_max) {
            return Ok(connection);
        }
        // Those who waited for the same connection need not try again one after the other.
        match &state.failed {
            Some((at, why)) if now.since(*at) < self.options.backoff_min => return Err(why.clone()),
            _ => {}
        }
        match Connection::open(&self.clock, &self.net, address, &self.options).await {
            Ok(connection) => {
                state.failed = None;
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(why) => {
                state.failed = Some((self.clock.now(), why.clone()));
                Err(why)
            }
        }
    }
}

/// A small generator of numbers, for jitter only.
struct SplitMix64(u64);

impl SplitMix64 {
    /// A number below `bound`; `None` if there is none.
    fn below(&mut self, bound: u64) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).checked_rem(bound)
    }
}
