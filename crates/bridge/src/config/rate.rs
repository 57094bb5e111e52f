//! The key `rate`: exchanges in a time.

use runtime::limit::Refill;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Exchanges per time, like `"10/s"` or `"600/m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    every: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.every.as_secs() {
            1 => "s",
            60 => "m",
            _ => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl Rate {
    /// What a quota without a rate has: nothing takes from it.
    pub(crate) const UNUSED: Refill = Refill {
        per_second: 0.0,
        burst: 0.0,
    };

    /// Returns the token bucket's parameters: the burst is one whole count.
    pub(crate) fn refill(self) -> Refill {
        let burst = f64::from(self.count);
        Refill {
            per_second: burst / self.every.as_secs_f64(),
            burst,
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} is not a rate: write a number and a time, like \"10/s\", \"600/m\" or \"1000/h\"",
                runtime::value::shown(text)
            )
        };
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let every = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        let count = count
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(wrong)?;
        Ok(Self { count, every })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_a_number_and_a_time() {
        let rate: Rate = "600/m".parse().unwrap();
        assert_eq!((rate.count, rate.every), (600, Duration::from_secs(60)));
        assert_eq!(rate.to_string(), "600/m");
        for wrong in ["10", "10/d", "0/s", "x/s", "-1/s", ""] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
