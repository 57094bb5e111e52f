//! The owners of endpoint names, for connected tunnels.
//!
//! ```text
//! HELLO, STATUS --> free names? --> the database decides --> directory --> AdvertisedRoutes --> registry
//! directory changed, or every few seconds -----------------------^
//! ```
//!
//! The data path reads only the registry, which lists a tunnel by the endpoints that its bridge owns. A
//! refused declaration costs the bridge nothing else: its other endpoints work. It is logged, counted, and
//! shown by `GET /v1/bridges` and by a notice.

use crate::directory::Directory;
use crate::registry::{AdvertisedRoutes, Registry, Standing, TunnelEntry, TunnelOwner};
use crate::storage::StorageError;
use crate::throttle::LogRateLimiter;
use protocol::frame::Serves;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a tunnel's opening waits for the database to decide about free names. After it, they are
/// claimed in the background.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a conflict is kept after it was last seen, so that a bridge that reconnects again and again
/// raises one notice.
const CONFLICT_KEPT: Duration = Duration::from_secs(600);

/// Bridges with a conflict that are kept in memory.
const CONFLICTS_MAX: usize = 10_000;

/// Names that the text of a conflict lists.
const NAMES_SHOWN: usize = 5;

/// A bridge that declares endpoints that it does not own.
#[derive(Debug, Clone)]
pub(crate) struct Conflict {
    /// The bridge.
    pub owner: TunnelOwner,
    /// The refused endpoints with the reasons, for people.
    pub detail: String,
    seen: Instant,
}

/// Refused declarations, and names that are not claimed yet.
#[derive(Debug, Default)]
pub(crate) struct Ownership {
    /// By the bridge's id.
    conflicts: Mutex<HashMap<Arc<str>, Conflict>>,
    /// A connected bridge declares free names about which the database has not decided.
    has_unclaimed: AtomicBool,
    log_limiter: LogRateLimiter,
}

impl Ownership {
    /// Returns the bridges that declare endpoints that they do not own, now or a short while ago.
    pub(crate) fn conflicts(&self, now: Instant) -> Vec<Conflict> {
        let mut conflicts = self.lock();
        conflicts
            .retain(|_, conflict| now.saturating_duration_since(conflict.seen) < CONFLICT_KEPT);
        conflicts.values().cloned().collect()
    }

    /// Claims a bridge's free names. When this returns, the directory has the database's decision; if the
    /// database does not respond, the names are claimed again in the background.
    pub(crate) async fn claim(&self, directory: &Directory, owner: &TunnelOwner, serves: &Serves) {
        let declared = || serves.endpoints.iter().map(String::as_str);
        let (standings, _) = directory.endpoints_of(owner, declared());
        let free: Vec<String> = declared()
            .zip(&standings)
            // A text that cannot be an endpoint's name is never routed, so it needs no owner.
            .filter(|(name, standing)| {
                **standing == Standing::Free && policy::is_endpoint_name(name)
            })
            .map(|(name, _)| name.to_owned())
            .collect();
        if free.is_empty() {
            return;
        }
        match tokio::time::timeout(CLAIM_TIMEOUT, decide(directory, owner, &free)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.has_unclaimed.store(true, Ordering::Relaxed);
                tracing::warn!(bridge = %owner.name, %error, "cannot claim endpoint names yet");
            }
            Err(_) => {
                self.has_unclaimed.store(true, Ordering::Relaxed);
                tracing::warn!(bridge = %owner.name, "timed out claiming endpoint names; retrying");
            }
        }
    }

    /// Returns whether names are still to be claimed, and resets that.
    pub(crate) fn take_unclaimed(&self) -> bool {
        // Relaxed: the flag guards no other data; a claim that fails meanwhile sets it again.
        self.has_unclaimed.swap(false, Ordering::Relaxed)
    }

    /// Routes to a tunnel the endpoints that its bridge owns now. Returns whether a new conflict appeared,
    /// which needs a notice.
    pub(crate) fn route(
        &self,
        directory: &Directory,
        registry: &Registry,
        entry: &Arc<TunnelEntry>,
    ) -> bool {
        let new = advertised_routes(directory, &entry.owner, entry.session.serves());
        let old = entry.offer();
        let conflicts = new.refused().count();
        let is_new_conflict = self.report(directory, &entry.owner, &new);
        if conflicts == 0 && old.refused().count() > 0 {
            // An administrator has resolved the conflict: the notice need not wait for `CONFLICT_KEPT`.
            self.lock().remove(&entry.owner.bridge);
        }
        // Replacing the routes rebuilds the tables of the registry, which the data path reads.
        if !new.is_like(&old) {
            registry.set_offer(entry, new);
        }
        is_new_conflict
    }

    /// Notes and logs refused declarations. Returns whether the bridge had no conflict before.
    pub(crate) fn report(
        &self,
        directory: &Directory,
        owner: &TunnelOwner,
        routes: &AdvertisedRoutes,
    ) -> bool {
        let is_new = self.note(owner, routes, Instant::now());
        if is_new && self.log_limiter.allow() {
            tracing::warn!(
                tenant = &*directory.tenant_label(&owner.tenant),
                tenant_id = &*owner.tenant,
                bridge = %owner.name,
                endpoints = describe_refused(routes),
                suppressed = self.log_limiter.suppressed(),
                "bridge declares endpoints that it does not own; they are not routed to it"
            );
        }
        is_new
    }

    /// Claims and routes what a bridge serves now. Returns whether a new conflict appeared.
    pub(crate) async fn serves_changed(
        &self,
        directory: &Directory,
        registry: &Registry,
        entry: &Arc<TunnelEntry>,
    ) -> bool {
        self.claim(directory, &entry.owner, &entry.session.serves())
            .await;
        self.route(directory, registry, entry)
    }

    /// Notes the refused declarations. Returns whether the bridge had no conflict before.
    fn note(&self, owner: &TunnelOwner, routes: &AdvertisedRoutes, now: Instant) -> bool {
        let Some(detail) = describe_refused(routes) else {
            return false;
        };
        let mut conflicts = self.lock();
        let is_new = !conflicts.contains_key(&owner.bridge);
        // Above the limit a conflict is only missing in notices: routing does not read this map.
        if is_new && conflicts.len() >= CONFLICTS_MAX {
            return false;
        }
        let conflict = Conflict {
            owner: owner.clone(),
            detail,
            seen: now,
        };
        conflicts.insert(owner.bridge.clone(), conflict);
        is_new
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Conflict>> {
        self.conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what is routed to a bridge that serves this.
pub(crate) fn advertised_routes(
    directory: &Directory,
    owner: &TunnelOwner,
    serves: Arc<Serves>,
) -> AdvertisedRoutes {
    let declared = serves.endpoints.iter().map(String::as_str);
    let standings = directory.endpoints_of(owner, declared);
    AdvertisedRoutes::new(serves, standings)
}

/// Returns why a declaration is refused; `None` if it is not.
pub(crate) fn refusal(standing: &Standing) -> Option<String> {
    match standing {
        Standing::Own => None,
        Standing::Free => Some("the name is not claimed yet".to_owned()),
        Standing::Taken(holders) => Some(format!("it belongs to {}", holders.join(", "))),
        Standing::NotListed => {
            Some("the key that the bridge was paired with lists other endpoints".to_owned())
        }
    }
}

fn describe_refused(routes: &AdvertisedRoutes) -> Option<String> {
    let refused: Vec<String> = routes
        .refused()
        .map(|(name, standing)| format!("{name} ({})", refusal(standing).unwrap_or_default()))
        .collect();
    if refused.is_empty() {
        return None;
    }
    let more = match refused.len().saturating_sub(NAMES_SHOWN) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let shown: Vec<&str> = refused
        .iter()
        .take(NAMES_SHOWN)
        .map(String::as_str)
        .collect();
    Some(format!("{}{more}", shown.join(", ")))
}

async fn decide(
    directory: &Directory,
    owner: &TunnelOwner,
    free: &[String],
) -> Result<(), StorageError> {
    // Two relays may decide at the same time: the first commit wins, and `refresh` shows the winner.
    let storage = directory.storage();
    let claimed = storage.claim_endpoints(&owner.tenant, &owner.bridge, free);
    let claimed = claimed.await?;
    if !claimed.is_empty() {
        tracing::info!(
            tenant = &*directory.tenant_label(&owner.tenant),
            tenant_id = &*owner.tenant,
            bridge = %owner.name,
            endpoints = claimed.join(", "),
            "endpoint names claimed"
        );
    }
    directory.refresh().await
}
