//! Sizes and times as an administrator writes them: a number with its unit, `"1MiB"`, `"30s"`.
//!
//! A bare number is refused: nobody can tell later which unit was meant.

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes: `"512B"`, `"32KiB"`, `"1MiB"`, `"2GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time: `"500ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// What was written is no size or no time. Says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {what}: write a whole number and its unit, as in {example}")]
pub struct UnitError {
    given: String,
    what: &'static str,
    example: &'static str,
}

impl ByteSize {
    /// So many KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count * 1024)
    }

    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count * 1024 * 1024)
    }

    /// The number of bytes, as large as this machine can address.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number of bytes, or the largest that fits.
    pub fn bytes_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl Span {
    /// So many seconds.
    pub const fn secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// In milliseconds, or the most that fits.
    pub fn millis(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }
}

/// Splits `"30s"` into 30 and `"s"`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
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
            what: "a size",
            example: "\"64KiB\" or \"1MiB\" (units: B, KiB, MiB, GiB)",
        })
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let span = number_and_unit(text).and_then(|(number, unit)| {
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
        span.map(Self).ok_or_else(|| UnitError {
            given: text.to_owned(),
            what: "a time",
            example: "\"30s\" or \"500ms\" (units: ms, s, m, h, d)",
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

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

struct Text<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = UnitError>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string with a number and its unit, such as \"30s\" or \"1MiB\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_carry_their_unit() {
        assert_eq!("512B".parse(), Ok(ByteSize(512)));
        assert_eq!("32KiB".parse(), Ok(ByteSize::kib(32)));
        assert_eq!("2 GiB".parse(), Ok(ByteSize::mib(2048)));
        assert_eq!("500ms".parse(), Ok(Span(Duration::from_millis(500))));
        assert_eq!("5m".parse(), Ok(Span::secs(300)));
        assert_eq!("1h".parse(), Ok(Span::secs(3600)));
    }

    #[test]
    fn what_has_no_unit_or_overflows_is_refused_with_an_example() {
        for text in [
            "",
            "30",
            "30 x",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "s",
        ] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("\"30s\""), "{error}");
        }
        for text in ["1M", "1MB", "18446744073709551615KiB"] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("\"1MiB\""), "{error}");
        }
    }

    #[test]
    fn values_print_as_they_are_written() {
        assert_eq!(ByteSize::mib(4).to_string(), "4MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000B");
        assert_eq!(Span::secs(90).to_string(), "90s");
        assert_eq!(Span(Duration::from_millis(1500)).to_string(), "1500ms");
    }
}
