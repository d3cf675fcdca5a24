//! Exactly once (§6.3): what a client wrote is in the store's history at most once, however often it was sent.
//!
//! Every write has a value of its own. That holds without a session too: the client library does not send such a
//! write again once it may have been done.

use std::collections::BTreeMap;

use crate::report::{Failure, Witness};

/// Where each written value was found.
#[derive(Default)]
pub struct ExactlyOnce {
    found: BTreeMap<u32, (u64, String)>,
}

impl ExactlyOnce {
    /// What operation `number` wrote was found to be written at `revision` of `key`.
    ///
    /// # Errors
    /// It was found elsewhere before.
    pub fn found(&mut self, number: u32, revision: u64, key: &str) -> Result<(), Failure> {
        let first = self.found.entry(number).or_insert_with(|| (revision, key.to_owned()));
        if first.0 == revision && first.1 == key {
            return Ok(());
        }
        let text = format!(
            "operation #{number} was done at revision {} of {} and again at revision {revision} of {key}",
            first.0, first.1
        );
        Err(Failure::new("exactly once", text).seen_in([Witness::Operation { number }]))
    }

    /// Where what operation `number` wrote was found, if anywhere.
    #[must_use]
    pub fn revision_of(&self, number: u32) -> Option<u64> {
        self.found.get(&number).map(|(revision, _)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_is_found_twice_breaks_exactly_once() {
        let mut exactly_once = ExactlyOnce::default();
        assert!(exactly_once.found(3, 10, "k0").is_ok());
        assert!(exactly_once.found(3, 10, "k0").is_ok());
        assert_eq!(exactly_once.revision_of(3), Some(10));
        assert_eq!(exactly_once.revision_of(4), None);
        assert_eq!(exactly_once.found(3, 12, "k0").unwrap_err().rule, "exactly once");
    }
}
