//! From `GET /v1/tunnel` to a raw connection, which [`crate::tunnel`] takes over.
//!
//! The handler answers `101`, and a task waits for hyper to let go of the connection. The
//! concrete stream is taken out of hyper's hands, so that nothing boxed lies in the tunnel's way.

use crate::body::{self, Body};
use crate::connection::bare_lf_guard::BareLfIo;
use crate::connection::{Connection, ListenerKind};
use crate::control_plane::ControlPlane;
use crate::problem::Problem;
use crate::tunnel::{self, ActiveTunnel, Arrival};
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

/// What a tunnel that has not proved itself is charged, in addition to its connection.
const UNAUTHENTICATED_BYTES: usize = 8 * 1024;

/// Begins a tunnel. Cancel safe.
///
/// # Errors
/// `invalid_request` for what is no upgrade, `forbidden` on a connection without TLS,
/// `overloaded` when the relay is shutting down.
pub async fn tunnel(
    state: &Arc<ControlPlane>,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let response = transport::websocket::accept_upgrade(&request)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    let channel = channel(state, connection)?;
    state.serving.check_tunnel().await?;
    state.directory.check_fresh()?;
    if state.data.is_draining() {
        let detail = "this relay is shutting down";
        return Err(Problem::not_sent(Code::Overloaded, detail));
    }
    let place = state
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
        place: Arc::new(place),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    connection.turns_raw();
    tokio::spawn(run(state.clone(), connection.clone(), upgrade, arrival));
    Ok(response.map(|()| body::empty()))
}

/// What the bridge's signature is held against.
fn channel(state: &ControlPlane, connection: &Connection) -> Result<ChannelBinding, Problem> {
    if state.config.listen.behind_balancer {
        return Ok(ChannelBinding::EndsBefore);
    }
    match connection.exporter {
        Some(exporter) => Ok(ChannelBinding::Exporter(exporter)),
        None => Err(Problem::not_sent(
            Code::Forbidden,
            "tunnels must come over TLS; where a balancer ends it, the relay's configuration must \
             say so (listen.behind_balancer)",
        )),
    }
}

async fn run(
    state: Arc<ControlPlane>,
    connection: Arc<Connection>,
    upgrade: OnUpgrade,
    arrival: Arrival,
) {
    // Boxed: what the opening needs is given back when the tunnel is up.
    let opening = Box::pin(open_unless_evicted(&state, &connection, upgrade, arrival));
    if let Some(up) = opening.await {
        tunnel::run(&state, up).await;
        // For as long as addresses are remembered, from the end of the session on.
        state.data.connections.proven.remember(connection.peer.ip());
    }
    // Its place among the connections is free only now.
    drop(connection);
}

async fn open_unless_evicted(
    state: &ControlPlane,
    connection: &Connection,
    upgrade: OnUpgrade,
    arrival: Arrival,
) -> Option<ActiveTunnel> {
    let place = arrival.place.clone();
    tokio::select! {
        up = open(state, connection, upgrade, arrival) => return up,
        () = connection.evicted() => {}
        () = place.evicted() => {}
    }
    state.metrics.tunnel_refused("evicted");
    tracing::debug!(peer = %connection.peer, "a tunnel was evicted before it proved itself");
    None
}

async fn open(
    state: &ControlPlane,
    connection: &Connection,
    upgrade: OnUpgrade,
    arrival: Arrival,
) -> Option<ActiveTunnel> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, peer = %connection.peer, "a tunnel was lost at its upgrade");
            return None;
        }
    };
    match connection.arrived {
        ListenerKind::Tls => {
            let parts = upgraded
                .downcast::<TokioIo<BareLfIo<TlsStream<TcpStream>>>>()
                .ok()?;
            let Parts { io, read_buf, .. } = parts;
            tunnel::open(state, io.into_inner().into_inner(), read_buf, arrival).await
        }
        ListenerKind::Plain | ListenerKind::Proxy | ListenerKind::Admin => {
            let parts = upgraded.downcast::<TokioIo<BareLfIo<TcpStream>>>().ok()?;
            let Parts { io, read_buf, .. } = parts;
            tunnel::open(state, io.into_inner().into_inner(), read_buf, arrival).await
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
    fn the_task_of_a_tunnel_is_small_for_there_are_thousands() {
        let bytes = bytes_of_future(run);
        assert!(bytes <= 1024, "{bytes} bytes");
    }
}
