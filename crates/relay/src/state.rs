//! What every part of a running relay shares.

use crate::admission::{AdmissionControl, Connections, PendingLimits, PendingPool};
use crate::api::services::Written;
use crate::audit::recorder::Auditing;
use crate::auth::Principal;
use crate::config::{Config, Limits};
use crate::deliveries::Deliveries;
use crate::denials::{self, Denied, Who};
use crate::direct::Direct;
use crate::directory::Directory;
use crate::exchange::{Capacity, ExchangePermit, Exchanges};
use crate::idempotency::Idempotency;
use crate::metrics::Metrics;
use crate::ownership::Ownership;
use crate::readiness::Readiness;
use crate::registry::{Registry, TunnelOwner};
use crate::reload::ActiveLimits;
use crate::serving::Serving;
use crate::telemetry::{Span, Spans};
use crate::throttle::LogRateLimiter;
use protocol::frame::{Share, Windows};
use protocol::session::Budget;
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use transport::handle::Settings;

/// Lines a second about requests that failed.
const FAILED_LINES: u32 = 20;

/// Places for the handshakes of callers, as a part of those for all others.
const CALLERS_PART: u32 = 4;

/// One relay's insides.
#[derive(Debug)]
pub struct State {
    /// What it was told.
    pub config: Config,
    /// Name of this node, for people.
    pub node: String,
    /// Whether this process serves, or stands by.
    pub serving: Serving,
    /// Tenants, keys and bridges.
    pub directory: Arc<Directory>,
    /// Calls that are stored and delivered.
    pub deliveries: Arc<Deliveries>,
    /// The audit record of what runs.
    pub audit: Arc<Auditing>,
    /// Calls that the relay makes itself.
    pub direct: Direct,
    /// Requests with an idempotency key.
    pub idempotency: Idempotency,
    /// What was written down of services that report themselves.
    pub services: Written,
    /// Tunnels that are up.
    pub registry: Registry,
    /// Which endpoint names bridges declare that are not their own.
    pub ownership: Ownership,
    /// Wakes the task that looks for causes of notices, for one that cannot wait for its round.
    pub notices_wanted: Notify,
    /// Exchanges that run.
    pub exchanges: Arc<Exchanges>,
    /// Whether the database can be written.
    pub readiness: Readiness,
    /// Counters.
    pub metrics: Metrics,
    /// Traces, where somebody wants them.
    pub spans: Option<Arc<Spans>>,
    /// Capacity for TLS handshakes.
    pub handshakes: AdmissionControl,
    /// Capacity for those of callers, which shall not wait behind thousands of bridges.
    pub caller_handshakes: AdmissionControl,
    /// Tunnels that have not proved themselves.
    pub unproven: Arc<PendingPool>,
    /// The connections of every listener.
    pub connections: Connections,
    /// Limits the log lines about connections that could not be accepted.
    pub failed_accepts: LogRateLimiter,
    /// Says which handshakes waited in vain, not more often than somebody can read.
    pub late_handshakes: LogRateLimiter,
    /// Says which tunnels are refused, not more often than somebody can read.
    pub refused_tunnels: LogRateLimiter,
    /// Says which requests failed, not more often than somebody can read.
    pub failed_requests: LogRateLimiter,
    /// Memory that windows grow into.
    pub budget: Arc<Budget>,
    /// Each tenant's part of it; of those that had a tunnel.
    budgets: Mutex<HashMap<Arc<str>, Arc<Budget>>>,
    limits: ActiveLimits,
    draining: AtomicBool,
}

impl State {
    /// The state of a relay that begins.
    pub fn new(
        config: Config,
        node: String,
        directory: Arc<Directory>,
        deliveries: Arc<Deliveries>,
        metrics: Metrics,
        spans: Option<Arc<Spans>>,
    ) -> Self {
        let limits = &config.limits;
        let callers = (limits.handshakes_max / CALLERS_PART).max(1);
        // Behind a balancer, all come from its address.
        let unproven_of_one = match config.listen.behind_balancer {
            true => limits.unauthenticated_tunnels_max,
            false => limits.unauthenticated_tunnels_per_address,
        };
        let connections = Connections::new(limits, transport::runtime::files_max());
        let unproven = PendingLimits {
            count_max: limits.unauthenticated_tunnels_max as usize,
            per_address_max: unproven_of_one as usize,
            bytes_max: usize::MAX,
        };
        Self {
            audit: Auditing::start(
                directory.storage().clone(),
                config.audit.sums_every.0,
                config.audit.keep.0,
            ),
            direct: Direct::new(config.direct.clone()),
            idempotency: Idempotency::default(),
            services: Written::default(),
            registry: Registry::new(limits.sessions_max, limits.sessions_per_tenant),
            exchanges: Exchanges::new(
                Capacity {
                    node: limits.streams_max,
                    tenant: limits.streams_per_tenant,
                    key: limits.streams_per_key,
                    operations: limits.operations_max,
                },
                config.weights.clone(),
                limits.call_memory_max.0,
            ),
            readiness: Readiness::default(),
            handshakes: AdmissionControl::new(limits.handshakes_max, limits.handshakes_per_address),
            caller_handshakes: AdmissionControl::new(callers, (callers / 2).max(1)),
            unproven: PendingPool::new(unproven, connections.proven.clone()),
            connections,
            failed_accepts: LogRateLimiter::default(),
            late_handshakes: LogRateLimiter::default(),
            ownership: Ownership::default(),
            notices_wanted: Notify::new(),
            refused_tunnels: LogRateLimiter::default(),
            failed_requests: LogRateLimiter::new(FAILED_LINES),
            budget: Budget::new(config.tunnel.window_budget.0),
            budgets: Mutex::default(),
            limits: ActiveLimits::new(config.limits.clone()),
            draining: AtomicBool::new(false),
            serving: Serving::new(),
            node,
            directory,
            deliveries,
            metrics,
            spans,
            config,
        }
    }

    /// The limits in force; those of `config` are what it began with.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.get()
    }

    /// Puts other limits in force, for requests that begin from now on.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.limits.set(limits);
    }

    /// What bridges may have outstanding here.
    pub fn windows(&self) -> Windows {
        Windows {
            streams_max: self.limits().streams_per_session,
            stream_bytes: self.config.tunnel.stream_window.0,
            session_bytes: self.config.tunnel.session_window.0,
        }
    }

    /// What this relay brings to a session of that bridge.
    pub fn session_settings(&self, owner: &TunnelOwner, instance: [u8; 16]) -> Settings {
        let (deliveries, owner) = (self.deliveries.clone(), owner.clone());
        Settings {
            windows: self.windows(),
            budget: self.budget_of(&owner.tenant),
            stream_window_cap: self.config.tunnel.stream_window_max.0,
            on_open: None,
            on_result: Some(Arc::new(move |session, result| {
                deliveries.on_result(&owner, instance, session, result);
            })),
            on_result_ack: None,
        }
    }

    /// A tenant's part of the memory for windows.
    fn budget_of(&self, tenant: &Arc<str>) -> Arc<Budget> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let name = self.directory.tenant_name(tenant).unwrap_or_default();
            Budget::share(&self.budget, self.config.weights.of_tenant(&name))
        };
        budgets.entry(tenant.clone()).or_insert_with(make).clone()
    }

    /// Takes a place for an exchange of this caller.
    ///
    /// # Errors
    /// `overloaded` when it may not have one more.
    pub fn begin(&self, principal: &Principal) -> Result<ExchangePermit, Failure> {
        let tunnels = self
            .registry
            .with_tenant(&principal.tenant, |tunnels| tunnels.all().len());
        let tunnels = u32::try_from(tunnels.unwrap_or(0)).unwrap_or(u32::MAX);
        let take = tunnels.saturating_mul(self.limits().streams_per_session);
        self.exchanges.begin(principal, take)
    }

    /// Whose a stream of this caller is.
    pub fn share_of(&self, principal: &Principal) -> Share {
        let weight = self.config.weights.of_key(&principal.client_id);
        Share::new(number_of(&principal.client_id), weight)
    }

    /// A span for a request that brings these fields, where traces are wanted.
    pub(crate) fn span(
        &self,
        name: &'static str,
        kind: opentelemetry::trace::SpanKind,
        headers: &http::HeaderMap,
    ) -> Option<Span> {
        self.spans.as_ref()?.begin(name, kind, headers)
    }

    /// Notes that a request, a pairing or a tunnel was denied.
    pub fn denied(&self, denied: Denied, code: &'static str, who: Who, address: IpAddr) {
        match denied {
            Denied::Request => self.metrics.request_denied(code),
            Denied::Pairing => self.metrics.pairing(code),
            // Counted with all tunnels that are refused.
            Denied::Tunnel => {}
        }
        self.audit.denials.note(denied, code, who, address);
    }

    /// Notes what a key that proved itself may not do, if that is the problem.
    pub fn note_denial(&self, principal: &Principal, code: Code, address: IpAddr) {
        if denials::is_denial(code) {
            self.denied(Denied::Request, code.as_str(), Who::of(principal), address);
        }
    }

    /// Whether the relay is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The relay begins to shut down.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

/// A number that tells a key from others (FNV-1a). Two that share one share their turns, no more.
fn number_of(client_id: &str) -> u32 {
    client_id.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
