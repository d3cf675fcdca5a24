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
        if let Some(last) = last.filter(|last| step.end < last.call && !raft::mutant!("checker-witness-time"))
        {
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

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = u32::MAX;

    fn at(index: u64, sub: u32) -> Option<Position> {
        Some(Position { index, sub })
    }

    /// A history from "process call f value" and "process ok answer", all on one key.
    fn history(lines: &[&str]) -> History {
        let mut history = History::new();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let process = words[0].parse().unwrap();
            let key = "x";
            match words[1..] {
                ["get"] => history.invoke(process, Request::Get { key }),
                ["put", value] => history.invoke(process, Request::Put { key, value: Some(value) }),
                ["cas", expect, value] => {
                    history.invoke(process, Request::Cas { key, expect: Some(expect), value: Some(value) })
                }
                ["ok"] => history.ok(process, Answer::Done),
                ["ok", "true"] => history.ok(process, Answer::Succeeded(true)),
                ["ok", "false"] => history.ok(process, Answer::Succeeded(false)),
                ["ok", "null"] => history.ok(process, Answer::Value(None)),
                ["ok", value] => history.ok(process, Answer::Value(Some(value))),
                ["fail"] => history.fail(process),
                ["info"] => history.info(process),
                _ => panic!("{line}"),
            }
            .unwrap();
        }
        history
    }

    #[test]
    fn reads_stand_behind_the_write_at_their_position() {
        let history = history(&["1 put 1", "1 ok", "2 get", "2 ok 1", "3 get", "3 ok 1", "1 put 2", "1 ok"]);
        assert_eq!(check(&history, &[at(1, 0), at(1, READ), at(1, READ), at(2, 0)]), Ok(()));
    }

    #[test]
    fn a_read_before_every_write_is_at_the_beginning() {
        let history = history(&["1 get", "2 put 1", "2 ok", "1 ok null"]);
        assert_eq!(check(&history, &[at(0, READ), at(1, 0)]), Ok(()));
    }

    #[test]
    fn an_operation_of_unknown_outcome_is_replayed_where_it_is_and_has_no_end() {
        let history = history(&["1 put 1", "1 info", "2 put 2", "2 ok", "3 get", "3 ok 1"]);
        assert_eq!(check(&history, &[at(2, 0), at(1, 0), at(2, READ)]), Ok(()));
        assert!(matches!(check(&history, &[None, at(1, 0), at(2, READ)]), Err(Violation::Answer { .. })));
        // But it cannot take effect before its call.
        let history = self::history(&["2 put 2", "2 ok", "1 put 1", "1 info"]);
        assert!(matches!(check(&history, &[at(2, 0), at(1, 0)]), Err(Violation::RealTime { .. })));
    }

    #[test]
    fn a_stale_read_is_against_real_time() {
        let history = history(&["1 put 1", "1 ok", "1 put 2", "1 ok", "2 get", "2 ok 1"]);
        let found = check(&history, &[at(1, 0), at(2, 0), at(1, READ)]);
        let expected = Violation::RealTime {
            earlier: OperationId(1),
            earlier_position: Position { index: 2, sub: 0 },
            later: OperationId(2),
            later_position: Position { index: 1, sub: READ },
        };
        assert_eq!(found, Err(expected));
    }

    #[test]
    fn a_read_that_ended_before_the_write_at_its_position_was_called_is_against_real_time() {
        let history = history(&["2 get", "2 ok 1", "1 put 1", "1 ok"]);
        assert!(matches!(check(&history, &[at(1, READ), at(1, 0)]), Err(Violation::RealTime { .. })));
    }

    #[test]
    fn reads_at_one_position_that_go_back_are_against_real_time() {
        let history = history(&["1 put 1", "1 ok", "1 put 2", "2 get", "2 ok 2", "3 get", "3 ok 1", "1 ok"]);
        let found = check(&history, &[at(1, 0), at(2, 0), at(2, READ), at(1, READ)]);
        assert!(matches!(found, Err(Violation::RealTime { .. })), "{found:?}");
    }

    #[test]
    fn an_answer_that_the_position_does_not_explain() {
        let history = history(&["1 put 1", "1 ok", "2 cas 1 2", "2 ok false"]);
        let expected = Violation::Answer {
            operation: OperationId(1),
            answered: "succeeded=false".to_owned(),
            position: Position { index: 2, sub: 0 },
            key: "x".to_owned(),
            value: Some("1".to_owned()),
        };
        assert_eq!(check(&history, &[at(1, 0), at(2, 0)]), Err(expected));
    }

    #[test]
    fn an_acknowledged_operation_must_be_in_the_log_and_a_failed_one_must_not() {
        let done = history(&["1 put 1", "1 ok"]);
        assert_eq!(check(&done, &[None]), Err(Violation::Lost(OperationId(0))));
        let failed = history(&["1 put 1", "1 fail"]);
        assert_eq!(check(&failed, &[None]), Ok(()));
        let position = Position { index: 1, sub: 0 };
        let undead = Violation::Undead { operation: OperationId(0), position };
        assert_eq!(check(&failed, &[Some(position)]), Err(undead));
    }

    #[test]
    fn two_writes_cannot_share_a_position_but_two_of_one_entry_can_share_its_index() {
        let history = history(&["1 put 1", "2 put 2", "1 ok", "2 ok", "3 get", "3 ok 2"]);
        let position = Position { index: 1, sub: 0 };
        let same = Violation::SamePosition { first: OperationId(0), second: OperationId(1), position };
        assert_eq!(check(&history, &[at(1, 0), at(1, 0), at(1, READ)]), Err(same));
        assert_eq!(check(&history, &[at(1, 0), at(1, 1), at(1, READ)]), Ok(()));
    }

    #[test]
    fn there_is_a_position_or_none_for_each_operation() {
        let history = history(&["1 put 1", "1 ok"]);
        assert_eq!(check(&history, &[]), Err(Violation::Count { positions: 0, operations: 1 }));
    }
}
