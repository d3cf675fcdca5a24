//! `raftkv member`, `raftkv leader` and `raftkv lease`: who is in the cluster, who leads it, and on what terms.
//!
//! | file | what it is |
//! |---|---|
//! | `view.rs` | the cluster as its leader sees it |
//! | `change.rs` | a change step by step: look, reckon, do, look again |
//!
//! Safe by default. A new node is asked at its address before anything is changed, comes in as a learner, and votes
//! only once it has caught up. Every change of voters first says how many may fail before and after it, and is refused
//! if it would ask for a quorum that is not there. A change names the configuration that was reckoned with, so that of
//! two operators one is refused. All commands can be given again: they do what is missing.

mod change;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use kv::client::NewMember;
use kv::wire::{MemberRefusal, MemberRole};
use raft::core::{Change, Lease, Member, NodeId};
use serde_json::json;

use crate::Failure;
use crate::cli::{
    AddArgs, LeaderArgs, LeaderCommand, LeaseArgs, LeaseCommand, ListArgs, MemberArgs, MemberCommand,
    OneArgs, PromoteArgs, ReplaceArgs, UpdateArgs,
};
use crate::commands::{NEGATIVE, client, print, print_json, process_seed, yes_if};
use crate::config::{Addresses, MemberFlag};

use change::{Changing, Verdict, is_nothing};
use view::{View, client_address};

pub(crate) use view::{lease_json, lease_text};

pub(crate) async fn member(args: MemberArgs) -> Result<ExitCode, Failure> {
    match args.command {
        MemberCommand::List(args) => list(args).await,
        MemberCommand::Add(args) => add(args).await,
        MemberCommand::Promote(args) => promote(args).await,
        MemberCommand::Demote(args) => demote(args).await,
        MemberCommand::Remove(args) => remove(args).await,
        MemberCommand::Replace(args) => replace(args).await,
        MemberCommand::Update(args) => update(args).await,
    }
}

async fn list(args: ListArgs) -> Result<ExitCode, Failure> {
    let view = View::of(&client(&args.client, process_seed())?).await?;
    if args.client.json {
        print_json(&view.json())?;
    } else {
        print(view.table().trim_end().as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn refused(refusal: MemberRefusal) -> Failure {
    Failure::Definite(refusal.to_string())
}

/// Whether it is a member under these very addresses.
fn is_same(member: Option<&Member>, addresses: &Addresses) -> bool {
    member
        .is_some_and(|member| member.address == addresses.peer && client_address(member) == addresses.client)
}

/// What is said of a new member that has not caught up in time.
fn still_behind(id: NodeId, what_then: &str) -> ExitCode {
    eprintln!("raftkv: member {} has not caught up yet; {what_then}", id.0);
    ExitCode::from(NEGATIVE)
}

/// Adds a learner, unless it is in already. The view afterwards.
async fn add_learner(
    changing: &Changing,
    view: View,
    new: &MemberFlag,
    joining: bool,
) -> Result<View, Failure> {
    let MemberFlag { id, addresses } = new;
    let id = NodeId(*id);
    if view.role(id).is_some() {
        return Ok(view);
    }
    let (peer, client) = (addresses.peer.clone(), addresses.client.clone());
    let member = NewMember { id, peer, client, joining };
    let result = changing.client.add_member(member, Some(view.membership.index)).await;
    changing.made(result, |view| view.role(id).is_some()).await?;
    changing.look().await
}

/// Refuses a new member whose id is taken by another.
fn check_new(view: &View, new: &MemberFlag) -> Result<(), Failure> {
    let id = NodeId(new.id);
    if view.is_removed(id) {
        return Err(refused(MemberRefusal::IdUsed(id)));
    }
    if view.role(id).is_some() && !is_same(view.member(id), &new.addresses) {
        return Err(refused(MemberRefusal::AlreadyMember(id)));
    }
    Ok(())
}

async fn add(args: AddArgs) -> Result<ExitCode, Failure> {
    let id = NodeId(args.member.id);
    let mut changing = Changing::new(&args.change)?;
    let view = changing.look().await?;
    check_new(&view, &args.member)?;
    if view.role(id).is_none() {
        let member = Member::default();
        let changes = [Change::AddLearner { id, member, joining: !args.learner }];
        if let Verdict::Stop { safe } = changing.reckon(&view, &changes, Some(id))? {
            changing.tell_reckoned()?;
            return Ok(yes_if(safe));
        }
    }
    let view = add_learner(&changing, view, &args.member, !args.learner).await?;
    match view.role(id) {
        Some(MemberRole::Joining) => {}
        Some(MemberRole::Learner) => {
            changing.tell(&format!("member {} is a learner", id.0)).await?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {
            changing.tell(&format!("member {} is a voter", id.0)).await?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    if args.wait.wait == Duration::ZERO {
        changing.tell(&format!("member {} is joining", id.0)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    match changing.wait_for_vote(id, args.wait.wait).await? {
        Some(_) => {
            changing.tell(&format!("member {} is a voter", id.0)).await?;
            Ok(ExitCode::SUCCESS)
        }
        None => Ok(still_behind(id, "it becomes a voter by itself when it has")),
    }
}

async fn promote(args: PromoteArgs) -> Result<ExitCode, Failure> {
    let id = NodeId(args.id);
    let mut changing = Changing::new(&args.change)?;
    let mut view = changing.look().await?;
    match view.role(id) {
        None => return Err(refused(MemberRefusal::NotMember(id))),
        Some(MemberRole::Voter) => return Err(refused(MemberRefusal::AlreadyVoter(id))),
        Some(_) => {}
    }
    let changes = vec![Change::Promote(id)];
    if let Verdict::Stop { safe } = changing.reckon(&view, &changes, None)? {
        changing.tell_reckoned()?;
        return Ok(yes_if(safe));
    }
    if !args.change.force {
        match changing.wait_for_log(id, args.wait.wait).await? {
            Some(later) => view = later,
            None => return Ok(still_behind(id, "give the command again later")),
        }
        changing.check(&view, &changes)?;
    }
    if view.role(id) != Some(MemberRole::Voter) {
        let made = |view: &View| view.role(id) == Some(MemberRole::Voter);
        changing.make(&view, changes, made).await?;
    }
    changing.tell(&format!("member {} is a voter", id.0)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn demote(args: OneArgs) -> Result<ExitCode, Failure> {
    let id = NodeId(args.id);
    let mut changing = Changing::new(&args.change)?;
    let view = changing.look().await?;
    match view.role(id) {
        None => return Err(refused(MemberRefusal::NotMember(id))),
        Some(MemberRole::Learner) => {
            changing.tell(&format!("member {} is a learner already", id.0)).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(_) => {}
    }
    let changes = vec![Change::Demote(id)];
    if let Verdict::Stop { safe } = changing.reckon(&view, &changes, None)? {
        changing.tell_reckoned()?;
        return Ok(yes_if(safe));
    }
    changing.make(&view, changes, |view| view.role(id) == Some(MemberRole::Learner)).await?;
    changing.tell(&format!("member {} is a learner", id.0)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(args: OneArgs) -> Result<ExitCode, Failure> {
    let id = NodeId(args.id);
    let mut changing = Changing::new(&args.change)?;
    let view = changing.look().await?;
    if view.role(id).is_none() {
        if view.is_removed(id) {
            changing.tell(&format!("member {} is removed already", id.0)).await?;
            return Ok(ExitCode::SUCCESS);
        }
        return Err(refused(MemberRefusal::NotMember(id)));
    }
    let changes = vec![Change::Remove(id)];
    if let Verdict::Stop { safe } = changing.reckon(&view, &changes, None)? {
        changing.tell_reckoned()?;
        return Ok(yes_if(safe));
    }
    changing.make(&view, changes, |view| view.role(id).is_none()).await?;
    changing.tell(&format!("member {} is removed", id.0)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn replace(args: ReplaceArgs) -> Result<ExitCode, Failure> {
    let (old, new) = (NodeId(args.old), NodeId(args.new.id));
    if old == new {
        return Err(Failure::Definite(
            "the new member needs an id of its own: ids are not used again".to_owned(),
        ));
    }
    let mut changing = Changing::new(&args.change)?;
    let view = changing.look().await?;
    check_new(&view, &args.new)?;
    let done = format!("member {} is in the place of member {}", new.0, old.0);
    match (view.role(old), view.role(new)) {
        (None, Some(MemberRole::Voter | MemberRole::Learner)) if view.is_removed(old) => {
            changing.tell(&done).await?;
            return Ok(ExitCode::SUCCESS);
        }
        (None, _) => return Err(refused(MemberRefusal::NotMember(old))),
        _ => {}
    }
    if let Verdict::Stop { safe } = changing.reckon(&view, &steps(&view, old, new), Some(new))? {
        changing.tell_reckoned()?;
        return Ok(yes_if(safe));
    }
    // As a learner that does not become a voter by itself: it comes in when the other goes, at once.
    let view = add_learner(&changing, view, &args.new, false).await?;
    let view = match view.role(new) {
        Some(MemberRole::Voter) => view,
        _ => match changing.wait_for_log(new, args.wait.wait).await? {
            Some(view) => view,
            None => return Ok(still_behind(new, "give the command again later")),
        },
    };
    let changes = steps(&view, old, new);
    changing.check(&view, &changes)?;
    let made = |view: &View| view.role(old).is_none() && view.role(new).is_some();
    changing.make(&view, changes, made).await?;
    changing.tell(&done).await?;
    Ok(ExitCode::SUCCESS)
}

/// What replaces `old` by `new`, once that has caught up: it becomes what `old` is.
fn steps(view: &View, old: NodeId, new: NodeId) -> Vec<Change> {
    let mut steps = vec![Change::Remove(old)];
    if view.role(old) == Some(MemberRole::Voter) && view.role(new) != Some(MemberRole::Voter) {
        steps.push(Change::Promote(new));
    }
    steps
}

async fn update(args: UpdateArgs) -> Result<ExitCode, Failure> {
    let MemberFlag { id, addresses } = args.member;
    let id = NodeId(id);
    let client = client(&args.client, process_seed())?;
    let view = View::of(&client).await?;
    let (Some(_), Some(known)) = (view.role(id), view.member(id)) else {
        return Err(refused(MemberRefusal::NotMember(id)));
    };
    if !is_same(Some(known), &addresses) {
        let member = Member {
            incarnation: known.incarnation,
            address: addresses.peer.clone(),
            context: addresses.client.clone().into(),
        };
        let changes = vec![Change::Update { id, member }];
        client.change_members(changes, Some(view.membership.index)).await?;
    }
    if args.client.json {
        print_json(&View::of(&client).await?.json())?;
    } else {
        let Addresses { peer, client } = addresses;
        print(format!("member {} serves peers at {peer} and clients at {client}", id.0).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn leader(args: LeaderArgs) -> Result<ExitCode, Failure> {
    let LeaderCommand::Transfer(args) = args.command;
    let client = client(&args.client, process_seed())?;
    let leader = client.transfer_leader(args.to.map(NodeId)).await?;
    if args.client.json {
        print_json(&json!({ "leader": leader.0 }))?;
    } else {
        print(format!("member {} leads", leader.0).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn lease(args: LeaseArgs) -> Result<ExitCode, Failure> {
    let client_args = args.command.client_args().clone();
    let client = client(&client_args, process_seed())?;
    let changed = match args.command {
        LeaseCommand::Show(_) => client.membership().await,
        LeaseCommand::Off(_) => client.set_lease(None).await,
        LeaseCommand::On(on) => {
            let lease = Lease { duration_ms: on.duration_ms, drift_ppm: on.drift_ppm };
            client.set_lease(Some(lease)).await
        }
    };
    let membership = match changed {
        // It is as was asked for.
        Err(error) if is_nothing(&error) => client.membership().await?,
        changed => changed?,
    };
    let lease = membership.configuration.lease;
    if client_args.json {
        print_json(&json!({ "lease": lease_json(lease) }))?;
    } else {
        print(lease_text(lease).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
