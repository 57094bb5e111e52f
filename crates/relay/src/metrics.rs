//! The relay's metrics, on the admin listener alone.
//!
//! The data path touches atomics. What can be counted by reading state (tunnels, exchanges, memory) is read
//! at each scrape: [`Snapshot`].
//!
//! A new metric is one line in [`Values`], and the code that counts.

use crate::storage::calls::CallState;
use crate::storage::calls::Queued;
use crate::storage::now_ms;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::info::Info;
use runtime::metrics::{Counter, Family, FloatGauge, Gauge, Histogram, Registry, gauge_value};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use runtime::metrics::Format;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    route: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

/// What is read at each scrape.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Snapshot {
    /// Connected tunnels.
    pub sessions: usize,
    /// Exchanges in progress.
    pub exchanges: usize,
    /// Open connections, tunnels included.
    pub connections: usize,
    /// Connections that have not authenticated.
    pub connections_pending: usize,
    /// Bytes that these are charged.
    pub pending_bytes: usize,
    /// Connections and tunnels that were evicted before they authenticated, since the start.
    pub connections_evicted: u64,
    /// TLS handshakes in progress.
    pub handshakes: usize,
    /// Tunnels that have not authenticated.
    pub unauthenticated: usize,
    /// Bytes of the window budget that are free.
    pub window_budget_left: u64,
    /// Rows of the audit record that were lost.
    pub audit_lost: u64,
    /// Whether this relay is active, not standby.
    pub is_active: bool,
    /// Time since the database last responded.
    pub directory_age: Duration,
    /// Bridges whose identity two processes seem to use.
    pub bridges_cloned: usize,
    /// Endpoints that bridges declare and whose names other bridges own.
    pub endpoints_refused: usize,
    /// Bytes of request and response bodies in memory.
    pub body_memory: u64,
}

/// The outcome of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// With certificate and signature.
    Full,
    /// With the ticket of an earlier session.
    Resumed,
    /// It failed.
    Failed,
    /// It waited too long in the queue.
    Late,
}

runtime::metrics! {
    /// The values, one a line.
    struct Values("integration_relay") {
        exchanges: Family<Outcome, Counter> = "exchanges", "Finished requests, by the code of their failure or `executed`";
        exchanges_running: Gauge = "exchanges_running", "Exchanges in progress";
        call_duration: Family<CallLabel, Histogram> = "call_duration" in Seconds, "Duration of calls whose caller waited, by route and outcome";
        endpoint_head: Histogram = "endpoint_head" in Seconds, "Time to the response heads of endpoints";
        body: Family<DirectionLabel, Counter> = "body" in Bytes, "Bytes of bodies: up to targets, down to callers";
        body_memory: Gauge = "body_memory_bytes", "Memory of request and response bodies (limits.call_memory_max)";
        requests_denied: Family<Reason, Counter> = "requests_denied", "Requests with a missing, wrong or insufficient key, by code";
        pairings: Family<Outcome, Counter> = "pairings", "Pairings of bridges: `ok`, or the code of the failure";
        deliveries: Family<Outcome, Counter> = "deliveries", "Finished stored calls, by state";
        delivery_attempts: Family<Outcome, Counter> = "delivery_attempts", "Attempts of stored calls: `answered`, or the code of the failure";
        deliveries_queued: Family<Outcome, Gauge> = "deliveries_queued", "Unfinished stored calls, by state";
        deliveries_oldest: Family<Outcome, Gauge> = "deliveries_oldest_seconds", "Age of the oldest unfinished stored call, by state";
        deliveries_paused: Gauge = "deliveries_paused", "1 while deliveries are paused";
        sessions: Gauge = "sessions", "Connected tunnels";
        tunnels_refused: Family<Reason, Counter> = "tunnels_refused", "Rejected tunnels, by reason";
        tunnels_unauthenticated: Gauge = "tunnels_unauthenticated", "Tunnels that have not authenticated";
        window_budget_left: Gauge = "window_budget_left_bytes", "Memory that windows may still grow into";
        bridges_cloned: Gauge = "bridges_cloned", "Bridges whose identity two processes seem to use";
        endpoints_refused: Gauge = "endpoints_refused", "Endpoints that connected bridges declare and other bridges own";
        connections: Gauge = "connections", "Open connections, tunnels included";
        connections_pending: Gauge = "connections_pending", "Connections that have not authenticated";
        connections_pending_bytes: Gauge = "connections_pending_bytes", "Memory that these are charged";
        connections_evicted: Counter = "connections_evicted", "Connections and tunnels that were evicted before they authenticated";
        accept_failures: Counter = "accept_failures", "Connections that could not be accepted, mostly for lack of file descriptors";
        tls_handshakes: Family<Outcome, Counter> = "tls_handshakes", "TLS handshakes, by outcome";
        tls_handshakes_running: Gauge = "tls_handshakes_running", "TLS handshakes in progress";
        certificate_expires: Gauge = "certificate_expires_timestamp_seconds", "Expiry of the relay's certificate, in seconds since 1970; 0 while unknown";
        reloads: Family<Outcome, Counter> = "reloads", "Reloads of config or certificate: `taken` or `refused`";
        active: Gauge = "active", "1 while this relay is active, 0 while it is standby";
        directory_age: FloatGauge = "directory_age" in Seconds, "Time since the database last responded: the age of cached keys and bridges";
        audit_rows_lost: Gauge = "audit_rows_lost", "Rows of the audit record that the database did not accept in time";
    }
}

runtime::metrics! {
    /// The process, under the names that Prometheus' client libraries use.
    struct Process("process") {
        start_time: Gauge = "start_time" in Seconds, "Start of the process, since 1970";
        resident_memory: Gauge = "resident_memory" in Bytes, "Resident memory of the process";
    }
}

/// The relay's metrics.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    values: Values,
    process: Process,
    // Looked up once: both count for each piece of a body.
    body_up: Counter,
    body_down: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn count(family: &Family<Outcome, Counter>, outcome: &'static str) {
    family.get_or_create(&Outcome { outcome }).inc();
}

impl Metrics {
    /// Returns metrics at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("integration_relay_build", "The program", info);
        let process = Process::register(&mut registry);
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = started.unwrap_or_default().as_secs();
        process.start_time.set(gauge_value(started));
        let values = Values::register(&mut registry);
        let body = |direction| {
            values
                .body
                .get_or_create_owned(&DirectionLabel { direction })
        };
        Self {
            body_up: body("up"),
            body_down: body("down"),
            values,
            process,
            registry: Mutex::new(registry),
        }
    }

    /// Counts a finished request: `executed`, or the code of its failure.
    pub(crate) fn outcome(&self, outcome: &'static str) {
        count(&self.values.exchanges, outcome);
    }

    /// Counts a rejected tunnel.
    pub(crate) fn tunnel_refused(&self, reason: &'static str) {
        let reason = Reason { reason };
        self.values.tunnels_refused.get_or_create(&reason).inc();
    }

    /// Counts a denied request.
    pub(crate) fn request_denied(&self, reason: &'static str) {
        let reason = Reason { reason };
        self.values.requests_denied.get_or_create(&reason).inc();
    }

    /// Counts a pairing of a bridge: `ok`, or the code of its failure.
    pub(crate) fn pairing(&self, outcome: &'static str) {
        count(&self.values.pairings, outcome);
    }

    /// Records whether deliveries are paused.
    pub(crate) fn deliveries_paused(&self, paused: bool) {
        self.values.deliveries_paused.set(i64::from(paused));
    }

    /// Counts a finished TLS handshake.
    pub(crate) fn handshake(&self, handshake: Handshake) {
        let outcome = match handshake {
            Handshake::Full => "full",
            Handshake::Resumed => "resumed",
            Handshake::Failed => "failed",
            Handshake::Late => "late",
        };
        count(&self.values.tls_handshakes, outcome);
    }

    /// Counts a connection that could not be accepted.
    pub(crate) fn accept_failed(&self) {
        self.values.accept_failures.inc();
    }

    /// Counts a reload of config or certificate.
    pub(crate) fn reloaded(&self, is_applied: bool) {
        let outcome = if is_applied { "applied" } else { "rejected" };
        count(&self.values.reloads, outcome);
    }

    /// Records the duration of a call: by route `bridge`, `direct` or `none`, and `ok` or the failure's code.
    pub(crate) fn call_took(&self, route: &'static str, outcome: &'static str, took: Duration) {
        let label = CallLabel { route, outcome };
        let histogram = self.values.call_duration.get_or_create(&label);
        histogram.observe(took.as_secs_f64());
    }

    /// Records the time to the head of an endpoint's response.
    pub(crate) fn endpoint_took(&self, took: Duration) {
        self.values.endpoint_head.observe(took.as_secs_f64());
    }

    /// Records when the relay's certificate expires, in seconds since 1970.
    pub(crate) fn certificate_expires(&self, at: Option<i64>) {
        self.values.certificate_expires.set(at.unwrap_or(0));
    }

    /// Counts a finished delivery.
    pub(crate) fn delivery(&self, outcome: &'static str) {
        count(&self.values.deliveries, outcome);
    }

    /// Counts a finished attempt of a delivery: `answered`, or the code of its failure.
    pub(crate) fn attempt(&self, outcome: &'static str) {
        count(&self.values.delivery_attempts, outcome);
    }

    /// Records the unfinished deliveries that the database has.
    pub(crate) fn deliveries_queued(&self, queued: &[Queued]) {
        for state in CallState::ALL {
            // Every state is set, also to zero: a gauge that is not set keeps its last value.
            if state.is_final() {
                continue;
            }
            let of_state = || queued.iter().filter(|group| group.state == state);
            let calls: u64 = of_state().map(|group| group.calls).sum();
            let oldest = of_state().map(|group| group.oldest_ms).min();
            let age = oldest.map_or(0, |oldest| (now_ms() - oldest).max(0) / 1000);
            let label = Outcome {
                outcome: state.as_str(),
            };
            let values = &self.values;
            let queued = values.deliveries_queued.get_or_create(&label);
            queued.set(gauge_value(calls));
            values.deliveries_oldest.get_or_create(&label).set(age);
        }
    }

    /// Counts bytes of a request's body that went to a target.
    pub(crate) fn bytes_up(&self, bytes: u64) {
        self.body_up.inc_by(bytes);
    }

    /// Counts bytes of a response's body that went to a caller.
    pub(crate) fn bytes_down(&self, bytes: u64) {
        self.body_down.inc_by(bytes);
    }

    /// Returns all metrics as text.
    pub(crate) fn render(&self, now: Snapshot, format: Format) -> String {
        let values = &self.values;
        values.sessions.set(gauge_value(now.sessions));
        values.exchanges_running.set(gauge_value(now.exchanges));
        values.connections.set(gauge_value(now.connections));
        let pending = gauge_value(now.connections_pending);
        values.connections_pending.set(pending);
        let pending_bytes = gauge_value(now.pending_bytes);
        values.connections_pending_bytes.set(pending_bytes);
        // The admission counts it; a counter of the library can only be incremented.
        let evicted = values.connections_evicted.inner();
        evicted.store(now.connections_evicted, Ordering::Relaxed);
        let handshakes = gauge_value(now.handshakes);
        values.tls_handshakes_running.set(handshakes);
        let unauthenticated = gauge_value(now.unauthenticated);
        values.tunnels_unauthenticated.set(unauthenticated);
        let budget_left = gauge_value(now.window_budget_left);
        values.window_budget_left.set(budget_left);
        values.audit_rows_lost.set(gauge_value(now.audit_lost));
        values.active.set(i64::from(now.is_active));
        values.directory_age.set(now.directory_age.as_secs_f64());
        values.bridges_cloned.set(gauge_value(now.bridges_cloned));
        let endpoints_refused = gauge_value(now.endpoints_refused);
        values.endpoints_refused.set(endpoints_refused);
        values.body_memory.set(gauge_value(now.body_memory));
        if let Some(bytes) = malloc_trim::resident() {
            self.process.resident_memory.set(gauge_value(bytes));
        }
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        runtime::metrics::encode(&registry, format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_values_are_in_the_text() {
        let metrics = Metrics::new();
        metrics.outcome("executed");
        metrics.outcome("executed");
        metrics.tunnel_refused("stale_epoch");
        metrics.handshake(Handshake::Failed);
        metrics.bytes_down(7);
        let now = Snapshot {
            sessions: 3,
            ..Snapshot::default()
        };
        let text = metrics.render(now, Format::OpenMetrics);
        for line in [
            "integration_relay_exchanges_total{outcome=\"executed\"} 2",
            "integration_relay_tunnels_refused_total{reason=\"stale_epoch\"} 1",
            "integration_relay_tls_handshakes_total{outcome=\"failed\"} 1",
            "integration_relay_body_bytes_total{direction=\"down\"} 7",
            "integration_relay_sessions 3",
            "integration_relay_build_info{version=",
            "integration_relay_tunnels_unauthenticated 0",
            "integration_relay_directory_age_seconds 0.0",
            "process_start_time_seconds ",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn text_is_valid_in_both_formats() {
        let metrics = Metrics::new();
        metrics.outcome("executed");
        metrics.call_took("bridge", "ok", Duration::from_millis(3));
        metrics.deliveries_queued(&[]);
        for format in [Format::OpenMetrics, Format::Prometheus] {
            let text = metrics.render(Snapshot::default(), format);
            runtime::testing::check_metrics(&text, format);
        }
    }
}
