//! The task of one attempt: committed before it leaves, made, and its outcome written down.

use super::attempt;
use super::request::StoredRequest;
use super::settle::{Ended, Settled, settle};
use super::state::AttemptEnd;
use super::way::Way;
use super::{context, id::call_bytes};
use crate::registry::TunnelEntry;
use crate::state::State;
use crate::storage::calls::{StoredCall, Via, Write, Written};
use crate::storage::{WriteError, now, now_ms};
use opentelemetry::trace::SpanKind;
use protocol::frame::CallAttempt;
use protocol::{Code, Failure};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that is there before a stored request is read, whose size is not known then.
const BEFORE_READING_BYTES: u64 = 64 * 1024;

/// After a failure of the database.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// A new attempt: committed before it leaves.
pub(super) async fn first(state: Arc<State>, call: StoredCall, way: Way, via: Via, at: Instant) {
    tokio::time::sleep_until(at.into()).await;
    let number = call.attempt + 1;
    if begin(&state, &call, &via, number).await {
        attempt(&state, &call, &way, &via, number, true).await;
    } else {
        state.deliveries.running.over(&call.id, false);
    }
    over(&state, &call, &via);
}

/// Commits that the attempt begins. An error of the commit itself leaves open whether it is there, so it is
/// made again until the database says.
async fn begin(state: &State, call: &StoredCall, via: &Via, number: u32) -> bool {
    loop {
        let begin = Write::Begin {
            id: call.id.clone(),
            attempt: number,
            via: via.clone(),
            now_ms: now_ms(),
        };
        match state.deliveries.batch.write(begin).await {
            // If not, it was cancelled meanwhile.
            Ok(written) => return written == Written::Changed(true),
            // Another process finds what was begun, if it was.
            Err(WriteError::LeaseLost | WriteError::Closed) => return false,
            Err(WriteError::Store(error)) => {
                tracing::warn!(%error, call = %call.id, "an attempt could not be begun");
                tokio::time::sleep(AGAIN_AFTER_FAILURE).await;
            }
        }
    }
}

/// The same attempt again, at the installation that has it.
pub(super) async fn again(state: Arc<State>, call: StoredCall, entry: Arc<TunnelEntry>, via: Via) {
    let number = call.attempt;
    let storage = &state.deliveries.storage;
    // It may have been settled, and acknowledged, since it was looked up: sent now, it would be a new one
    // for its bridge. From `enter` on, nothing but this task settles it.
    match storage.is_attempting(&call.id, number, &via).await {
        Ok(true) => attempt(&state, &call, &Way::Bridge(entry), &via, number, false).await,
        Ok(false) => state.deliveries.running.over(&call.id, true),
        Err(error) => {
            tracing::debug!(%error, call = %call.id, "an attempt cannot be sent again now");
            state.deliveries.running.over(&call.id, false);
        }
    }
    over(&state, &call, &via);
}

fn over(state: &State, call: &StoredCall, via: &Via) {
    state.deliveries.running.leave(via);
    state.deliveries.inbox.due(&call.tenant);
}

/// Makes an attempt that is on disk, and writes down what follows.
async fn attempt(
    state: &Arc<State>,
    call: &StoredCall,
    way: &Way,
    via: &Via,
    number: u32,
    is_first: bool,
) {
    let running = &state.deliveries.running;
    let (began_ms, began) = (now_ms(), Instant::now());
    let mut end = match make(state, call, way, number).await {
        Ok(end) => end,
        Err(failure) => attempt::failed(failure),
    };
    // Sent again, only the journal's word counts: that this question came to nothing says nothing of
    // the attempt, which may have been made when it was sent first.
    end.is_open |= !is_first && !attempt::is_word(&end);
    if end.is_open {
        match running.heard_or_gone(&call.id) {
            Some(heard) => end = attempt::told(&heard),
            // The row says where it is: RESULT settles it, or its bridge is asked again.
            None => return,
        }
    }
    let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let ended = Ended {
        call,
        via: via.clone(),
        bridge_name: &way.name(),
        number,
        began_ms,
        took_ms,
        // One that is made again was in the journal before.
        journal_reached: match way {
            Way::Bridge(entry) if is_first && end.status.is_some() => entry.journal_reached(),
            Way::Bridge(_) | Way::Direct => None,
        },
        end,
    };
    let settled: Settled = settle(state, ended).await;
    running.over(&call.id, settled.may_be_acknowledged());
}

async fn make(
    state: &Arc<State>,
    call: &StoredCall,
    way: &Way,
    number: u32,
) -> Result<AttemptEnd, Failure> {
    let deliveries = &state.deliveries;
    // Not the call's fault, and no reason to give it up: another key file may be in place.
    let internal = |what: &str| {
        tracing::error!(call = %call.id, what, "a stored call cannot be read");
        Failure::not_sent(Code::Internal, "the stored call cannot be read")
    };
    let unavailable = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, call = %call.id, "a stored call cannot be read now");
        Failure::not_sent(Code::Overloaded, "the database does not answer")
    };
    // Held until the attempt is over, in the tenant's own share: a target that is slow to take the bodies of
    // one tenant does not use up the memory of others.
    let tenant_name = state.directory.tenant_name(&call.tenant);
    let tenant_name = tenant_name.unwrap_or_default();
    let place = state.exchanges.begin_delivery(&call.tenant, &tenant_name);
    let mut memory = place.reservation();
    memory
        .grow_to(BEFORE_READING_BYTES, BEFORE_READING_BYTES)
        .await;
    let sealed = deliveries.storage.sealed_request(&call.id).await;
    let sealed = sealed.map_err(|error| unavailable(&error))?;
    let bytes = sealed.len() as u64;
    memory.grow_to(bytes, bytes).await;
    memory.shrink_to(bytes);
    let key = deliveries.vault.of_tenant(&call.tenant).await;
    let key = key.map_err(|error| unavailable(&error))?;
    let plain = key.open(&context(&call.id), sealed);
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
    let mut span = state.span("deliver", SpanKind::Client, &headers);
    if let Some(span) = &mut span {
        span.set("http.request.method", call.method.clone());
        span.set("server.address", call.host.clone());
        span.set("bridge.call", call.id.clone());
        span.set("bridge.attempt", i64::from(number.attempt));
    }
    let end = match way {
        Way::Bridge(entry) => {
            attempt::through(state, entry, number, &call.method, request, &headers).await
        }
        Way::Direct => {
            let tenant = call.tenant.clone();
            let memory = memory.sibling();
            attempt::directly(state, tenant, &call.method, request, headers, memory).await
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
