//! `/v1/calls ...`: what became of stored calls, again, and taken back.

use super::page::{Page, SCANNED_MAX};
use super::{Context, Handling, json};
use crate::access::Object;
use crate::api::pairing::{failed, unshown};
use crate::deliveries::state::CallState;
use crate::problem::Problem;
use crate::storage::calls::{CallAttemptRow, CallFilter, CallSummary, Purpose, no_call};
use crate::storage::{StorageError, now_ms};
use bytes::Bytes;
use http::{Request, StatusCode};
use protocol::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Calls that one request redelivers or cancels.
const AT_ONCE: u32 = 1000;

/// The same, for a narrowed key: its calls are changed one by one.
const NARROWED_AT_ONCE: usize = 200;

/// Calls that are read in one statement, to find those that a narrowed key sees.
const SCANNED_AT_ONCE: u32 = 1000;

/// A stored call. Its URL, header fields and body are not shown.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CallView {
    /// Its id; also its `webhook-id`.
    id: String,
    /// `pending`, `waiting_for_bridge`, `attempting`, `succeeded`, `failed`, `refused`,
    /// `outcome_unknown`, `cancelled` or `expired`.
    state: &'static str,
    /// When it was handed over, in milliseconds since 1970.
    created_ms: i64,
    /// The key that handed it over.
    client_id: String,
    /// The request's method.
    method: String,
    /// The URL's host.
    host: String,
    /// The bridge that was asked for.
    bridge: Option<String>,
    /// Whether it may be made again when nobody can say what became of it.
    at_least_once: bool,
    /// Bytes of its body.
    bytes: i64,
    /// Attempts that were begun.
    attempts: i64,
    /// When the next one is due, in milliseconds since 1970.
    due_ms: Option<i64>,
    /// When it expires if it still waits then, in milliseconds since 1970.
    expires_ms: Option<i64>,
    /// When it came to its end.
    finished_ms: Option<i64>,
    /// The target's last status.
    status: Option<i64>,
    /// The code of the last failure.
    code: Option<String>,
    /// How far the last attempt came.
    execution: Option<String>,
    /// In words.
    detail: Option<String>,
}

/// One attempt.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AttemptView {
    /// Its number, from 1.
    attempt: i64,
    /// When it began, in milliseconds since 1970.
    began_ms: i64,
    /// How long it took.
    took_ms: i64,
    /// `bridge` or `direct`.
    route: String,
    /// Through which bridge.
    bridge: Option<String>,
    /// The target's status.
    status: Option<i64>,
    /// The failure's code.
    code: Option<String>,
    /// How far it came.
    execution: String,
    /// In words.
    detail: String,
}

/// A stored call with its attempts.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CallWithAttempts {
    /// The call.
    #[serde(flatten)]
    call: CallView,
    /// Attempts that are over, oldest first: the latest thousand.
    attempt_list: Vec<AttemptView>,
}

/// A page of calls.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CallPage {
    /// Newest first.
    calls: Vec<CallView>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Which calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Matching {
    /// In this state. Redelivering takes `failed`, `refused`, `outcome_unknown`, `cancelled` and
    /// `expired` ones, all of them if nothing is said; cancelling those that are not finished.
    #[schemars(with = "Option<StateName>")]
    state: Option<String>,
    /// To this host.
    host: Option<String>,
    /// Handed over at or after this moment, in seconds since 1970.
    #[schemars(range(min = 0, max = 253_402_300_799_i64))]
    since: Option<i64>,
    /// Handed over before this moment.
    #[schemars(range(min = 0, max = 253_402_300_799_i64))]
    until: Option<i64>,
}

/// Where a call stands, for the document.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "it is read by the document alone")]
enum StateName {
    Pending,
    WaitingForBridge,
    Attempting,
    Succeeded,
    Failed,
    Refused,
    OutcomeUnknown,
    Cancelled,
    Expired,
}

/// How many were redelivered.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Redelivered {
    /// Calls that are pending again.
    redelivered: u64,
    /// Whether there may be more: ask again.
    more: bool,
}

/// How many were taken back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Cancelled {
    /// Calls that are cancelled.
    cancelled: u64,
    /// Calls whose attempt runs: no other follows it.
    cancelling: u64,
    /// Whether there may be more: ask again.
    more: bool,
}

fn view(call: CallSummary) -> CallView {
    CallView {
        id: call.id,
        state: call.state.as_str(),
        created_ms: call.created_ms,
        client_id: call.client_id,
        method: call.method,
        host: call.host,
        bridge: call.bridge,
        at_least_once: call.at_least_once,
        bytes: call.bytes,
        attempts: call.attempts,
        due_ms: call.due_ms,
        expires_ms: call.expires_ms,
        finished_ms: call.finished_ms,
        status: call.status,
        code: call.code,
        execution: call.execution,
        detail: call.detail,
    }
}

fn attempt(row: CallAttemptRow) -> AttemptView {
    AttemptView {
        attempt: row.attempt,
        began_ms: row.began_ms,
        took_ms: row.took_ms,
        route: row.route,
        bridge: (!row.bridge.is_empty()).then_some(row.bridge),
        status: row.status,
        code: row.code,
        execution: row.execution,
        detail: row.detail,
    }
}

fn state_of(text: Option<&str>) -> Result<Option<CallState>, Problem> {
    let parsed = text.map(str::parse::<CallState>).transpose();
    parsed.map_err(|error| Problem::invalid(error.to_string()))
}

fn filter(matching: Matching) -> Result<CallFilter, Problem> {
    let moment = |name: &str, seconds: Option<i64>| match seconds {
        Some(seconds) if !(0..=253_402_300_799).contains(&seconds) => Err(Problem::invalid(
            format!("{name} is no moment in seconds since 1970"),
        )),
        seconds => Ok(seconds.map(|seconds| seconds * 1000)),
    };
    Ok(CallFilter {
        state: state_of(matching.state.as_deref())?,
        host: matching.host,
        since_ms: moment("since", matching.since)?,
        until_ms: moment("until", matching.until)?,
    })
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let page = Page::of(&cx.query)?;
        let filter = CallFilter {
            state: state_of(cx.query.text("state"))?,
            host: cx.query.text("host").map(str::to_owned),
            since_ms: cx.query.moment_ms("since")?,
            until_ms: cx.query.moment_ms("until")?,
        };
        let (calls, next_cursor) = visible(cx, &cx.tenant()?, &filter, &page).await?;
        let calls = calls.into_iter().map(view).collect();
        json::reply(StatusCode::OK, &CallPage { calls, next_cursor })
    })
}

/// Whether the key sees a stored call.
fn sees(cx: &Context<'_>, host: &str, bridge: Option<&str>, client_id: &str) -> bool {
    cx.principal.scope.sees(Object::StoredCall {
        host,
        bridge,
        is_own: client_id == &*cx.principal.client_id,
    })
}

/// A page of the calls that the key sees, newest first, and the cursor of the next one.
async fn visible(
    cx: &Context<'_>,
    tenant: &str,
    filter: &CallFilter,
    page: &Page,
) -> Result<(Vec<CallSummary>, Option<String>), Problem> {
    let storage = cx.state.directory.storage();
    let (mut before, mut calls, mut scanned) = (page.before()?, Vec::new(), 0);
    loop {
        let rows = storage.calls(tenant, filter, before, page.rows()).await;
        let rows = rows.map_err(failed)?;
        let is_end = rows.len() <= page.limit();
        for call in rows.into_iter().take(page.limit()) {
            if calls.len() == page.limit() {
                return Ok((calls, Some(Page::cursor(&before.to_string()))));
            }
            scanned += 1;
            before = call.seq;
            if sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
                calls.push(call);
            }
        }
        if is_end {
            return Ok((calls, None));
        }
        if calls.len() == page.limit() || scanned >= SCANNED_MAX {
            return Ok((calls, Some(Page::cursor(&before.to_string()))));
        }
    }
}

/// The calls of one bulk request, for a key that is narrowed: the ids of the oldest that it sees and
/// that fit, and whether there may be more.
async fn seen_ids(
    cx: &Context<'_>,
    tenant: &str,
    filter: &CallFilter,
    purpose: Purpose,
) -> Result<(Vec<String>, bool), Problem> {
    let storage = cx.state.directory.storage();
    let (mut after, mut ids) = (0, Vec::new());
    loop {
        let calls = storage.scan_calls(tenant, filter, purpose, after, SCANNED_AT_ONCE);
        let calls = calls.await.map_err(failed)?;
        let is_end = calls.len() < SCANNED_AT_ONCE as usize;
        for call in calls {
            after = call.seq;
            if !sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
                continue;
            }
            if ids.len() == NARROWED_AT_ONCE {
                return Ok((ids, true));
            }
            ids.push(call.id);
        }
        if is_end {
            return Ok((ids, false));
        }
    }
}

/// A stored call of the tenant that the key sees.
async fn seen_call(cx: &Context<'_>, tenant: &str) -> Result<CallSummary, Problem> {
    let storage = cx.state.directory.storage();
    let call = storage.call(tenant, cx.path("id")).await.map_err(failed)?;
    match sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
        true => Ok(call),
        // In the same words as for a call that does not exist.
        false => Err(failed(no_call())),
    }
}

pub(super) fn show<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let shown = with_attempts(cx, &cx.tenant()?, StatusCode::OK).await;
        shown.map_err(failed)?
    })
}

async fn with_attempts(
    cx: &Context<'_>,
    tenant: &Arc<str>,
    status: StatusCode,
) -> Result<Result<http::Response<crate::body::Body>, Problem>, StorageError> {
    let (storage, id) = (cx.state.directory.storage(), cx.path("id"));
    let call = storage.call(tenant, id).await?;
    if !sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
        // In the same words as for a call that does not exist.
        return Ok(Err(failed(no_call())));
    }
    let attempts = storage.call_attempts(tenant, id).await?;
    let document = CallWithAttempts {
        call: view(call),
        attempt_list: attempts.into_iter().map(attempt).collect(),
    };
    Ok(json::reply(status, &document))
}

pub(super) fn redeliver<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let (tenant, id) = (cx.tenant()?, cx.path("id"));
        let storage = cx.storage();
        seen_call(cx, &tenant).await?;
        let done = storage.redeliver_call(&tenant, id, now_ms()).await;
        if !done.map_err(failed)? {
            let detail = "the call has not come to its end yet";
            return Err(Problem::not_sent(Code::Conflict, detail));
        }
        cx.state.deliveries.came_back(&tenant, 1);
        let shown = with_attempts(cx, &tenant, StatusCode::ACCEPTED).await;
        shown.map_err(unshown)?
    })
}

pub(super) fn redeliver_all<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let filter = filter(json::read(&request)?)?;
        let tenant = cx.tenant()?;
        let storage = cx.storage();
        let (redelivered, more) = if cx.principal.scope.given.is_all() {
            let done = storage.redeliver_calls(&tenant, &filter, now_ms(), AT_ONCE);
            let redelivered = done.await.map_err(failed)?;
            (redelivered, redelivered == u64::from(AT_ONCE))
        } else {
            let (ids, more) = seen_ids(cx, &tenant, &filter, Purpose::Redeliver).await?;
            let mut redelivered = 0;
            for id in ids {
                let done = storage.redeliver_call(&tenant, &id, now_ms()).await;
                redelivered += u64::from(done.map_err(failed)?);
            }
            (redelivered, more)
        };
        if redelivered > 0 {
            cx.state.deliveries.came_back(&tenant, redelivered);
        }
        json::reply(StatusCode::ACCEPTED, &Redelivered { redelivered, more })
    })
}

async fn take_back(
    cx: &Context<'_>,
    id: Option<&str>,
    filter: CallFilter,
) -> Result<Cancelled, Problem> {
    let tenant = cx.tenant()?;
    let storage = cx.storage();
    let (mut cancelled, mut cancelling, more);
    if id.is_some() || cx.principal.scope.given.is_all() {
        let done = storage
            .cancel_calls(&tenant, id, &filter, now_ms(), AT_ONCE)
            .await;
        (cancelled, cancelling) = done.map_err(failed)?;
        more = cancelled + cancelling == u64::from(AT_ONCE);
    } else {
        let (ids, has_more) = seen_ids(cx, &tenant, &filter, Purpose::Cancel).await?;
        (cancelled, cancelling, more) = (0, 0, has_more);
        for id in ids {
            let done = storage
                .cancel_calls(&tenant, Some(&id), &filter, now_ms(), 1)
                .await;
            let (ended, will_end) = done.map_err(failed)?;
            cancelled += ended;
            cancelling += will_end;
        }
    }
    if cancelled + cancelling > 0 {
        cx.state.deliveries.taken_back(&tenant, cancelled);
    }
    Ok(Cancelled {
        cancelled,
        cancelling,
        more,
    })
}

pub(super) fn cancel<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let id = cx.path("id");
        seen_call(cx, &cx.tenant()?).await?;
        let done = take_back(cx, Some(id), CallFilter::default()).await?;
        if done.cancelled + done.cancelling == 0 {
            let detail = "the call has come to its end already";
            return Err(Problem::not_sent(Code::Conflict, detail));
        }
        json::reply(StatusCode::OK, &done)
    })
}

pub(super) fn cancel_all<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let filter = filter(json::read(&request)?)?;
        json::reply(StatusCode::OK, &take_back(cx, None, filter).await?)
    })
}
