//! The service manager: its commands, and whether the service stays up and connects.

use super::super::common::print;
use super::super::status::status_of;
use super::NAME;
use crate::status::Status;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often the service is observed after its start.
const OBSERVE_EVERY: Duration = Duration::from_millis(250);

/// Lines of the journal that are shown for a service that ended.
const JOURNAL_LINES: &str = "15";

fn no_systemctl(error: &std::io::Error) -> String {
    format!("cannot run systemctl ({error}); `service` needs a machine with systemd")
}

/// Runs a command of systemctl.
pub(super) fn systemctl(args: &[&str]) -> Result<(), String> {
    let status = Command::new("systemctl")
        .args(args)
        .status()
        .map_err(|error| no_systemctl(&error))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("systemctl {} failed ({status})", args.join(" "))),
    }
}

/// Shows the service's status. Returns whether it runs.
pub(super) fn show() -> Result<bool, String> {
    let shown = Command::new("systemctl")
        .args(["status", "--no-pager", NAME])
        .status()
        .map_err(|error| no_systemctl(&error))?;
    Ok(shown.success())
}

/// The service as systemd sees it.
struct Unit {
    is_failed: bool,
    /// Automatic restarts since the last start by hand.
    restarts: u64,
}

fn unit() -> Result<Unit, String> {
    let output = Command::new("systemctl")
        .args(["show", NAME, "--property=ActiveState,NRestarts"])
        .output()
        .map_err(|error| no_systemctl(&error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    Ok(Unit {
        is_failed: value("ActiveState") == Some("failed"),
        restarts: value("NRestarts")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0),
    })
}

/// Waits until the bridge is online.
///
/// # Errors
/// Why it is not, after `limit` or as soon as its process has ended.
pub(super) fn wait_online(data_dir: &Path, limit: Duration) -> Result<Status, String> {
    let until = Instant::now() + limit;
    let restarts = unit()?.restarts;
    loop {
        let now = unit()?;
        if now.is_failed || now.restarts > restarts {
            show_journal();
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

/// Returns why a running bridge is not connected.
fn reason(status: &Status) -> String {
    let mut text = format!("the service runs, and is not connected to {}", status.relay);
    for connection in &status.connections {
        if let Some(error) = &connection.error {
            text.push_str(&format!(": {error}"));
            if let Some(advice) = &connection.advice {
                text.push_str(&format!(" ({advice})"));
            }
            break;
        }
    }
    text.push_str("; it goes on trying, and `integration-bridge doctor` examines each step");
    text
}

fn show_journal() {
    let output = Command::new("journalctl")
        .args([
            "--unit",
            NAME,
            "--no-pager",
            "--output",
            "cat",
            "--lines",
            JOURNAL_LINES,
        ])
        .output();
    if let Ok(output) = output {
        print(String::from_utf8_lossy(&output.stdout).trim_end());
    }
}
