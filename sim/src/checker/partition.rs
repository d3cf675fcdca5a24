//! A history, key by key.

use crate::history::{Answer, End, History, Moment, OperationId, Request, Text};

use super::model::NEVER;

/// An operation that was done, or may have been.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) id: OperationId,
    pub(crate) request: Request<Text>,
    /// `None` if it may have been done or not; then `ret` is [`NEVER`].
    pub(crate) answer: Option<Answer<Text>>,
    pub(crate) call: Moment,
    pub(crate) ret: Moment,
}

/// The operations on each key, in the order they were called; the keys in the order they first appear. Operations that
/// were not done are left out.
pub(crate) fn by_key(history: &History) -> Vec<Vec<Entry>> {
    const NONE: u32 = u32::MAX;
    let mut partition_of = vec![NONE; history.texts()];
    let mut sizes: Vec<usize> = Vec::new();
    for operation in history.operations() {
        let partition = &mut partition_of[operation.request.key().index()];
        if *partition == NONE {
            *partition = sizes.len() as u32;
            sizes.push(0);
        }
        sizes[*partition as usize] += 1;
    }
    let mut partitions: Vec<Vec<Entry>> = sizes.into_iter().map(Vec::with_capacity).collect();
    for (at, operation) in history.operations().iter().enumerate() {
        let (answer, ret) = match operation.end {
            End::Ok { at, answer } => (Some(answer), at),
            End::Info { .. } => (None, NEVER),
            End::Fail { .. } => continue,
        };
        let (id, request, call) = (OperationId(at as u32), operation.request, operation.call);
        let partition = partition_of[request.key().index()];
        partitions[partition as usize].push(Entry { id, request, answer, call, ret });
    }
    partitions.retain(|partition| !partition.is_empty());
    partitions
}

/// The key of a partition.
pub(crate) fn key(history: &History, partition: &[Entry]) -> String {
    partition.first().map_or("", |entry| history.text(entry.request.key())).to_owned()
}
