//! The larger of the small worlds of `raft/tests/exhaustive`: every state of them, walked by a model checker. Minutes, and
//! some GiB of memory:
//!
//! ```text
//! cargo run --profile sim -p raftkv-raft --example worlds
//! ```

#[path = "../tests/exhaustive/world.rs"]
mod world;

use world::{fixed, replacing, walk};

fn main() {
    walk(replacing(2, 1, 1, 1));
    walk(replacing(1, 1, 1, 1));
    walk(replacing(1, 2, 0, 0));
    walk(fixed(3, 2, 1, 0, 0));
}
