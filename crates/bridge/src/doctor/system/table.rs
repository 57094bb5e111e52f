//! The table of `doctor --system`: a row for each requirement, for people and as JSON.

use crate::doctor::report::State;
use runtime::peer_text::escape;
use serde::Serialize;
use std::fmt;

/// What the vendor's own bridge asks for, for an administrator who compares.
const NOTE: &str = "The vendor's Java bridge asks for four cores, 8 GB of memory and 80 GB of free disk. This bridge \
                    needs none of that, and no Java runtime.";

/// One requirement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Requirement {
    /// What is checked.
    name: &'static str,
    /// What the bridge needs.
    needed: String,
    /// What this machine has.
    found: String,
    /// The verdict: `skipped` if the system does not report it.
    state: State,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Requirement {
    pub(super) fn new(name: &'static str, needed: impl Into<String>, verdict: Verdict) -> Self {
        let Verdict {
            state,
            found,
            advice,
        } = verdict;
        Self {
            name,
            needed: needed.into(),
            // Paths and names of the system can have any character.
            found: escape(&found).into_owned(),
            state,
            advice: advice.map(str::to_owned),
        }
    }
}

/// What was found, and whether it is enough.
pub(super) struct Verdict {
    pub(super) state: State,
    pub(super) found: String,
    pub(super) advice: Option<&'static str>,
}

impl Verdict {
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self {
            state: State::Ok,
            found: found.into(),
            advice: None,
        }
    }

    pub(super) fn unknown() -> Self {
        Self {
            state: State::Skipped,
            found: "not known".to_owned(),
            advice: None,
        }
    }

    pub(super) fn bad(state: State, found: impl Into<String>, advice: &'static str) -> Self {
        Self {
            state,
            found: found.into(),
            advice: Some(advice),
        }
    }

    /// Judges an amount by the value below which there is a warning, and the one below which the bridge fails.
    pub(super) fn of_amount(
        found: u64,
        text: String,
        (wanted, floor): (u64, u64),
        advice: &'static str,
    ) -> Self {
        match found {
            found if found < floor => Self::bad(State::Fail, text, advice),
            found if found < wanted => Self::bad(State::Warn, text, advice),
            _ => Self::ok(text),
        }
    }
}

/// The table.
#[derive(Debug, Serialize)]
pub(crate) struct Requirements {
    /// The worst verdict.
    pub(crate) state: State,
    /// The rows.
    requirements: Vec<Requirement>,
    /// What the vendor's bridge asks for.
    note: &'static str,
}

impl Requirements {
    pub(super) fn new(requirements: Vec<Requirement>) -> Self {
        let worst = requirements.iter().map(|one| one.state).max();
        Self {
            state: worst.unwrap_or(State::Ok),
            requirements,
            note: NOTE,
        }
    }
}

impl fmt::Display for Requirements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.requirements.iter().map(|one| {
            let verdict = match one.state {
                State::Ok => "ok",
                State::Skipped => "not known",
                State::Warn => "WARN",
                State::Fail => "NOT MET",
            };
            (one.name, one.needed.as_str(), one.found.as_str(), verdict)
        });
        let rows: Vec<_> = std::iter::once(("REQUIREMENT", "NEEDED", "FOUND", "VERDICT"))
            .chain(rows)
            .collect();
        let width =
            |of: fn(&(&str, &str, &str, &str)) -> usize| rows.iter().map(of).max().unwrap_or(0);
        let names = width(|row| row.0.chars().count());
        let needed = width(|row| row.1.chars().count());
        // The verdict comes before what was found: paths and names may be long.
        for (name, need, found, verdict) in &rows {
            writeln!(f, "{name:<names$}  {need:<needed$}  {verdict:<9}  {found}")?;
        }
        for one in &self.requirements {
            if let Some(advice) = &one.advice {
                writeln!(f, "-> {}: {advice}", one.name)?;
            }
        }
        writeln!(f)?;
        write!(f, "{}", self.note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_each_verdict_and_the_note() {
        let table = Requirements::new(vec![
            Requirement::new("cores", "1", Verdict::ok("2")),
            Requirement::new("disk", "1.0 GiB free", Verdict::unknown()),
            Requirement::new("memory", "x", Verdict::bad(State::Warn, "y", "free some")),
        ]);
        assert_eq!(table.state, State::Warn);
        let text = table.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "REQUIREMENT  NEEDED        VERDICT    FOUND");
        assert_eq!(lines[1], "cores        1             ok         2");
        assert_eq!(lines[2], "disk         1.0 GiB free  not known  not known");
        assert_eq!(lines[4], "-> memory: free some");
        assert!(text.ends_with(NOTE), "{text}");
    }
}
