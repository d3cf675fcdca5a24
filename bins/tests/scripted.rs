//! `raftkv member` against a node that plays a part: what the command does when answers stay away, when a learner is
//! slow, and when somebody else was quicker.

mod common;

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::{Arc, Mutex};

use common::{code, raftkv, run, stderr, stdout};
use kv::wire::{
    Answer, ClientHello, FRAME_BYTES_MAX, FrameStream, MemberRefusal, Membership, NodeReport, NotDone,
    Outcome, PeerReport, Reply, Request, RequestBody, ServerHello,
};
use raft::core::{Change, Configuration, Member, NodeId, RoleName};
use raft::net::{Net, RealNet};

/// What the node makes of a change; `None`: it closes the connection.
type OnChange = fn(&mut World, &[Change]) -> Option<Outcome>;

/// A cluster of three, of which the first leads, and a learner, as one node tells of it.
struct World {
    membership: Membership,
    report: NodeReport,
    /// How many entries the learner gets each time that somebody looks.
    learner_speed: u64,
    looks: u64,
    /// For how many more looks the leader goes on with a vote that it no longer has, and who leads then.
    leaving: Option<(u64, u64)>,
    changes: Vec<(Vec<Change>, Option<u64>)>,
    on_change: OnChange,
}

impl World {
    fn new(on_change: OnChange) -> Self {
        let mut configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
        configuration.learners.insert(NodeId(4));
        let member = |n: u64| Member {
            incarnation: n,
            address: format!("127.0.0.1:{n}1"),
            context: format!("127.0.0.1:{n}0").into(),
        };
        configuration.nodes = (1..=4).map(|n| (NodeId(n), member(n))).collect();
        let peer = |id| PeerReport {
            id,
            matched: 500,
            next: 501,
            silent_ticks: 0,
            space: Default::default(),
            answers: true,
        };
        let report = NodeReport {
            id: 1,
            role: RoleName::Leader,
            last: 500,
            peers: vec![peer(2), peer(3), PeerReport { matched: 100, ..peer(4) }],
            ..NodeReport::default()
        };
        let membership = Membership { index: 7, committed: true, configuration };
        Self {
            membership,
            report,
            learner_speed: 1_000,
            looks: 0,
            leaving: None,
            changes: Vec::new(),
            on_change,
        }
    }

    fn answer(&mut self, body: RequestBody) -> Option<Outcome> {
        match body {
            RequestBody::Membership => {
                self.looks += 1;
                Some(Outcome::Done(Reply::Membership(Box::new(self.membership.clone()))))
            }
            RequestBody::LeaderStatus => {
                let learner = &mut self.report.peers[2];
                learner.matched = (learner.matched + self.learner_speed).min(self.report.last);
                self.leave();
                Some(Outcome::Done(Reply::Status(Box::new(self.report.clone()))))
            }
            RequestBody::ChangeMembers { changes, expected } => {
                self.changes.push((changes.clone(), expected));
                (self.on_change)(self, &changes)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A leader without a vote hands over after a while, as a cluster's would: first it does not even know to whom.
    fn leave(&mut self) {
        let configuration = &self.membership.configuration;
        let Some((looks, next)) = self.leaving.filter(|_| !configuration.is_voter(NodeId(self.report.id)))
        else {
            return;
        };
        match looks {
            0 => {
                self.report.id = next;
                self.report.transferring = None;
                self.report.peers.retain(|peer| peer.id != next);
            }
            1 => self.report.transferring = Some(next),
            _ => {}
        }
        self.leaving = Some((looks.saturating_sub(1), next));
    }

    /// Makes the change, as a cluster would.
    fn make(&mut self, changes: &[Change]) {
        let configuration = &mut self.membership.configuration;
        for change in changes {
            match change {
                Change::Remove(id) => {
                    configuration.voters.remove(id);
                    configuration.removed.insert(*id);
                }
                Change::Promote(id) => {
                    configuration.learners.remove(id);
                    configuration.voters.insert(*id);
                }
                other => panic!("{other:?}"),
            }
        }
        self.membership.index += 2;
    }

    fn done(&self) -> Option<Outcome> {
        Some(Outcome::Done(Reply::Membership(Box::new(self.membership.clone()))))
    }
}

fn makes(world: &mut World, changes: &[Change]) -> Option<Outcome> {
    world.make(changes);
    world.done()
}

fn makes_and_says_nothing(world: &mut World, changes: &[Change]) -> Option<Outcome> {
    world.make(changes);
    None
}

fn says_nothing(_: &mut World, _: &[Change]) -> Option<Outcome> {
    None
}

async fn serve(world: Arc<Mutex<World>>, tell_address: std::sync::mpsc::Sender<String>) {
    let mut listener = RealNet.listen("127.0.0.1:0").await.unwrap();
    tell_address.send(listener.local_address()).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut frames = FrameStream::new(stream, FRAME_BYTES_MAX);
            let Ok(Some(hello)) = frames.receive::<ClientHello>().await else { return };
            frames.push(&ServerHello::answer(&hello, NodeId(1), 100_000)).unwrap();
            while frames.send().await.is_ok() {
                let Ok(Some(Request { id, body })) = frames.receive().await else { return };
                let Some(outcome) = world.lock().unwrap().answer(body) else { return };
                frames.push(&Answer { id, outcome }).unwrap();
            }
        });
    }
}

/// Runs `raftkv member` against the world; what came out, and the world afterwards.
#[expect(clippy::disallowed_methods, reason = "the node plays its part beside the command")]
fn member(world: World, args: &[&str]) -> (Output, Arc<Mutex<World>>) {
    let world = Arc::new(Mutex::new(world));
    let (tell_address, address) = std::sync::mpsc::channel();
    let served = Arc::clone(&world);
    std::thread::spawn(move || run(serve(served, tell_address)));
    let address = address.recv().unwrap();
    let args = [&["member"], args, &["--endpoints", &address, "--timeout", "1.5"]].concat();
    (raftkv(&args, ""), world)
}

fn said(output: &Output) -> String {
    format!("{}{}", stdout(output), stderr(output))
}

#[test]
fn a_change_whose_answer_was_lost_is_looked_for() {
    let (output, world) = member(World::new(makes_and_says_nothing), &["remove", "3"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(stdout(&output).ends_with("member 3 is removed\n"), "{}", said(&output));
    let world = world.lock().unwrap();
    assert_eq!(world.changes, [(vec![Change::Remove(NodeId(3))], Some(7))], "it is asked for once");
}

#[test]
fn a_change_of_which_nothing_is_seen_has_an_unknown_outcome() {
    let (output, world) = member(World::new(says_nothing), &["remove", "3"]);
    assert_eq!(code(&output), 3, "{}", said(&output));
    assert!(stderr(&output).contains("outcome unknown"), "{}", said(&output));
    assert_eq!(world.lock().unwrap().changes.len(), 1, "it is asked for once");
}

#[test]
fn a_change_that_is_seen_but_not_settled_counts_as_unknown_too() {
    fn begins(world: &mut World, changes: &[Change]) -> Option<Outcome> {
        world.make(changes);
        world.membership.configuration.voters_outgoing = BTreeSet::from([1, 2, 3].map(NodeId));
        None
    }
    let (output, _) = member(World::new(begins), &["promote", "4"]);
    assert_eq!(code(&output), 3, "{}", said(&output));
}

#[test]
fn who_was_overtaken_by_another_operator_is_told_to_look_again() {
    fn changed(_: &mut World, _: &[Change]) -> Option<Outcome> {
        Some(Outcome::NotDone(NotDone::Refused(MemberRefusal::Changed { index: 9 })))
    }
    let (output, _) = member(World::new(changed), &["remove", "3"]);
    assert_eq!(code(&output), 2, "{}", said(&output));
    assert!(stderr(&output).contains("the membership was changed meanwhile"), "{}", said(&output));
}

#[test]
fn a_learner_is_promoted_when_it_has_caught_up_and_not_before() {
    // It needs about four looks: at every one another 100 entries.
    let world = World { learner_speed: 100, ..World::new(makes) };
    let (output, world) = member(world, &["promote", "4"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let world = world.lock().unwrap();
    assert_eq!(world.changes, [(vec![Change::Promote(NodeId(4))], Some(7))]);
    assert_eq!(world.report.peers[2].matched, 500);
    assert!(world.looks >= 4, "{} looks", world.looks);
}

#[test]
fn who_does_not_want_to_wait_so_long_is_told_that_it_is_not_done() {
    let world = World { learner_speed: 0, ..World::new(makes) };
    let (output, world) = member(world, &["promote", "4", "--wait", "0.5"]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    assert!(
        stderr(&output).contains("has not caught up yet; give the command again later"),
        "{}",
        said(&output)
    );
    assert!(world.lock().unwrap().changes.is_empty());
    // A learner that does not answer does not count as caught up, whatever it once had.
    let mut world = World::new(makes);
    world.report.peers[2].answers = false;
    let (output, _) = member(world, &["promote", "4", "--wait", "0.5"]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    // By force it is promoted as it is.
    let world = World { learner_speed: 0, ..World::new(makes) };
    let (output, world) = member(world, &["promote", "4", "--wait", "0.5", "--force"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert_eq!(world.lock().unwrap().changes.len(), 1);
}

#[test]
fn a_replacement_that_was_interrupted_goes_on_where_it_was() {
    // The new member is in already, as a learner.
    let (output, world) = member(World::new(makes), &["replace", "3", "4=127.0.0.1:41,127.0.0.1:40"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(stdout(&output).ends_with("member 4 is in the place of member 3\n"), "{}", said(&output));
    let expected = vec![Change::Remove(NodeId(3)), Change::Promote(NodeId(4))];
    assert_eq!(world.lock().unwrap().changes, [(expected, Some(7))], "both in one change");
    // It is done altogether.
    let mut world = World::new(makes);
    world.make(&[Change::Remove(NodeId(3)), Change::Promote(NodeId(4))]);
    let (output, world) = member(world, &["replace", "3", "4=127.0.0.1:41,127.0.0.1:40"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(world.lock().unwrap().changes.is_empty());
    // The one in its place would be another one.
    let (output, _) = member(World::new(makes), &["replace", "3", "4=127.0.0.1:51,127.0.0.1:50"]);
    assert_eq!(code(&output), 2, "{}", said(&output));
}

#[test]
fn others_that_fail_while_the_new_member_catches_up_stop_the_replacement() {
    fn none(_: &mut World, _: &[Change]) -> Option<Outcome> {
        panic!("nothing may be changed");
    }
    // At first all answer, so that the reckoning is fine; when the learner has caught up, only the leader and it do.
    let mut world = World::new(none);
    world.learner_speed = 0;
    let world = Arc::new(Mutex::new(world));
    let later = Arc::clone(&world);
    let (tell_address, address) = std::sync::mpsc::channel();
    #[expect(clippy::disallowed_methods, reason = "the node plays its part beside the command")]
    std::thread::spawn(move || run(serve(later, tell_address)));
    let address = address.recv().unwrap();
    let mut command = std::process::Command::new(common::RAFTKV);
    command.args(["member", "replace", "3", "4=127.0.0.1:41,127.0.0.1:40", "--endpoints", &address]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    run(common::eventually(20, "it waits for the learner", || async { world.lock().unwrap().looks > 3 }));
    {
        let mut world = world.lock().unwrap();
        world.report.peers[0].answers = false;
        world.membership.configuration.voters.insert(NodeId(5));
        world.learner_speed = 1_000;
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 2, "{}", said(&output));
    assert!(stderr(&output).contains("refused: "), "{}", said(&output));
}

/// A removed leader answers until it has handed over, and what it tells of the cluster is what it was: of a change
/// that removes it tells the next leader.
#[test]
fn a_change_that_removes_the_leader_is_told_by_the_next_one() {
    let mut world = World::new(makes);
    world.leaving = Some((4, 2));
    let (output, world) = member(world, &["remove", "1", "--json"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    let told: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(told["done"], "member 1 is removed", "{told}");
    assert_eq!((&told["leader"], &told["transferring"]), (&2.into(), &serde_json::Value::Null), "{told}");
    assert_eq!(told["removed"], serde_json::json!([1]), "{told}");
    assert_eq!(world.lock().unwrap().leaving, Some((0, 2)), "the change is looked at until it is settled");
}
