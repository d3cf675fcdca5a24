//! The checker against a twin that tries everything.

use std::collections::BTreeMap;

use super::*;
use crate::history::{
    Answer, End, Operation, Request,
    generate::{Chance, Fault, Generated, Shape},
};

/// Whether there is an order, by trying all: every operation that may be next, or leaving out what need not be.
fn brute_force(history: &History) -> bool {
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
        history.operations().iter().copied().filter(|o| !matches!(o.end, End::Fail { .. })).collect();
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

fn spelled(history: &History) -> String {
    let mut bytes = Vec::new();
    history.write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn agrees_with_a_twin_that_tries_everything() {
    let rounds: u64 = std::env::var("RAFTKV_TWIN_ROUNDS").map_or(30_000, |rounds| rounds.parse().unwrap());
    let (mut legal, mut illegal) = (0, 0);
    for seed in 0..rounds {
        let mut chance = Chance::new(seed);
        let Generated { history, positions, faulty } = tiny(&mut chance).generate(chance.draw());
        let truth = brute_force(&history);
        let verdict = check(&history, &Limits::default());
        match (&verdict, truth) {
            (Verdict::Linearizable, true) => legal += 1,
            (Verdict::NotLinearizable(_), false) => illegal += 1,
            _ => panic!("seed {seed}: twin says {truth}, checker says {verdict:?}\n{}", spelled(&history)),
        }
        let witness = witness::check(&history, &positions);
        if !faulty {
            assert_eq!(witness, Ok(()), "seed {seed}\n{}", spelled(&history));
        }
        assert!(truth || witness.is_err(), "seed {seed}: the witness passes\n{}", spelled(&history));
    }
    eprintln!("{legal} linearizable, {illegal} not");
    assert!(legal > rounds / 4 && illegal > rounds / 8, "{legal} linearizable, {illegal} not: too one-sided");
}
