//! `[deliveries]`: calls that are stored and delivered.

use super::units::Span;
use serde::Deserialize;
use std::time::Duration;

/// `[deliveries]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deliveries {
    /// Waits between attempts, after the first. Default: those of Standard Webhooks, nine of them
    /// up to 24 h.
    pub schedule: Vec<Span>,
    /// Calls of one tenant that are not finished. Default 100000.
    pub queued_per_tenant: u32,
    /// Calls that a tenant may hand over in a second, over ten seconds. Default 5000.
    pub accepted_per_second: u32,
    /// Attempts at once, of all tenants. A tenant may have as many as it leaves for the others. Default 512.
    pub concurrent_max: u32,
    /// Attempts at once through one bridge's installation, or direct for one tenant. Default 32.
    pub concurrent_per_bridge: u32,
    /// Attempts that are begun in a second through one bridge's installation: how fast a bridge
    /// that comes back is fed. Default 200.
    pub per_second_per_bridge: u32,
    /// How long finished calls are kept. Default 30 d.
    pub keep: Span,
    /// After so long without a sign of it, nobody waits for the word of a bridge's installation any
    /// more. Default 24 h.
    pub instance_lost_after: Span,
    /// How long a call may wait before it expires, where neither the call nor its tenant says; `0s`:
    /// for ever. Default 30 d.
    pub expires_in: Span,
}

/// Longest time after which a call may expire, in seconds: ten years.
pub const EXPIRES_IN_MAX_S: u32 = 3650 * 24 * 3600;

/// Most steps of a schedule.
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
            schedule: schedule.map(Span::secs).to_vec(),
            queued_per_tenant: 100_000,
            accepted_per_second: 5_000,
            concurrent_max: 512,
            concurrent_per_bridge: 32,
            per_second_per_bridge: 200,
            keep: Span::secs(30 * 24 * HOUR),
            instance_lost_after: Span::secs(24 * HOUR),
            expires_in: Span::secs(30 * 24 * HOUR),
        }
    }
}

impl Deliveries {
    /// What is wrong with it, if anything: the key and the fact.
    pub(super) fn mistake(&self) -> Option<String> {
        let counts = [
            ("queued_per_tenant", self.queued_per_tenant),
            ("accepted_per_second", self.accepted_per_second),
            ("concurrent_max", self.concurrent_max),
            ("concurrent_per_bridge", self.concurrent_per_bridge),
            ("per_second_per_bridge", self.per_second_per_bridge),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Some(format!("deliveries.{key} must be at least 1"));
        }
        if self.schedule.len() > SCHEDULE_MAX {
            return Some(format!(
                "deliveries.schedule has {} waits, the most is {SCHEDULE_MAX}",
                self.schedule.len()
            ));
        }
        if let Some(wait) = self.schedule.iter().find(|wait| wait.0 > WAIT_MAX) {
            return Some(format!(
                "deliveries.schedule has a wait of {wait}, the longest is 7d"
            ));
        }
        if self.expires_in.0 > Duration::from_secs(EXPIRES_IN_MAX_S.into()) {
            return Some(format!(
                "deliveries.expires_in is {}, the longest is 3650d",
                self.expires_in
            ));
        }
        None
    }

    /// How long a call may wait by default, in milliseconds; zero: for ever.
    pub fn expires_in_ms(&self) -> i64 {
        i64::try_from(self.expires_in.0.as_millis()).unwrap_or(i64::MAX)
    }

    /// The waits.
    pub fn waits(&self) -> Vec<Duration> {
        self.schedule.iter().map(|span| span.0).collect()
    }
}
