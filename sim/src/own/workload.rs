//! Clients of a model, and what must be true of what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use madsim::task::JoinHandle;
use raft::core::Index;

use super::Model;
use super::client::{Ended, GateClient};
use super::shown::Answers;
use crate::app::{Stage, Workload};
use crate::checker::sequential::{Call, Outcome, check};
use crate::clock::SimClock;
use crate::plan::Operation;
use crate::random::Random;
use crate::report::Failure;
use crate::trace::{Event, Source};

/// How many steps the search for an order may take. More than enough; a bound so that it ends.
const CHECK_STEPS_MAX: u64 = 20_000_000;
/// Operations of one world, at most: the search's time grows with them.
const OPERATIONS_MAX: u64 = 600;

/// What was asked and answered. The number of a call is that of its operation.
struct Record<M: Model> {
    calls: Vec<Recorded<M>>,
    /// Counts what happens: the time of calls and returns.
    now: u64,
    counts: [u64; 3],
}

struct Recorded<M: Model> {
    call: Call<M::Operation, M::Output>,
    failed: bool,
}

pub(super) struct OwnWorkload<M: Model> {
    model: Arc<M>,
    answers: Arc<Answers<M>>,
    stage: Stage,
    record: Arc<Mutex<Record<M>>>,
}

/// One client at work.
struct Worker<M: Model> {
    model: Arc<M>,
    stage: Stage,
    record: Arc<Mutex<Record<M>>>,
    number: u16,
    random: Random,
    client: GateClient,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Model> Worker<M> {
    async fn perform(&mut self, operation: M::Operation) -> Ended<M::Output> {
        let number = {
            let mut record = lock(&self.record);
            record.now += 1;
            let call = Call { operation: operation.clone(), called: record.now, returned: None };
            record.calls.push(Recorded { call, failed: false });
            record.calls.len() - 1
        };
        self.note(&format!("#{number} {operation:?}"));
        let ended = self.client.perform(&*self.model, number as u64, &operation).await;
        self.note(&format!("#{number} -> {ended:?}"));
        let mut record = lock(&self.record);
        record.now += 1;
        let now = record.now;
        let (count, recorded) = match &ended {
            Ended::Ok(output) => (0, (Some((now, output.clone())), false)),
            Ended::Fail => (1, (None, true)),
            Ended::Info => (2, (None, false)),
        };
        record.counts[count] += 1;
        (record.calls[number].call.returned, record.calls[number].failed) = recorded;
        ended
    }

    fn note(&self, text: &str) {
        self.stage.world.record(Source::Client(self.number), &Event::Note { text });
    }

    async fn run(mut self, operations: u64) {
        let pause_ns = self.stage.world.scenario.chaos_ns / operations.max(1);
        for _ in 0..operations {
            let pause = self.random.exponential(pause_ns).min(4 * pause_ns);
            self.stage.world.time.sleep(pause).await;
            if self.stage.over.load(Ordering::Relaxed) {
                return;
            }
            let operation = self.model.draw(&mut self.random);
            self.perform(operation).await;
        }
    }
}

impl<M: Model> OwnWorkload<M> {
    pub(super) fn new(model: Arc<M>, answers: Arc<Answers<M>>, stage: Stage) -> Self {
        let record = Record { calls: Vec::new(), now: 0, counts: [0; 3] };
        Self { model, answers, stage, record: Arc::new(Mutex::new(record)) }
    }

    fn worker(&self, number: u16, stream: &str, nodes: Vec<u8>, next: u8) -> Worker<M> {
        let world = &self.stage.world;
        let host = usize::from(world.scenario.machines()) + usize::from(number) - 1;
        let random = |name: &str| Random::stream(world.seed, &format!("{name} {stream}"));
        let client = GateClient {
            clock: Arc::new(SimClock::new(world.time.clone(), 0, 0)),
            net: Arc::new(world.network.of_host(host)),
            time: world.time.clone(),
            random: random("gate client"),
            nodes,
            next,
            timeout_ns: world.scenario.workload.timeout_ns,
        };
        Worker {
            model: Arc::clone(&self.model),
            stage: self.stage.clone(),
            record: Arc::clone(&self.record),
            number,
            random: random("own workload"),
            client,
        }
    }

    /// Every entry is at one place, and the machine did there what the model says.
    fn judge_log(&self) -> Result<BTreeMap<u64, Index>, Failure> {
        let record = lock(&self.record);
        let mut places = BTreeMap::new();
        let mut state = M::State::default();
        for (index, (number, output, node)) in &*lock(&self.answers.by_index) {
            let recorded = usize::try_from(*number).ok().and_then(|number| record.calls.get(number));
            let Some(Recorded { call, failed }) = recorded else {
                return Err(Failure::new("only what was asked is done", format!("#{number} at {index}")));
            };
            if let Some(first) = places.insert(*number, *index) {
                let text = format!("#{number} {:?} was done at {first} and again at {index}", call.operation);
                return Err(Failure::new("exactly once", text));
            }
            if *failed {
                let text =
                    format!("#{number} {:?} was answered as not done, and is at {index}", call.operation);
                return Err(Failure::new("what is not done is not done", text));
            }
            let (after, expected) = self.model.step(&state, &call.operation);
            if expected != *output {
                let text = format!(
                    "#{number} {:?} at {index}: n{node} answered {output:?}, the model {expected:?} from {state:?}",
                    call.operation
                );
                return Err(Failure::new("the machine does what its model does", text));
            }
            state = after;
        }
        Ok(places)
    }

    /// Every acknowledged write is in the log. Those of unknown outcome that are not have not been done.
    fn judge_history(&self, places: &BTreeMap<u64, Index>) -> Result<(), Failure> {
        let record = lock(&self.record);
        let mut calls = Vec::new();
        for (number, Recorded { call, failed }) in record.calls.iter().enumerate() {
            let writes = self.model.command(&call.operation).is_some();
            let is_there = places.contains_key(&(number as u64));
            if writes && call.returned.is_some() && !is_there {
                let text = format!("#{number} {:?} was done, and is not in the log", call.operation);
                return Err(Failure::new("an acknowledged write is there", text));
            }
            if !failed && (is_there || (!writes && call.returned.is_some())) {
                calls.push(call.clone());
            }
        }
        match check(&*self.model, &calls, CHECK_STEPS_MAX) {
            Outcome::Linearizable => Ok(()),
            Outcome::NotLinearizable(why) => Err(Failure::new("linearizability", why)),
            Outcome::Unknown => {
                Err(Failure::new("linearizability", format!("undecided after {CHECK_STEPS_MAX} steps")))
            }
        }
    }
}

impl<M: Model> Workload for OwnWorkload<M> {
    fn begin(&self, _: Vec<Operation>) -> Vec<JoinHandle<()>> {
        let scenario = &self.stage.world.scenario;
        let clients = scenario.workload.clients;
        let each =
            (scenario.chaos_ns / scenario.workload.pause_ns.max(1)).min(OPERATIONS_MAX / u64::from(clients));
        let nodes: Vec<u8> = self.stage.cluster.machines().collect();
        let start = |number: u16| {
            let worker = self.worker(number, &number.to_string(), nodes.clone(), 1);
            self.stage.clients.spawn(worker.run(each))
        };
        (1..=clients).map(start).collect()
    }

    fn look(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn write_through(&self, node: u8) -> JoinHandle<()> {
        let mut worker = self.worker(1, &format!("through n{node}"), vec![node], node);
        self.stage.clients.spawn(async move {
            loop {
                let operation = worker.model.draw(&mut worker.random);
                let writes = worker.model.command(&operation).is_some();
                if writes && matches!(worker.perform(operation).await, Ended::Ok(_)) {
                    return;
                }
            }
        })
    }

    fn read_all(&self, nodes: &BTreeSet<u8>) -> JoinHandle<()> {
        let next = nodes.first().copied().unwrap_or(1);
        let mut worker = self.worker(1, "at the end", nodes.iter().copied().collect(), next);
        let operation = self.model.read_all();
        self.stage
            .clients
            .spawn(async move { while !matches!(worker.perform(operation.clone()).await, Ended::Ok(_)) {} })
    }

    fn judge(&self) -> Result<(), Failure> {
        let places = self.judge_log()?;
        self.judge_history(&places)
    }

    fn counts(&self) -> [u64; 3] {
        lock(&self.record).counts
    }

    fn write_history(&self, path: &Path) -> io::Result<()> {
        let mut text = String::new();
        for (number, Recorded { call, failed }) in lock(&self.record).calls.iter().enumerate() {
            let end = if *failed { "not done".to_owned() } else { format!("{:?}", call.returned) };
            text.push_str(&format!("#{number} {} {:?} -> {end}\n", call.called, call.operation));
        }
        std::fs::write(path, text)
    }
}
