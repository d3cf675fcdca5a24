//! The same semantics once more, as plainly as they can be written: every version of every key in one list, every
//! session in one map, everything recomputed from scratch. No layers, no rows, no limits of memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kv::command::{
    Command, CommandBody, Compare, CompareTarget, DeleteRange, KeyRange, KeyValue, Operation,
    OperationResult, Put, Range, RangeResult, Refusal, Relation, Response, Revision, SessionId, SessionStamp,
    Txn, TxnOperation, TxnResult,
};

use super::world::LIMITS;

/// The value of a key from a revision on; `None` is a deletion.
type Change = (Bytes, Revision, Option<Bytes>);

#[derive(Clone)]
struct TwinSession {
    ttl_ms: u64,
    active_ms: u64,
    active_index: u64,
    acked_below: u64,
    responses: BTreeMap<u64, Response>,
    done: BTreeSet<u64>,
}

#[derive(Clone, Default)]
pub(crate) struct Twin {
    changes: Vec<Change>,
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    now_ms: u64,
    sessions: BTreeMap<u64, TwinSession>,
}

fn contains(range: &KeyRange, key: &Bytes) -> bool {
    match range {
        KeyRange::Key(k) => k == key,
        KeyRange::Prefix(prefix) => key.starts_with(prefix),
        KeyRange::HalfOpen { start, end } => start <= key && key < end,
        KeyRange::From(start) => start <= key,
    }
}

/// The pair of a key at a revision, counted out from all its changes.
fn look(changes: &[Change], key: &Bytes, revision: Revision) -> Option<KeyValue> {
    let mut found: Option<KeyValue> = None;
    for (_, at, value) in changes.iter().filter(|(k, at, _)| k == key && *at <= revision) {
        found = value.as_ref().map(|value| match &found {
            Some(before) => KeyValue {
                value: value.clone(),
                mod_revision: *at,
                version: before.version + 1,
                ..before.clone()
            },
            None => KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: *at,
                mod_revision: *at,
                version: 1,
            },
        });
    }
    found
}

fn pairs(changes: &[Change], range: &KeyRange, revision: Revision) -> Vec<KeyValue> {
    let keys: BTreeSet<&Bytes> =
        changes.iter().map(|(key, _, _)| key).filter(|key| contains(range, key)).collect();
    keys.into_iter().filter_map(|key| look(changes, key, revision)).collect()
}

impl Twin {
    pub(crate) fn apply(&mut self, index: u64, command: &Command) -> Response {
        self.now_ms = self.now_ms.max(command.cluster_time_ms);
        let now = self.now_ms;
        self.sessions.retain(|_, session| now - session.active_ms <= session.ttl_ms);
        match &command.body {
            CommandBody::OpenSession { ttl_ms } => {
                if self.sessions.len() == LIMITS.sessions_max {
                    let oldest =
                        *self.sessions.iter().min_by_key(|(_, session)| session.active_index).unwrap().0;
                    self.sessions.remove(&oldest);
                }
                let session = TwinSession {
                    ttl_ms: *ttl_ms,
                    active_ms: now,
                    active_index: index,
                    acked_below: 0,
                    responses: BTreeMap::new(),
                    done: BTreeSet::new(),
                };
                self.sessions.insert(index, session);
                Response::SessionOpened { session: SessionId(index) }
            }
            CommandBody::KeepAlive { session } => match self.touch(*session, index) {
                Some(_) => Response::Session,
                None => Response::Refused(Refusal::SessionExpired { session: *session }),
            },
            CommandBody::CloseSession { session } => match self.sessions.remove(&session.0) {
                Some(_) => Response::Session,
                None => Response::Refused(Refusal::SessionExpired { session: *session }),
            },
            CommandBody::Operate { stamp: None, operation } => self.operate(operation),
            CommandBody::Operate { stamp: Some(stamp), operation } => self.stamped(index, stamp, operation),
        }
    }

    fn touch(&mut self, id: SessionId, index: u64) -> Option<&mut TwinSession> {
        let now = self.now_ms;
        let session = self.sessions.get_mut(&id.0)?;
        session.active_ms = now;
        session.active_index = index;
        Some(session)
    }

    fn stamped(&mut self, index: u64, stamp: &SessionStamp, operation: &Operation) -> Response {
        let Some(session) = self.touch(stamp.session, index) else {
            return Response::Refused(Refusal::SessionExpired { session: stamp.session });
        };
        session.acked_below = session.acked_below.max(stamp.acked_below);
        let acked = session.acked_below;
        session.responses.retain(|request, _| *request >= acked);
        session.done.retain(|request| *request >= acked);
        if let Some(response) = session.responses.get(&stamp.request) {
            return response.clone();
        }
        if stamp.request < acked || session.done.contains(&stamp.request) {
            return Response::Refused(Refusal::ResponseForgotten { request: stamp.request });
        }
        let kept = session.responses.len() + session.done.len();
        let bytes: u64 = session.responses.values().map(size).sum::<u64>() + 16 * session.done.len() as u64;
        if kept >= LIMITS.responses_max || bytes >= LIMITS.response_bytes_max {
            return Response::Refused(Refusal::SessionFull { kept: kept as u64 });
        }
        let response = self.operate(operation);
        let session = self.sessions.get_mut(&stamp.session.0).unwrap();
        if size(&response) > LIMITS.response_bytes_max {
            session.done.insert(stamp.request);
        } else {
            session.responses.insert(stamp.request, response.clone());
        }
        response
    }

    fn operate(&mut self, operation: &Operation) -> Response {
        let mut changes = self.changes.clone();
        let answer = match operation {
            Operation::Put(put) => {
                self.put(&mut changes, put).map(|prev_kv| OperationResult::Put { prev_kv })
            }
            Operation::DeleteRange(delete) => self
                .delete(&mut changes, delete)
                .map(|(count, prev_kvs)| OperationResult::Deleted { count, prev_kvs }),
            Operation::Txn(txn) => self.txn(&mut changes, txn),
            Operation::Compact { revision } => {
                self.readable(*revision, self.revision).map(|_| OperationResult::Compacted)
            }
        };
        match answer {
            Ok(result) => {
                if changes.len() > self.changes.len() {
                    self.revision += 1;
                }
                self.changes = changes;
                if let Operation::Compact { revision } = operation {
                    self.compacted = *revision;
                }
                Response::Done { revision: self.revision, result }
            }
            Err(refusal) => Response::Refused(refusal),
        }
    }

    fn put(&self, changes: &mut Vec<Change>, put: &Put) -> Result<Option<KeyValue>, Refusal> {
        let next = self.revision + 1;
        if changes.iter().any(|(key, at, _)| *key == put.key && *at == next) {
            return Err(Refusal::DuplicateKey { key: put.key.clone() });
        }
        let before = look(changes, &put.key, next);
        changes.push((put.key.clone(), next, Some(put.value.clone())));
        Ok(before.filter(|_| put.prev_kv))
    }

    fn delete(
        &self,
        changes: &mut Vec<Change>,
        delete: &DeleteRange,
    ) -> Result<(u64, Vec<KeyValue>), Refusal> {
        let next = self.revision + 1;
        let found = pairs(changes, &delete.range, next);
        for pair in &found {
            if pair.mod_revision == next {
                return Err(Refusal::DuplicateKey { key: pair.key.clone() });
            }
            changes.push((pair.key.clone(), next, None));
        }
        Ok((found.len() as u64, if delete.prev_kv { found } else { vec![] }))
    }

    fn readable(&self, requested: Revision, newest: Revision) -> Result<Revision, Refusal> {
        if requested > newest {
            Err(Refusal::RevisionInFuture { requested, newest })
        } else if requested < self.compacted {
            Err(Refusal::RevisionCompacted { requested, oldest: self.compacted })
        } else {
            Ok(requested)
        }
    }

    fn range_of(&self, changes: &[Change], range: &Range, now: Revision) -> Result<RangeResult, Refusal> {
        let revision = range.revision.map_or(Ok(now), |asked| self.readable(asked, now))?;
        let mut kvs = pairs(changes, &range.range, revision);
        let count = kvs.len() as u64;
        if range.limit > 0 {
            kvs.truncate(range.limit as usize);
        }
        let more = !range.count_only && (kvs.len() as u64) < count;
        if range.count_only {
            kvs.clear();
        }
        if range.keys_only {
            kvs.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        Ok(RangeResult { revision, kvs, more, count })
    }

    pub(crate) fn range(&self, range: &Range) -> Result<RangeResult, Refusal> {
        self.range_of(&self.changes, range, self.revision)
    }

    fn txn(&self, changes: &mut Vec<Change>, txn: &Txn) -> Result<OperationResult, Refusal> {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let before = changes.len();
        let mut results = vec![];
        for step in if succeeded { &txn.success } else { &txn.failure } {
            results.push(match step {
                TxnOperation::Put(put) => TxnResult::Put { prev_kv: self.put(changes, put)? },
                TxnOperation::DeleteRange(delete) => {
                    let (count, prev_kvs) = self.delete(changes, delete)?;
                    TxnResult::Deleted { count, prev_kvs }
                }
                TxnOperation::Range(range) => {
                    let now = self.revision + u64::from(changes.len() > before);
                    TxnResult::Range(self.range_of(changes, range, now)?)
                }
            });
        }
        Ok(OperationResult::Txn { succeeded, results })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let pair = look(&self.changes, &compare.key, self.revision);
        let related = |order: std::cmp::Ordering| match compare.relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Greater => order.is_gt(),
            Relation::Less => order.is_lt(),
        };
        match (&compare.target, pair) {
            (CompareTarget::Value(target), Some(pair)) => related(pair.value.cmp(target)),
            (CompareTarget::Value(_), None) => compare.relation == Relation::NotEqual,
            (CompareTarget::Version(target), pair) => related(pair.map_or(0, |p| p.version).cmp(target)),
            (CompareTarget::CreateRevision(target), pair) => {
                related(pair.map_or(0, |p| p.create_revision).cmp(target))
            }
            (CompareTarget::ModRevision(target), pair) => {
                related(pair.map_or(0, |p| p.mod_revision).cmp(target))
            }
        }
    }
}

/// What a response counts for.
fn size(response: &Response) -> u64 {
    let of =
        |pairs: &[KeyValue]| pairs.iter().map(|p| (32 + p.key.len() + p.value.len()) as u64).sum::<u64>();
    let Response::Done { result, .. } = response else { return 16 };
    16 + match result {
        OperationResult::Put { prev_kv } => of(prev_kv.as_slice()),
        OperationResult::Deleted { prev_kvs, .. } => of(prev_kvs),
        OperationResult::Compacted => 0,
        OperationResult::Txn { results, .. } => results
            .iter()
            .map(|result| {
                16 + match result {
                    TxnResult::Put { prev_kv } => of(prev_kv.as_slice()),
                    TxnResult::Deleted { prev_kvs, .. } => of(prev_kvs),
                    TxnResult::Range(found) => of(&found.kvs),
                }
            })
            .sum::<u64>(),
    }
}
