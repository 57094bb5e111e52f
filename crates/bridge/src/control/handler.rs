//! The running bridge's side of the control socket, and the status that metrics show as well.

use crate::control::message::{ControlRequest, ControlResponse};
use crate::logging;
use crate::reload::reload;
use crate::state::BridgeState;
use crate::status::{AuditHeadStatus, EndpointStatus, SessionStatus, Status};
use crate::text::{error_chain, hex};
use protocol::frame::Reach;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use transport::Session;

/// A session that has been silent for longer does not count as online.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Opens the control socket. The bridge also works without it.
#[cfg(any(unix, windows))]
pub(crate) fn listen(state: &Arc<BridgeState>, tasks: &mut JoinSet<()>) {
    let config = &state.dispatcher.active().config;
    match crate::control::socket::listen(config.bridge.data_dir.get()) {
        Ok(server) => {
            let state = state.clone();
            let handler = move |request| handle(&state, request);
            tasks.spawn(server.serve(Arc::new(handler)));
        }
        Err(error) => tracing::warn!(
            %error,
            "cannot open the control socket; `status`, `reload` and `log-level` will not work"
        ),
    }
}

#[cfg(not(any(unix, windows)))]
pub(crate) fn listen(_: &Arc<BridgeState>, _: &mut JoinSet<()>) {}

/// Carries out a request. May block for a moment: a reload reads files.
pub(crate) fn handle(state: &BridgeState, request: ControlRequest) -> ControlResponse {
    match request {
        ControlRequest::Status => ControlResponse::Status(Box::new(status(state))),
        ControlRequest::Health => {
            // Only wakes the checker: a round may take longer than a request to the socket.
            state.health.request_probes();
            ControlResponse::Done
        }
        ControlRequest::Reload => match reload(state) {
            Ok(()) => ControlResponse::Done,
            Err(error) => ControlResponse::Failed(error_chain(&error)),
        },
        ControlRequest::LogLevel { filter } => match logging::set_filter(&filter) {
            Ok(()) => {
                tracing::info!(filter, "log filter changed");
                ControlResponse::Done
            }
            Err(error) => ControlResponse::Failed(error),
        },
    }
}

/// Returns the runtime status.
pub(crate) fn status(state: &BridgeState) -> Status {
    // One snapshot: a reload in between must not mix the endpoints of two configs.
    let active = state.dispatcher.active();
    let config = &active.config;
    let sessions = state.sessions.all();
    let found = state.health.found();
    let endpoints = config.rules.endpoints.iter().map(|endpoint| {
        // An endpoint that a reload has just added was not checked yet.
        let found = found.iter().find(|found| found.endpoint == endpoint.name);
        let settings = config.rules.settings(&endpoint.name);
        EndpointStatus {
            name: endpoint.name.clone(),
            url: endpoint.base.to_string(),
            health: match found.map_or(Reach::Unknown, |found| found.reach) {
                Reach::Up => "up",
                Reach::Down => "down",
                Reach::Unknown => "unknown",
            }
            .to_owned(),
            detail: found.and_then(|found| found.detail.clone()),
            checked_s_ago: found.map(|found| found.at.elapsed().as_secs()),
            credential: settings.and_then(|settings| settings.credential.clone()),
        }
    });
    let stats = &state.stats;
    Status {
        software: crate::identity::software(),
        version: state.relay.versions.status(),
        pid: std::process::id(),
        uptime_s: stats.uptime().as_secs(),
        bridge: state.name.clone(),
        key: state.dispatcher.fingerprint().to_owned(),
        tenant: state.tenant.clone(),
        relay: config.relay.url.to_string(),
        online: sessions.iter().any(is_alive),
        paused: config.bridge.paused,
        connections: stats.slots(),
        sessions: sessions.iter().map(session).collect(),
        endpoints: endpoints.collect(),
        credentials: active
            .credentials
            .all()
            .map(|one| one.name.clone())
            .collect(),
        exchanges_running: state.dispatcher.running() as u64,
        exchanges_answered: stats.answered_count(),
        exchanges_failed: stats.failures(),
        memory_bytes: malloc_trim::resident(),
        config_file: config.path.display().to_string(),
        config_loaded_at: state.config_loaded_at.load(Ordering::Relaxed),
        config_refused: state.health.config_refused(),
        audit_lines: state.audit.as_ref().map(|audit| audit.lines()),
        audit_head: state
            .audit
            .as_ref()
            .and_then(|audit| audit.head())
            .map(|head| AuditHeadStatus {
                seq: head.sequence,
                hash: hex(&head.hash),
            }),
        last_calls: stats.calls(),
    }
}

/// Returns whether the relay has sent frames lately. An open session alone proves nothing: its TCP connection
/// may be dead without a sign of it.
fn is_alive(session: &Session) -> bool {
    session.is_open() && session.silent_for() <= SILENCE_MAX
}

fn session(session: &Session) -> SessionStatus {
    SessionStatus {
        id: hex(&session.id()),
        rtt_ms: session.rtt().as_micros() as f64 / 1e3,
        exchanges: session.streams_open(),
        open: session.is_open(),
    }
}
