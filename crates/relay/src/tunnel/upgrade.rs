//! From `GET /v1/tunnel` to a raw connection, which [`crate::tunnel`] then owns.
//!
//! The handler responds with `101`, and a task waits until hyper releases the connection. The concrete stream is
//! extracted from hyper, so that the tunnel does not use a boxed one.

use crate::body::{self, Body};
use crate::connection::bare_lf_guard::BareLfIo;
use crate::connection::{Connection, ListenerKind};
use crate::control_plane::ControlPlane;
use crate::problem::Problem;
use crate::tunnel::{self, ActiveTunnel, Arrival};
use bytes::Bytes;
use http::header;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use protocol::Code;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use transport::handshake::ChannelBinding;
use transport::read_ahead::ReadAhead;

/// What a tunnel that has not authenticated is charged, in addition to its connection.
const UNAUTHENTICATED_BYTES: usize = 8 * 1024;

/// Begins a tunnel. Cancel safe.
///
/// # Errors
/// `invalid_request` for a request that is no upgrade, `forbidden` on a connection without TLS,
/// `overloaded` when the relay is shutting down.
pub(crate) async fn tunnel(
    control: &Arc<ControlPlane>,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let response = transport::websocket::accept_upgrade(&request)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    let channel = channel(control, connection)?;
    control.serving.check_tunnel().await?;
    control.directory.check_fresh()?;
    if control.data.is_draining() {
        let detail = "this relay is shutting down";
        return Err(Problem::not_sent(Code::Overloaded, detail));
    }
    let permit = control
        .data
        .unauthenticated
        .admit(connection.peer.ip(), UNAUTHENTICATED_BYTES);
    let authority = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let arrival = Arrival {
        channel,
        authority,
        connection: connection.clone(),
        permit: Arc::new(permit),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    // Before the response is written: the bytes after it are not HTTP.
    connection.turns_raw();
    tokio::spawn(run(control.clone(), connection.clone(), upgrade, arrival));
    Ok(response.map(|()| body::empty()))
}

/// Returns the channel binding that the bridge's signature must have.
fn channel(control: &ControlPlane, connection: &Connection) -> Result<ChannelBinding, Problem> {
    if control.config.listen.behind_balancer {
        return Ok(ChannelBinding::EndsBefore);
    }
    match connection.exporter {
        Some(exporter) => Ok(ChannelBinding::Exporter(exporter)),
        None => {
            if control.refused_tunnels.allow() {
                tracing::warn!(
                    reason = "no_tls",
                    peer = %connection.peer,
                    suppressed = control.refused_tunnels.suppressed(),
                    advice = "let the load balancer pass TLS through, or set listen.behind_balancer = true",
                    "tunnel refused"
                );
            }
            Err(Problem::not_sent(Code::Forbidden, TLS_REQUIRED))
        }
    }
}

/// The detail for a bridge whose TLS ends before the relay. The bridge shows it to its administrator.
const TLS_REQUIRED: &str = "a tunnel requires TLS up to the relay; if a load balancer terminates it, the operator of the \
                            relay sets listen.behind_balancer = true, or lets the balancer pass TLS through";

async fn run(
    control: Arc<ControlPlane>,
    connection: Arc<Connection>,
    upgrade: OnUpgrade,
    arrival: Arrival,
) {
    // Boxed: the memory of the handshake is released when the session begins.
    let opening = Box::pin(open_unless_evicted(&control, &connection, upgrade, arrival));
    if let Some(tunnel) = opening.await {
        tunnel::run(&control, tunnel).await;
        // The address is kept for 24 hours from the end of the session on, not only from its start.
        control
            .data
            .connections
            .proven
            .remember(connection.peer.ip());
    }
    // Only now the permit of the connection is released.
    drop(connection);
}

async fn open_unless_evicted(
    control: &ControlPlane,
    connection: &Connection,
    upgrade: OnUpgrade,
    arrival: Arrival,
) -> Option<ActiveTunnel> {
    let permit = arrival.permit.clone();
    tokio::select! {
        tunnel = open(control, connection, upgrade, arrival) => return tunnel,
        () = connection.evicted() => {}
        () = permit.evicted() => {}
    }
    control.metrics.tunnel_refused("evicted");
    tracing::debug!(peer = %connection.peer, "tunnel evicted before it authenticated");
    None
}

async fn open(
    control: &ControlPlane,
    connection: &Connection,
    upgrade: OnUpgrade,
    arrival: Arrival,
) -> Option<ActiveTunnel> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, peer = %connection.peer, "tunnel lost at its upgrade");
            return None;
        }
    };
    match connection.arrived {
        ListenerKind::Tls => {
            let parts = upgraded
                .downcast::<TokioIo<BareLfIo<TlsStream<ReadAhead<TcpStream>>>>>()
                .ok()?;
            let Parts { io, read_buf, .. } = parts;
            let (mut io, left) = io.into_inner().into_parts();
            io.get_mut().0.enable();
            let early = Bytes::from([read_buf, left].concat());
            tunnel::open(control, io, early, arrival).await
        }
        ListenerKind::Plain | ListenerKind::Proxy | ListenerKind::Admin => {
            let parts = upgraded.downcast::<TokioIo<BareLfIo<TcpStream>>>().ok()?;
            let Parts { io, read_buf, .. } = parts;
            let (io, left) = io.into_inner().into_parts();
            let early = Bytes::from([read_buf, left].concat());
            tunnel::open(control, io, early, arrival).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of_future<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn tunnel_task_is_small() {
        let bytes = bytes_of_future(run);
        assert!(bytes <= 1024, "{bytes} bytes");
    }
}
