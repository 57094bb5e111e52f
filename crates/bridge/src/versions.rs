//! The version of this program, and the versions that the operator of the relay named (W-70).
//!
//! They are shown and logged. Nothing is installed because of them: `integration-bridge update` is the administrator's
//! command, and its own rules decide what it installs.

use crate::identity::software;
use protocol::version::{AcceptedVersions, ProgramVersion, UpdateState};
use runtime::limit::LogRateLimiter;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What to do where the operator wants a newer version.
pub(crate) const UPDATE: &str = "update this bridge with the package manager that installed it, or with `integration-bridge \
                                 update --from FILE`";

/// Returns the version of this program.
pub(crate) fn running() -> ProgramVersion {
    ProgramVersion::of_software(&software()).expect("the package has a version of three numbers")
}

/// What the operator named last, on any session.
#[derive(Debug, Default)]
pub(crate) struct NamedVersions {
    named: Mutex<Option<Arc<AcceptedVersions>>>,
    /// A relay that names other versions again and again must not fill the log.
    log_limiter: LogRateLimiter,
}

impl NamedVersions {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<AcceptedVersions>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the operator named, and logs it if it is new: every session gets the same.
    pub(crate) fn learn(&self, named: &AcceptedVersions) {
        {
            let mut known = self.lock();
            if known.as_deref() == Some(named) {
                return;
            }
            *known = Some(Arc::new(named.clone()));
        }
        let running = running();
        let text = |version: &Option<ProgramVersion>| version.as_ref().map(ToString::to_string);
        let (newest, oldest) = (text(&named.newest), text(&named.oldest));
        let state = named.state_of(Some(&running));
        if !self.may_log(state) {
            return;
        }
        match state {
            UpdateState::Required => tracing::warn!(
                %running, newest, oldest, enforced = named.is_enforced, advice = UPDATE,
                "the operator of the relay requires an update of this bridge"
            ),
            UpdateState::Available => tracing::info!(
                %running, newest, oldest,
                "an update of this bridge is available"
            ),
            UpdateState::Current | UpdateState::Unknown => {
                tracing::debug!(%running, newest, oldest, "versions named by the relay");
            }
        }
    }

    /// Whether a change to this state may be logged now.
    fn may_log(&self, state: UpdateState) -> bool {
        match state {
            UpdateState::Required | UpdateState::Available => self.log_limiter.allow(),
            // At a level that is off, and a bridge learns these at each start: they must not use up the limit.
            UpdateState::Current | UpdateState::Unknown => true,
        }
    }

    /// Returns the versions for `status`.
    pub(crate) fn status(&self) -> VersionStatus {
        let named = self.lock().as_deref().cloned().unwrap_or_default();
        let running = running();
        let text = |version: &Option<ProgramVersion>| version.as_ref().map(ToString::to_string);
        VersionStatus {
            newest: text(&named.newest),
            oldest: text(&named.oldest),
            enforced: named.is_enforced,
            update: named.state_of(Some(&running)).as_str().to_owned(),
            running: running.to_string(),
        }
    }
}

/// The versions in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VersionStatus {
    /// The version of the running program.
    pub running: String,
    /// The newest version that the operator of the relay named.
    pub newest: Option<String>,
    /// The oldest version that the operator supports.
    pub oldest: Option<String>,
    /// Whether the relay refuses older ones.
    pub enforced: bool,
    /// `required`, `available`, `current` or `unknown`.
    pub update: String,
}

impl VersionStatus {
    /// Returns what the operator named, as far as it can be read.
    pub(crate) fn named(&self) -> AcceptedVersions {
        let version =
            |text: &Option<String>| -> Option<ProgramVersion> { text.as_deref()?.parse().ok() };
        AcceptedVersions {
            newest: version(&self.newest),
            oldest: version(&self.oldest),
            is_enforced: self.enforced,
        }
    }
}

impl fmt::Display for VersionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {}", self.running)?;
        if let Some(newest) = &self.newest {
            write!(f, ", newest {newest}")?;
        }
        if let Some(oldest) = &self.oldest {
            let effect = match self.enforced {
                true => "accepted",
                false => "supported",
            };
            write!(f, ", oldest {effect} {oldest}")?;
        }
        match self.update.as_str() {
            "required" => write!(f, ": update REQUIRED; {UPDATE}"),
            "available" => f.write_str(": update available"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_that_alternates_does_not_fill_the_log() {
        let named = NamedVersions::default();
        assert!((0..100).all(|_| named.may_log(UpdateState::Unknown)));
        let lines = (0..100).filter(|_| named.may_log(UpdateState::Required));
        assert!(lines.count() < 10);
    }

    #[test]
    fn status_says_whether_an_update_is_required() {
        let named = NamedVersions::default();
        let unknown = named.status();
        assert_eq!(unknown.update, "unknown");
        assert_eq!(unknown.to_string(), format!("version {}", running()));
        named.learn(&AcceptedVersions {
            newest: "9999.1.0".parse().ok(),
            oldest: None,
            is_enforced: false,
        });
        assert_eq!(named.status().update, "available");
        assert_eq!(named.status().named().newest, "9999.1.0".parse().ok());
        named.learn(&AcceptedVersions {
            newest: "9999.1.0".parse().ok(),
            oldest: "9999.0.0".parse().ok(),
            is_enforced: true,
        });
        let text = named.status().to_string();
        assert!(
            text.contains("oldest accepted 9999.0.0: update REQUIRED"),
            "{text}"
        );
        named.learn(&AcceptedVersions::default());
        assert_eq!(named.status().update, "unknown");
    }
}
