//! A model as an app.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use madsim::task::JoinHandle;
use raft::clock::BoxFuture;
use raft::core::{Index, LogId};
use raft::driver::{RaftHandle, StopReason};
use raft::state_machine::StateMachine;

use super::Model;
use super::gate::Gate;
use super::shown::{Answers, Shown};
use super::workload::OwnWorkload;
use crate::app::admin::Admin;
use crate::app::{App, NoPlatter, Platter, Process, Stage, Start, View, Workload};
use crate::cluster::World;

/// Worlds of one model.
pub(super) struct OwnApp<M: Model> {
    model: Arc<M>,
    /// Of the one world that this process runs.
    answers: Mutex<Option<Arc<Answers<M>>>>,
}

impl<M: Model> OwnApp<M> {
    pub(super) fn new(model: M) -> Self {
        Self { model: Arc::new(model), answers: Mutex::default() }
    }

    fn answers(&self, world: &World) -> Arc<Answers<M>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(answers.get_or_insert_with(|| Arc::new(Answers::new(world.invariants.clone()))))
    }
}

impl<M: Model> App for OwnApp<M> {
    fn platter(&self, _: &World, _: u8) -> Box<dyn Platter> {
        Box::new(NoPlatter)
    }

    fn start(&self, start: Start) -> BoxFuture<'static, Result<Box<dyn Process>, String>> {
        let answers = self.answers(&start.world);
        Box::pin(start_node(Arc::clone(&self.model), answers, start))
    }

    fn workload(&self, stage: Stage) -> Box<dyn Workload> {
        let answers = self.answers(&stage.world);
        Box::new(OwnWorkload::new(Arc::clone(&self.model), answers, stage))
    }
}

async fn start_node<M: Model>(
    model: Arc<M>,
    answers: Arc<Answers<M>>,
    start: Start,
) -> Result<Box<dyn Process>, String> {
    let Start { node, options, seams, .. } = start;
    let listener = seams.net.listen(&format!("n{node}:client")).await.map_err(|error| error.to_string())?;
    let slot = Arc::new(Mutex::new(None));
    let (opening, opened) = (Arc::clone(&model), Arc::clone(&slot));
    let (disk, dir) = (Arc::clone(&seams.disk), options.data_dir.join("store"));
    let open = move || {
        let machine = Arc::new(Mutex::new(opening.open(disk, &dir)?));
        *opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&machine));
        Ok(Shown { node, machine, answers })
    };
    let raft = raft::driver::start(options, seams, open).await.map_err(|error| error.to_string())?;
    let Some(machine) = slot.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        panic!("the node runs, but its state was never opened")
    };
    let gate = Gate { model: Arc::clone(&model), raft: raft.clone(), machine: Arc::clone(&machine) };
    let gate = madsim::task::spawn(gate.serve(listener));
    Ok(Box::new(OwnProcess { view: Arc::new(OwnView { model, machine, raft }), gate }))
}

struct OwnProcess<M: Model> {
    view: Arc<OwnView<M>>,
    gate: JoinHandle<()>,
}

impl<M: Model> Process for OwnProcess<M> {
    fn view(&self) -> Arc<dyn View> {
        Arc::clone(&self.view) as Arc<dyn View>
    }

    fn stopped(&self) -> BoxFuture<'_, Arc<StopReason>> {
        Box::pin(self.view.raft.stopped())
    }

    fn shut_down(self: Box<Self>) -> BoxFuture<'static, Arc<StopReason>> {
        Box::pin(async move {
            self.gate.abort();
            self.view.raft.shutdown().await
        })
    }
}

struct OwnView<M: Model> {
    model: Arc<M>,
    machine: Arc<Mutex<M::Machine>>,
    raft: RaftHandle<M::Output>,
}

impl<M: Model> View for OwnView<M> {
    fn applied(&self) -> LogId {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).applied().last
    }

    fn state_hash(&self) -> (Index, u64) {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        (machine.applied().last.index, self.model.hash(&machine))
    }

    fn audit(&self) -> Result<(Index, u64), String> {
        Ok(self.state_hash())
    }

    fn raft(&self) -> &dyn Admin {
        &self.raft
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
