//! `status`, `reload`, `log-level`: what is asked of the running bridge over its local socket.

use super::{ConfigArg, DONE, FAILED, Outcome, say};
use crate::control::message::{ControlRequest, ControlResponse};
use crate::control::socket;
use crate::status::Status;
use clap::Args;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(2);

/// `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Again every two seconds, until it is interrupted
    #[arg(long)]
    watch: bool,
}

/// The status of the bridge that runs on this data directory.
pub(super) fn status_of(data_dir: &Path) -> Result<Status, Box<dyn Error>> {
    match socket::send(data_dir, &ControlRequest::Status)? {
        ControlResponse::Status(status) => Ok(*status),
        ControlResponse::Done | ControlResponse::Failed(_) => {
            Err("the answer is not understood".into())
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
            say(&text);
        } else {
            if args.watch {
                // Clear the terminal, and begin at its top.
                say("\u{1b}[2J\u{1b}[H");
            }
            say(status.to_string().trim_end());
        }
        if runtime::output::is_lost() {
            return Ok(FAILED);
        }
        if !args.watch {
            return Ok(if status.online { DONE } else { FAILED });
        }
        std::thread::sleep(EVERY);
    }
}

pub(super) fn reload(config: &ConfigArg) -> Outcome {
    socket::send(&config.data_dir()?, &ControlRequest::Reload)?;
    say("the config was read again and is in force");
    Ok(DONE)
}

/// `log-level`.
#[derive(Debug, Args)]
pub(super) struct LogLevelArgs {
    /// error, warn, info, debug or trace; or filters by module, as BRIDGE_LOG has them
    filter: String,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn log_level(args: &LogLevelArgs) -> Outcome {
    let data_dir = args.config.data_dir()?;
    let question = ControlRequest::LogLevel {
        filter: args.filter.clone(),
    };
    socket::send(&data_dir, &question)?;
    say("the running bridge logs so from now on, until it is restarted");
    Ok(DONE)
}
