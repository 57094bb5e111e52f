//! What requests and tunnels share: the state of the data plane.
//!
//! ```text
//! listener -> service -> ingress -> exchange -> routing, registry -> tunnel
//!     \_________\__________\___________\____________ DataPlane ____/
//! ```
//!
//! It knows nothing of the control plane: the two interfaces that it needs are [`Identities`], which the
//! directory implements, and [`TrafficLog`], which the audit record implements.

use crate::access::Principal;
use crate::admission::{AdmissionControl, Connections, PendingLimits, PendingPool};
use crate::capacity::{Capacity, ExchangePermit, Exchanges, Reservation};
use crate::config::{Config, Limits};
use crate::connection::Connection;
use crate::direct::Direct;
use crate::exchange::{ExchangeContext, TrafficLog};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::routing::{Identities, Routes};
use crate::telemetry::{Span, Spans};
use crate::throttle::LogRateLimiter;
use protocol::Failure;
use protocol::frame::{CallerWeight, Windows};
use protocol::session::Budget;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Handshake permits for callers, as a fraction (1/n) of those for bridges.
const CALLER_HANDSHAKES_DIVISOR: u32 = 4;

/// Log lines a second about failed requests.
const FAILED_LINES_PER_SECOND: u32 = 20;

/// The same about requests without a valid key.
const UNAUTHENTICATED_LINES_PER_SECOND: u32 = 5;

/// The state that the data path works on.
#[derive(Debug)]
pub(crate) struct DataPlane {
    /// The config that the relay started with. Limits that change with a reload are in [`Self::limits`].
    pub(crate) config: Arc<Config>,
    /// Connected tunnels.
    pub(crate) registry: Arc<Registry>,
    /// Keys, tenants and bridges, as the directory knows them.
    pub(crate) identities: Arc<dyn Identities>,
    /// Where finished exchanges are counted for the audit record.
    pub(crate) traffic: Arc<dyn TrafficLog>,
    /// What an exchange needs to choose a tunnel and to report its outcome.
    pub(crate) exchange: Arc<ExchangeContext>,
    /// Exchanges in progress.
    pub(crate) exchanges: Arc<Exchanges>,
    /// Calls that the relay makes itself.
    pub(crate) direct: Direct,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Traces, if `[telemetry]` enables them.
    pub(crate) spans: Option<Arc<Spans>>,
    /// Permits for the TLS handshakes of bridges.
    pub(crate) handshakes: AdmissionControl,
    /// Permits for the TLS handshakes of callers, so that callers do not queue after thousands of bridges.
    pub(crate) caller_handshakes: AdmissionControl,
    /// Tunnels that have not authenticated.
    pub(crate) unauthenticated: Arc<PendingPool>,
    /// The connections of every listener.
    pub(crate) connections: Connections,
    /// Rate limiter for log lines about failed requests of authenticated callers.
    pub(crate) failed_requests: LogRateLimiter,
    /// Rate limiter for log lines about requests without a valid key.
    pub(crate) unauthenticated_requests: LogRateLimiter,
    /// Rate limiter for log lines about connections that could not be accepted.
    pub(crate) failed_accepts: LogRateLimiter,
    /// Rate limiter for log lines about handshakes that got no permit in time.
    pub(crate) late_handshakes: LogRateLimiter,
    /// Log lines about clients that reject this relay's certificate.
    pub(crate) failed_handshakes: LogRateLimiter,
    /// Log lines about load balancers that do not say whom they speak for.
    pub(crate) failed_proxy_headers: LogRateLimiter,
    /// Memory that flow-control windows grow into.
    pub(crate) window_budget: Arc<Budget>,
    /// Each tenant's part of [`Self::window_budget`]; of those that had a tunnel.
    tenant_budgets: Mutex<HashMap<Arc<str>, Arc<Budget>>>,
    limits: ActiveLimits,
    is_draining: AtomicBool,
}

impl DataPlane {
    /// Returns the state of a relay that starts.
    pub(crate) fn new(
        config: Arc<Config>,
        identities: Arc<dyn Identities>,
        traffic: Arc<dyn TrafficLog>,
        metrics: Arc<Metrics>,
        spans: Option<Arc<Spans>>,
    ) -> Self {
        let limits = &config.limits;
        let callers = (limits.handshakes_max / CALLER_HANDSHAKES_DIVISOR).max(1);
        // Behind a load balancer every connection has the balancer's address, so a bound for each address
        // would be a bound for all.
        let unauthenticated_per_address = match config.listen.behind_balancer {
            true => limits.unauthenticated_tunnels_max,
            false => limits.unauthenticated_tunnels_per_address,
        };
        let connections = Connections::new(limits, transport::workers::files_max());
        let unauthenticated = PendingLimits {
            count_max: limits.unauthenticated_tunnels_max as usize,
            per_address_max: unauthenticated_per_address as usize,
            // Limited by count only.
            bytes_max: usize::MAX,
        };
        // Fixed at the start: a reload that changes these requires a restart.
        let capacity = Capacity {
            node: limits.streams_max,
            tenant: limits.streams_per_tenant,
            key: limits.streams_per_key,
            operations: limits.operations_max,
        };
        let registry = Arc::new(Registry::new(
            limits.sessions_max,
            limits.sessions_per_tenant,
        ));
        Self {
            exchange: Arc::new(ExchangeContext::new(
                registry.clone(),
                identities.clone(),
                metrics.clone(),
            )),
            exchanges: Exchanges::new(capacity, config.weights.clone(), limits.call_memory_max.0),
            direct: Direct::new(config.direct.clone()),
            handshakes: AdmissionControl::new(limits.handshakes_max, limits.handshakes_per_address),
            // One address may take half: a company's callers often share one.
            caller_handshakes: AdmissionControl::new(callers, (callers / 2).max(1)),
            unauthenticated: PendingPool::new(unauthenticated, connections.proven.clone()),
            connections,
            failed_requests: LogRateLimiter::new(FAILED_LINES_PER_SECOND),
            unauthenticated_requests: LogRateLimiter::new(UNAUTHENTICATED_LINES_PER_SECOND),
            failed_accepts: LogRateLimiter::default(),
            late_handshakes: LogRateLimiter::default(),
            failed_handshakes: LogRateLimiter::default(),
            failed_proxy_headers: LogRateLimiter::default(),
            window_budget: Budget::new(config.tunnel.window_budget.0),
            tenant_budgets: Mutex::default(),
            limits: ActiveLimits::new(config.limits.clone()),
            is_draining: AtomicBool::new(false),
            registry,
            identities,
            traffic,
            metrics,
            spans,
            config,
        }
    }

    /// Returns the active limits; those of `config` are the ones at the start.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.limits.get()
    }

    /// Replaces the active limits, for requests that begin from now on.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.limits.set(limits);
    }

    /// Returns the windows that the relay grants to bridges.
    pub(crate) fn windows(&self) -> Windows {
        Windows {
            streams_max: self.limits().streams_per_session,
            stream_bytes: self.config.tunnel.stream_window.0,
            session_bytes: self.config.tunnel.session_window.0,
        }
    }

    /// Returns a tenant's part of the memory for windows. `name` is called when the tenant has its first
    /// tunnel.
    pub(crate) fn budget_of(
        &self,
        tenant: &Arc<str>,
        name: impl FnOnce() -> Arc<str>,
    ) -> Arc<Budget> {
        let mut budgets = self
            .tenant_budgets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let weight = self.config.weights.of_tenant(&name());
            Budget::share(&self.window_budget, weight)
        };
        // Entries are never removed: their number is bounded by the tenants.
        budgets.entry(tenant.clone()).or_insert_with(make).clone()
    }

    /// Takes a permit for an exchange of this caller.
    ///
    /// # Errors
    /// `overloaded` when the caller's share is used up.
    pub(crate) fn begin(&self, principal: &Principal) -> Result<ExchangePermit, Failure> {
        let tunnels = self
            .registry
            .with_tenant(&principal.tenant, |tunnels| tunnels.all().len());
        let tunnels = u32::try_from(tunnels.unwrap_or(0)).unwrap_or(u32::MAX);
        // The share is of what the tunnels accept: a tenant with one small bridge must not fill it with one key.
        let streams_max = tunnels.saturating_mul(self.limits().streams_per_session);
        self.exchanges.begin(principal, streams_max)
    }

    /// Returns an empty memory reservation for what a connection asks for.
    pub(crate) fn reservation(
        &self,
        connection: &Arc<Connection>,
        permit: &ExchangePermit,
    ) -> Reservation {
        let max = self.limits().connection_memory_max.0;
        permit.reservation().on(connection, max)
    }

    /// Returns the caller's weight for the scheduler of a tunnel.
    pub(crate) fn share_of(&self, principal: &Principal) -> CallerWeight {
        let weight = self.config.weights.of_key(&principal.client_id);
        CallerWeight::new(number_of(&principal.client_id), weight)
    }

    /// Returns what a decision about a route depends on.
    pub(crate) fn routes(&self) -> Routes<'_> {
        Routes {
            registry: &self.registry,
            identities: &*self.identities,
            direct: &self.direct,
        }
    }

    /// Begins a span for a request with these header fields, if traces are enabled.
    pub(crate) fn span(
        &self,
        name: &'static str,
        kind: opentelemetry::trace::SpanKind,
        headers: &http::HeaderMap,
    ) -> Option<Span> {
        self.spans.as_ref()?.begin(name, kind, headers)
    }

    /// Returns whether the relay is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        // Relaxed: the flag publishes no other data. A request that reads it late is drained like those
        // that began before.
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Begins to shut down: new tunnels are refused, and `/readyz` fails.
    pub(crate) fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }
}

/// Returns a number for a key (FNV-1a). Two keys with the same number share one queue of the scheduler, and
/// nothing else.
fn number_of(client_id: &str) -> u32 {
    client_id.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The active limits.
#[derive(Debug)]
struct ActiveLimits(RwLock<Arc<Limits>>);

impl ActiveLimits {
    fn new(limits: Limits) -> Self {
        Self(RwLock::new(Arc::new(limits)))
    }

    fn get(&self) -> Arc<Limits> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, limits: Limits) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
    }
}
