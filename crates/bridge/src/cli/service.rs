//! `service`: installs and controls the bridge as a service of this machine, or of one user.
//!
//! ```text
//! install: account -> directories -> service check, as that account -> unit -> enable, restart -> wait until online
//! ```
//!
//! Each step says what it did. The exit code of `install` is that of the whole: 0 only when the bridge is connected.
//!
//! `linux` has the steps for systemd, `windows` those for the service control manager. Each platform has the same functions: `install`, `uninstall`, `start`, `stop`,
//! `restart` and `status`.

#[cfg(unix)]
mod access;
#[cfg(unix)]
mod account;
#[cfg(unix)]
mod linux;
#[cfg(any(unix, windows))]
mod shared;
#[cfg(unix)]
mod systemd;
#[cfg(unix)]
mod unit;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use linux as platform;
#[cfg(windows)]
use windows as platform;
#[cfg(windows)]
pub(super) use windows::run_process;

use super::common::{ConfigArg, Outcome};
use clap::{Args, Subcommand};
use runtime::config::Timeout;
#[cfg(unix)]
use std::path::PathBuf;

/// The name of the service and of its account.
pub(super) const NAME: &str = "integration-bridge";

/// `service`.
#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Write the unit of the service, enable it, start or restart it, and wait until it is connected. Needs root, except
    /// with --user.
    Install(InstallArgs),
    /// Stop the service, disable it and remove its unit. Config and data stay. Needs root, except with --user.
    Uninstall(UninstallArgs),
    /// Start the service.
    Start(ScopeArgs),
    /// Stop the service. Running requests may finish for up to 30 s.
    Stop(ScopeArgs),
    /// Restart the service. Running requests may finish for up to 30 s.
    Restart(ScopeArgs),
    /// Show the status of the service (`systemctl status`).
    Status(ScopeArgs),
    /// Try what the service needs, as the account that runs this command. `install` runs it as the service's account.
    #[cfg(unix)]
    #[command(hide = true)]
    Check(ConfigArg),
}

/// Which service: that of the machine, or that of a user.
#[derive(Debug, Args)]
pub(super) struct ScopeArgs {
    /// The service of your own user, as a systemd user unit, without root.
    #[cfg(unix)]
    #[arg(long)]
    user: bool,
}

/// The unit's file.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(super) struct UnitArgs {
    /// The directory in which the service manager finds units. Defaults to /etc/systemd/system, and with --user to
    /// ~/.config/systemd/user.
    #[arg(long, value_name = "DIR")]
    unit_dir: Option<PathBuf>,
}

/// `service install`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  integration-bridge service install --config /etc/integration-bridge/bridge.toml
  integration-bridge service install --user --config ~/.config/integration-bridge/bridge.toml

Pair the bridge first. Exit code 0: the service runs and is connected. Otherwise
standard error has the reason.")]
pub(super) struct InstallArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    scope: ScopeArgs,
    /// The account that runs the bridge. Only the default one is created if it does not exist.
    #[cfg(unix)]
    #[arg(long, default_value = NAME, value_name = "NAME", conflicts_with = "user")]
    account: String,
    /// The account that runs the bridge. It has no password: a group managed service account (DOMAIN\NAME$), or an account
    /// of the system.
    #[cfg(windows)]
    #[arg(long, default_value = bridge_windows::service::ACCOUNT, value_name = "NAME")]
    account: String,
    /// How long to wait until the bridge is connected.
    #[arg(long, default_value = "30s", value_name = "TIME")]
    wait: Timeout,
    /// Only write the unit, without calling the service manager. This only warns of what would not work.
    #[arg(long)]
    no_start: bool,
    #[cfg(unix)]
    #[command(flatten)]
    unit: UnitArgs,
}

/// `service uninstall`.
#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Only remove the unit, without calling the service manager.
    #[arg(long)]
    no_start: bool,
    #[cfg(unix)]
    #[command(flatten)]
    unit: UnitArgs,
}

/// Runs a command.
pub(super) fn run(command: &ServiceCommand) -> Outcome {
    // The steps are those of systemd, which no other Unix has.
    if cfg!(all(unix, not(target_os = "linux"))) {
        return Err(UNSUPPORTED.into());
    }
    match command {
        ServiceCommand::Install(args) => platform::install(args),
        ServiceCommand::Uninstall(args) => platform::uninstall(args),
        ServiceCommand::Start(args) => platform::start(args),
        ServiceCommand::Stop(args) => platform::stop(args),
        ServiceCommand::Restart(args) => platform::restart(args),
        ServiceCommand::Status(args) => platform::status(args),
        #[cfg(unix)]
        ServiceCommand::Check(config) => access::check(config),
    }
}

const UNSUPPORTED: &str = "`service` does not support this system; start `integration-bridge run` by its service manager \
                           (deploy/guide/installation.md)";

/// Systems without steps of their own.
#[cfg(not(any(unix, windows)))]
mod platform {
    use super::{InstallArgs, Outcome, ScopeArgs, UNSUPPORTED, UninstallArgs};

    pub(super) fn install(_: &InstallArgs) -> Outcome {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn uninstall(_: &UninstallArgs) -> Outcome {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn start(_: &ScopeArgs) -> Outcome {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn stop(_: &ScopeArgs) -> Outcome {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn restart(_: &ScopeArgs) -> Outcome {
        Err(UNSUPPORTED.into())
    }

    pub(super) fn status(_: &ScopeArgs) -> Outcome {
        Err(UNSUPPORTED.into())
    }
}
