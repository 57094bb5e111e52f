//! `status`, `reload` and `log-level`: requests to the running bridge over its control socket.

use super::common::{ConfigArg, DONE, FAILED, Outcome, print};
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::socket;
use crate::status::Status;
use clap::Args;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// How often `--watch` prints.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print the status every 2 seconds until interrupted.
    #[arg(long)]
    watch: bool,
}

/// Returns the status of the bridge that runs with this data directory.
pub(super) fn status_of(data_dir: &Path) -> Result<Status, Box<dyn Error>> {
    match socket::send(data_dir, &ControlRequest::Status)? {
        ControlResponse::Status(status) => Ok(*status),
        ControlResponse::Done | ControlResponse::Failed(_) => {
            Err("the running bridge sent an unexpected response; is it of another version?".into())
        }
    }
}

pub(super) fn status(args: &StatusArgs) -> Outcome {
    let data_dir = args.config.data_dir()?;
    loop {
        let status = status_of(&data_dir)?;
        if args.json {
            let text = match args.watch {
                true => serde_json::to_string(&status)?,
                false => serde_json::to_string_pretty(&status)?,
            };
            print(&text);
        } else {
            if args.watch {
                runtime::output::clear_terminal();
            }
            print(status.to_string().trim_end());
        }
        // The reader of a pipe has gone: an endless loop would never notice.
        if runtime::output::is_lost() {
            return Ok(FAILED);
        }
        if !args.watch {
            return Ok(if status.online { DONE } else { FAILED });
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

pub(super) fn reload(config: &ConfigArg) -> Outcome {
    socket::send(&config.data_dir()?, &ControlRequest::Reload)?;
    print("config reloaded");
    Ok(DONE)
}

/// `log-level`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  integration-bridge log-level debug
  integration-bridge log-level info,integration_bridge::dispatcher=debug")]
pub(super) struct LogLevelArgs {
    /// A level (error, warn, info, debug, trace), or filters by module in the syntax of BRIDGE_LOG.
    filter: String,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn log_level(args: &LogLevelArgs) -> Outcome {
    let data_dir = args.config.data_dir()?;
    let request = ControlRequest::LogLevel {
        filter: args.filter.clone(),
    };
    socket::send(&data_dir, &request)?;
    print("log filter changed until the bridge restarts");
    Ok(DONE)
}
