//! What the API, deliveries and background tasks share: the state of the control plane.
//!
//! It holds the data plane, and the data plane does not know it.

use crate::access::Principal;
use crate::audit::recorder::Auditing;
use crate::auth::Authenticator;
use crate::bridge_versions::BridgeVersions;
use crate::config::Config;
use crate::data_plane::DataPlane;
use crate::deliveries::Deliveries;
use crate::denials::{self, Denied, DeniedClient};
use crate::directory::{Directory, ServiceReports};
use crate::idempotency::IdempotencyCache;
use crate::metrics::Metrics;
use crate::ownership::Ownership;
use crate::recent_calls::RecentCalls;
use crate::serving::Serving;
use crate::telemetry::Spans;
use crate::throttle::LogRateLimiter;
use protocol::Code;
use runtime::liveness::Liveness;
use std::net::IpAddr;
use std::sync::Arc;
use store::Readiness;
use tokio::sync::Notify;

/// The state of a relay, with its data plane.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    /// What the data path works on.
    pub(crate) data: Arc<DataPlane>,
    /// The config that the relay started with.
    pub(crate) config: Arc<Config>,
    /// The name of this node, for people.
    pub(crate) node: String,
    /// Whether this process serves or stands by.
    pub(crate) serving: Serving,
    /// Tenants, keys and bridges.
    pub(crate) directory: Arc<Directory>,
    /// Checks API keys.
    pub(crate) authenticator: Authenticator,
    /// Stored calls and their delivery.
    pub(crate) deliveries: Arc<Deliveries>,
    /// The audit record.
    pub(crate) audit: Arc<Auditing>,
    /// The calls whose callers waited.
    pub(crate) recent_calls: Arc<RecentCalls>,
    /// Requests with an idempotency key.
    pub(crate) idempotency: Arc<IdempotencyCache>,
    /// What is stored of services that report themselves.
    pub(crate) services: ServiceReports,
    /// Endpoint names that bridges declare and do not own.
    pub(crate) ownership: Ownership,
    /// The versions of bridges that the operator wants, and the bridges that are older.
    pub(crate) bridge_versions: BridgeVersions,
    /// Wakes the task that looks for causes of notices, for a cause that cannot wait for the next round.
    pub(crate) notices_wanted: Notify,
    /// Whether the database can be written.
    pub(crate) readiness: Readiness,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Rate limiter for log lines about refused tunnels.
    pub(crate) refused_tunnels: LogRateLimiter,
    /// Guards the accept loops and the keeper of the lease, for the service manager's watchdog.
    pub(crate) liveness: Liveness,
}

impl ControlPlane {
    /// Returns the state of a relay that starts.
    pub(crate) fn new(
        config: Config,
        node: String,
        directory: Arc<Directory>,
        deliveries: Arc<Deliveries>,
        metrics: Metrics,
        spans: Option<Arc<Spans>>,
    ) -> Self {
        let (config, metrics) = (Arc::new(config), Arc::new(metrics));
        let audit = Auditing::start(directory.storage().clone(), config.audit.sums_every.0);
        // The data plane gets the directory and the audit record as trait objects, and knows neither type.
        let data = DataPlane::new(
            config.clone(),
            directory.clone(),
            audit.clone(),
            metrics.clone(),
            spans,
        );
        let keep_ms = i64::try_from(config.calls.recent_keep.0.as_millis()).unwrap_or(i64::MAX);
        Self {
            data: Arc::new(data),
            recent_calls: Arc::new(RecentCalls::new(config.calls.recent_max, keep_ms)),
            authenticator: Authenticator::new(
                directory.clone(),
                audit.clone(),
                metrics.clone(),
                config.limits.auth_failures_per_minute,
            ),
            idempotency: Arc::new(IdempotencyCache::new(
                directory.storage().clone(),
                deliveries.batch().clone(),
                deliveries.vault().clone(),
            )),
            services: ServiceReports::default(),
            ownership: Ownership::default(),
            bridge_versions: BridgeVersions::new(config.bridges.accepted()),
            notices_wanted: Notify::new(),
            readiness: Readiness::default(),
            serving: Serving::new(),
            refused_tunnels: LogRateLimiter::default(),
            liveness: Liveness::default(),
            node,
            directory,
            deliveries,
            audit,
            metrics,
            config,
        }
    }

    /// Records that a request, a pairing or a tunnel was denied.
    pub(crate) fn denied(
        &self,
        denied: Denied,
        code: &'static str,
        client: DeniedClient,
        address: IpAddr,
    ) {
        match denied {
            Denied::Request => self.metrics.request_denied(code),
            Denied::Pairing => self.metrics.pairing(code),
            // Counted with all refused tunnels.
            Denied::Tunnel | Denied::Call | Denied::Delivery => {}
        }
        let label = |id: &str| self.directory.tenant_label(id);
        let denials = &self.audit.denials;
        denials.note(denied, code, client, address, label);
    }

    /// Records what an authenticated key may not do, if the code is that of a denial.
    pub(crate) fn note_denial(&self, principal: &Principal, code: Code, address: IpAddr) {
        if denials::is_denial(code) {
            self.denied(
                Denied::Request,
                code.as_str(),
                DeniedClient::of(principal),
                address,
            );
        }
    }
}
