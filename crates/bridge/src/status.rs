//! The document that `status` shows. The running bridge creates it; the command prints it.

use crate::stats::{LastCall, SlotState};
use crate::versions::VersionStatus;
use runtime::output::counted;
use runtime::peer_text::escape;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The status of a running bridge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The program and its version.
    pub software: String,
    /// Its version, and those that the operator of the relay named.
    #[serde(default)]
    pub version: VersionStatus,
    /// The id of its process.
    pub pid: u32,
    /// Seconds since its start.
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
    /// Whether an echo returned over a session within the silence limit.
    pub online: bool,
    /// Whether its config pauses it.
    pub paused: bool,
    /// Its connections.
    pub connections: Vec<SlotState>,
    /// Its sessions.
    pub sessions: Vec<SessionStatus>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// The names of its credentials.
    pub credentials: Vec<String>,
    /// Exchanges in progress.
    pub exchanges_running: u64,
    /// Exchanges to which targets responded.
    pub exchanges_answered: u64,
    /// Failed exchanges, by code.
    pub exchanges_failed: BTreeMap<String, u64>,
    /// Resident memory of the process in bytes, where the system reports it.
    pub memory_bytes: Option<u64>,
    /// The config file.
    pub config_file: String,
    /// When it was loaded: seconds since 1970, in JSON RFC 3339.
    #[serde(with = "runtime::time::as_rfc3339")]
    pub config_loaded_at: u64,
    /// Why the last reload rejected it.
    pub config_refused: Option<String>,
    /// Lines of the audit file, where there is one.
    pub audit_lines: Option<u64>,
    /// The head of the audit file that was signed last.
    #[serde(default)]
    pub audit_head: Option<AuditHeadStatus>,
    /// The last calls, the newest first.
    pub last_calls: Vec<LastCall>,
}

/// A line of the audit file, up to which all lines are signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AuditHeadStatus {
    /// Its number.
    pub seq: u64,
    /// Its SHA-256, in hexadecimal.
    pub hash: String,
}

/// A session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SessionStatus {
    /// Its id.
    pub id: String,
    /// Smallest round trip so far, in milliseconds.
    pub rtt_ms: f64,
    /// Exchanges in progress on it.
    pub exchanges: u32,
    /// Whether it accepts new ones; false while it drains.
    pub open: bool,
}

/// An endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// What is wrong, if it is not up.
    pub detail: Option<String>,
    /// Seconds since the last health check.
    pub checked_s_ago: Option<u64>,
    /// The name of the credential that is added to requests.
    pub credential: Option<String>,
}

/// Formats a duration for people: `3d 4h`, `5m 10s`.
fn readable(seconds: u64) -> String {
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
            escape(&self.bridge),
            escape(&self.tenant)
        )?;
        writeln!(
            f,
            "  {}, process {}, up {}{}",
            escape(&self.software),
            self.pid,
            readable(self.uptime_s),
            self.memory_bytes
                .map(|bytes| format!(", {:.1} MiB", bytes as f64 / 1_048_576.0))
                .unwrap_or_default()
        )?;
        writeln!(f, "  {}", escape(&self.version.to_string()))?;
        writeln!(f, "  key {}", escape(&self.key))?;
        writeln!(f, "  config {}", escape(&self.config_file))?;
        if let Some(why) = &self.config_refused {
            writeln!(f, "  the last reload REJECTED the config: {}", escape(why))?;
        }
        writeln!(f, "relay {}", escape(&self.relay))?;
        for slot in &self.connections {
            write!(
                f,
                "  connection {}: {} for {}",
                slot.slot,
                escape(&slot.state),
                readable(slot.for_s)
            )?;
            if let Some(node) = &slot.node {
                write!(f, ", node {node}")?;
            }
            if let Some(error) = &slot.error {
                write!(f, "; {}", escape(error))?;
            }
            writeln!(f)?;
            if let Some(advice) = &slot.advice {
                writeln!(f, "    {}", escape(advice))?;
            }
            if let Some(pattern) = &slot.pattern {
                writeln!(f, "    {pattern}")?;
            }
        }
        for session in &self.sessions {
            let id = session.id.get(..8).unwrap_or(&session.id);
            let draining = if session.open { "" } else { ", draining" };
            writeln!(
                f,
                "  session {}: round trip {:.1} ms, {}{draining}",
                escape(id),
                session.rtt_ms,
                counted(session.exchanges, "exchange")
            )?;
        }
        self.targets(f)?;
        let failed: u64 = self.exchanges_failed.values().sum();
        writeln!(
            f,
            "exchanges: {} running, {} executed, {failed} failed",
            self.exchanges_running, self.exchanges_answered
        )?;
        for (code, count) in &self.exchanges_failed {
            writeln!(f, "  {}: {count}", escape(code))?;
        }
        if let Some(lines) = self.audit_lines {
            writeln!(f, "audit file: {}", counted(lines, "line"))?;
        }
        if !self.last_calls.is_empty() {
            writeln!(f, "last calls")?;
        }
        let now = crate::stats::now_s();
        for call in self.last_calls.iter().take(10) {
            writeln!(
                f,
                "  {:>8} ago  {:<7} {}  {}  {} ms",
                readable(now.saturating_sub(call.at)),
                escape(&call.method),
                escape(&call.to),
                escape(&call.outcome),
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
                escape(&endpoint.name),
                escape(&endpoint.url),
                escape(&endpoint.health)
            )?;
            if let Some(ago) = endpoint.checked_s_ago {
                write!(f, " ({} ago)", readable(ago))?;
            }
            if let Some(detail) = &endpoint.detail {
                write!(f, ": {}", escape(detail))?;
            }
            if let Some(credential) = &endpoint.credential {
                write!(f, "; credential {}", escape(credential))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Status {
    /// Returns the status of a bridge that has just started.
    pub(crate) fn example() -> Self {
        Self {
            software: "integration-bridge/0".into(),
            version: VersionStatus::default(),
            pid: 1,
            uptime_s: 1,
            bridge: "b1".into(),
            key: String::new(),
            tenant: "acme".into(),
            relay: "https://relay.example.com".into(),
            online: true,
            paused: false,
            connections: Vec::new(),
            sessions: Vec::new(),
            endpoints: Vec::new(),
            credentials: Vec::new(),
            exchanges_running: 0,
            exchanges_answered: 0,
            exchanges_failed: BTreeMap::new(),
            memory_bytes: None,
            config_file: "bridge.toml".into(),
            config_loaded_at: 0,
            config_refused: None,
            audit_lines: None,
            audit_head: None,
            last_calls: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_has_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3_600, "1h 0m"),
            (100_000, "1d 3h"),
        ] {
            assert_eq!(readable(seconds), text);
        }
    }
}
