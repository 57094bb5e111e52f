//! `/v1/bridges ...`: a tenant's bridges, to show, disable, enable, revoke, and assign endpoints to.

use super::errors::failed;
use super::timestamp::Timestamp;
use super::{Context, Handling, json, page::Page};
use crate::access::Object;
use crate::audit::checkpoints::hex;
use crate::directory::BridgeSummary;
use crate::ownership;
use crate::problem::Problem;
use crate::registry::{Standing, TunnelEntry};
use crate::storage::now;
use bytes::Bytes;
use http::{Request, StatusCode};
use protocol::Code;
use protocol::frame::{EndpointHealth, Reach};
use protocol::version::UpdateState;
use runtime::peer_text::PeerText;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// A bridge.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BridgeView {
    /// The bridge's name.
    name: String,
    /// The bridge's id.
    id: String,
    /// Whether it has an open tunnel.
    online: bool,
    /// Whether it is disconnected until an administrator enables it.
    disabled: bool,
    /// Whether an administrator allowed TLS inspection between the bridge and the relay.
    tls_inspection: bool,
    /// Whether two machines appear to use the same identity.
    cloned: bool,
    /// When it was first paired.
    created_at: Timestamp,
    /// When it last had a tunnel.
    last_seen_at: Option<Timestamp>,
    /// Number of installations that may authenticate as this bridge.
    installations: usize,
    /// Whether it should be updated: `required` if it is older than `version_oldest`, `available` if it is older than
    /// `version_newest`, `current`, or `unknown`. The oldest of its tunnels counts.
    update: &'static str,
    /// The newest version that the operator has named for bridges; null for none.
    version_newest: Option<String>,
    /// The oldest version that the operator supports; null for none.
    version_oldest: Option<String>,
    /// The version with which the relay refused it lately, because it is too old; null if it did not.
    version_refused: Option<String>,
    /// Endpoint names that it owns, whether it declares them now or not. A narrowed key sees those that it
    /// may use.
    owned_endpoints: Vec<String>,
    /// Connected tunnels.
    sessions: Vec<SessionView>,
}

/// A tunnel.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SessionView {
    /// The host's name, as the bridge reports it.
    host: String,
    /// The bridge's version.
    software: String,
    /// Whether it should be updated: `required`, `available`, `current` or `unknown`.
    update: &'static str,
    /// Seconds since the tunnel was opened.
    up_s: u64,
    /// Requests in progress.
    streams: u32,
    /// Shortest round trip so far, in milliseconds.
    rtt_ms: f64,
    /// Whether it accepts no new requests.
    draining: bool,
    /// Whether stored calls are delivered through it.
    delivers: bool,
    /// Endpoints that it declares. A narrowed key sees those that it may use.
    endpoints: Vec<EndpointView>,
    /// Head of its audit file, as last reported; null if it keeps none.
    audit: Option<AuditHeadView>,
    /// Why the bridge rejected its config at the last reload; null if it did not.
    config_refused: Option<String>,
    /// Host patterns that it serves; null if it does not publish them, and for keys that are narrowed to
    /// hosts or endpoints.
    hosts: Option<Vec<String>>,
}

/// The head of an audit file.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditHeadView {
    /// Number of lines.
    lines: u64,
    /// SHA-256 of the last line, in hexadecimal.
    hash: String,
}

/// An endpoint that a bridge declares.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EndpointView {
    /// The endpoint's name.
    name: String,
    /// Why nothing is routed to it: another bridge owns the name, or the key that the bridge was paired
    /// with does not list it. Null if it is routed.
    refused: Option<String>,
    /// `up`, `down`, or `unknown` if the bridge has not checked it, or does not report it.
    health: &'static str,
    /// The target's status at the last health check, if the check is an HTTP request.
    status: Option<u16>,
    /// The code of the failure.
    code: Option<String>,
    /// When the bridge last checked it.
    checked_at: Option<Timestamp>,
}

/// A page of bridges.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BridgePage {
    /// Sorted by name.
    bridges: Vec<BridgeView>,
    /// Cursor of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// The result of an operation on a bridge.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BridgeDone {
    /// The bridge's name.
    name: String,
    /// Whether it is revoked.
    revoked: bool,
    /// Whether it is disconnected until an administrator enables it.
    disabled: bool,
}

/// Whether a bridge may connect through TLS inspection.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TlsInspectionView {
    /// The bridge's name.
    name: String,
    /// Whether its tunnels need not be bound to the relay's own TLS connection.
    tls_inspection: bool,
}

/// The bridges that own an endpoint's name.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EndpointHolders {
    /// The endpoint's name.
    endpoint: String,
    /// The bridges, by name. Empty: the first one that declares the name gets it.
    bridges: Vec<String>,
}

fn unknown() -> Problem {
    Problem::not_sent(Code::NotFound, "there is no bridge of that name")
}

fn owned_endpoints(cx: &Context<'_>, bridge: &BridgeSummary) -> Vec<String> {
    let tenant = bridge.tenant.as_str();
    let mut owned = cx.state.directory.claimed_by(tenant, bridge.id.as_str());
    owned.retain(|name| cx.principal.scope.sees(Object::Endpoint(name)));
    owned
}

/// Returns a bridge with its own sessions.
fn view(
    cx: &Context<'_>,
    bridge: &BridgeSummary,
    own: &[Arc<TunnelEntry>],
    last: Option<i64>,
) -> BridgeView {
    let online = own.iter().any(|entry| entry.session.is_open());
    let registry = &cx.state.data.registry;
    let versions = &cx.state.bridge_versions;
    let accepted = versions.accepted();
    let refused = versions.refused_version(bridge.id.as_str());
    let states = own
        .iter()
        .map(|entry| versions.state_of(entry.software.as_str()));
    let update = match refused {
        Some(_) => UpdateState::Required,
        None => states.max().unwrap_or(UpdateState::Unknown),
    };
    BridgeView {
        name: bridge.name.to_string(),
        id: bridge.id.to_string(),
        online,
        disabled: bridge.is_disabled,
        tls_inspection: bridge.is_inspected,
        cloned: registry.is_cloned(bridge.id.as_str(), Instant::now()),
        created_at: Timestamp::Seconds(bridge.created),
        // The stored time is up to half a minute old, so a connected bridge counts as seen now.
        last_seen_at: if online { Some(now()) } else { last }.map(Timestamp::Seconds),
        installations: bridge.installations,
        update: update.as_str(),
        version_newest: accepted.newest.as_ref().map(ToString::to_string),
        version_oldest: accepted.oldest.as_ref().map(ToString::to_string),
        version_refused: refused.map(|software| software.to_string()),
        owned_endpoints: owned_endpoints(cx, bridge),
        sessions: own.iter().map(|entry| session(cx, entry)).collect(),
    }
}

fn session(cx: &Context<'_>, entry: &TunnelEntry) -> SessionView {
    let scope = &cx.principal.scope;
    let versions = &cx.state.bridge_versions;
    let offer = entry.offer();
    let report = entry.session.report();
    let health = |at: usize| {
        let found = report.as_ref().and_then(|report| report.endpoints.get(at));
        found.copied().unwrap_or_default()
    };
    let endpoints = offer
        .declared()
        .enumerate()
        .filter(|(_, (name, _))| scope.sees(Object::Endpoint(name)))
        .map(|(at, (name, standing))| endpoint(name, standing, health(at)));
    SessionView {
        host: entry.host.to_string(),
        software: entry.software.to_string(),
        update: versions.state_of(entry.software.as_str()).as_str(),
        up_s: entry.since.elapsed().as_secs(),
        streams: entry.session.streams_open(),
        rtt_ms: entry.session.rtt().as_micros() as f64 / 1e3,
        draining: !entry.session.is_open(),
        delivers: entry.is_delivering(),
        endpoints: endpoints.collect(),
        audit: report
            .as_ref()
            .and_then(|report| report.audit.as_ref())
            .map(|head| AuditHeadView {
                lines: head.sequence,
                hash: hex(&head.hash),
            }),
        config_refused: report
            .and_then(|report| report.config_refused.as_deref().map(PeerText::new))
            .map(|text| text.to_string()),
        // The patterns of a bridge would reveal hosts that such a key may not call.
        hosts: match scope.has_targets() {
            true => None,
            false => offer
                .serves
                .hosts
                .as_ref()
                .map(|hosts| hosts.as_slice().to_vec()),
        },
    }
}

fn endpoint(name: &str, standing: &Standing, found: EndpointHealth) -> EndpointView {
    let (health, is_known) = match found.reach {
        Reach::Unknown => ("unknown", false),
        Reach::Up => ("up", true),
        Reach::Down => ("down", true),
    };
    EndpointView {
        name: name.to_owned(),
        refused: ownership::refusal(standing),
        health,
        status: found.status,
        code: found.code.map(|code| Code::from_wire(code).to_string()),
        checked_at: is_known.then(|| Timestamp::Seconds(now() - i64::from(found.age_s))),
    }
}

pub(super) fn list<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let tenant = cx.tenant()?;
        let page = Page::of(&cx.query)?;
        // One pass over the registry instead of one for each bridge.
        let mut sessions: HashMap<Arc<str>, Vec<Arc<TunnelEntry>>> = HashMap::new();
        for entry in cx.state.data.registry.of_tenant(&tenant) {
            let own = sessions.entry(entry.owner.bridge.clone()).or_default();
            own.push(entry);
        }
        let mut known = cx.state.directory.bridges_of(&tenant);
        // Filtered before the page is cut: otherwise a page could be empty while later ones are not.
        known.retain(|bridge| cx.principal.scope.sees(Object::Bridge(&bridge.name)));
        if let Some(after) = &page.after {
            known.retain(|bridge| *bridge.name > **after);
        }
        known.truncate(page.rows() as usize);
        let next_cursor = page.cut(&mut known, |bridge| bridge.name.to_string());
        let storage = cx.state.directory.storage();
        let seen = storage.last_seen(&tenant).await.map_err(failed)?;
        let bridges = known
            .iter()
            .map(|bridge| {
                let own = sessions.get(bridge.id.as_str());
                let last = seen.get(bridge.id.as_str()).copied();
                view(cx, bridge, own.map_or(&[], Vec::as_slice), last)
            })
            .collect();
        json::reply(
            StatusCode::OK,
            &BridgePage {
                bridges,
                next_cursor,
            },
        )
    })
}

pub(super) fn show<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let (tenant, name) = (cx.tenant()?, cx.path("bridge"));
        // The same response as for an unknown name, so that it does not reveal that the bridge exists.
        if !cx.principal.scope.sees(Object::Bridge(name)) {
            return Err(unknown());
        }
        let bridges = cx.state.directory.bridges_of(&tenant);
        let found = bridges.iter().find(|bridge| &*bridge.name == name);
        let bridge = found.ok_or_else(unknown)?;
        let mut own = cx.state.data.registry.of_tenant(&tenant);
        own.retain(|entry| &*entry.owner.bridge == bridge.id.as_str());
        let storage = cx.state.directory.storage();
        let seen = storage.last_seen(&tenant).await.map_err(failed)?;
        let last = seen.get(bridge.id.as_str()).copied();
        json::reply(StatusCode::OK, &view(cx, bridge, &own, last))
    })
}

pub(super) fn revoke<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let (tenant, name) = (cx.tenant()?, cx.path("bridge"));
        cx.check(Object::BridgeChange(name))?;
        let revoked = cx.storage().revoke_bridge(&tenant, name).await;
        revoked.map_err(failed)?;
        cx.state.directory.follow_change().await;
        tracing::info!(
            tenant = &*cx.state.directory.tenant_label(&tenant),
            tenant_id = %tenant,
            bridge = name,
            client_id = %cx.principal.client_id,
            "bridge revoked"
        );
        let document = BridgeDone {
            name: name.to_owned(),
            revoked: true,
            disabled: false,
        };
        json::reply(StatusCode::OK, &document)
    })
}

async fn switch(cx: &Context<'_>, disabled: bool) -> Result<BridgeDone, Problem> {
    let (tenant, name) = (cx.tenant()?, cx.path("bridge"));
    cx.check(Object::BridgeChange(name))?;
    let done = cx
        .storage()
        .set_bridge_disabled(&tenant, name, disabled)
        .await;
    done.map_err(failed)?;
    cx.state.directory.follow_change().await;
    Ok(BridgeDone {
        name: name.to_owned(),
        revoked: false,
        disabled,
    })
}

pub(super) fn disable<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move { json::reply(StatusCode::OK, &switch(cx, true).await?) })
}

pub(super) fn enable<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move { json::reply(StatusCode::OK, &switch(cx, false).await?) })
}

async fn set_tls_inspection(
    cx: &Context<'_>,
    tls_inspection: bool,
) -> Result<TlsInspectionView, Problem> {
    let (tenant, name) = (cx.tenant()?, cx.path("bridge"));
    cx.check(Object::BridgeChange(name))?;
    let done = cx
        .storage()
        .set_bridge_inspected(&tenant, name, tls_inspection)
        .await;
    done.map_err(failed)?;
    cx.state.directory.follow_change().await;
    Ok(TlsInspectionView {
        name: name.to_owned(),
        tls_inspection,
    })
}

pub(super) fn allow_tls_inspection<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move { json::reply(StatusCode::OK, &set_tls_inspection(cx, true).await?) })
}

pub(super) fn forbid_tls_inspection<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move { json::reply(StatusCode::OK, &set_tls_inspection(cx, false).await?) })
}

async fn holders(cx: &Context<'_>, tenant: &Arc<str>) -> Result<EndpointHolders, Problem> {
    // The response shows the result, so the change must be visible here first.
    cx.state.directory.refresh().await.map_err(failed)?;
    let endpoint = cx.path("endpoint");
    let mut bridges = cx.state.directory.holders_of(tenant, endpoint);
    bridges.retain(|name| cx.principal.scope.sees(Object::Bridge(name)));
    bridges.sort_unstable();
    Ok(EndpointHolders {
        endpoint: endpoint.to_owned(),
        bridges: bridges.iter().map(|name| name.to_string()).collect(),
    })
}

pub(super) fn assign_endpoint<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let (tenant, name) = (cx.tenant()?, cx.path("bridge"));
        let endpoint = cx.path("endpoint");
        cx.check(Object::BridgeChange(name))?;
        // The assignment also changes the bridges that lose the name, or share it from now on.
        for holder in cx.state.directory.holders_of(&tenant, endpoint) {
            cx.check(Object::BridgeChange(&holder))?;
        }
        let also = cx.query.flag("also")?;
        let storage = cx.storage();
        let assigned = storage.assign_endpoint(&tenant, name, endpoint, also);
        assigned.await.map_err(failed)?;
        json::reply(StatusCode::OK, &holders(cx, &tenant).await?)
    })
}

pub(super) fn release_endpoint<'a>(cx: &'a Context<'a>, _: Request<Bytes>) -> Handling<'a> {
    Box::pin(async move {
        let (tenant, name) = (cx.tenant()?, cx.path("bridge"));
        cx.check(Object::BridgeChange(name))?;
        let storage = cx.storage();
        let released = storage.release_endpoint(&tenant, name, cx.path("endpoint"));
        released.await.map_err(failed)?;
        json::reply(StatusCode::OK, &holders(cx, &tenant).await?)
    })
}
