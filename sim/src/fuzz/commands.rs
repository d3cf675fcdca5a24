//! Commands: as the bytes of an entry, and carried out by the state machine and by a twin that is as plain as it can be.

use std::sync::Arc;

use kv::command::{Command, CommandBody};
use kv::limits::Limits;
use kv::state_machine::{KvOptions, KvStateMachine};
use kv::store::{MemoryPlatter, StoreKind};
use raft::core::{Entry, Index, Payload, Term};
use raft::state_machine::StateMachine;

use super::twin::Twin;
use super::world::LIMITS;
use crate::disk::SimDisk;

const COMMANDS_MAX: usize = 64;

pub(super) fn commands(bytes: &[u8]) -> bool {
    let decoded = Command::decode(bytes);
    if let Ok(command) = &decoded {
        assert_eq!(&Command::decode(&command.encode()).expect("what was written"), command);
    }
    let done = carry_out(&super::list(bytes, COMMANDS_MAX));
    decoded.is_ok() || done > 0
}

/// The state on a disk in memory.
pub(super) fn open(disk: &SimDisk) -> KvStateMachine {
    let store = StoreKind::Memory(MemoryPlatter::default());
    let options = KvOptions { dir: "/n1/store".into(), store, sessions: LIMITS };
    KvStateMachine::open(Arc::new(disk.clone()), options).expect("a good disk").0
}

/// Applies the commands that are within the limits, and compares each answer. How many that were.
fn carry_out(commands: &[Command]) -> u64 {
    let allowed = |command: &&Command| match &command.body {
        CommandBody::Operate { operation, .. } => Limits::default().check(operation).is_ok(),
        CommandBody::OpenSession { .. }
        | CommandBody::KeepAlive { .. }
        | CommandBody::CloseSession { .. } => true,
    };
    let mut machine = open(&SimDisk::new(1));
    let mut twin = Twin::default();
    let mut index = 0;
    for command in commands.iter().filter(allowed) {
        index += 1;
        let payload = Payload::Command(command.encode());
        let entry = Entry { term: Term(1), index: Index(index), payload };
        let answers = machine.apply(&[entry]).expect("a good disk");
        assert_eq!(answers, [twin.apply(index, command)], "entry {index}: {command:?}");
    }
    index
}
