//! Random histories: what clients of a perfect store might see, or of one that goes wrong at one place.
//!
//! The store is a map that does one operation at a time; the clients' calls, the moments their operations take
//! effect and the ends are interleaved at random. So a history is linearizable by construction, and the order of
//! effects is known ([`Generated::positions`]), unless a [`Fault`] was asked for. Used to test the
//! checker and to measure it; everything comes from the seed.

use std::collections::BTreeMap;

use super::{Answer, History, Misuse, Process, Request, table::mix};
use crate::checker::witness::Position;

/// What kind of history.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many operations there are.
    pub operations: usize,
    /// How many clients call at once.
    pub clients: usize,
    /// How many keys they use.
    pub keys: usize,
    /// How often get, put, append, delete and cas are drawn, in proportion.
    pub weights: [u32; 5],
    /// The values they draw from; if there are none, every value is new.
    pub values: Vec<String>,
    /// Of 1,000 operations, how many end as unknown.
    pub info_permille: u32,
    /// Of 1,000 operations, how many fail.
    pub fail_permille: u32,
    /// What goes wrong, with the operation in whose turn it does.
    pub fault: Option<(usize, Fault)>,
}

/// What goes wrong in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next get answers a value that was overwritten, if there is one.
    StaleRead,
    /// The next put, append or delete is acknowledged but not done.
    LostWrite,
    /// The next append is done twice.
    DoubleApply,
    /// The next cas that should fail succeeds.
    WrongCas,
    /// The next answer that is not empty is drawn instead.
    Garbage,
}

/// A history, and where in the log its operations took effect.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The history.
    pub history: History,
    /// The place of each operation that took effect.
    pub positions: Vec<Option<Position>>,
    /// Whether the fault came about.
    pub faulty: bool,
}

/// A seeded source of chance (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(mix(seed))
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One of `0..n`; `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }

    /// True in `permille` of 1,000 cases.
    pub fn permille(&mut self, permille: u32) -> bool {
        self.below(1000) < permille as usize
    }
}

/// An operation on its way.
#[derive(Clone, Debug)]
struct Call {
    operation: usize,
    request: Request<String>,
    answer: Option<Answer<String>>,
}

/// What a client is doing.
#[derive(Debug)]
struct Client {
    process: Process,
    call: Option<Call>,
}

struct World<'s> {
    shape: &'s Shape,
    chance: Chance,
    history: History,
    positions: Vec<Option<Position>>,
    clients: Vec<Client>,
    /// Calls whose clients gave up, and which may still be done.
    orphans: Vec<Call>,
    values: BTreeMap<String, String>,
    /// The values that were overwritten, by key.
    old: BTreeMap<String, Vec<Option<String>>>,
    index: u64,
    processes: Process,
    texts: u64,
    faulty: bool,
}

impl Shape {
    /// A history of this shape.
    pub fn generate(&self, seed: u64) -> Generated {
        assert!(self.clients > 0 && self.keys > 0, "somebody must ask for something");
        let clients = (0..self.clients as Process).map(|process| Client { process, call: None }).collect();
        let mut world = World {
            shape: self,
            chance: Chance::new(seed),
            history: History::new(),
            positions: Vec::new(),
            clients,
            orphans: Vec::new(),
            values: BTreeMap::new(),
            old: BTreeMap::new(),
            index: 0,
            processes: self.clients as Process,
            texts: 0,
            faulty: false,
        };
        while world.positions.len() < self.operations
            || world.clients.iter().any(|client| client.call.is_some())
        {
            world.turn().expect("the generator keeps the rules of histories");
        }
        Generated { history: world.history, positions: world.positions, faulty: world.faulty }
    }
}

impl World<'_> {
    /// Lets one client go a step further.
    fn turn(&mut self) -> Result<(), Misuse> {
        if !self.orphans.is_empty() && self.chance.permille(50) {
            let at = self.chance.below(self.orphans.len());
            let orphan = self.orphans.swap_remove(at);
            self.apply(&orphan);
        }
        let at = self.chance.below(self.clients.len());
        let process = self.clients[at].process;
        let Some(mut call) = self.clients[at].call.take() else {
            if self.positions.len() < self.shape.operations {
                let request = self.request(process);
                self.history.invoke(process, borrow(&request))?;
                let operation = self.positions.len();
                self.positions.push(None);
                self.clients[at].call = Some(Call { operation, request, answer: None });
            }
            return Ok(());
        };
        if let Some(answer) = &call.answer {
            let answer = match answer {
                Answer::Done => Answer::Done,
                Answer::Value(value) => Answer::Value(value.as_deref()),
                Answer::Succeeded(succeeded) => Answer::Succeeded(*succeeded),
            };
            if self.chance.permille(self.shape.info_permille / 2) {
                self.give_up(at)?;
            } else {
                self.history.ok(process, answer)?;
            }
        } else if self.chance.permille(self.shape.fail_permille) {
            self.history.fail(process)?;
        } else if self.chance.permille(self.shape.info_permille.div_ceil(2)) {
            self.give_up(at)?;
            self.orphans.push(call);
        } else {
            call.answer = Some(self.apply(&call));
            self.clients[at].call = Some(call);
        }
        Ok(())
    }

    fn give_up(&mut self, at: usize) -> Result<(), Misuse> {
        self.history.info(self.clients[at].process)?;
        self.clients[at].process = self.processes;
        self.processes += 1;
        Ok(())
    }

    fn request(&mut self, process: Process) -> Request<String> {
        let key = format!("k{}", self.chance.below(self.shape.keys));
        let total: u32 = self.shape.weights.iter().sum();
        let mut draw = self.chance.below(total as usize) as u32;
        let mut kind = 0;
        while draw >= self.shape.weights[kind] {
            draw -= self.shape.weights[kind];
            kind += 1;
        }
        match kind {
            0 => Request::Get { key },
            1 => Request::Put { key, value: Some(self.value(process)) },
            2 => Request::Append { key, value: self.value(process) },
            3 => Request::Delete { key },
            _ => {
                let expect = if self.chance.permille(700) {
                    self.values.get(&key).cloned()
                } else {
                    Some(self.value(process))
                };
                Request::Cas { key, expect, value: Some(self.value(process)) }
            }
        }
    }

    fn value(&mut self, process: Process) -> String {
        if self.shape.values.is_empty() {
            self.texts += 1;
            return format!("{process}.{},", self.texts);
        }
        let at = self.chance.below(self.shape.values.len());
        self.shape.values[at].clone()
    }

    /// Whether it is time for this fault.
    fn fault(&mut self, call: &Call, fault: Fault, possible: bool) -> bool {
        let due = self.shape.fault.is_some_and(|(when, what)| call.operation >= when && what == fault);
        let now = due && possible && !self.faulty;
        self.faulty |= now;
        now
    }

    /// Does it.
    fn apply(&mut self, call: &Call) -> Answer<String> {
        let request = &call.request;
        let key = request.key_ref().clone();
        let before = self.values.get(&key).cloned();
        let (after, mut answer) = match request {
            Request::Get { .. } => (before.clone(), Answer::Value(before.clone())),
            Request::Put { value, .. } => (value.clone(), Answer::Done),
            Request::Append { value, .. } => {
                let times = if self.fault(call, Fault::DoubleApply, true) { 2 } else { 1 };
                (Some(before.clone().unwrap_or_default() + &value.repeat(times)), Answer::Done)
            }
            Request::Delete { .. } => (None, Answer::Done),
            Request::Cas { expect, value, .. } => {
                let fits = before == *expect;
                if fits || self.fault(call, Fault::WrongCas, true) {
                    (value.clone(), Answer::Succeeded(true))
                } else {
                    (before.clone(), Answer::Succeeded(false))
                }
            }
        };
        let read = matches!(request, Request::Get { .. });
        let old = self.old.get(&key).and_then(|old| old.iter().rev().nth(2 * self.shape.clients));
        if let Some(old) = old.filter(|old| read && **old != before).cloned()
            && self.fault(call, Fault::StaleRead, true)
        {
            answer = Answer::Value(old);
        }
        if self.fault(call, Fault::Garbage, answer != Answer::Done) {
            answer = match answer {
                Answer::Succeeded(succeeded) => Answer::Succeeded(!succeeded),
                _ => Answer::Value(Some(self.value(0)).filter(|value| before.as_ref() != Some(value))),
            };
        }
        let lost = answer == Answer::Done && self.fault(call, Fault::LostWrite, true);
        if after != before && !lost {
            self.old.entry(key.clone()).or_default().push(before);
            match after {
                Some(value) => self.values.insert(key, value),
                None => self.values.remove(&key),
            };
        }
        self.index += u64::from(!read);
        let sub = if read { u32::MAX } else { 0 };
        self.positions[call.operation] = Some(Position { index: self.index, sub });
        answer
    }
}

impl Request<String> {
    fn key_ref(&self) -> &String {
        match self {
            Request::Get { key }
            | Request::Put { key, .. }
            | Request::Append { key, .. }
            | Request::Delete { key }
            | Request::Cas { key, .. } => key,
        }
    }
}

fn borrow(request: &Request<String>) -> Request<&str> {
    match request {
        Request::Get { key } => Request::Get { key },
        Request::Put { key, value } => Request::Put { key, value: value.as_deref() },
        Request::Append { key, value } => Request::Append { key, value },
        Request::Delete { key } => Request::Delete { key },
        Request::Cas { key, expect, value } => {
            Request::Cas { key, expect: expect.as_deref(), value: value.as_deref() }
        }
    }
}
