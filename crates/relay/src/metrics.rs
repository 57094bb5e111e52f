//! Counters, in the OpenMetrics text format, on the admin listener alone.
//!
//! The data path touches atomics; everything that can be counted by looking (tunnels, exchanges,
//! memory) is looked at when somebody asks.

use crate::deliveries::state::CallState;
use crate::storage::calls::Queued;
use crate::storage::now_ms;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabel {
    route: &'static str,
    outcome: &'static str,
}

/// From a millisecond to minutes.
fn histogram() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        300.0,
    ])
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

/// What is looked at when somebody asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Tunnels that are up.
    pub sessions: usize,
    /// Exchanges that run.
    pub exchanges: usize,
    /// Connections that are open, tunnels included.
    pub connections: usize,
    /// Connections that have not authenticated.
    pub connections_pending: usize,
    /// Bytes that these cost.
    pub pending_bytes: usize,
    /// Connections and tunnels that were evicted before they had authenticated, since the start.
    pub connections_evicted: u64,
    /// TLS handshakes that run.
    pub handshakes: usize,
    /// Tunnels that have not proved themselves.
    pub unproven: usize,
    /// Bytes of the window budget that are free.
    pub window_budget_left: u64,
    /// Rows of the audit record that were lost.
    pub audit_lost: u64,
    /// Whether this relay serves, and does not stand by.
    pub is_active: bool,
    /// How long ago the database answered last.
    pub directory_age: Duration,
    /// Bridges on whose identity two processes seem to run.
    pub bridges_cloned: usize,
    /// Endpoints that bridges declare whose names are not their own.
    pub endpoints_refused: usize,
    /// Bytes of request and response bodies in memory.
    pub body_memory: u64,
}

/// What became of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// With certificate and signature.
    Full,
    /// With the ticket of a session before.
    Resumed,
    /// It came to nothing.
    Failed,
    /// Its turn did not come in time.
    Late,
}

/// The relay's counters.
pub struct Metrics {
    registry: Mutex<Registry>,
    exchanges: Family<Outcome, Counter>,
    refused: Family<Reason, Counter>,
    denied: Family<Reason, Counter>,
    pairings: Family<Outcome, Counter>,
    paused: Gauge,
    cloned_now: Gauge,
    endpoints_refused_now: Gauge,
    deliveries: Family<Outcome, Counter>,
    attempts: Family<Outcome, Counter>,
    certificate: Gauge,
    reloads: Family<Outcome, Counter>,
    calls: Family<CallLabel, Histogram, fn() -> Histogram>,
    heads: Histogram,
    audit_lost: Gauge,
    queued: Family<Outcome, Gauge>,
    oldest: Family<Outcome, Gauge>,
    handshakes: Family<Outcome, Counter>,
    up: Counter,
    down: Counter,
    sessions_now: Gauge,
    exchanges_now: Gauge,
    connections_now: Gauge,
    pending_now: Gauge,
    pending_bytes: Gauge,
    evicted: Counter,
    accept_failures: Counter,
    handshakes_now: Gauge,
    unproven_now: Gauge,
    budget_left: Gauge,
    active: Gauge,
    directory_age: Gauge<f64, AtomicU64>,
    body_memory: Gauge,
    resident: Gauge,
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

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("relay_build", "The program", info);
        let started = Gauge::<i64>::default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        started.set(since.map_or(0, |since| whole(since.as_secs())));
        registry.register_with_unit(
            "process_start_time",
            "When the process began, since 1970",
            Unit::Seconds,
            started,
        );
        let resident = Gauge::default();
        registry.register_with_unit(
            "process_resident_memory",
            "Memory of the process",
            Unit::Bytes,
            resident.clone(),
        );
        let exchanges = Family::default();
        registry.register(
            "relay_exchanges",
            "Requests that were answered, by the code of their failure or `executed`",
            exchanges.clone(),
        );
        let refused = Family::default();
        registry.register(
            "relay_tunnels_refused",
            "Tunnels that were not taken",
            refused.clone(),
        );
        let denied = Family::default();
        registry.register(
            "relay_requests_denied",
            "Requests whose key is missing, wrong, or may not do this, by code",
            denied.clone(),
        );
        let pairings = Family::default();
        registry.register(
            "relay_pairings",
            "Pairings of bridges: `ok`, or the code of their failure",
            pairings.clone(),
        );
        let deliveries = Family::default();
        registry.register(
            "relay_deliveries",
            "Stored calls that came to their end, by their state",
            deliveries.clone(),
        );
        let reloads = Family::default();
        registry.register(
            "relay_reloads",
            "Configurations and certificates that were put in force, or refused",
            reloads.clone(),
        );
        let calls = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "relay_call_duration",
            "How long calls took that were waited for, by route and outcome",
            Unit::Seconds,
            calls.clone(),
        );
        let heads = histogram();
        registry.register_with_unit(
            "relay_endpoint_head",
            "How long the heads of endpoints' answers took",
            Unit::Seconds,
            heads.clone(),
        );
        let certificate = Gauge::default();
        registry.register(
            "relay_certificate_expires_timestamp_seconds",
            "When the relay's certificate ends, since 1970; 0 when it is not known",
            certificate.clone(),
        );
        let audit_lost = Gauge::default();
        registry.register(
            "relay_audit_rows_lost",
            "Rows of the audit record that the database did not take in time",
            audit_lost.clone(),
        );
        let attempts = Family::default();
        registry.register(
            "relay_delivery_attempts",
            "Attempts of stored calls: `answered`, or the code of their failure",
            attempts.clone(),
        );
        let queued = Family::default();
        registry.register(
            "relay_deliveries_queued",
            "Stored calls that are not finished, by their state",
            queued.clone(),
        );
        let oldest = Family::default();
        registry.register(
            "relay_deliveries_oldest_seconds",
            "How long ago the oldest of them was handed over",
            oldest.clone(),
        );
        let handshakes = Family::default();
        registry.register(
            "relay_tls_handshakes",
            "TLS handshakes by outcome",
            handshakes.clone(),
        );
        let directory_age = Gauge::<f64, AtomicU64>::default();
        registry.register_with_unit(
            "relay_directory_age",
            "How long ago the database answered last: cached keys and bridges are as old",
            Unit::Seconds,
            directory_age.clone(),
        );
        let evicted = Counter::default();
        registry.register(
            "relay_connections_evicted",
            "Connections and tunnels that were evicted before they had authenticated",
            evicted.clone(),
        );
        let accept_failures = Counter::default();
        registry.register(
            "relay_accept_failures",
            "Connections that could not be accepted, mostly for want of file descriptors",
            accept_failures.clone(),
        );
        let bytes = Family::<DirectionLabel, Counter>::default();
        registry.register_with_unit(
            "relay_body",
            "Bytes of bodies: up to targets, down to callers",
            Unit::Bytes,
            bytes.clone(),
        );
        let counter = |direction| bytes.get_or_create_owned(&DirectionLabel { direction });
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            exchanges,
            refused,
            denied,
            pairings,
            paused: gauge(
                "relay_deliveries_paused",
                "1 while deliveries are paused, as the database said last",
            ),
            cloned_now: gauge(
                "relay_bridges_cloned",
                "Bridges on whose identity two processes seem to run",
            ),
            endpoints_refused_now: gauge(
                "relay_endpoints_refused",
                "Endpoints that connected bridges declare whose names are not their own",
            ),
            deliveries,
            attempts,
            certificate,
            reloads,
            calls,
            heads,
            audit_lost,
            queued,
            oldest,
            handshakes,
            up: counter("up"),
            down: counter("down"),
            sessions_now: gauge("relay_sessions", "Tunnels that are up"),
            exchanges_now: gauge("relay_exchanges_running", "Requests that run"),
            accept_failures,
            connections_now: gauge("relay_connections", "Connections, tunnels included"),
            pending_now: gauge(
                "relay_connections_pending",
                "Connections that have not authenticated",
            ),
            pending_bytes: gauge(
                "relay_connections_pending_bytes",
                "Memory that they are charged",
            ),
            evicted,
            handshakes_now: gauge("relay_tls_handshakes_running", "TLS handshakes that run"),
            unproven_now: gauge(
                "relay_tunnels_unproven",
                "Tunnels that have not proved themselves",
            ),
            budget_left: gauge(
                "relay_window_budget_left_bytes",
                "Memory that windows may grow into",
            ),
            active: gauge(
                "relay_active",
                "1 when this relay serves, 0 when it stands by",
            ),
            directory_age,
            body_memory: gauge(
                "relay_body_memory_bytes",
                "Memory of request and response bodies, see limits.call_memory_max",
            ),
            resident,
            registry: Mutex::new(registry),
        }
    }

    /// A request was answered: `executed`, or the code of its failure.
    pub fn outcome(&self, outcome: &'static str) {
        self.exchanges.get_or_create(&Outcome { outcome }).inc();
    }

    /// A tunnel was not taken.
    pub fn tunnel_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// A request was denied.
    pub fn request_denied(&self, reason: &'static str) {
        self.denied.get_or_create(&Reason { reason }).inc();
    }

    /// A bridge was paired, or was not: `ok`, or the code of the failure.
    pub fn pairing(&self, outcome: &'static str) {
        self.pairings.get_or_create(&Outcome { outcome }).inc();
    }

    /// Whether deliveries are paused.
    pub fn deliveries_paused(&self, paused: bool) {
        self.paused.set(i64::from(paused));
    }

    /// A connection's TLS handshake is over.
    pub fn handshake(&self, handshake: Handshake) {
        let outcome = match handshake {
            Handshake::Full => "full",
            Handshake::Resumed => "resumed",
            Handshake::Failed => "failed",
            Handshake::Late => "late",
        };
        self.handshakes.get_or_create(&Outcome { outcome }).inc();
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self) {
        self.accept_failures.inc();
    }

    /// Another configuration or certificate was put in force, or was not.
    pub fn reloaded(&self, taken: bool) {
        let outcome = if taken { "taken" } else { "refused" };
        self.reloads.get_or_create(&Outcome { outcome }).inc();
    }

    /// A call was answered, or failed: `bridge`, `direct` or `none`, and `ok` or the failure's code.
    pub fn call_took(&self, route: &'static str, outcome: &'static str, took: Duration) {
        let label = CallLabel { route, outcome };
        self.calls.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// The head of an endpoint's answer was there.
    pub fn endpoint_took(&self, took: Duration) {
        self.heads.observe(took.as_secs_f64());
    }

    /// When the relay's certificate ends, in seconds since 1970.
    pub fn certificate_expires(&self, at: i64) {
        self.certificate.set(at);
    }

    /// A delivery came to its end.
    pub fn delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// An attempt of a delivery is over: `answered`, or the code of its failure.
    pub fn attempt(&self, outcome: &'static str) {
        self.attempts.get_or_create(&Outcome { outcome }).inc();
    }

    /// What waits, as the database says.
    pub fn deliveries_queued(&self, queued: &[Queued]) {
        for state in CallState::ALL {
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
            self.queued.get_or_create(&label).set(whole(calls));
            self.oldest.get_or_create(&label).set(age);
        }
    }

    /// Bytes of a request's body went towards a target.
    pub fn bytes_up(&self, bytes: u64) {
        self.up.inc_by(bytes);
    }

    /// Bytes of an answer's body went towards a caller.
    pub fn bytes_down(&self, bytes: u64) {
        self.down.inc_by(bytes);
    }

    /// Everything as text.
    pub fn render(&self, now: Snapshot) -> String {
        self.sessions_now.set(counted(now.sessions));
        self.exchanges_now.set(counted(now.exchanges));
        self.connections_now.set(counted(now.connections));
        self.pending_now.set(counted(now.connections_pending));
        self.pending_bytes.set(counted(now.pending_bytes));
        let evicted = now.connections_evicted;
        self.evicted
            .inner()
            .store(evicted, std::sync::atomic::Ordering::Relaxed);
        self.handshakes_now.set(counted(now.handshakes));
        self.unproven_now.set(counted(now.unproven));
        self.budget_left.set(whole(now.window_budget_left));
        self.audit_lost.set(whole(now.audit_lost));
        self.active.set(i64::from(now.is_active));
        self.directory_age.set(now.directory_age.as_secs_f64());
        self.cloned_now.set(counted(now.bridges_cloned));
        self.endpoints_refused_now
            .set(counted(now.endpoints_refused));
        self.body_memory.set(whole(now.body_memory));
        if let Some(bytes) = malloc_trim::resident() {
            self.resident.set(whole(bytes));
        }
        let registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn counted(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.outcome("executed");
        metrics.outcome("executed");
        metrics.tunnel_refused("stale_epoch");
        metrics.handshake(Handshake::Failed);
        metrics.bytes_down(7);
        let text = metrics.render(Snapshot {
            sessions: 3,
            ..Snapshot::default()
        });
        for line in [
            "relay_exchanges_total{outcome=\"executed\"} 2",
            "relay_tunnels_refused_total{reason=\"stale_epoch\"} 1",
            "relay_tls_handshakes_total{outcome=\"failed\"} 1",
            "relay_body_bytes_total{direction=\"down\"} 7",
            "relay_sessions 3",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
