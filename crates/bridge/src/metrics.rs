//! The bridge's metrics, on the loopback address that the config names.
//!
//! The listener is the bridge's only one. It serves one path, bounds connections and time, and never leaves
//! this machine (`config::metrics` checks the address).

use crate::control::handler::status;
use crate::state::BridgeState;
use crate::status::Status;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::EncodeLabelSet;
use runtime::metrics::{Counter, Family, FloatGauge, Format, Gauge, Registry, gauge_value};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Concurrent connections.
const CONNECTIONS_MAX: usize = 16;

/// Longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the listener.
///
/// # Errors
/// The address cannot be bound.
pub(crate) fn listen(
    shared: &Arc<BridgeState>,
    address: SocketAddr,
    tasks: &mut JoinSet<()>,
) -> io::Result<()> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tracing::info!(address = %listener.local_addr()?, "metrics listener started");
    tasks.spawn(accept(listener, shared.clone()));
    Ok(())
}

async fn accept(listener: TcpListener, shared: Arc<BridgeState>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed. The permit comes before the accept, so that further connections
        // wait in the kernel's queue.
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Mostly no file descriptor is left: without a pause this loop would take a core.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let response = respond(&shared, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that reads slowly would otherwise keep its permit.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, serving).await;
        });
    }
}

fn respond(shared: &BridgeState, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    if *request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    } else if request.uri().path() == "/metrics" {
        let accept = request.headers().get_all(http::header::ACCEPT);
        let format = Format::preferred(accept.iter().filter_map(|value| value.to_str().ok()));
        let kind = http::HeaderValue::from_static(format.content_type());
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind);
        *response.body_mut() = Full::new(text(&status(shared), format).into());
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = Full::new(Bytes::from_static(b"this listener has /metrics only\n"));
    }
    response
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabel {
    endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabel {
    connection: String,
}

runtime::metrics! {
    /// The bridge's metrics.
    struct Metrics("integration_bridge") {
        online: Gauge = "online", "Whether an echo returned over a session within the silence limit";
        paused: Gauge = "paused", "Whether the config pauses the bridge";
        sessions: Gauge = "sessions", "Sessions with the relay";
        uptime: Gauge = "uptime_seconds", "Time since the start";
        running: Gauge = "exchanges_running", "Exchanges in progress";
        answered: Counter = "exchanges_answered", "Exchanges to which the target responded";
        failed: Family<CodeLabel, Counter> = "exchanges_failed", "Failed exchanges, by code";
        endpoint_up: Family<EndpointLabel, Gauge> = "endpoint_up", "Whether the last health check of an endpoint succeeded";
        rtt: Family<ConnectionLabel, FloatGauge> = "session_rtt_seconds", "Smallest round trip of a connection's session so far";
        config_refused: Gauge = "config_refused", "Whether the last reload rejected the config";
    }
}

runtime::metrics! {
    /// On systems that report it.
    struct Memory("integration_bridge") {
        bytes: Gauge = "memory_bytes", "Resident memory";
    }
}

runtime::metrics! {
    /// Where an audit file is written.
    struct Audit("integration_bridge") {
        lines: Counter = "audit_lines", "Lines of the audit file";
    }
}

/// Returns all metrics as text. They are built for each scrape: sessions and endpoints that are gone leave no
/// labels, and exchanges pay nothing for metrics.
fn text(status: &Status, format: Format) -> String {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let flag = |gauge: &Gauge, flag: bool| gauge.set(i64::from(flag));
    flag(&metrics.online, status.online);
    flag(&metrics.paused, status.paused);
    flag(&metrics.config_refused, status.config_refused.is_some());
    metrics.sessions.set(gauge_value(status.sessions.len()));
    metrics.uptime.set(gauge_value(status.uptime_s));
    metrics.running.set(gauge_value(status.exchanges_running));
    metrics.answered.inc_by(status.exchanges_answered);
    for (code, count) in &status.exchanges_failed {
        let label = CodeLabel { code: code.clone() };
        metrics.failed.get_or_create(&label).inc_by(*count);
    }
    for endpoint in &status.endpoints {
        // Not checked yet is neither up nor down.
        if endpoint.health != "unknown" {
            let label = EndpointLabel {
                endpoint: endpoint.name.clone(),
            };
            let gauge = metrics.endpoint_up.get_or_create(&label);
            flag(&gauge, endpoint.health == "up");
        }
    }
    // By the connection's number: each reconnect has another session id, and a label that never returns would
    // cost the scraper one more time series each time.
    for connection in &status.connections {
        let mut sessions = status.sessions.iter();
        if let Some(session) = sessions.find(|one| Some(&one.id) == connection.session.as_ref()) {
            let label = ConnectionLabel {
                connection: connection.slot.to_string(),
            };
            let rtt = metrics.rtt.get_or_create(&label);
            rtt.set(session.rtt_ms / 1e3);
        }
    }
    if let Some(bytes) = status.memory_bytes {
        let memory = Memory::register(&mut registry);
        memory.bytes.set(gauge_value(bytes));
    }
    if let Some(lines) = status.audit_lines {
        Audit::register(&mut registry).lines.inc_by(lines);
    }
    runtime::metrics::encode(&registry, format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::SlotState;
    use crate::status::SessionStatus;

    fn status(session: &str) -> Status {
        let connection = SlotState {
            slot: 0,
            state: "up".into(),
            node: None,
            session: Some(session.into()),
            for_s: 1,
            error: None,
            pattern: None,
            advice: None,
        };
        let session = |id: &str| SessionStatus {
            id: id.into(),
            rtt_ms: 1.5,
            exchanges: 0,
            open: true,
        };
        Status {
            connections: vec![connection],
            // The other one is retired and still finishes its exchanges.
            sessions: vec![session("aa"), session("bb")],
            audit_lines: Some(7),
            memory_bytes: Some(1 << 20),
            exchanges_failed: [("timed_out".to_owned(), 2)].into(),
            ..Status::example()
        }
    }

    #[test]
    fn series_of_a_session_survives_a_reconnect() {
        for session in ["aa", "bb"] {
            let text = text(&status(session), Format::Prometheus);
            let line = "integration_bridge_session_rtt_seconds{connection=\"0\"} 0.0015";
            assert!(text.contains(line), "{text}");
            assert!(!text.contains(session), "{text}");
        }
    }

    #[test]
    fn text_is_valid_in_both_formats() {
        for format in [Format::OpenMetrics, Format::Prometheus] {
            runtime::testing::check_metrics(&text(&status("aa"), format), format);
        }
    }
}
