//! Linearizability against a model of one's own (Herlihy and Wing; Wing and Gong's search with Lowe's memory).
//!
//! The checker of registers next door knows what a key-value store does, and uses it. This one knows nothing: a
//! [`Sequential`] is a function from state and operation to state and output. It looks for one order of the calls in which each
//! gets the output that was seen, and that puts no call before one that had returned when it was made. A call without a known
//! end may stand anywhere behind its beginning, or nowhere.
//!
//! Deliberately absent: partitioning. Operations on independent parts should be checked apart.

use std::collections::BTreeSet;
use std::fmt::Debug;

/// What an object is meant to do.
pub trait Sequential {
    /// What it holds.
    type State: Clone + Ord + Debug + Default;
    /// What can be asked of it.
    type Operation: Clone + Debug;
    /// What it answers.
    type Output: Clone + Debug + PartialEq;

    /// What an operation makes of a state, and answers.
    fn step(&self, state: &Self::State, operation: &Self::Operation) -> (Self::State, Self::Output);
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call<O, R> {
    /// What was asked.
    pub operation: O,
    /// When, in any unit.
    pub called: u64,
    /// When it returned, and with what; `None` if nobody knows.
    pub returned: Option<(u64, R)>,
}

/// What the search came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is such an order.
    Linearizable,
    /// There is none; the text says which call stands in the way.
    NotLinearizable(String),
    /// It took too many steps.
    Unknown,
}

/// The end of the list of events.
const NIL: usize = usize::MAX;

/// An event: a call begins, or it returns.
#[derive(Clone, Copy)]
struct Node {
    call: usize,
    returns: bool,
    next: usize,
    before: usize,
}

/// The events in order of time, as a list that calls can be taken out of and put back into.
struct Events {
    /// The last one stands before the first event.
    nodes: Vec<Node>,
    /// Where each call begins and returns.
    places: Vec<(usize, usize)>,
}

impl Events {
    fn new<O, R>(calls: &[Call<O, R>]) -> Self {
        let mut order: Vec<(u64, bool, usize)> = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            order.push((call.called, false, number));
            order.extend(call.returned.as_ref().map(|(at, _)| (*at, true, number)));
        }
        order.sort_unstable();
        let mut nodes = Vec::new();
        let mut places = vec![(NIL, NIL); calls.len()];
        for (at, &(_, returns, call)) in order.iter().enumerate() {
            nodes.push(Node { call, returns, next: at + 1, before: at.wrapping_sub(1) });
            if returns { places[call].1 = at } else { places[call].0 = at }
        }
        let head = nodes.len();
        if let Some(first) = nodes.first_mut() {
            first.before = head;
        }
        if let Some(last) = nodes.last_mut() {
            last.next = NIL;
        }
        nodes.push(Node { call: NIL, returns: false, next: if head == 0 { NIL } else { 0 }, before: NIL });
        Self { nodes, places }
    }

    fn first(&self) -> usize {
        self.nodes[self.nodes.len() - 1].next
    }

    fn unlink(&mut self, at: usize) {
        let Node { next, before, .. } = self.nodes[at];
        self.nodes[before].next = next;
        if next != NIL {
            self.nodes[next].before = before;
        }
    }

    fn relink(&mut self, at: usize) {
        let Node { next, before, .. } = self.nodes[at];
        self.nodes[before].next = at;
        if next != NIL {
            self.nodes[next].before = at;
        }
    }

    fn take_out(&mut self, call: usize) {
        let (begin, end) = self.places[call];
        self.unlink(begin);
        if end != NIL {
            self.unlink(end);
        }
    }

    fn put_back(&mut self, call: usize) {
        let (begin, end) = self.places[call];
        if end != NIL {
            self.relink(end);
        }
        self.relink(begin);
    }
}

/// Looks for an order, in at most so many steps.
pub fn check<M: Sequential>(model: &M, calls: &[Call<M::Operation, M::Output>], steps_max: u64) -> Outcome {
    let mut events = Events::new(calls);
    let mut returns_left = calls.iter().filter(|call| call.returned.is_some()).count();
    let mut state = M::State::default();
    let mut done = vec![0_u64; calls.len().div_ceil(64)];
    let mut seen: BTreeSet<(Vec<u64>, M::State)> = BTreeSet::new();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let mut deepest = (0, String::new());
    let mut at = events.first();
    for _ in 0..steps_max {
        if returns_left == 0 {
            return Outcome::Linearizable;
        }
        let blocked = at == NIL || events.nodes[at].returns;
        if !blocked {
            let Node { call, next, .. } = events.nodes[at];
            let (after, output) = model.step(&state, &calls[call].operation);
            let fits = calls[call].returned.as_ref().is_none_or(|(_, seen)| *seen == output);
            done[call / 64] ^= 1 << (call % 64);
            if fits && seen.insert((done.clone(), after.clone())) {
                returns_left -= usize::from(calls[call].returned.is_some());
                stack.push((call, std::mem::replace(&mut state, after)));
                events.take_out(call);
                at = events.first();
            } else {
                done[call / 64] ^= 1 << (call % 64);
                at = next;
            }
            continue;
        }
        if at != NIL && stack.len() >= deepest.0 {
            deepest = (stack.len(), stuck::<M>(&calls[events.nodes[at].call], &state));
        }
        let Some((call, before)) = stack.pop() else { return Outcome::NotLinearizable(deepest.1) };
        state = before;
        done[call / 64] ^= 1 << (call % 64);
        returns_left += usize::from(calls[call].returned.is_some());
        events.put_back(call);
        at = events.nodes[events.places[call].0].next;
    }
    Outcome::Unknown
}

fn stuck<M: Sequential>(call: &Call<M::Operation, M::Output>, state: &M::State) -> String {
    let answer = call.returned.as_ref().map(|(_, output)| output);
    format!("{:?} cannot have answered {answer:?}: at best the state before it was {state:?}", call.operation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// A counter: adds, and answers what was there before.
    struct Counter;

    impl Sequential for Counter {
        type State = u64;
        type Operation = u64;
        type Output = u64;

        fn step(&self, state: &u64, operation: &u64) -> (u64, u64) {
            (state + operation, *state)
        }
    }

    fn call(operation: u64, called: u64, returned: Option<(u64, u64)>) -> Call<u64, u64> {
        Call { operation, called, returned }
    }

    fn verdict(calls: &[Call<u64, u64>]) -> Outcome {
        check(&Counter, calls, 1_000_000)
    }

    #[test]
    fn calls_that_overlap_may_take_either_order_and_others_may_not() {
        assert_eq!(verdict(&[]), Outcome::Linearizable);
        let overlapping = [call(1, 0, Some((5, 2))), call(2, 1, Some((4, 0)))];
        assert_eq!(verdict(&overlapping), Outcome::Linearizable);
        let apart = [call(1, 0, Some((1, 2))), call(2, 2, Some((4, 0)))];
        assert!(matches!(verdict(&apart), Outcome::NotLinearizable(_)));
    }

    #[test]
    fn a_call_without_an_end_may_have_happened_later_or_never_but_not_earlier() {
        let read = |at, value| call(0, at, Some((at + 1, value)));
        assert_eq!(verdict(&[call(5, 0, None), read(2, 0), read(4, 5)]), Outcome::Linearizable);
        assert_eq!(verdict(&[call(5, 0, None), read(2, 0), read(4, 0)]), Outcome::Linearizable);
        assert!(matches!(verdict(&[read(0, 5), call(5, 2, None)]), Outcome::NotLinearizable(_)));
        assert!(matches!(verdict(&[call(5, 0, None), read(2, 5), read(4, 0)]), Outcome::NotLinearizable(_)));
    }

    #[test]
    fn too_little_room_is_undecided_and_not_a_pass() {
        assert_eq!(check(&Counter, &[call(1, 0, Some((1, 0)))], 1), Outcome::Unknown);
    }

    #[test]
    fn random_runs_of_a_true_counter_pass_and_a_wrong_answer_in_them_does_not() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (mut count, mut calls, mut now) = (0, Vec::new(), 0);
            for _ in 0..60 {
                now += random.between(1, 4);
                let operation = random.below(3);
                // It takes effect at `now`, between a call before and a return after.
                let (called, end) = (now - random.below(now.min(8)), now + random.below(8));
                let known = random.chance(900);
                calls.push(call(operation, 2 * called, known.then_some((2 * end + 1, count))));
                count += operation;
            }
            assert_eq!(verdict(&calls), Outcome::Linearizable, "seed {seed}");
            let wrong = calls.iter_mut().rev().find_map(|call| call.returned.as_mut());
            wrong.unwrap().1 += 1_000;
            assert!(matches!(verdict(&calls), Outcome::NotLinearizable(_)), "seed {seed}");
        }
    }
}
