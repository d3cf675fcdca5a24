//! What a search needs to know about the thing it checks.

use crate::history::Moment;

/// The moment that never comes: when an operation of unknown outcome ends.
pub(crate) const NEVER: Moment = Moment::MAX;

/// A state of the model, by its number: equal states have equal numbers.
pub(crate) type State = u32;

/// An operation, by its place among those of its model, which stand in the order they were called.
pub(crate) type Op = u32;

/// What the search knows about one operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// When it was called.
    pub(crate) call: Moment,
    /// When it ended, or [`NEVER`]: then it may take effect at any time after its call, or not at all.
    pub(crate) ret: Moment,
    /// Whether it leaves every state as it is, or else contradicts it: a read, a cas that did nothing.
    pub(crate) pure: bool,
    /// Operations of one class do the same to every state, and only their spans differ. Classes are numbered
    /// from 0 without gaps.
    pub(crate) class: u32,
}

/// When an operation of unknown outcome is no longer of use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    /// How many of the operations that have an end, counted by their ends, must be placed until nobody can see what it
    /// does.
    pub(crate) first: u32,
    /// Whether it can change any state even then, for the sake of an operation that is [stuck](Model::stuck).
    pub(crate) spare: bool,
}

/// A sequential specification, compiled for one search: states and operations are numbers.
///
/// The search tells the model where it stands ([`remove`](Model::remove), [`restore`](Model::restore)), and so the model can know about the future what the search does not: which states are still looked at.
/// What it says there must be *sound*: it may call hopeless only what no order of the operations left can complete.
pub(crate) trait Model {
    /// The operations, in the order they were called. One that can never be observed may be left out.
    fn spans(&self) -> &[Span];

    /// The state before the first operation.
    fn initial(&self) -> State;

    /// The state after `op` is done to `state`; `None` if its answer contradicts `state`.
    fn step(&mut self, state: State, op: Op) -> Option<State>;

    /// `op` is no longer among the operations that may come: it has its place, or was given up as unseen.
    fn remove(&mut self, op: Op);

    /// `op`, the last one removed of those not restored, may come again.
    fn restore(&mut self, op: Op);

    /// A state that cannot be told from `state` by what is left to be placed, the same for all that are so. Of the
    /// operations that have an end, by their ends, the first `first` are placed.
    fn normal(&mut self, state: State, first: u32) -> State;

    /// Until when somebody can see what an operation of unknown outcome does. The same for all of its class.
    fn expiry(&self, op: Op) -> Expiry;

    /// How many operations are left that may be [stuck](Model::stuck).
    fn failures_left(&self) -> u32;

    /// Whether `state` is one that nobody can tell from others any more.
    fn unseen(&self, state: State) -> bool;

    /// Whether what `op` does is the same from whatever state it starts.
    fn overwrites(&self, op: Op) -> bool;

    /// Whether nobody will see what `op` makes of any state; of the operations that have an end the first `first` are
    /// placed. But that it makes *another* state may matter: see [`stuck`](Model::stuck) and [`quiet`](Model::quiet).
    fn idle(&mut self, op: Op, first: u32) -> bool;

    /// Whether an operation is left, not to be placed in `state` or in what may come of it, which only needs it to
    /// change. Of the operations that have an end the first `first` are placed; those called before `horizon` may
    /// be next.
    fn stuck(&self, state: State, first: u32, horizon: Moment) -> bool;

    /// Whether nothing that may be placed before `op` must be can make a state in which an operation is stuck: `op` is
    /// not needed to leave it.
    fn quiet(&self, op: Op) -> bool;

    /// The one state that `op` agrees with, if there is only one.
    fn needs(&self, op: Op) -> Option<State>;

    /// The state that `op` makes of any, and how many operations are left that must see it, if all of them only look,
    /// and nothing else that sees it is left.
    fn visit(&mut self, op: Op) -> Option<(State, u32)>;

    /// Whether nothing can complete the order, now that `op` was removed and has made `next` of `state`. Before it, of the
    /// operations that have an end the first `first` were placed.
    fn hopeless(&mut self, op: Op, first: u32, state: State, next: State) -> bool;

    /// The bytes the model holds.
    fn bytes(&self) -> usize;
}
