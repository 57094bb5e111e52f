//! Instants as RFC 3339 in UTC, which JSON documents have: `2026-11-30T12:00:00.123Z`.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_S: i64 = 24 * 60 * 60;

/// Returns the seconds since 1970.
pub fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Returns an instant, given in seconds since 1970.
pub fn rfc3339(seconds: i64) -> String {
    let (date, time) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = date_of(date);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns an instant, given in milliseconds since 1970.
pub fn rfc3339_ms(millis: i64) -> String {
    let seconds = rfc3339(millis.div_euclid(1000));
    let millis = millis.rem_euclid(1000);
    format!("{}.{millis:03}Z", seconds.trim_end_matches('Z'))
}

/// Returns the milliseconds since 1970 of an instant, if it is one: a date, a time, optionally a fraction of
/// seconds, and `Z` or an offset.
pub fn parse_ms(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [year, month, day] = numbers(date, b'-')?;
    let (time, rest) = rest.strip_prefix(['T', 't', ' '])?.split_at_checked(8)?;
    let [hour, minute, second] = numbers(time, b':')?;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    // 60 is a leap second, which counts as the next one.
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let days = days_of(year, month, day);
    // 31 November is a date by its numbers alone.
    if date_of(days) != (year, month, day) {
        return None;
    }
    let (millis, zone) = fraction(rest)?;
    let seconds = days * DAY_S + hour * 3600 + minute * 60 + second - offset_s(zone)?;
    Some(seconds * 1000 + millis)
}

fn number(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

/// Three numbers with two separators, the last two of two digits.
fn numbers(text: &str, separator: u8) -> Option<[i64; 3]> {
    let mut parts = text.split(char::from(separator));
    let all = [parts.next()?, parts.next()?, parts.next()?];
    if parts.next().is_some() || all[1].len() != 2 || all[2].len() != 2 {
        return None;
    }
    Some([number(all[0])?, number(all[1])?, number(all[2])?])
}

/// Milliseconds of a fraction, and what follows it.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else {
        return Some((0, text));
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, zone) = rest.split_at(digits);
    let first: String = digits.chars().chain("000".chars()).take(3).collect();
    (!digits.is_empty()).then(|| Some((number(&first)?, zone)))?
}

fn offset_s(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hour, minute) = rest.split_once(':')?;
    if hour.len() != 2 || minute.len() != 2 {
        return None;
    }
    let (hour, minute) = (number(hour)?, number(minute)?);
    (hour <= 23 && minute <= 59).then_some(sign * (hour * 3600 + minute * 60))
}

// Both count years from March, so that a leap day is the last day of its year, and days in eras of 400 years,
// after which the calendar repeats (H. Hinnant, "chrono-compatible low-level date algorithms").

fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day)
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
        let millis = super::parse_ms(&text).and_then(|millis| u64::try_from(millis).ok());
        millis
            .map(|millis| millis / 1000)
            .ok_or_else(|| de::Error::custom("not an instant as of RFC 3339"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instant_is_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
        assert_eq!(rfc3339(1_796_040_000), "2026-11-30T12:00:00Z");
        assert_eq!(rfc3339_ms(1_796_040_000_123), "2026-11-30T12:00:00.123Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn every_day_is_its_own_inverse() {
        for day in (-200_000..200_000).step_by(7) {
            let seconds = day * DAY_S + 86_399;
            let text = rfc3339(seconds);
            assert_eq!(parse_ms(&text), Some(seconds * 1000), "{text}");
        }
    }

    #[test]
    fn instant_is_read_with_fraction_and_offset() {
        let noon = 1_796_040_000_000;
        for (text, millis) in [
            ("2026-11-30T12:00:00Z", noon),
            ("2026-11-30t12:00:00.5z", noon + 500),
            ("2026-11-30 13:30:00.123999+01:30", noon + 123),
            ("2026-11-30T11:00:00-01:00", noon),
        ] {
            assert_eq!(parse_ms(text), Some(millis), "{text}");
        }
        for text in [
            "",
            "2026-11-30",
            "2026-11-30T12:00:00",
            "2026-11-31T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-11-30T24:00:00Z",
            "2026-11-30T12:00:00.Z",
            "2026-11-30T12:00:00+1:00",
            "2026-11-30T12:00:00+01:00x",
            "+026-11-30T12:00:00Z",
            "1796040000",
            "2026-1a-30T12:00:00Z",
            "äääää-11-30T12:00:00Z",
        ] {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }
}
