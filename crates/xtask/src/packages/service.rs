//! A service as systemd sees it.

use super::machine::Machine;
use super::{expect, expect_equal};
use crate::step::Failed;
use std::time::Duration;

/// How long a service may take to reach a state. Its stop drains, and it dials again after up to a few seconds.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A unit of the machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service<'a> {
    machine: &'a Machine,
    unit: &'static str,
}

impl<'a> Service<'a> {
    pub(super) fn new(machine: &'a Machine, unit: &'static str) -> Self {
        Self { machine, unit }
    }

    /// Returns a property of the unit.
    pub(super) fn property(&self, name: &str) -> Result<String, Failed> {
        let unit = self.unit;
        let shown = format!("systemctl show --property {name} --value {unit}");
        Ok(self.machine.run(&shown)?.trim().to_owned())
    }

    /// Returns the id of its process.
    pub(super) fn process(&self) -> Result<String, Failed> {
        self.property("MainPID")
    }

    /// Checks properties.
    pub(super) fn expect(&self, expected: &[(&str, &str)]) -> Result<(), Failed> {
        let names: Vec<_> = expected.iter().map(|(name, _)| *name).collect();
        let (unit, names) = (self.unit, names.join(","));
        let shown = self
            .machine
            .run(&format!("systemctl show --property {names} {unit}"))?;
        for (name, value) in expected {
            let line = format!("{name}={value}");
            if !shown.lines().any(|shown| shown == line) {
                return Err(Failed::new(format!("{unit} is not {line}: {shown}")));
            }
        }
        Ok(())
    }

    /// Checks that it was never started, and does not start with the machine.
    pub(super) fn expect_untouched(&self) -> Result<(), Failed> {
        self.expect(&[
            ("LoadState", "loaded"),
            ("UnitFileState", "disabled"),
            ("ActiveState", "inactive"),
            ("NRestarts", "0"),
            ("ExecMainStartTimestamp", ""),
        ])
    }

    /// Checks that it has reported readiness and status to systemd, and starts with the machine.
    pub(super) fn expect_running(&self) -> Result<(), Failed> {
        self.expect(&[
            ("Type", "notify"),
            ("ActiveState", "active"),
            ("SubState", "running"),
            ("UnitFileState", "enabled"),
        ])?;
        let status = self.property("StatusText")?;
        match status.is_empty() {
            true => Err(Failed::new(format!("{} reports no status", self.unit))),
            false => Ok(()),
        }
    }

    /// Waits until systemd has restarted the service by itself, once, in place of this process.
    fn wait_restarted(&self, before: &str) -> Result<(), Failed> {
        // In one command: between two of them the state may change.
        let show = format!(
            "systemctl show --property ActiveState,MainPID,NRestarts {}",
            self.unit
        );
        let what = format!("{} runs again", self.unit);
        let waited = self.machine.eventually(&what, TIMEOUT, || {
            let shown = self.machine.run(&show)?;
            let has = |line: &str| shown.lines().any(|shown| shown == line);
            let is_new = !has(&format!("MainPID={before}")) && !has("MainPID=0");
            Ok(is_new && has("ActiveState=active") && has("NRestarts=1"))
        });
        waited.map_err(|failed| match self.machine.run(&show) {
            Ok(shown) => Failed::new(format!("{failed}: {shown}")),
            Err(other) => other,
        })
    }

    /// Waits for a status line with this part.
    pub(super) fn wait_status(&self, part: &str) -> Result<(), Failed> {
        let what = format!("the status of {} has {part:?}", self.unit);
        let waited = self.machine.eventually(&what, TIMEOUT, || {
            Ok(self.property("StatusText")?.contains(part))
        });
        waited.or_else(|_| expect(&what, &self.property("StatusText")?, part))
    }

    /// Ends its process by a signal. systemd must restart it.
    pub(super) fn crash(&self, signal: &str) -> Result<(), Failed> {
        let before = self.process()?;
        self.machine.run(&format!("kill -s {signal} {before}"))?;
        self.wait_restarted(&before)
    }

    /// Suspends its process, as if it were stuck. The watchdog must end and systemd restart it.
    pub(super) fn hang(&self) -> Result<(), Failed> {
        let unit = self.unit;
        // The unit's own time is a minute.
        let settings = format!("/run/systemd/system/{unit}.service.d");
        self.machine.run(&format!(
            "mkdir -p {settings}; printf '[Service]\\nWatchdogSec=5s\\n' > {settings}/watchdog.conf
             systemctl daemon-reload; systemctl restart {unit}"
        ))?;
        self.expect(&[("WatchdogUSec", "5s"), ("NRestarts", "0")])?;
        let before = self.process()?;
        self.machine.run(&format!("kill -s STOP {before}"))?;
        self.wait_restarted(&before)?;
        let log = format!("journalctl --no-pager --output cat _PID=1 UNIT={unit}.service");
        expect(
            "the log of systemd",
            &self.machine.run(&log)?,
            "Watchdog timeout",
        )?;
        self.machine.run(&format!(
            "rm -r {settings}; systemctl daemon-reload; systemctl restart {unit}"
        ))?;
        Ok(())
    }

    /// Stops it in order.
    pub(super) fn stop(&self) -> Result<(), Failed> {
        self.machine.run(&format!("systemctl stop {}", self.unit))?;
        self.expect(&[
            ("ActiveState", "inactive"),
            ("Result", "success"),
            ("ExecMainStatus", "0"),
            ("NRestarts", "0"),
        ])
    }

    /// Checks what the kernel enforces on its process, not what the unit asks for, and the rating of the unit.
    pub(super) fn expect_confined(&self, account: &str, capabilities: &str) -> Result<(), Failed> {
        let unit = self.unit;
        let process = self.process()?;
        let status = self.machine.run(&format!("cat /proc/{process}/status"))?;
        for line in [
            format!("CapEff:\t{capabilities}\n"),
            format!("CapBnd:\t{capabilities}\n"),
            "NoNewPrivs:\t1\n".to_owned(),
            "Seccomp:\t2\n".to_owned(),
        ] {
            expect(&format!("the process of {unit}"), &status, &line)?;
        }
        let user = self.machine.run(&format!("ps -o user:32= -p {process}"))?;
        expect_equal(&format!("the account of {unit}"), &user, account)?;
        // In tenths: 2.0 of 10.
        let rated = format!("systemd-analyze security --no-pager --threshold=20 {unit}.service");
        let rating = self.machine.run(&rated)?;
        let rating = rating.lines().find(|line| line.contains("exposure level"));
        println!("   {}", rating.unwrap_or_default().trim());
        Ok(())
    }
}
