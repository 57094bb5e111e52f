//! What bridges know of attempts whose response did not come.
//!
//! ```text
//! tunnel up:  its journal is the one we know, and not behind -> every attempt that it has is sent
//!                                                               again, with the same number
//!             lost or rewound -> nobody can say what became of them
//! RESULT:     committed, then RESULT_ACK; what is known already is acknowledged at once
//! rounds:     an attempt that does not run, at an installation that is here -> sent again
//!             an installation without a sign of it for a day -> nobody can say
//! ```
//!
//! Each step may fail with the database, and is then taken again by the engine. So the order matters: the
//! calls that a lost journal had are settled before the new journal is noted, or the next try would take
//! the new journal for the one that had them.

use super::attempt;
use super::engine::EngineError;
use super::running::Room;
use super::settle::{Ended, Settled, settle_all, settlement};
use super::state::AttemptEnd;
use super::{id::call_id, task::again};
use crate::control_plane::ControlPlane;
use crate::registry::TunnelEntry;
use crate::storage::calls::{StoredCall, Via};
use crate::storage::now_ms;
use protocol::frame::DeliveryResult;
use protocol::{Code, Execution};
use std::collections::HashSet;
use std::sync::Arc;
use transport::Session;

/// Outcomes that are written in one go.
const SETTLED_AT_ONCE: usize = 256;

/// A bridge says what became of an attempt.
#[derive(Debug)]
pub(super) struct Heard {
    /// Whose bridge it is.
    pub(super) tenant: Arc<str>,
    /// The installation that proved itself on the session.
    pub(super) via: Via,
    /// The bridge's name.
    pub(super) bridge_name: Arc<str>,
    /// Where to acknowledge.
    pub(super) session: Session,
    /// What it says.
    pub(super) result: DeliveryResult,
}

fn via(entry: &TunnelEntry) -> Via {
    Via {
        bridge: entry.owner.bridge.clone(),
        instance: entry.instance().to_vec(),
    }
}

/// Compares a new tunnel's journal with what is known of it; from here on, deliveries may go through. May
/// be repeated after an error.
pub(super) async fn tunnel_up(
    state: &Arc<ControlPlane>,
    entry: &Arc<TunnelEntry>,
) -> Result<(), EngineError> {
    let Some(mark) = entry.journal else {
        return Ok(());
    };
    let deliveries = &state.deliveries;
    let (storage, via) = (&deliveries.storage, via(entry));
    // Beside another tunnel of the same process its HELLO may be older than what came through that.
    let others = state.data.registry.of_tenant(&entry.owner.tenant);
    let has_other = others.iter().any(|other| {
        !Arc::ptr_eq(other, entry)
            && other.owner.bridge == entry.owner.bridge
            && other.instance() == entry.instance()
            && other.is_delivering()
            && other.session.is_open()
            && other.journal.is_some_and(|known| known.id == mark.id)
    });
    if !has_other {
        let sequence = i64::try_from(mark.sequence).unwrap_or(i64::MAX);
        let holds = storage.journal_holds(&via, &mark.id, sequence).await?;
        if !holds {
            tracing::warn!(
                tenant = %entry.owner.tenant,
                bridge = %entry.owner.name,
                "the bridge's journal of deliveries was lost or is older than it was: what was on its \
                 way there has an unknown outcome"
            );
            let detail = "the bridge's journal was lost, and with it what became of the attempt";
            let calls = storage.calls_in_flight(&via).await?;
            nobody_knows(state, calls, &via, &entry.owner.name, detail).await?;
        }
        storage
            .journal_seen(&entry.owner.tenant, &via, &mark.id, sequence, now_ms())
            .await?;
    }
    for call in storage.calls_in_flight(&via).await? {
        ask_again(state, call, entry, &via);
    }
    entry.begin_delivering();
    Ok(())
}

/// Sends the same attempt again, unless it runs.
fn ask_again(state: &Arc<ControlPlane>, call: StoredCall, entry: &Arc<TunnelEntry>, via: &Via) {
    // What was on its way is not held up: there are no more than the lane had places.
    let running = &state.deliveries.running;
    let entered = running.enter(&call.id, &call.tenant, via, call.attempt, Room::UNLIMITED);
    if entered.is_some() {
        tokio::spawn(again(state.clone(), call, entry.clone(), via.clone()));
    }
}

/// No side knows what became of these attempts.
async fn nobody_knows(
    state: &Arc<ControlPlane>,
    calls: Vec<StoredCall>,
    via: &Via,
    bridge_name: &str,
    detail: &str,
) -> Result<(), EngineError> {
    for calls in calls.chunks(SETTLED_AT_ONCE) {
        let settlements = calls.iter().filter_map(|call| {
            let end = AttemptEnd {
                status: None,
                code: Some(Code::TunnelLost),
                execution: Execution::PossiblyExecuted,
                detail: detail.to_owned(),
                retry_after: None,
                is_open: false,
                is_misrouted: false,
            };
            settlement(state, over(call, via.clone(), bridge_name, end))
        });
        for written in settle_all(state, settlements.collect()).await {
            written?;
        }
    }
    Ok(())
}

fn over<'a>(call: &'a StoredCall, via: Via, bridge_name: &'a str, end: AttemptEnd) -> Ended<'a> {
    Ended {
        call,
        via,
        bridge_name,
        number: call.attempt,
        began_ms: now_ms(),
        took_ms: 0,
        journal_reached: None,
        end,
    }
}

fn is_kept_for_its_task(state: &ControlPlane, heard: &Heard) -> bool {
    let id = call_id(heard.result.attempt.call);
    let running = &state.deliveries.running;
    running.hear(&id, &heard.tenant, &heard.via, heard.result, &heard.session)
}

/// Stores what bridges say became of attempts that do not run here, and acknowledges what is stored.
/// Returns the tenants of which something is due by it. After an error, `heard` has what is to be handled
/// again.
pub(super) async fn results(
    state: &Arc<ControlPlane>,
    heard: &mut Vec<Heard>,
) -> Result<Vec<Arc<str>>, EngineError> {
    let storage = &state.deliveries.storage;
    // One that runs by now, because it was sent again, is for its own task: stored and acknowledged here, the
    // bridge could forget it just before the repeat arrives, and execute that.
    heard.retain(|one| !is_kept_for_its_task(state, one));
    // What is to be written of each, if anything.
    let mut known = Vec::with_capacity(heard.len());
    let mut unreadable = HashSet::new();
    for (index, one) in heard.iter().enumerate() {
        let attempt = one.result.attempt;
        let id = call_id(attempt.call);
        let call = match storage.stored_call(&id).await.map_err(EngineError::from) {
            Ok(call) => call,
            Err(error) if error.is_local() => {
                tracing::error!(%error, call = id, "a stored call cannot be read");
                unreadable.insert(index);
                None
            }
            Err(error) => return Err(error),
        };
        let call = call.filter(|call| call.tenant == one.tenant && call.attempt == attempt.attempt);
        known.push(call.and_then(|call| {
            let end = attempt::told(&one.result);
            // Only the installation that the attempt went to can settle it: the statement says so.
            settlement(state, over(&call, one.via.clone(), &one.bridge_name, end))
        }));
    }
    let is_written: Vec<bool> = known.iter().map(Option::is_some).collect();
    let settlements = known.into_iter().flatten().collect();
    let mut written = settle_all(state, settlements).await.into_iter();
    let (mut due, mut failed) = (Vec::new(), None);
    for (index, one) in std::mem::take(heard).into_iter().enumerate() {
        let settled = match is_written[index] {
            true => written.next().unwrap_or(Ok(Settled::Unwritten)),
            // It stays with its bridge, which is asked again as long as the attempt is open.
            false if unreadable.contains(&index) => Ok(Settled::Unwritten),
            // Of an attempt that is none any more.
            false => Ok(Settled::Stale),
        };
        match settled.map_err(EngineError::from) {
            Ok(settled) => {
                if settled.may_be_acknowledged() {
                    one.session.ack_result(one.result.attempt);
                }
                if settled == Settled::Stored {
                    due.push(one.tenant);
                }
            }
            Err(error) if error.is_local() => {
                tracing::error!(%error, call = call_id(one.result.attempt.call), "an outcome cannot be stored");
            }
            Err(error) => {
                failed = Some(error);
                heard.push(one);
            }
        }
    }
    match failed {
        // Those that are stored count, too: the next round finds what is due by them.
        Some(error) => Err(error),
        None => Ok(due),
    }
}

/// What no event tells of one installation: its attempts that do not run are sent again where it is
/// here, and given up where it is gone for good. With `notes`, it is noted that it is here.
pub(super) async fn installation(
    state: &Arc<ControlPlane>,
    tenant: &Arc<str>,
    via: &Via,
    notes: bool,
) -> Result<(), EngineError> {
    let deliveries = &state.deliveries;
    let storage = &deliveries.storage;
    let not_running = |calls: Vec<StoredCall>| {
        let calls = calls.into_iter();
        calls
            .filter(|call| !deliveries.running.has(&call.id))
            .collect::<Vec<_>>()
    };
    if via.bridge.is_empty() {
        // Direct ones have no journal: those that do not run here ended with their process.
        let detail = "the relay was stopped while the target was asked";
        let calls = not_running(storage.calls_in_flight(via).await?);
        return nobody_knows(state, calls, via, "", detail).await;
    }
    let all = state.data.registry.of_tenant(tenant);
    let here = all.iter().find(|entry| {
        entry.owner.bridge == via.bridge
            && entry.instance()[..] == via.instance[..]
            && entry.is_delivering()
            && entry.session.is_open()
    });
    if let Some(entry) = here {
        if notes {
            storage.instance_alive(via, now_ms()).await?;
        }
        for call in storage.calls_in_flight(via).await? {
            ask_again(state, call, entry, via);
        }
        return Ok(());
    }
    let lost_after = deliveries.config.instance_lost_after.0.as_millis();
    let lost_after = i64::try_from(lost_after).unwrap_or(i64::MAX);
    let seen = storage.instance_seen(via).await?.unwrap_or(0);
    if now_ms().saturating_sub(seen) > lost_after {
        let detail = "the bridge that had it has not been seen for too long";
        let calls = not_running(storage.calls_in_flight(via).await?);
        nobody_knows(state, calls, via, "", detail).await?;
    }
    Ok(())
}
