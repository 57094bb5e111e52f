//! `[bridges]`: the versions of the bridge's program that the operator wants. A reload changes them.

use protocol::version::{AcceptedVersions, ProgramVersion};
use runtime::config::{Mistake, text};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

/// `[bridges]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bridges {
    /// The newest version that bridges should have. Older bridges learn that an update is available. Defaults to none.
    #[serde(deserialize_with = "version", skip_serializing)]
    pub version_newest: Option<ProgramVersion>,
    /// The oldest version that the operator supports. Older bridges work, learn that they must be updated, and raise a
    /// notice. Defaults to none.
    #[serde(deserialize_with = "version", skip_serializing)]
    pub version_oldest: Option<ProgramVersion>,
    /// Whether the relay refuses tunnels of bridges below `version_oldest`. Defaults to false.
    #[serde(skip_serializing)]
    pub version_oldest_enforced: bool,
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProgramVersion>, D::Error> {
    text(deserializer, "a version in quotes, as in \"1.4.0\"").map(Some)
}

impl Bridges {
    /// Checks values against each other.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        let (newest, oldest) = (&self.version_newest, &self.version_oldest);
        if self.version_oldest_enforced && oldest.is_none() {
            let message = "is true, and there is no bridges.version_oldest: set the oldest version that is accepted";
            return Err(Mistake::of_key("bridges.version_oldest_enforced", message));
        }
        if let (Some(newest), Some(oldest)) = (newest, oldest)
            && oldest > newest
        {
            // No bridge could satisfy it.
            let message =
                format!("is {oldest}: it must not be above bridges.version_newest ({newest})");
            return Err(Mistake::of_key("bridges.version_oldest", message));
        }
        Ok(())
    }

    /// Returns what bridges learn of it.
    pub(crate) fn accepted(&self) -> AcceptedVersions {
        AcceptedVersions {
            newest: self.version_newest.clone(),
            oldest: self.version_oldest.clone(),
            is_enforced: self.version_oldest_enforced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_bridges_are_checked() {
        let parse = |text: &str| toml::from_str::<Bridges>(text).unwrap();
        assert!(parse("").accepted().is_empty() && parse("").validate().is_ok());
        let both = parse("version_newest = \"1.10.0\"\nversion_oldest = \"1.9.0\"");
        assert!(both.validate().is_ok());
        assert!(!both.accepted().is_enforced);
        for wrong in [
            "version_oldest_enforced = true",
            "version_newest = \"1.9.0\"\nversion_oldest = \"1.10.0\"",
        ] {
            assert!(parse(wrong).validate().is_err(), "{wrong}");
        }
        for wrong in ["version_newest = \"latest\"", "version_newest = 1"] {
            assert!(toml::from_str::<Bridges>(wrong).is_err(), "{wrong}");
        }
    }
}
