//! Instants as text: RFC 3339 in UTC, as `2026-11-30T12:00:00Z` or, with milliseconds,
//! `2026-11-30T12:00:00.123Z`.
//!
//! The programs keep instants as numbers since 1970; they become text only where a person or another
//! program reads them.

use std::time::{SystemTime, UNIX_EPOCH};
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

/// The text is no RFC 3339 instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstantError;

impl std::fmt::Display for InstantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not an RFC 3339 instant like 2026-11-30T12:00:00Z")
    }
}

impl std::error::Error for InstantError {}

/// Returns the seconds since 1970.
pub fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Returns seconds since 1970 as RFC 3339 text. Instants outside the years 0000 to 9999, which
/// RFC 3339 cannot express, are clamped.
pub fn rfc3339(seconds: i64) -> String {
    let (date, time) = whole_seconds(civil(seconds.saturating_mul(1000)));
    format!("{date}T{time}Z")
}

/// Returns milliseconds since 1970 as RFC 3339 text with three decimals. Instants outside the years
/// 0000 to 9999 are clamped.
pub fn rfc3339_ms(ms: i64) -> String {
    let civil = civil(ms);
    let (date, time) = whole_seconds(civil);
    format!("{date}T{time}.{:03}Z", civil.millisecond())
}

/// Returns seconds since 1970 as text for people, to the minute: `2026-11-30 12:00 UTC`.
pub fn to_minute(seconds: i64) -> String {
    let (date, time) = whole_seconds(civil(seconds.saturating_mul(1000)));
    format!("{date} {} UTC", &time[..5])
}

/// Reads an RFC 3339 instant, in any time zone, as milliseconds since 1970. Finer fractions of a
/// second are cut off.
///
/// # Errors
/// [`InstantError`] for anything else.
pub fn parse_rfc3339_ms(text: &str) -> Result<i64, InstantError> {
    let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InstantError)?;
    let ms = instant.unix_timestamp_nanos().div_euclid(1_000_000);
    i64::try_from(ms).map_err(|_| InstantError)
}

fn civil(ms: i64) -> OffsetDateTime {
    let nanos = i128::from(ms) * 1_000_000;
    // `time` has years before 0000, for which RFC 3339 has no text.
    let first = Date::from_ordinal_date(0, 1).map_or(OffsetDateTime::UNIX_EPOCH, |date| {
        date.midnight().assume_utc()
    });
    match OffsetDateTime::from_unix_timestamp_nanos(nanos) {
        Ok(instant) => instant.max(first),
        Err(_) if ms < 0 => first,
        Err(_) => Date::from_ordinal_date(9999, 365)
            .and_then(|date| date.with_hms_milli(23, 59, 59, 999))
            .map_or(first, |last| last.assume_utc()),
    }
}

fn whole_seconds(civil: OffsetDateTime) -> (String, String) {
    let (date, month) = (civil.date(), u8::from(civil.month()));
    let (hour, minute, second) = civil.to_hms();
    (
        format!("{:04}-{month:02}-{:02}", date.year(), date.day()),
        format!("{hour:02}:{minute:02}:{second:02}"),
    )
}

/// Seconds since 1970 as RFC 3339, for serde's `with`.
pub mod as_rfc3339 {
    use serde::de::{self, Deserialize as _, Deserializer};
    use serde::ser::Serializer;

    /// Writes an instant.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(seconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        let seconds = i64::try_from(*seconds).unwrap_or(i64::MAX);
        serializer.serialize_str(&super::rfc3339(seconds))
    }

    /// Reads an instant.
    ///
    /// # Errors
    /// The text is not an instant.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let millis = super::parse_rfc3339_ms(&text).map_err(de::Error::custom)?;
        let millis =
            u64::try_from(millis).map_err(|_| de::Error::custom("an instant before 1970"))?;
        Ok(millis / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_796_040_000), "2026-11-30T12:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339_ms(1_796_040_000_123), "2026-11-30T12:00:00.123Z");
        assert_eq!(rfc3339_ms(1_796_040_000_000), "2026-11-30T12:00:00.000Z");
        assert_eq!(rfc3339_ms(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(to_minute(1_796_040_059), "2026-11-30 12:00 UTC");
    }

    #[test]
    fn instants_out_of_range_are_clamped() {
        for last in [253_402_300_800, i64::MAX] {
            assert_eq!(rfc3339(last), "9999-12-31T23:59:59Z", "{last}");
        }
        assert_eq!(rfc3339_ms(i64::MAX), "9999-12-31T23:59:59.999Z");
        for first in [-62_167_219_201, i64::MIN] {
            assert_eq!(rfc3339(first), "0000-01-01T00:00:00Z", "{first}");
        }
    }

    #[test]
    fn instants_are_read_in_any_time_zone() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-30T12:00:00Z", 1_796_040_000_000),
            ("2026-11-30T13:00:00+01:00", 1_796_040_000_000),
            ("2026-11-30T12:00:00.123456789Z", 1_796_040_000_123),
            ("1969-12-31T23:59:59.9999Z", -1),
        ] {
            assert_eq!(parse_rfc3339_ms(text), Ok(ms), "{text}");
        }
        for wrong in [
            "",
            "1796040000",
            "2026-11-30",
            "2026-11-30T12:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-11-30T12:00:00Z ",
        ] {
            assert_eq!(parse_rfc3339_ms(wrong), Err(InstantError), "{wrong}");
        }
    }

    #[test]
    fn text_is_read_as_it_was_written() {
        for ms in [0, 1, -1, 999, 1_796_040_000_123, 253_402_300_799_999] {
            assert_eq!(parse_rfc3339_ms(&rfc3339_ms(ms)), Ok(ms));
        }
    }
}
