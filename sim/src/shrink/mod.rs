//! Shrinking: a smaller plan that breaks the same rule.
//!
//! A plan is data, so less of it can be tried: fewer faults, clients, operations and machines, a shorter time, simpler
//! options. Each try is a whole world in a process of its own. It counts if it breaks *the same* rule (for an
//! assertion: at the same place); whatever else it breaks is another story.
//!
//! Faults, clients and operations are taken out by delta debugging (Zeller and Hildebrandt, 2002): large chunks first,
//! then smaller ones, down to single ones. Operations are pinned to the times at which they began in the failing run, so
//! that taking one out does not move the others; each link, lane and node draws from a stream of its own for the same
//! reason ([`random`](crate::random)). What cannot be kept is the order in which the executor takes up tasks that
//! are ready at one moment. So a large chunk that seems to be needed is tried with a few other seeds too.
//!
//! The result does not depend on how many processes run at a time: of several tries that count, the first in the order
//! of their numbers is taken, and none before it counted.

mod passes;
mod simpler;
mod trial;

use std::collections::BTreeSet;
use std::ops::Range;

pub use passes::shrink;
pub use trial::{Found, Laboratory, Signature};

use crate::plan::{Operation, Plan};

/// How large a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// Faults.
    pub faults: usize,
    /// Operations.
    pub operations: usize,
    /// Machines, spare ones included.
    pub machines: u8,
    /// Clients that do anything.
    pub clients: usize,
    /// How long the chaos lasts.
    pub chaos_ms: u64,
}

impl Size {
    /// That of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        Self {
            faults: plan.faults.len(),
            operations: plan.operations.len(),
            machines: plan.scenario.machines(),
            clients: plan.operations.iter().map(|operation| operation.client).collect::<BTreeSet<_>>().len(),
            chaos_ms: plan.scenario.chaos_ns / 1_000_000,
        }
    }

    /// Faults and operations together.
    #[must_use]
    pub const fn steps(&self) -> usize {
        self.faults + self.operations
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { faults, operations, machines, clients, chaos_ms } = self;
        write!(
            f,
            "{faults} faults, {operations} operations of {clients} clients, {machines} machines, {chaos_ms} ms of chaos"
        )
    }
}

/// Something that a plan has a list of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its faults.
    Faults,
    /// Its clients, each with all its operations.
    Clients,
    /// Its operations.
    Operations,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Faults => "faults",
            Self::Clients => "clients",
            Self::Operations => "operations",
        }
    }

    fn count(self, plan: &Plan) -> usize {
        match self {
            Self::Faults => plan.faults.len(),
            Self::Clients => clients(plan).len(),
            Self::Operations => plan.operations.len(),
        }
    }

    /// The plan without some of them.
    fn without(self, plan: &Plan, gone: Range<usize>) -> Plan {
        let mut smaller = plan.clone();
        match self {
            Self::Faults => drop(smaller.faults.drain(gone)),
            Self::Clients => {
                let gone: BTreeSet<u16> =
                    clients(plan).into_iter().skip(gone.start).take(gone.len()).collect();
                smaller.operations.retain(|operation| !gone.contains(&operation.client));
            }
            Self::Operations => smaller.operations = without_operations(&plan.operations, &gone),
        }
        smaller
    }
}

fn clients(plan: &Plan) -> BTreeSet<u16> {
    plan.operations.iter().map(|operation| operation.client).collect()
}

/// Whoever waits before an operation that is taken out waits before the next one instead.
fn without_operations(operations: &[Operation], gone: &Range<usize>) -> Vec<Operation> {
    let mut owed = std::collections::BTreeMap::<u16, u64>::new();
    let mut left = Vec::with_capacity(operations.len());
    for (at, operation) in operations.iter().enumerate() {
        if gone.contains(&at) {
            *owed.entry(operation.client).or_default() += operation.pause_ns;
            continue;
        }
        let mut operation = operation.clone();
        operation.pause_ns += owed.remove(&operation.client).unwrap_or(0);
        left.push(operation);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Fixed;

    #[test]
    fn operations_that_stay_keep_their_numbers_and_wait_for_those_that_went() {
        let plan = Plan::draw(3, Fixed::default());
        let smaller = Part::Operations.without(&plan, 0..10);
        assert_eq!(smaller.operations.len(), plan.operations.len() - 10);
        let waits = |plan: &Plan, until: u32| -> u64 {
            let client = plan.operations.iter().find(|operation| operation.number == until).unwrap().client;
            let of_client = plan.operations.iter().filter(|operation| operation.client == client);
            of_client.filter(|operation| operation.number <= until).map(|operation| operation.pause_ns).sum()
        };
        for number in 11..31 {
            assert_eq!(waits(&smaller, number), waits(&plan, number), "#{number}");
        }
    }

    #[test]
    fn a_client_goes_with_all_its_operations_and_a_fault_leaves_the_numbers_of_others() {
        let plan = Plan::draw(2, Fixed::default());
        let smaller = Part::Clients.without(&plan, 0..1);
        assert!(smaller.operations.iter().all(|operation| operation.client != 1));
        assert_eq!(Part::Clients.count(&smaller), Part::Clients.count(&plan) - 1);
        let smaller = Part::Faults.without(&plan, 1..2);
        let numbers: Vec<u32> = smaller.faults.iter().map(|fault| fault.number).take(2).collect();
        assert_eq!(numbers, [0, 2]);
    }
}
