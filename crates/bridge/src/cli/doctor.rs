//! `doctor`: where does it end, and what to do.

use super::{ConfigArg, DONE, FAILED, Outcome, say, short_runtime};
use crate::doctor::{State, examine};
use clap::Args;

/// `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn doctor(args: &DoctorArgs) -> Outcome {
    let report = short_runtime()?.block_on(examine(&args.config.config));
    match args.json {
        true => say(&serde_json::to_string_pretty(&report)?),
        false => say(&report.to_string()),
    }
    Ok(if report.state == State::Fail {
        FAILED
    } else {
        DONE
    })
}
