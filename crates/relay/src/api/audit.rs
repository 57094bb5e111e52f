//! `GET /v1/audit`: the audit record.

use super::errors::failed;
use super::timestamp::Timestamp;
use super::{Context, Handling, json, page::Page};
use crate::problem::Problem;
use crate::storage::audit::{AuditFilter, AuditRow, check_action, check_result};
use bytes::Bytes;
use http::{Request, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// One row of the audit record.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditView {
    /// Sequence number, ascending.
    seq: i64,
    /// When it happened.
    at: Timestamp,
    /// The tenant's name, or its id if the tenant was deleted.
    tenant: String,
    /// A client id, `cli:ACCOUNT`, or `relay`.
    actor: String,
    /// `key.create`, `call`, `endpoint`, ...
    action: String,
    /// The object: an id, a name or a host.
    object: String,
    /// The bridge that was used.
    bridge: Option<String>,
    /// `ok`, or the code of the failure.
    result: String,
    /// Execution status of a request.
    execution: Option<String>,
    /// Bytes of bodies sent to the target.
    bytes_up: i64,
    /// Bytes of bodies sent to the caller.
    bytes_down: i64,
    /// Duration in milliseconds; in a sum, of all exchanges together.
    took_ms: i64,
    /// Number of exchanges in a sum.
    count: i64,
    /// Additional attributes.
    detail: Value,
}

/// A page of the audit record.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditPage {
    /// Newest first.
    audit: Vec<AuditView>,
    /// Cursor of the next page; null on the last one.
    next_cursor: Option<String>,
}

fn view(cx: &Context<'_>, row: AuditRow) -> AuditView {
    let filled = |text: String| (!text.is_empty()).then_some(text);
    let tenant = cx.state.directory.tenant_name(&row.tenant);
    AuditView {
        seq: row.seq,
        at: Timestamp::Millis(row.at_ms),
        // Rows outlive their tenant, whose name is then unknown.
        tenant: tenant.map_or(row.tenant, |name| name.to_string()),
        actor: row.actor,
        action: row.action,
        object: row.object,
        bridge: filled(row.bridge),
        result: row.result,
        execution: filled(row.execution),
        bytes_up: row.bytes_up,
        bytes_down: row.bytes_down,
        took_ms: row.took_ms,
        count: row.count,
        // A detail that cannot be parsed must not hide the row.
        detail: serde_json::from_str(&row.detail).unwrap_or(Value::Null),
    }
}

fn status(text: &str) -> Result<u16, Problem> {
    let status = text.parse().ok();
    let status = status.filter(|status| (100..1000).contains(status));
    status.ok_or_else(|| {
        Problem::invalid(format!(
            "status is {text:?}; it must be a number from 100 to 999"
        ))
    })
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        // A site administrator who names no tenant sees the rows of all, including those of the site
        // itself.
        let tenant = if cx.is_site_admin() && cx.query.text("tenant").is_none() {
            None
        } else {
            Some(cx.tenant()?.to_string())
        };
        let page = Page::of(&cx.query)?;
        let text = |name| cx.query.text(name).map(str::to_owned);
        cx.query
            .text("action")
            .map_or(Ok(()), check_action)
            .map_err(Problem::invalid)?;
        cx.query
            .text("result")
            .map_or(Ok(()), check_result)
            .map_err(Problem::invalid)?;
        let filter = AuditFilter {
            tenant,
            action: text("action"),
            actor: text("actor"),
            object: text("object"),
            result: text("result"),
            status: cx.query.text("status").map(status).transpose()?,
            since_ms: cx.query.instant_ms("since")?,
            until_ms: cx.query.instant_ms("until")?,
        };
        let storage = cx.state.directory.storage();
        let rows = storage.audit_rows(&filter, page.before()?, page.rows());
        let mut rows = rows.await.map_err(failed)?;
        let next_cursor = page.cut(&mut rows, |row| row.seq.to_string());
        let audit = rows.into_iter().map(|row| view(cx, row)).collect();
        json::reply(StatusCode::OK, &AuditPage { audit, next_cursor })
    })
}
