//! The checker against a twin that tries everything.

use std::collections::BTreeMap;

use super::*;
use crate::history::{
    Answer, End, Operation, Request,
    generate::{Chance, Fault, Generated, Shape},
};

/// Whether there is an order, by trying all: every operation that may be next, or leaving out what need not be.
fn brute_force(history: &History, operations: &[Operation]) -> bool {
    fn next<'h>(history: &'h History, left: &[Operation], values: &BTreeMap<&'h str, String>) -> bool {
        let end = |operation: &Operation| match operation.end {
            End::Ok { at, .. } => at,
            _ => u32::MAX,
        };
        if left.iter().all(|operation| end(operation) == u32::MAX) {
            return true;
        }
        let first_end = left.iter().map(end).min().unwrap_or(u32::MAX);
        (0..left.len()).any(|at| {
            let operation = left[at];
            let mut values = values.clone();
            operation.call < first_end && fits(history, &operation, &mut values) && {
                let mut left = left.to_vec();
                left.remove(at);
                next(history, &left, &values)
            }
        })
    }
    let left: Vec<Operation> =
        operations.iter().copied().filter(|operation| !matches!(operation.end, End::Fail { .. })).collect();
    next(history, &left, &BTreeMap::new())
}

/// Does `operation`; whether it answers what it answered.
fn fits<'h>(history: &'h History, operation: &Operation, values: &mut BTreeMap<&'h str, String>) -> bool {
    let request = history.spell(&operation.request);
    let key = request.key();
    let before = values.get(key).cloned();
    let (after, answer) = match request {
        Request::Get { .. } => (before.clone(), Answer::Value(before)),
        Request::Put { value, .. } => (value.map(str::to_owned), Answer::Done),
        Request::Append { value, .. } => (Some(before.unwrap_or_default() + value), Answer::Done),
        Request::Delete { .. } => (None, Answer::Done),
        Request::Cas { expect, value, .. } if before.as_deref() == expect => {
            (value.map(str::to_owned), Answer::Succeeded(true))
        }
        Request::Cas { .. } => (before, Answer::Succeeded(false)),
    };
    match after {
        Some(value) => values.insert(key, value),
        None => values.remove(key),
    };
    match operation.end {
        End::Ok { answer: got, .. } => match (got, answer) {
            (Answer::Done, Answer::Done) => true,
            (Answer::Value(got), Answer::Value(answer)) => {
                got.map(|text| history.text(text)) == answer.as_deref()
            }
            (Answer::Succeeded(got), Answer::Succeeded(answer)) => got == answer,
            _ => false,
        },
        _ => true,
    }
}

fn tiny(chance: &mut Chance) -> Shape {
    let values = [&["a"][..], &["a", "b"], &["", "a", "aa"], &["a", "b", "ab", "ba"], &["", "x"]];
    let faults = [
        Fault::StaleRead,
        Fault::LostWrite,
        Fault::DoubleApply,
        Fault::WrongCas,
        Fault::Garbage,
        Fault::Garbage,
    ];
    let operations = 2 + chance.below(6);
    let mut weights = [2, 0, 0, 0, 0];
    for weight in &mut weights {
        *weight += [0, 1, 3][chance.below(3)];
    }
    Shape {
        operations,
        clients: 1 + chance.below(4),
        keys: 1 + chance.below(2) * chance.below(2),
        weights,
        values: values[chance.below(values.len())].iter().map(|value| (*value).to_owned()).collect(),
        info_permille: [0, 100, 400][chance.below(3)],
        fail_permille: [0, 0, 150][chance.below(3)],
        fault: (chance.below(3) > 0).then(|| (chance.below(operations), faults[chance.below(faults.len())])),
    }
}

/// Calls and ends at random, with answers at random: mostly nonsense.
fn chaos(chance: &mut Chance) -> History {
    const TEXTS: [&str; 5] = ["a", "b", "", "ab", "aa"];
    let (operations, texts) = (1 + chance.below(6), 1 + chance.below(TEXTS.len()));
    let text = |chance: &mut Chance| TEXTS[chance.below(texts)];
    let value = |chance: &mut Chance| Some(text(chance)).filter(|_| chance.permille(800));
    let mut history = History::new();
    let (mut open, mut called): (Vec<u64>, usize) = (Vec::new(), 0);
    let kinds = 1 + chance.below(5);
    while called < operations || !open.is_empty() {
        if called < operations && open.len() < 4 && chance.permille(500) {
            let key = "x";
            let request = match chance.below(kinds) {
                0 => Request::Get { key },
                1 => Request::Put { key, value: value(chance) },
                2 => Request::Cas { key, expect: value(chance), value: value(chance) },
                3 => Request::Append { key, value: text(chance) },
                _ => Request::Delete { key },
            };
            history.invoke(called as u64, request).unwrap();
            open.push(called as u64);
            called += 1;
        } else if !open.is_empty() {
            let process = open.swap_remove(chance.below(open.len()));
            let request = history.operation(history.open(process).unwrap()).request;
            let answer = match request {
                Request::Get { .. } => Answer::Value(value(chance)),
                Request::Cas { .. } => Answer::Succeeded(chance.permille(500)),
                _ => Answer::Done,
            };
            match chance.below(10) {
                0 => history.fail(process),
                1 | 2 => history.info(process),
                _ => history.ok(process, answer),
            }
            .unwrap();
        }
    }
    history
}

fn spelled(history: &History) -> String {
    let mut bytes = Vec::new();
    history.write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// How many histories to try: more with `RAFTKV_TWIN_ROUNDS`.
fn rounds() -> u64 {
    std::env::var("RAFTKV_TWIN_ROUNDS").map_or(20_000, |rounds| rounds.parse().unwrap())
}

/// Checks `history` both ways; whether it is linearizable.
fn agreed(seed: u64, history: &History) -> bool {
    let truth = brute_force(history, history.operations());
    let verdict = check(history, &Limits::default());
    match &verdict {
        Verdict::Linearizable => {
            assert!(truth, "seed {seed}: passes, but has no order\n{}", spelled(history))
        }
        Verdict::NotLinearizable(_) => assert!(!truth, "seed {seed}: {verdict:?}\n{}", spelled(history)),
        Verdict::Unknown { .. } => panic!("seed {seed}: {verdict:?}\n{}", spelled(history)),
    }
    truth
}

#[test]
fn agrees_with_a_twin_that_tries_everything() {
    let mut legal = 0;
    for seed in 0..rounds() {
        let mut chance = Chance::new(seed);
        let Generated { history, positions, faulty } = tiny(&mut chance).generate(chance.draw());
        let truth = agreed(seed, &history);
        let witness = witness::check(&history, &positions);
        if !faulty {
            assert_eq!(witness, Ok(()), "seed {seed}\n{}", spelled(&history));
        }
        assert!(truth || witness.is_err(), "seed {seed}: the witness passes\n{}", spelled(&history));
        legal += u64::from(truth);
    }
    let illegal = rounds() - legal;
    eprintln!("{legal} linearizable, {illegal} not");
    assert!(legal > rounds() / 10 && illegal > rounds() / 10, "{legal} linearizable, {illegal} not");
}

#[test]
fn agrees_with_the_twin_on_nonsense() {
    let legal: u64 = (0..rounds()).map(|seed| u64::from(agreed(seed, &chaos(&mut Chance::new(seed))))).sum();
    let illegal = rounds() - legal;
    eprintln!("{legal} linearizable, {illegal} not");
    assert!(legal > rounds() / 10 && illegal > rounds() / 10, "{legal} linearizable, {illegal} not");
}

/// What a counterexample says of a history: those that must be in an order, with their answers, and of the other
/// operations on the key that change something, that they may have been done or not.
fn claimed(history: &History, counterexample: &Counterexample, spared: Option<u32>) -> Vec<Operation> {
    let must = |id: u32| {
        let shown = counterexample.operations.iter().find(|shown| shown.operation == id);
        spared != Some(id) && shown.is_some_and(|shown| shown.must)
    };
    let mut operations = Vec::new();
    for (id, operation) in (0..).zip(history.operations()) {
        let looks = match operation.end {
            End::Ok { answer: Answer::Succeeded(succeeded), .. } => !succeeded,
            _ => matches!(operation.request, Request::Get { .. }),
        };
        let end = if must(id) { operation.end } else { End::Info { at: None } };
        let on_key = history.text(operation.request.key()) == counterexample.key;
        let done = !matches!(operation.end, End::Fail { .. });
        if on_key && done && (must(id) || !looks) {
            operations.push(Operation { end, ..*operation });
        }
    }
    operations
}

#[test]
fn counterexamples_have_no_order_and_nothing_to_spare() {
    let mut found = 0;
    for seed in 0..rounds() / 6 {
        let mut chance = Chance::new(seed);
        let history = if seed % 2 == 0 {
            chaos(&mut chance)
        } else {
            tiny(&mut chance).generate(chance.draw()).history
        };
        let Verdict::NotLinearizable(counterexample) = check(&history, &Limits::default()) else { continue };
        found += 1;
        let claim = claimed(&history, &counterexample, None);
        assert!(!brute_force(&history, &claim), "seed {seed}: {counterexample}\n{}", spelled(&history));
        for shown in counterexample.operations.iter().filter(|shown| shown.must) {
            let fewer = claimed(&history, &counterexample, Some(shown.operation));
            let spared = brute_force(&history, &fewer);
            assert!(spared, "seed {seed}: #{} can be spared: {counterexample}", shown.operation);
        }
        assert!(!counterexample.stuck.is_empty(), "seed {seed}: {counterexample}\n{}", spelled(&history));
    }
    assert!(found > rounds() / 30, "{found} counterexamples");
}

/// Within so many steps per operation a verdict must be found: what makes the search fast must not break.
fn decided(shape: &Shape, seed: u64, steps_per_operation: f64) -> bool {
    let Generated { history, .. } = shape.generate(seed);
    let steps_max = (history.operations().len() as f64 * steps_per_operation) as u64;
    match check(&history, &Limits { steps_max, ..Limits::default() }) {
        Verdict::Linearizable => true,
        Verdict::NotLinearizable(_) => false,
        Verdict::Unknown { .. } => panic!("not decided within {steps_max} steps: {shape:?}, seed {seed}"),
    }
}

fn shape(operations: usize, clients: usize, keys: usize, weights: [u32; 5]) -> Shape {
    let (values, fault) = (Vec::new(), None);
    Shape { operations, clients, keys, weights, values, info_permille: 10, fail_permille: 10, fault }
}

/// Decides the history of `shape` and those in which something goes wrong, all within so many steps.
fn decides_with_faults(shape: &Shape, faults: &[Fault], steps_per_operation: f64) {
    for seed in 0..1 {
        assert!(decided(shape, seed, steps_per_operation));
    }
    for fault in faults {
        // A fault may be hidden by what happens at the same time.
        let mut bad = 0;
        for seed in 0..3 {
            let fault = Some((shape.operations / 2, *fault));
            bad += u32::from(!decided(&Shape { fault, ..shape.clone() }, seed, steps_per_operation));
        }
        assert!(bad > 0, "{fault:?} went unseen");
    }
}

#[test]
fn ten_clients_on_ten_keys_take_few_steps() {
    for weights in [[5, 3, 0, 1, 1], [5, 3, 2, 1, 1]] {
        let faults = [Fault::StaleRead, Fault::Garbage];
        decides_with_faults(&shape(10_000, 10, 10, weights), &faults, 0.2);
    }
}

#[test]
fn fifty_clients_that_append_to_shared_keys_take_few_steps() {
    let faults = [Fault::StaleRead, Fault::LostWrite, Fault::DoubleApply];
    decides_with_faults(&shape(1_700, 50, 10, [5, 1, 5, 0, 0]), &faults, 1.0);
}

#[test]
fn fifty_clients_on_one_register_take_few_steps() {
    let faults = [Fault::StaleRead, Fault::Garbage];
    decides_with_faults(&shape(1_700, 50, 1, [5, 5, 0, 0, 0]), &faults, 1.0);
}

#[test]
fn many_writes_of_unknown_outcome_take_few_steps() {
    let shape = Shape { info_permille: 300, ..shape(1_000, 10, 2, [5, 3, 0, 1, 0]) };
    decides_with_faults(&shape, &[Fault::Garbage], 2.0);
}

/// A history in which two concurrent puts leave a choice, so that it takes steps.
fn with_a_choice() -> History {
    let mut history = History::new();
    for (process, value) in [(1, "1"), (2, "2"), (3, "3")] {
        history.invoke(process, Request::Put { key: "x", value: Some(value) }).unwrap();
    }
    for process in [1, 2, 3] {
        history.ok(process, Answer::Done).unwrap();
    }
    for (process, value) in [(1, "1"), (2, "2")] {
        history.invoke(process, Request::Get { key: "x" }).unwrap();
        history.ok(process, Answer::Value(Some(value))).unwrap();
    }
    history
}

#[test]
fn a_limit_reached_is_no_verdict() {
    let history = with_a_choice();
    let found = check(&history, &Limits::default());
    assert!(matches!(found, Verdict::NotLinearizable(_)), "{found:?}");
    for (limits, expected) in [
        (Limits { steps_max: 0, ..Limits::default() }, Bound::Steps),
        (Limits { memory_bytes_max: 100, ..Limits::default() }, Bound::Memory),
        (Limits { time_max: Some(Duration::ZERO), ..Limits::default() }, Bound::Time),
    ] {
        match check(&history, &limits) {
            Verdict::Unknown { bound, key } => assert_eq!((bound, key.as_str()), (expected, "x")),
            other => panic!("{other:?} within {limits:?}"),
        }
    }
}

#[test]
fn memory_stays_within_its_limit() {
    // Small values and one key: too many orders to remember.
    let values = ["0", "1", "2"].map(str::to_owned).to_vec();
    let shape = Shape { values, info_permille: 0, ..shape(400, 40, 1, [2, 1, 4, 0, 0]) };
    let history = Shape { fault: Some((300, Fault::Garbage)), ..shape }.generate(1).history;
    let limits = Limits { memory_bytes_max: 1 << 20, ..Limits::default() };
    let verdict = check(&history, &limits);
    assert!(matches!(verdict, Verdict::Unknown { bound: Bound::Memory, .. }), "{verdict:?}");
}

#[test]
fn what_is_found_does_not_depend_on_the_threads() {
    let shape = Shape { fault: Some((3_000, Fault::StaleRead)), ..shape(6_000, 10, 12, [5, 3, 2, 1, 1]) };
    let history = shape.generate(3).history;
    let found = |threads: usize| {
        let threads = NonZeroUsize::new(threads).unwrap();
        match check(&history, &Limits { threads, ..Limits::default() }) {
            Verdict::NotLinearizable(counterexample) => counterexample.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let alone = found(1);
    for threads in [2, 3, 8] {
        assert_eq!(found(threads), alone);
    }
}

#[test]
fn the_lowest_bad_key_is_reported_even_if_others_are_bad_or_unknown() {
    let mut history = with_a_choice();
    history.invoke(9, Request::Get { key: "y" }).unwrap();
    history.ok(9, Answer::Value(Some("never written"))).unwrap();
    // Without steps key x is undecided, but key y needs none.
    match check(&history, &Limits { steps_max: 1, ..Limits::default() }) {
        Verdict::NotLinearizable(counterexample) => assert_eq!(counterexample.key, "y"),
        other => panic!("{other:?}"),
    }
    match check(&history, &Limits::default()) {
        Verdict::NotLinearizable(counterexample) => assert_eq!(counterexample.key, "x"),
        other => panic!("{other:?}"),
    }
}
