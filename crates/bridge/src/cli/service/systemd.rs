//! The service manager: its commands, and whether the service stays up and connects.

use super::super::common::print;
use super::super::status::status_of;
use super::NAME;
use super::account::is_root;
use super::shared::reason;
use crate::status::Status;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often the service is observed after its start.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// How long the service manager of a user may take to start.
const USER_MANAGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines of the journal that are shown for a service that ended.
const JOURNAL_LINES: &str = "15";

/// The directory that exists while systemd runs (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";

/// Which service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// That of the machine.
    System,
    /// That of the user who runs this command.
    User,
}

impl Scope {
    fn command(self) -> Command {
        let mut command = Command::new("systemctl");
        if self == Self::User {
            command.arg("--user");
            // Not set after `su`, although the directory may exist.
            if let Some(dir) = runtime_dir() {
                command.env("XDG_RUNTIME_DIR", dir);
            }
        }
        command
    }

    /// Returns the likely cause of a failed command, with the remedy.
    fn likely_cause(self) -> Option<&'static str> {
        if !Path::new(BOOTED).exists() {
            return Some(
                "systemd does not run on this machine; start `integration-bridge run` by the service manager that does",
            );
        }
        match self {
            Self::System if !is_root() => {
                Some("run this command as root, or add --user for a service of your own user")
            }
            Self::User if !has_user_manager() => Some(
                "no service manager of your user runs; log in as this user by ssh or at a console (`su` and `sudo` open \
                 no session), or let root run `loginctl enable-linger USER` first",
            ),
            Self::System | Self::User => None,
        }
    }
}

/// Returns the user's runtime directory.
fn runtime_dir() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    own.or_else(|| {
        let dir = PathBuf::from(format!("/run/user/{}", uid()));
        dir.exists().then_some(dir)
    })
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn has_user_manager() -> bool {
    runtime_dir().is_some_and(|dir| {
        ["bus", "systemd/private"]
            .iter()
            .any(|name| dir.join(name).exists())
    })
}

fn no_systemctl(error: &std::io::Error) -> String {
    format!("cannot run systemctl ({error}); `service` needs a machine with systemd")
}

/// Returns the version of systemd, if it tells.
pub(super) fn version() -> Option<u32> {
    let output = Command::new("systemctl").arg("--version").output().ok()?;
    // `systemd 252 (252.39-1)`.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(1)?.parse().ok()
}

/// Runs a command of systemctl.
pub(super) fn systemctl(scope: Scope, args: &[&str]) -> Result<(), String> {
    let status = scope
        .command()
        .args(args)
        .status()
        .map_err(|error| no_systemctl(&error))?;
    if status.success() {
        return Ok(());
    }
    let user = match scope {
        Scope::System => "",
        Scope::User => "--user ",
    };
    let failed = format!("systemctl {user}{} failed ({status})", args.join(" "));
    Err(match scope.likely_cause() {
        None => failed,
        Some(cause) => format!("{failed}: {cause}"),
    })
}

/// Lets the services of this user run from the start of the machine on, and after a logout. Without it the service works
/// for as long as the user is logged in.
pub(super) fn enable_linger() {
    let user = uid().to_string();
    // Root may have enabled it on a machine where the user may not.
    if !is_lingering(&user) && !try_to_enable_linger(&user) {
        print(&format!(
            "warning: the service ends when you log out, and does not start with the machine; root can change that by \
             `loginctl enable-linger {user}`"
        ));
        return;
    }
    // It starts the user's service manager, if there was none.
    let until = Instant::now() + USER_MANAGER_TIMEOUT;
    while Path::new(BOOTED).exists() && !has_user_manager() && Instant::now() < until {
        std::thread::sleep(OBSERVE_EVERY);
    }
}

fn is_lingering(user: &str) -> bool {
    let shown = Command::new("loginctl")
        .args(["show-user", user, "--property=Linger"])
        // It fails for a user without session, who does not linger.
        .stderr(Stdio::null())
        .output();
    shown.is_ok_and(|shown| shown.stdout.starts_with(b"Linger=yes"))
}

fn try_to_enable_linger(user: &str) -> bool {
    let enabled = Command::new("loginctl")
        .args(["enable-linger", user])
        .status();
    enabled.is_ok_and(|status| status.success())
}

/// Shows the service's status. Returns whether it runs.
pub(super) fn show(scope: Scope) -> Result<bool, String> {
    let shown = scope
        .command()
        .args(["status", "--no-pager", NAME])
        .status()
        .map_err(|error| no_systemctl(&error))?;
    Ok(shown.success())
}

/// The service as systemd sees it.
struct Unit {
    is_failed: bool,
    /// The conditions of the unit held at the last start.
    is_condition_met: bool,
    /// Automatic restarts since the last start by hand.
    restarts: u64,
}

fn unit(scope: Scope) -> Result<Unit, String> {
    let output = scope
        .command()
        .args([
            "show",
            NAME,
            "--property=ActiveState,NRestarts,ConditionResult",
        ])
        .output()
        .map_err(|error| no_systemctl(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    Ok(Unit {
        is_failed: value("ActiveState") == Some("failed"),
        is_condition_met: value("ConditionResult") != Some("no"),
        restarts: value("NRestarts")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0),
    })
}

/// Checks that systemd has started the service: without an identity it does not, and reports no error.
pub(super) fn check_condition(scope: Scope) -> Result<(), String> {
    match unit(scope)?.is_condition_met {
        true => Ok(()),
        false => Err(
            "the service was not started, because the bridge is not paired: run `integration-bridge pair` as the \
             service's account, then start the service again"
                .into(),
        ),
    }
}

/// Waits until the bridge is online.
///
/// # Errors
/// Why it is not, after `limit` or as soon as its process has ended.
pub(super) fn wait_online(
    scope: Scope,
    data_dir: &Path,
    limit: Duration,
) -> Result<Status, String> {
    let until = Instant::now() + limit;
    check_condition(scope)?;
    let restarts = unit(scope)?.restarts;
    loop {
        let now = unit(scope)?;
        if now.is_failed || now.restarts > restarts {
            show_journal(scope);
            return Err(
                "the service was started and its process ended; its last lines are above".into(),
            );
        }
        let why_not = match status_of(data_dir) {
            Ok(status) if status.online => return Ok(status),
            Ok(status) => reason(&status),
            Err(error) => format!("the service runs, and does not respond yet: {error}"),
        };
        if Instant::now() >= until {
            return Err(why_not);
        }
        std::thread::sleep(OBSERVE_EVERY);
    }
}

/// Shows the last lines that the service has written.
pub(super) fn show_journal(scope: Scope) {
    let unit = match scope {
        Scope::System => "--unit",
        Scope::User => "--user-unit",
    };
    let output = Command::new("journalctl")
        .args([unit, NAME, "--no-pager", "--output", "cat"])
        .args(["--lines", JOURNAL_LINES])
        .output();
    if let Ok(output) = output {
        print(String::from_utf8_lossy(&output.stdout).trim_end());
    }
}
