//! What bridges know of attempts whose answer did not come.
//!
//! ```text
//! tunnel up:  its journal is the one we know, and not behind -> every attempt that it has is sent
//!                                                               again, with the same number
//!             lost or rewound -> nobody can say what became of them
//! RESULT:     committed, then RESULT_ACK; what is known already is acknowledged at once
//! rounds:     an installation without a sign of it for a day -> nobody can say
//! ```

use super::attempt;
use super::engine::{again, call_id};
use super::settle::{Ended, settle};
use super::state::AttemptEnd;
use crate::registry::Entry;
use crate::state::State;
use crate::storage::calls::{StoredCall, Via};
use crate::storage::{StorageError, now_ms};
use protocol::frame::DeliveryResult;
use protocol::{Code, Execution};
use std::sync::Arc;
use transport::Session;

/// A bridge's word.
pub(super) struct Heard<'a> {
    pub(super) tenant: &'a Arc<str>,
    pub(super) via: Via,
    pub(super) bridge_name: &'a str,
    pub(super) session: Session,
    pub(super) result: DeliveryResult,
}

fn via(entry: &Entry) -> Via {
    Via {
        bridge: entry.owner.bridge.clone(),
        instance: entry.instance().to_vec(),
    }
}

/// Holds a new tunnel's journal against what is known of it; from here on, deliveries may go
/// through.
pub(super) async fn tunnel_up(state: &Arc<State>, entry: &Arc<Entry>) -> Result<(), StorageError> {
    let Some(mark) = entry.journal else {
        return Ok(());
    };
    let deliveries = &state.deliveries;
    let (storage, via) = (&deliveries.storage, via(entry));
    // Beside another tunnel of the same process its HELLO may be older than what came through that.
    let others = state.registry.of_tenant(&entry.owner.tenant);
    let has_other = others.iter().any(|other| {
        !Arc::ptr_eq(other, entry)
            && other.owner.bridge == entry.owner.bridge
            && other.instance() == entry.instance()
            && other.is_delivering()
            && other.session.is_open()
            && other.journal.is_some_and(|known| known.id == mark.id)
    });
    let sequence = i64::try_from(mark.sequence).unwrap_or(i64::MAX);
    let holds = if has_other {
        true
    } else {
        storage
            .journal_seen(&entry.owner.tenant, &via, &mark.id, sequence, now_ms())
            .await?
    };
    if !holds {
        tracing::warn!(
            tenant = %entry.owner.tenant,
            bridge = %entry.owner.name,
            "the bridge's journal of deliveries was lost or is older than it was: what was on its \
             way there has an unknown outcome"
        );
    }
    for call in storage.calls_in_flight(&via).await? {
        if holds {
            ask_again(state, call, entry, &via);
        } else {
            let detail = "the bridge's journal was lost, and with it what became of the attempt";
            nobody_knows(state, &call, via.clone(), &entry.owner.name, detail).await;
        }
    }
    entry.begin_delivering();
    Ok(())
}

/// Sends the same attempt again, unless it runs.
fn ask_again(state: &Arc<State>, call: StoredCall, entry: &Arc<Entry>, via: &Via) {
    // What was on its way is not held up: there are no more than the lane had places.
    let entered = state
        .deliveries
        .running
        .enter(&call.id, via, u32::MAX, u32::MAX);
    if entered.is_some() {
        tokio::spawn(again(state.clone(), call, entry.clone(), via.clone()));
    }
}

/// Nobody can say what became of an attempt.
async fn nobody_knows(
    state: &Arc<State>,
    call: &StoredCall,
    via: Via,
    bridge_name: &str,
    detail: &str,
) {
    let end = AttemptEnd {
        status: None,
        code: Some(Code::TunnelLost),
        execution: Execution::PossiblyExecuted,
        detail: detail.to_owned(),
        retry_after: None,
        is_open: false,
    };
    over(state, call, via, bridge_name, end).await;
}

async fn over(
    state: &Arc<State>,
    call: &StoredCall,
    via: Via,
    bridge_name: &str,
    end: AttemptEnd,
) -> bool {
    let ended = Ended {
        call,
        via,
        bridge_name,
        number: call.attempt,
        began_ms: now_ms(),
        took_ms: 0,
        journal_reached: None,
        end,
    };
    settle(state, ended).await
}

/// A bridge tells what became of an attempt. Returns whether something is due by it.
pub(super) async fn result(state: &Arc<State>, heard: Heard<'_>) -> Result<bool, StorageError> {
    let attempt = heard.result.attempt;
    let id = call_id(attempt.call);
    let deliveries = &state.deliveries;
    if deliveries.running.hear(&id, heard.result, &heard.session) {
        return Ok(false);
    }
    let call = deliveries.storage.stored_call(&id).await?;
    let call = call.filter(|call| call.tenant == *heard.tenant && call.attempt == attempt.attempt);
    let mut settled = false;
    if let Some(call) = call {
        let end = attempt::told(&heard.result);
        settled = over(state, &call, heard.via, heard.bridge_name, end).await;
    }
    heard.session.ack_result(attempt);
    Ok(settled)
}

/// What no event tells: installations that are there and were not asked, and those that are gone.
pub(super) async fn round(state: &Arc<State>) -> Result<(), StorageError> {
    let deliveries = &state.deliveries;
    let storage = &deliveries.storage;
    let lost_after = deliveries.config.instance_lost_after.0.as_millis();
    let lost_after = i64::try_from(lost_after).unwrap_or(i64::MAX);
    for (tenant, via) in storage.instances_in_flight().await? {
        if via.bridge.is_empty() {
            // Direct ones have no journal: those that do not run here ended with their process.
            let detail = "the relay was stopped while the target was asked";
            for call in storage.calls_in_flight(&via).await? {
                if !deliveries.running.has(&call.id) {
                    nobody_knows(state, &call, via.clone(), "", detail).await;
                }
            }
            continue;
        }
        let all = state.registry.of_tenant(&tenant);
        let here = all.iter().find(|entry| {
            entry.owner.bridge == via.bridge
                && entry.instance()[..] == via.instance[..]
                && entry.is_delivering()
                && entry.session.is_open()
        });
        if let Some(entry) = here {
            storage.instance_alive(&via, now_ms()).await?;
            for call in storage.calls_in_flight(&via).await? {
                ask_again(state, call, entry, &via);
            }
            continue;
        }
        let seen = storage.instance_seen(&via).await?.unwrap_or(0);
        if now_ms().saturating_sub(seen) > lost_after {
            let detail = "the bridge that had it has not been seen for too long";
            for call in storage.calls_in_flight(&via).await? {
                if !deliveries.running.has(&call.id) {
                    nobody_knows(state, &call, via.clone(), "", detail).await;
                }
            }
        }
    }
    Ok(())
}
