//! `service`: installs the bridge as a service of this machine (systemd).
//!
//! ```text
//! install: user -> directories -> service check, as that user -> unit -> enable, restart -> wait until online
//! ```
//!
//! Each step says what it did. The exit code is that of the whole: 0 only when the bridge is connected.

#[cfg(unix)]
mod access;
#[cfg(unix)]
mod account;
#[cfg(unix)]
mod systemd;
#[cfg(unix)]
mod unit;

use super::common::ConfigArg;
use clap::{Args, Subcommand};
use runtime::config::Timeout;
use std::path::PathBuf;

/// The name of the unit.
pub(super) const NAME: &str = "integration-bridge";

/// `service`.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Write the unit of the service, enable it, start or restart it, and wait until it is connected. Needs root.
    Install(InstallArgs),
    /// Stop the service, disable it and remove its unit. Config and data stay. Needs root.
    Uninstall(UnitArgs),
    /// Show the status of the service (`systemctl status`).
    Status,
    /// Try what the service needs, as the user that runs this command. `install` runs it as the service's user.
    #[command(hide = true)]
    Check(ConfigArg),
}

/// The unit's file.
#[derive(Debug, Args)]
pub(super) struct UnitArgs {
    /// The directory in which the service manager finds units.
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    unit_dir: PathBuf,
    /// Only write or remove the file, without calling the service manager. `install` then only warns of what would not
    /// work.
    #[arg(long)]
    no_start: bool,
}

/// `service install`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  integration-bridge service install --config /etc/integration-bridge/bridge.toml

Pair the bridge first. Exit code 0: the service runs and is connected. Otherwise
standard error has the reason.")]
pub(super) struct InstallArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The user that runs the bridge. Only the default one is created if it does not exist.
    #[arg(long, default_value = NAME, value_name = "USER")]
    user: String,
    /// How long to wait until the bridge is connected.
    #[arg(long, default_value = "30s", value_name = "TIME")]
    wait: Timeout,
    #[command(flatten)]
    unit: UnitArgs,
}

#[cfg(not(unix))]
pub(super) fn run(_: &ServiceCommand) -> super::common::Outcome {
    Err(UNSUPPORTED.into())
}

const UNSUPPORTED: &str = "`service` supports systemd only; on this system install the service by hand \
                           (deploy/guide/installation.md)";

#[cfg(unix)]
pub(super) use install::run;

#[cfg(unix)]
mod install;
