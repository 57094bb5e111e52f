//! Cookies: `Set-Cookie` as ALM sends it to the bridge, `Cookie` as a caller may send it to ALM.

use http::header::{self, HeaderMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The change of one cookie by a `Set-Cookie` field.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It gets this value, and expires at this time if there is one.
    Set {
        name: String,
        value: String,
        expires: Option<SystemTime>,
    },
    /// It is deleted: it has no value, or an expiry in the past.
    Deleted { name: String },
}

impl Change {
    /// Parses the value of a `Set-Cookie` field (RFC 6265, 5.2). `None` where it is not a cookie.
    pub(super) fn parse(field: &str, now: SystemTime) -> Option<Self> {
        let mut parts = field.split(';');
        let (name, value) = parts.next()?.split_once('=')?;
        let (name, value) = (name.trim().to_owned(), value.trim());
        if name.is_empty() {
            return None;
        }
        let (mut max_age, mut expires) = (None, None);
        for part in parts {
            let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
            let (attribute, value) = (attribute.trim(), value.trim());
            // Of several, the last valid one counts (RFC 6265, 5.3).
            if attribute.eq_ignore_ascii_case("max-age") {
                max_age = end_of(value, now).or(max_age);
            } else if attribute.eq_ignore_ascii_case("expires") {
                expires = date(value).or(expires);
            }
        }
        // `Max-Age` has precedence (RFC 6265, 4.1.2.2).
        let expires = max_age.or(expires);
        if value.is_empty() || value == "\"\"" || expires.is_some_and(|end| end <= now) {
            return Some(Self::Deleted { name });
        }
        Some(Self::Set {
            name,
            value: value.to_owned(),
            expires,
        })
    }
}

/// Returns when a cookie with this `Max-Age` expires.
fn end_of(max_age: &str, now: SystemTime) -> Option<SystemTime> {
    let digits = max_age.strip_prefix('-').unwrap_or(max_age);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if digits.len() < max_age.len() {
        return Some(UNIX_EPOCH);
    }
    let seconds = digits.parse::<u32>().unwrap_or(u32::MAX);
    now.checked_add(Duration::from_secs(seconds.into()))
}

/// Parses the date of a cookie (RFC 6265, 5.1.1), whose format is more tolerant than HTTP's: ALM writes
/// `Thu, 01-Jan-1970 00:00:10 GMT`.
fn date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let is_delimiter =
        |one: char| matches!(one, '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~');
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(is_delimiter).filter(|token| !token.is_empty()) {
        let digits = token.bytes().take_while(u8::is_ascii_digit).count();
        let number = token[..digits].parse::<u64>().ok();
        if time.is_none() && clock(token).is_some() {
            time = clock(token);
        } else if day.is_none() && matches!(digits, 1 | 2) {
            day = number;
        } else if month.is_none()
            && let Some(start) = token.get(..3)
            && let Some(at) = MONTHS
                .iter()
                .position(|one| start.eq_ignore_ascii_case(one))
        {
            month = u64::try_from(at + 1).ok();
        } else if year.is_none() && (2..=4).contains(&digits) {
            year = number;
        }
    }
    let (time, day, month, year) = (time?, day?, month?, year?);
    let year = match year {
        70..=99 => year + 1900,
        0..=69 => year + 2000,
        _ => year,
    };
    if !(1..=31).contains(&day) || year < 1601 {
        return None;
    }
    // A date before 1970 counts as 1970: both are in the past.
    let days = days_since_1970(year, month, day).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(days * 86_400 + time))
}

/// Parses `hh:mm:ss` as seconds.
fn clock(token: &str) -> Option<u64> {
    let mut parts = token.splitn(3, ':');
    let mut next = |max: u64| {
        let part = parts.next()?;
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let number = part[..digits].parse::<u64>().ok()?;
        (matches!(digits, 1 | 2) && number <= max).then_some(number)
    };
    Some(next(23)? * 3600 + next(59)? * 60 + next(59)?)
}

/// Returns the days since 1 January 1970 in the Gregorian calendar, or `None` for an earlier date.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    // The year is counted from March, so that the leap day is its last day.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

/// The cookies of a request that are well-formed pairs (RFC 6265, 4.2.1) and whose name `is_kept`. The
/// others are dropped: two parsers could read a quote or a comma in them differently, and so take a
/// part of the next cookie for theirs, or two cookies for one.
pub(super) fn of_caller(headers: &HeaderMap, is_kept: impl Fn(&str) -> bool) -> Vec<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            let fits = is_token(name) && !name.starts_with('$') && is_value(value) && is_kept(name);
            fits.then(|| format!("{name}={value}"))
        })
        .collect()
}

fn is_token(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_part)
}

fn is_value(value: &str) -> bool {
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let inner = quoted.unwrap_or(value);
    let is_part = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
    inner.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn parse(field: &str) -> Option<Change> {
        Change::parse(field, UNIX_EPOCH + Duration::from_secs(NOW_S))
    }

    fn is_deleted(field: &str) -> bool {
        matches!(parse(field), Some(Change::Deleted { .. }))
    }

    #[test]
    fn deleted_cookies_are_known_in_every_form() {
        for field in [
            "A=\"\"; Expires=Thu, 01-Jan-1970 00:00:10 GMT; Path=/",
            "A=\"\";Path=/",
            "A=",
            "A=; Max-Age=0",
            "A=x; Max-Age=0",
            "A=x; max-age=-5; Expires=Wed, 01 Jan 2200 00:00:00 GMT",
            "A=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "A=x; Expires=Thu, 01-Jan-1970 00:00:10 GMT",
            "A=x; expires=Sunday, 06-Nov-94 08:49:37 GMT",
            "A=x; Expires=Sun Nov  6 08:49:37 1994",
            "A=x; Expires=Mon, 01-Jan-1900 00:00:00 GMT",
            "A=deleted; Expires=Fri, 15 Jan 2027 07:59:59 GMT",
        ] {
            assert!(is_deleted(field), "{field}: {:?}", parse(field));
        }
    }

    #[test]
    fn other_cookies_keep_their_value_and_end() {
        for field in [
            "A=x",
            "A=x; Path=/; HttpOnly",
            "A=x; Max-Age=60",
            "A=x; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "A=x; Max-Age=nonsense",
            "A=x; Expires=nonsense",
            "A=x; Expires=Fri, 15-Jan-2027 08:00:01 GMT",
            "A=x; Max-Age=99999999999999999999",
        ] {
            let Some(Change::Set { name, value, .. }) = parse(field) else {
                panic!("{field}: {:?}", parse(field));
            };
            assert_eq!((name.as_str(), value.as_str()), ("A", "x"));
        }
        for none in ["", "A", "=x"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn cookie_dates_are_seconds_since_1970() {
        let seconds = |text: &str| date(text)?.duration_since(UNIX_EPOCH).ok();
        for (text, expected) in [
            ("Thu, 01-Jan-1970 00:00:10 GMT", 10),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Fri, 15 Jan 2027 08:00:00 GMT", NOW_S),
        ] {
            assert_eq!(seconds(text), Some(Duration::from_secs(expected)), "{text}");
        }
        for wrong in ["", "Thu, 32 Jan 1970 00:00:00", "1 Jan 1970 24:00:00"] {
            assert_eq!(date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn malformed_cookies_of_callers_are_dropped() {
        let mut headers = HeaderMap::new();
        for value in [
            "own=1; QCSession=forged; other=\"q\"",
            "open=\"; hidden=x\"",
            "a=1,QCSession=forged",
            "$Version=1; sp ace=1; none; =x; back=a\\b",
        ] {
            headers.append(header::COOKIE, value.parse().unwrap());
        }
        let kept = of_caller(&headers, |name| name != "QCSession");
        assert_eq!(kept, ["own=1", "other=\"q\""]);
    }
}
