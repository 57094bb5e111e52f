//! How the running bridge is restarted: by systemd if it runs there and this user may, otherwise by the administrator.

use super::super::service::NAME;
use crate::status::Status;
use crate::update::trial;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

/// Time for a question to the service manager.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for a restart: the bridge may drain for 30 s.
const RESTART_TIMEOUT: Duration = Duration::from_secs(180);

/// What follows for the running bridge.
#[derive(Debug)]
pub(super) enum Plan {
    /// No bridge runs with this config.
    NotRunning,
    /// The administrator restarts it, for this reason.
    ByHand(String),
    /// It is a service that this user may restart.
    Service(Service),
}

/// A service of systemd.
#[derive(Debug)]
pub(super) struct Service {
    is_of_user: bool,
}

/// Finds out how the bridge runs whose program is about to be replaced.
pub(super) fn plan(status: Option<&Status>, program: &Path) -> Plan {
    let Some(status) = status else {
        return Plan::NotRunning;
    };
    let pid = status.pid;
    // Without `/proc`, as on other systems, the process is taken to run this program.
    let other = std::fs::read_link(format!("/proc/{pid}/exe"));
    if let Some(other) = other.ok().filter(|other| other != program) {
        return Plan::ByHand(format!(
            "process {pid} runs another program ({})",
            other.display()
        ));
    }
    let services = [false, true].map(|is_of_user| Service { is_of_user });
    let mut own = services
        .into_iter()
        .filter(|service| service.main_pid() == Some(pid));
    match own.next() {
        Some(service) if service.may_be_restarted() => Plan::Service(service),
        Some(_) => Plan::ByHand(format!("run `systemctl restart {NAME}` as root")),
        None => Plan::ByHand(format!(
            "process {pid} is not the service {NAME} of systemd"
        )),
    }
}

impl Service {
    fn run(&self, args: &[&str], limit: Duration) -> Result<trial::Ran, String> {
        let scope: &[&str] = match self.is_of_user {
            true => &["--user"],
            false => &[],
        };
        let args: Vec<&OsStr> = scope.iter().chain(args).map(OsStr::new).collect();
        let ran = trial::run(Path::new("systemctl"), &args, limit);
        ran.map_err(|error| format!("systemctl: {error}"))
    }

    /// Returns the process of the service.
    fn main_pid(&self) -> Option<u32> {
        let show = ["show", NAME, "--property=MainPID"];
        let ran = self.run(&show, QUERY_TIMEOUT).ok()?;
        ran.stdout.trim().strip_prefix("MainPID=")?.parse().ok()
    }

    #[cfg(unix)]
    fn may_be_restarted(&self) -> bool {
        self.is_of_user || rustix::process::geteuid().is_root()
    }

    #[cfg(not(unix))]
    fn may_be_restarted(&self) -> bool {
        self.is_of_user
    }

    /// Restarts the service. Running exchanges may finish.
    ///
    /// # Errors
    /// What systemd reports.
    pub(super) fn restart(&self) -> Result<(), String> {
        let ran = self.run(&["restart", NAME], RESTART_TIMEOUT)?;
        match ran.is_success {
            true => Ok(()),
            false => Err(format!(
                "systemctl restart {NAME}: {}",
                ran.last_lines().join("; ")
            )),
        }
    }
}
