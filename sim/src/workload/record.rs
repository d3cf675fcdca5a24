//! What was asked and answered, and where in the store's history it took effect.
//!
//! An operation on several keys (a range, a transaction) stands in the history as one operation on each of them, all
//! called and ended together, each by a process of its own. That loses that they happened at one moment; the
//! witness keeps it, since they all have one revision.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::checker::witness::Position;
use crate::history::{Answer, End, History, Misuse, OperationId, Process, Request};
use crate::invariants::ExactlyOnce;
use crate::report::{Failure, Witness};

/// How an operation ended, for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ok,
    /// Not done, nor will be.
    Fail,
    /// Unknown.
    Info,
}

/// What a read saw that need not see the newest state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookBack {
    /// The operation's number in the plan.
    pub number: u32,
    /// The key.
    pub key: String,
    /// What it held, by the answer.
    pub value: Option<String>,
    /// At which revision, by the answer.
    pub revision: u64,
}

/// What is known about one operation beside the history.
#[derive(Clone, Copy, Debug)]
struct Note {
    /// Its number in the plan; 0 for reads at the end.
    number: u32,
    /// The revision that its answer named.
    revision: Option<u64>,
    /// Whether it left the store as it was, by its answer.
    changed_nothing: bool,
}

/// The history as it grows. Clones are the same.
#[derive(Clone, Default)]
pub struct Recorder {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    history: History,
    /// One for each operation, in order.
    notes: Vec<Note>,
    processes: Process,
    /// The processes that have no open operation and may be used.
    idle: Vec<Process>,
    counts: [u64; 3],
    looks_back: Vec<LookBack>,
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    process: Process,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation is called.
    pub fn invoke(&self, number: u32, request: Request<&str>) -> Open {
        let mut state = self.lock();
        let process = state.idle.pop().unwrap_or_else(|| {
            state.processes += 1;
            state.processes
        });
        certain(state.history.invoke(process, request));
        state.notes.push(Note { number, revision: None, changed_nothing: false });
        Open { process }
    }

    /// It is done. `revision` is what the answer named; `changed` whether it says that something was changed.
    pub fn ok(&self, open: Open, answer: Answer<&str>, revision: u64, changed: bool) {
        let mut state = self.lock();
        let id = certain(state.history.ok(open.process, answer));
        let note = &mut state.notes[id.0 as usize];
        note.revision = Some(revision);
        note.changed_nothing = !changed;
        state.idle.push(open.process);
        state.counts[0] += 1;
    }

    /// It was not done.
    pub fn fail(&self, open: Open) {
        let mut state = self.lock();
        certain(state.history.fail(open.process));
        state.idle.push(open.process);
        state.counts[1] += 1;
    }

    /// Nobody knows.
    pub fn info(&self, open: Open) {
        let mut state = self.lock();
        certain(state.history.info(open.process));
        state.counts[2] += 1;
    }

    /// A read that may be old is done.
    pub fn looked_back(&self, look: LookBack) {
        let mut state = self.lock();
        state.looks_back.push(look);
        state.counts[0] += 1;
    }

    /// Reads that may be old must still have seen what there once was.
    ///
    /// # Errors
    /// One has not.
    pub fn judge_looks_back(&self, effects: &Effects) -> Result<(), Failure> {
        for look in &self.lock().looks_back {
            let held = effects.value_at(&look.key, look.revision);
            if held != look.value.as_deref() || look.revision > effects.newest {
                let text = format!(
                    "#{} found {:?} in {} at revision {}, where it held {held:?} (the newest is {})",
                    look.number, look.value, look.key, look.revision, effects.newest
                );
                let witness = Witness::Operation { number: look.number };
                let failure = Failure::new("an old read is a read of what there was", text);
                return Err(failure.seen_in([witness]));
            }
        }
        Ok(())
    }

    /// How many operations were done, were not done, are unknown.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        self.lock().counts
    }

    /// The operations with these numbers in the history, as events.
    #[must_use]
    pub fn witnesses(&self, of_history: &[u32]) -> Vec<Witness> {
        let state = self.lock();
        let notes = of_history.iter().filter_map(|id| state.notes.get(*id as usize));
        notes.map(|note| Witness::Operation { number: note.number }).collect()
    }

    /// Calls `read` with the history.
    pub fn with_history<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.lock().history)
    }

    /// Where each operation took effect, by what the store's own history says.
    ///
    /// # Errors
    /// An answer and the store do not agree.
    pub fn positions(&self, effects: &Effects) -> Result<Vec<Option<Position>>, Failure> {
        let state = self.lock();
        let operations = state.history.operations().iter().zip(&state.notes);
        let mut positions = Vec::new();
        for (id, (operation, note)) in operations.enumerate() {
            let is_read = matches!(operation.request, Request::Get { .. });
            let is_delete = matches!(operation.request, Request::Delete { .. });
            let found = if is_read || is_delete { None } else { effects.written.revision_of(note.number) };
            let position = match operation.end {
                End::Ok { .. } => {
                    let Some(revision) = note.revision else { panic!("done without a revision") };
                    // What changed nothing stands behind the change that made the revision it saw, among its like
                    // in the order of their calls.
                    let sub = if note.changed_nothing { operation.call + 1 } else { 0 };
                    if !note.changed_nothing && !is_read && !is_delete && found != Some(revision) {
                        let failure = disagree(&state.history, id, revision, found, effects.oldest);
                        return Err(failure.seen_in([Witness::Operation { number: note.number }]));
                    }
                    Some(Position { index: revision, sub })
                }
                End::Fail { .. } | End::Info { .. } => found.map(|index| Position { index, sub: 0 }),
            };
            positions.push(position);
        }
        place_deletes(&state.history, effects, &mut positions);
        Ok(positions)
    }
}

/// What the store's history says was changed.
#[derive(Default)]
pub struct Effects {
    /// Which operation wrote at which revision.
    pub written: ExactlyOnce,
    /// The revisions at which each key was removed.
    pub removed: BTreeMap<String, Vec<u64>>,
    /// What each key held from which revision on.
    pub values: BTreeMap<String, Vec<(u64, Option<String>)>>,
    /// Nothing is known of revisions below this.
    pub oldest: u64,
    /// Nor above this.
    pub newest: u64,
}

impl Effects {
    /// What a key held at a revision.
    #[must_use]
    pub fn value_at(&self, key: &str, revision: u64) -> Option<&str> {
        let changes = self.values.get(key)?;
        let (_, value) = changes.iter().rev().find(|(from, _)| *from <= revision)?;
        value.as_deref()
    }
}

fn certain<T>(result: Result<T, Misuse>) -> T {
    match result {
        Ok(value) => value,
        Err(misuse) => panic!("the recorder misuses the history: {misuse}"),
    }
}

fn disagree(history: &History, id: usize, answered: u64, found: Option<u64>, oldest: u64) -> Failure {
    let operation = history.operation(OperationId(id as u32));
    let request = history.spell(&operation.request);
    let found = found.map_or_else(|| "nowhere".to_owned(), |revision| format!("at revision {revision}"));
    let text = format!(
        "{request:?} was answered as done at revision {answered}, but what it wrote is found {found} \
         (history from revision {oldest} on)"
    );
    Failure::new("an acknowledged write is there", text)
}

/// A removal does not say who removed. Those that no answer claims are dealt out to the removals of unknown outcome,
/// the earliest to the earliest called: if any way of dealing them out respects real time, this one does.
fn place_deletes(history: &History, effects: &Effects, positions: &mut [Option<Position>]) {
    let mut unclaimed = effects.removed.clone();
    for (operation, position) in history.operations().iter().zip(&*positions) {
        if let (Request::Delete { key }, Some(position)) = (operation.request, position)
            && position.sub == 0
            && let Some(revisions) = unclaimed.get_mut(history.text(key))
        {
            revisions.retain(|revision| *revision != position.index);
        }
    }
    for (operation, position) in history.operations().iter().zip(positions) {
        if let (Request::Delete { key }, End::Info { .. }) = (operation.request, operation.end)
            && let Some(revisions) = unclaimed.get_mut(history.text(key)).filter(|left| !left.is_empty())
        {
            *position = Some(Position { index: revisions.remove(0), sub: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::witness;

    fn put(recorder: &Recorder, number: u32, value: &str) -> Open {
        recorder.invoke(number, Request::Put { key: "k0", value: Some(value) })
    }

    #[test]
    fn unknown_writes_are_placed_where_the_store_has_them_and_lost_ones_are_noticed() {
        let recorder = Recorder::default();
        let mut effects = Effects::default();
        let first = put(&recorder, 1, "v1");
        recorder.ok(first, Answer::Done, 1, true);
        let unknown = put(&recorder, 2, "v2");
        recorder.info(unknown);
        let read = recorder.invoke(3, Request::Get { key: "k0" });
        recorder.ok(read, Answer::Value(Some("v2")), 2, false);
        effects.written.found(1, 1, "k0").unwrap();
        effects.written.found(2, 2, "k0").unwrap();
        let positions = recorder.positions(&effects).unwrap();
        recorder.with_history(|history| assert_eq!(witness::check(history, &positions), Ok(())));
        let failure = recorder.positions(&Effects::default()).unwrap_err();
        assert_eq!(failure.rule, "an acknowledged write is there");
    }

    #[test]
    fn an_old_read_must_have_seen_what_there_was_at_its_revision() {
        let recorder = Recorder::default();
        let mut effects = Effects { newest: 4, ..Effects::default() };
        effects.values.insert("k0".into(), vec![(1, Some("v1".into())), (3, None)]);
        let look = |value: Option<&str>, revision| LookBack {
            number: 7,
            key: "k0".into(),
            value: value.map(str::to_owned),
            revision,
        };
        for right in [look(None, 0), look(Some("v1"), 1), look(Some("v1"), 2), look(None, 4)] {
            recorder.looked_back(right);
        }
        assert_eq!(recorder.judge_looks_back(&effects), Ok(()));
        for wrong in [look(Some("v1"), 3), look(None, 2), look(None, 5)] {
            let recorder = Recorder::default();
            recorder.looked_back(wrong.clone());
            let failure = recorder.judge_looks_back(&effects).unwrap_err();
            assert_eq!(failure.rule, "an old read is a read of what there was", "{wrong:?}");
        }
    }

    #[test]
    fn removals_of_unknown_outcome_get_the_revisions_that_nobody_claims() {
        let recorder = Recorder::default();
        let delete = || recorder.invoke(0, Request::Delete { key: "k0" });
        let (done, unknown, never) = (delete(), delete(), delete());
        recorder.ok(done, Answer::Done, 2, true);
        recorder.info(unknown);
        recorder.info(never);
        let mut effects = Effects::default();
        effects.removed.insert("k0".into(), vec![2, 4]);
        let at = |index| Some(Position { index, sub: 0 });
        assert_eq!(recorder.positions(&effects).unwrap(), [at(2), at(4), None]);
    }

    #[test]
    fn what_changes_nothing_stands_between_changes_in_the_order_of_calls() {
        let recorder = Recorder::default();
        let cas = || recorder.invoke(9, Request::Cas { key: "k0", expect: Some("x"), value: Some("v9") });
        let first = cas();
        recorder.ok(first, Answer::Succeeded(false), 5, false);
        let read = recorder.invoke(10, Request::Get { key: "k0" });
        recorder.ok(read, Answer::Value(None), 5, false);
        let second = cas();
        recorder.ok(second, Answer::Succeeded(false), 5, false);
        let positions = recorder.positions(&Effects::default()).unwrap();
        assert!(positions.is_sorted());
        recorder.with_history(|history| assert_eq!(witness::check(history, &positions), Ok(())));
    }
}
