//! Which bridge an endpoint's name belongs to, for the tunnels that are up.
//!
//! ```text
//! HELLO, STATUS --> free names? --> the database decides --> directory --> AdvertisedRoutes --> registry
//! directory changed, or every few seconds -----------------------^
//! ```
//!
//! The data path reads the registry alone, which lists a tunnel only by the endpoints that are its
//! own. A declaration that is refused costs the bridge nothing else: its other endpoints work. It is
//! logged, counted, and shown by `bridges` and by a notice.

use crate::control_plane::ControlPlane;
use crate::registry::{AdvertisedRoutes, Standing, TunnelEntry, TunnelOwner};
use crate::storage::StorageError;
use crate::throttle::LogRateLimiter;
use protocol::frame::Serves;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a tunnel's opening waits for the database to decide about free names. They are claimed
/// later otherwise.
const CLAIM_WITHIN: Duration = Duration::from_secs(2);

/// How often names are claimed again that could not be.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// How long a conflict is remembered after it was last seen, so that a bridge that comes and goes
/// raises one notice.
const CONFLICT_KEPT: Duration = Duration::from_secs(600);

/// Bridges with a conflict that are remembered.
const CONFLICTS_MAX: usize = 10_000;

/// Names that a conflict's text lists.
const NAMES_SHOWN: usize = 5;

/// A bridge that declares what is not its own.
#[derive(Debug, Clone)]
pub struct Conflict {
    /// Whose bridge it is.
    pub owner: TunnelOwner,
    /// What it declares, in words.
    pub detail: String,
    seen: Instant,
}

/// What is known of declarations that were refused.
#[derive(Debug, Default)]
pub struct Ownership {
    /// By the bridge's id.
    conflicts: Mutex<HashMap<Arc<str>, Conflict>>,
    /// Names are free that a connected bridge declares: the database did not decide yet.
    is_open: AtomicBool,
    lines: LogRateLimiter,
}

impl Ownership {
    /// The bridges that declare what is not their own, now or a short while ago.
    pub fn conflicts(&self, now: Instant) -> Vec<Conflict> {
        let mut conflicts = self
            .conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        conflicts
            .retain(|_, conflict| now.saturating_duration_since(conflict.seen) < CONFLICT_KEPT);
        conflicts.values().cloned().collect()
    }

    /// Notes what an offer has that is refused. True if the bridge had no conflict before.
    fn note(&self, owner: &TunnelOwner, offer: &AdvertisedRoutes, now: Instant) -> bool {
        let detail = described(offer);
        let mut conflicts = self
            .conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(detail) = detail else {
            return false;
        };
        let is_new = !conflicts.contains_key(&owner.bridge);
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

    /// An administrator has changed who has a name: what is no conflict any more is forgotten.
    fn forget(&self, bridge: &str) {
        let mut conflicts = self
            .conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        conflicts.remove(bridge);
    }
}

/// Why a declaration is refused.
pub fn why(standing: &Standing) -> Option<String> {
    match standing {
        Standing::Own => None,
        Standing::Free => Some("the name is not claimed yet".to_owned()),
        Standing::Taken(holders) => Some(format!("it belongs to {}", holders.join(", "))),
        Standing::NotListed => {
            Some("the key that the bridge was paired with lists other endpoints".to_owned())
        }
    }
}

fn described(offer: &AdvertisedRoutes) -> Option<String> {
    let refused: Vec<String> = offer
        .refused()
        .map(|(name, standing)| format!("{name} ({})", why(standing).unwrap_or_default()))
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

/// What is routed to a bridge that serves this.
pub fn offer(state: &ControlPlane, owner: &TunnelOwner, serves: Arc<Serves>) -> AdvertisedRoutes {
    let declared = serves.endpoints.iter().map(String::as_str);
    let standings = state.directory.endpoints_of(owner, declared);
    AdvertisedRoutes::new(serves, standings)
}

/// Claims the names that are free. When this returns, the directory knows what the database decided,
/// unless the database does not answer: then [`follow`] claims them.
pub async fn claim(state: &ControlPlane, owner: &TunnelOwner, serves: &Serves) {
    let declared = || serves.endpoints.iter().map(String::as_str);
    let (standings, _) = state.directory.endpoints_of(owner, declared());
    let free: Vec<String> = declared()
        .zip(&standings)
        // What cannot be an endpoint's name is never routed.
        .filter(|(name, standing)| **standing == Standing::Free && policy::is_endpoint_name(name))
        .map(|(name, _)| name.to_owned())
        .collect();
    if free.is_empty() {
        return;
    }
    match tokio::time::timeout(CLAIM_WITHIN, decide(state, owner, &free)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            state.ownership.is_open.store(true, Ordering::Relaxed);
            tracing::warn!(bridge = %owner.name, %error, "endpoint names could not be claimed yet");
        }
        Err(_) => {
            state.ownership.is_open.store(true, Ordering::Relaxed);
            tracing::warn!(bridge = %owner.name, "endpoint names could not be claimed in time yet");
        }
    }
}

async fn decide(
    state: &ControlPlane,
    owner: &TunnelOwner,
    free: &[String],
) -> Result<(), StorageError> {
    let storage = state.directory.storage();
    let claimed = storage.claim_endpoints(&owner.tenant, &owner.bridge, free);
    let claimed = claimed.await?;
    if !claimed.is_empty() {
        tracing::info!(
            tenant = %owner.tenant,
            bridge = %owner.name,
            endpoints = claimed.join(", "),
            "endpoint names claimed"
        );
    }
    state.directory.refresh().await
}

/// Routes to a tunnel what is its own now.
pub fn route(state: &ControlPlane, entry: &Arc<TunnelEntry>) {
    let new = offer(state, &entry.owner, entry.session.serves());
    let old = entry.offer();
    let conflicts = new.refused().count();
    report(state, &entry.owner, &new);
    if conflicts == 0 && old.refused().count() > 0 {
        state.ownership.forget(&entry.owner.bridge);
    }
    if !new.is_like(&old) {
        state.data.registry.set_offer(entry, new);
    }
}

/// Says that a declaration is refused.
pub fn report(state: &ControlPlane, owner: &TunnelOwner, offer: &AdvertisedRoutes) {
    let is_new = state.ownership.note(owner, offer, Instant::now());
    if is_new && state.ownership.lines.allow() {
        tracing::warn!(
            tenant = %owner.tenant,
            bridge = %owner.name,
            endpoints = described(offer),
            suppressed = state.ownership.lines.suppressed(),
            "a bridge declares endpoints that are not its own: they are not routed to it"
        );
    }
    if is_new {
        state.notices_wanted.notify_one();
    }
}

/// A bridge serves something else now.
pub async fn serves_changed(state: &ControlPlane, entry: &Arc<TunnelEntry>) {
    claim(state, &entry.owner, &entry.session.serves()).await;
    route(state, entry);
}

/// Follows the directory: names that were assigned, released, or left by a revoked bridge.
pub async fn follow(state: Arc<ControlPlane>) {
    let mut changed = state.directory.changed();
    let mut seen = 0;
    loop {
        tokio::select! {
            change = changed.changed() => if change.is_err() { return },
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
        let revision = state.directory.claims_revision();
        let was_open = state.ownership.is_open.swap(false, Ordering::Relaxed);
        if revision == seen && !was_open {
            continue;
        }
        seen = revision;
        let mut by_tenant: BTreeMap<Arc<str>, Vec<Arc<TunnelEntry>>> = BTreeMap::new();
        for entry in state.data.registry.all() {
            by_tenant
                .entry(entry.owner.tenant.clone())
                .or_default()
                .push(entry);
        }
        for entries in by_tenant.into_values() {
            for entry in &entries {
                serves_changed(&state, entry).await;
            }
            if let Some(entry) = entries.first() {
                state.deliveries.routes_changed(&entry.owner.tenant);
            }
        }
    }
}
