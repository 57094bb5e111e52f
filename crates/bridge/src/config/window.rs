//! A maintenance window: a time of the week at which requests to a target are rejected. It is in UTC, which has
//! neither gaps nor repeated hours.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MIN: u32 = 24 * 60;

/// A maintenance window. No days means every day. `from` and `to` are minutes of the day; a window whose end is
/// before its start continues over midnight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    days: Vec<u8>,
    from: u32,
    to: u32,
}

impl Window {
    /// Returns whether a moment is in it.
    pub(crate) fn contains(&self, moment: SystemTime) -> bool {
        let seconds = moment
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let minutes = u32::try_from(seconds / 60 % u64::from(DAY_MIN)).unwrap_or(0);
        // The first day of 1970 was a Thursday.
        let day = u8::try_from((seconds / 86_400 + 3) % 7).unwrap_or(0);
        if self.from <= self.to {
            return self.is_on(day) && (self.from..self.to).contains(&minutes);
        }
        // Over midnight: the part after midnight belongs to the window of the day before.
        let yesterday = (day + 6) % 7;
        (self.is_on(day) && minutes >= self.from) || (self.is_on(yesterday) && minutes < self.to)
    }

    fn is_on(&self, day: u8) -> bool {
        self.days.is_empty() || self.days.contains(&day)
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} is not a maintenance window: write days and times in UTC, like \"daily 02:00-02:30\", \
                 \"sat 22:00-23:30\" or \"mon,wed 23:30-00:30\"",
                runtime::value::shown(text)
            )
        };
        let (days, times) = text.split_once(' ').ok_or_else(wrong)?;
        let day = |name: &str| {
            let at = DAYS.iter().position(|day| *day == name)?;
            u8::try_from(at).ok()
        };
        let days = match days {
            "daily" => Vec::new(),
            list => list
                .split(',')
                .map(day)
                .collect::<Option<Vec<u8>>>()
                .ok_or_else(wrong)?,
        };
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let is_two = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            if !is_two(hours) || !is_two(minutes) {
                return None;
            }
            let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, to) = times.trim().split_once('-').ok_or_else(wrong)?;
        let (from, to) = minute(from).zip(minute(to)).ok_or_else(wrong)?;
        if from == to {
            return Err(wrong());
        }
        Ok(Self { days, from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self
            .days
            .iter()
            .map(|day| DAYS[usize::from(*day)])
            .collect();
        let days = match names.is_empty() {
            true => "daily".to_owned(),
            false => names.join(","),
        };
        let time = |minutes: u32| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        write!(f, "{days} {}-{}", time(self.from), time(self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// 2026-11-26 was a Thursday; 20 783 days after the first of 1970.
    fn at(day: u64, hour: u64, minute: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(day * 86_400 + hour * 3600 + minute * 60)
    }

    const THURSDAY: u64 = 20_783;

    #[test]
    fn window_contains_its_times_only() {
        let daily: Window = "daily 02:00-02:30".parse().unwrap();
        assert!(daily.contains(at(THURSDAY, 2, 0)) && daily.contains(at(THURSDAY, 2, 29)));
        assert!(!daily.contains(at(THURSDAY, 2, 30)) && !daily.contains(at(THURSDAY, 1, 59)));
        let thursday: Window = "thu 08:00-09:00".parse().unwrap();
        assert!(thursday.contains(at(THURSDAY, 8, 30)));
        assert!(!thursday.contains(at(THURSDAY + 1, 8, 30)));
        let night: Window = "thu 23:30-00:30".parse().unwrap();
        assert!(night.contains(at(THURSDAY, 23, 45)) && night.contains(at(THURSDAY + 1, 0, 15)));
        assert!(!night.contains(at(THURSDAY, 0, 15)) && !night.contains(at(THURSDAY + 1, 23, 45)));
        assert_eq!(night.to_string(), "thu 23:30-00:30");
    }

    #[test]
    fn invalid_window_is_rejected() {
        for wrong in [
            "02:00-03:00",
            "daily 2:00-3:00",
            "someday 02:00-03:00",
            "daily 24:00-25:00",
            "daily 02:00",
            "mon,foo 02:00-03:00",
            "daily 02:00-02:00",
        ] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }
}
