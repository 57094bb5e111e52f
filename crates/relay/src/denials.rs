//! Denied requests and tunnels: a log line, a metric, and rows of the audit record.
//!
//! A client without a key can cause any number of denials, so their rows are sums by tenant, key, address
//! and code, which [`Denials::take_events`] returns once a minute. Each tenant, and all denials without a
//! known key together, have a budget of rows that refills slowly. Sums without a row wait. Sums above a
//! limit are merged into one without key and address. So no denial is missing from the count, and a flood
//! cannot push older rows out of the record.

use crate::access::Principal;
use crate::admission::network;
use crate::storage::audit::AuditEvent;
use crate::throttle::LogRateLimiter;
use protocol::Code;
use serde_json::json;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Separate sums of one tenant.
const SUMS_PER_TENANT_MAX: usize = 32;

/// Separate sums of all tenants.
const SUMS_MAX: usize = 4096;

/// Largest budget of a tenant, in rows.
const ROWS_MAX: u32 = 16;

/// Time until a tenant's budget grows by one row.
const ROW_EVERY: Duration = Duration::from_secs(300);

/// The same for denials without a known key, which concern all tenants.
const SITE_ROWS_MAX: u32 = 64;
const SITE_ROW_EVERY: Duration = Duration::from_secs(60);

/// Log lines a second.
const LOG_LINES_PER_SECOND: u32 = 5;

/// What was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Denied {
    /// A request: its key is missing or wrong, or lacks the permission.
    Request,
    /// The pairing of a bridge.
    Pairing,
    /// A bridge's tunnel.
    Tunnel,
    /// A call of which nothing left the relay or the bridge, beyond those with rows of their own.
    Call,
    /// The same of a delivery: an attempt, or its expiry.
    Delivery,
}

impl Denied {
    fn action(self) -> &'static str {
        match self {
            Self::Request => "auth.denied",
            Self::Pairing => "bridge.pair",
            Self::Tunnel => "tunnel.denied",
            Self::Call => "call",
            Self::Delivery => "delivery",
        }
    }
}

/// The client that was denied, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct DeniedClient {
    /// The tenant's id; empty if unknown.
    pub tenant: Arc<str>,
    /// The client id of an existing key, or a bridge's name; empty if unknown.
    pub object: Arc<str>,
    /// Whether the key was authenticated.
    pub is_proved: bool,
}

impl DeniedClient {
    /// Returns the client with an authenticated key.
    pub(crate) fn of(principal: &Principal) -> Self {
        Self {
            tenant: principal.tenant.clone(),
            object: principal.client_id.clone(),
            is_proved: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    denied: Denied,
    code: &'static str,
    client: DeniedClient,
    /// `None` for several addresses.
    address: Option<IpAddr>,
}

#[derive(Debug)]
struct Budget {
    rows: u32,
    grown: Instant,
}

impl Budget {
    /// Takes a row from a budget of at max `max` rows, which grows by one row in `every`.
    fn take(&mut self, max: u32, every: Duration, now: Instant) -> bool {
        let grown = now.saturating_duration_since(self.grown).as_secs() / every.as_secs();
        if grown > 0 {
            let more = u32::try_from(grown).unwrap_or(u32::MAX);
            self.rows = self.rows.saturating_add(more).min(max);
            self.grown = now;
        }
        let has = self.rows > 0;
        self.rows = self.rows.saturating_sub(1);
        has
    }

    fn is_full(&self, max: u32, every: Duration, now: Instant) -> bool {
        let missing = max.saturating_sub(self.rows);
        now.saturating_duration_since(self.grown) >= every * missing
    }
}

#[derive(Debug, Default)]
struct Inner {
    sums: HashMap<Kind, u64>,
    /// Number of sums of each tenant.
    of_tenant: HashMap<Arc<str>, usize>,
    budgets: HashMap<Arc<str>, Budget>,
}

/// Denials that are not stored yet.
#[derive(Debug)]
pub(crate) struct Denials {
    inner: Mutex<Inner>,
    log_limiter: LogRateLimiter,
}

impl Default for Denials {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            log_limiter: LogRateLimiter::new(LOG_LINES_PER_SECOND),
        }
    }
}

/// Returns whether a failure with this code is a denial.
pub(crate) fn is_denial(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthorized | Code::Forbidden | Code::TenantSuspended | Code::RateLimited
    )
}

impl Denials {
    /// Logs a denial and adds it to the sums. The log has the tenant's name, which `tenant_label` returns for its id.
    pub(crate) fn note(
        &self,
        denied: Denied,
        code: &'static str,
        client: DeniedClient,
        address: IpAddr,
        tenant_label: impl FnOnce(&str) -> Arc<str>,
    ) {
        // Any client can cause these lines.
        if self.log_limiter.allow() {
            let is_known = !client.tenant.is_empty();
            tracing::warn!(
                action = denied.action(),
                code,
                tenant = is_known.then(|| tenant_label(&client.tenant)).as_deref(),
                tenant_id = is_known.then_some(&*client.tenant),
                object = &*client.object,
                %address,
                suppressed = self.log_limiter.suppressed(),
                "denied"
            );
        }
        let kind = Kind {
            denied,
            code,
            client,
            // By network, like all limits for addresses: a client can change the rest of an IPv6 address at
            // will.
            address: Some(network(address)),
        };
        self.lock().add(kind, 1);
    }

    /// Adds a call or a delivery of which nothing was sent to the sums, without a log line.
    pub(crate) fn count_unsent(&self, denied: Denied, code: &'static str, client: DeniedClient) {
        let kind = Kind {
            denied,
            code,
            client,
            address: None,
        };
        self.lock().add(kind, 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the rows that the budgets allow now; with `all`, every row, for the shutdown.
    pub(crate) fn take_events(&self, now: Instant, all: bool) -> Vec<AuditEvent> {
        let mut inner = self.lock();
        let mut sums: Vec<(Kind, u64)> = inner.sums.drain().collect();
        inner.of_tenant.clear();
        // The largest first. The counts of sums without a row continue.
        sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut events = Vec::new();
        for (kind, count) in sums {
            // The budget is charged first, also with `all`, which only ignores its result.
            if inner.may_write(&kind.client.tenant, now) || all {
                events.push(audit_event(kind, count));
            } else {
                inner.add(kind, count);
            }
        }
        // A full budget is the same as none, so the map is bounded by the tenants with recent denials.
        inner.budgets.retain(|tenant, budget| {
            let (max, every) = rows_of(tenant);
            !budget.is_full(max, every, now)
        });
        events
    }
}

/// Returns the largest budget of a tenant, and how fast it refills.
fn rows_of(tenant: &str) -> (u32, Duration) {
    match tenant {
        "" => (SITE_ROWS_MAX, SITE_ROW_EVERY),
        _ => (ROWS_MAX, ROW_EVERY),
    }
}

impl Inner {
    fn add(&mut self, kind: Kind, count: u64) {
        if let Some(sum) = self.sums.get_mut(&kind) {
            *sum += count;
            return;
        }
        let of_tenant = self
            .of_tenant
            .get(&kind.client.tenant)
            .copied()
            .unwrap_or(0);
        let is_full = of_tenant >= SUMS_PER_TENANT_MAX || self.sums.len() >= SUMS_MAX;
        // The merged kind keeps tenant, action and code, so the counts of each stay exact.
        let kind = match is_full {
            false => kind,
            true => Kind {
                client: DeniedClient {
                    tenant: kind.client.tenant,
                    ..DeniedClient::default()
                },
                address: None,
                ..kind
            },
        };
        // Bounded without a further check: there is at max one merged sum for each kind of denial and
        // tenant.
        *self
            .of_tenant
            .entry(kind.client.tenant.clone())
            .or_default() += 1;
        *self.sums.entry(kind).or_default() += count;
    }

    fn may_write(&mut self, tenant: &Arc<str>, now: Instant) -> bool {
        let (max, every) = rows_of(tenant);
        let budget = self.budgets.entry(tenant.clone()).or_insert(Budget {
            rows: max,
            grown: now,
        });
        budget.take(max, every, now)
    }
}

fn audit_event(kind: Kind, count: u64) -> AuditEvent {
    let tenant = match kind.client.tenant.is_empty() {
        true => crate::storage::tenants::SITE.into(),
        false => kind.client.tenant,
    };
    // Only an authenticated key is an actor; a client id alone proves nothing.
    let actor = match (kind.client.is_proved, kind.denied) {
        // As in the row of one attempt: the relay makes it, long after the request of the key.
        (_, Denied::Delivery) => "relay".into(),
        (true, _) => kind.client.object.clone(),
        (false, _) => "unknown".into(),
    };
    AuditEvent {
        tenant,
        actor,
        action: kind.denied.action(),
        object: kind.client.object.to_string(),
        result: kind.code,
        count,
        detail: match kind.address {
            Some(address) => json!({"address": address.to_string()}).to_string(),
            None if matches!(kind.denied, Denied::Call | Denied::Delivery) => String::new(),
            None => json!({"addresses": "several"}).to_string(),
        },
        ..AuditEvent::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn client(tenant: &str, object: &str) -> DeniedClient {
        DeniedClient {
            tenant: tenant.into(),
            object: object.into(),
            is_proved: false,
        }
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    fn note(
        denials: &Denials,
        denied: Denied,
        code: &'static str,
        client: DeniedClient,
        address: IpAddr,
    ) {
        denials.note(denied, code, client, address, |id| id.into());
    }

    fn total(events: &[AuditEvent]) -> u64 {
        events.iter().map(|event| event.count).sum()
    }

    #[test]
    fn equal_denials_are_one_row() {
        let denials = Denials::default();
        for _ in 0..100 {
            note(
                &denials,
                Denied::Request,
                "unauthorized",
                DeniedClient::default(),
                address(1),
            );
        }
        note(
            &denials,
            Denied::Request,
            "unauthorized",
            client("t", "ibk_1"),
            address(1),
        );
        note(
            &denials,
            Denied::Request,
            "rate_limited",
            DeniedClient::default(),
            address(1),
        );
        let events = denials.take_events(Instant::now(), false);
        let mut rows: Vec<_> = events
            .iter()
            .map(|event| (&*event.tenant, event.action, event.result, event.count))
            .collect();
        rows.sort_unstable();
        assert_eq!(
            rows,
            [
                ("site", "auth.denied", "rate_limited", 1),
                ("site", "auth.denied", "unauthorized", 100),
                ("t", "auth.denied", "unauthorized", 1),
            ]
        );
        assert!(denials.take_events(Instant::now(), false).is_empty());
    }

    /// A day of attacks from everywhere makes few rows, and no denial is missing from the count.
    #[test]
    fn flood_from_many_addresses_is_few_rows() {
        let denials = Denials::default();
        let start = Instant::now();
        let (mut rows, mut counted, mut noted) = (0, 0, 0);
        for minute in 0..24 * 60 {
            for number in 0..200 {
                let address = address(minute * 1000 + number);
                note(
                    &denials,
                    Denied::Request,
                    "unauthorized",
                    DeniedClient::default(),
                    address,
                );
                note(
                    &denials,
                    Denied::Tunnel,
                    "revoked",
                    client("t", "b1"),
                    address,
                );
                noted += 2;
            }
            assert!(denials.lock().sums.len() <= 2 * SUMS_PER_TENANT_MAX + 8);
            let events =
                denials.take_events(start + Duration::from_secs(60 * u64::from(minute)), false);
            rows += events.len();
            counted += total(&events);
        }
        counted += total(&denials.take_events(start, true));
        assert_eq!(counted, noted);
        assert!(rows <= 64 + 1440 + 16 + 288, "{rows} rows");
    }

    #[test]
    fn flood_of_one_tenant_leaves_room_for_others() {
        let denials = Denials::default();
        for number in 0..1000 {
            note(
                &denials,
                Denied::Request,
                "forbidden",
                client("a", "k"),
                address(number),
            );
        }
        note(
            &denials,
            Denied::Request,
            "forbidden",
            client("b", "k"),
            address(1),
        );
        let events = denials.take_events(Instant::now(), false);
        let of = |tenant: &str| {
            events
                .iter()
                .filter(|event| &*event.tenant == tenant)
                .count()
        };
        assert_eq!((of("a"), of("b")), (ROWS_MAX as usize, 1));
    }
}
