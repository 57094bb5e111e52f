//! `doctor`: looks at everything between this machine and the relay and its targets, in the order of a
//! request's way, and names the hop that fails and what to do.
//!
//! ```text
//! system -> config -> identity -> dns -> proxy -> tcp -> tls -> relay -> clock -> websocket -> tunnel -> policy -> endpoints
//! ```
//!
//! It changes nothing: it makes connections, asks the relay for its health, and asks each endpoint for its
//! `health_path` (or its base URL) with GET.

mod certificates;
mod network;
mod system;
mod targets;

use crate::config::Config;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It is right.
    Ok,
    /// It was not looked at, because something before it failed or there is no need.
    Skipped,
    /// It works, and somebody should look at it.
    Warn,
    /// It does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// Which hop it is about.
    pub(crate) hop: &'static str,
    /// How it went.
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Check {
    pub(crate) fn ok(hop: &'static str, found: impl Into<String>) -> Self {
        Self::of(hop, State::Ok, found, None)
    }

    pub(crate) fn skipped(hop: &'static str, found: impl Into<String>) -> Self {
        Self::of(hop, State::Skipped, found, None)
    }

    pub(crate) fn warn(hop: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self::of(hop, State::Warn, found, Some(advice))
    }

    pub(crate) fn fail(hop: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self::of(hop, State::Fail, found, Some(advice))
    }

    fn of(hop: &'static str, state: State, found: impl Into<String>, advice: Option<&str>) -> Self {
        Self {
            hop,
            state,
            found: found.into(),
            advice: advice.filter(|text| !text.is_empty()).map(str::to_owned),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.state {
            State::Ok => "ok",
            State::Skipped => "-",
            State::Warn => "WARN",
            State::Fail => "FAIL",
        };
        write!(f, "{word:<5} {:<10} {}", self.hop, self.found)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n{:17}-> {advice}", "")?;
        }
        Ok(())
    }
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst of the checks.
    pub(crate) state: State,
    /// The first hop that fails.
    pub(crate) fails_at: Option<&'static str>,
    /// In the order of a request's way.
    pub(crate) checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let worst = checks.iter().map(|check| check.state).max();
        let failed = checks.iter().find(|check| check.state == State::Fail);
        Self {
            state: worst.unwrap_or(State::Ok),
            fails_at: failed.map(|check| check.hop),
            checks,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{check}")?;
        }
        let fails = self
            .checks
            .iter()
            .filter(|check| check.state == State::Fail);
        let warns = self
            .checks
            .iter()
            .filter(|check| check.state == State::Warn);
        match self.fails_at {
            Some(hop) => write!(
                f,
                "{} of {} checks fail; the first is {hop}",
                fails.count(),
                self.checks.len()
            ),
            None => write!(
                f,
                "nothing fails, {} of {} checks are worth a look",
                warns.count(),
                self.checks.len()
            ),
        }
    }
}

/// Looks at everything. Takes up to a few minutes where nothing answers.
pub(crate) async fn examine(config_file: &Path) -> Report {
    let mut checks = system::check();
    let config = match Config::load(config_file) {
        Ok(config) => config,
        Err(error) => {
            let found = crate::text::error_chain(&error);
            checks.push(Check::fail(
                "config",
                found,
                "correct it; `integration-bridge config check` explains it",
            ));
            return Report::new(checks);
        }
    };
    checks.extend(system::check_with(&config));
    checks.push(targets::config(&config));
    network::check(&config, &mut checks).await;
    targets::check(&config, &mut checks).await;
    Report::new(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_the_first_failure_is_named() {
        let report = Report::new(vec![
            Check::ok("dns", "fine"),
            Check::fail("tcp", "nothing", "open the firewall"),
            Check::fail("tls", "nothing", ""),
            Check::warn("clock", "late", "set it"),
        ]);
        assert_eq!(report.state, State::Fail);
        assert_eq!(report.fails_at, Some("tcp"));
        let text = report.to_string();
        assert!(text.contains("-> open the firewall"), "{text}");
        assert!(
            text.ends_with("2 of 4 checks fail; the first is tcp"),
            "{text}"
        );
    }
}
