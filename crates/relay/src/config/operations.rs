//! `[audit]`, `[calls]`, `[directory]` and `[notices]`: what the relay records, caches and warns about.

use runtime::config::{ConfigDuration, Mistake};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const DAY_S: u64 = 24 * 3600;

/// The largest `calls.recent_max`: about 1 GiB with the longest texts.
const RECENT_CALLS_MAX: u32 = 1_000_000;

/// `[audit]`: the record of administrative actions and of endpoint exchanges.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// How long a row is kept. Defaults to `"90d"`.
    pub keep: ConfigDuration,
    /// How often the totals of endpoint exchanges are written. Defaults to `"60s"`.
    pub sums_every: ConfigDuration,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            keep: ConfigDuration::secs(90 * DAY_S),
            sums_every: ConfigDuration::secs(60),
        }
    }
}

/// `[calls]`: the list of calls whose callers waited. It is in memory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calls {
    /// Number of calls that are listed, of all tenants together; 0 for none. Defaults to 10000.
    pub recent_max: u32,
    /// How long a call is listed. Defaults to `"24h"`.
    pub recent_keep: ConfigDuration,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            recent_max: 10_000,
            recent_keep: ConfigDuration::secs(DAY_S),
        }
    }
}

impl Calls {
    /// Checks values against limits that their types do not have.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        if self.recent_max > RECENT_CALLS_MAX {
            let message = format!(
                "is {}: it must be at most {RECENT_CALLS_MAX}",
                self.recent_max
            );
            return Err(Mistake::of_key("calls.recent_max", message));
        }
        Ok(())
    }
}

/// `[directory]`: the cache of keys and bridges.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// How long the cache is valid while the database does not respond, at least 1 s. Defaults to `"24h"`.
    pub stale_max: ConfigDuration,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            stale_max: ConfigDuration::secs(DAY_S),
        }
    }
}

impl Directory {
    /// Checks values against limits that their types do not have.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        if self.stale_max.0 < Duration::from_secs(1) {
            let message = format!("is {}: it must be at least 1s", self.stale_max);
            return Err(Mistake::of_key("directory.stale_max", message));
        }
        Ok(())
    }
}

/// `[notices]`: conditions of which administrators are notified.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Notices {
    /// Time for which a bridge is offline. Defaults to `"15m"`.
    pub bridge_offline_after: ConfigDuration,
    /// Time before a key expires. Defaults to `"14d"`.
    pub key_expires_within: ConfigDuration,
    /// Time before the relay's own certificate expires. Defaults to `"21d"`.
    pub certificate_expires_within: ConfigDuration,
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            bridge_offline_after: ConfigDuration::secs(15 * 60),
            key_expires_within: ConfigDuration::secs(14 * DAY_S),
            certificate_expires_within: ConfigDuration::secs(21 * DAY_S),
        }
    }
}
