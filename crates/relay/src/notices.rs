//! What somebody should know: a bridge that is away, dead letters, keys and certificates that are
//! about to expire. In the API, and by signed webhook where the tenant has a `notice_url`.
//!
//! A notice is raised once, and cleared when its cause is gone. Its webhook is a delivery like any
//! other: stored, signed, tried again. One about a bridge that is away does not wait for that bridge: it goes
//! by another route, or only the API shows it.

use crate::api::pairing::failed;
use crate::api::{Context, Handling, json, page::Page};
use crate::config::Tls;
use crate::deliveries::Handed;
use crate::ownership::Conflict;
use crate::problem::Problem;
use crate::registry::TunnelOwner;
use crate::routing::{self, StoredRoute, Way};
use crate::state::State;
use crate::storage::audit::AuditEvent;
use crate::storage::notices::{Cause, Notice};
use crate::storage::tenants::{SITE, TenantChange};
use crate::storage::{StorageError, now};
use bytes::Bytes;
use http::{Request, StatusCode};
use policy::Target;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often causes are looked for.
const ROUND_EVERY: Duration = Duration::from_secs(30);

/// How long after something that cannot wait: what comes together is handled once.
const ROUND_AFTER: Duration = Duration::from_secs(1);

/// How often it is looked whether deliveries are paused.
const PAUSE_EVERY: Duration = Duration::from_secs(2);

/// How long a cleared notice is kept, in seconds.
const KEPT: i64 = 90 * 24 * 3600;

/// How long the webhook of a notice may take.
const TIMEOUT_MS: u32 = 30_000;

/// Longest URL that notices are sent to, in bytes.
const NOTICE_URL_MAX_BYTES: usize = 2048;

/// The kind of a notice about a bridge that is away.
const BRIDGE_OFFLINE: &str = "bridge_offline";

/// A notice.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NoticeView {
    /// Its id.
    id: String,
    /// Whose it is.
    tenant: String,
    /// `bridge_offline`, `bridge_cloned`, `endpoint_conflict`, `dead_letters`, `key_expires`,
    /// `certificate_expires` or `database_silent`.
    kind: String,
    /// What it is about: a bridge's name, a client id, a file.
    object: String,
    /// In words.
    detail: String,
    /// When it was raised, in seconds since 1970.
    raised: i64,
    /// When its cause was gone.
    cleared: Option<i64>,
}

/// A page of notices.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NoticePage {
    /// Newest first.
    notices: Vec<NoticeView>,
    /// For the next page; null on the last one.
    next_cursor: Option<String>,
}

fn view(state: &State, notice: Notice) -> NoticeView {
    let tenant = state.directory.tenant_name(&notice.tenant);
    NoticeView {
        id: notice.id,
        tenant: tenant.map_or_else(String::new, |name| name.to_string()),
        kind: notice.kind,
        object: notice.object,
        detail: notice.detail,
        raised: notice.raised,
        cleared: notice.cleared,
    }
}

pub(crate) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let tenant = if cx.is_site_admin() && cx.query.text("tenant").is_none() {
            String::new()
        } else {
            cx.tenant()?.to_string()
        };
        let page = Page::of(&cx.query)?;
        let only_open = cx.query.flag("open")?;
        let before = page.after.clone().unwrap_or_default();
        let storage = cx.state.directory.storage();
        let notices = storage.notices(&tenant, only_open, &before, page.rows());
        let mut notices = notices.await.map_err(failed)?;
        let next_cursor = page.cut(&mut notices, |notice| notice.id.clone());
        let notices = notices.into_iter().map(|notice| view(cx.state, notice));
        let document = NoticePage {
            notices: notices.collect(),
            next_cursor,
        };
        json::reply(StatusCode::OK, &document)
    })
}

/// Where a tenant's notices are sent.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticeUrl {
    /// An absolute `http` or `https` URL; null for nowhere. The way there is that of any stored call.
    #[schemars(length(max = 2048))]
    url: Option<String>,
}

/// Whether notices can be sent to a URL.
///
/// # Errors
/// Why not.
pub fn check_url(url: &str) -> Result<(), String> {
    if url.len() > NOTICE_URL_MAX_BYTES {
        return Err(format!(
            "notice_url has {} bytes, the limit is {NOTICE_URL_MAX_BYTES}",
            url.len()
        ));
    }
    let parsed = Target::parse(url).map_err(|error| format!("notice_url: {error}"));
    parsed.map(drop)
}

pub(crate) fn show_url<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let name = tenant_name(cx)?;
        let tenant = cx.storage().tenant(&name).await.map_err(failed)?;
        let document = NoticeUrl {
            url: tenant.notice_url,
        };
        json::reply(StatusCode::OK, &document)
    })
}

pub(crate) fn change_url<'a>(cx: &'a Context<'a>, request: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let wanted: NoticeUrl = json::read(&request)?;
        if let Some(url) = &wanted.url {
            check_url(url).map_err(Problem::invalid)?;
        }
        let change = TenantChange {
            notice_url: Some(wanted.url.clone()),
            ..TenantChange::default()
        };
        let name = tenant_name(cx)?;
        let changed = cx.storage().change_tenant(&name, &change, None).await;
        changed.map_err(failed)?;
        json::reply(StatusCode::OK, &wanted)
    })
}

fn tenant_name(cx: &Context<'_>) -> Result<Arc<str>, Problem> {
    let name = cx.state.directory.tenant_name(&cx.tenant()?);
    name.ok_or_else(Problem::not_found)
}

/// Looks for causes until the relay stops; and writes down what is only noted in memory: when
/// bridges were there, and when keys were used.
pub async fn run(state: Arc<State>) {
    let mut used_until = now() - 60;
    loop {
        tokio::select! {
            () = tokio::time::sleep(ROUND_EVERY) => {}
            () = state.notices_wanted.notified() => tokio::time::sleep(ROUND_AFTER).await,
        }
        // A relay that stands by sees no bridge, and would report all of them.
        if !state.serving.is_active() {
            continue;
        }
        if let Err(error) = round(&state, &mut used_until).await {
            tracing::warn!(%error, "notices wait: the database does not answer");
        }
    }
}

/// Says that deliveries were paused or resumed, which any process with the database can do.
pub async fn watch_pause(state: Arc<State>) {
    let mut was_paused = false;
    loop {
        if let Ok(paused) = state.directory.storage().deliveries_paused().await {
            state.metrics.deliveries_paused(paused);
            match (was_paused, paused) {
                (false, true) => {
                    tracing::warn!(
                        "deliveries are paused: calls are stored, and no attempt begins"
                    );
                }
                (true, false) => tracing::info!("deliveries are resumed"),
                (true, true) | (false, false) => {}
            }
            was_paused = paused;
        }
        tokio::time::sleep(PAUSE_EVERY).await;
    }
}

async fn round(state: &Arc<State>, used_until: &mut i64) -> Result<(), StorageError> {
    let storage = state.directory.storage();
    let moment = now();
    let used = state.directory.used_since(*used_until);
    if !used.is_empty() {
        storage.keys_used(&used).await?;
    }
    *used_until = moment - 60;
    let online: HashSet<Arc<str>> = state.registry.bridges();
    let seen: HashMap<Arc<str>, i64> = online.iter().map(|id| (id.clone(), moment)).collect();
    if !seen.is_empty() {
        storage.bridges_seen(&seen).await?;
    }
    let config = &state.config.notices;
    let span =
        |span: crate::config::ConfigDuration| i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX);
    let since = moment.saturating_sub(span(config.bridge_offline_after));
    let away = storage.bridges_away(since).await?;
    let away: Vec<Cause> = away
        .into_iter()
        .filter(|(_, id)| !online.contains(id.as_str()))
        .map(|(cause, _)| cause)
        .collect();
    settle(state, BRIDGE_OFFLINE, &away).await?;
    let before = moment.saturating_add(span(config.key_expires_within));
    settle(state, "key_expires", &storage.keys_expiring(before).await?).await?;
    settle(state, "dead_letters", &storage.dead_letters().await?).await?;
    let silent = state.directory.take_silence();
    let silent: Vec<Cause> = silent.into_iter().map(database_was_silent).collect();
    settle(state, "database_silent", &silent).await?;
    let moment_now = Instant::now();
    let cloned = state.registry.cloned(moment_now).into_iter();
    let cloned: Vec<Cause> = cloned.map(|owner| cloned_cause(&owner)).collect();
    let raised = settle(state, "bridge_cloned", &cloned).await?;
    written_down(state, "bridge.cloned", raised).await;
    let conflicts = state.ownership.conflicts(moment_now).into_iter();
    let conflicts: Vec<Cause> = conflicts.map(conflict_cause).collect();
    let raised = settle(state, "endpoint_conflict", &conflicts).await?;
    written_down(state, "endpoint.conflict", raised).await;
    let soon = certificate(state, span(config.certificate_expires_within));
    settle(state, "certificate_expires", &soon).await?;
    storage.forget_notices(moment - KEPT).await
}

/// The database did not answer for a while. No notice could be stored then.
fn database_was_silent(silent: Duration) -> Cause {
    let seconds = silent.as_secs();
    Cause {
        tenant: SITE.into(),
        object: "database".into(),
        detail: format!(
            "the database did not answer for {seconds} s; keys and bridges were valid as they were \
             known before, at most for directory.stale_max"
        ),
    }
}

fn cloned_cause(owner: &TunnelOwner) -> Cause {
    Cause {
        tenant: owner.tenant.clone(),
        object: owner.name.to_string(),
        detail: format!(
            "two processes connect as the bridge {}: its data directory was copied. Stop one of them, \
             and pair it again under a name of its own",
            owner.name
        ),
    }
}

fn conflict_cause(conflict: Conflict) -> Cause {
    let name = &conflict.owner.name;
    Cause {
        detail: format!(
            "the bridge {name} declares endpoints that are not its own, and gets no requests for \
             them: {}. If that is meant: integration-relay bridge assign {name} --endpoint NAME",
            conflict.detail
        ),
        object: name.to_string(),
        tenant: conflict.owner.tenant,
    }
}

/// Writes what was raised into the audit record.
async fn written_down(state: &State, action: &'static str, raised: Vec<Notice>) {
    for notice in raised {
        let act = AuditEvent {
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
        state.audit.record(act).await;
    }
}

/// The relay's own certificate, if it expires soon.
fn certificate(state: &State, within: i64) -> Vec<Cause> {
    let Some(Tls::Files { cert_file, .. }) = &state.config.tls else {
        return Vec::new();
    };
    let Some(expires) = crate::listener::tls::expires(cert_file) else {
        return Vec::new();
    };
    state.metrics.certificate_expires(expires);
    if expires - now() > within {
        return Vec::new();
    }
    vec![Cause {
        tenant: SITE.into(),
        object: cert_file.display().to_string(),
        detail: "the relay's certificate is about to expire, or has expired".into(),
    }]
}

/// Raises and clears the notices of a kind. Returns those that were raised.
async fn settle(
    state: &Arc<State>,
    kind: &str,
    causes: &[Cause],
) -> Result<Vec<Notice>, StorageError> {
    let storage = state.directory.storage();
    let raised = storage.settle_notices(kind, causes).await?;
    for notice in raised.clone() {
        tracing::warn!(
            tenant = %notice.tenant,
            kind,
            object = notice.object,
            detail = notice.detail,
            "notice"
        );
        send(state, notice).await?;
    }
    Ok(raised)
}

/// Sends a notice, if its tenant wants that.
async fn send(state: &Arc<State>, notice: Notice) -> Result<(), StorageError> {
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
    // It was checked when it was set.
    let Ok(target) = Target::parse(&url) else {
        return Ok(());
    };
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
            routing::decide_stored(state, stored),
            Way::Bridge(_) | Way::Direct
        )
    {
        // Handed over, it would wait for the bridge that it is about.
        tracing::warn!(
            notice = notice.id,
            "a notice is only shown in the API: its URL cannot be reached without the bridge that is away"
        );
        return Ok(());
    }
    let document = json!({
        "type": format!("notice.{}", notice.kind),
        "timestamp": notice.raised,
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
    let handed = Handed {
        id: crate::deliveries::fresh_id()?,
        host,
        url,
        class,
        method: "POST".to_owned(),
        headers: transport::http::to_wire(&headers, |_| false).unwrap_or_default(),
        body: document.to_string().into(),
        credential: None,
        timeout_ms: TIMEOUT_MS,
        bridge: None,
        at_least_once: true,
        // The same notice is handed over once.
        idempotency_key: Some(notice.id.clone()),
        digest: Vec::new(),
        expires_in: None,
    };
    if let Err(problem) = state.deliveries.accept(&tenant, "relay", handed).await {
        let detail = problem.failure.detail;
        tracing::warn!(notice = notice.id, detail, "a notice could not be sent");
    }
    Ok(())
}
