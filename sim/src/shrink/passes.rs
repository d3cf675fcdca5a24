//! The passes of shrinking, one after the other, until none of them finds anything more.

use std::collections::BTreeSet;

use super::simpler;
use super::trial::{Found, Laboratory, Signature};
use super::{Part, Size};
use crate::plan::{Fault, Plan};

const MILLISECOND: u64 = 1_000_000;
/// How often all passes are gone through at most.
const ROUNDS_MAX: u32 = 6;
/// What is tried with other seeds too is tried with so many: chunks of at least a quarter of what is left..
const SEEDS: u64 = 2;
/// .. and everything, once so little is left.
const FEW: usize = 48;
/// How often the length of one fault is halved.
const HALVINGS_MAX: u32 = 8;

/// The smallest plan found so far, and how it fails.
struct Shrinking<'a> {
    laboratory: &'a Laboratory,
    signature: Signature,
    plan: Plan,
    found: Found,
    say: &'a mut dyn FnMut(&str),
}

/// Makes `plan`, which fails as `found` says, smaller. `say` is told how it goes.
pub fn shrink(laboratory: &Laboratory, plan: Plan, found: Found, say: &mut dyn FnMut(&str)) -> (Plan, Found) {
    let signature = Signature::of(&found.failure);
    let mut shrinking = Shrinking { laboratory, signature, plan, found, say };
    for _ in 0..ROUNDS_MAX {
        let before = shrinking.plan.clone();
        shrinking.round();
        if shrinking.plan == before || laboratory.is_spent() {
            break;
        }
    }
    (shrinking.plan, shrinking.found)
}

impl Shrinking<'_> {
    fn round(&mut self) {
        self.leave_out_what_never_began();
        self.pin();
        self.cut_the_end();
        for part in [Part::Clients, Part::Faults, Part::Operations] {
            self.reduce(part);
        }
        self.fewer_machines();
        self.close_gaps();
        self.cut_the_end();
        self.simpler_options();
        self.simpler_operations();
        self.shorter_faults();
    }

    /// Takes the first of these plans that still fails; tells which.
    fn try_all(&mut self, pass: &str, candidates: Vec<Plan>, seeds: u64) -> Option<usize> {
        if self.laboratory.is_spent() {
            return None;
        }
        let candidates: Vec<Plan> =
            candidates.into_iter().filter(|candidate| *candidate != self.plan).collect();
        if candidates.is_empty() {
            return None;
        }
        let (at, plan, found) = self.laboratory.first(candidates, &self.signature, seeds)?;
        (self.plan, self.found) = (plan, found);
        (self.say)(&format!("{pass}: {} ({} worlds run)", Size::of(&self.plan), self.laboratory.tries()));
        Some(at)
    }

    fn try_one(&mut self, pass: &str, candidate: Plan) -> bool {
        self.try_all(pass, vec![candidate], 0).is_some()
    }

    fn leave_out_what_never_began(&mut self) {
        let mut smaller = self.plan.clone();
        let begun: BTreeSet<u32> = self.found.schedule.operations.iter().map(|(number, _)| *number).collect();
        smaller.operations.retain(|operation| begun.contains(&operation.number));
        let operations_only = smaller.clone();
        smaller.faults.retain(|fault| self.found.schedule.faults.contains(&fault.number));
        self.try_all("what never began", vec![smaller, operations_only], 0);
    }

    /// Operations begin when they began, whatever becomes of those before them.
    fn pin(&mut self) {
        let Some(chaos_ns) = self.found.schedule.chaos_ns else { return };
        let mut pinned = self.plan.clone();
        for operation in pinned.operations.iter_mut().filter(|operation| operation.at_ns.is_none()) {
            let mut begun = self.found.schedule.operations.iter();
            let begun = begun.find(|(number, _)| *number == operation.number);
            (operation.at_ns, operation.pause_ns) = match begun {
                Some((_, at_ns)) => (Some(at_ns.saturating_sub(chaos_ns)), 0),
                None => continue,
            };
        }
        self.try_one("operations at fixed times", pinned);
    }

    /// The chaos ends when the rule is broken, or as early as it is still broken after it.
    fn cut_the_end(&mut self) {
        let (at_ns, schedule) = (self.found.at_ns, &self.found.schedule);
        if let (Some(at_ns), Some(chaos_ns), None) = (at_ns, schedule.chaos_ns, schedule.heal_ns) {
            let needed = at_ns.saturating_sub(chaos_ns) + MILLISECOND;
            let candidate = self.ending_at(needed);
            self.try_one("shorter", candidate);
            return;
        }
        let mut step = self.plan.scenario.chaos_ns / 2;
        while step > 5 * MILLISECOND {
            let candidate = self.ending_at(self.plan.scenario.chaos_ns.saturating_sub(step));
            if !self.try_one("shorter", candidate) {
                step /= 2;
            }
            step = step.min(self.plan.scenario.chaos_ns / 2);
        }
    }

    fn ending_at(&self, chaos_ns: u64) -> Plan {
        let mut shorter = self.plan.clone();
        shorter.scenario.chaos_ns = chaos_ns.min(shorter.scenario.chaos_ns);
        let chaos_ns = shorter.scenario.chaos_ns;
        shorter.faults.retain(|fault| fault.at_ns < chaos_ns);
        shorter.operations.retain(|operation| operation.at_ns.is_none_or(|at_ns| at_ns < chaos_ns));
        shorter
    }

    /// Delta debugging.
    fn reduce(&mut self, part: Part) {
        let mut size = part.count(&self.plan);
        while size > 0 && !self.laboratory.is_spent() {
            let (mut begin, mut removed) = (0, false);
            while begin < part.count(&self.plan) {
                let count = part.count(&self.plan);
                let begins: Vec<usize> = (begin..count).step_by(size).collect();
                let chunks = begins.iter().map(|begin| *begin..(*begin + size).min(count));
                let candidates = chunks.map(|chunk| part.without(&self.plan, chunk)).collect();
                let seeds = if size * 4 >= count || count <= FEW { SEEDS } else { 0 };
                let Some(at) = self.try_all(part.name(), candidates, seeds) else { break };
                (begin, removed) = (begins[at], true);
            }
            // Single ones are gone through again: what went may have been all that another was needed for.
            size = if size == 1 && removed { 1 } else { size / 2 };
        }
    }

    fn fewer_machines(&mut self) {
        let (nodes, spares) = (self.plan.scenario.nodes, self.plan.scenario.spares);
        let fewer_nodes = (1..nodes).filter(|fewer| *fewer == 3 || *fewer >= nodes.saturating_sub(2)).rev();
        let mut sizes: Vec<(u8, u8)> = fewer_nodes.map(|fewer| (fewer, 0)).collect();
        sizes.extend((0..spares).map(|fewer| (nodes, fewer)));
        sizes.sort_by_key(|(nodes, spares)| nodes + spares);
        let candidates =
            sizes.iter().map(|(nodes, spares)| simpler::with_machines(&self.plan, *nodes, *spares));
        self.try_all("machines", candidates.collect(), 1);
    }

    /// Times in which nothing begins become shorter.
    fn close_gaps(&mut self) {
        let mut tried = BTreeSet::new();
        loop {
            let gap = simpler::gaps(&self.plan).into_iter().find(|gap| !tried.contains(&gap.ends_at_ns));
            let Some(gap) = gap else { return };
            let candidates = [gap.length_ns, gap.length_ns / 2].map(|by_ns| {
                simpler::with_gap_closed(&self.plan, gap.ends_at_ns, by_ns.saturating_sub(2 * MILLISECOND))
            });
            if self.try_all("closer together", candidates.into(), 0).is_none() {
                tried.insert(gap.ends_at_ns);
            }
            if self.laboratory.is_spent() {
                return;
            }
        }
    }

    /// Each option as plain as it can be.
    fn simpler_options(&mut self) {
        let options = simpler::OPTIONS;
        let mut from = 0;
        while from < options.len() {
            let changed = options[from..].iter().enumerate().filter_map(|(at, option)| {
                let mut candidate = self.plan.clone();
                option(&mut candidate);
                (candidate != self.plan).then_some((from + at, candidate))
            });
            let (places, candidates): (Vec<usize>, Vec<Plan>) = changed.unzip();
            let Some(at) = self.try_all("plainer options", candidates, 0) else { return };
            from = places[at] + 1;
        }
    }

    fn simpler_operations(&mut self) {
        for change in simpler::OPERATIONS {
            let mut all = self.plan.clone();
            all.operations.iter_mut().for_each(|operation| change(&mut operation.kind));
            if self.try_one("plainer operations", all) {
                continue;
            }
            let mut from = 0;
            while from < self.plan.operations.len() {
                let changed = (from..self.plan.operations.len()).filter_map(|at| {
                    let mut candidate = self.plan.clone();
                    change(&mut candidate.operations[at].kind);
                    (candidate != self.plan).then_some((at, candidate))
                });
                let (places, candidates): (Vec<usize>, Vec<Plan>) = changed.unzip();
                let Some(at) = self.try_all("plainer operations", candidates, 0) else { break };
                from = places[at] + 1;
            }
        }
    }

    fn shorter_faults(&mut self) {
        for at in 0..self.plan.faults.len() {
            for _ in 0..HALVINGS_MAX {
                let Some(shorter) = halved(&self.plan.faults[at].fault) else { break };
                let mut candidate = self.plan.clone();
                candidate.faults[at].fault = shorter;
                if !self.try_one("shorter faults", candidate) {
                    break;
                }
            }
        }
    }
}

/// The fault with all its times half as long; `None` if it has none that are longer than a few milliseconds.
fn halved(fault: &Fault) -> Option<Fault> {
    let mut value = serde_json::to_value(fault).ok()?;
    let fields = value.as_object_mut()?;
    let mut changed = false;
    for (name, value) in fields {
        let Some(ns) = value.as_u64().filter(|ns| name.ends_with("_ns") && *ns >= 4 * MILLISECOND) else {
            continue;
        };
        // Round numbers are easier to read.
        *value = (ns / 2 / MILLISECOND * MILLISECOND).into();
        changed = true;
    }
    changed.then(|| serde_json::from_value(value).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Target;

    #[test]
    fn all_times_of_a_fault_are_halved_and_nothing_else() {
        let fault = Fault::Crash {
            node: Target::Node(2),
            down_ns: 33 * MILLISECOND,
            silent: true,
            keeps_unsynced: false,
            again_after_calls: 12,
        };
        let Some(Fault::Crash {
            node: Target::Node(2), down_ns, silent: true, again_after_calls: 12, ..
        }) = halved(&fault)
        else {
            panic!("not halved")
        };
        assert_eq!(down_ns, 16 * MILLISECOND);
        assert_eq!(halved(&Fault::Pause { node: Target::Leader, for_ns: 3 * MILLISECOND }), None);
    }
}
