//! The fast path: the log says in which order the operations took effect, and this tests it.
//!
//! Each operation that took effect comes with its [`Position`]: where in the applied log it was done, or, for a read
//! served without an entry of its own, the last applied position it saw. Reads stand behind the write at their
//! position.
//!
//! **Why a pass proves linearizability.** The positions, then "writes before reads", then the calls give a total order
//! of the operations that took effect: no two writes share a position, and reads at one position are told apart by
//! their calls. It contains every operation that is known to be done, and none that is known not to be (both are
//! tested). Replayed in it, every operation gives the answer its caller got (tested). And no operation stands
//! before one that ended before it was called (tested against the latest call on the way). Such an order is what
//! linearizability asks for (Herlihy and Wing 1990). Operations of unknown outcome without a position are
//! taken never to have happened, which the definition allows; those with one have no end to be respected.
//!
//! Reads at the same position need no order between writes to justify them: a read that ended before the write at
//! the next position was even called stands before it, and one that began after a write ended stands behind it,
//! or the test of real time fails. Two reads at one position change nothing, so the order of their calls
//! is as good as any, and it never contradicts real time.
//!
//! A failure proves less: the positions may be wrong while the history is linearizable. In the simulator that is a
//! failure as well, since the positions are what the nodes say happened.

use super::replay::{Value, spell};
use crate::history::{Answer, End, History, Moment, OperationId, Request};

/// Where in the log an operation took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The log index, or any other count that grows with the log, such as a revision.
    pub index: u64,
    /// The place within it, where one entry does several things. A read that saw all of `index` has `u32::MAX`.
    pub sub: u32,
}

/// Why positions do not explain a history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// There must be a position, or none, for each operation.
    #[error("{positions} positions were given for {operations} operations")]
    Count {
        /// How many positions there are.
        positions: usize,
        /// How many operations.
        operations: usize,
    },
    /// A caller was told that its operation was done, but it has no position.
    #[error("operation {} was acknowledged, but is not in the log", .0.0)]
    Lost(OperationId),
    /// A caller was told that its operation was not done, but it has a position.
    #[error("operation {} is in the log at {}.{}, but its caller was told that it failed", .operation.0, .position.index, .position.sub)]
    Undead {
        /// Which operation.
        operation: OperationId,
        /// Where it is.
        position: Position,
    },
    /// Two operations that are no reads have one position.
    #[error("operations {} and {} are both in the log at {}.{}", .first.0, .second.0, .position.index, .position.sub)]
    SamePosition {
        /// One of them.
        first: OperationId,
        /// The other.
        second: OperationId,
        /// Where.
        position: Position,
    },
    /// An operation took effect before one that had ended when it was called.
    #[error(
        "operation {} took effect at {}.{}, before operation {} at {}.{}, which had ended when it was called",
        .later.0, .later_position.index, .later_position.sub,
        .earlier.0, .earlier_position.index, .earlier_position.sub
    )]
    RealTime {
        /// The one that ended.
        earlier: OperationId,
        /// Where it took effect.
        earlier_position: Position,
        /// The one called after that end.
        later: OperationId,
        /// Where it took effect.
        later_position: Position,
    },
    /// An operation answered what it could not, at its position.
    #[error("operation {} answered {answered}, but at {}.{} key {key:?} was {value:?}", .operation.0, .position.index, .position.sub)]
    Answer {
        /// Which operation.
        operation: OperationId,
        /// What it answered.
        answered: String,
        /// Where it took effect.
        position: Position,
        /// Its key.
        key: String,
        /// The key's value just before, `None` for absent.
        value: Option<String>,
    },
}

/// Tests that the operations of `history`, done at `positions` (one for each, in their order), give the answers that
/// their callers got, and respect real time. In O(n log n).
pub fn check(history: &History, positions: &[Option<Position>]) -> Result<(), Violation> {
    let operations = history.operations();
    if positions.len() != operations.len() {
        return Err(Violation::Count { positions: positions.len(), operations: operations.len() });
    }
    let order = order(history, positions)?;
    let mut values: Vec<Value<'_>> = Vec::new();
    values.resize(history.texts(), Value::default());
    // The operation called last so far: none that ended before its call may follow.
    let mut last: Option<&Step> = None;
    for step in &order {
        let operation = history.operation(step.operation);
        if let Some(last) = last.filter(|last| step.end < last.call) {
            return Err(Violation::RealTime {
                earlier: step.operation,
                earlier_position: step.position,
                later: last.operation,
                later_position: last.position,
            });
        }
        if last.is_none_or(|last| step.call > last.call) {
            last = Some(step);
        }
        let value = &mut values[operation.request.key().index()];
        let answer = match operation.end {
            End::Ok { answer, .. } => Some(spell(history, answer)),
            End::Fail { .. } | End::Info { .. } => None,
        };
        let before = matches!(operation.request, Request::Cas { .. }).then(|| value.clone());
        if !value.apply(history.spell(&operation.request), answer) {
            return Err(Violation::Answer {
                operation: step.operation,
                answered: answer.map_or_else(String::new, answered),
                position: step.position,
                key: history.text(operation.request.key()).to_owned(),
                value: before.as_ref().unwrap_or(value).get().map(str::to_owned),
            });
        }
    }
    Ok(())
}

/// An operation that took effect. The order of the fields is the order of the steps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    position: Position,
    read: bool,
    call: Moment,
    end: Moment,
    operation: OperationId,
}

/// The operations that took effect, in order.
fn order(history: &History, positions: &[Option<Position>]) -> Result<Vec<Step>, Violation> {
    let mut order = Vec::with_capacity(positions.len());
    for (at, (operation, position)) in history.operations().iter().zip(positions).enumerate() {
        let id = OperationId(at as u32);
        let end = match (operation.end, position) {
            (End::Ok { at, .. }, Some(_)) => at,
            (End::Ok { .. }, None) => return Err(Violation::Lost(id)),
            (End::Fail { .. }, Some(position)) => {
                // A failed get says nothing, whatever became of it.
                if matches!(operation.request, Request::Get { .. }) {
                    continue;
                }
                return Err(Violation::Undead { operation: id, position: *position });
            }
            (End::Info { .. }, Some(_)) => Moment::MAX,
            (End::Fail { .. } | End::Info { .. }, None) => continue,
        };
        if let Some(position) = *position {
            let read = matches!(operation.request, Request::Get { .. });
            order.push(Step { position, read, call: operation.call, end, operation: id });
        }
    }
    order.sort_unstable();
    for pair in order.windows(2) {
        if let [a, b] = pair
            && (a.position, a.read, b.read) == (b.position, false, false)
        {
            let (first, second, position) = (a.operation, b.operation, a.position);
            return Err(Violation::SamePosition { first, second, position });
        }
    }
    Ok(order)
}

fn answered(answer: Answer<&str>) -> String {
    match answer {
        Answer::Done => "done".to_owned(),
        Answer::Value(None) => "null".to_owned(),
        Answer::Value(Some(value)) => format!("{value:?}"),
        Answer::Succeeded(succeeded) => format!("succeeded={succeeded}"),
    }
}
