//! Metrics for Prometheus, on a loopback address where the config names one.

use crate::control::handler::status;
use crate::state::BridgeState;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Connections at once.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take in all.
const CONNECTION_WITHIN: Duration = Duration::from_secs(30);

/// What is asked must be there by then.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// Opens the listener.
///
/// # Errors
/// What the system says of the address.
pub(crate) fn listen(
    shared: &Arc<BridgeState>,
    address: SocketAddr,
    tasks: &mut JoinSet<()>,
) -> io::Result<()> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tracing::info!(address = %listener.local_addr()?, "metrics");
    tasks.spawn(accept(listener, shared.clone()));
    Ok(())
}

async fn accept(listener: TcpListener, shared: Arc<BridgeState>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let response = answer(&shared, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_WITHIN, serving).await;
        });
    }
}

fn answer(shared: &BridgeState, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    if *request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    } else if request.uri().path() == "/metrics" {
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind);
        *response.body_mut() = Full::new(text(shared).into());
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

/// In Prometheus' text format.
fn text(shared: &BridgeState) -> String {
    let status = status(shared);
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP integration_bridge_{name} {help}");
        let _ = writeln!(out, "# TYPE integration_bridge_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(out, "integration_bridge_{name}{labels} {value}");
        }
    };
    let one = |value: f64| [(String::new(), value)];
    let flag = |flag: bool| if flag { 1.0 } else { 0.0 };
    put(
        "online",
        "gauge",
        "Whether frames came back over a session lately.",
        &one(flag(status.online)),
    );
    put(
        "paused",
        "gauge",
        "Whether the config holds the bridge from taking anything.",
        &one(flag(status.paused)),
    );
    put(
        "sessions",
        "gauge",
        "Sessions with the relay.",
        &one(status.sessions.len() as f64),
    );
    put(
        "uptime_seconds",
        "gauge",
        "For how long the bridge runs.",
        &one(status.uptime_s as f64),
    );
    put(
        "exchanges_running",
        "gauge",
        "Exchanges that run.",
        &one(status.exchanges_running as f64),
    );
    put(
        "exchanges_answered_total",
        "counter",
        "Exchanges that targets answered.",
        &one(status.exchanges_answered as f64),
    );
    let failed: Vec<_> = status
        .exchanges_failed
        .iter()
        .map(|(code, count)| (format!("{{code=\"{code}\"}}"), *count as f64))
        .collect();
    put(
        "exchanges_failed_total",
        "counter",
        "Exchanges that failed, by code.",
        &failed,
    );
    let up: Vec<_> = status
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.health != "unknown")
        .map(|endpoint| {
            let labels = format!("{{endpoint=\"{}\"}}", endpoint.name);
            (labels, flag(endpoint.health == "up"))
        })
        .collect();
    put(
        "endpoint_up",
        "gauge",
        "Whether an endpoint can be reached.",
        &up,
    );
    let rtt: Vec<_> = status
        .sessions
        .iter()
        .map(|session| {
            (
                format!("{{session=\"{}\"}}", session.id),
                session.rtt_ms / 1e3,
            )
        })
        .collect();
    put(
        "session_rtt_seconds",
        "gauge",
        "The smallest round trip of a session so far.",
        &rtt,
    );
    put(
        "config_refused",
        "gauge",
        "Whether the config was not taken when it was read last.",
        &one(flag(status.config_refused.is_some())),
    );
    if let Some(bytes) = status.memory_bytes {
        put(
            "memory_bytes",
            "gauge",
            "Resident memory.",
            &one(bytes as f64),
        );
    }
    if let Some(lines) = status.audit_lines {
        put(
            "audit_lines_total",
            "counter",
            "Lines of the audit file.",
            &one(lines as f64),
        );
    }
    out
}
