//! The engine: the one task that starts attempts.
//!
//! It works while this process holds the lease, so one process delivers at a time. It keeps in memory when
//! each tenant's next call is due, and reads only those calls whose time has come. Each attempt is a task
//! of its own, which reports its end to the inbox.
//!
//! The engine waits for the database only, never for the network: it resolves no name, and nothing that a
//! tenant controls can delay it. Its work comes in bounded slices, with tenants in round robin:
//!
//! ```text
//! inbox, registry, clock --> outcomes (RESULT)                 slice: REPORTS_PER_SLICE, round robin
//!                        --> routes: journals of new tunnels,  slice: ROUTED_TENANTS_PER_SLICE, of each
//!                            classes, park and unpark                 TUNNELS_PER_SLICE or one page
//!                        --> open attempts of installations    slice: INSTALLATIONS_PER_SLICE
//!                        --> due calls                         slice: DUE_TENANTS_PER_SLICE, of each one page
//! ```
//!
//! Work that fails is done again later. Every few seconds the engine compares the connected tunnels with what
//! it knows, so that correctness does not depend on any event.
//!
//! `routes` decides the routes of waiting calls, `due` starts attempts.

mod due;
mod routes;

use super::context::DeliveryContext;
use super::error::{EngineError, unless_local};
use super::reconcile::{self, DeliveryReport};
use crate::registry::TunnelEntry;
use crate::routing;
use crate::storage::calls::Via;
use crate::storage::now_ms;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the wall clock is compared with the monotonic one.
const CLOCK_INTERVAL: Duration = Duration::from_secs(3);

/// A wall clock that shows this much less than expected, in milliseconds, was set back.
const CLOCK_STEP_MS: i64 = 1_000;

/// Pause before the engine starts again after it lost the lease.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// How often the engine counts queued calls, and reads which calls are due or to be deleted.
const ROUND_INTERVAL: Duration = Duration::from_secs(30);

/// How often the engine compares the connected tunnels and the open attempts with what it knows.
const COMPARE_INTERVAL: Duration = Duration::from_secs(5);

/// Outcomes in one slice.
const REPORTS_PER_SLICE: usize = 64;
/// Tenants whose routes are decided in one slice.
const ROUTED_TENANTS_PER_SLICE: usize = 16;
/// New tunnels of one tenant whose journals are compared in one slice.
const TUNNELS_PER_SLICE: usize = 16;
/// Calls of one tenant that are classified again in one slice. Each has up to a mebibyte.
const CLASSIFIED_PER_SLICE: u32 = 16;
/// Installations whose open attempts are read in one slice.
const INSTALLATIONS_PER_SLICE: usize = 32;
/// Tenants whose due calls are started in one slice.
const DUE_TENANTS_PER_SLICE: usize = 64;

/// Calls of one tenant that are read before the other tenants are served.
const PAGE: u32 = 128;

/// Calls that are parked or unparked in one transaction.
const MOVED_PER_TRANSACTION: u32 = 500;

/// Finished calls that are deleted in one transaction.
const DELETED_PER_TRANSACTION: u32 = 500;

/// Pause after an error of the database.
const ERROR_DELAY: Duration = Duration::from_secs(1);

/// When the engine reads a tenant's due calls again that found no permit, in milliseconds.
const FULL_RETRY_MS: i64 = 200;

/// When the engine reads a tenant's rows again that caused an error, in milliseconds.
const ERROR_RETRY_MS: i64 = 5_000;

/// Delivers while this process serves, until the relay stops.
pub(crate) async fn run(cx: Arc<DeliveryContext>) {
    if !cx.deliveries.claim_engine() {
        return;
    }
    loop {
        let epoch = cx.serving.active().await;
        // A new engine for each lease: another process may have changed everything meanwhile.
        let mut engine = Engine::new(&cx);
        tokio::select! {
            () = engine.work() => {}
            () = cx.serving.ended(epoch) => {}
        }
        tokio::time::sleep(RESTART_DELAY).await;
    }
}

/// Tenants that wait to be served, each once.
#[derive(Debug, Default)]
struct TenantQueue {
    queue: VecDeque<Arc<str>>,
    queued: HashSet<Arc<str>>,
}

impl TenantQueue {
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

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

struct Engine {
    cx: Arc<DeliveryContext>,
    /// When each tenant's next pending call is due, in milliseconds since 1970.
    due: HashMap<Arc<str>, i64>,
    /// Tenants whose routes are to be decided.
    routes: TenantQueue,
    /// Installations with open attempts, as of the last read, that are still to be handled.
    in_flight: VecDeque<(Arc<str>, Via)>,
    /// For each tenant, the mark of its URL patterns and whether it was active.
    tenants: HashMap<Arc<str>, (i64, bool)>,
    /// For each tenant, the mark of the patterns by which all its calls are classified.
    classified: HashMap<Arc<str>, i64>,
    /// Whether finished calls may be left to delete.
    has_old_calls: bool,
    /// When the engine last stored which installations are connected.
    presence_stored_at: Option<Instant>,
    /// Whether the current comparison stores that.
    stores_presence: bool,
    /// The wall clock, and when it was read.
    clock: Option<(i64, Instant)>,
    clock_at: Instant,
    round_at: Instant,
    compare_at: Instant,
}

impl Engine {
    fn new(cx: &Arc<DeliveryContext>) -> Self {
        let now = Instant::now();
        Self {
            cx: cx.clone(),
            due: HashMap::new(),
            routes: TenantQueue::default(),
            in_flight: VecDeque::new(),
            tenants: HashMap::new(),
            classified: HashMap::new(),
            has_old_calls: false,
            presence_stored_at: None,
            stores_presence: false,
            clock: None,
            clock_at: now,
            round_at: now,
            compare_at: now,
        }
    }

    /// Works until the lease is lost. A failing database does not end it: if the lease runs out, another
    /// process takes it, and the epoch fences what this process still writes.
    async fn work(&mut self) {
        let cx = self.cx.clone();
        let mut directory = cx.directory.changed();
        loop {
            match self.step().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(EngineError::LeaseLost) => return,
                Err(error) => {
                    tracing::warn!(%error, "database unavailable; deliveries wait");
                    tokio::time::sleep(ERROR_DELAY).await;
                    continue;
                }
            }
            // Recomputed after each step, since the step moves the alarms.
            let alarms = [self.clock_at, self.round_at, self.compare_at];
            let alarm = alarms.into_iter().min().unwrap_or(self.clock_at);
            let next = self.due.values().min().copied();
            let wait = next.map_or(ROUND_INTERVAL, |due| {
                Duration::from_millis(u64::try_from(due - now_ms()).unwrap_or(0))
            });
            tokio::select! {
                () = cx.deliveries.inbox.news() => {}
                () = tokio::time::sleep(wait) => {}
                () = tokio::time::sleep_until(alarm.into()) => {}
                // Cancel safe, like the other branches: a lost wake-up would only delay work until the next
                // alarm.
                changed = directory.changed() => match changed {
                    Ok(()) => self.compare_tenants(),
                    // The directory lives as long as the relay.
                    Err(_) => return,
                },
            }
        }
    }

    /// Does one slice of each kind of work. Returns whether more is left to be done at once.
    async fn step(&mut self) -> Result<bool, EngineError> {
        if Instant::now() >= self.clock_at {
            unless_local(self.follow_clock().await, "due times")?;
            self.clock_at = Instant::now() + CLOCK_INTERVAL;
        }
        self.collect();
        if Instant::now() >= self.round_at {
            unless_local(self.round().await, "queued calls")?;
            self.round_at = Instant::now() + ROUND_INTERVAL;
        }
        if Instant::now() >= self.compare_at {
            unless_local(self.compare().await, "open attempts")?;
            self.compare_at = Instant::now() + COMPARE_INTERVAL;
        }
        // Outcomes first: they free permits and memory, and end attempts that `handle_installations` would
        // otherwise send again.
        self.handle_reports().await?;
        self.handle_routes().await?;
        self.handle_installations().await?;
        let has_due = self.start_due().await?;
        self.delete_old_calls().await?;
        Ok(has_due
            || self.cx.deliveries.inbox.has_results()
            || !self.routes.is_empty()
            || !self.in_flight.is_empty()
            || self.has_old_calls)
    }

    /// Corrects due times when the wall clock was set back, and once at the start: the process that stored
    /// them may have had a clock that was ahead.
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
        let storage = &self.cx.deliveries.storage;
        let corrected = storage.correct_due_times(read.0).await?;
        self.due = storage.next_due().await?.into_iter().collect();
        self.clock = Some(read);
        if stepped_back_ms >= CLOCK_STEP_MS {
            tracing::warn!(
                stepped_back_ms,
                corrected,
                "wall clock was set back; due times corrected"
            );
        }
        Ok(())
    }

    fn collect(&mut self) {
        let (due, routes) = self.cx.deliveries.inbox.take_tenants();
        for tenant in due {
            // Zero is always due, so the database decides what is due and when.
            self.due.insert(tenant, 0);
        }
        for tenant in routes {
            self.routes.push(tenant);
        }
    }

    /// Counts the queued calls, and reads which are due.
    async fn round(&mut self) -> Result<(), EngineError> {
        let storage = self.cx.deliveries.storage.clone();
        let queued = storage.queued_calls().await?;
        self.cx.data.metrics.deliveries_queued(&queued);
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
        *self.cx.deliveries.queued() = counts;
        self.compare_tenants();
        for (tenant, due) in storage.next_due().await? {
            let known = self.due.entry(tenant).or_insert(due);
            // An earlier time that an event has set stays: the database may have been read before that
            // event.
            *known = due.min(*known);
        }
        // Whether there are any is known only after the first deletion.
        self.has_old_calls = true;
        Ok(())
    }

    /// Compares the connected tunnels with what the engine knows, and reads where attempts are open.
    async fn compare(&mut self) -> Result<(), EngineError> {
        for entry in self.cx.data.registry.all() {
            if needs_comparison(&entry) {
                self.routes.push(entry.owner.tenant.clone());
            }
        }
        // A list that is not handled yet is not read again: reading faster than handling would never reach
        // its end.
        if self.in_flight.is_empty() {
            let all = self.cx.deliveries.storage.instances_in_flight().await?;
            self.in_flight.extend(all);
            let is_recent = |at: Instant| at.elapsed() < ROUND_INTERVAL;
            self.stores_presence = !self.presence_stored_at.is_some_and(is_recent);
            if self.stores_presence {
                self.presence_stored_at = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Finds the tenants whose patterns, or whose state, have changed.
    fn compare_tenants(&mut self) {
        let cx = self.cx.clone();
        // Only tenants with unfinished calls, and copied, so that the lock is not held over the loop.
        let queued: Vec<Arc<str>> = cx.deliveries.queued().keys().cloned().collect();
        for tenant in queued {
            let mark = routing::patterns_mark(&cx.directory.direct_urls(&tenant));
            let now = (mark, cx.directory.is_active(&tenant));
            if self.tenants.insert(tenant.clone(), now) != Some(now) {
                self.routes.push(tenant);
            }
        }
    }

    async fn handle_reports(&mut self) -> Result<(), EngineError> {
        let cx = self.cx.clone();
        let inbox = &cx.deliveries.inbox;
        let mut reports: Vec<DeliveryReport> = inbox.take_results(REPORTS_PER_SLICE);
        if reports.is_empty() {
            return Ok(());
        }
        match reconcile::handle_reports(&cx, &mut reports).await {
            Ok(tenants) => {
                self.due
                    .extend(tenants.into_iter().map(|tenant| (tenant, 0)));
                Ok(())
            }
            Err(error) => {
                // Those that are left were not stored: they go back, so that they are not lost.
                for report in reports {
                    inbox.result(&report.tenant.clone(), report);
                }
                Err(error)
            }
        }
    }

    async fn handle_installations(&mut self) -> Result<(), EngineError> {
        for _ in 0..INSTALLATIONS_PER_SLICE {
            let Some((tenant, via)) = self.in_flight.pop_front() else {
                return Ok(());
            };
            let stores_presence = self.stores_presence;
            match reconcile::check_installation(&self.cx, &tenant, &via, stores_presence).await {
                Ok(()) => {}
                Err(error) if error.is_local() => {
                    let name = self.cx.directory.tenant_label(&tenant);
                    tracing::error!(%error, tenant = &*name, tenant_id = %tenant, "cannot read open attempts");
                }
                // The next comparison finds the installation again.
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes finished calls after `deliveries.keep`.
    async fn delete_old_calls(&mut self) -> Result<(), EngineError> {
        if !self.has_old_calls {
            return Ok(());
        }
        let deliveries = &self.cx.deliveries;
        let kept_ms = i64::try_from(deliveries.config.keep.0.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(kept_ms);
        let storage = &deliveries.storage;
        let deleted = storage
            .forget_calls(before, DELETED_PER_TRANSACTION)
            .await?;
        self.has_old_calls = deleted > 0;
        Ok(())
    }
}

/// Returns whether a tunnel's journal is still to be compared.
fn needs_comparison(entry: &TunnelEntry) -> bool {
    entry.journal.is_some() && !entry.is_delivering() && entry.session.is_open()
}
