//! A change of the membership, step by step: look, reckon, do, look again.
//!
//! Every step begins with a look at what is, and does what is missing of what was asked for. So a command that was
//! interrupted, or whose outcome is unknown, can be given again, and goes on where it was.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kv::client::{Client, ClientError, Reason};
use kv::dry_run::{Danger, DryRun};
use kv::wire::{MemberRefusal, Membership, NotDone};
use raft::clock::{self, Clock, Monotonic, RealClock};
use raft::core::{Change, NodeId};
use serde_json::Value;

use super::view::{View, dry_run_json, dry_run_text};
use crate::Failure;
use crate::cli::ChangeArgs;
use crate::commands::{client, print, print_json, process_seed};

/// How often is looked how far a new member has come.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A learner that reached the end the log had so long ago has caught up (§4.2.1).
const ROUND_MAX: Duration = Duration::from_secs(1);

/// A change under way.
pub(super) struct Changing {
    pub(super) client: Client,
    dry_run_only: bool,
    force: bool,
    json: bool,
    timeout: Duration,
    /// What was reckoned, for the answer in JSON.
    reckoned: Option<DryRun>,
}

/// Whether to go on after a reckoning.
pub(super) enum Verdict {
    Go,
    /// Only the reckoning was asked for.
    Stop {
        safe: bool,
    },
}

impl Changing {
    pub(super) fn new(args: &ChangeArgs) -> Result<Self, Failure> {
        Ok(Self {
            client: client(&args.client, process_seed())?,
            dry_run_only: args.dry_run,
            force: args.force,
            json: args.client.json,
            timeout: args.client.timeout,
            reckoned: None,
        })
    }

    /// The membership, once nothing of it is under way. A leader that was removed answers until it has handed over, and
    /// knows less than the next one will.
    pub(super) async fn look(&self) -> Result<View, Failure> {
        let deadline = RealClock.now() + self.timeout;
        loop {
            let view = View::of(&self.client).await?;
            if view.is_settled() || RealClock.now() >= deadline {
                return Ok(view);
            }
            clock::sleep(&RealClock, LOOK_EVERY).await;
        }
    }

    /// Says what `changes` would do to the quorum, if they touch it, and refuses what would stop the cluster.
    pub(super) fn reckon(
        &mut self,
        view: &View,
        changes: &[Change],
        also_answers: Option<NodeId>,
    ) -> Result<Verdict, Failure> {
        let mut answering = view.answering();
        answering.extend(also_answers);
        let dry_run = DryRun::new(&view.membership.configuration, changes, &answering);
        let danger = dry_run.danger();
        if !self.json && dry_run.changes_voters() {
            let text = dry_run_text(&dry_run);
            print(text.trim_end().as_bytes())?;
        }
        self.reckoned = Some(dry_run);
        if self.dry_run_only {
            if let Some(danger) = &danger {
                eprintln!("raftkv: this would be refused: {danger}");
            }
            return Ok(Verdict::Stop { safe: danger.is_none() });
        }
        match danger {
            Some(danger) if !self.force => Err(refused(&danger)),
            Some(danger) => {
                eprintln!("raftkv: forced, although {danger}");
                Ok(Verdict::Go)
            }
            None => Ok(Verdict::Go),
        }
    }

    /// Refuses what would stop the cluster by now: to catch up may have taken long, and others may have failed.
    pub(super) fn check(&self, view: &View, changes: &[Change]) -> Result<(), Failure> {
        let dry_run = DryRun::new(&view.membership.configuration, changes, &view.answering());
        match dry_run.danger() {
            Some(danger) if !self.force => Err(refused(&danger)),
            _ => Ok(()),
        }
    }

    /// Makes the change that was reckoned with `view`. If nobody can say what became of it, looks whether `made`.
    pub(super) async fn make(
        &self,
        view: &View,
        changes: Vec<Change>,
        made: impl Fn(&View) -> bool,
    ) -> Result<(), Failure> {
        let result = self.client.change_members(changes, Some(view.membership.index)).await;
        self.made(result, made).await
    }

    /// What became of a change.
    pub(super) async fn made(
        &self,
        result: Result<Membership, ClientError>,
        made: impl Fn(&View) -> bool,
    ) -> Result<(), Failure> {
        let Err(error) = result else { return Ok(()) };
        if !matches!(error, ClientError::Unknown { .. }) {
            return Err(error.into());
        }
        let deadline = RealClock.now() + self.timeout;
        while RealClock.now() < deadline {
            if let Ok(view) = View::of(&self.client).await
                && view.membership.is_settled()
                && made(&view)
            {
                return Ok(());
            }
            clock::sleep(&RealClock, LOOK_EVERY).await;
        }
        Err(error.into())
    }

    /// Looks again and again, for at most `wait`, until `done`. `None`: it is not.
    async fn wait(
        &self,
        id: NodeId,
        wait: Duration,
        mut done: impl FnMut(&View) -> bool,
    ) -> Result<Option<View>, Failure> {
        let deadline = RealClock.now() + wait;
        let progress = progress(id);
        let result = loop {
            match View::of(&self.client).await {
                Ok(view) if done(&view) => break Some(view),
                Ok(view) => {
                    progress.set_length(view.leader.last);
                    progress.set_position(view.matched(id).unwrap_or(0));
                }
                // The leader may be changing; the time that is left goes on.
                Err(error) => progress.set_message(error.to_string()),
            }
            if RealClock.now() >= deadline {
                break None;
            }
            clock::sleep(&RealClock, LOOK_EVERY).await;
        };
        progress.finish_and_clear();
        Ok(result)
    }

    /// Waits until the leader has made `id` a voter.
    pub(super) async fn wait_for_vote(&self, id: NodeId, wait: Duration) -> Result<Option<View>, Failure> {
        self.wait(id, wait, |view| {
            view.membership.is_settled() && view.membership.configuration.voters.contains(&id)
        })
        .await
    }

    /// Waits until `id` has caught up: until it takes no more than a moment to reach what was the end of the log when
    /// the moment began (§4.2.1).
    pub(super) async fn wait_for_log(&self, id: NodeId, wait: Duration) -> Result<Option<View>, Failure> {
        let mut rounds = Rounds::default();
        self.wait(id, wait, |view| {
            let quick = rounds.is_quick(view.matched(id), view.leader.last, RealClock.now());
            quick && view.membership.is_settled() && view.answering().contains(&id)
        })
        .await
    }

    /// Tells what was done.
    pub(super) async fn tell(&self, text: &str) -> Result<(), Failure> {
        if !self.json {
            return print(text.as_bytes());
        }
        // What was asked for is done; that it cannot be shown is no failure of it.
        let mut answer = self.look().await.map_or(Value::Null, |view| view.json());
        if !answer.is_object() {
            answer = serde_json::json!({});
        }
        answer["done"] = text.into();
        if let Some(dry_run) = &self.reckoned {
            answer["dry_run"] = dry_run_json(dry_run);
        }
        print_json(&answer)
    }

    /// Tells what was reckoned, when that is all.
    pub(super) fn tell_reckoned(&self) -> Result<(), Failure> {
        match &self.reckoned {
            Some(dry_run) if self.json => {
                print_json(&serde_json::json!({ "dry_run": dry_run_json(dry_run) }))
            }
            Some(dry_run) if !dry_run.changes_voters() => print(b"the voters stay as they are"),
            _ => Ok(()),
        }
    }
}

fn refused(danger: &Danger) -> Failure {
    Failure::Definite(format!("refused: {danger} (or --force, and live with it)"))
}

/// The rounds of a learner that catches up (§4.2.1): each begins with the end of the log, and ends when that is reached.
#[derive(Default)]
pub(super) struct Rounds {
    /// Where the round under way ends, and when it began.
    round: Option<(u64, Monotonic)>,
}

impl Rounds {
    /// Whether a round has ended now that was quick enough: who has `matched` has caught up with a log that ends at
    /// `last`.
    pub(super) fn is_quick(&mut self, matched: Option<u64>, last: u64, now: Monotonic) -> bool {
        let (end, begun) = *self.round.get_or_insert((last, now));
        if matched.is_none_or(|matched| matched < end) {
            return false;
        }
        self.round = Some((last, now));
        now.since(begun) <= ROUND_MAX
    }
}

/// A bar on stderr, if that is a terminal.
fn progress(id: NodeId) -> ProgressBar {
    let bar = ProgressBar::no_length();
    let template = format!("member {} has {{human_pos}} of {{human_len}} entries {{msg}}", id.0);
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// Whether it was refused because everything is as was asked for already.
pub(super) fn is_nothing(error: &ClientError) -> bool {
    let ClientError::NotDone { reason: Reason::NotDone { reason: NotDone::Refused(refusal), .. } } = error
    else {
        return false;
    };
    *refusal == MemberRefusal::Nothing
}
