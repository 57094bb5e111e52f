//! What the running bridge answers on its local socket, and in its metrics.

use crate::connection::{Shared, chain, hex};
use crate::control::socket::{ControlRequest, Reply};
use crate::logging;
use crate::reload::reload;
use crate::status::{EndpointStatus, SessionStatus, Status};
use protocol::frame::Reach;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use transport::Session;

/// A session that was silent for longer than this is not what "online" means.
const SILENT_MAX: Duration = Duration::from_secs(30);

/// Opens the local socket. A bridge without it works all the same.
#[cfg(unix)]
pub(crate) fn listen(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) {
    let config = &shared.dispatcher.active().config;
    match crate::control::socket::listen(config.bridge.data_dir.get()) {
        Ok(server) => {
            let shared = shared.clone();
            let answer = move |question| answer(&shared, question);
            tasks.spawn(server.serve(Arc::new(answer)));
        }
        Err(error) => tracing::warn!(%error, "no local socket: `status` will not work"),
    }
}

#[cfg(not(unix))]
pub(crate) fn listen(_: &Arc<Shared>, _: &mut JoinSet<()>) {}

/// Answers a question. May block shortly.
pub(crate) fn answer(shared: &Arc<Shared>, question: ControlRequest) -> Reply {
    match question {
        ControlRequest::Status => Reply::Status(Box::new(status(shared))),
        ControlRequest::Health => {
            shared.health.ask();
            Reply::Done
        }
        ControlRequest::Reload => match reload(shared) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(chain(&error)),
        },
        ControlRequest::LogLevel { filter } => match logging::set_filter(&filter) {
            Ok(()) => {
                tracing::info!(filter, "the log's filter was changed");
                Reply::Done
            }
            Err(error) => Reply::Failed(error),
        },
    }
}

/// How the bridge is.
pub(crate) fn status(shared: &Shared) -> Status {
    let active = shared.dispatcher.active();
    let config = &active.config;
    let sessions = shared.sessions.borrow().clone();
    let found = shared.health.found();
    let endpoints = config.rules.endpoints.iter().map(|endpoint| {
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
    let board = &shared.board;
    Status {
        software: crate::identity::software(),
        pid: std::process::id(),
        uptime_s: board.uptime().as_secs(),
        bridge: shared.name.clone(),
        key: shared.dispatcher.fingerprint().to_owned(),
        tenant: shared.tenant.clone(),
        relay: config.relay.url.to_string(),
        online: sessions.iter().any(is_alive),
        paused: config.bridge.paused,
        connections: board.slots(),
        sessions: sessions.iter().map(session).collect(),
        endpoints: endpoints.collect(),
        credentials: active
            .credentials
            .all()
            .map(|one| one.name.clone())
            .collect(),
        exchanges_running: shared.dispatcher.running() as u64,
        exchanges_answered: board.answered_count(),
        exchanges_failed: board.failures(),
        memory_bytes: malloc_trim::resident(),
        config_file: config.path.display().to_string(),
        config_loaded_at: shared.config_taken.load(Ordering::Relaxed),
        config_refused: shared.health.config_refused(),
        audit_lines: shared.audit.as_ref().map(|audit| audit.lines()),
        last_calls: board.calls(),
    }
}

/// Whether frames came back over it lately: that is what carries the data.
fn is_alive(session: &Session) -> bool {
    session.is_open() && session.silent_for() <= SILENT_MAX
}

fn session(session: &Session) -> SessionStatus {
    SessionStatus {
        id: hex(&session.id()),
        rtt_ms: session.rtt().as_micros() as f64 / 1e3,
        exchanges: session.streams_open(),
        open: session.is_open(),
    }
}
