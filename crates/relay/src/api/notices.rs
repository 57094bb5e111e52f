//! `/v1/notices` and `/v1/notice-url`: conditions that need attention, and where notices of them are
//! sent.

use super::errors::failed;
use super::timestamp::Timestamp;
use super::{Context, Handling, json, page::Page};
use crate::control_plane::ControlPlane;
use crate::notices::check_url;
use crate::problem::Problem;
use crate::storage::notices::Notice;
use crate::storage::tenants::TenantChange;
use bytes::Bytes;
use http::{Request, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A notice: a condition that needs attention.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NoticeView {
    /// The notice's id.
    id: String,
    /// Name of the tenant; empty if the notice concerns the relay itself.
    tenant: String,
    /// `bridge_offline`, `bridge_cloned`, `endpoint_conflict`, `dead_letters`, `key_expires`,
    /// `certificate_expires`, `deliveries_paused`, `database_silent`, `pairing_file_reused` or
    /// `bridge_outdated`.
    kind: String,
    /// The object: a bridge's name, a client id, or a file.
    object: String,
    /// Human-readable description.
    detail: String,
    /// When it was raised.
    raised_at: Timestamp,
    /// When its cause was gone; null while the cause persists.
    cleared_at: Option<Timestamp>,
}

/// A page of notices.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NoticePage {
    /// Newest first.
    notices: Vec<NoticeView>,
    /// Cursor of the next page; null on the last one.
    next_cursor: Option<String>,
}

fn view(state: &ControlPlane, notice: Notice) -> NoticeView {
    let tenant = state.directory.tenant_name(&notice.tenant);
    NoticeView {
        id: notice.id,
        tenant: tenant.map_or_else(String::new, |name| name.to_string()),
        kind: notice.kind,
        object: notice.object,
        detail: notice.detail,
        raised_at: Timestamp::Seconds(notice.raised),
        cleared_at: notice.cleared.map(Timestamp::Seconds),
    }
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let tenant = if cx.is_site_admin() && cx.query.text("tenant").is_none() {
            String::new()
        } else {
            cx.tenant()?.to_string()
        };
        let page = Page::of(&cx.query)?;
        let only_open = cx.query.flag("open")?;
        // Ids of notices ascend with time, so they order the list, too.
        let before = page.after.clone().unwrap_or_default();
        let storage = cx.state.directory.storage();
        let notices = storage.notices(&tenant, only_open, &before, page.rows());
        let mut notices = notices.await.map_err(failed)?;
        let next_cursor = page.cut(&mut notices, |notice| notice.id.clone());
        let notices = notices.into_iter().map(|notice| view(cx.state, notice));
        let document = NoticePage {
            notices: notices.collect(),
            next_cursor,
        };
        json::reply(StatusCode::OK, &document)
    })
}

/// The URL that receives a tenant's notices.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoticeUrl {
    /// An absolute `http` or `https` URL; null for none. The relay reaches it like the URL of a stored
    /// call.
    #[schemars(length(max = 2048))]
    url: Option<String>,
}

pub(super) fn show_url<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let name = tenant_name(cx)?;
        let tenant = cx.storage().tenant(&name).await.map_err(failed)?;
        let document = NoticeUrl {
            url: tenant.notice_url,
        };
        json::reply(StatusCode::OK, &document)
    })
}

pub(super) fn change_url<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let wanted: NoticeUrl = json::read(&request)?;
        if let Some(url) = &wanted.url {
            check_url(url).map_err(Problem::invalid)?;
        }
        let change = TenantChange {
            notice_url: Some(wanted.url.clone()),
            ..TenantChange::default()
        };
        let name = tenant_name(cx)?;
        let changed = cx.storage().change_tenant(&name, &change, None).await;
        changed.map_err(failed)?;
        json::reply(StatusCode::OK, &wanted)
    })
}

fn tenant_name(cx: &Context<'_>) -> Result<Arc<str>, Problem> {
    let name = cx.state.directory.tenant_name(&cx.tenant()?);
    name.ok_or_else(Problem::not_found)
}
