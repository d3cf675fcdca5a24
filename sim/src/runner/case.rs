//! A failing world, written down for whoever is to find out why: its plan, and a page that shows the run.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::child::{self, End};
use crate::cli::{World, WorldArguments};
use crate::explain::{Story, why::Why};
use crate::page::{self, Title};
use crate::trace::Keep;

/// Runs `command`, which runs a world, and reads the story of it.
///
/// # Errors
/// Its events cannot be kept or read.
pub fn tell(mut command: Command, timeout: Duration, line: &mut dyn FnMut(&str)) -> io::Result<(End, Story)> {
    let events = tempfile::NamedTempFile::new()?;
    command.arg("--events").arg(events.path());
    let end = child::run(command, timeout, line);
    let story = Story::read(BufReader::new(events.reopen()?), end.failure().as_ref())?;
    Ok((end, story))
}

/// Writes a file with `write`, and names it if that fails.
///
/// # Errors
/// It cannot be written.
pub fn to_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut out = BufWriter::new(File::create(path).map_err(named)?);
    write(&mut out).and_then(|()| out.flush()).map_err(named)
}

/// Runs a world again that has failed, and writes its plan and its page into `directory`. Returns where the page is.
///
/// # Errors
/// They cannot be written.
pub fn write(
    world: &World,
    fixed: &WorldArguments,
    timeout: Duration,
    directory: &Path,
) -> io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let name = match world {
        World::Seed(seed) => seed.to_string(),
        World::File(path) => {
            path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
        }
    };
    let plan = directory.join(format!("{name}.plan.json"));
    let page = directory.join(format!("{name}.html"));
    let mut command = child::command(world, fixed, Keep::Nothing);
    command.env("RUST_BACKTRACE", "0").arg("--save-plan").arg(&plan);
    let (end, story) = tell(command, timeout, &mut |_| {})?;
    let (failure, reproduce) = (end.failure(), child::reproduce(world, fixed));
    let title = Title { world: &world.to_string(), reproduce: &reproduce, failure: failure.as_ref() };
    to_file(&page, |out| page::write(&story, &Why::of(&story), &title, out))?;
    Ok(page)
}
