//! The task of one attempt: committed before it leaves, executed, and its outcome stored.

use super::attempt;
use super::call_id::call_bytes;
use super::context::DeliveryContext;
use super::request::StoredRequest;
use super::route::Route;
use super::seal_context;
use super::settle::{FinishedAttempt, settle};
use super::state::AttemptEnd;
use crate::registry::TunnelEntry;
use crate::request_name::RequestName;
use crate::storage::calls::{StoredCall, Via, Write, Written};
use crate::storage::{WriteError, now, now_ms};
use opentelemetry::trace::SpanKind;
use protocol::frame::CallAttempt;
use protocol::{Code, Failure};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory reserved before a stored request is read, when its size is still unknown.
const BEFORE_READING_BYTES: u64 = 64 * 1024;

/// Pause after an error of the database.
const ERROR_DELAY: Duration = Duration::from_secs(1);

/// Makes a new attempt: committed before it leaves.
pub(super) async fn first(
    cx: Arc<DeliveryContext>,
    call: StoredCall,
    route: Route,
    via: Via,
    start_at: Instant,
) {
    // The rate limit of the installation, see `InstallationLimiter::acquire`.
    tokio::time::sleep_until(start_at.into()).await;
    let number = call.attempt + 1;
    if commit_start(&cx, &call, &via, number).await {
        run(&cx, &call, &route, &via, number, true).await;
    } else {
        cx.deliveries.in_flight.finish(&call.id, false);
    }
    release(&cx, &call, &via);
}

/// Commits that the attempt starts. After an error of the commit it is unknown whether it took effect, so
/// the same write is repeated until the database responds; it has an effect only once.
async fn commit_start(cx: &DeliveryContext, call: &StoredCall, via: &Via, number: u32) -> bool {
    loop {
        let write = Write::Begin {
            id: call.id.clone(),
            attempt: number,
            via: via.clone(),
            now_ms: now_ms(),
        };
        match cx.deliveries.batch.write(write).await {
            // Nothing was changed if the call was cancelled meanwhile.
            Ok(written) => return written == Written::Changed(true),
            // If it took effect, the process that holds the lease finds an open attempt.
            Err(WriteError::LeaseLost | WriteError::Closed) => return false,
            Err(WriteError::Store(error)) => {
                tracing::warn!(%error, call = %call.id, "cannot store the start of an attempt yet");
                tokio::time::sleep(ERROR_DELAY).await;
            }
        }
    }
}

/// Sends the same attempt again, to the installation that has it.
pub(super) async fn resend(
    cx: Arc<DeliveryContext>,
    call: StoredCall,
    entry: Arc<TunnelEntry>,
    via: Via,
) {
    let number = call.attempt;
    let storage = &cx.deliveries.storage;
    // The attempt may have been settled and acknowledged since the engine read it. The bridge may then have
    // forgotten it, and would execute it as a new one. From `acquire` on only this task settles it, so this
    // check holds.
    match storage.is_attempting(&call.id, number, &via).await {
        Ok(true) => run(&cx, &call, &Route::Bridge(entry), &via, number, false).await,
        Ok(false) => cx.deliveries.in_flight.finish(&call.id, true),
        Err(error) => {
            tracing::debug!(%error, call = %call.id, "cannot send an attempt again now");
            cx.deliveries.in_flight.finish(&call.id, false);
        }
    }
    release(&cx, &call, &via);
}

fn release(cx: &DeliveryContext, call: &StoredCall, via: &Via) {
    cx.deliveries.in_flight.release(via);
    // After the permit is free, so that the engine finds it.
    cx.deliveries.inbox.due(&call.tenant);
}

/// Executes an attempt that is on disk, and stores what follows.
async fn run(
    cx: &Arc<DeliveryContext>,
    call: &StoredCall,
    route: &Route,
    via: &Via,
    number: u32,
    is_first: bool,
) {
    let in_flight = &cx.deliveries.in_flight;
    let (started_ms, started) = (now_ms(), Instant::now());
    let mut end = match execute(cx, call, route, number).await {
        Ok(end) => end,
        Err(failure) => attempt::failed(failure),
    };
    // Only the journal's outcome counts for an attempt that was sent again. The failure of this request
    // proves nothing about the first one, which the target may have executed.
    end.is_open |= !is_first && !attempt::is_authoritative(&end);
    if end.is_open {
        match in_flight.take_report_or_remove(&call.id) {
            Some(report) => end = attempt::reported(&report),
            // The row shows where the attempt is: RESULT settles it, or the engine sends it again.
            None => return,
        }
    }
    let took_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let finished = FinishedAttempt {
        call,
        via: via.clone(),
        bridge_name: &route.bridge_name(),
        number,
        started_ms,
        took_ms,
        // An attempt that was sent again was in the journal before, so it proves no further position.
        journal_reached: match route {
            Route::Bridge(entry) if is_first && end.status.is_some() => entry.journal_reached(),
            Route::Bridge(_) | Route::Direct => None,
        },
        end,
    };
    let settled = settle(cx, finished).await;
    in_flight.finish(&call.id, settled.may_be_acknowledged());
}

async fn execute(
    cx: &Arc<DeliveryContext>,
    call: &StoredCall,
    route: &Route,
    number: u32,
) -> Result<AttemptEnd, Failure> {
    let deliveries = &cx.deliveries;
    // `internal` is retried: the call is not at fault, and the right key file may come back.
    let internal = |what: &str| {
        tracing::error!(call = %call.id, what, "cannot read a stored call");
        Failure::not_sent(Code::Internal, "the stored call cannot be read")
    };
    let unavailable = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, call = %call.id, "cannot read a stored call now");
        Failure::not_sent(Code::Overloaded, "the database does not respond")
    };
    // Held until the attempt ends, in the tenant's own share: slow targets of one tenant cannot use up the
    // memory of others.
    let tenant_name = cx.directory.tenant_name(&call.tenant);
    let tenant_name = tenant_name.unwrap_or_default();
    let permit = cx.data.exchanges.begin_delivery(&call.tenant, &tenant_name);
    let mut memory = permit.reservation();
    memory
        .grow_to(BEFORE_READING_BYTES, BEFORE_READING_BYTES)
        .await;
    let sealed = deliveries.storage.sealed_request(&call.id).await;
    let sealed = sealed.map_err(|error| unavailable(&error))?;
    let bytes = sealed.len() as u64;
    // Waits instead of failing: an attempt may come later, but must not use a step for our lack of memory.
    memory.grow_to(bytes, bytes).await;
    memory.shrink_to(bytes);
    let key = deliveries.vault.of_tenant(&call.tenant).await;
    let key = key.map_err(|error| unavailable(&error))?;
    let plain = key.open(&seal_context(&call.id), sealed);
    let plain = plain.map_err(|_| internal("seal"))?;
    let request = StoredRequest::decode(plain).ok_or_else(|| internal("encoding"))?;
    let given = transport::http::from_wire(&request.headers).map_err(|_| internal("headers"))?;
    let secrets = deliveries.signers(&call.tenant).await;
    let secrets = secrets.map_err(|error| unavailable(&error))?;
    let headers = attempt::headers(&given, &secrets, &call.id, now(), &request.body);
    let id = call_bytes(&call.id).ok_or_else(|| internal("id"))?;
    let number = CallAttempt {
        call: id,
        attempt: number,
    };
    let mut span = cx.data.span("deliver", SpanKind::Client, &headers);
    if let Some(span) = &mut span {
        span.set("http.request.method", call.method.clone());
        span.set("server.address", call.host.clone());
        span.set("bridge.call", call.id.clone());
        span.set("bridge.attempt", i64::from(number.attempt));
    }
    let end = match route {
        Route::Bridge(entry) => {
            let name = RequestName::new(call.id.to_string());
            // A stored label was checked when the call was accepted.
            let name = match &call.label {
                Some(label) => name.clone().labelled(label).unwrap_or(name),
                None => name,
            };
            let sent = (&headers, &name);
            attempt::through(cx, entry, number, &call.method, request, sent).await
        }
        Route::Direct => {
            let tenant = call.tenant.clone();
            // The response of a direct call needs memory of its own, from the same share.
            let memory = memory.sibling();
            attempt::directly(cx, tenant, &call.method, request, headers, memory).await
        }
    };
    if let Some(mut span) = span {
        match (end.status, end.code) {
            (Some(status), None) => span.answered(status),
            (_, code) => span.failed(&Failure::new(
                code.unwrap_or(Code::Internal),
                end.execution,
                "",
            )),
        }
    }
    Ok(end)
}
