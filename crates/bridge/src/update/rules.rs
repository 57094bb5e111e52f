//! Which versions may be installed. The signature of an old release stays valid for ever, so it proves nothing of the
//! time: without these rules an attacker could offer an old program with a known defect.

use protocol::version::{AcceptedVersions, ProgramVersion};

/// What the administrator allows in addition, by options of the command.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allowed {
    /// An older version than the running one.
    pub(crate) downgrade: bool,
    /// A newer version than the operator of the relay has named.
    pub(crate) newer: bool,
}

/// What follows for a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may be installed.
    Install,
    /// It may be installed. The relay will refuse it as it refuses the running version, which is older still.
    StillRefused {
        /// The operator's oldest.
        oldest: ProgramVersion,
    },
    /// It is the running version.
    Installed,
}

/// Why a version may not be installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    /// The config pins another one.
    #[error("version {offered} is not the one that the config pins (update.pin = \"{pin}\")")]
    Pinned {
        /// That of the release.
        offered: ProgramVersion,
        /// That of the config.
        pin: ProgramVersion,
    },
    /// It is older.
    #[error(
        "version {offered} is older than the running version {running}; add --allow-downgrade if you want the older one"
    )]
    Older {
        /// That of the release.
        offered: ProgramVersion,
        /// That of this program.
        running: ProgramVersion,
    },
    /// The operator has not named it yet.
    #[error(
        "version {offered} is newer than the newest one that the operator of the relay has named ({newest}); add \
         --allow-newer to install it before"
    )]
    Newer {
        /// That of the release.
        offered: ProgramVersion,
        /// The operator's newest.
        newest: ProgramVersion,
    },
    /// The relay would refuse it.
    #[error(
        "version {offered} is older than the relay accepts ({oldest}): the bridge could not connect"
    )]
    Refused {
        /// That of the release.
        offered: ProgramVersion,
        /// The operator's oldest.
        oldest: ProgramVersion,
    },
}

/// Decides about a release. `named` is what the operator of the relay named, if that is known, and `is_connected` whether
/// the running bridge has a tunnel.
///
/// # Errors
/// The first rule that forbids it.
pub(crate) fn decide(
    offered: &ProgramVersion,
    running: &ProgramVersion,
    (named, is_connected): (&AcceptedVersions, bool),
    pin: Option<&ProgramVersion>,
    allowed: Allowed,
) -> Result<Decision, RuleError> {
    let offered = offered.clone();
    if let Some(pin) = pin.filter(|pin| **pin != offered) {
        let pin = pin.clone();
        return Err(RuleError::Pinned { offered, pin });
    }
    if offered == *running {
        return Ok(Decision::Installed);
    }
    if offered < *running && !allowed.downgrade {
        let running = running.clone();
        return Err(RuleError::Older { offered, running });
    }
    let above = named.oldest.clone().filter(|oldest| offered < *oldest);
    let refusing = above.filter(|_| named.is_enforced);
    if let Some(oldest) = &refusing {
        // A step upwards loses nothing if the relay refuses the running version as well. A tunnel that is up stays up,
        // whatever the operator has named since: the restart would end it for good.
        if offered < *running || is_connected {
            let oldest = oldest.clone();
            return Err(RuleError::Refused { offered, oldest });
        }
    }
    // Only upwards: a downgrade that the administrator wants is no surprise.
    if let Some(newest) = named.newest.clone()
        && offered > newest
        && offered > *running
        && !allowed.newer
    {
        return Err(RuleError::Newer { offered, newest });
    }
    Ok(match refusing {
        Some(oldest) => Decision::StillRefused { oldest },
        None => Decision::Install,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ProgramVersion {
        text.parse().unwrap()
    }

    fn named(newest: &str, oldest: &str, is_enforced: bool) -> AcceptedVersions {
        AcceptedVersions {
            newest: newest.parse().ok(),
            oldest: oldest.parse().ok(),
            is_enforced,
        }
    }

    fn offer(
        offered: &str,
        named: &AcceptedVersions,
        pin: Option<&str>,
        allowed: Allowed,
    ) -> Result<Decision, RuleError> {
        let pin = pin.map(version);
        decide(
            &version(offered),
            &version("1.2.0"),
            (named, false),
            pin.as_ref(),
            allowed,
        )
    }

    #[test]
    fn older_version_needs_the_option() {
        let nothing = AcceptedVersions::default();
        let none = Allowed::default();
        assert_eq!(offer("1.3.0", &nothing, None, none), Ok(Decision::Install));
        assert_eq!(
            offer("1.2.0", &nothing, None, none),
            Ok(Decision::Installed)
        );
        // A pre-release of the running version is older, too.
        for old in ["1.1.9", "1.2.0-rc.9"] {
            let refused = offer(old, &nothing, None, none);
            assert!(matches!(refused, Err(RuleError::Older { .. })), "{old}");
            let downgrade = Allowed {
                downgrade: true,
                ..none
            };
            assert_eq!(
                offer(old, &nothing, None, downgrade),
                Ok(Decision::Install),
                "{old}"
            );
        }
    }

    #[test]
    fn version_above_the_newest_needs_the_option() {
        let named = named("1.3.0", "", false);
        let none = Allowed::default();
        assert_eq!(offer("1.3.0", &named, None, none), Ok(Decision::Install));
        let refused = offer("1.4.0", &named, None, none);
        assert!(matches!(refused, Err(RuleError::Newer { .. })));
        let newer = Allowed {
            newer: true,
            ..none
        };
        assert_eq!(offer("1.4.0", &named, None, newer), Ok(Decision::Install));
    }

    #[test]
    fn hostile_relay_cannot_cause_a_downgrade() {
        let none = Allowed::default();
        for named in [
            named("1.0.0", "", false),
            named("1.0.0", "1.0.0", true),
            named("", "0.1.0", true),
        ] {
            let refused = offer("1.0.0", &named, None, none);
            assert!(matches!(refused, Err(RuleError::Older { .. })), "{named:?}");
        }
    }

    #[test]
    fn step_below_the_oldest_loses_nothing() {
        let named = |is_enforced| named("1.5.0", "1.4.0", is_enforced);
        let all = Allowed {
            downgrade: true,
            newer: true,
        };
        let decided = |offered: &str, is_enforced, is_connected| {
            let running = version("1.2.0");
            let named = named(is_enforced);
            decide(
                &version(offered),
                &running,
                (&named, is_connected),
                None,
                all,
            )
        };
        let oldest = version("1.4.0");
        assert_eq!(
            decided("1.3.0", true, false),
            Ok(Decision::StillRefused { oldest })
        );
        // It has a tunnel from before, which its successor would not get.
        let connected = decided("1.3.0", true, true);
        assert!(matches!(connected, Err(RuleError::Refused { .. })));
        let older = decided("1.1.0", true, false);
        assert!(matches!(older, Err(RuleError::Refused { .. })));
        assert_eq!(decided("1.3.0", false, true), Ok(Decision::Install));
        assert_eq!(decided("1.4.0", true, true), Ok(Decision::Install));
    }

    #[test]
    fn refused_or_unpinned_version_has_no_option() {
        let all = Allowed {
            downgrade: true,
            newer: true,
        };
        let refused = offer("1.1.0", &named("", "1.2.0", true), None, all);
        assert!(matches!(refused, Err(RuleError::Refused { .. })));
        let nothing = AcceptedVersions::default();
        let unpinned = offer("1.4.0", &nothing, Some("1.3.0"), all);
        assert!(matches!(unpinned, Err(RuleError::Pinned { .. })));
        assert_eq!(
            offer("1.3.0", &nothing, Some("1.3.0"), all),
            Ok(Decision::Install)
        );
    }
}
