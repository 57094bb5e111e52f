//! `[deliveries]`: calls that are stored and delivered.

use runtime::config::{ConfigDuration, Mistake, at_least_one};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `[deliveries]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deliveries {
    /// Waits before the second and each later attempt, at most 50 of at most 7 days. Defaults to the nine waits
    /// of Standard Webhooks, up to 24 hours.
    pub schedule: Vec<ConfigDuration>,
    /// Unfinished calls of one tenant. Defaults to 100000.
    #[serde(deserialize_with = "at_least_one")]
    pub queued_per_tenant: u32,
    /// Calls a second that a tenant may submit, as an average over ten seconds. Defaults to 5000.
    #[serde(deserialize_with = "at_least_one")]
    pub accepted_per_second: u32,
    /// Concurrent attempts of all tenants. A tenant may use as many as it leaves for others. Defaults to 512.
    #[serde(deserialize_with = "at_least_one")]
    pub concurrent_max: u32,
    /// Concurrent attempts through one bridge installation, or direct ones of one tenant. Defaults to 32.
    #[serde(deserialize_with = "at_least_one")]
    pub concurrent_per_bridge: u32,
    /// Attempts that start in a second through one bridge installation, for example after it reconnects.
    /// Defaults to 200.
    #[serde(deserialize_with = "at_least_one")]
    pub per_second_per_bridge: u32,
    /// How long finished calls are kept. Defaults to `"30d"`.
    pub keep: ConfigDuration,
    /// Time without contact after which the outcome of a bridge installation's attempts counts as unknown.
    /// Defaults to `"24h"`.
    pub instance_lost_after: ConfigDuration,
    /// Time after which a waiting call expires, where neither the call nor its tenant sets one; at most 3650
    /// days, `"0s"` for never. Defaults to `"30d"`.
    pub expires_in: ConfigDuration,
}

/// Longest time after which a call may expire, in seconds: ten years.
pub const EXPIRES_IN_MAX_S: u32 = 3650 * 24 * 3600;

/// Most waits of a schedule.
const SCHEDULE_MAX: usize = 50;

/// Longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl Default for Deliveries {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 3600;
        let schedule = [
            5,
            5 * MINUTE,
            30 * MINUTE,
            2 * HOUR,
            5 * HOUR,
            10 * HOUR,
            14 * HOUR,
            20 * HOUR,
            24 * HOUR,
        ];
        Self {
            schedule: schedule.map(ConfigDuration::secs).to_vec(),
            queued_per_tenant: 100_000,
            accepted_per_second: 5_000,
            concurrent_max: 512,
            concurrent_per_bridge: 32,
            per_second_per_bridge: 200,
            keep: ConfigDuration::secs(30 * 24 * HOUR),
            instance_lost_after: ConfigDuration::secs(24 * HOUR),
            expires_in: ConfigDuration::secs(30 * 24 * HOUR),
        }
    }
}

impl Deliveries {
    /// Checks values against limits that their types do not have.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn validate(&self) -> Result<(), Mistake> {
        let key = "deliveries.schedule";
        let waits = self.schedule.len();
        if waits > SCHEDULE_MAX {
            let message = format!("has {waits} waits, the limit is {SCHEDULE_MAX}");
            return Err(Mistake::of_key(key, message));
        }
        if let Some(wait) = self.schedule.iter().find(|wait| wait.0 > WAIT_MAX) {
            let message = format!("has a wait of {wait}, the limit is 7d");
            return Err(Mistake::of_key(key, message));
        }
        if self.expires_in.0 > Duration::from_secs(EXPIRES_IN_MAX_S.into()) {
            let message = format!("is {}, the limit is 3650d", self.expires_in);
            return Err(Mistake::of_key("deliveries.expires_in", message));
        }
        Ok(())
    }

    /// Returns how long a call may wait by default, in milliseconds; zero means forever.
    pub fn expires_in_ms(&self) -> i64 {
        i64::try_from(self.expires_in.0.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the waits.
    pub fn waits(&self) -> Vec<Duration> {
        self.schedule.iter().map(|wait| wait.0).collect()
    }
}
