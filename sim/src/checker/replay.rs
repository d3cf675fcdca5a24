//! Orders, tested the plainest way: strings and a walk.
//!
//! What an operation does is said here a second time, on purpose. The search works on numbers and shortcuts; this
//! works on the texts themselves and shares nothing with it.

use std::borrow::Cow;

use crate::history::{Answer, History, Moment, OperationId, Request, Text};

use super::{Entry, model::NEVER};

/// The value of one key as time goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Value<'h>(Option<Cow<'h, str>>);

impl<'h> Value<'h> {
    /// What it is now; `None` is absent.
    pub(crate) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Does `request`. Whether `answer` is what it answers; `None` is a request whose answer nobody knows.
    pub(crate) fn apply(&mut self, request: Request<&'h str>, answer: Option<Answer<&str>>) -> bool {
        match request {
            Request::Get { .. } => answer.is_none_or(|answer| answer == Answer::Value(self.get())),
            Request::Put { value, .. } => {
                self.0 = value.map(Cow::Borrowed);
                true
            }
            Request::Append { value, .. } => {
                self.0.get_or_insert_default().to_mut().push_str(value);
                true
            }
            Request::Delete { .. } => {
                self.0 = None;
                true
            }
            Request::Cas { expect, value, .. } => {
                let succeeded = self.get() == expect;
                if succeeded {
                    self.0 = value.map(Cow::Borrowed);
                }
                answer.is_none_or(|answer| answer == Answer::Succeeded(succeeded))
            }
        }
    }
}

/// An answer with its text.
pub(crate) fn spell(history: &History, answer: Answer<Text>) -> Answer<&str> {
    match answer {
        Answer::Done => Answer::Done,
        Answer::Value(value) => Answer::Value(value.map(|text| history.text(text))),
        Answer::Succeeded(succeeded) => Answer::Succeeded(succeeded),
    }
}

/// Why an order is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoOrder {
    #[error("operation {} is in it twice", .0.0)]
    Twice(OperationId),
    #[error("operation {} is not in it", .0.0)]
    LeftOut(OperationId),
    #[error("operation {} would have answered otherwise", .0.0)]
    Answer(OperationId),
    #[error("operation {} stands behind one that was called after its end", .0.0)]
    RealTime(OperationId),
}

/// Tests that `order`, of places in `partition`, is an order of its operations that explains every answer.
pub(crate) fn prove(
    history: &History,
    partition: &[Entry],
    order: impl Iterator<Item = usize>,
) -> Result<(), NoOrder> {
    let mut value = Value::default();
    let mut seen = vec![false; partition.len()];
    // The last call among the operations so far: none that ended before it may follow.
    let mut called: Moment = 0;
    for at in order {
        let entry = &partition[at];
        if std::mem::replace(&mut seen[at], true) {
            return Err(NoOrder::Twice(entry.id));
        }
        if entry.ret < called {
            return Err(NoOrder::RealTime(entry.id));
        }
        called = called.max(entry.call);
        let answer = entry.answer.map(|answer| spell(history, answer));
        if !value.apply(history.spell(&entry.request), answer) {
            return Err(NoOrder::Answer(entry.id));
        }
    }
    let left_out = partition.iter().zip(seen).find(|(entry, seen)| entry.ret != NEVER && !seen);
    left_out.map_or(Ok(()), |(entry, _)| Err(NoOrder::LeftOut(entry.id)))
}
