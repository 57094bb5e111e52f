//! Notices: conditions that need attention, such as offline bridges, dead letters, and keys and
//! certificates that expire soon. The API shows them; tenants with a `notice_url` get them as signed
//! webhooks.
//!
//! A notice is raised once, and cleared when its cause is gone. Its webhook is a delivery like any other:
//! stored, signed, retried. A notice about an offline bridge does not wait for that bridge: it takes
//! another route, or only the API shows it.

use crate::bridge_versions::Outdated;
use crate::config::Tls;
use crate::control_plane::ControlPlane;
use crate::deliveries::SubmittedCall;
use crate::ownership::Conflict;
use crate::registry::{Installation, TunnelOwner};
use crate::routing::{self, RouteDecision, StoredRoute};
use crate::storage::audit::AuditEvent;
use crate::storage::idempotency::RequestDigest;
use crate::storage::notices::{Cause, Notice};
use crate::storage::tenants::SITE;
use crate::storage::{StorageError, now};
use policy::Target;
use protocol::version::AcceptedVersions;
use runtime::time::rfc3339;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often causes are checked.
const ROUND_INTERVAL: Duration = Duration::from_secs(30);

/// Delay after an urgent cause, so that causes that come together are handled in one round.
const URGENT_DELAY: Duration = Duration::from_secs(1);

/// How often the task checks whether deliveries are paused.
const PAUSE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How often this process checks whether it serves, before it reads what bridges served.
const RECALL_INTERVAL: Duration = Duration::from_secs(1);

/// Installations whose last declaration is read.
const OFFERS_MAX: u32 = 20_000;

/// Declarations that are stored in one round.
const OFFERS_PER_ROUND: usize = 1000;

/// How long a cleared notice is kept, in seconds.
const KEPT_S: i64 = 90 * 24 * 3600;

/// Time limit of a notice's webhook, in milliseconds.
const TIMEOUT_MS: u32 = 30_000;

/// Size limit of a notice URL in bytes.
const NOTICE_URL_MAX_BYTES: usize = 2048;

/// The kind of a notice about an offline bridge.
const BRIDGE_OFFLINE: &str = "bridge_offline";

/// Checks that notices can be sent to a URL.
///
/// # Errors
/// The reason.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    if url.len() > NOTICE_URL_MAX_BYTES {
        return Err(format!(
            "notice_url has {} bytes, the limit is {NOTICE_URL_MAX_BYTES}",
            url.len()
        ));
    }
    let parsed = Target::parse(url).map_err(|error| format!("notice_url: {error}"));
    parsed.map(drop)
}

/// Checks causes until the relay stops. Also stores what is in memory only: when bridges were connected,
/// and when keys were used.
pub(crate) async fn run(state: Arc<ControlPlane>) {
    let mut used_until = now() - 60;
    recall_offers(&state).await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
            () = state.notices_wanted.notified() => tokio::time::sleep(URGENT_DELAY).await,
        }
        // In standby no bridge is connected here, and all would be reported as offline.
        if !state.serving.is_active() {
            continue;
        }
        if let Err(error) = round(&state, &mut used_until).await {
            tracing::warn!(%error, "database unavailable; notices wait");
        }
    }
}

/// Reads what bridges served before this process served, once it does.
async fn recall_offers(state: &ControlPlane) {
    loop {
        if state.serving.is_active() {
            match state.directory.storage().last_offers(OFFERS_MAX).await {
                Ok(offers) => {
                    for stored in offers {
                        // One that a later version wrote may not be readable. It is then not known.
                        if let Ok(serves) = serde_json::from_str(&stored.serves) {
                            let of = Installation {
                                tenant: stored.tenant,
                                bridge: stored.bridge,
                                identity: stored.identity,
                            };
                            state.data.registry.recall_offer(of, serves);
                        }
                    }
                    return;
                }
                Err(error) => tracing::debug!(%error, "cannot read what bridges served yet"),
            }
        }
        tokio::time::sleep(RECALL_INTERVAL).await;
    }
}

/// Stores what bridges serve, where it has changed.
async fn store_offers(state: &ControlPlane) -> Result<(), StorageError> {
    let registry = &state.data.registry;
    let changed = registry.unstored_offers(OFFERS_PER_ROUND);
    if changed.is_empty() {
        return Ok(());
    }
    let as_json = changed.iter().filter_map(|(identity, offer)| {
        let serves = serde_json::to_string(&*offer.serves).ok()?;
        Some((identity.clone(), serves))
    });
    let as_json: Vec<_> = as_json.collect();
    let stored = state.directory.storage().store_offers(&as_json).await;
    if stored.is_err() {
        for (identity, _) in &changed {
            registry.offer_not_stored(identity);
        }
    }
    stored
}

/// Logs that deliveries were paused or resumed, which any process with the database can do.
pub(crate) async fn watch_pause(state: Arc<ControlPlane>) {
    let mut was_paused = false;
    loop {
        // Polled, since another process changes it in the database and sends no event.
        if let Ok(paused) = state.directory.storage().deliveries_paused().await {
            state.metrics.deliveries_paused(paused);
            match (was_paused, paused) {
                (false, true) => {
                    tracing::warn!(
                        "deliveries are paused: calls are stored, and no attempt begins; resume \
                         them by `integration-relay deliveries resume`"
                    );
                    state.notices_wanted.notify_one();
                }
                (true, false) => {
                    tracing::info!("deliveries are resumed");
                    state.notices_wanted.notify_one();
                }
                (true, true) | (false, false) => {}
            }
            was_paused = paused;
        }
        tokio::time::sleep(PAUSE_CHECK_INTERVAL).await;
    }
}

async fn round(state: &Arc<ControlPlane>, used_until: &mut i64) -> Result<(), StorageError> {
    let storage = state.directory.storage();
    let now_s = now();
    // A minute back: uses are noted by the minute, and the current minute is not over.
    let used = state.directory.used_since(*used_until);
    if !used.is_empty() {
        storage.keys_used(&used).await?;
    }
    *used_until = now_s - 60;
    let online: HashSet<Arc<str>> = state.data.registry.bridges();
    let seen: HashMap<Arc<str>, i64> = online.iter().map(|id| (id.clone(), now_s)).collect();
    if !seen.is_empty() {
        storage.bridges_seen(&seen).await?;
    }
    store_offers(state).await?;
    let config = &state.config.notices;
    let span =
        |span: crate::config::ConfigDuration| i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX);
    // A short disconnect raises no notice: bridges reconnect after every network problem.
    let since = now_s.saturating_sub(span(config.bridge_offline_after));
    let offline = storage.bridges_away(since).await?;
    let offline: Vec<Cause> = offline
        .into_iter()
        // The stored time is updated late: a bridge that has just connected is not offline.
        .filter(|(_, id)| !online.contains(id.as_str()))
        .map(|(cause, _)| cause)
        .collect();
    settle(state, BRIDGE_OFFLINE, &offline).await?;
    let before = now_s.saturating_add(span(config.key_expires_within));
    let is_paused = storage.deliveries_paused().await?;
    let paused: Vec<Cause> = is_paused.then(paused_cause).into_iter().collect();
    settle(state, "deliveries_paused", &paused).await?;
    settle(state, "key_expires", &storage.keys_expiring(before).await?).await?;
    settle(state, "pairing_file_reused", &storage.keys_reused().await?).await?;
    settle(state, "dead_letters", &storage.dead_letters().await?).await?;
    let outage = state.directory.take_outage();
    let outages: Vec<Cause> = outage.into_iter().map(outage_cause).collect();
    settle(state, "database_silent", &outages).await?;
    let now_instant = Instant::now();
    let cloned = state.data.registry.cloned(now_instant).into_iter();
    let cloned: Vec<Cause> = cloned.map(|owner| cloned_cause(&owner)).collect();
    let raised = settle(state, "bridge_cloned", &cloned).await?;
    record_events(state, "bridge.cloned", raised).await;
    let conflicts = state.ownership.conflicts(now_instant).into_iter();
    let conflicts: Vec<Cause> = conflicts.map(conflict_cause).collect();
    let raised = settle(state, "endpoint_conflict", &conflicts).await?;
    record_events(state, "endpoint.conflict", raised).await;
    let accepted = state.bridge_versions.accepted();
    let outdated = state
        .bridge_versions
        .outdated(&state.data.registry, now_instant);
    let outdated: Vec<Cause> = outdated
        .into_iter()
        .map(|outdated| outdated_cause(outdated, &accepted))
        .collect();
    settle(state, "bridge_outdated", &outdated).await?;
    let soon = certificate(state, span(config.certificate_expires_within));
    settle(state, "certificate_expires", &soon).await?;
    storage.forget_notices(now_s - KEPT_S).await
}

/// Returns the cause for a past outage of the database, during which no notice could be stored.
fn outage_cause(outage: Duration) -> Cause {
    let seconds = outage.as_secs();
    Cause {
        tenant: SITE.into(),
        object: "database".into(),
        detail: format!(
            "the database did not respond for {seconds} s; meanwhile the relay used the last known keys \
             and bridges, at most for directory.stale_max"
        ),
    }
}

fn paused_cause() -> Cause {
    Cause {
        tenant: SITE.into(),
        object: "deliveries".into(),
        detail: "deliveries are paused: calls are stored, and no attempt begins. To resume them: \
                 integration-relay deliveries resume"
            .into(),
    }
}

fn cloned_cause(owner: &TunnelOwner) -> Cause {
    Cause {
        tenant: owner.tenant.clone(),
        object: owner.name.to_string(),
        detail: format!(
            "two processes connect as the bridge {}: its data directory was copied. Stop one of them, \
             and pair it again under another name",
            owner.name
        ),
    }
}

fn conflict_cause(conflict: Conflict) -> Cause {
    let name = &conflict.owner.name;
    Cause {
        detail: format!(
            "the bridge {name} declares endpoints that it does not own, and gets no requests for them: \
             {}. To assign one: integration-relay bridge assign {name} --endpoint NAME",
            conflict.detail
        ),
        object: name.to_string(),
        tenant: conflict.owner.tenant,
    }
}

fn outdated_cause(outdated: Outdated, accepted: &AcceptedVersions) -> Cause {
    let Outdated {
        owner,
        software,
        is_refused,
    } = outdated;
    let name = &owner.name;
    let oldest = accepted.oldest.as_ref();
    let oldest = oldest.map_or_else(String::new, |oldest| format!(" ({oldest})"));
    let effect = match is_refused {
        true => "the relay refuses it",
        false => "it still works",
    };
    Cause {
        detail: format!(
            "the bridge {name} runs {software}, which is older than bridges.version_oldest{oldest}; {effect}. Update it: \
             integration-bridge update --help"
        ),
        object: name.to_string(),
        tenant: owner.tenant,
    }
}

/// Records raised notices in the audit record.
async fn record_events(state: &ControlPlane, action: &'static str, raised: Vec<Notice>) {
    for notice in raised {
        let event = AuditEvent {
            tenant: notice.tenant,
            actor: "relay".into(),
            action,
            bridge: notice.object.as_str().into(),
            object: notice.object,
            result: "refused",
            count: 1,
            detail: json!({"detail": notice.detail}).to_string(),
            ..AuditEvent::default()
        };
        state.audit.record(event).await;
    }
}

/// Returns a cause if the relay's own certificate expires soon.
fn certificate(state: &ControlPlane, within: i64) -> Vec<Cause> {
    let Some(Tls::Files { cert_file, .. }) = &state.config.tls else {
        return Vec::new();
    };
    let Some(expires) = crate::listener::tls::expires(cert_file) else {
        return Vec::new();
    };
    if expires - now() > within {
        return Vec::new();
    }
    vec![Cause {
        tenant: SITE.into(),
        object: cert_file.display().to_string(),
        detail: "the relay's certificate has expired or expires soon".into(),
    }]
}

/// Raises and clears the notices of a kind. Returns the raised ones.
async fn settle(
    state: &Arc<ControlPlane>,
    kind: &str,
    causes: &[Cause],
) -> Result<Vec<Notice>, StorageError> {
    let storage = state.directory.storage();
    let raised = storage.settle_notices(kind, causes).await?;
    for notice in raised.clone() {
        tracing::warn!(
            tenant = &*state.directory.tenant_label(&notice.tenant),
            tenant_id = &*notice.tenant,
            kind,
            object = notice.object,
            detail = notice.detail,
            "notice"
        );
        send(state, notice).await?;
    }
    Ok(raised)
}

/// Sends a notice, if its tenant has a notice URL.
async fn send(state: &Arc<ControlPlane>, notice: Notice) -> Result<(), StorageError> {
    let tenant = notice.tenant.clone();
    let Some(name) = state
        .directory
        .tenant_name(&tenant)
        .filter(|_| &*tenant != SITE)
    else {
        return Ok(());
    };
    let stored = state.directory.storage().tenant(&name).await?;
    let Some(url) = stored.notice_url else {
        return Ok(());
    };
    // The URL was checked when it was set, so this cannot fail.
    let Ok(target) = Target::parse(&url) else {
        return Ok(());
    };
    // The notice is routed like a call of the tenant, with the same patterns.
    let class = routing::classify(&state.directory.direct_urls(&tenant), "POST", &url, false);
    let host = target.host().to_string();
    let stored = StoredRoute {
        tenant: &tenant,
        bridge: None,
        host: &host,
        is_direct: class.is_direct,
    };
    if notice.kind == BRIDGE_OFFLINE
        && !matches!(
            routing::decide_stored(state.data.routes(), stored),
            RouteDecision::Bridge(_) | RouteDecision::Direct
        )
    {
        // As a stored call it would wait for the bridge that it is about.
        tracing::warn!(
            notice = notice.id,
            "a notice is only shown in the API: its URL needs the bridge that is offline"
        );
        return Ok(());
    }
    let document = json!({
        "type": format!("notice.{}", notice.kind),
        "timestamp": rfc3339(notice.raised),
        "data": {
            "id": notice.id,
            "tenant": &*name,
            "object": notice.object,
            "detail": notice.detail,
        },
    });
    let mut headers = http::HeaderMap::new();
    let json = http::HeaderValue::from_static("application/json");
    headers.insert(http::header::CONTENT_TYPE, json);
    let call = SubmittedCall {
        id: crate::deliveries::fresh_id()?,
        label: Some(format!("notice.{}", notice.kind)),
        host,
        url,
        class,
        method: "POST".to_owned(),
        headers: transport::http::to_wire(&headers, |_| false).unwrap_or_default(),
        body: document.to_string().into(),
        credential: None,
        timeout_ms: TIMEOUT_MS,
        bridge: None,
        // A receiver recognizes repeated notices by `webhook-id`.
        at_least_once: true,
        // A second submission of the same notice returns the first call.
        idempotency_key: Some(notice.id.clone()),
        digest: RequestDigest::default(),
        expires_in: None,
    };
    if let Err(problem) = state.deliveries.accept(&tenant, "relay", call).await {
        let detail = problem.failure.detail;
        tracing::warn!(notice = notice.id, detail, "cannot send a notice");
    }
    Ok(())
}
