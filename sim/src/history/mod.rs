//! Histories: what clients asked for, what they were told, and when.
//!
//! A history is a list of operations on keys. Each has the moment it was *called* and, if it came to an end, the
//! moment it *ended*; moments number the events of the history from 0 in the order they happened. Nothing else is
//! known about time, and nothing else is needed: operation `a` is before `b` when `a` ended before `b` was called.
//!
//! An operation ends in one of three ways, Jepsen's: `ok` (done, with an answer), `fail` (definitely not done) or
//! `info` (unknown: it may be done, may be done later, or never). One without an end counts as `info`.
//!
//! The simulator builds a [`History`] as it runs ([`History::invoke`], [`ok`](History::ok), [`fail`](History::fail),
//! [`info`](History::info)); [`History::read`] builds the same from a file, and [`History::write`] makes the file.
//!
//! **Operations.** All keys begin absent. `get` answers the value, or null for an absent key. `put` and `delete` set
//! and remove. `append` adds to the end of the string, and an absent key counts as the empty one. `cas` sets `value`
//! if the key's value is `expect`, where null stands for absence, and answers whether it did. A `put` or `cas` of
//! null removes the key.
//!
//! **Deliberately absent.** Wall-clock times, node names, retries: they prove nothing about linearizability. Other
//! fields of a line are ignored, so a recorder may add what its reader likes.

pub mod generate;
mod parse;
mod strings;
pub(crate) mod table;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use parse::{Fault, ReadError};
use strings::Strings;
pub use strings::Text;

/// The number of an event in its history, from 0.
pub type Moment = u32;

/// Who calls: has one open operation at a time.
pub type Process = u64;

/// What is asked for. `S` is `&str` where a history is built and [`Text`] within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request<S> {
    /// Reads `key`.
    Get {
        /// Which key.
        key: S,
    },
    /// Sets `key` to `value`.
    Put {
        /// Which key.
        key: S,
        /// Its new value; `None` removes the key.
        value: Option<S>,
    },
    /// Adds `value` to the end of the string under `key`.
    Append {
        /// Which key.
        key: S,
        /// What is added.
        value: S,
    },
    /// Removes `key`.
    Delete {
        /// Which key.
        key: S,
    },
    /// Sets `key` to `value` if it is `expect`.
    Cas {
        /// Which key.
        key: S,
        /// What it must be; `None` is absent.
        expect: Option<S>,
        /// Its new value; `None` removes the key.
        value: Option<S>,
    },
}

impl<S: Copy> Request<S> {
    /// The key.
    pub fn key(&self) -> S {
        match *self {
            Request::Get { key }
            | Request::Put { key, .. }
            | Request::Append { key, .. }
            | Request::Delete { key }
            | Request::Cas { key, .. } => key,
        }
    }

    /// The name of the operation in a history file.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Get { .. } => "get",
            Request::Put { .. } => "put",
            Request::Append { .. } => "append",
            Request::Delete { .. } => "delete",
            Request::Cas { .. } => "cas",
        }
    }

    /// The same request with every text replaced.
    fn map<T>(&self, mut f: impl FnMut(S) -> T) -> Request<T> {
        match *self {
            Request::Get { key } => Request::Get { key: f(key) },
            Request::Put { key, value } => Request::Put { key: f(key), value: value.map(f) },
            Request::Append { key, value } => Request::Append { key: f(key), value: f(value) },
            Request::Delete { key } => Request::Delete { key: f(key) },
            Request::Cas { key, expect, value } => {
                Request::Cas { key: f(key), expect: expect.map(&mut f), value: value.map(f) }
            }
        }
    }

    /// Whether `answer` is of the kind this request has.
    fn takes<T>(&self, answer: &Answer<T>) -> bool {
        match self {
            Request::Get { .. } => matches!(answer, Answer::Value(_)),
            Request::Cas { .. } => matches!(answer, Answer::Succeeded(_)),
            Request::Put { .. } | Request::Append { .. } | Request::Delete { .. } => {
                matches!(answer, Answer::Done)
            }
        }
    }
}

/// What an operation that is done answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer<S> {
    /// Put, append and delete: nothing.
    Done,
    /// Get: the value, `None` if the key was absent.
    Value(Option<S>),
    /// Cas: whether the value was the expected one, and so was replaced.
    Succeeded(bool),
}

/// How an operation came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was done, and answered.
    Ok {
        /// When its caller knew.
        at: Moment,
        /// What it answered.
        answer: Answer<Text>,
    },
    /// It was not done, and never will be.
    Fail {
        /// When its caller knew.
        at: Moment,
    },
    /// Nobody knows.
    Info {
        /// When its caller gave up; `None` if the history ends before.
        at: Option<Moment>,
    },
}

/// One operation of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who called.
    pub process: Process,
    /// What for.
    pub request: Request<Text>,
    /// When.
    pub call: Moment,
    /// How it ended.
    pub end: End,
}

/// Names an operation: its place in [`History::operations`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u32);

/// An event that cannot follow those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// A process calls while its last operation is open.
    #[error("process {process} already has an open operation")]
    Busy {
        /// Which one.
        process: Process,
    },
    /// A process calls after an operation of unknown outcome.
    #[error("process {process} is used again after an operation of unknown outcome (info)")]
    Retired {
        /// Which one.
        process: Process,
    },
    /// An operation ends that was not called.
    #[error("process {process} has no open operation (an end without an invoke)")]
    NotOpen {
        /// Which one.
        process: Process,
    },
    /// An answer of another kind than the request's.
    #[error("process {process} has an open {request}, which is not answered so")]
    WrongAnswer {
        /// Which one.
        process: Process,
        /// The name of its request.
        request: &'static str,
    },
    /// There is no room for another event.
    #[error("the history has more than 2^32 - 2 events")]
    TooLong,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug)]
enum Doing {
    /// Waiting for the end of this operation.
    Open(OperationId),
    /// Nothing.
    Idle,
    /// Nothing, ever again.
    Retired,
}

/// Operations in the order they were called, and the texts in them.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    strings: Strings,
    processes: BTreeMap<Process, Doing>,
    /// The next event's number.
    now: Moment,
}

impl History {
    /// One without operations.
    pub fn new() -> History {
        History::default()
    }

    /// The operations, in the order they were called.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The operation of this name, which must be of this history.
    pub fn operation(&self, id: OperationId) -> &Operation {
        &self.operations[id.0 as usize]
    }

    /// What `text` says. It must be of this history.
    pub fn text(&self, text: Text) -> &str {
        self.strings.get(text)
    }

    /// The number of distinct keys and values.
    pub(crate) fn texts(&self) -> usize {
        self.strings.count()
    }

    /// How many events there are.
    pub fn events(&self) -> Moment {
        self.now
    }

    /// A request with its texts.
    pub fn spell(&self, request: &Request<Text>) -> Request<&str> {
        request.map(|text| self.text(text))
    }

    /// `process` calls.
    pub fn invoke(&mut self, process: Process, request: Request<&str>) -> Result<OperationId, Misuse> {
        let doing = self.processes.entry(process).or_insert(Doing::Idle);
        match doing {
            Doing::Open(_) => return Err(Misuse::Busy { process }),
            Doing::Retired => return Err(Misuse::Retired { process }),
            Doing::Idle => {}
        }
        let call = Self::tick(&mut self.now)?;
        let id = OperationId(u32::try_from(self.operations.len()).map_err(|_| Misuse::TooLong)?);
        *doing = Doing::Open(id);
        let request = request.map(|text| self.strings.intern(text));
        self.operations.push(Operation { process, request, call, end: End::Info { at: None } });
        Ok(id)
    }

    /// The open operation of `process` is done, and answers.
    pub fn ok(&mut self, process: Process, answer: Answer<&str>) -> Result<OperationId, Misuse> {
        let id = self.open(process)?;
        let request = &self.operations[id.0 as usize].request;
        if !request.takes(&answer) {
            return Err(Misuse::WrongAnswer { process, request: request.name() });
        }
        let answer = match answer {
            Answer::Done => Answer::Done,
            Answer::Value(value) => Answer::Value(value.map(|text| self.strings.intern(text))),
            Answer::Succeeded(succeeded) => Answer::Succeeded(succeeded),
        };
        let at = Self::tick(&mut self.now)?;
        self.end(process, id, Doing::Idle, End::Ok { at, answer });
        Ok(id)
    }

    /// The open operation of `process` was not done, and never will be.
    pub fn fail(&mut self, process: Process) -> Result<OperationId, Misuse> {
        let id = self.open(process)?;
        let at = Self::tick(&mut self.now)?;
        self.end(process, id, Doing::Idle, End::Fail { at });
        Ok(id)
    }

    /// Nobody will know about the open operation of `process`, which may not call again.
    pub fn info(&mut self, process: Process) -> Result<OperationId, Misuse> {
        let id = self.open(process)?;
        let at = Self::tick(&mut self.now)?;
        self.end(process, id, Doing::Retired, End::Info { at: Some(at) });
        Ok(id)
    }

    /// The operation that `process` waits for.
    pub fn open(&self, process: Process) -> Result<OperationId, Misuse> {
        match self.processes.get(&process) {
            Some(Doing::Open(id)) => Ok(*id),
            _ => Err(Misuse::NotOpen { process }),
        }
    }

    fn end(&mut self, process: Process, id: OperationId, doing: Doing, end: End) {
        self.operations[id.0 as usize].end = end;
        self.processes.insert(process, doing);
    }

    fn tick(now: &mut Moment) -> Result<Moment, Misuse> {
        // The last number is kept free: the checker uses it for "never".
        if *now >= Moment::MAX - 1 {
            return Err(Misuse::TooLong);
        }
        *now += 1;
        Ok(*now - 1)
    }
}
