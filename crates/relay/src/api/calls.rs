//! `/v1/calls ...`: calls, to show; stored calls also to deliver again and cancel.

use super::errors::{failed, failed_after_change};
use super::page::{Page, SCANNED_MAX, wrong_cursor};
use super::timestamp::Timestamp;
use super::{Context, Handling, json};
use crate::access::Object;
use crate::deliveries::state::CallState;
use crate::problem::Problem;
use crate::storage::calls::{CallAttemptRow, CallFilter, CallSummary, Purpose, no_call};
use crate::storage::{StorageError, now_ms};
use bytes::Bytes;
use http::{Request, StatusCode};
use protocol::Code;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::iter::Peekable;
use std::sync::Arc;
use std::vec::IntoIter;

/// Calls that one request redelivers or cancels.
const AT_ONCE: u32 = 1000;

/// The same for a narrowed key, whose calls are changed one by one.
const NARROWED_AT_ONCE: usize = 200;

/// Calls that one statement reads to find those that a narrowed key sees.
const SCANNED_AT_ONCE: u32 = 1000;

/// A call, without its URL, header fields and body.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallView {
    /// The call's id, which is also its `webhook-id`.
    id: String,
    /// `wait` (listed in memory for some time) or `deliver` (stored).
    mode: &'static str,
    /// The caller's own name for the call.
    label: Option<String>,
    /// `pending`, `waiting_for_bridge`, `attempting`, `succeeded`, `failed`, `refused`,
    /// `outcome_unknown`, `cancelled` or `expired`.
    state: &'static str,
    /// When the caller submitted it.
    created_at: Timestamp,
    /// The key that submitted it.
    client_id: String,
    /// The request's method.
    method: String,
    /// The URL's host.
    host: String,
    /// The bridge that the caller named.
    bridge: Option<String>,
    /// Whether the relay may repeat the request when its outcome is unknown.
    at_least_once: bool,
    /// Size of the body in bytes.
    bytes: i64,
    /// Number of attempts so far.
    attempts: i64,
    /// When the next attempt is due.
    due_at: Option<Timestamp>,
    /// When it expires unless it was delivered before.
    expires_at: Option<Timestamp>,
    /// When it reached its final state.
    finished_at: Option<Timestamp>,
    /// The target's last status.
    status: Option<i64>,
    /// The code of the last failure.
    code: Option<String>,
    /// Execution status of the last attempt.
    execution: Option<String>,
    /// Human-readable description of the last result.
    detail: Option<String>,
}

/// One attempt.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AttemptView {
    /// Number of the attempt, from 1.
    attempt: i64,
    /// When it started.
    started_at: Timestamp,
    /// Duration in milliseconds.
    took_ms: i64,
    /// `bridge` or `direct`.
    route: String,
    /// The bridge that was used.
    bridge: Option<String>,
    /// The target's status.
    status: Option<i64>,
    /// The code of the failure.
    code: Option<String>,
    /// Execution status.
    execution: String,
    /// Human-readable description of the result.
    detail: String,
}

/// A call with its attempts.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallWithAttempts {
    /// The call.
    #[serde(flatten)]
    call: CallView,
    /// Finished attempts, oldest first: at most the last 1000.
    attempt_list: Vec<AttemptView>,
}

/// A page of calls.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CallPage {
    /// Newest first.
    calls: Vec<CallView>,
    /// Cursor of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// Selects calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CallSelection {
    /// Only calls in this state. Redelivery takes `failed`, `refused`, `outcome_unknown`, `cancelled` and
    /// `expired` calls, and all of them by default. Cancellation takes unfinished calls.
    #[schemars(with = "Option<StateName>")]
    state: Option<String>,
    /// Only calls to this host.
    host: Option<String>,
    /// Only calls submitted at or after this time.
    since: Option<Timestamp>,
    /// Only calls submitted before this time.
    until: Option<Timestamp>,
}

/// A call's state, for the OpenAPI document.
#[derive(JsonSchema)]
#[schemars(rename_all = "snake_case")]
#[expect(dead_code, reason = "only the OpenAPI document uses it")]
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

/// The result of a redelivery.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Redelivered {
    /// Number of calls that are pending again.
    redelivered: u64,
    /// Whether more calls may match: repeat the request.
    more: bool,
}

/// The result of a cancellation.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Cancelled {
    /// Number of calls that are cancelled.
    cancelled: u64,
    /// Number of calls with a running attempt, which no other attempt follows.
    cancelling: u64,
    /// Whether more calls may match: repeat the request.
    more: bool,
}

fn view(call: CallSummary) -> CallView {
    CallView {
        id: call.id,
        mode: match call.is_waited_for {
            true => "wait",
            false => "deliver",
        },
        label: call.label,
        state: call.state.as_str(),
        created_at: Timestamp::Millis(call.created_ms),
        client_id: call.client_id,
        method: call.method,
        host: call.host,
        bridge: call.bridge,
        at_least_once: call.at_least_once,
        bytes: call.bytes,
        attempts: call.attempts,
        due_at: call.due_ms.map(Timestamp::Millis),
        expires_at: call.expires_ms.map(Timestamp::Millis),
        finished_at: call.finished_ms.map(Timestamp::Millis),
        status: call.status,
        code: call.code,
        execution: call.execution,
        detail: call.detail,
    }
}

fn attempt(row: CallAttemptRow) -> AttemptView {
    AttemptView {
        attempt: row.attempt,
        started_at: Timestamp::Millis(row.began_ms),
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

fn filter(selection: CallSelection) -> Result<CallFilter, Problem> {
    Ok(CallFilter {
        state: state_of(selection.state.as_deref())?,
        host: selection.host,
        label: None,
        since_ms: selection.since.map(Timestamp::millis),
        until_ms: selection.until.map(Timestamp::millis),
    })
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let page = Page::of(&cx.query)?;
        let filter = CallFilter {
            state: state_of(cx.query.text("state"))?,
            host: cx.query.text("host").map(str::to_owned),
            label: cx.query.text("label").map(str::to_owned),
            since_ms: cx.query.instant_ms("since")?,
            until_ms: cx.query.instant_ms("until")?,
        };
        let (calls, next_cursor) = visible(cx, &cx.tenant()?, &filter, &page).await?;
        let calls = calls.into_iter().map(view).collect();
        json::reply(StatusCode::OK, &CallPage { calls, next_cursor })
    })
}

/// Returns whether the key sees a stored call.
fn sees(cx: &Context<'_>, host: &str, bridge: Option<&str>, client_id: &str) -> bool {
    cx.principal.scope.sees(Object::StoredCall {
        host,
        bridge,
        is_own: client_id == &*cx.principal.client_id,
    })
}

/// Where a page begins: each list has its own sequence.
#[derive(Debug, Clone, Copy)]
struct Before {
    stored: i64,
    recent: i64,
}

impl Before {
    fn of(page: &Page) -> Result<Self, Problem> {
        let Some(key) = &page.after else {
            return Ok(Self {
                stored: i64::MAX,
                recent: i64::MAX,
            });
        };
        let (stored, recent) = key.split_once('.').ok_or_else(wrong_cursor)?;
        Ok(Self {
            stored: stored.parse().map_err(|_| wrong_cursor())?,
            recent: recent.parse().map_err(|_| wrong_cursor())?,
        })
    }

    fn cursor(self) -> String {
        Page::cursor(&format!("{}.{}", self.stored, self.recent))
    }
}

/// Returns a page of the calls that the key sees, newest first, and the cursor of the next one. Stored calls and calls
/// whose callers waited are merged by the time of their submission.
async fn visible(
    cx: &Context<'_>,
    tenant: &str,
    filter: &CallFilter,
    page: &Page,
) -> Result<(Vec<CallSummary>, Option<String>), Problem> {
    let storage = cx.state.directory.storage();
    let (mut before, mut calls, mut scanned) = (Before::of(page)?, Vec::new(), 0);
    loop {
        let stored = storage.calls(tenant, filter, before.stored, page.rows());
        let (mut stored, has_more_stored) = cut(stored.await.map_err(failed)?, page);
        let recent = &cx.state.recent_calls;
        let recent = recent.page(tenant, filter, before.recent, page.rows());
        let (mut recent, has_more_recent) = cut(recent, page);
        loop {
            let is_stored = match (stored.peek(), recent.peek()) {
                (Some(stored), Some(recent)) => stored.created_ms >= recent.created_ms,
                // The next rows of the other list may be newer, so they are read first.
                (Some(_), None) if !has_more_recent => true,
                (None, Some(_)) if !has_more_stored => false,
                (Some(_), None) | (None, Some(_)) | (None, None) => break,
            };
            if calls.len() == page.limit() {
                return Ok((calls, Some(before.cursor())));
            }
            let (list, sequence) = match is_stored {
                true => (&mut stored, &mut before.stored),
                false => (&mut recent, &mut before.recent),
            };
            let Some(call) = list.next() else { break };
            // Bounded: a narrowed key that sees few calls must not make one request read the whole table.
            scanned += 1;
            *sequence = call.seq;
            if sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
                calls.push(call);
            }
        }
        if !has_more_stored && !has_more_recent {
            return Ok((calls, None));
        }
        if calls.len() == page.limit() || scanned >= SCANNED_MAX {
            return Ok((calls, Some(before.cursor())));
        }
    }
}

/// Cuts rows to a page. Returns whether there are more.
fn cut(mut rows: Vec<CallSummary>, page: &Page) -> (Peekable<IntoIter<CallSummary>>, bool) {
    let has_more = rows.len() > page.limit();
    rows.truncate(page.limit());
    (rows.into_iter().peekable(), has_more)
}

/// Returns the ids of the oldest matching calls that a narrowed key sees, for one bulk request, and whether
/// there may be more.
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
            // Each call is a transaction of its own, so a request changes fewer of them.
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

/// Returns a stored call of the tenant, if the key sees it.
async fn seen_call(cx: &Context<'_>, tenant: &str) -> Result<CallSummary, Problem> {
    let storage = cx.state.directory.storage();
    let id = cx.path("id");
    if let Some(recent) = cx.state.recent_calls.find(tenant, id) {
        let call = &recent.summary;
        if sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
            let detail = "its caller waits or has waited for it (mode wait): it is not stored, so it cannot be \
                          delivered again or cancelled";
            return Err(Problem::not_sent(Code::Conflict, detail));
        }
    }
    let call = storage.call(tenant, id).await.map_err(failed)?;
    match sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
        true => Ok(call),
        // The same text as for an unknown id, so that the response does not reveal that the call exists.
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
    let recent = cx.state.recent_calls.find(tenant, id);
    let (call, attempts) = match recent {
        Some(recent) => (recent.summary, recent.attempt.into_iter().collect()),
        None => {
            let call = storage.call(tenant, id).await?;
            (call, storage.call_attempts(tenant, id).await?)
        }
    };
    if !sees(cx, &call.host, call.bridge.as_deref(), &call.client_id) {
        // The same text as for an unknown id, see `seen_call`.
        return Ok(Err(failed(no_call())));
    }
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
            let detail = "the call is not finished yet";
            return Err(Problem::not_sent(Code::Conflict, detail));
        }
        cx.state.deliveries.calls_redelivered(&tenant, 1);
        let shown = with_attempts(cx, &tenant, StatusCode::ACCEPTED).await;
        shown.map_err(failed_after_change)?
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
            cx.state.deliveries.calls_redelivered(&tenant, redelivered);
        }
        json::reply(StatusCode::ACCEPTED, &Redelivered { redelivered, more })
    })
}

async fn cancel_matching(
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
        // A full batch may have left calls over; a client repeats the request until `more` is false.
        more = cancelled + cancelling == u64::from(AT_ONCE);
    } else {
        // One statement cannot check the scope, since host patterns are not comparable in SQL.
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
        cx.state.deliveries.calls_cancelled(&tenant, cancelled);
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
        // Before the change, so that a key cannot cancel a call that it does not see.
        seen_call(cx, &cx.tenant()?).await?;
        let done = cancel_matching(cx, Some(id), CallFilter::default()).await?;
        if done.cancelled + done.cancelling == 0 {
            let detail = "the call is already finished";
            return Err(Problem::not_sent(Code::Conflict, detail));
        }
        json::reply(StatusCode::OK, &done)
    })
}

pub(super) fn cancel_all<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let filter = filter(json::read(&request)?)?;
        json::reply(StatusCode::OK, &cancel_matching(cx, None, filter).await?)
    })
}
