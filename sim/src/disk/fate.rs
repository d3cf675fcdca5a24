//! What a power loss leaves of that which was not synced.

use super::draw::Draw;

/// How one power loss treats unsynced changes. Drawn once an image, since each kind finds bugs that a mix of all
/// would rarely show.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// Nothing of them survives.
    Lost,
    /// All of them survive, as after a crash of the process alone.
    Kept,
    /// Those up to this call survive: the disk wrote in order.
    InOrder(u64),
    /// Each on its own survives in so many of 100 cases: the disk wrote as it liked.
    Scattered(u64),
}

impl Fate {
    /// One for a disk that has seen `calls` mutating calls, the oldest unsynced of them being `oldest`.
    pub(super) fn draw(draw: &mut Draw, oldest: u64, calls: u64) -> Self {
        match draw.below(8) {
            0 => Self::Lost,
            1 => Self::Kept,
            2 | 3 => Self::InOrder(oldest + draw.below(calls.saturating_sub(oldest) + 1)),
            _ => Self::Scattered([10, 50, 50, 90][draw.below(4) as usize]),
        }
    }

    /// Whether a change made by the call of this number survives, where changes do not replace each other.
    pub(super) fn keeps(&self, draw: &mut Draw, call: u64) -> bool {
        match self {
            Self::Lost => false,
            Self::Kept => true,
            Self::InOrder(last) => call <= *last,
            Self::Scattered(percent) => draw.chance(*percent),
        }
    }

    /// Which of several versions of one thing survives, oldest first, each with its call; `None` for the one that
    /// was durable before.
    pub(super) fn choose<'v, T>(&self, draw: &mut Draw, versions: &'v [(u64, T)]) -> Option<&'v T> {
        let survivor = match self {
            Self::Lost => None,
            Self::Kept => versions.last(),
            Self::InOrder(last) => versions.iter().rev().find(|(call, _)| call <= last),
            Self::Scattered(percent) if draw.chance(*percent) => {
                versions.get(draw.below(versions.len().max(1) as u64) as usize)
            }
            Self::Scattered(_) => None,
        };
        survivor.map(|(_, version)| version)
    }
}
