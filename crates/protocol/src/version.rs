//! Versions of the bridge's program, and which of them the operator of a relay wants.
//!
//! They decide nothing about the wire, whose own version is a number (W-60). A version is one of Semantic Versioning
//! 2.0.0 without build metadata, and compares as its section 11 says: `1.2.0-rc.1 < 1.2.0 < 1.10.0`.

use crate::limits::VERSION_MAX_BYTES;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The product's name before the version in the `software` of a HELLO.
const PRODUCT: &str = "integration-bridge/";

/// The version of a program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProgramVersion {
    major: u32,
    minor: u32,
    patch: u32,
    /// The identifiers of a pre-release, separated by dots; empty for a release.
    pre: String,
}

/// A text that is no version of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a version has three numbers, like 1.4.0, and perhaps a pre-release, like 1.4.0-rc.1; at most {VERSION_MAX_BYTES} characters"
)]
pub struct VersionError;

impl ProgramVersion {
    /// Returns the version in the `software` of a HELLO, if that is this product.
    pub fn of_software(software: &str) -> Option<Self> {
        software.strip_prefix(PRODUCT)?.parse().ok()
    }
}

/// Reads a number as Semantic Versioning has it: digits without leading zeros.
fn number(text: &str) -> Option<u32> {
    let is_canonical = text == "0" || !text.starts_with('0');
    // `parse` accepts a sign.
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match is_canonical && is_digits {
        true => text.parse().ok(),
        false => None,
    }
}

/// Whether a text is an identifier of a pre-release.
fn is_identifier(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && (!is_number || text == "0" || !text.starts_with('0'))
}

impl FromStr for ProgramVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        if text.len() > VERSION_MAX_BYTES {
            return Err(VersionError);
        }
        let (numbers, pre) = match text.split_once('-') {
            Some((numbers, pre)) => (numbers, Some(pre)),
            None => (text, None),
        };
        if pre.is_some_and(|pre| !pre.split('.').all(is_identifier)) {
            return Err(VersionError);
        }
        let mut numbers = numbers.split('.').map(number);
        let mut next = || numbers.next().flatten().ok_or(VersionError);
        let (major, minor, patch) = (next()?, next()?, next()?);
        match numbers.next() {
            Some(_) => Err(VersionError),
            None => Ok(Self {
                major,
                minor,
                patch,
                pre: pre.unwrap_or_default().to_owned(),
            }),
        }
    }
}

impl fmt::Display for ProgramVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        match self.pre.as_str() {
            "" => Ok(()),
            pre => write!(f, "-{pre}"),
        }
    }
}

/// An identifier of a pre-release. Numbers are below texts; a longer number without leading zeros is larger.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Identifier<'a> {
    Number(usize, &'a str),
    Text(&'a str),
}

fn identifiers(pre: &str) -> impl Iterator<Item = Identifier<'_>> {
    pre.split('.').map(
        |part| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Identifier::Number(part.len(), part),
            false => Identifier::Text(part),
        },
    )
}

impl Ord for ProgramVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = |one: &Self| (one.major, one.minor, one.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                // A pre-release comes before its release.
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => identifiers(&self.pre).cmp(identifiers(&other.pre)),
            }
        })
    }
}

impl PartialOrd for ProgramVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The versions of bridges that the operator of a relay names (W-70).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcceptedVersions {
    /// The newest version that the operator has released to bridges.
    pub newest: Option<ProgramVersion>,
    /// The oldest version that the operator supports.
    pub oldest: Option<ProgramVersion>,
    /// Whether the relay refuses bridges below `oldest`.
    pub is_enforced: bool,
}

/// Whether a bridge should be updated. The order is by urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpdateState {
    /// The operator names no version, or the bridge's version cannot be read.
    Unknown,
    /// Nothing newer is named.
    Current,
    /// A newer version is named.
    Available,
    /// The bridge is older than the oldest version that the operator supports.
    Required,
}

impl UpdateState {
    /// Returns the name in `status` and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Current => "current",
            Self::Available => "available",
            Self::Required => "required",
        }
    }
}

impl AcceptedVersions {
    /// Whether the operator names no version at all.
    pub fn is_empty(&self) -> bool {
        self.newest.is_none() && self.oldest.is_none()
    }

    /// Returns whether a bridge of this version should be updated. `None` is a version that cannot be read.
    pub fn state_of(&self, running: Option<&ProgramVersion>) -> UpdateState {
        let Some(running) = running.filter(|_| !self.is_empty()) else {
            return UpdateState::Unknown;
        };
        let is_above =
            |named: &Option<ProgramVersion>| named.as_ref().is_some_and(|it| it > running);
        match (is_above(&self.oldest), is_above(&self.newest)) {
            (true, _) => UpdateState::Required,
            (false, true) => UpdateState::Available,
            (false, false) => UpdateState::Current,
        }
    }

    /// Whether the relay refuses a bridge of this version.
    pub fn refuses(&self, running: Option<&ProgramVersion>) -> bool {
        self.is_enforced && self.state_of(running) == UpdateState::Required
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ProgramVersion {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_in_the_order_of_the_standard() {
        let ascending = [
            "0.1.0",
            "0.2.0-1",
            "0.2.0-2",
            "0.2.0-10",
            "0.2.0-alpha",
            "0.2.0-alpha.1",
            "0.2.0-alpha.beta",
            "0.2.0-rc.1",
            "0.2.0-rc.1-x",
            "0.2.0",
            "0.10.0",
            "1.0.0-99999999999999999999",
            "1.0.0-100000000000000000000",
            "1.0.0",
            "4294967295.0.0",
        ];
        for (at, text) in ascending.iter().enumerate() {
            assert_eq!(version(text).to_string(), *text);
            for later in &ascending[at + 1..] {
                assert!(version(text) < version(later), "{text} < {later}");
            }
        }
    }

    #[test]
    fn text_that_is_no_version_is_rejected() {
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "v1.2.3",
            "1.2.x",
            "01.2.3",
            "1.2.03",
            "+1.2.3",
            "-1.2.3",
            "1.2.3-",
            "1.2.3-a..b",
            "1.2.3-01",
            "1.2.3+build",
            "1.2.3 ",
            "4294967296.0.0",
            "1.2.3-\u{1b}[2J",
        ] {
            assert_eq!(text.parse::<ProgramVersion>(), Err(VersionError), "{text}");
        }
        let long = format!("1.2.3-{}", "a".repeat(VERSION_MAX_BYTES));
        assert!(long.parse::<ProgramVersion>().is_err());
    }

    #[test]
    fn version_of_another_product_is_unknown() {
        let of = ProgramVersion::of_software;
        assert_eq!(of("integration-bridge/0.1.0"), Some(version("0.1.0")));
        assert_eq!(of("other/0.1.0"), None);
        assert_eq!(of("0.1.0"), None);
    }

    #[test]
    fn oldest_version_decides_before_the_newest() {
        let named = |newest: &str, oldest: &str, is_enforced| AcceptedVersions {
            newest: newest.parse().ok(),
            oldest: oldest.parse().ok(),
            is_enforced,
        };
        let old = version("1.0.0");
        for (accepted, state) in [
            (named("", "", true), UpdateState::Unknown),
            (named("1.0.0", "", true), UpdateState::Current),
            (named("1.0.0", "1.0.0", true), UpdateState::Current),
            (named("1.1.0", "1.0.0", true), UpdateState::Available),
            (named("1.2.0", "1.1.0", true), UpdateState::Required),
            (named("", "1.1.0", false), UpdateState::Required),
        ] {
            assert_eq!(accepted.state_of(Some(&old)), state, "{accepted:?}");
            let refused = state == UpdateState::Required && accepted.is_enforced;
            assert_eq!(accepted.refuses(Some(&old)), refused, "{accepted:?}");
            assert!(!accepted.refuses(None), "{accepted:?}");
        }
    }
}
