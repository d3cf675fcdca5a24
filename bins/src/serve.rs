//! `raftkv serve`: one node.
use crate::Failure;
use crate::cli::ServeArgs;
use crate::config::NodeConfig;
use std::process::ExitCode;
pub(crate) async fn serve(args: ServeArgs) -> Result<ExitCode, Failure> {
    let config = NodeConfig::load(args.config.as_deref(), args.overrides())?;
    let _ = config;
    Ok(ExitCode::SUCCESS)
}
