//! `GET /v1/bridges ...`: what a tenant's bridges are doing, and their revocation.
//!
//! ```json
//! {"bridges": [{"name": "berlin-dc1", "id": "brg_...", "online": true, "cloned": false,
//!   "created": 1790000000, "installations": 1, "sessions": [{"host": "srv1", "software": "0.1.0",
//!   "up_s": 12, "streams": 0, "rtt_ms": 1.5, "draining": false, "endpoints": ["alm"]}]}]}
//! ```

use crate::auth::Principal;
use crate::body::Body;
use crate::directory::BridgeSummary;
use crate::pairing::failed;
use crate::problem::Problem;
use crate::registry::Entry;
use crate::service::json_response;
use crate::state::State;
use http::Response;
use protocol::Code;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// All bridges of the caller's tenant.
pub fn list(state: &State, principal: &Principal) -> Response<Body> {
    let mut sessions: HashMap<Arc<str>, Vec<Arc<Entry>>> = HashMap::new();
    for entry in state.registry.of_tenant(&principal.tenant) {
        let own = sessions.entry(entry.owner.bridge.clone()).or_default();
        own.push(entry);
    }
    let bridges: Vec<Value> = state
        .directory
        .bridges_of(&principal.tenant)
        .iter()
        .map(|bridge| {
            let own = sessions.get(bridge.id.as_str());
            shown(state, bridge, own.map_or(&[], Vec::as_slice))
        })
        .collect();
    json_response(&json!({ "bridges": bridges }))
}

/// One bridge.
///
/// # Errors
/// `not_found`.
pub fn show(state: &State, principal: &Principal, name: &str) -> Result<Response<Body>, Problem> {
    let mut sessions = state.registry.of_tenant(&principal.tenant);
    let bridges = state.directory.bridges_of(&principal.tenant);
    let found = bridges.iter().find(|bridge| &*bridge.name == name);
    let bridge = found.ok_or_else(unknown)?;
    sessions.retain(|entry| &*entry.owner.bridge == bridge.id.as_str());
    Ok(json_response(&shown(state, bridge, &sessions)))
}

/// Revokes a bridge: it is cut off at once, and its name is free.
///
/// # Errors
/// `not_found`, `overloaded` when nothing can be stored.
pub async fn revoke(
    state: &State,
    principal: &Principal,
    name: &str,
) -> Result<Response<Body>, Problem> {
    let storage = state.directory.storage();
    let revoked = storage.revoke_bridge(&principal.tenant, name).await;
    revoked.map_err(failed)?;
    state.directory.refresh().await.map_err(failed)?;
    tracing::info!(
        tenant = %principal.tenant_name,
        bridge = name,
        client_id = %principal.client_id,
        "bridge revoked"
    );
    Ok(json_response(&json!({"name": name, "revoked": true})))
}

fn unknown() -> Problem {
    Problem::not_sent(Code::NotFound, "there is no bridge of that name")
}

/// With the sessions that are its own.
fn shown(state: &State, bridge: &BridgeSummary, own: &[Arc<Entry>]) -> Value {
    let online = own.iter().any(|entry| entry.session.is_open());
    let sessions: Vec<Value> = own.iter().map(|entry| session(entry)).collect();
    json!({
        "name": &*bridge.name,
        "id": bridge.id,
        "online": online,
        "cloned": state.registry.is_cloned(bridge.id.as_str(), Instant::now()),
        "created": bridge.created,
        "installations": bridge.installations,
        "sessions": sessions,
    })
}

fn session(entry: &Entry) -> Value {
    let serves = entry.session.serves();
    json!({
        "host": entry.host,
        "software": entry.software,
        "up_s": entry.since.elapsed().as_secs(),
        "streams": entry.session.streams_open(),
        "rtt_ms": entry.session.rtt().as_micros() as f64 / 1e3,
        "draining": !entry.session.is_open(),
        "endpoints": serves.endpoints.as_slice(),
        "hosts": serves.hosts.as_ref().map(|hosts| hosts.as_slice()),
    })
}
