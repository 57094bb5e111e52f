//! The result of `doctor`: checks in the order of a request's route, for people and as JSON.

use runtime::peer_text::escape;
use serde::Serialize;
use std::fmt;

/// The result of a check. The order is from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// It works.
    Ok,
    /// Not checked, because an earlier check failed or it does not apply.
    Skipped,
    /// It works, but needs attention.
    Warn,
    /// It does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// The checked hop.
    pub(crate) hop: &'static str,
    /// The result.
    pub(crate) state: State,
    /// Details of the result.
    pub(crate) found: String,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Check {
    pub(super) fn ok(hop: &'static str, found: impl Into<String>) -> Self {
        Self::new(hop, State::Ok, found, None)
    }

    pub(super) fn skipped(hop: &'static str, found: impl Into<String>) -> Self {
        Self::new(hop, State::Skipped, found, None)
    }

    pub(super) fn warn(hop: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self::new(hop, State::Warn, found, Some(advice))
    }

    pub(super) fn fail(hop: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self::new(hop, State::Fail, found, Some(advice))
    }

    /// An empty advice counts as none.
    pub(super) fn new(
        hop: &'static str,
        state: State,
        found: impl Into<String>,
        advice: Option<&str>,
    ) -> Self {
        let found: String = found.into();
        Self {
            hop,
            state,
            // Much of it is the text of a relay, a proxy or a target.
            found: escape(&found).into_owned(),
            advice: advice.filter(|text| !text.is_empty()).map(str::to_owned),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Ok => "ok",
            State::Skipped => "-",
            State::Warn => "WARN",
            State::Fail => "FAIL",
        };
        write!(f, "{state:<5} {:<10} {}", self.hop, self.found)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n{:17}-> {advice}", "")?;
        }
        Ok(())
    }
}

/// All checks.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst state.
    pub(crate) state: State,
    /// The first hop that fails. Later failures are often its consequences.
    pub(crate) fails_at: Option<&'static str>,
    /// The checks, in the order of a request's route.
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(checks: Vec<Check>) -> Self {
        let worst = checks.iter().map(|check| check.state).max();
        let failed = checks.iter().find(|check| check.state == State::Fail);
        Self {
            state: worst.unwrap_or(State::Ok),
            fails_at: failed.map(|check| check.hop),
            checks,
        }
    }

    fn count(&self, state: State) -> usize {
        let checks = self.checks.iter();
        checks.filter(|check| check.state == state).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{check}")?;
        }
        let (failed, warned) = (self.count(State::Fail), self.count(State::Warn));
        let all = self.checks.len();
        match self.fails_at {
            Some(hop) => write!(f, "{failed} of {all} checks failed; the first is {hop}"),
            None => write!(
                f,
                "no check failed; {warned} of {all} checks have a warning"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_worst_state_and_first_failure() {
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
            text.ends_with("2 of 4 checks failed; the first is tcp"),
            "{text}"
        );
    }
}
