//! The workload: what the clients do. [`draw`] makes up a plan's operations, `client` carries them out, `record`
//! keeps what was asked and answered, and `ledger` what the nodes' stores say happened.

pub mod draw;
pub mod record;

#[cfg(madsim)]
pub mod client;
#[cfg(madsim)]
pub mod ledger;

/// The name of a key.
#[must_use]
pub fn key_name(key: u16) -> String {
    format!("k{key}")
}

/// What operation `number` writes, in at least so many bytes.
#[must_use]
pub fn value_of(number: u32, bytes: u32) -> String {
    let tail = format!("v{number}");
    let fill = (bytes as usize).saturating_sub(tail.len());
    ".".repeat(fill) + &tail
}

/// What operation `number` adds to the end of a value.
#[must_use]
pub fn suffix_of(number: u32) -> String {
    format!("+{number}")
}

/// The operation that wrote a value, or added to it last.
#[must_use]
pub fn writer_of(value: &str) -> Option<u32> {
    value.rsplit(['v', '+']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_who_wrote_it_last() {
        assert_eq!(writer_of(&value_of(17, 0)), Some(17));
        assert_eq!(writer_of(&format!("{}{}", value_of(17, 100), suffix_of(4))), Some(4));
        assert_eq!(writer_of(&format!("{}{}", suffix_of(3), suffix_of(21))), Some(21));
        assert_eq!(value_of(17, 100).len(), 100);
        assert_eq!(writer_of("else"), None);
    }
}
