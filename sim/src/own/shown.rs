//! The user's machine as the driver has it: in reach of reads, and of those who compare what nodes do.
//!
//! A command carries the number of its operation in front, so that its place in the log can be told from that of any
//! other with the same bytes. The machine itself never sees it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::core::{Entry, Index, Payload, SnapshotMeta};
use raft::state_machine::{Applied, CheckpointJob, SnapshotJob, StateMachine, StateMachineError};

use super::Model;
use crate::invariants::Invariants;
use crate::report::Failure;

/// A command with its operation's number in front.
pub(super) fn numbered(number: u64, command: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + command.len());
    bytes.put_u64_le(number);
    bytes.put_slice(command);
    bytes.freeze()
}

/// The number of an operation, what was answered to it, and which node said so first.
type Answer<M> = (u64, <M as crate::checker::sequential::Sequential>::Output, u8);

/// What every node must have answered to each entry of the log that came from a client.
pub(super) struct Answers<M: Model> {
    pub(super) by_index: Mutex<BTreeMap<Index, Answer<M>>>,
    invariants: Invariants,
}

impl<M: Model> Answers<M> {
    pub(super) fn new(invariants: Invariants) -> Self {
        Self { by_index: Mutex::default(), invariants }
    }

    fn note(&self, node: u8, index: Index, number: u64, output: &M::Output) {
        let mut answers = self.by_index.lock().unwrap_or_else(PoisonError::into_inner);
        let (first_number, first_output, first) =
            answers.entry(index).or_insert_with(|| (number, output.clone(), node));
        if *first_number != number || first_output != output {
            let text = format!(
                "at {index} n{first} answered {first_output:?} to #{first_number}, and n{node} {output:?} to #{number}"
            );
            self.invariants.fail(Failure::new("state machine safety", text));
        }
    }
}

/// A machine that others can look at.
pub(super) struct Shown<M: Model> {
    pub(super) node: u8,
    pub(super) machine: Arc<Mutex<M::Machine>>,
    pub(super) answers: Arc<Answers<M>>,
}

impl<M: Model> Shown<M> {
    fn lock(&self) -> MutexGuard<'_, M::Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model> StateMachine for Shown<M> {
    type Response = M::Output;

    fn applied(&self) -> Applied {
        self.lock().applied()
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Vec<M::Output>, StateMachineError> {
        let mut numbers = Vec::new();
        let bare = |entry: &Entry| {
            let mut entry = entry.clone();
            let number = match &mut entry.payload {
                Payload::Command(command) => Some(command.get_u64_le()),
                _ => None,
            };
            numbers.push(number);
            entry
        };
        let entries: Vec<Entry> = entries.iter().map(bare).collect();
        let outputs = self.lock().apply(&entries)?;
        for ((entry, number), output) in entries.iter().zip(numbers).zip(&outputs) {
            if let Some(number) = number {
                self.answers.note(self.node, entry.index, number, output);
            }
        }
        Ok(outputs)
    }

    fn unsaved_bytes(&self) -> u64 {
        self.lock().unsaved_bytes()
    }

    fn begin_checkpoint(&mut self) -> CheckpointJob {
        self.lock().begin_checkpoint()
    }

    fn begin_snapshot(&mut self) -> SnapshotJob {
        self.lock().begin_snapshot()
    }

    fn install(
        &mut self,
        meta: &SnapshotMeta,
        state: &mut dyn std::io::Read,
    ) -> Result<(), StateMachineError> {
        self.lock().install(meta, state)
    }
}
