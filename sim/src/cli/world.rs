//! The arguments that fix a world, shared by the commands that run one.

use std::path::PathBuf;

use clap::Args;

use crate::plan::{Plan, PlanError};
use crate::scenario::{Fixed, Leases, StoreKind};

/// What is fixed of each world; the rest is drawn from its seed.
#[derive(Args, Clone, Debug, Default)]
pub struct WorldArguments {
    /// What the stores keep their data in.
    #[arg(long, value_enum, default_value_t)]
    pub store: StoreKind,
    /// How many nodes; drawn if not given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: Option<u8>,
    /// Whether leaders may answer reads by lease, and whether the clocks keep to what leases rely on.
    #[arg(long, value_enum, default_value_t)]
    pub leases: Leases,
    /// Run plans that take a planted bug to break a rule without that bug.
    #[arg(long)]
    pub sound: bool,
}

impl WorldArguments {
    /// The same, for [`Plan::draw`].
    #[must_use]
    pub const fn fixed(&self) -> Fixed {
        Fixed { nodes: self.nodes, store: self.store, leases: self.leases }
    }

    /// The same, for another process's command line.
    #[must_use]
    pub fn to_command_line(&self) -> Vec<String> {
        let mut line = Vec::new();
        if self.store != StoreKind::default() {
            line.extend(["--store".to_owned(), self.store.name().to_owned()]);
        }
        if let Some(nodes) = self.nodes {
            line.extend(["--nodes".to_owned(), nodes.to_string()]);
        }
        if self.leases != Leases::default() {
            line.extend(["--leases".to_owned(), self.leases.name().to_owned()]);
        }
        if self.sound {
            line.push("--sound".to_owned());
        }
        line
    }
}

/// Refuses a plan that is about a planted bug, if this build has none.
pub(super) fn refuse_mutant(plan: &Plan, sound: bool) -> Result<(), String> {
    match &plan.mutant {
        Some(mutant) if cfg!(not(mutants)) && !sound => Err(format!(
            "the plan is about the planted bug {mutant}, and this build has none: use `cargo mutants-build` and \
             target/mutants/sim/raftkv-sim, or run the plan without the bug (--sound)"
        )),
        _ => Ok(()),
    }
}

/// Sees to it that the planted bug which a plan names is the one in this process: its own process begins anew with it,
/// if need be. A plan that names none takes the one of the environment, if there is one.
///
/// # Errors
/// There are no planted bugs in this build.
#[cfg(madsim)]
pub(super) fn choose_mutant(plan: &Plan, sound: bool) -> Result<(), String> {
    use std::os::unix::process::CommandExt as _;
    refuse_mutant(plan, sound)?;
    let chosen = std::env::var("RAFTKV_MUTANT").ok();
    let wanted = match &plan.mutant {
        Some(_) if sound => None,
        Some(mutant) => Some(mutant.clone()),
        None => return Ok(()),
    };
    if wanted == chosen {
        return Ok(());
    }
    let mut again = std::process::Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
    again.args(std::env::args_os().skip(1)).env_remove("RAFTKV_MUTANT");
    if let Some(mutant) = wanted {
        again.env("RAFTKV_MUTANT", mutant);
    }
    Err(again.exec().to_string())
}

/// A world: a seed, or a plan in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum World {
    /// Drawn from a seed.
    Seed(u64),
    /// Read from a file.
    File(PathBuf),
}

impl std::str::FromStr for World {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::File(text.into()), Self::Seed))
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Seed(seed) => seed.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl World {
    /// The world's plan.
    ///
    /// # Errors
    /// The file cannot be read, or is no plan.
    pub fn plan(&self, fixed: Fixed) -> Result<Plan, PlanError> {
        match self {
            Self::Seed(seed) => Ok(Plan::draw(*seed, fixed)),
            Self::File(path) => Plan::load(path),
        }
    }
}

/// Seeds from `first` up to but not including `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedRange {
    /// The first.
    pub first: u64,
    /// The one after the last; the greatest number of all if there is no last one.
    pub end: u64,
}

impl std::fmt::Display for SeedRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.end {
            u64::MAX => write!(f, "{}..", self.first),
            end => write!(f, "{}..{end}", self.first),
        }
    }
}

impl std::str::FromStr for SeedRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let range = text.split_once("..").and_then(|(first, end)| {
            let end = if end.is_empty() { u64::MAX } else { end.parse().ok()? };
            let first = first.parse().ok()?;
            (first < end).then_some(Self { first, end })
        });
        range
            .ok_or_else(|| format!("{text:?} is no range of seeds; write A..B with A below B (B is not run)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_and_ranges_are_read() {
        assert_eq!("17".parse(), Ok(World::Seed(17)));
        assert_eq!("a/plan.json".parse(), Ok(World::File("a/plan.json".into())));
        assert_eq!("3..5".parse(), Ok(SeedRange { first: 3, end: 5 }));
        assert_eq!("3..".parse(), Ok(SeedRange { first: 3, end: u64::MAX }));
        assert_eq!(SeedRange { first: 3, end: u64::MAX }.to_string(), "3..");
        for wrong in ["5", "..", "..3", "5..5", "a..b", "7..3", ""] {
            assert!(wrong.parse::<SeedRange>().is_err(), "{wrong}");
        }
    }
}
