//! Marks: places that a simulation should come to now and then.
//!
//! `sometimes!("room/what")` stands where something happens that is rare or hard to bring about. In a build with
//! `--cfg marks` a process remembers which of them it came to; in every other build the mark is nothing at all. A sweep
//! counts in how many worlds each mark was hit. One that is never hit is a finding: either the simulation is too weak to
//! get there, or nothing can, and the code behind the mark is dead.
//!
//! `sim/marks.txt` lists all of them, so that one that was never hit is known; a test holds the list against the source.

#[cfg(marks)]
mod registry {
    use std::collections::BTreeSet;
    use std::sync::{Mutex, PoisonError};

    static HIT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

    /// Remembers that this process came here.
    pub fn hit(id: &'static str) {
        HIT.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Where this process has been.
    #[must_use]
    pub fn all() -> Vec<&'static str> {
        HIT.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

#[cfg(marks)]
pub use registry::{all, hit};

/// A place that a simulation should come to now and then. See `marks.rs`.
#[macro_export]
macro_rules! sometimes {
    ($id:literal) => {
        #[cfg(marks)]
        {
            use std::sync::atomic::{AtomicBool, Ordering};
            // The list is told of the first time only: a mark may stand on a hot path.
            static HIT: AtomicBool = AtomicBool::new(false);
            if !HIT.swap(true, Ordering::Relaxed) {
                $crate::mark_hit($id);
            }
        }
    };
}
