//! Values with a unit: durations, sizes, numbers within bounds. Parsed once, here.
//!
//! TOML has no units, so they are strings: `"30s"`, `"16MiB"`. A bare number is refused, because
//! nobody can tell what it counts.

use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A duration with its unit: `ms`, `s`, `m` or `h`. One millisecond to 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    /// Longest duration that a setting takes.
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// So many seconds.
    pub(crate) const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a duration: write a whole number with its unit, \
                 like \"500ms\", \"30s\", \"5m\" or \"1h\""
            )
        };
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return Err(wrong()),
        };
        let span = number.checked_mul(millis).map(Duration::from_millis);
        match span {
            Some(span) if !span.is_zero() && span <= Self::MAX => Ok(Self(span)),
            _ => Err(format!(
                "{text:?} is out of bounds: write a duration from \"1ms\" to \"24h\""
            )),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// How often something is done: a duration, or `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every(Option<Span>);

impl Every {
    /// Every so many seconds.
    pub(crate) const fn secs(seconds: u64) -> Self {
        Self(Some(Span::secs(seconds)))
    }

    /// The time between two; none for never.
    pub fn get(self) -> Option<Duration> {
        self.0.map(Span::get)
    }
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let span = text
            .parse()
            .map_err(|error| format!("{error}, or \"off\""))?;
        Ok(Self(Some(span)))
    }
}

/// A number of bytes with its unit: `B`, `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// So many MiB.
    pub(crate) const fn mib(count: u64) -> Self {
        Self(count * 1024 * 1024)
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a size: write a whole number with its unit, \
                 like \"512B\", \"64KiB\", \"16MiB\" or \"1GiB\""
            )
        };
        let (number, unit) = split(text).ok_or_else(wrong)?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

/// A file's path. Relative ones count from the directory of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilePath(PathBuf);

impl FilePath {
    /// Makes a relative path absolute.
    pub(crate) fn anchor(&mut self, base: &Path) {
        self.0 = base.join(&self.0);
    }

    /// The path.
    pub fn get(&self) -> &Path {
        &self.0
    }
}

impl FromStr for FilePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("the path is empty: write one, or leave the key out".into());
        }
        Ok(Self(PathBuf::from(text)))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Within<MIN, MAX> {
    /// A default that is known to be within.
    pub(crate) const fn known(value: u32) -> Self {
        assert!(
            MIN <= value && value <= MAX,
            "a default is within its bounds"
        );
        Self(value)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl<'de, const MIN: u32, const MAX: u32> de::Deserialize<'de> for Within<MIN, MAX> {
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

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Reads a string and parses it; another type of value is refused with what was expected.
pub(crate) fn text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
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

macro_rules! from_text {
    ($($type:ty, $expected:literal;)*) => {$(
        impl<'de> de::Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text(deserializer, $expected)
            }
        }
    )*};
}
pub(crate) use from_text;

from_text! {
    Span, "a duration in quotes with its unit, like \"30s\"";
    Every, "a duration in quotes with its unit, like \"60s\", or \"off\"";
    Size, "a size in quotes with its unit, like \"16MiB\"";
    FilePath, "a path in quotes";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_and_understood() {
        let span = |text: &str| text.parse::<Span>().map(Span::get);
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("5 m"), Ok(Duration::from_secs(300)));
        for bad in [
            "30",
            "s",
            "-1s",
            "1.5s",
            "0s",
            "25h",
            "99999999999999999999s",
            "1d",
        ] {
            assert!(span(bad).is_err(), "{bad}");
        }
        let size = |text: &str| text.parse::<Size>().map(Size::bytes);
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("0B"), Ok(0));
        for bad in ["16", "16MB", "MiB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
