//! `/v1/services`: services that report themselves with a key, such as a synchronizer.

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

/// Names of services that may report themselves.
const KNOWN: [&str; 1] = ["synchronizer"];

/// The report of a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    /// The service's version: 1 to 64 visible ASCII characters.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[\x21-\x7e]+$"))]
    version: String,
}

/// A service.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ServiceView {
    /// The service's name.
    name: String,
    /// The service's version.
    version: String,
    /// When it last reported itself, accurate to half a minute.
    last_seen_at: Timestamp,
    /// Whether it reported itself in the last three minutes.
    alive: bool,
}

/// The services of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ServiceList {
    /// Sorted by name.
    services: Vec<ServiceView>,
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
        let reports = &cx.state.services;
        // Heartbeats come every minute from each service; most need no write.
        if reports.must_store(&service.tenant, name, &service.version, service.seen) {
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
