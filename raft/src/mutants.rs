//! Planted bugs, by which the simulator is measured.
//!
//! `mutant!("id")` stands at the place of a planted bug and is `true` only in a build with `--cfg mutants` whose
//! process was started with `RAFTKV_MUTANT=id`. In every other build it is the constant `false`, and the planted
//! code is not compiled in. A release build refuses the cfg, so that no server can carry one.

#[cfg(all(mutants, not(debug_assertions)))]
compile_error!(
    "`--cfg mutants` plants bugs on purpose and is refused without debug assertions; use `cargo mutants-build`"
);

/// Whether the planted bug `id` is chosen for this process.
#[cfg(mutants)]
pub fn active(id: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("RAFTKV_MUTANT").ok());
    // Several, if one of them is planted in what looks for the others.
    chosen.as_deref().is_some_and(|chosen| chosen.split(',').any(|one| one == id))
}

/// Whether the planted bug `id` is chosen for this process: never, in this build.
#[cfg(not(mutants))]
#[inline(always)]
pub const fn active(_id: &str) -> bool {
    false
}

/// The place of a planted bug: `if mutant!("vote-nosync") { .. }`. See `mutants.rs`.
#[macro_export]
macro_rules! mutant {
    ($id:literal) => {
        cfg!(mutants) && $crate::mutant_active($id)
    };
}
