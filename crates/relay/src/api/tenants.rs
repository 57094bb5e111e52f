//! `/v1/tenants ...`: tenants, for site administrators.

use super::errors::{failed, failed_after_change};
use super::timestamp::Timestamp;
use super::{Context, Handling, etag, json, page::Page};
use crate::body::Body;
use crate::config::EXPIRES_IN_MAX_S;
use crate::problem::Problem;
use crate::storage::bridges::Service;
use crate::storage::tenants::TenantChange;
use crate::storage::{StorageError, Tenant, TenantState, now};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::HashMap;

/// Seconds without a report after which a service counts as gone.
pub(crate) const SERVICE_GONE_AFTER: i64 = 180;

/// A tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TenantView {
    /// The tenant's id.
    id: String,
    /// The tenant's name, unique.
    name: String,
    /// `active` or `suspended`.
    state: &'static str,
    /// When it was created.
    created_at: Timestamp,
    /// URL patterns that the relay may call directly for this tenant.
    direct_urls: Vec<String>,
    /// The URL that receives notices; null for none.
    notice_url: Option<String>,
    /// Seconds after which stored calls expire unless they set it themselves. 0 for never; null for the
    /// relay's `deliveries.expires_in`.
    expires_in: Option<i64>,
    /// The newest version among connected bridges, or `-`.
    bridge_service: String,
    /// The version of the synchronizer, or `-`.
    synchronizer_service: String,
}

/// A page of tenants.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TenantPage {
    /// Sorted by name.
    tenants: Vec<TenantView>,
    /// Cursor of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// A tenant to create.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTenant {
    /// The tenant's name: 1 to 64 letters, digits, `.`, `_` or `-`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    name: String,
}

/// Changes to a tenant. Fields that are left out stay unchanged.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TenantPatch {
    /// `active` or `suspended`.
    #[schemars(with = "Option<TenantStateName>")]
    state: Option<TenantStateName>,
    /// URL patterns that the relay may call directly, such as `https://hooks.example.com/*`.
    direct_urls: Option<Vec<String>>,
    /// The URL that receives notices; null for none.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    notice_url: Option<Option<String>>,
    /// Seconds after which stored calls expire unless they set it themselves. 0 for never; null for the
    /// relay's `deliveries.expires_in`.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Option<i64>", range(min = 0, max = 315_360_000))]
    expires_in: Option<Option<i64>>,
}

/// A tenant's state.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TenantStateName {
    /// The tenant works.
    Active,
    /// Its keys are refused and its bridges disconnected until it is active again.
    Suspended,
}

/// Distinguishes null from a missing field.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Maximum number of URL patterns of a tenant.
const DIRECT_URLS_MAX: usize = 256;

fn view(cx: &Context<'_>, tenant: &Tenant, services: &[Service]) -> TenantView {
    let id = tenant.id.as_str();
    let synchronizer = services.iter().find(|service| {
        &*service.tenant == id
            && service.name == "synchronizer"
            && now() - service.seen <= SERVICE_GONE_AFTER
    });
    TenantView {
        id: id.to_owned(),
        name: tenant.name.clone(),
        state: tenant.state.as_str(),
        created_at: Timestamp::Seconds(tenant.created),
        direct_urls: tenant.direct_urls.clone(),
        notice_url: tenant.notice_url.clone(),
        expires_in: tenant.expires_in,
        bridge_service: newest_bridge(cx, id).unwrap_or_else(|| "-".to_owned()),
        synchronizer_service: synchronizer.map_or("-".to_owned(), |s| s.version.clone()),
    }
}

/// Returns the newest version among a tenant's connected bridges.
fn newest_bridge(cx: &Context<'_>, tenant: &str) -> Option<String> {
    let entries = cx.state.data.registry.of_tenant(tenant);
    let versions = entries.iter().map(|entry| entry.software.as_str());
    // Compared by numbers: 0.10 is newer than 0.9.
    let numbers = |version: &str| -> Vec<u64> {
        let parts = version.split(|c: char| !c.is_ascii_digit());
        parts.filter_map(|part| part.parse().ok()).collect()
    };
    let newest = versions.max_by_key(|version| numbers(version));
    newest.map(str::to_owned)
}

async fn shown(
    cx: &Context<'_>,
    tenant: &Tenant,
    status: StatusCode,
    unread: fn(StorageError) -> Problem,
) -> Result<Response<Body>, Problem> {
    let storage = cx.state.directory.storage();
    let services = storage.services(tenant.id.as_str()).await.map_err(unread)?;
    let mut response = json::reply(status, &view(cx, tenant, &services))?;
    etag::put(response.headers_mut(), tenant.revision);
    Ok(response)
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let page = Page::of(&cx.query)?;
        let storage = cx.state.directory.storage();
        let after = page.after.clone().unwrap_or_default();
        let mut tenants = storage
            .tenants_after(&after, page.rows())
            .await
            .map_err(failed)?;
        let next_cursor = page.cut(&mut tenants, |tenant| tenant.name.clone());
        // One statement for all tenants: a page has up to 1000 of them.
        let services = storage.services("").await.map_err(failed)?;
        let mut by_tenant: HashMap<&str, Vec<Service>> = HashMap::new();
        for service in &services {
            let of_tenant = by_tenant.entry(&service.tenant).or_default();
            of_tenant.push(service.clone());
        }
        let tenants = tenants
            .iter()
            .map(|tenant| {
                let services = by_tenant.get(tenant.id.as_str());
                view(cx, tenant, services.map_or(&[], Vec::as_slice))
            })
            .collect();
        json::reply(
            StatusCode::OK,
            &TenantPage {
                tenants,
                next_cursor,
            },
        )
    })
}

pub(super) fn create<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let new: NewTenant = json::read(&request)?;
        let created = cx.storage().create_tenant(&new.name).await;
        let tenant = created.map_err(failed)?;
        cx.state.directory.follow_change().await;
        shown(cx, &tenant, StatusCode::CREATED, failed_after_change).await
    })
}

pub(super) fn show<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let storage = cx.state.directory.storage();
        let tenant = storage.tenant(cx.path("tenant")).await.map_err(failed)?;
        shown(cx, &tenant, StatusCode::OK, failed).await
    })
}

pub(super) fn change<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let patch: TenantPatch = json::read(&request)?;
        let seen = etag::wanted(request.headers())?;
        if let Some(urls) = &patch.direct_urls {
            if urls.len() > DIRECT_URLS_MAX {
                return Err(Problem::invalid(format!(
                    "direct_urls has {} patterns, the limit is {DIRECT_URLS_MAX}",
                    urls.len()
                )));
            }
            // Checked here, since a pattern that cannot be parsed would make every direct call of the
            // tenant fail later.
            crate::direct::pattern::check_all(urls).map_err(Problem::invalid)?;
        }
        if let Some(Some(url)) = &patch.notice_url {
            crate::notices::check_url(url).map_err(Problem::invalid)?;
        }
        if let Some(Some(seconds)) = patch.expires_in
            && !(0..=i64::from(EXPIRES_IN_MAX_S)).contains(&seconds)
        {
            return Err(Problem::invalid(format!(
                "expires_in is {seconds}; it must be from 0 to {EXPIRES_IN_MAX_S} seconds"
            )));
        }
        let change = TenantChange {
            expires_in: patch.expires_in,
            state: patch.state.map(|state| match state {
                TenantStateName::Active => TenantState::Active,
                TenantStateName::Suspended => TenantState::Suspended,
            }),
            direct_urls: patch.direct_urls,
            notice_url: patch.notice_url,
        };
        let name = cx.path("tenant");
        // The revision is compared inside the transaction, so two concurrent changes cannot both match.
        let changed = cx.storage().change_tenant(name, &change, seen).await;
        let tenant = changed.map_err(failed)?;
        cx.state.directory.follow_change().await;
        shown(cx, &tenant, StatusCode::OK, failed_after_change).await
    })
}

pub(super) fn delete<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let seen = etag::wanted(request.headers())?;
        let deleted = cx.storage().delete_tenant(cx.path("tenant"), seen).await;
        let tenant = deleted.map_err(failed)?;
        cx.state.directory.follow_change().await;
        // After the commit: an attempt that still runs finds no key any more, and its row is gone.
        cx.state.deliveries.forget_tenant(tenant.id.as_str());
        cx.state.recent_calls.forget_tenant(tenant.id.as_str());
        Ok(json::empty())
    })
}
