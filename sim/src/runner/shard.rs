//! A part of a sweep that several machines share.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Shard `index` of `of`, counted from 0: every `of`-th world, from the one of that number on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which.
    pub index: u64,
    /// Of how many.
    pub of: u64,
}

impl Default for Shard {
    /// All of it.
    fn default() -> Self {
        Self { index: 0, of: 1 }
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts =
            text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        let shard = parts.map(|(index, of)| Self { index, of }).filter(|shard| shard.index < shard.of);
        shard.ok_or_else(|| format!("{text:?} is no shard; write I/N with I from 0 to N - 1"))
    }
}

impl Shard {
    /// Its part of `all`.
    pub fn of<T>(self, all: impl Iterator<Item = T> + Send + 'static) -> Box<dyn Iterator<Item = T> + Send> {
        let step = usize::try_from(self.of).unwrap_or(usize::MAX);
        Box::new(all.skip(usize::try_from(self.index).unwrap_or(usize::MAX)).step_by(step))
    }

    /// How many of `count` are its own.
    #[must_use]
    pub const fn share_of(self, count: u64) -> u64 {
        (count + self.of - 1 - self.index) / self.of
    }
}

/// Reads a length of time: `90s`, `15m`, `8h`, `1h30m`.
///
/// # Errors
/// It is none.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is no length of time; write 90s, 15m, 8h or 1h30m");
    let (mut seconds, mut digits) = (0_u64, String::new());
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        let unit = match letter {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        digits.clear();
    }
    if text.is_empty() || !digits.is_empty() {
        Err(wrong())
    } else {
        Ok(std::time::Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_part_the_whole_and_each_knows_its_share() {
        for of in 1..6 {
            let mut all = Vec::new();
            for index in 0..of {
                let shard: Shard = format!("{index}/{of}").parse().unwrap();
                let own: Vec<u64> = shard.of(0..17).collect();
                assert_eq!(own.len() as u64, shard.share_of(17));
                all.extend(own);
            }
            all.sort_unstable();
            assert_eq!(all, (0..17).collect::<Vec<_>>());
        }
        for wrong in ["", "3/3", "1", "a/b", "-1/2", "0/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn lengths_of_time_are_read() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("8h"), Ok(28_800));
        assert_eq!(seconds("1h30m"), Ok(5_400));
        for wrong in ["", "8", "h", "1x", "1h30", "999999999999999999999h", "9999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
