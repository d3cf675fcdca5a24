//! A running node: the event loop that feeds the core and carries out its effects.
//!
//! | file | what it is |
//! |---|---|
//! | [`boot`](self) (`boot.rs`) | opens a data directory, forms or joins the cluster, brings store and log together |
//! | `rebuild.rs` | brings back a state that is lost, from this node's own files or from another member |
//! | `event_loop.rs` | the one task that owns the core |
//! | `events.rs` | what it makes of the core's events |
//! | `log_lane.rs` | the write side of the log: group commit |
//! | `apply_lane.rs` | the state machine: apply, checkpoints, snapshots, install |
//! | `snapshots.rs` | when a snapshot file is due, and who waits for one |
//! | `space.rs` | room on the disk, and the ballast |
//! | `divergence.rs` | whether all nodes make the same of the log |
//! | `waiters.rs` | who waits for which proposal or read |
//! | `membership.rs` | who waits for a change of membership, and whom the transport must reach meanwhile |
//! | `handover.rs` | who waits for a hand-over of the leadership; the stop of a leader |
//! | `origin.rs` | the first start of a node that is restored from a backup |
//! | `handle.rs` | how the rest of the process talks to the node |
//!
//! [`start`] makes a node of a state machine; [`RaftHandle`] is what it is used by.

mod apply_lane;
mod boot;
mod divergence;
mod event_loop;
mod events;
mod handle;
mod handover;
mod log_lane;
mod membership;
mod options;
mod origin;
mod rebuild;
mod snapshots;
mod space;
mod status;
mod waiters;

pub use boot::{StartError, start};
pub use handle::{Leadership, ProposeError, RaftHandle, ReadError, StopReason};
pub use handover::HandOverError;
pub use membership::{Membership, MembershipError};
pub use options::{NodeOptions, Observer, Seams};
pub use space::SpaceOptions;
pub use status::NodeStatus;
