//! When what a plan asks for really began: a plan says how long clients wait, and faults may find nobody to befall.

use serde::{Deserialize, Serialize};

use super::event::Event;

/// What began, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// When the chaos phase began, in virtual time.
    pub chaos_ns: Option<u64>,
    /// When it ended.
    pub heal_ns: Option<u64>,
    /// The operations that were begun: number and virtual time.
    pub operations: Vec<(u32, u64)>,
    /// The numbers of the faults that were carried out.
    pub faults: Vec<u32>,
}

impl Schedule {
    pub(super) fn note(&mut self, at_ns: u64, event: &Event<'_>) {
        match event {
            Event::Phase { name: "chaos" } => self.chaos_ns = Some(at_ns),
            Event::Phase { name: "heal" } => self.heal_ns = Some(at_ns),
            Event::Invoke { number, .. } => self.operations.push((*number, at_ns)),
            Event::Fault { stage: "begin", number, .. } => self.faults.push(*number),
            _ => {}
        }
    }
}
