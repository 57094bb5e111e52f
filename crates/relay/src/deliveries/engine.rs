//! Who is due, and which way is there: the one task that begins attempts.
//!
//! It works while this process is active (`crate::serving`), keeps in memory when each tenant's next call
//! is due, and asks the database only for those whose time has come. Attempts are tasks of their
//! own; they tell when they are over.

use super::settle::{Ended, settle};
use super::state::{AttemptEnd, CallState};
use super::way::{Way, tunnel_for, way};
use super::{Deliveries, attempt, context, reconcile};
use crate::registry::Entry;
use crate::state::State;
use crate::storage::batch::WriteError;
use crate::storage::calls::{StoredCall, Via, Write, Written};
use crate::storage::{now, now_ms};
use opentelemetry::trace::SpanKind;
use protocol::frame::{CallAttempt, DeliveryResult};
use protocol::{Code, Failure};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use transport::Session;

/// After the engine has failed or lost the lease.
const WORK_AGAIN: Duration = Duration::from_millis(500);

/// How often the engine looks around by itself: for what was missed, for installations that are
/// gone for good, and for what is to be forgotten.
const ROUND_EVERY: Duration = Duration::from_secs(30);

/// Calls that are looked at in one go, and goes for one tenant before others have theirs.
const PAGE: u32 = 128;

/// Calls that are moved to or from waiting in one transaction.
const MOVED_AT_ONCE: u32 = 500;

/// Calls that are forgotten in one transaction.
const FORGOTTEN_AT_ONCE: u32 = 500;

/// After a failure of the database.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What happens outside of the engine.
#[derive(Debug)]
pub(super) enum Event {
    /// Something of a tenant may be due.
    Due(Arc<str>),
    /// A tunnel is up.
    Up(Arc<Entry>),
    /// A tenant's tunnels, or what they serve, have changed.
    Ways(Arc<str>),
    /// A bridge tells what became of an attempt.
    Result {
        /// Whose bridge it is.
        tenant: Arc<str>,
        /// The installation.
        via: Via,
        /// The bridge's name.
        bridge_name: Arc<str>,
        /// Where to acknowledge.
        session: Session,
        /// What it tells.
        result: DeliveryResult,
    },
}

/// Delivers until the relay stops.
pub async fn run(state: Arc<State>) {
    let deliveries = state.deliveries.clone();
    let taken = deliveries
        .engine
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take();
    let Some(mut events) = taken else { return };
    loop {
        // What was known before may have changed while another process served.
        let epoch = state.serving.active().await;
        let mut engine = Engine {
            state: state.clone(),
            deliveries: deliveries.clone(),
            due: HashMap::new(),
        };
        tokio::select! {
            worked = engine.work(&mut events) => if let Err(error) = worked {
                tracing::warn!(%error, "deliveries pause: the database does not answer");
            },
            () = state.serving.ended(epoch) => {}
        }
        tokio::time::sleep(WORK_AGAIN).await;
    }
}

struct Engine {
    state: Arc<State>,
    deliveries: Arc<Deliveries>,
    /// When each tenant's next pending call is due, in milliseconds since 1970.
    due: HashMap<Arc<str>, i64>,
}

impl Engine {
    /// Works until the database fails. Dropped when the lease is lost.
    async fn work(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
    ) -> Result<(), crate::storage::StorageError> {
        self.round().await?;
        let mut round = tokio::time::interval(ROUND_EVERY);
        round.reset();
        loop {
            let next = self.due.values().min().copied();
            let wait = next.map_or(ROUND_EVERY, |due| {
                Duration::from_millis(u64::try_from(due - now_ms()).unwrap_or(0))
            });
            tokio::select! {
                event = events.recv() => {
                    // The sender lives as long as the state.
                    let Some(event) = event else { return Ok(()) };
                    self.take(event).await?;
                    // What came meanwhile is taken before anything is looked up.
                    for _ in 0..256 {
                        let Ok(event) = events.try_recv() else { break };
                        self.take(event).await?;
                    }
                }
                () = tokio::time::sleep(wait) => {}
                _ = round.tick() => self.round().await?,
            }
            self.begin_due().await?;
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), crate::storage::StorageError> {
        match event {
            Event::Due(tenant) => {
                self.due.insert(tenant, 0);
            }
            Event::Up(entry) => {
                reconcile::tunnel_up(&self.state, &entry).await?;
                self.ways(&entry.owner.tenant).await?;
            }
            Event::Ways(tenant) => self.ways(&tenant).await?,
            Event::Result {
                tenant,
                via,
                bridge_name,
                session,
                result,
            } => {
                let heard = reconcile::Heard {
                    tenant: &tenant,
                    via,
                    bridge_name: &bridge_name,
                    session,
                    result,
                };
                if reconcile::result(&self.state, heard).await? {
                    self.due.insert(tenant, 0);
                }
            }
        }
        Ok(())
    }

    /// Looks at everything once.
    async fn round(&mut self) -> Result<(), crate::storage::StorageError> {
        let storage = self.deliveries.storage.clone();
        let queued = storage.queued_calls().await?;
        self.state.metrics.deliveries_queued(&queued);
        let mut counts: HashMap<Arc<str>, u64> = HashMap::new();
        for group in &queued {
            *counts.entry(group.tenant.clone()).or_default() += group.calls;
        }
        for tenant in counts.keys() {
            self.ways(tenant).await?;
        }
        *self.deliveries.queued() = counts;
        self.due = storage.next_due().await?.into_iter().collect();
        reconcile::round(&self.state).await?;
        let kept_ms = i64::try_from(self.deliveries.config.keep.0.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(kept_ms);
        while storage.forget_calls(before, FORGOTTEN_AT_ONCE).await? > 0 {}
        Ok(())
    }

    /// Begins what is due.
    async fn begin_due(&mut self) -> Result<(), crate::storage::StorageError> {
        let now = now_ms();
        let ready: Vec<Arc<str>> = self
            .due
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(tenant, _)| tenant.clone())
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        if self.deliveries.storage.deliveries_paused().await? {
            // Somebody resumes them, and tells nobody.
            for tenant in ready {
                self.due.insert(tenant, now + 1000);
            }
            return Ok(());
        }
        for tenant in ready {
            let next = self.begin_due_of(&tenant, now).await?;
            match next {
                Some(at) => self.due.insert(tenant, at),
                None => self.due.remove(&tenant),
            };
        }
        Ok(())
    }

    /// Begins what is due of one tenant; when to look again.
    async fn begin_due_of(
        &self,
        tenant: &Arc<str>,
        now: i64,
    ) -> Result<Option<i64>, crate::storage::StorageError> {
        let deliveries = &self.deliveries;
        let calls = deliveries.storage.due_calls(tenant, now, PAGE).await?;
        let mut is_full = false;
        let mut parked = 0;
        for call in &calls {
            if deliveries.running.has(&call.id) {
                continue;
            }
            match self.begin(call).await {
                Begun::Running => {}
                Begun::Full => is_full = true,
                Begun::Parked => parked += 1,
            }
        }
        if is_full {
            // The end of an attempt says so; this is for the one that ended just now.
            return Ok(Some(now_ms() + 200));
        }
        if parked > 0 || calls.len() == PAGE as usize {
            return Ok(Some(now_ms() + 10));
        }
        let next = deliveries.storage.next_due_of(tenant).await?;
        // Those that run are still pending for a moment.
        Ok(next.map(|due| due.max(now_ms() + 50)))
    }

    async fn begin(&self, call: &StoredCall) -> Begun {
        let (state, deliveries) = (&self.state, &self.deliveries);
        let config = &deliveries.config;
        if deliveries.running.count() >= config.concurrent_max as usize {
            return Begun::Full;
        }
        let way = match way(state, call).await {
            Ok(way) => way,
            Err(failure) => return self.no_way(call, failure).await,
        };
        let lane = way.via(&call.tenant);
        let (places, pace) = (config.concurrent_per_bridge, config.per_second_per_bridge);
        let Some(at) = deliveries.running.enter(&call.id, &lane, places, pace) else {
            return Begun::Full;
        };
        tokio::spawn(first(state.clone(), call.clone(), way, lane, at));
        Begun::Running
    }

    /// There is no way: the call waits for one, or ends.
    async fn no_way(&self, call: &StoredCall, failure: Failure) -> Begun {
        let write = match failure.code {
            Code::RefusedByPolicy | Code::InvalidRequest | Code::NotFound | Code::Forbidden => {
                Write::Drop {
                    id: call.id.clone(),
                    state: CallState::Refused,
                    code: failure.code,
                    detail: failure.detail,
                    now_ms: now_ms(),
                }
            }
            _ => Write::Park {
                id: call.id.clone(),
                left_ms: 0,
            },
        };
        let refused = matches!(write, Write::Drop { .. });
        match self.deliveries.batch.write(write).await {
            Ok(Written::Changed(true)) if refused => {
                self.deliveries.count_out(&call.tenant);
                self.state.metrics.delivery(CallState::Refused.as_str());
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a delivery could not be moved");
                return Begun::Full;
            }
        }
        Begun::Parked
    }

    /// A tenant's ways have changed: what has one goes on, what has none waits with its clock
    /// standing still.
    async fn ways(&mut self, tenant: &Arc<str>) -> Result<(), crate::storage::StorageError> {
        let storage = &self.deliveries.storage;
        for (from, wants_way) in [
            (CallState::WaitingForBridge, true),
            (CallState::Pending, false),
        ] {
            for group in storage.call_groups(tenant, from).await? {
                let way = tunnel_for(&self.state, tenant, &group.host, group.bridge.as_deref());
                // What may go direct, or would be refused, is pending until its time has come.
                let may_go_direct =
                    group.bridge.is_none() && !self.state.directory.direct_urls(tenant).is_empty();
                let is_away = !may_go_direct && way.is_err_and(|failure| is_away(&failure));
                if is_away == wants_way {
                    continue;
                }
                loop {
                    let now = now_ms();
                    let moved = if wants_way {
                        storage.unpark(tenant, &group, now, MOVED_AT_ONCE).await?
                    } else {
                        storage.park(tenant, &group, now, MOVED_AT_ONCE).await?
                    };
                    if wants_way && moved > 0 {
                        self.due.insert(tenant.clone(), 0);
                    }
                    if moved < u64::from(MOVED_AT_ONCE) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

enum Begun {
    Running,
    Full,
    Parked,
}

/// Whether a failure says that a bridge is missing, and not that something is forbidden.
fn is_away(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::NoBridge | Code::BridgeOffline | Code::Overloaded | Code::TenantSuspended
    )
}

/// A new attempt: committed before it leaves.
async fn first(state: Arc<State>, call: StoredCall, way: Way, via: Via, at: Instant) {
    let (deliveries, tenant) = (state.deliveries.clone(), call.tenant.clone());
    tokio::time::sleep_until(at.into()).await;
    let number = call.attempt + 1;
    deliveries.running.number(&call.id, number);
    let begin = Write::Begin {
        id: call.id.clone(),
        attempt: number,
        via: via.clone(),
    };
    match deliveries.batch.write(begin).await {
        Ok(Written::Changed(true)) => attempt(&state, call, &way, &via, number, true).await,
        // Cancelled, or somebody else's by now.
        Ok(_) => deliveries.running.over(&call.id),
        Err(error) => {
            if !matches!(error, WriteError::LeaseLost | WriteError::Closed) {
                tracing::warn!(%error, call = %call.id, "an attempt could not be begun");
                tokio::time::sleep(AGAIN_AFTER_FAILURE).await;
            }
            deliveries.running.over(&call.id);
        }
    }
    deliveries.running.leave(&via);
    deliveries.tell(Event::Due(tenant));
}

/// The same attempt again, at the installation that has it.
pub(super) async fn again(state: Arc<State>, call: StoredCall, entry: Arc<Entry>, via: Via) {
    let (number, tenant) = (call.attempt, call.tenant.clone());
    state.deliveries.running.number(&call.id, number);
    attempt(&state, call, &Way::Bridge(entry), &via, number, false).await;
    state.deliveries.running.leave(&via);
    state.deliveries.tell(Event::Due(tenant));
}

/// Makes an attempt that is on disk, and writes down what follows.
async fn attempt(
    state: &Arc<State>,
    call: StoredCall,
    way: &Way,
    via: &Via,
    number: u32,
    is_first: bool,
) {
    let deliveries = &state.deliveries;
    let (began_ms, began) = (now_ms(), Instant::now());
    let mut end = match make(state, &call, way, number).await {
        Ok(end) => end,
        Err(failure) => attempt::failed(failure),
    };
    // Asked again, only the journal's word counts: that this question came to nothing says nothing of
    // the attempt, which may have been made when it was asked first.
    end.is_open |= !is_first && !attempt::is_word(&end);
    if end.is_open {
        match deliveries.running.heard_or_gone(&call.id) {
            Some(heard) => end = attempt::told(&heard),
            // The row says where it is; its bridge is asked again when it is there.
            None => return,
        }
    }
    let took_ms = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    let ended = Ended {
        call: &call,
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
    settle(state, ended).await;
    deliveries.running.over(&call.id);
}

async fn make(
    state: &Arc<State>,
    call: &StoredCall,
    way: &Way,
    number: u32,
) -> Result<AttemptEnd, Failure> {
    let deliveries = &state.deliveries;
    let internal = |what: &str| {
        tracing::error!(call = %call.id, what, "a stored call cannot be read");
        Failure::not_sent(
            Code::InvalidRequest,
            "the stored call cannot be read any more",
        )
    };
    let unavailable = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, call = %call.id, "a stored call cannot be read now");
        Failure::not_sent(Code::Overloaded, "the database does not answer")
    };
    let sealed = deliveries.storage.sealed_request(&call.id).await;
    let sealed = sealed.map_err(|error| unavailable(&error))?;
    let key = deliveries.vault.of_tenant(&call.tenant).await;
    let key = key.map_err(|error| unavailable(&error))?;
    let plain = key.open(&context(&call.id), sealed);
    let plain = plain.map_err(|_| internal("seal"))?;
    let request =
        super::request::StoredRequest::decode(plain).ok_or_else(|| internal("encoding"))?;
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
            attempt::directly(state, tenant, &call.method, request, headers).await
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

/// The bytes behind `call_` and 32 hexadecimal digits.
pub(super) fn call_bytes(id: &str) -> Option<[u8; 16]> {
    let digits = id.strip_prefix("call_")?.as_bytes();
    let mut bytes = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// The id of a call of these bytes.
pub(super) fn call_id(bytes: [u8; 16]) -> String {
    let mut id = String::with_capacity(37);
    id.push_str("call_");
    for byte in bytes {
        id.push_str(&format!("{byte:02x}"));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_id_is_its_bytes() {
        let bytes = [0xab; 16];
        let id = call_id(bytes);
        assert_eq!(id, format!("call_{}", "ab".repeat(16)));
        assert_eq!(call_bytes(&id), Some(bytes));
        for wrong in ["call_", "call_zz", &"ab".repeat(16), &format!("{id}0")] {
            assert_eq!(call_bytes(wrong), None, "{wrong}");
        }
    }
}
