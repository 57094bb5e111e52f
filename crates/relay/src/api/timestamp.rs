//! Instants in documents: RFC 3339 in UTC, described as `format: date-time`.

use runtime::time::{parse_rfc3339_ms, rfc3339, rfc3339_ms};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;

/// An instant, with the precision in which it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timestamp {
    /// Seconds since 1970; written without decimals.
    Seconds(i64),
    /// Milliseconds since 1970; written with three decimals.
    Millis(i64),
}

impl Timestamp {
    /// Reads an instant in any time zone.
    ///
    /// # Errors
    /// The mistake, with the expected form of `name`.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let ms = parse_rfc3339_ms(text).map_err(|error| format!("{name} is {error}"))?;
        Ok(Self::Millis(ms))
    }

    /// Returns milliseconds since 1970.
    pub(crate) fn millis(self) -> i64 {
        match self {
            Self::Seconds(seconds) => seconds.saturating_mul(1000),
            Self::Millis(ms) => ms,
        }
    }

    /// Returns whole seconds since 1970.
    pub(crate) fn seconds(self) -> i64 {
        match self {
            Self::Seconds(seconds) => seconds,
            // Rounded down, also for instants before 1970.
            Self::Millis(ms) => ms.div_euclid(1000),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&match *self {
            Self::Seconds(seconds) => rfc3339(seconds),
            Self::Millis(ms) => rfc3339_ms(ms),
        })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse("the time", &text).map_err(de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    // A reference would hide the description of the field that has it.
    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn timestamp_keeps_its_precision() {
        assert_eq!(
            json!([Timestamp::Seconds(0), Timestamp::Millis(1)]),
            json!(["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.001Z"])
        );
        let read: Timestamp = serde_json::from_value(json!("1970-01-01T01:00:01.5+01:00")).unwrap();
        assert_eq!((read.millis(), read.seconds()), (1500, 1));
        for wrong in [json!(1), json!("1"), json!("1970-01-01")] {
            let error = serde_json::from_value::<Timestamp>(wrong).unwrap_err();
            assert!(!error.to_string().is_empty());
        }
    }
}
