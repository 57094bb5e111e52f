//! Who is due, and which route is there: the one task that begins attempts.
//!
//! It holds a lease (one process delivers at a time), keeps in memory when each tenant's next call
//! is due, and asks the database only for those whose time has come. Attempts are tasks of their
//! own; they tell when they are over.
//!
//! The task waits for the database alone, never for the network: no name is resolved here, and nothing that
//! a tenant controls can hold it up. Its work comes in slices, each bounded, and tenants take turns:
//!
//! ```text
//! inbox, registry, clock --> outcomes (RESULT)                 slice: RESULTS_AT_ONCE, tenants in turn
//!                        --> routes: journals of new tunnels,  slice: ROUTES_AT_ONCE tenants, of each
//!                            classes, park and unpark                 TUNNELS_AT_ONCE or one page
//!                        --> open attempts of installations    slice: INSTALLATIONS_AT_ONCE
//!                        --> due calls                         slice: TENANTS_AT_ONCE, of each one page
//! ```
//!
//! What fails stays to be done. And every few seconds the engine compares what is connected with what it
//! knows, so that nothing depends on an event.

use super::reconcile::{self, Heard};
use super::running::Room;
use super::state::CallState;
use super::task::first;
use super::way::Way;
use super::{Deliveries, context, request::StoredRequest};
use crate::registry::TunnelEntry;
use crate::routing::{self, StoredRoute};
use crate::state::State;
use crate::storage::calls::{Group, StoredCall, Via, Write, Written};
use crate::storage::{StorageError, StoreError, WriteError, now_ms};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the wall clock is compared.
const CLOCK_EVERY: Duration = Duration::from_secs(3);

/// A wall clock that shows this much less than expected, in milliseconds, has stepped back.
const CLOCK_STEP_MS: i64 = 1_000;

/// Before the engine begins again after the lease was lost.
const WORK_AGAIN: Duration = Duration::from_millis(500);

/// How often the engine counts what is queued, and looks for calls that are due or to be forgotten.
const ROUND_EVERY: Duration = Duration::from_secs(30);

/// How often it compares the connected tunnels and the open attempts with what it knows.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// Outcomes that are handled in one slice.
const RESULTS_AT_ONCE: usize = 64;
/// Tenants whose routes are decided in one slice.
const ROUTES_AT_ONCE: usize = 16;
/// New tunnels of one tenant whose journals are compared in one slice.
const TUNNELS_AT_ONCE: usize = 16;
/// Calls of one tenant whose class is decided again in one slice; each is up to a mebibyte.
const CLASSIFIED_AT_ONCE: u32 = 16;
/// Installations whose open attempts are read in one slice.
const INSTALLATIONS_AT_ONCE: usize = 32;
/// Tenants whose due calls are begun in one slice.
const TENANTS_AT_ONCE: usize = 64;

/// Calls of one tenant that are read at once, before other tenants have their turn.
const PAGE: u32 = 128;

/// Calls that are moved to or from waiting in one transaction.
const MOVED_AT_ONCE: u32 = 500;

/// Calls that are forgotten in one transaction.
const FORGOTTEN_AT_ONCE: u32 = 500;

/// After a failure of the database.
const AGAIN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// When a tenant's due calls that found no room are read again.
const FULL_AGAIN_MS: i64 = 200;

/// When the rows of a tenant that caused an error are read again.
const ERROR_AGAIN_MS: i64 = 5_000;

/// Why a slice of work was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum EngineError {
    /// The database.
    #[error(transparent)]
    Storage(Arc<StorageError>),
    /// Another process makes the deliveries, or this one stops.
    #[error("another process has taken over the deliveries")]
    LeaseLost,
}

impl EngineError {
    /// Whether it is about some rows, and not about the database as a whole.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Storage(error) => !matches!(
                **error,
                StorageError::Store(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))
            ),
            Self::LeaseLost => false,
        }
    }
}

impl From<StorageError> for EngineError {
    fn from(error: StorageError) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<WriteError> for EngineError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => Self::Storage(Arc::new(error.into())),
            WriteError::LeaseLost | WriteError::Closed => Self::LeaseLost,
        }
    }
}

/// Delivers while this process serves, until the relay stops.
pub async fn run(state: Arc<State>) {
    if !state.deliveries.take_engine() {
        return;
    }
    loop {
        // What was known before may have changed while another process served.
        let epoch = state.serving.active().await;
        let mut engine = Engine::new(&state);
        tokio::select! {
            () = engine.work() => {}
            () = state.serving.ended(epoch) => {}
        }
        tokio::time::sleep(WORK_AGAIN).await;
    }
}

/// Tenants that wait for their turn, each once.
#[derive(Debug, Default)]
struct Turns {
    queue: VecDeque<Arc<str>>,
    queued: HashSet<Arc<str>>,
}

impl Turns {
    fn push(&mut self, tenant: Arc<str>) {
        if self.queued.insert(tenant.clone()) {
            self.queue.push_back(tenant);
        }
    }

    fn pop(&mut self) -> Option<Arc<str>> {
        let tenant = self.queue.pop_front()?;
        self.queued.remove(&tenant);
        Some(tenant)
    }
}

struct Engine {
    state: Arc<State>,
    deliveries: Arc<Deliveries>,
    /// When each tenant's next pending call is due, in milliseconds since 1970.
    due: HashMap<Arc<str>, i64>,
    /// Tenants whose routes are to be decided.
    routes: Turns,
    /// Where open attempts are, as it was read last.
    in_flight: VecDeque<(Arc<str>, Via)>,
    /// The patterns by which each tenant's calls were classified, and whether the tenant was active.
    tenants: HashMap<Arc<str>, (i64, bool)>,
    /// The patterns up to which no call of a tenant needs another class.
    classified: HashMap<Arc<str>, i64>,
    /// Finished calls are to be forgotten.
    forgets: bool,
    /// When it was noted last which installations are here, and whether this comparison notes it again.
    noted_at: Option<Instant>,
    notes: bool,
    /// The wall clock, and when it was read.
    clock: Option<(i64, Instant)>,
    clock_at: Instant,
    round_at: Instant,
    compare_at: Instant,
}

impl Engine {
    fn new(state: &Arc<State>) -> Self {
        let now = Instant::now();
        Self {
            state: state.clone(),
            deliveries: state.deliveries.clone(),
            due: HashMap::new(),
            routes: Turns::default(),
            in_flight: VecDeque::new(),
            tenants: HashMap::new(),
            classified: HashMap::new(),
            forgets: false,
            noted_at: None,
            notes: false,
            clock: None,
            clock_at: now,
            round_at: now,
            compare_at: now,
        }
    }

    /// Works while it has the lease. A failing database does not end that: another process takes the lease
    /// over if it has run out, and what this one writes is fenced.
    async fn work(&mut self) {
        let deliveries = self.deliveries.clone();
        let mut directory = self.state.directory.changed();
        loop {
            match self.step().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(EngineError::LeaseLost) => return,
                Err(error) => {
                    tracing::warn!(%error, "deliveries wait: the database does not answer");
                    tokio::time::sleep(AGAIN_AFTER_FAILURE).await;
                    continue;
                }
            }
            let alarms = [self.clock_at, self.round_at, self.compare_at];
            let alarm = alarms.into_iter().min().unwrap_or(self.clock_at);
            let next = self.due.values().min().copied();
            let wait = next.map_or(ROUND_EVERY, |due| {
                Duration::from_millis(u64::try_from(due - now_ms()).unwrap_or(0))
            });
            tokio::select! {
                () = deliveries.inbox.news() => {}
                () = tokio::time::sleep(wait) => {}
                () = tokio::time::sleep_until(alarm.into()) => {}
                changed = directory.changed() => match changed {
                    Ok(()) => self.compare_tenants(),
                    // The directory lives as long as the state.
                    Err(_) => return,
                },
            }
        }
    }

    /// One slice of each kind of work. Returns whether more is left to be done at once.
    async fn step(&mut self) -> Result<bool, EngineError> {
        if Instant::now() >= self.clock_at {
            unless_local(self.follow_clock().await, "retry times cannot be corrected")?;
            self.clock_at = Instant::now() + CLOCK_EVERY;
        }
        self.collect();
        if Instant::now() >= self.round_at {
            unless_local(self.round().await, "queued calls cannot be counted")?;
            self.round_at = Instant::now() + ROUND_EVERY;
        }
        if Instant::now() >= self.compare_at {
            unless_local(self.compare().await, "open attempts cannot be read")?;
            self.compare_at = Instant::now() + COMPARE_EVERY;
        }
        self.handle_results().await?;
        self.handle_routes().await?;
        self.handle_installations().await?;
        let has_due = self.begin_due().await?;
        self.forget().await?;
        Ok(has_due
            || self.deliveries.inbox.has_results()
            || !self.routes.queue.is_empty()
            || !self.in_flight.is_empty()
            || self.forgets)
    }

    /// Corrects retry times where the wall clock has stepped back, and once at the start: another process,
    /// or this one before, may have had a clock that was ahead.
    async fn follow_clock(&mut self) -> Result<(), EngineError> {
        let read = (now_ms(), Instant::now());
        let stepped_back_ms = self.clock.map_or(0, |(wall_ms, at)| {
            let passed = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
            wall_ms.saturating_add(passed).saturating_sub(read.0)
        });
        if self.clock.is_some() && stepped_back_ms < CLOCK_STEP_MS {
            self.clock = Some(read);
            return Ok(());
        }
        let storage = &self.deliveries.storage;
        let corrected = storage.correct_due_times(read.0).await?;
        self.due = storage.next_due().await?.into_iter().collect();
        self.clock = Some(read);
        if stepped_back_ms >= CLOCK_STEP_MS {
            tracing::warn!(
                stepped_back_ms,
                corrected,
                "the clock has stepped back: retry times were corrected"
            );
        }
        Ok(())
    }

    fn collect(&mut self) {
        let (due, routes) = self.deliveries.inbox.take_tenants();
        for tenant in due {
            self.due.insert(tenant, 0);
        }
        for tenant in routes {
            self.routes.push(tenant);
        }
    }

    /// Counts what is queued, and reads what is due.
    async fn round(&mut self) -> Result<(), EngineError> {
        let storage = self.deliveries.storage.clone();
        let queued = storage.queued_calls().await?;
        self.state.metrics.deliveries_queued(&queued);
        let mut counts: HashMap<Arc<str>, u64> = HashMap::new();
        for group in &queued {
            *counts.entry(group.tenant.clone()).or_default() += group.calls;
        }
        for tenant in counts.keys() {
            self.routes.push(tenant.clone());
        }
        self.tenants.retain(|tenant, _| counts.contains_key(tenant));
        self.classified
            .retain(|tenant, _| counts.contains_key(tenant));
        *self.deliveries.queued() = counts;
        self.compare_tenants();
        for (tenant, due) in storage.next_due().await? {
            let known = self.due.entry(tenant).or_insert(due);
            *known = due.min(*known);
        }
        self.forgets = true;
        Ok(())
    }

    /// Compares what is connected with what the engine knows, and reads where attempts are open.
    async fn compare(&mut self) -> Result<(), EngineError> {
        for entry in self.state.registry.all() {
            if is_to_be_compared(&entry) {
                self.routes.push(entry.owner.tenant.clone());
            }
        }
        if self.in_flight.is_empty() {
            let all = self.deliveries.storage.instances_in_flight().await?;
            self.in_flight.extend(all);
            let is_recent = |at: Instant| at.elapsed() < ROUND_EVERY;
            self.notes = !self.noted_at.is_some_and(is_recent);
            if self.notes {
                self.noted_at = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// A tenant's patterns, or whether it may work, may have changed.
    fn compare_tenants(&mut self) {
        let queued: Vec<Arc<str>> = self.deliveries.queued().keys().cloned().collect();
        for tenant in queued {
            let directory = &self.state.directory;
            let mark = routing::patterns_mark(&directory.direct_urls(&tenant));
            let now = (mark, directory.is_active(&tenant));
            if self.tenants.insert(tenant.clone(), now) != Some(now) {
                self.routes.push(tenant);
            }
        }
    }

    async fn handle_results(&mut self) -> Result<(), EngineError> {
        let inbox = &self.deliveries.inbox;
        let mut heard: Vec<Heard> = inbox.take_results(RESULTS_AT_ONCE);
        if heard.is_empty() {
            return Ok(());
        }
        match reconcile::results(&self.state, &mut heard).await {
            Ok(tenants) => {
                self.due
                    .extend(tenants.into_iter().map(|tenant| (tenant, 0)));
                Ok(())
            }
            Err(error) => {
                for heard in heard {
                    inbox.result(&heard.tenant.clone(), heard);
                }
                Err(error)
            }
        }
    }

    /// Looks at the routes of some tenants.
    async fn handle_routes(&mut self) -> Result<(), EngineError> {
        for _ in 0..ROUTES_AT_ONCE {
            let Some(tenant) = self.routes.pop() else {
                return Ok(());
            };
            match self.routes_of(&tenant).await {
                Ok(true) => self.routes.push(tenant),
                Ok(false) => {}
                Err(error) if error.is_local() => {
                    tracing::error!(%error, %tenant, "a tenant's stored calls cannot be routed");
                }
                Err(error) => {
                    self.routes.push(tenant);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A tenant's tunnels, or its patterns, may have changed: what has a route goes on, what has none
    /// waits with its clock standing still. Returns whether more is left to be done.
    async fn routes_of(&mut self, tenant: &Arc<str>) -> Result<bool, EngineError> {
        let mut has_more = false;
        let tunnels = self.state.registry.of_tenant(tenant);
        let mut new = tunnels.iter().filter(|entry| is_to_be_compared(entry));
        for entry in new.by_ref().take(TUNNELS_AT_ONCE) {
            reconcile::tunnel_up(&self.state, entry).await?;
        }
        has_more |= new.next().is_some();
        has_more |= self.classify(tenant).await?;
        let storage = self.deliveries.storage.clone();
        let patterns = routing::patterns_mark(&self.state.directory.direct_urls(tenant));
        for (from, wants_route) in [
            (CallState::WaitingForBridge, true),
            (CallState::Pending, false),
        ] {
            for group in storage.call_groups(tenant, from).await? {
                // Whether those of another class have a route is seen when they have this one.
                let is_classified = group.class.mark == patterns;
                let is_later = match self.route_of_group(tenant, &group) {
                    routing::Way::Later(_) => true,
                    // What would be refused is pending until its time has come.
                    routing::Way::Bridge(_) | routing::Way::Direct | routing::Way::Refused(_) => {
                        false
                    }
                };
                if is_later == wants_route || (is_later && !is_classified) {
                    continue;
                }
                let now = now_ms();
                let moved = if wants_route {
                    storage.unpark(tenant, &group, now, MOVED_AT_ONCE).await?
                } else {
                    storage.park(tenant, &group, now, MOVED_AT_ONCE).await?
                };
                if wants_route && moved > 0 {
                    self.due.insert(tenant.clone(), 0);
                }
                has_more |= moved >= u64::from(MOVED_AT_ONCE);
            }
        }
        Ok(has_more)
    }

    fn route_of_group(&self, tenant: &Arc<str>, group: &Group) -> routing::Way<Arc<TunnelEntry>> {
        let stored = StoredRoute {
            tenant,
            bridge: group.bridge.as_deref(),
            host: &group.host,
            is_direct: group.class.is_direct,
        };
        routing::decide_stored(&self.state, stored)
    }

    /// Decides again which calls of a tenant may go direct, after its patterns have changed. Returns whether
    /// more are left.
    async fn classify(&mut self, tenant: &Arc<str>) -> Result<bool, EngineError> {
        let patterns = self.state.directory.direct_urls(tenant);
        let mark = routing::patterns_mark(&patterns);
        if self.classified.get(tenant) == Some(&mark) {
            return Ok(false);
        }
        let storage = &self.deliveries.storage;
        let calls = storage
            .calls_of_other_patterns(tenant, mark, CLASSIFIED_AT_ONCE)
            .await?;
        let mut classes = Vec::with_capacity(calls.len());
        for call in &calls {
            let mut class = routing::DirectClass {
                is_direct: false,
                mark,
            };
            if !patterns.is_empty() && call.bridge.is_none() {
                match self.open(call).await? {
                    Some(request) => {
                        let is_pinned = request.about.credential.is_some();
                        let url = &request.about.url;
                        class = routing::classify(&patterns, &call.method, url, is_pinned);
                    }
                    None => tracing::error!(call = %call.id, "a stored call cannot be read"),
                }
            }
            classes.push((call.id.clone(), class));
        }
        storage.classify_calls(&classes).await?;
        if calls.len() < CLASSIFIED_AT_ONCE as usize {
            self.classified.insert(tenant.clone(), mark);
            return Ok(false);
        }
        Ok(true)
    }

    /// The request of a stored call; `None` where it cannot be opened.
    async fn open(&self, call: &StoredCall) -> Result<Option<StoredRequest>, EngineError> {
        let deliveries = &self.deliveries;
        let sealed = match deliveries.storage.sealed_request(&call.id).await {
            Err(StorageError::NotFound(_)) => return Ok(None),
            sealed => sealed?,
        };
        let key = match deliveries.vault.of_tenant(&call.tenant).await {
            Ok(key) => key,
            Err(crate::vault::VaultError::Storage(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        };
        let plain = key.open(&context(&call.id), sealed).ok();
        Ok(plain.and_then(StoredRequest::decode))
    }

    async fn handle_installations(&mut self) -> Result<(), EngineError> {
        for _ in 0..INSTALLATIONS_AT_ONCE {
            let Some((tenant, via)) = self.in_flight.pop_front() else {
                return Ok(());
            };
            match reconcile::installation(&self.state, &tenant, &via, self.notes).await {
                Ok(()) => {}
                Err(error) if error.is_local() => {
                    tracing::error!(%error, %tenant, "open attempts cannot be read");
                }
                // The next comparison finds it again.
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn forget(&mut self) -> Result<(), EngineError> {
        if !self.forgets {
            return Ok(());
        }
        let kept_ms = i64::try_from(self.deliveries.config.keep.0.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(kept_ms);
        let storage = &self.deliveries.storage;
        let forgotten = storage.forget_calls(before, FORGOTTEN_AT_ONCE).await?;
        self.forgets = forgotten > 0;
        Ok(())
    }

    /// Begins what is due. Returns whether some tenants had no turn.
    async fn begin_due(&mut self) -> Result<bool, EngineError> {
        let now = now_ms();
        let mut ready: Vec<(i64, Arc<str>)> = self
            .due
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(tenant, due)| (*due, tenant.clone()))
            .collect();
        if ready.is_empty() {
            return Ok(false);
        }
        if self.deliveries.storage.deliveries_paused().await? {
            // Somebody resumes them, and tells nobody.
            for (_, tenant) in ready {
                self.due.insert(tenant, now + 1000);
            }
            return Ok(false);
        }
        // Those that had their turn come behind those that wait for it.
        ready.sort_unstable();
        let has_more = ready.len() > TENANTS_AT_ONCE;
        for (_, tenant) in ready.into_iter().take(TENANTS_AT_ONCE) {
            let next = match self.begin_due_of(&tenant, now).await {
                Err(error) if error.is_local() => {
                    tracing::error!(%error, %tenant, "a tenant's stored calls cannot be delivered");
                    Some(now_ms() + ERROR_AGAIN_MS)
                }
                next => next?,
            };
            match next {
                Some(at) => self.due.insert(tenant, at),
                None => self.due.remove(&tenant),
            };
        }
        Ok(has_more)
    }

    /// Begins what is due of one tenant; when to look again.
    async fn begin_due_of(
        &mut self,
        tenant: &Arc<str>,
        now: i64,
    ) -> Result<Option<i64>, EngineError> {
        let deliveries = self.deliveries.clone();
        let calls = deliveries.storage.due_calls(tenant, now, PAGE).await?;
        let mark = routing::patterns_mark(&self.state.directory.direct_urls(tenant));
        let (mut is_full, mut is_stale, mut moved) = (false, false, Vec::new());
        for call in &calls {
            if deliveries.running.has(&call.id) {
                continue;
            }
            match self.begin(call, mark) {
                Begun::Running => {}
                Begun::Full => is_full = true,
                Begun::Stale => is_stale = true,
                Begun::Moved(write) => moved.push(*write),
            }
        }
        if is_stale {
            self.classified.remove(tenant);
            self.routes.push(tenant.clone());
        }
        let has_moved = !moved.is_empty();
        let refused: Vec<bool> = moved
            .iter()
            .map(|write| matches!(write, Write::Drop { .. }))
            .collect();
        let written = deliveries.batch.write_all(moved).await;
        for (written, is_refused) in written.into_iter().zip(refused) {
            if written? == Written::Changed(true) && is_refused {
                deliveries.count_out(tenant);
                self.state.metrics.delivery(CallState::Refused.as_str());
            }
        }
        if is_full || is_stale {
            // The end of an attempt says so; this is for the one that ended just now.
            return Ok(Some(now_ms() + FULL_AGAIN_MS));
        }
        if has_moved || calls.len() == PAGE as usize {
            return Ok(Some(now_ms() + 10));
        }
        let next = deliveries.storage.next_due_of(tenant).await?;
        // Those that run are still pending for a moment.
        Ok(next.map(|due| due.max(now_ms() + 50)))
    }

    fn begin(&self, call: &StoredCall, mark: i64) -> Begun {
        let (state, deliveries) = (&self.state, &self.deliveries);
        let config = &deliveries.config;
        let is_classified = call.class.mark == mark;
        let stored = StoredRoute {
            tenant: &call.tenant,
            bridge: call.bridge.as_deref(),
            host: &call.host,
            is_direct: call.class.is_direct && is_classified,
        };
        let way = match routing::decide_stored(state, stored) {
            routing::Way::Bridge(entry) => Way::Bridge(entry),
            routing::Way::Direct => Way::Direct,
            // By the patterns of now it may have a route.
            routing::Way::Later(_) | routing::Way::Refused(_) if !is_classified => {
                return Begun::Stale;
            }
            // The route is decided again when the tenant's tunnels or patterns change.
            routing::Way::Later(_) => {
                return Begun::Moved(Box::new(Write::Park {
                    id: call.id.clone(),
                    left_ms: 0,
                }));
            }
            routing::Way::Refused(none) => {
                return Begun::Moved(Box::new(Write::Drop {
                    id: call.id.clone(),
                    state: CallState::Refused,
                    code: none.failure.code,
                    detail: none.failure.detail,
                    now_ms: now_ms(),
                }));
            }
        };
        let via = way.via(&call.tenant);
        let room = Room {
            total: config.concurrent_max,
            lane: config.concurrent_per_bridge,
            per_second: config.per_second_per_bridge,
        };
        let running = &deliveries.running;
        let Some(at) = running.enter(&call.id, &call.tenant, &via, call.attempt + 1, room) else {
            return Begun::Full;
        };
        tokio::spawn(first(state.clone(), call.clone(), way, via, at));
        Begun::Running
    }
}

/// An error of some rows is logged: it does not hold up what does not need them.
fn unless_local(done: Result<(), EngineError>, what: &str) -> Result<(), EngineError> {
    match done {
        Err(error) if error.is_local() => {
            tracing::error!(%error, what, "rows of the database cannot be read");
            Ok(())
        }
        done => done,
    }
}

enum Begun {
    Running,
    /// A limit is reached.
    Full,
    /// Whether it may go direct is to be decided again first.
    Stale,
    /// It waits for a bridge, or ends.
    Moved(Box<Write>),
}

/// Whether a tunnel's journal is still to be compared.
fn is_to_be_compared(entry: &TunnelEntry) -> bool {
    entry.journal.is_some() && !entry.is_delivering() && entry.session.is_open()
}
