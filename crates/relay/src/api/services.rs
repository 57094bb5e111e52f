//! `/v1/services/{name}`: what reports itself with a key, such as a synchronizer.

use super::errors::failed;
use super::tenants::SERVICE_GONE_AFTER;
use super::timestamp::Timestamp;
use super::{Context, Handling, json};
use crate::problem::Problem;
use crate::storage::bridges::Service;
use crate::storage::now;
use bytes::Bytes;
use http::{Request, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A report is written down at most once in so many seconds, unless its version is another.
const WRITTEN_EVERY: i64 = 30;

/// The services that may report themselves.
const KNOWN: [&str; 1] = ["synchronizer"];

/// What a service says of itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Its version, 1 to 64 visible ASCII characters.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[\x21-\x7e]+$"))]
    version: String,
}

/// A service.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ServiceView {
    /// What it is.
    name: String,
    /// Its version.
    version: String,
    /// When it last reported itself, accurate to half a minute.
    last_seen_at: Timestamp,
    /// Whether that was in the last three minutes.
    alive: bool,
}

/// The services of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ServiceList {
    /// By name.
    services: Vec<ServiceView>,
}

/// A version, and when it was written down.
type Noted = (String, i64);

/// What was written down of each tenant's services, by tenant and name.
#[derive(Debug, Default)]
pub struct Written(Mutex<HashMap<(Arc<str>, String), Noted>>);

/// Entries before those that are old are forgotten.
const ENTRIES_MAX: usize = 10_000;

impl Written {
    /// Whether a report is to be written down.
    fn is_due(&self, tenant: &Arc<str>, name: &str, version: &str, now: i64) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.clone(), name.to_owned());
        let known = written.get(&key);
        if known.is_some_and(|(known, at)| known == version && now - at < WRITTEN_EVERY) {
            return false;
        }
        if written.len() >= ENTRIES_MAX {
            written.retain(|_, (_, at)| now - *at < WRITTEN_EVERY);
        }
        written.insert(key, (version.to_owned(), now));
        true
    }
}

fn view(service: &Service) -> ServiceView {
    ServiceView {
        name: service.name.clone(),
        version: service.version.clone(),
        last_seen_at: Timestamp::Seconds(service.seen),
        alive: now() - service.seen <= SERVICE_GONE_AFTER,
    }
}

pub(super) fn report<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let name = cx.path("service");
        if !KNOWN.contains(&name) {
            return Err(Problem::not_found());
        }
        let report: Report = json::read(&request)?;
        let length = 1..=64;
        if !length.contains(&report.version.len())
            || !report.version.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Problem::invalid(
                "version must be 1 to 64 visible ASCII characters",
            ));
        }
        let service = Service {
            tenant: cx.principal.tenant.clone(),
            name: name.to_owned(),
            version: report.version,
            seen: now(),
        };
        let written = &cx.state.services;
        if written.is_due(&service.tenant, name, &service.version, service.seen) {
            let stored = cx.storage().service_seen(&service).await;
            stored.map_err(failed)?;
        }
        json::reply(StatusCode::OK, &view(&service))
    })
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let storage = cx.state.directory.storage();
        let services = storage.services(&cx.tenant()?).await.map_err(failed)?;
        let services = services.iter().map(view).collect();
        json::reply(StatusCode::OK, &ServiceList { services })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_written_down_now_and_then_and_a_new_version_at_once() {
        let written = Written::default();
        let tenant: Arc<str> = "t".into();
        assert!(written.is_due(&tenant, "synchronizer", "1", 100));
        assert!(!written.is_due(&tenant, "synchronizer", "1", 129));
        assert!(written.is_due(&tenant, "synchronizer", "2", 129));
        assert!(written.is_due(&tenant, "synchronizer", "2", 159));
        assert!(written.is_due(&"u".into(), "synchronizer", "2", 159));
    }
}
