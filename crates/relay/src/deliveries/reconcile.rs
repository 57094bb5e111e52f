//! Attempts whose response did not arrive: the relay requests their outcome from the bridges.
//!
//! ```text
//! tunnel up:  its journal is the known one, and not older -> every open attempt is sent again,
//!                                                            with the same number
//!             lost or rewound -> the outcome of its attempts is unknown
//! RESULT:     committed, then RESULT_ACK; a known outcome is acknowledged at once
//! rounds:     an open attempt without a task, at a connected installation -> sent again
//!             an installation that was not connected for `instance_lost_after` -> outcome unknown
//! ```
//!
//! Each step may fail with the database, and the engine then repeats it. So the order matters: the calls of
//! a lost journal are settled before the new journal is stored. Otherwise the next try would mistake the new
//! journal for the one that had them.

use super::call_id::call_id;
use super::context::DeliveryContext;
use super::error::EngineError;
use super::in_flight::AttemptLimits;
use super::route::via;
use super::settle::{FinishedAttempt, Settled, settle_all, settlement};
use super::state::AttemptEnd;
use super::{attempt, task};
use crate::registry::TunnelEntry;
use crate::storage::calls::{StoredCall, Via};
use crate::storage::{now_ms, trusted_now_ms};
use protocol::frame::DeliveryResult;
use protocol::{Code, Execution};
use std::collections::HashSet;
use std::sync::Arc;
use transport::Session;

/// Outcomes that are stored in one transaction.
const SETTLED_PER_TRANSACTION: usize = 256;

/// A bridge's report on an attempt: RESULT.
#[derive(Debug)]
pub(super) struct DeliveryReport {
    /// The bridge's tenant.
    pub(super) tenant: Arc<str>,
    /// The installation that authenticated on the session.
    pub(super) via: Via,
    /// The bridge's name.
    pub(super) bridge_name: Arc<str>,
    /// Where the report is acknowledged.
    pub(super) session: Session,
    /// The outcome.
    pub(super) result: DeliveryResult,
}

/// Compares a new tunnel's journal with the stored one. From then on, deliveries go through the tunnel. May
/// be repeated after an error.
pub(super) async fn tunnel_up(
    cx: &Arc<DeliveryContext>,
    entry: &Arc<TunnelEntry>,
) -> Result<(), EngineError> {
    let Some(mark) = entry.journal else {
        return Ok(());
    };
    let deliveries = &cx.deliveries;
    let (storage, via) = (&deliveries.storage, via(entry));
    // Next to another tunnel of the same process, this HELLO may be older than what came through that one:
    // its journal would look rewound. The other tunnel was compared, so this one need not be.
    let others = cx.data.registry.of_tenant(&entry.owner.tenant);
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
                tenant = &*cx.directory.tenant_label(&entry.owner.tenant),
                tenant_id = &*entry.owner.tenant,
                bridge = %entry.owner.name,
                "delivery journal of a bridge was lost or rewound; the outcome of its open attempts is \
                 unknown"
            );
            let detail =
                "the bridge lost its delivery journal, which had the outcome of the attempt";
            let calls = storage.calls_in_flight(&via).await?;
            mark_outcome_unknown(cx, calls, &via, &entry.owner.name, detail).await?;
        }
        storage
            .journal_seen(&entry.owner.tenant, &via, &mark.id, sequence, now_ms())
            .await?;
    }
    for call in storage.calls_in_flight(&via).await? {
        resend(cx, call, entry, &via);
    }
    entry.begin_delivering();
    Ok(())
}

/// Sends the same attempt again, unless it has a task.
fn resend(cx: &Arc<DeliveryContext>, call: StoredCall, entry: &Arc<TunnelEntry>, via: &Via) {
    // Without limits: there are no more open attempts than the installation had permits.
    let in_flight = &cx.deliveries.in_flight;
    let limits = AttemptLimits::UNLIMITED;
    let acquired = in_flight.acquire(&call.id, &call.tenant, via, call.attempt, limits);
    if acquired.is_some() {
        tokio::spawn(task::resend(cx.clone(), call, entry.clone(), via.clone()));
    }
}

/// Settles attempts whose outcome neither side knows.
async fn mark_outcome_unknown(
    cx: &Arc<DeliveryContext>,
    calls: Vec<StoredCall>,
    via: &Via,
    bridge_name: &str,
    detail: &str,
) -> Result<(), EngineError> {
    for calls in calls.chunks(SETTLED_PER_TRANSACTION) {
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
            settlement(cx, finished(call, via.clone(), bridge_name, end))
        });
        for written in settle_all(cx, settlements.collect()).await {
            written?;
        }
    }
    Ok(())
}

fn finished<'a>(
    call: &'a StoredCall,
    via: Via,
    bridge_name: &'a str,
    end: AttemptEnd,
) -> FinishedAttempt<'a> {
    FinishedAttempt {
        call,
        via,
        bridge_name,
        number: call.attempt,
        started_ms: now_ms(),
        took_ms: 0,
        journal_reached: None,
        end,
    }
}

fn is_kept_for_its_task(cx: &DeliveryContext, report: &DeliveryReport) -> bool {
    let id = call_id(report.result.attempt.call);
    let in_flight = &cx.deliveries.in_flight;
    in_flight.deliver_report(
        &id,
        &report.tenant,
        &report.via,
        report.result,
        &report.session,
    )
}

/// Stores reports on attempts that have no task here, and acknowledges what is stored. Returns the tenants
/// that may have due calls now. After an error, `reports` has those that must be handled again.
pub(super) async fn handle_reports(
    cx: &Arc<DeliveryContext>,
    reports: &mut Vec<DeliveryReport>,
) -> Result<Vec<Arc<str>>, EngineError> {
    let storage = &cx.deliveries.storage;
    // An attempt that was sent again meanwhile has a task, which gets the report. If the report were stored
    // and acknowledged here, the bridge could forget the attempt just before the repeated request arrives,
    // and would execute it.
    reports.retain(|report| !is_kept_for_its_task(cx, report));
    // What to store of each report, if anything.
    let mut known = Vec::with_capacity(reports.len());
    let mut unreadable = HashSet::new();
    for (index, report) in reports.iter().enumerate() {
        let attempt = report.result.attempt;
        let id = call_id(attempt.call);
        let call = match storage.stored_call(&id).await.map_err(EngineError::from) {
            Ok(call) => call,
            Err(error) if error.is_local() => {
                tracing::error!(%error, call = id, "cannot read a stored call");
                unreadable.insert(index);
                None
            }
            Err(error) => return Err(error),
        };
        let call =
            call.filter(|call| call.tenant == report.tenant && call.attempt == attempt.attempt);
        known.push(call.and_then(|call| {
            let end = attempt::reported(&report.result);
            // Only the installation that the attempt went to can settle it: the statement checks `via`.
            settlement(
                cx,
                finished(&call, report.via.clone(), &report.bridge_name, end),
            )
        }));
    }
    let is_written: Vec<bool> = known.iter().map(Option::is_some).collect();
    let settlements = known.into_iter().flatten().collect();
    let mut written = settle_all(cx, settlements).await.into_iter();
    let (mut due, mut failed) = (Vec::new(), None);
    for (index, report) in std::mem::take(reports).into_iter().enumerate() {
        let settled = match is_written[index] {
            true => written.next().unwrap_or(Ok(Settled::Unwritten)),
            // Not acknowledged: the outcome stays with its bridge, and the open attempt is sent again.
            false if unreadable.contains(&index) => Ok(Settled::Unwritten),
            // The attempt is settled, or never existed.
            false => Ok(Settled::Stale),
        };
        match settled.map_err(EngineError::from) {
            Ok(settled) => {
                if settled.may_be_acknowledged() {
                    report.session.ack_result(report.result.attempt);
                }
                if settled == Settled::Stored {
                    due.push(report.tenant);
                }
            }
            Err(error) if error.is_local() => {
                tracing::error!(%error, call = call_id(report.result.attempt.call), "cannot store an outcome");
            }
            Err(error) => {
                failed = Some(error);
                reports.push(report);
            }
        }
    }
    match failed {
        // Some may be stored. The next round finds what they made due.
        Some(error) => Err(error),
        None => Ok(due),
    }
}

/// Handles the open attempts of one installation that no event concerns: they are sent again if it is
/// connected, and given up if it is lost. With `stores_presence`, stores that it is connected.
pub(super) async fn check_installation(
    cx: &Arc<DeliveryContext>,
    tenant: &Arc<str>,
    via: &Via,
    stores_presence: bool,
) -> Result<(), EngineError> {
    let deliveries = &cx.deliveries;
    let storage = &deliveries.storage;
    let without_task = |calls: Vec<StoredCall>| {
        let calls = calls.into_iter();
        calls
            .filter(|call| !deliveries.in_flight.has(&call.id))
            .collect::<Vec<_>>()
    };
    if via.bridge.is_empty() {
        // A direct attempt has no journal: without a task here, it ended with its process.
        let detail = "the relay was stopped during the request to the target";
        let calls = without_task(storage.calls_in_flight(via).await?);
        return mark_outcome_unknown(cx, calls, via, "", detail).await;
    }
    let all = cx.data.registry.of_tenant(tenant);
    let connected = all.iter().find(|entry| {
        entry.owner.bridge == via.bridge
            && entry.instance()[..] == via.instance[..]
            && entry.is_delivering()
            && entry.session.is_open()
    });
    if let Some(entry) = connected {
        if stores_presence {
            storage.instance_alive(via, now_ms()).await?;
        }
        for call in storage.calls_in_flight(via).await? {
            resend(cx, call, entry, via);
        }
        return Ok(());
    }
    let lost_after = deliveries.config.instance_lost_after.0.as_millis();
    let lost_after = i64::try_from(lost_after).unwrap_or(i64::MAX);
    let seen = storage.instance_seen(via).await?.unwrap_or(0);
    if trusted_now_ms().saturating_sub(seen) > lost_after {
        let detail = "the bridge that got the attempt was not connected for \
                      deliveries.instance_lost_after";
        let calls = without_task(storage.calls_in_flight(via).await?);
        mark_outcome_unknown(cx, calls, via, "", detail).await?;
    }
    Ok(())
}
