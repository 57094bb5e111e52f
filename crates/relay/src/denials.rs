//! Requests and tunnels that were denied: a log line, a metric, and rows of the audit record.
//!
//! A client without a key can cause any number of denials, so their rows are sums: by tenant, key,
//! address and code, as [`Denials::acts`] is asked for them once a minute. A tenant, and all those
//! that no known key is named in, have a number of rows that grows back slowly. Sums that find no row
//! wait, and sums beyond a bound join one that names neither key nor address: no denial is left out of
//! the count, and the history is not washed out.

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

/// Sums of one tenant that are counted separately.
const SUMS_PER_TENANT_MAX: usize = 32;

/// Sums that are counted separately, of all tenants.
const SUMS_MAX: usize = 4096;

/// Rows that a tenant may have at once.
const ROWS_MAX: u32 = 16;

/// How long it takes until a tenant may have one row more.
const ROW_EVERY: Duration = Duration::from_secs(300);

/// The same for denials without a known key, which concern all tenants.
const SITE_ROWS_MAX: u32 = 64;
const SITE_ROW_EVERY: Duration = Duration::from_secs(60);

/// Lines a second.
const LINES: u32 = 5;

/// What was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denied {
    /// A request: a key that is missing or wrong, or that may not do this.
    Request,
    /// The pairing of a bridge.
    Pairing,
    /// A bridge's tunnel.
    Tunnel,
}

impl Denied {
    fn action(self) -> &'static str {
        match self {
            Self::Request => "auth.denied",
            Self::Pairing => "bridge.pair",
            Self::Tunnel => "tunnel.denied",
        }
    }
}

/// Who was denied, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// The tenant's id; empty where none is known.
    pub tenant: Arc<str>,
    /// The client id of a key that exists, or a bridge's name; empty where none is known.
    pub object: Arc<str>,
    /// Whether that key proved itself.
    pub is_proved: bool,
}

impl Who {
    /// A key that proved itself.
    pub fn of(principal: &Principal) -> Self {
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
    who: Who,
    /// `None`: several.
    address: Option<IpAddr>,
}

#[derive(Debug)]
struct Budget {
    rows: u32,
    grown: Instant,
}

impl Budget {
    /// Takes a row, of at most `most`, of which one grows back in `every`.
    fn take(&mut self, most: u32, every: Duration, now: Instant) -> bool {
        let grown = now.saturating_duration_since(self.grown).as_secs() / every.as_secs();
        if grown > 0 {
            let more = u32::try_from(grown).unwrap_or(u32::MAX);
            self.rows = self.rows.saturating_add(more).min(most);
            self.grown = now;
        }
        let has = self.rows > 0;
        self.rows = self.rows.saturating_sub(1);
        has
    }

    fn is_full(&self, most: u32, every: Duration, now: Instant) -> bool {
        let missing = most.saturating_sub(self.rows);
        now.saturating_duration_since(self.grown) >= every * missing
    }
}

#[derive(Debug, Default)]
struct Inner {
    sums: HashMap<Kind, u64>,
    /// How many sums each tenant has.
    of_tenant: HashMap<Arc<str>, usize>,
    budgets: HashMap<Arc<str>, Budget>,
}

/// Denials that are not written down yet.
#[derive(Debug)]
pub struct Denials {
    inner: Mutex<Inner>,
    lines: LogRateLimiter,
}

impl Default for Denials {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            lines: LogRateLimiter::new(LINES),
        }
    }
}

/// Whether a failure with this code is a denial.
pub fn is_denial(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthorized | Code::Forbidden | Code::TenantSuspended | Code::RateLimited
    )
}

impl Denials {
    /// Notes a denial: in the log, and in the sums.
    pub fn note(&self, denied: Denied, code: &'static str, who: Who, address: IpAddr) {
        if self.lines.allow() {
            tracing::warn!(
                action = denied.action(),
                code,
                tenant = &*who.tenant,
                object = &*who.object,
                %address,
                suppressed = self.lines.suppressed(),
                "denied"
            );
        }
        let kind = Kind {
            denied,
            code,
            who,
            address: Some(network(address)),
        };
        self.lock().add(kind, 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows that may be written now. At the end, `all` of them are.
    pub fn acts(&self, now: Instant, all: bool) -> Vec<AuditEvent> {
        let mut inner = self.lock();
        let mut sums: Vec<(Kind, u64)> = inner.sums.drain().collect();
        inner.of_tenant.clear();
        // The largest first; of what finds no row, the counts go on.
        sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let mut acts = Vec::new();
        for (kind, count) in sums {
            if inner.may_write(&kind.who.tenant, now) || all {
                acts.push(act(kind, count));
            } else {
                inner.add(kind, count);
            }
        }
        inner.budgets.retain(|tenant, budget| {
            let (most, every) = rows_of(tenant);
            !budget.is_full(most, every, now)
        });
        acts
    }
}

/// How many rows a tenant has at most, and how fast they grow back.
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
        let of_tenant = self.of_tenant.get(&kind.who.tenant).copied().unwrap_or(0);
        let is_full = of_tenant >= SUMS_PER_TENANT_MAX || self.sums.len() >= SUMS_MAX;
        let kind = match is_full {
            false => kind,
            true => Kind {
                who: Who {
                    tenant: kind.who.tenant,
                    ..Who::default()
                },
                address: None,
                ..kind
            },
        };
        // There are a few dozen of these for each tenant at most, and tenants are known ones.
        *self.of_tenant.entry(kind.who.tenant.clone()).or_default() += 1;
        *self.sums.entry(kind).or_default() += count;
    }

    fn may_write(&mut self, tenant: &Arc<str>, now: Instant) -> bool {
        let (most, every) = rows_of(tenant);
        let budget = self.budgets.entry(tenant.clone()).or_insert(Budget {
            rows: most,
            grown: now,
        });
        budget.take(most, every, now)
    }
}

fn act(kind: Kind, count: u64) -> AuditEvent {
    let tenant = match kind.who.tenant.is_empty() {
        true => crate::storage::tenants::SITE.into(),
        false => kind.who.tenant,
    };
    // Only a key that proved itself did something.
    let actor = match kind.who.is_proved {
        true => kind.who.object.clone(),
        false => "unknown".into(),
    };
    AuditEvent {
        tenant,
        actor,
        action: kind.denied.action(),
        object: kind.who.object.to_string(),
        result: kind.code,
        count,
        detail: match kind.address {
            Some(address) => json!({"address": address.to_string()}).to_string(),
            None => json!({"addresses": "several"}).to_string(),
        },
        ..AuditEvent::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn who(tenant: &str, object: &str) -> Who {
        Who {
            tenant: tenant.into(),
            object: object.into(),
            is_proved: false,
        }
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    fn total(acts: &[AuditEvent]) -> u64 {
        acts.iter().map(|act| act.count).sum()
    }

    #[test]
    fn denials_of_one_kind_are_one_row() {
        let denials = Denials::default();
        for _ in 0..100 {
            denials.note(Denied::Request, "unauthorized", Who::default(), address(1));
        }
        denials.note(
            Denied::Request,
            "unauthorized",
            who("t", "ibk_1"),
            address(1),
        );
        denials.note(Denied::Request, "rate_limited", Who::default(), address(1));
        let acts = denials.acts(Instant::now(), false);
        let mut rows: Vec<_> = acts
            .iter()
            .map(|act| (&*act.tenant, act.action, act.result, act.count))
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
        assert!(denials.acts(Instant::now(), false).is_empty());
    }

    /// A day of attacks from everywhere: few rows, and none of the denials is left out of the count.
    #[test]
    fn flood_from_many_addresses_is_few_rows() {
        let denials = Denials::default();
        let start = Instant::now();
        let (mut rows, mut counted, mut noted) = (0, 0, 0);
        for minute in 0..24 * 60 {
            for number in 0..200 {
                let address = address(minute * 1000 + number);
                denials.note(Denied::Request, "unauthorized", Who::default(), address);
                denials.note(Denied::Tunnel, "revoked", who("t", "b1"), address);
                noted += 2;
            }
            assert!(denials.lock().sums.len() <= 2 * SUMS_PER_TENANT_MAX + 8);
            let acts = denials.acts(start + Duration::from_secs(60 * u64::from(minute)), false);
            rows += acts.len();
            counted += total(&acts);
        }
        counted += total(&denials.acts(start, true));
        assert_eq!(counted, noted);
        assert!(rows <= 64 + 1440 + 16 + 288, "{rows} rows");
    }

    #[test]
    fn tenants_with_a_flood_leave_room_for_others() {
        let denials = Denials::default();
        for number in 0..1000 {
            denials.note(Denied::Request, "forbidden", who("a", "k"), address(number));
        }
        denials.note(Denied::Request, "forbidden", who("b", "k"), address(1));
        let acts = denials.acts(Instant::now(), false);
        let of = |tenant: &str| acts.iter().filter(|act| &*act.tenant == tenant).count();
        assert_eq!((of("a"), of("b")), (ROWS_MAX as usize, 1));
    }
}
