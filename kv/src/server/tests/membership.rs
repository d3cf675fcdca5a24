//! Who is in the cluster, changes of that, and reads that any member answers.

use raft::core::{Change, Lease, Member};

use super::*;
use crate::client::NewMember;
use crate::wire::{MemberRefusal, MemberRole};

fn refusal(error: ClientError) -> MemberRefusal {
    match error {
        ClientError::NotDone { reason: Reason::NotDone { reason: NotDone::Refused(refusal), .. } } => refusal,
        error => panic!("{error}"),
    }
}

/// One answer of one node, which is not followed anywhere.
async fn ask(net: &TestNet, address: &str, body: RequestBody) -> Outcome {
    let mut frames = FrameStream::new(net.connect(address).await.unwrap(), FRAME_BYTES_MAX);
    frames.push(&ClientHello::CURRENT).unwrap();
    frames.push(&Request { id: 1, body }).unwrap();
    frames.send().await.unwrap();
    let _: ServerHello = frames.receive().await.unwrap().unwrap();
    frames.receive::<Answer>().await.unwrap().unwrap().outcome
}

fn range_of(key: &str, mode: ReadMode) -> RequestBody {
    RequestBody::Range { range: Range { range: KeyRange::Key(Bytes::from(key.to_owned())), ..all() }, mode }
}

#[test]
fn changes_are_refused_for_what_is_wrong_with_them_and_nothing_is_changed() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        let before = client.membership().await.unwrap();
        assert!(before.is_settled() && before.configuration.voters.contains(&NodeId(1)), "{before:?}");
        let cases = [
            (vec![Change::Remove(NodeId(7))], MemberRefusal::NotMember(NodeId(7))),
            (vec![Change::Remove(NodeId(1))], MemberRefusal::NoVoters),
            (vec![Change::Promote(NodeId(1))], MemberRefusal::AlreadyVoter(NodeId(1))),
            (vec![Change::SetLease(None)], MemberRefusal::Nothing),
            (vec![], MemberRefusal::Nothing),
            (vec![Change::SetLease(Some(Lease { duration_ms: 0, drift_ppm: 0 }))], MemberRefusal::BadLease),
        ];
        for (changes, expected) in cases {
            let error = client.change_members(changes.clone(), None).await.unwrap_err();
            assert_eq!(refusal(error), expected, "{changes:?}");
        }
        assert_eq!(refusal(client.transfer_leader(None).await.unwrap_err()), MemberRefusal::NoTarget);
        let error = client.transfer_leader(Some(NodeId(1))).await.unwrap_err();
        assert_eq!(refusal(error), MemberRefusal::AlreadyLeader(NodeId(1)));
        assert_eq!(client.membership().await.unwrap(), before);
        node.shutdown().await;
    });
}

#[test]
fn a_change_that_makes_no_sense_for_this_store_is_refused_before_the_core() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        let known = client.membership().await.unwrap().configuration.nodes[&NodeId(1)].clone();
        let update = |member| vec![Change::Update { id: NodeId(1), member }];
        let nobody = Member { incarnation: 0, ..known.clone() };
        let cases = [
            (vec![Change::AddVoter { id: NodeId(2), member: nobody }], "use AddMember, which asks it"),
            (update(Member { address: String::new(), ..known.clone() }), "the peer address of member 1"),
            (update(Member { context: "a\nb".into(), ..known.clone() }), "the client address of member 1"),
            (update(Member { context: vec![0xff].into(), ..known.clone() }), "is not text"),
            ((2..67).map(|n| Change::Remove(NodeId(n))).collect(), "at most 64 are made at once"),
        ];
        for (changes, expected) in cases {
            let error = client.change_members(changes, None).await.unwrap_err().to_string();
            assert!(error.contains("invalid request") && error.contains(expected), "{error}");
        }
        node.shutdown().await;
    });
}

#[test]
fn a_change_that_was_reckoned_with_another_configuration_is_refused() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        let before = client.membership().await.unwrap();
        let lease = Some(Lease { duration_ms: 500, drift_ppm: 100 });
        let after = client.set_lease(lease).await.unwrap();
        assert!(after.index > before.index && after.is_settled(), "{after:?}");
        assert_eq!(after.configuration.lease, lease);
        let off = || vec![Change::SetLease(None)];
        let error = client.change_members(off(), Some(before.index)).await.unwrap_err();
        assert_eq!(refusal(error), MemberRefusal::Changed { index: after.index });
        assert_eq!(client.status("client1").await.unwrap().lease, lease);
        let last = client.change_members(off(), Some(after.index)).await.unwrap();
        assert_eq!(last.configuration.lease, None);
        node.shutdown().await;
    });
}

#[test]
fn a_new_member_is_asked_who_it_is_before_anything_is_changed() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        let before = client.membership().await.unwrap();
        let member = |id, peer: &str, client: &str| NewMember {
            id: NodeId(id),
            peer: peer.into(),
            client: client.into(),
            joining: true,
        };
        let error = client.add_member(member(2, "nobody:1", "nobody:2"), None).await.unwrap_err();
        let MemberRefusal::NotReady { id: NodeId(2), address, .. } = refusal(error) else { panic!() };
        assert_eq!(address, "nobody:1");
        for (wrong, expected) in [
            (member(0, "a:1", "a:2"), "ids begin at 1"),
            (member(2, "", "a:2"), "the peer address of member 2"),
            (member(2, "a:1", "a :2"), "the client address of member 2"),
            (member(2, &format!("{}:1", "a".repeat(400)), "a:2"), "1 to 300 bytes"),
        ] {
            let error = client.add_member(wrong, None).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = client.add_member(member(1, "a:1", "a:2"), None).await.unwrap_err();
        assert_eq!(refusal(error), MemberRefusal::AlreadyMember(NodeId(1)));
        assert_eq!(client.membership().await.unwrap(), before);
        node.shutdown().await;
    });
}

#[test]
fn one_change_is_made_at_a_time() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, _client) = one(&net, dir.path(), |_| {}).await;
        // The address answers nothing, so that the first change waits for it.
        net.hang("silent:1");
        let add = RequestBody::AddMember {
            id: NodeId(2),
            peer: "silent:1".into(),
            client: "silent:2".into(),
            joining: false,
            expected: None,
        };
        let mut first = raw(&net).await;
        first.push(&Request { id: 1, body: add }).unwrap();
        first.send().await.unwrap();
        clock::sleep(&raft::clock::RealClock, Duration::from_millis(50)).await;
        let lease = Change::SetLease(Some(Lease { duration_ms: 500, drift_ppm: 0 }));
        let change = || RequestBody::ChangeMembers { changes: vec![lease.clone()], expected: None };
        let outcome = ask(&net, "client1", change()).await;
        assert_eq!(outcome, Outcome::NotDone(NotDone::Refused(MemberRefusal::InProgress)));
        // Whoever asked first has gone away: the next one's turn.
        drop(first);
        for _ in 0..100 {
            if let Outcome::Done(_) = ask(&net, "client1", change()).await {
                node.shutdown().await;
                return;
            }
            clock::sleep(&raft::clock::RealClock, Duration::from_millis(10)).await;
        }
        panic!("still in progress");
    });
}

#[test]
fn members_and_hints_come_from_the_configuration_and_the_local_list_goes_before_it() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let (node, client) = one(&net, dir.path(), |options| options.clients.clear()).await;
        let members = client.members().await.unwrap();
        assert_eq!(members.len(), 1);
        assert_eq!(
            (members[0].client.as_str(), members[0].peer.as_str(), members[0].role, members[0].leader),
            ("client1", "peer1", MemberRole::Voter, true)
        );
        let known = client.membership().await.unwrap().configuration.nodes[&NodeId(1)].clone();
        let member = Member { context: "elsewhere:1".into(), ..known };
        let changes = vec![Change::Update { id: NodeId(1), member }];
        client.change_members(changes, None).await.unwrap();
        assert_eq!(client.members().await.unwrap()[0].client, "elsewhere:1");
        node.shutdown().await;
        let (node, client) = one(&net, dir.path(), |_| {}).await;
        assert_eq!(client.members().await.unwrap()[0].client, "client1");
        node.shutdown().await;
    });
}

#[test]
fn any_member_answers_a_read_with_all_that_was_acknowledged_before() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let nodes = three(&net, dir.path()).await;
        let endpoints = ["client1", "client2", "client3"];
        let client = client(&net, &endpoints);
        for n in 0..30 {
            client.put("k", n.to_string()).await.unwrap();
            // A follower has not heard yet that this is committed, when it is asked.
            let address = endpoints[n % 3];
            let outcome = ask(&net, address, range_of("k", ReadMode::Any)).await;
            let Outcome::Done(Reply::Range(result)) = outcome else { panic!("{address}: {outcome:?}") };
            assert_eq!(result.kvs[0].value, n.to_string(), "{address}");
        }
        let leader = nodes[0].raft().leadership().borrow().leader.unwrap();
        let follower = format!("client{}", leader.0 % 3 + 1);
        let hint = Some(format!("client{}", leader.0));
        for body in [
            range_of("k", ReadMode::Leader),
            RequestBody::Membership,
            RequestBody::LeaderStatus,
            RequestBody::TransferLeader { to: None },
            RequestBody::ChangeMembers { changes: vec![], expected: None },
        ] {
            let outcome = ask(&net, &follower, body.clone()).await;
            let expected = Outcome::NotDone(NotDone::NotLeader { leader: hint.clone() });
            assert_eq!(outcome, expected, "{body:?}");
        }
        for node in nodes {
            node.shutdown().await;
        }
    });
}

#[test]
fn the_leadership_goes_where_it_is_told_and_on_shutdown_to_another() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let mut nodes = three(&net, dir.path()).await;
        let client = client(&net, &["client1", "client2", "client3"]);
        client.put("k", "v").await.unwrap();
        let report = client.leader_status().await.unwrap();
        assert_eq!(report.peers.iter().filter(|peer| peer.answers).count(), 2, "{report:?}");
        let to = NodeId(report.id % 3 + 1);
        assert_eq!(client.transfer_leader(Some(to)).await.unwrap(), to);
        let after = client.leader_status().await.unwrap();
        assert_eq!((after.id, after.term), (to.0, report.term + 1), "one election, no more");
        // The others have a new leader before this one has gone.
        let at = nodes.iter().position(|node| node.raft().id() == to).unwrap();
        let leaving = nodes.remove(at);
        leaving.shutdown().await;
        let leadership = *nodes[0].raft().leadership().borrow();
        assert!(leadership.leader.is_some_and(|leader| leader != to), "{leadership:?}");
        assert_eq!(leadership.term.0, after.term + 1);
        for node in nodes {
            node.shutdown().await;
        }
    });
}

#[test]
fn a_leader_that_is_stopped_hands_over_before_it_refuses_anything() {
    run(async {
        let (net, dir) = (net(), tempfile::tempdir().unwrap());
        let mut nodes = three(&net, dir.path()).await;
        let client = client(&net, &["client1", "client2", "client3"]);
        client.put("large", vec![0; 1 << 20]).await.unwrap();
        let leader = client.leader_status().await.unwrap().id;
        // A client that does not read its answers holds the stop up for as long as it may.
        let address = format!("client{leader}");
        let mut deaf = FrameStream::new(net.connect(&address).await.unwrap(), FRAME_BYTES_MAX);
        deaf.push(&ClientHello::CURRENT).unwrap();
        for id in 0..20 {
            deaf.push(&Request { id, body: range_of("large", ReadMode::Serializable) }).unwrap();
        }
        deaf.send().await.unwrap();
        let at = nodes.iter().position(|node| node.raft().id().0 == leader).unwrap();
        let stopping = tokio::spawn(nodes.remove(at).shutdown());
        // The others do not wait for that.
        for n in 0..10 {
            client.put("k", n.to_string()).await.unwrap();
        }
        assert_ne!(client.leader_status().await.unwrap().id, leader);
        assert!(!stopping.is_finished(), "it is still waiting for its client");
        drop(deaf);
        stopping.await.unwrap();
        for node in nodes {
            node.shutdown().await;
        }
    });
}
