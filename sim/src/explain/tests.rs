//! Small stories, told by hand.

use super::why::Why;
use super::*;
use crate::trace::Parcel;

fn record(at_ns: u64, source: &str, fact: Fact, text: &str) -> Record {
    Record { at_ns, source: source.parse().unwrap(), fact, text: text.to_owned() }
}

fn parcel(peer: u8, message: &str, term: u64, digest: u64) -> Parcel {
    let granted = (message == "VoteResponse").then_some(true);
    Parcel { peer, message: message.to_owned(), term, digest, granted, up_to: 0, commit: 0 }
}

fn role(role: &str, term: u64) -> Fact {
    Fact::Role { role: role.to_owned(), term }
}

/// n3 votes for n1, loses power before that is durable, and votes for n2 in the same term.
fn voted_twice() -> Story {
    let (mut records, mut digest) = (Vec::new(), 0);
    let mut at = |source: &str, fact: Fact, text: &str| {
        let at_ns = records.len() as u64 * 10;
        records.push(record(at_ns, source, fact, text));
    };
    let fault =
        |stage: &str, number, node| Fact::Fault { stage: stage.to_owned(), number, nodes: vec![node] };
    at("n1", Fact::Started, "starts");
    at("n3", Fact::Started, "starts");
    for (candidate, name) in [(1, "n1"), (2, "n2")] {
        let mut next = || {
            digest += 1;
            digest
        };
        let (asked, answered, noise) = (next(), next(), next());
        at(name, role("candidate", 2), "stands");
        at(name, Fact::Sent(parcel(3, "RequestVote", 2, asked)), "asks");
        at("n4", Fact::Sent(parcel(3, "Heartbeat", 1, noise)), "unrelated");
        at("n3", Fact::Received(parcel(4, "Heartbeat", 1, noise)), "unrelated");
        at("n3", Fact::Received(parcel(candidate, "RequestVote", 2, asked)), "is asked");
        at("n3", Fact::Vote { to: candidate, term: 2 }, "votes");
        at("n3", Fact::Writes { number: u64::from(candidate), last: 0 }, "the vote");
        at("n3", Fact::Sent(parcel(candidate, "VoteResponse", 2, answered)), "says so");
        at(name, Fact::Received(parcel(3, "VoteResponse", 2, answered)), "is told");
        at(name, role("leader", 2), "leads");
        if candidate == 1 {
            at("world", fault("begin", 0, 3), "crash of n3");
            at("world", fault("begin", 1, 4), "crash of n4");
            at("n3", Fact::Stopped { killed: true }, "killed");
            at("n3", Fact::Started, "starts again");
        }
    }
    let witnesses = vec![Witness::Elected { node: 1, term: 2 }, Witness::Elected { node: 2, term: 2 }];
    at("n2", Fact::Violation { rule: "election safety".to_owned(), witnesses }, "VIOLATED");
    Story::new(records, None)
}

#[test]
fn the_way_back_from_two_leaders_is_their_votes_and_the_crash_between() {
    let story = voted_twice();
    let why = Why::of(&story);
    let told: Vec<&str> = why.causes.keys().map(|at| story.records[*at].text.as_str()).collect();
    let one = ["stands", "asks", "is asked", "votes", "the vote", "says so", "is told", "leads"];
    let mut expected = one.to_vec();
    expected.extend(["crash of n3", "killed", "starts again"]);
    // What the second crash did not take away is not to be explained.
    expected.extend(one.iter().filter(|text| **text != "the vote"));
    expected.push("VIOLATED");
    assert_eq!(told, expected);
    let violation = story.violation().unwrap();
    let witnesses = &why.causes[&violation];
    assert!(witnesses.iter().all(|at| story.records[*at].text == "leads"), "{witnesses:?}");
}

#[test]
fn a_message_is_found_at_both_ends_and_copies_are_kept_apart() {
    let said = || parcel(2, "Heartbeat", 1, 9);
    let heard = || parcel(1, "Heartbeat", 1, 9);
    let records = vec![
        record(0, "n1", Fact::Sent(said()), ""),
        record(1, "n1", Fact::Sent(said()), ""),
        record(2, "n2", Fact::Received(heard()), ""),
        record(3, "n3", Fact::Received(heard()), ""),
    ];
    let story = Story::new(records, None);
    assert_eq!(story.other_end(2), Some(0));
    assert_eq!(story.other_end(0), Some(2));
    assert_eq!(story.other_end(1), None);
    assert_eq!(story.other_end(3), None);
}

#[test]
fn an_answer_to_a_client_leads_to_the_node_that_gave_it() {
    let connected =
        |connection, to: &str| Fact::Connected { connection, from: "c1".to_owned(), to: to.to_owned() };
    let segment = |connection, direction, arrives_ns| Fact::Segment { connection, direction, arrives_ns };
    let records = vec![
        record(0, "n1", Fact::Started, "n1 starts"),
        record(0, "n2", Fact::Started, "n2 starts"),
        record(1, "n1", Fact::Applied { term: 1, index: 4 }, "n1 applied"),
        record(1, "n2", Fact::Applied { term: 1, index: 3 }, "n2 applied"),
        record(2, "net", connected(1, "n1:client"), ""),
        record(2, "net", connected(2, "n2:client"), ""),
        record(3, "c1", Fact::Invoke { number: 7 }, "asks"),
        record(4, "net", segment(2, 0, 5), "segment 2.0 40 B arrives 5"),
        record(6, "net", segment(2, 1, 8), "segment 2.1 30 B arrives 8"),
        record(7, "net", segment(1, 1, 90), "too late"),
        record(8, "c1", Fact::Return { number: 7, outcome: "ok".to_owned() }, "is told"),
    ];
    let failure = Failure::new("linearizability", "old").seen_in([Witness::Operation { number: 7 }]);
    let story = Story::new(records, Some(&failure));
    let why = Why::of(&story);
    let told: Vec<&str> = why.causes.keys().map(|at| story.records[*at].text.as_str()).collect();
    assert_eq!(told, ["n2 applied", "asks", "30 bytes to c1", "is told", "VIOLATED: linearizability: old"]);
}

#[test]
fn a_panic_gets_an_event_on_the_node_that_it_was_in() {
    let words = "exit status: 101: panicked at x.rs\n    why\n    context: node=8 \"n7.1\", task=444";
    let failure = Failure::new("crash of the simulator", words);
    let records =
        vec![record(5, "n7", Fact::Ready, "ready"), record(6, "n7", Fact::Durable { number: 1 }, "durable")];
    let story = Story::new(records, Some(&failure));
    let violation = story.violation().unwrap();
    assert_eq!((story.records[violation].at_ns, story.records[violation].source), (6, Source::Node(7)));
    assert_eq!(story.witnesses(), [0]);
}

#[test]
fn half_a_line_at_the_end_is_where_the_world_ended_and_anywhere_else_an_error() {
    let whole = serde_json::to_string(&record(1, "n1", Fact::Ready, "ready")).unwrap();
    let read = |text: String| Story::read(text.as_bytes(), None).map(|story| story.records.len());
    assert_eq!(read(format!("{whole}\n{whole}\n{}", &whole[..9])).unwrap(), 2);
    assert!(read(format!("{whole}\n{}\n{whole}\n", &whole[..9])).is_err());
}

#[test]
fn a_log_for_shiviz_has_clocks_that_respect_messages() {
    let story = voted_twice();
    let mut out = Vec::new();
    shiviz::write(&story, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(shiviz::REGEX));
    assert_eq!(lines.next(), Some(""));
    let rest: Vec<&str> = lines.collect();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut asked = None;
    for pair in rest.chunks(2) {
        let [head, event] = pair else { panic!("half an event: {pair:?}") };
        let (host, clock) = head.split_once(' ').unwrap();
        let clock: BTreeMap<String, u64> = serde_json::from_str(clock).unwrap();
        // A host's own count grows by one with each of its events.
        let own = last.entry(host.to_owned()).or_default();
        assert_eq!(clock[host], *own + 1, "{head}");
        *own += 1;
        if event.ends_with(" asks") && asked.is_none() {
            asked = Some(clock["n1"]);
        } else if event.ends_with(" is asked") && clock.contains_key("n1") && !clock.contains_key("n2") {
            assert_eq!(Some(clock["n1"]), asked, "who hears n1 knows what n1 knew");
        }
    }
    assert!(asked.is_some());
}
