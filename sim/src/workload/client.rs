//! A client: does its operations one after the other, through the client library, and records what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kv::client::{Client, ClientError, ClientOptions, Consistency, Done, Session, TxnDone, Writer};
use kv::command::{
    Compare, CompareTarget, DeleteRange, KeyRange, Operation as KvOperation, OperationResult, Put, Range,
    RangeResult, Relation, Txn, TxnOperation, TxnResult,
};

use super::ledger::Ledger;
use super::record::{LookBack, Open, Outcome, Recorder};
use super::{key_name, suffix_of, value_of};
use crate::app::Stage;
use crate::app::kv::KvView;
use crate::clock::SimClock;
use crate::cluster::{Cluster, World};
use crate::history::{Answer, Request};
use crate::plan::{Operation, OperationKind};
use crate::random::derive;
use crate::trace::{Event, Source};

/// How often an append whose key was changed under it begins again.
const APPEND_ATTEMPTS_MAX: u32 = 8;

/// One client.
pub struct SimClient {
    world: World,
    cluster: Cluster,
    number: u16,
    client: Client,
    endpoints: Vec<String>,
    session: Option<Session>,
    /// Whether it works under a session.
    wants_session: bool,
    recorder: Recorder,
    ledger: Ledger,
    over: Arc<AtomicBool>,
    /// What this client last knew each key to hold.
    known: BTreeMap<u16, Option<String>>,
}

/// What an operation came to.
type Ended = (Outcome, String);

impl SimClient {
    /// A client that knows these endpoints. It begins no operation once `over` is set.
    #[must_use]
    pub fn new(
        stage: &Stage,
        number: u16,
        endpoints: Vec<String>,
        recorder: &Recorder,
        ledger: &Ledger,
        over: &Arc<AtomicBool>,
    ) -> Self {
        let world = &stage.world;
        Self {
            world: world.clone(),
            cluster: stage.cluster.clone(),
            number,
            client: connect(world, number, endpoints.clone()),
            endpoints,
            session: None,
            wants_session: number <= world.scenario.workload.with_session,
            recorder: recorder.clone(),
            ledger: ledger.clone(),
            over: Arc::clone(over),
            known: BTreeMap::new(),
        }
    }

    /// Waits for each answer as long as `timeout_ns` from now on, whatever the scenario says.
    pub fn set_patience(&mut self, timeout_ns: u64) {
        self.client = connect_as(&self.world, self.number, self.endpoints.clone(), false, timeout_ns);
    }

    /// Does `operations`, until they are done or the time is over.
    pub async fn run(mut self, operations: Vec<Operation>) {
        let begun_ns = self.world.time.now_ns();
        for operation in operations {
            match operation.at_ns {
                Some(at_ns) => self.world.time.sleep_until(begun_ns + at_ns).await,
                None => self.world.time.sleep(operation.pause_ns).await,
            }
            if self.wants_session && self.session.is_none() {
                self.open_session().await;
            }
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            self.perform(operation.number, &operation.kind).await;
        }
    }

    async fn open_session(&mut self) {
        let ttl = Duration::from_nanos(self.world.scenario.workload.session_ttl_ns);
        while self.session.is_none() && !self.over.load(Ordering::Relaxed) {
            self.session = self.client.session(ttl).await.ok();
            if let Some(session) = &self.session {
                let text = format!("session {} is open", session.id().0);
                self.world.record(Source::Client(self.number), &Event::Note { text: &text });
            }
        }
    }

    /// Does one operation; tells how it ended.
    pub async fn perform(&mut self, number: u32, kind: &OperationKind) -> Outcome {
        let source = Source::Client(self.number);
        self.world.record(source, &Event::Invoke { number, operation: kind });
        let (outcome, detail) = match *kind {
            OperationKind::Get { key } => self.get(number, key).await,
            OperationKind::Put { key } => self.put(number, key).await,
            OperationKind::Delete { key } => self.delete(number, key).await,
            OperationKind::Cas { key } => self.cas(number, key).await,
            OperationKind::Append { key } => self.append(number, key).await,
            OperationKind::Range => self.range(number).await,
            OperationKind::Txn { put, get } => self.txn(number, put, get).await,
            OperationKind::Compact { keep } => self.compact(keep).await,
            OperationKind::GetAt { key, node } => self.get_at(number, key, node).await,
            OperationKind::GetStale { key, node } => self.get_stale(number, key, node).await,
        };
        let name = match outcome {
            Outcome::Ok => "ok",
            Outcome::Fail => "fail",
            Outcome::Info => "info",
        };
        self.world.record(source, &Event::Return { number, outcome: name, detail: &detail });
        outcome
    }

    fn value(&self, number: u32) -> String {
        value_of(number, self.world.scenario.workload.value_bytes)
    }

    async fn operate(&mut self, operation: KvOperation) -> Result<Done, ClientError> {
        let Some(session) = &self.session else { return self.client.operate(operation).await };
        let result = session.operate(operation).await;
        // A session that is refused is of no more use.
        if let Err(ClientError::Refused(kv::command::Refusal::SessionExpired { .. })) = result {
            self.session = None;
        }
        result
    }

    async fn operate_txn(&mut self, txn: Txn) -> Result<TxnDone, ClientError> {
        let Done { revision, result } = self.operate(KvOperation::Txn(txn)).await?;
        match result {
            OperationResult::Txn { succeeded, results } => Ok(TxnDone { revision, succeeded, results }),
            other => panic!("a transaction was answered with {other:?}"),
        }
    }

    async fn read(&self, range: KeyRange) -> Result<RangeResult, ClientError> {
        let range = now(range);
        self.client.range(range, Consistency::Linearizable).await
    }

    /// Records that operations did not end well.
    fn ended_badly(&self, opens: &[Open], error: &ClientError) -> Ended {
        let unknown = matches!(error, ClientError::Unknown { .. });
        for open in opens {
            if unknown { self.recorder.info(*open) } else { self.recorder.fail(*open) }
        }
        (if unknown { Outcome::Info } else { Outcome::Fail }, error.to_string())
    }

    async fn get(&mut self, number: u32, key: u16) -> Ended {
        let name = key_name(key);
        let open = self.recorder.invoke(number, Request::Get { key: &name });
        match self.read(KeyRange::Key(Bytes::from(name))).await {
            Ok(result) => {
                let value = result.kvs.first().map(|pair| text(&pair.value));
                self.recorder.ok(open, Answer::Value(value.as_deref()), result.revision, false);
                let detail = format!("{} at revision {}", show(value.as_deref()), result.revision);
                self.known.insert(key, value);
                (Outcome::Ok, detail)
            }
            Err(error) => self.ended_badly(&[open], &error),
        }
    }

    /// Every other time past the node's port: asks its consensus up to where it must have applied, and reads its state.
    /// Otherwise as a client that spreads its reads and knows of this node only. In the history it is a read like any
    /// other.
    async fn get_at(&mut self, number: u32, key: u16, node: u8) -> Ended {
        let name = key_name(key);
        let open = self.recorder.invoke(number, Request::Get { key: &name });
        let timeout_ns = self.world.scenario.workload.timeout_ns;
        let read = self.read_at(number, node, KeyRange::Key(Bytes::from(name)));
        let read = tokio::select! {
            biased;
            read = read => read,
            () = self.world.time.sleep(timeout_ns) => Err("no answer in time".to_owned()),
        };
        match read {
            Ok(result) => {
                let value = result.kvs.first().map(|pair| text(&pair.value));
                self.recorder.ok(open, Answer::Value(value.as_deref()), result.revision, false);
                (Outcome::Ok, format!("{} at revision {}", show(value.as_deref()), result.revision))
            }
            Err(why) => {
                self.recorder.fail(open);
                (Outcome::Fail, why)
            }
        }
    }

    async fn read_at(&self, number: u32, node: u8, range: KeyRange) -> Result<RangeResult, String> {
        if number.is_multiple_of(2) {
            let client = connect_to(&self.world, self.number, node, true);
            let read = client.range(now(range), Consistency::Linearizable).await;
            return read.map_err(|error| error.to_string());
        }
        let view = self.cluster.view(node).ok_or_else(|| "the node does not run".to_owned())?;
        view.raft().read_index().await.map_err(|error| error.to_string())?;
        let Some(view) = view.as_any().downcast_ref::<KvView>() else { panic!("a node of another app") };
        view.reader.range(&now(range)).map_err(|error| error.to_string())
    }

    /// Not in the history of what is linearizable: it only has to be what the key held at the revision that it names.
    async fn get_stale(&mut self, number: u32, key: u16, node: u8) -> Ended {
        let name = key_name(key);
        let client = connect_to(&self.world, self.number, node, false);
        let range = now(KeyRange::Key(Bytes::from(name.clone())));
        match client.range(range, Consistency::Serializable).await {
            Ok(result) => {
                let value = result.kvs.first().map(|pair| text(&pair.value));
                let detail = format!("{} at revision {}", show(value.as_deref()), result.revision);
                self.recorder.looked_back(LookBack { number, key: name, value, revision: result.revision });
                (Outcome::Ok, detail)
            }
            Err(error) => (Outcome::Fail, error.to_string()),
        }
    }

    async fn put(&mut self, number: u32, key: u16) -> Ended {
        let (name, value) = (key_name(key), self.value(number));
        let open = self.recorder.invoke(number, Request::Put { key: &name, value: Some(&value) });
        match self.operate(KvOperation::Put(put(name, value.clone()))).await {
            Ok(done) => {
                self.recorder.ok(open, Answer::Done, done.revision, true);
                self.known.insert(key, Some(value));
                (Outcome::Ok, format!("revision {}", done.revision))
            }
            Err(error) => self.ended_badly(&[open], &error),
        }
    }

    async fn delete(&mut self, number: u32, key: u16) -> Ended {
        let name = key_name(key);
        let open = self.recorder.invoke(number, Request::Delete { key: &name });
        let range = KeyRange::Key(Bytes::from(name));
        match self.operate(KvOperation::DeleteRange(DeleteRange { range, prev_kv: false })).await {
            Ok(Done { revision, result: OperationResult::Deleted { count, .. } }) => {
                self.recorder.ok(open, Answer::Done, revision, count > 0);
                self.known.insert(key, None);
                (Outcome::Ok, format!("{count} removed, revision {revision}"))
            }
            Ok(other) => panic!("a removal was answered with {other:?}"),
            Err(error) => self.ended_badly(&[open], &error),
        }
    }

    async fn cas(&mut self, number: u32, key: u16) -> Ended {
        let (name, value) = (key_name(key), self.value(number));
        let expect = self.known.get(&key).cloned().flatten();
        let request = Request::Cas { key: &*name, expect: expect.as_deref(), value: Some(&*value) };
        let open = self.recorder.invoke(number, request);
        let target = match &expect {
            Some(expect) => CompareTarget::Value(Bytes::from(expect.clone())),
            None => CompareTarget::Version(0),
        };
        let txn = Txn {
            compares: vec![equal(&name, target)],
            success: vec![TxnOperation::Put(put(name, value.clone()))],
            failure: vec![],
        };
        match self.operate_txn(txn).await {
            Ok(TxnDone { revision, succeeded, .. }) => {
                self.recorder.ok(open, Answer::Succeeded(succeeded), revision, succeeded);
                if succeeded {
                    self.known.insert(key, Some(value));
                }
                let expected = show(expect.as_deref()).to_owned();
                (Outcome::Ok, format!("expected {expected}: {succeeded}, revision {revision}"))
            }
            Err(error) => self.ended_badly(&[open], &error),
        }
    }

    /// Reads, then writes if nothing has changed; again if something has.
    async fn append(&mut self, number: u32, key: u16) -> Ended {
        let (name, suffix) = (key_name(key), suffix_of(number));
        let open = self.recorder.invoke(number, Request::Append { key: &name, value: &suffix });
        for _ in 0..APPEND_ATTEMPTS_MAX {
            let before = match self.read(KeyRange::Key(Bytes::from(name.clone()))).await {
                Ok(result) => result.kvs.into_iter().next(),
                Err(error) => {
                    // Nothing was written yet, however the read ended.
                    self.recorder.fail(open);
                    return (Outcome::Fail, format!("reading first: {error}"));
                }
            };
            let (old, mod_revision) = before.map_or((String::new(), 0), |p| (text(&p.value), p.mod_revision));
            let value = old + &suffix;
            let txn = Txn {
                compares: vec![equal(&name, CompareTarget::ModRevision(mod_revision))],
                success: vec![TxnOperation::Put(put(name.clone(), value.clone()))],
                failure: vec![],
            };
            match self.operate_txn(txn).await {
                Ok(TxnDone { revision, succeeded: true, .. }) => {
                    self.recorder.ok(open, Answer::Done, revision, true);
                    self.known.insert(key, Some(value));
                    return (Outcome::Ok, format!("revision {revision}"));
                }
                Ok(_) => {}
                Err(error) => return self.ended_badly(&[open], &error),
            }
        }
        self.recorder.fail(open);
        (Outcome::Fail, "changed under it each time".to_owned())
    }

    async fn range(&mut self, number: u32) -> Ended {
        let keys = self.world.scenario.workload.keys;
        let names: Vec<String> = (0..keys).map(key_name).collect();
        let opens: Vec<Open> =
            names.iter().map(|key| self.recorder.invoke(number, Request::Get { key })).collect();
        match self.read(KeyRange::Prefix(Bytes::new())).await {
            Ok(result) => {
                for ((key, name), open) in (0..keys).zip(&names).zip(opens) {
                    let pair = result.kvs.iter().find(|pair| pair.key == name.as_bytes());
                    let value = pair.map(|pair| text(&pair.value));
                    self.recorder.ok(open, Answer::Value(value.as_deref()), result.revision, false);
                    self.known.insert(key, value);
                }
                (Outcome::Ok, format!("{} keys at revision {}", result.count, result.revision))
            }
            Err(error) => self.ended_badly(&opens, &error),
        }
    }

    async fn txn(&mut self, number: u32, put_key: u16, get_key: u16) -> Ended {
        let (put_name, get_name, value) = (key_name(put_key), key_name(get_key), self.value(number));
        let write = Request::Put { key: &*put_name, value: Some(&*value) };
        let mut opens = vec![self.recorder.invoke(number, write)];
        let mut steps = vec![TxnOperation::Put(put(put_name, value.clone()))];
        if put_key != get_key {
            opens.push(self.recorder.invoke(number, Request::Get { key: &get_name }));
            let range = KeyRange::Key(Bytes::from(get_name));
            steps.push(TxnOperation::Range(now(range)));
        }
        let txn = Txn { compares: vec![], success: steps, failure: vec![] };
        match self.operate_txn(txn).await {
            Ok(TxnDone { revision, results, .. }) => {
                self.recorder.ok(opens[0], Answer::Done, revision, true);
                self.known.insert(put_key, Some(value));
                if let [_, TxnResult::Range(found)] = &results[..] {
                    let value = found.kvs.first().map(|pair| text(&pair.value));
                    self.recorder.ok(opens[1], Answer::Value(value.as_deref()), revision, false);
                    self.known.insert(get_key, value);
                }
                (Outcome::Ok, format!("revision {revision}"))
            }
            Err(error) => self.ended_badly(&opens, &error),
        }
    }

    /// Compacts, but nothing that the ledger has not read. Not in the history: it changes no key.
    async fn compact(&mut self, keep: u64) -> Ended {
        let revision = self.ledger.read().saturating_sub(keep);
        match self.operate(KvOperation::Compact { revision }).await {
            Ok(_) => (Outcome::Ok, format!("up to revision {revision}")),
            Err(error) => {
                let unknown = matches!(error, ClientError::Unknown { .. });
                (if unknown { Outcome::Info } else { Outcome::Fail }, error.to_string())
            }
        }
    }
}

/// A client of the nodes at `endpoints`, on the machine of client `number`.
#[must_use]
pub fn connect(world: &World, number: u16, endpoints: Vec<String>) -> Client {
    connect_as(world, number, endpoints, false, world.scenario.workload.timeout_ns)
}

/// A client that knows of one node.
fn connect_to(world: &World, number: u16, node: u8, spread_reads: bool) -> Client {
    let endpoints = vec![format!("n{node}:client")];
    connect_as(world, number, endpoints, spread_reads, world.scenario.workload.timeout_ns)
}

fn connect_as(
    world: &World,
    number: u16,
    endpoints: Vec<String>,
    spread_reads: bool,
    timeout_ns: u64,
) -> Client {
    let host = usize::from(world.scenario.machines()) + usize::from(number) - 1;
    let clock = SimClock::new(world.time.clone(), 0, 0);
    let timeout = Duration::from_nanos(timeout_ns);
    let options = ClientOptions {
        request_timeout: timeout,
        attempt_timeout: timeout / world.scenario.workload.attempts.max(1),
        connect_timeout: timeout / (world.scenario.workload.attempts + 1),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(100),
        spread_reads,
        seed: derive(derive(world.seed, "client"), &number.to_string()),
        ..ClientOptions::default()
    };
    match Client::new(Arc::new(clock), Arc::new(world.network.of_host(host)), endpoints, options) {
        Ok(client) => client,
        Err(error) => panic!("no client: {error}"),
    }
}

fn now(range: KeyRange) -> Range {
    Range { range, revision: None, limit: 0, keys_only: false, count_only: false }
}

fn put(key: String, value: String) -> Put {
    Put { key: Bytes::from(key), value: Bytes::from(value), prev_kv: false }
}

fn equal(key: &str, target: CompareTarget) -> Compare {
    Compare { key: Bytes::copy_from_slice(key.as_bytes()), relation: Relation::Equal, target }
}

fn text(value: &Bytes) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn show(value: Option<&str>) -> &str {
    value.unwrap_or("nothing")
}
