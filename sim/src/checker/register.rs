//! One key, compiled for the search.
//!
//! Besides the steps themselves the model knows three things about the future, each of them exact or on the safe side:
//!
//! - *Unseen states.* A state matters only as long as an operation still to be placed can tell it from others: a get
//!   that answers it, or a cas that expects it. Where keys are appended to, a state matters while it is a prefix of
//!   such a value, since appends can still complete it. All other states are one ([`UNSEEN`]): they contradict every
//!   get and every successful cas, agree with every failed cas, and stay unseen until overwritten.
//! - *Supply.* If a get (or a successful cas) is still to be placed that needs the state being left, something
//!   must be left that can bring the state back. The same goes for the pieces that a needed value is spelled with, where
//!   there is one way only to spell it ([`super::spelling`]).
//! - *The next observer.* Of the gets and successful cas still to be placed take the one that ends first. If nothing
//!   that overwrites was called before that end, the state can only grow until then: it must be a prefix of what is
//!   observed (and equal to it where nothing appends).

use super::{
    future::Future,
    model::{Expiry, Model, NEVER, Op, Span, State},
    states::{ABSENT, States, UNSEEN},
};
use crate::{
    checker::Entry,
    history::{Answer, History, Moment, Request, Text},
};

/// What an operation does to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    /// Agrees with this state only.
    Get(State),
    /// Makes it this state: put and delete.
    Put(State),
    /// Adds this piece.
    Append(Text),
    /// Was this state, is that one.
    Cas(State, State),
    /// Was not this state.
    CasFailed(State),
}

impl Action {
    /// The state it results in, if that is always the same.
    pub(crate) fn makes(&self) -> Option<State> {
        match *self {
            Action::Put(value) => Some(value),
            Action::Cas(expect, value) if expect != value => Some(value),
            _ => None,
        }
    }
}

/// The model of one key.
pub(crate) struct Register<'h> {
    states: States<'h>,
    actions: Vec<Action>,
    spans: Vec<Span>,
    /// The place in the partition of each operation: those that cannot be observed are left out.
    entries: Vec<u32>,
    future: Future,
    foresight: bool,
}

impl<'h> Register<'h> {
    /// Compiles the operations on one key, in the order they were called.
    pub(crate) fn new(history: &'h History, partition: &[Entry]) -> Register<'h> {
        let mut states = States::new(history);
        let mut compiled = Vec::with_capacity(partition.len());
        for (at, entry) in partition.iter().enumerate() {
            if let Some(action) = compile(&mut states, entry) {
                compiled.push((at as u32, action, entry.call, entry.ret));
            }
        }
        let mut classes: Vec<Action> = compiled.iter().map(|(_, action, ..)| *action).collect();
        classes.sort_unstable();
        classes.dedup();
        let span = |&(_, action, call, ret): &(u32, Action, u32, u32)| {
            let pure = matches!(action, Action::Get(_) | Action::CasFailed(_))
                || matches!(action, Action::Cas(expect, value) if expect == value);
            let class = classes.binary_search(&action).expect("every action is among the classes") as u32;
            Span { call, ret, pure, class }
        };
        let spans: Vec<Span> = compiled.iter().map(span).collect();
        let actions: Vec<Action> = compiled.iter().map(|(_, action, ..)| *action).collect();
        let future = Future::new(&states, &actions, &spans);
        let entries = compiled.iter().map(|(at, ..)| *at).collect();
        Register { states, actions, spans, entries, future, foresight: true }
    }

    /// A search on it goes as far as answers allow, and does not turn back before.
    pub(crate) fn without_foresight(self) -> Register<'h> {
        Register { foresight: false, ..self }
    }

    /// The place in the partition of an operation of the search.
    pub(crate) fn entry(&self, op: Op) -> usize {
        self.entries[op as usize] as usize
    }
}

/// What an operation does; `None` if nobody can ever know whether it was done.
fn compile(states: &mut States<'_>, entry: &Entry) -> Option<Action> {
    Some(match (entry.request, entry.answer) {
        (Request::Get { .. }, Some(Answer::Value(value))) => Action::Get(states.value(value)),
        (Request::Get { .. }, _) => return None,
        (Request::Put { value, .. }, _) => Action::Put(states.value(value)),
        (Request::Append { value, .. }, _) => Action::Append(value),
        (Request::Delete { .. }, _) => Action::Put(ABSENT),
        (Request::Cas { expect, .. }, Some(Answer::Succeeded(false))) => {
            Action::CasFailed(states.value(expect))
        }
        (Request::Cas { expect, value, .. }, answer) => {
            if answer.is_none() && expect == value {
                return None;
            }
            Action::Cas(states.value(expect), states.value(value))
        }
    })
}

impl Model for Register<'_> {
    fn spans(&self) -> &[Span] {
        &self.spans
    }

    fn initial(&self) -> State {
        ABSENT
    }

    fn step(&mut self, state: State, op: Op) -> Option<State> {
        match self.actions[op as usize] {
            Action::Get(value) => (state == value).then_some(state),
            Action::Put(value) => Some(value),
            Action::Append(piece) => Some(self.states.append(state, piece)),
            Action::Cas(expect, value) if state == expect => Some(value),
            // Of unknown outcome, it may have been done and have done nothing.
            Action::Cas(..) => (self.spans[op as usize].ret == NEVER).then_some(state),
            Action::CasFailed(expect) => (state != expect).then_some(state),
        }
    }

    fn remove(&mut self, op: Op) {
        self.future.remove(op);
    }

    fn restore(&mut self, op: Op) {
        self.future.restore(op);
    }

    fn normal(&mut self, state: State, first: u32) -> State {
        if self.foresight && self.future.expiry(&self.states, state) <= first { UNSEEN } else { state }
    }

    fn expiry(&self, op: Op) -> Expiry {
        if !self.foresight {
            return Expiry { first: NEVER, spare: false };
        }
        self.future.action_expiry(&self.states, self.actions[op as usize])
    }

    fn failures_left(&self) -> u32 {
        self.future.failures_left()
    }

    fn unseen(&self, state: State) -> bool {
        state == UNSEEN
    }

    fn overwrites(&self, op: Op) -> bool {
        matches!(self.actions[op as usize], Action::Put(_))
    }

    fn idle(&mut self, op: Op, first: u32) -> bool {
        self.foresight && self.future.idle(&self.states, op, self.actions[op as usize], first)
    }

    fn stuck(&self, state: State, first: u32, horizon: Moment) -> bool {
        self.foresight && self.future.stuck(&self.spans, state, first, horizon)
    }

    fn quiet(&self, op: Op) -> bool {
        self.future.quiet(&self.spans, self.spans[op as usize].ret)
    }

    fn needs(&self, op: Op) -> Option<State> {
        self.future.needs(op)
    }

    fn visit(&mut self, op: Op) -> Option<(State, u32)> {
        let Action::Put(value) = self.actions[op as usize] else { return None };
        let lookers = self.foresight.then(|| self.future.lookers(value))??;
        Some((value, lookers))
    }

    fn hopeless(&mut self, op: Op, first: u32, state: State, next: State) -> bool {
        self.foresight && self.future.hopeless(&mut self.states, &self.spans, (op, first), state, next)
    }

    fn bytes(&self) -> usize {
        self.states.bytes()
            + self.future.bytes()
            + self.actions.len() * (size_of::<Action>() + size_of::<Span>())
    }
}
