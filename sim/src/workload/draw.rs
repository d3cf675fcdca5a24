//! Draws the operations of a plan from the stream `workload` of its seed.

use crate::plan::{Operation, OperationKind};
use crate::random::Random;
use crate::scenario::{OperationMix, Scenario};

/// No world has more operations than this: the checker's time grows with them.
const OPERATIONS_MAX: u64 = 1_200;

/// The operations of a world. Each client's stand in its own order.
#[must_use]
pub fn operations(seed: u64, scenario: &Scenario) -> Vec<Operation> {
    let mut random = Random::stream(seed, "workload");
    let workload = &scenario.workload;
    // Enough to last through the chaos if nothing ever has to wait; what is left when it ends is not begun.
    let each = scenario.chaos_ns / workload.pause_ns.max(1) + 1;
    let total = (each * u64::from(workload.clients)).min(OPERATIONS_MAX);
    // If there are too many for that, the pauses grow.
    let pause_ns = scenario.chaos_ns * u64::from(workload.clients) / total;
    (0..total)
        .map(|number| Operation {
            number: number as u32 + 1,
            client: (number % u64::from(workload.clients)) as u16 + 1,
            pause_ns: random.exponential(pause_ns).min(4 * pause_ns),
            at_ns: None,
            kind: draw_kind(&mut random, &workload.mix, workload.keys, scenario.machines()),
        })
        .collect()
}

fn draw_kind(random: &mut Random, mix: &OperationMix, keys: u16, machines: u8) -> OperationKind {
    let OperationMix { get, put, delete, cas, append, range, txn, compact, get_at, get_stale } = *mix;
    let weights = [get, put, delete, cas, append, range, txn, compact, get_at, get_stale];
    let mut left = random.below(weights.iter().map(|weight| u64::from(*weight)).sum());
    let mut chosen = 0;
    for (kind, weight) in weights.into_iter().enumerate() {
        if left < u64::from(weight) {
            chosen = kind;
            break;
        }
        left -= u64::from(weight);
    }
    let key = random.below(u64::from(keys)) as u16;
    let other = random.below(u64::from(keys)) as u16;
    let node = random.between(1, u64::from(machines)) as u8;
    match chosen {
        0 => OperationKind::Get { key },
        1 => OperationKind::Put { key },
        2 => OperationKind::Delete { key },
        3 => OperationKind::Cas { key },
        4 => OperationKind::Append { key },
        5 => OperationKind::Range,
        6 => OperationKind::Txn { put: key, get: other },
        7 => OperationKind::Compact { keep: u64::from(key) * 5 },
        8 => OperationKind::GetAt { key, node },
        _ => OperationKind::GetStale { key, node },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Fixed;

    #[test]
    fn operations_have_their_own_numbers_and_use_the_drawn_kinds_only() {
        for seed in 0..100 {
            let mut scenario = Scenario::draw(seed, Fixed::default());
            scenario.workload.mix = OperationMix { put: 3, delete: 1, ..OperationMix::default() };
            let operations = operations(seed, &scenario);
            assert!(operations.len() as u64 <= OPERATIONS_MAX);
            let put = |o: &&Operation| matches!(o.kind, OperationKind::Put { .. });
            let deletes =
                operations.iter().filter(|o| matches!(o.kind, OperationKind::Delete { .. })).count();
            assert_eq!(operations.iter().filter(put).count() + deletes, operations.len());
            assert!(operations.iter().enumerate().all(|(i, o)| o.number as usize == i + 1));
            assert!(operations.iter().all(|o| (1..=scenario.workload.clients).contains(&o.client)));
        }
    }
}
