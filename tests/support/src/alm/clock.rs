//! Dates and times as ALM writes them: `yyyy-MM-dd` and `yyyy-MM-dd HH:mm:ss`, in no time zone.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// The present, to the second, or a time at which a test stopped it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    stopped: Option<String>,
}

impl Clock {
    pub(super) fn stop_at(&mut self, time: Option<&str>) {
        self.stopped = time.map(str::to_owned);
    }

    pub(super) fn now(&self) -> String {
        self.stopped.clone().unwrap_or_else(utc_now)
    }
}

fn utc_now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    written(since.expect("it is after 1970").as_secs())
}

fn written(unix_seconds: u64) -> String {
    let (year, month, day) = civil(unix_seconds / DAY_SECONDS);
    let second = unix_seconds % DAY_SECONDS;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The Gregorian date of a day since 1970. Years begin in March here, so that a leap day is a year's
/// last day and no month after it moves.
fn civil(day: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    const DAYS_FROM_YEAR_0: u64 = 719_468;
    let day = day + DAYS_FROM_YEAR_0;
    let (era, day) = (day / ERA_DAYS, day % ERA_DAYS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Whether it is a `yyyy-MM-dd`.
pub(super) fn is_date(text: &str) -> bool {
    let (Some(month), Some(day)) = (digits(text, 5, 7), digits(text, 8, 10)) else {
        return false;
    };
    has_shape(text, "0000-00-00") && (1..=12).contains(&month) && (1..=31).contains(&day)
}

/// Whether it is a `yyyy-MM-dd HH:mm:ss`.
pub(super) fn is_date_time(text: &str) -> bool {
    let in_range = |from, to, below| digits(text, from, to).is_some_and(|number| number < below);
    has_shape(text, "0000-00-00 00:00:00")
        && text.get(..10).is_some_and(is_date)
        && in_range(11, 13, 24)
        && in_range(14, 16, 60)
        && in_range(17, 19, 60)
}

fn digits(text: &str, from: usize, to: usize) -> Option<u8> {
    text.get(from..to)?.parse().ok()
}

fn has_shape(text: &str, shape: &str) -> bool {
    let fits = |(is, wanted): (u8, u8)| match wanted {
        b'0' => is.is_ascii_digit(),
        other => is == other,
    };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_convert_to_dates_over_leap_years() {
        assert_eq!(written(0), "1970-01-01 00:00:00");
        assert_eq!(written(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(written(1_767_225_599), "2025-12-31 23:59:59");
        assert_eq!(written(1_772_323_200), "2026-03-01 00:00:00");
    }

    #[test]
    fn only_alm_formats_parse_as_dates() {
        assert!(is_date("2026-01-31") && is_date_time("2026-01-31 23:59:59"));
        assert!(!is_date("2026-13-01") && !is_date("31.01.2026") && !is_date("2026-01-31 "));
        assert!(!is_date_time("2026-01-31T23:59:59") && !is_date_time("2026-01-31 24:00:00"));
    }
}
