use kv::wire::{Membership, NodeReport, PeerReport};
use raft::core::Configuration;

use super::*;
use change::Rounds;
use raft::clock::Monotonic;
use view::{dry_run_json, dry_run_text};

fn member_at(n: u64) -> Member {
    Member { incarnation: n, address: format!("h:{n}1"), context: format!("h:{n}0").into() }
}

fn flag(n: u64) -> MemberFlag {
    format!("{n}=h:{n}1,h:{n}0").parse().unwrap()
}

/// Three voters, of which the second leads and the third is silent, and a learner that is behind.
fn view() -> View {
    let mut configuration = Configuration::of_voters([1, 2, 3].map(NodeId));
    configuration.learners.insert(NodeId(4));
    configuration.nodes = (1..=4).map(|n| (NodeId(n), member_at(n))).collect();
    configuration.removed.insert(NodeId(9));
    let peer = |id, matched, answers| PeerReport {
        id,
        matched,
        next: matched + 1,
        silent_ticks: 0,
        space: Default::default(),
        answers,
    };
    let leader = NodeReport {
        id: 2,
        last: 20,
        peers: vec![peer(1, 20, true), peer(3, 7, false), peer(4, 12, true)],
        ..NodeReport::default()
    };
    View { membership: Membership { index: 5, committed: true, configuration }, leader }
}

#[test]
fn the_list_shows_what_each_member_is_and_how_far_it_has_come() {
    let mut view = view();
    assert_eq!(
        view.table(),
        "id  role           peer  client  answers  log\n\
         1   voter          h:11  h:10    yes      20\n\
         2   voter, leader  h:21  h:20    yes      20\n\
         3   voter          h:31  h:30    no       7 of 20\n\
         4   learner        h:41  h:40    yes      12 of 20\n"
    );
    let configuration = &mut view.membership.configuration;
    configuration.joining.insert(NodeId(4));
    configuration.voters.remove(&NodeId(3));
    configuration.voters_outgoing = [1, 2, 3].map(NodeId).into();
    configuration.lease = Some(Lease { duration_ms: 500, drift_ppm: 100 });
    view.leader.transferring = Some(1);
    let text = view.table();
    for expected in [
        "3   leaving",
        "4   joining",
        "the voters are being changed: 2 voters (1 and 2) and, until the change under way ends, 1, 2 and 3; 2 needed, 2 answer: none may fail",
        "the leadership is being handed over to 1",
        "reads by lease: on, for 500 ms, if no clock runs more than 100 millionths faster than another",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn the_list_in_json_says_the_same() {
    let json = view().json();
    assert_eq!((&json["index"], &json["joint"], &json["may_fail"]), (&json!(5), &json!(false), &json!(0)));
    assert_eq!(
        json["members"][2],
        json!({
            "id": 3, "role": "voter", "leader": false, "peer": "h:31", "client": "h:30", "incarnation": 3,
            "answers": false, "matched": 7,
        })
    );
    assert_eq!((&json["removed"], &json["lease"]), (&json!([9]), &json!(null)));
}

#[test]
fn a_dry_run_stands_in_two_lines_and_says_if_less_is_borne() {
    let view = view();
    let reckon = |changes: &[Change]| {
        kv::dry_run::DryRun::new(&view.membership.configuration, changes, &view.answering())
    };
    let remove = reckon(&[Change::Remove(NodeId(3))]);
    assert_eq!(
        dry_run_text(&remove),
        "now:        3 voters (1, 2 and 3); 2 needed, 2 answer: none may fail\n\
         afterwards: 2 voters (1 and 2); 2 needed, 2 answer: none may fail\n\
         with all of them up, fewer may fail than before\n"
    );
    assert_eq!(dry_run_json(&remove)["danger"], json!(null));
    let stop = reckon(&[Change::Remove(NodeId(1))]);
    let json = dry_run_json(&stop);
    assert_eq!((&json["before"]["may_fail"], &json["after"]["may_fail"]), (&json!(0), &json!(null)));
    assert!(json["danger"].as_str().unwrap().contains("bring back 3 first"), "{json}");
}

#[test]
fn a_replaced_voter_goes_in_the_same_change_in_which_the_new_one_comes() {
    let mut view = view();
    let (one, four) = (NodeId(1), NodeId(4));
    assert_eq!(steps(&view, one, four), [Change::Remove(one), Change::Promote(four)]);
    // A learner in the place of a learner, and one that votes already: only the old one goes.
    assert_eq!(steps(&view, four, NodeId(5)), [Change::Remove(four)]);
    view.membership.configuration.voters.insert(four);
    assert_eq!(steps(&view, one, four), [Change::Remove(one)]);
}

#[test]
fn a_new_member_must_not_be_taken_for_another() {
    let view = view();
    assert!(check_new(&view, &flag(5)).is_ok());
    assert!(check_new(&view, &flag(4)).is_ok(), "the command is given again");
    let elsewhere = MemberFlag { id: 4, ..flag(5) };
    let error = check_new(&view, &elsewhere).unwrap_err().to_string();
    assert!(error.contains("member 4 is in the cluster already"), "{error}");
    let error = check_new(&view, &flag(9)).unwrap_err().to_string();
    assert!(error.contains("member 9 was removed"), "{error}");
}

#[test]
fn a_learner_has_caught_up_once_a_round_was_quick() {
    let at = |ms: u64| Monotonic(ms * 1_000_000);
    let mut rounds = Rounds::default();
    assert!(!rounds.is_quick(None, 100, at(0)), "it is not known to have anything");
    assert!(!rounds.is_quick(Some(90), 150, at(1_500)));
    // It reaches 100, the end of the log as it was: but that took two seconds, in which as much came again.
    assert!(!rounds.is_quick(Some(120), 200, at(2_000)));
    assert!(!rounds.is_quick(Some(199), 205, at(2_400)));
    assert!(rounds.is_quick(Some(200), 206, at(2_600)), "though it is behind by what came since");
}
