//! Values with a unit or a bound: durations, sizes, numbers, paths.
//!
//! TOML has no units, so durations and sizes are strings: `"30s"`, `"16MiB"`. A bare number is rejected,
//! because a reader cannot know which unit it counts. Values are parsed once, here, and printed in the form in
//! which they are written.

use crate::value::shown;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A text is not a duration, or not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not {kind}: write a whole number and its unit, as in {example}", shown(.given))]
pub struct UnitError {
    given: String,
    kind: &'static str,
    example: &'static str,
}

/// Splits `"30s"` into 30 and `"s"`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// A duration with its unit: `"500ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"`. May be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigDuration(pub Duration);

impl ConfigDuration {
    /// A number of seconds.
    pub const fn secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// Returns the duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Returns it in milliseconds, or the largest number that fits.
    pub fn millis(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }
}

impl FromStr for ConfigDuration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let duration = number_and_unit(text).and_then(|(number, unit)| {
            let millis = match unit {
                "ms" => Some(number),
                "s" => number.checked_mul(1000),
                "m" => number.checked_mul(60_000),
                "h" => number.checked_mul(3_600_000),
                "d" => number.checked_mul(86_400_000),
                _ => None,
            };
            millis.map(Duration::from_millis)
        });
        duration.map(Self).ok_or_else(|| UnitError {
            given: text.to_owned(),
            kind: "a duration",
            example: "\"30s\" or \"500ms\" (units: ms, s, m, h, d)",
        })
    }
}

impl fmt::Display for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// A duration from one millisecond to 24 hours: a time after which the program gives up or renews something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeout(ConfigDuration);

impl Timeout {
    /// The longest.
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// A number of seconds, as a default.
    ///
    /// # Panics
    /// When the number is out of bounds.
    pub const fn secs(count: u64) -> Self {
        assert!(
            0 < count && count <= Self::MAX.as_secs(),
            "a default is within its bounds"
        );
        Self(ConfigDuration::secs(count))
    }

    /// Returns the duration.
    pub const fn get(self) -> Duration {
        self.0.get()
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration: ConfigDuration =
            text.parse().map_err(|error: UnitError| error.to_string())?;
        if duration.0.is_zero() || duration.0 > Self::MAX {
            return Err(format!(
                "{text:?} is out of bounds: write a duration from \"1ms\" to \"24h\""
            ));
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How often something is done: a duration from one millisecond to 24 hours, or `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(Option<Timeout>);

impl Interval {
    /// A number of seconds, as a default.
    pub const fn secs(count: u64) -> Self {
        Self(Some(Timeout::secs(count)))
    }

    /// Returns the time between two runs; `None` for `"off"`.
    pub fn get(self) -> Option<Duration> {
        self.0.map(Timeout::get)
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A word, because a zero could mean "always" or "never".
        if text == "off" {
            return Ok(Self(None));
        }
        let timeout = text.parse();
        timeout
            .map(|timeout| Self(Some(timeout)))
            .map_err(|error: String| format!("{error}, or \"off\""))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(timeout) => timeout.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// A number of bytes with its unit: `"512B"`, `"32KiB"`, `"1MiB"`, `"2GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// A number of KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count * 1024)
    }

    /// A number of MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count * 1024 * 1024)
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Returns the number of bytes, or the largest number that fits.
    pub fn bytes_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Returns the number of bytes, or the largest number that fits.
    pub fn bytes_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bytes = number_and_unit(text).and_then(|(number, unit)| {
            let factor = match unit {
                "B" => 1,
                "KiB" => 1 << 10,
                "MiB" => 1 << 20,
                "GiB" => 1 << 30,
                _ => return None,
            };
            number.checked_mul(factor)
        });
        bytes.map(Self).ok_or_else(|| UnitError {
            given: text.to_owned(),
            kind: "a size",
            example: "\"64KiB\" or \"1MiB\" (units: B, KiB, MiB, GiB)",
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b if b >= 1 << 30 && b % (1 << 30) == 0 => write!(f, "{}GiB", b >> 30),
            b if b >= 1 << 20 && b % (1 << 20) == 0 => write!(f, "{}MiB", b >> 20),
            b if b >= 1 << 10 && b % (1 << 10) == 0 => write!(f, "{}KiB", b >> 10),
            b => write!(f, "{b}B"),
        }
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundedInt<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> BoundedInt<MIN, MAX> {
    /// A number as a default.
    ///
    /// # Panics
    /// When the number is out of bounds.
    pub const fn known(value: u32) -> Self {
        assert!(
            MIN <= value && value <= MAX,
            "a default is within its bounds"
        );
        Self(value)
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for BoundedInt<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u32::try_from(number)
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Self)
            .ok_or_else(|| {
                de::Error::custom(format!(
                    "{number} is out of bounds: write a whole number from {MIN} to {MAX}"
                ))
            })
    }
}

impl<const MIN: u32, const MAX: u32> Serialize for BoundedInt<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

/// Reads a number that must be at least 1, for `deserialize_with`.
///
/// # Errors
/// The number is zero, negative or too large.
pub fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    // TOML numbers are signed: read as i64, -1 gets the message below and not one about types.
    let number = i64::deserialize(deserializer)?;
    let fits = u32::try_from(number).ok().filter(|number| *number > 0);
    fits.ok_or_else(|| {
        let max = u32::MAX;
        de::Error::custom(format!(
            "{number} is out of bounds: write a whole number of at least 1, at most {max}"
        ))
    })
}

/// Reads a duration that must not be zero, for `deserialize_with`.
///
/// # Errors
/// The text is not a duration, or the duration is zero.
pub fn longer_than_zero<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<ConfigDuration, D::Error> {
    let duration = ConfigDuration::deserialize(deserializer)?;
    if duration.0.is_zero() {
        return Err(de::Error::custom(
            "0 is out of bounds: write a duration longer than zero, as in \"30s\"",
        ));
    }
    Ok(duration)
}

thread_local! {
    // Deserialization passes no context, and each path would otherwise have to be listed a second time to be
    // resolved afterwards: one that is forgotten would silently depend on the working directory.
    static BASE: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Runs `read`; every [`FilePath`] in it is resolved against `base`.
pub(super) fn with_base<T>(base: &Path, read: impl FnOnce() -> T) -> T {
    // The previous base is restored, so that a config may be read while another one is.
    let before = BASE.replace(Some(base.to_owned()));
    let result = read();
    BASE.set(before);
    result
}

/// A file's path. A relative path is resolved against the directory of the config file when it is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilePath(PathBuf);

impl FilePath {
    /// Returns the path.
    pub fn get(&self) -> &Path {
        &self.0
    }

    /// Returns the path.
    pub fn into_path(self) -> PathBuf {
        self.0
    }
}

impl FromStr for FilePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        check_path(text)?;
        let path = BASE.with_borrow(|base| match base {
            Some(base) => base.join(text),
            None => PathBuf::from(text),
        });
        Ok(Self(path))
    }
}

fn check_path(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the path is empty: write one, or leave the key out".into());
    }
    // `"C:\temp"` in double quotes is a path with a tab.
    if text.chars().any(char::is_control) {
        return Err(
            "the path has a control character: a backslash in double quotes begins an escape sequence. Write the path in \
             single quotes, as in 'C:\\temp\\ca.pem', or write each backslash twice"
                .into(),
        );
    }
    // A shell would replace them. Here they would be the name of a folder.
    let first = text.split(['/', '\\']).next().unwrap_or_default();
    let is_variable = |text: &str| {
        text.starts_with('$') || (text.len() > 2 && text.starts_with('%') && text.ends_with('%'))
    };
    if first.starts_with('~') || is_variable(first) {
        return Err(
            "the path begins with ~ or a variable, which only a shell replaces: write the whole path".into(),
        );
    }
    Ok(())
}

/// The path of a file that the program writes. A relative path is resolved against the program's directory for data, not
/// against the directory of the config file: a service may not write there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataPath {
    given: PathBuf,
    /// The path next to the config file, where versions before this rule wrote.
    next_to_config: PathBuf,
}

impl DataPath {
    /// Returns the path of a file whose relative path is resolved against `data_dir`.
    pub fn in_dir(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(&self.given)
    }

    /// Returns the file next to the config file, if it exists there and not in `data_dir`: a former version wrote
    /// it.
    pub fn left_behind(&self, data_dir: &Path) -> Option<&Path> {
        let new = self.in_dir(data_dir);
        let is_left = new != self.next_to_config && !new.exists() && self.next_to_config.is_file();
        is_left.then_some(&self.next_to_config)
    }
}

impl FromStr for DataPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let FilePath(next_to_config) = text.parse()?;
        Ok(Self {
            given: PathBuf::from(text),
            next_to_config,
        })
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.given.display().fmt(f)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// An optional path that is used as a plain one, for serde's `with`.
pub mod optional_path {
    use super::{Deserialize, Deserializer, FilePath, PathBuf, Serialize, Serializer};

    /// Reads a path as [`FilePath`] does.
    ///
    /// # Errors
    /// The value is not a path.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let path = Option::<FilePath>::deserialize(deserializer)?;
        Ok(path.map(FilePath::into_path))
    }

    /// Writes it as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = path.as_ref().map(|path| path.display().to_string());
        text.serialize(serializer)
    }
}

/// Reads a string and parses it, for `deserialize_with` and [`from_text`](crate::from_text).
///
/// # Errors
/// The value is of another type, which the message names with what was expected; or it does not parse.
pub fn text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(&'static str, PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(expected, PhantomData))
}

/// Writes a value as its text, for `serialize_with`.
///
/// # Errors
/// Those of the serializer.
pub fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Implements `Deserialize` by `FromStr`, with what is expected where the value has another type.
#[macro_export]
macro_rules! from_text {
    ($($type:ty, $expected:literal;)*) => {$(
        impl<'de> ::serde::de::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::de::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                $crate::config::text(deserializer, $expected)
            }
        }
    )*};
}

macro_rules! to_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

from_text! {
    ConfigDuration, "a duration in quotes with its unit, like \"30s\"";
    Timeout, "a duration in quotes with its unit, like \"30s\"";
    Interval, "a duration in quotes with its unit, like \"60s\", or \"off\"";
    ByteSize, "a size in quotes with its unit, like \"16MiB\"";
    FilePath, "a path in quotes";
    DataPath, "a path in quotes";
}

to_text!(
    ConfigDuration,
    Timeout,
    Interval,
    ByteSize,
    FilePath,
    DataPath
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_carry_their_unit() {
        assert_eq!("512B".parse(), Ok(ByteSize(512)));
        assert_eq!("32KiB".parse(), Ok(ByteSize::kib(32)));
        assert_eq!("2 GiB".parse(), Ok(ByteSize::mib(2048)));
        assert_eq!("0B".parse(), Ok(ByteSize(0)));
        assert_eq!(
            "500ms".parse(),
            Ok(ConfigDuration(Duration::from_millis(500)))
        );
        assert_eq!("5 m".parse(), Ok(ConfigDuration::secs(300)));
        assert_eq!("1h".parse(), Ok(ConfigDuration::secs(3600)));
        assert_eq!("1d".parse(), Ok(ConfigDuration::secs(86_400)));
    }

    #[test]
    fn value_without_unit_is_rejected_with_an_example() {
        for text in [
            "",
            "30",
            "30 x",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "s",
        ] {
            let error = text.parse::<ConfigDuration>().unwrap_err().to_string();
            assert!(error.contains("\"30s\""), "{error}");
        }
        for text in ["1M", "16", "1MB", "MiB", "18446744073709551615KiB"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("\"1MiB\""), "{error}");
        }
    }

    #[test]
    fn timeout_has_bounds() {
        for text in ["0s", "25h", "2d"] {
            let error = text.parse::<Timeout>().unwrap_err();
            assert!(error.contains("\"24h\""), "{error}");
        }
        assert_eq!("1d".parse(), Ok(Timeout::secs(86_400)));
        assert_eq!("off".parse::<Interval>().map(Interval::get), Ok(None));
    }

    #[test]
    fn values_print_as_they_are_written() {
        assert_eq!(ByteSize::mib(4).to_string(), "4MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000B");
        assert_eq!(ConfigDuration::secs(90).to_string(), "90s");
        assert_eq!(
            ConfigDuration(Duration::from_millis(1500)).to_string(),
            "1500ms"
        );
    }
}
