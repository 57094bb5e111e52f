//! What `status` shows: one document, made by the running bridge.

use crate::stats::{LastCall, SlotState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How a running bridge is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The program and its version.
    pub software: String,
    /// Its process.
    pub pid: u32,
    /// For how long it runs, in seconds.
    pub uptime_s: u64,
    /// Its name.
    pub bridge: String,
    /// The fingerprint of its key, as a signed call names it in `Bridge-Key`.
    #[serde(default)]
    pub key: String,
    /// Its tenant.
    pub tenant: String,
    /// The relay.
    pub relay: String,
    /// Whether an echo came back over a session within the time that one may be silent.
    pub online: bool,
    /// Whether its config holds it from taking anything.
    pub paused: bool,
    /// Its connections.
    pub connections: Vec<SlotState>,
    /// Its sessions.
    pub sessions: Vec<SessionStatus>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// The credentials that it keeps, by name.
    pub credentials: Vec<String>,
    /// Exchanges that run.
    pub exchanges_running: u64,
    /// Exchanges that targets answered.
    pub exchanges_answered: u64,
    /// Exchanges that failed, by code.
    pub exchanges_failed: BTreeMap<String, u64>,
    /// Memory that the process uses, in bytes, where the system tells.
    pub memory_bytes: Option<u64>,
    /// The config file.
    pub config_file: String,
    /// When it was taken, in seconds since 1970.
    pub config_taken: u64,
    /// Why it was not taken when it was read last.
    pub config_refused: Option<String>,
    /// Lines in the audit file so far, where there is one.
    pub audit_lines: Option<u64>,
    /// The last calls, the newest first.
    pub last_calls: Vec<LastCall>,
}

/// A session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Its id.
    pub id: String,
    /// The smallest round trip so far, in milliseconds.
    pub rtt_ms: f64,
    /// Exchanges on it.
    pub exchanges: u32,
    /// Whether it takes new ones.
    pub open: bool,
}

/// An endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// What is wrong.
    pub detail: Option<String>,
    /// How long ago it was looked at, in seconds.
    pub checked_s_ago: Option<u64>,
    /// The credential that is added.
    pub credential: Option<String>,
}

/// A time for people: `3d 4h`, `5m 10s`.
fn span(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, unit)| seconds >= *unit);
    let first = first.unwrap_or(units.len() - 1);
    let mut left = seconds;
    let parts = units[first..].iter().take(2).map(|(name, unit)| {
        let count = left / unit;
        left %= unit;
        format!("{count}{name}")
    });
    parts.collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.online, self.paused) {
            (_, true) => "PAUSED by its config",
            (true, false) => "online",
            (false, false) => "OFFLINE",
        };
        writeln!(
            f,
            "bridge {} of tenant {}: {state}",
            self.bridge, self.tenant
        )?;
        writeln!(
            f,
            "  {}, process {}, up {}{}",
            self.software,
            self.pid,
            span(self.uptime_s),
            self.memory_bytes
                .map(|bytes| format!(", {:.1} MiB", bytes as f64 / 1_048_576.0))
                .unwrap_or_default()
        )?;
        writeln!(f, "  key {}", self.key)?;
        writeln!(f, "  config {}", self.config_file)?;
        if let Some(why) = &self.config_refused {
            writeln!(f, "  NOT TAKEN when it was read last: {why}")?;
        }
        writeln!(f, "relay {}", self.relay)?;
        for slot in &self.connections {
            write!(
                f,
                "  connection {}: {} for {}",
                slot.slot,
                slot.state,
                span(slot.for_s)
            )?;
            if let Some(node) = &slot.node {
                write!(f, ", node {node}")?;
            }
            if let Some(error) = &slot.error {
                write!(f, "; {error}")?;
            }
            writeln!(f)?;
            if let Some(advice) = &slot.advice {
                writeln!(f, "    {advice}")?;
            }
        }
        for session in &self.sessions {
            let id = session.id.get(..8).unwrap_or(&session.id);
            let draining = if session.open { "" } else { ", draining" };
            writeln!(
                f,
                "  session {id}: round trip {:.1} ms, {} exchanges{draining}",
                session.rtt_ms, session.exchanges
            )?;
        }
        self.targets(f)?;
        let failed: u64 = self.exchanges_failed.values().sum();
        writeln!(
            f,
            "exchanges: {} running, {} answered, {failed} failed",
            self.exchanges_running, self.exchanges_answered
        )?;
        for (code, count) in &self.exchanges_failed {
            writeln!(f, "  {code}: {count}")?;
        }
        if let Some(lines) = self.audit_lines {
            writeln!(f, "audit file: {lines} lines")?;
        }
        if !self.last_calls.is_empty() {
            writeln!(f, "last calls")?;
        }
        let now = crate::stats::now_s();
        for call in self.last_calls.iter().take(10) {
            writeln!(
                f,
                "  {:>8} ago  {:<7} {}  {}  {} ms",
                span(now.saturating_sub(call.at)),
                call.method,
                call.to,
                call.outcome,
                call.took_ms
            )?;
        }
        Ok(())
    }
}

impl Status {
    fn targets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.endpoints.is_empty() {
            return Ok(());
        }
        writeln!(f, "endpoints")?;
        for endpoint in &self.endpoints {
            write!(
                f,
                "  {}  {}  {}",
                endpoint.name, endpoint.url, endpoint.health
            )?;
            if let Some(ago) = endpoint.checked_s_ago {
                write!(f, " ({} ago)", span(ago))?;
            }
            if let Some(detail) = &endpoint.detail {
                write!(f, ": {detail}")?;
            }
            if let Some(credential) = &endpoint.credential {
                write!(f, "; credential {credential}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3_600, "1h 0m"),
            (100_000, "1d 3h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
