//! From `GET /v1/tunnel` to a raw connection, which [`crate::tunnel`] takes over.
//!
//! The handler answers `101`, and a task waits for hyper to let go of the connection. The
//! concrete stream is taken out of hyper's hands, so that nothing boxed lies in the tunnel's way.

use crate::body::{self, Body};
use crate::listener::connection::{Arrived, Connection};
use crate::listener::line_ends::ByLines;
use crate::problem::Problem;
use crate::state::State;
use crate::tunnel::{self, Arrival, Up};
use http::header;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use protocol::Code;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use transport::tunnel::ChannelBinding;

/// How long a tunnel waits for a place among the unproven before it is told to come later.
const PLACE_WITHIN: Duration = Duration::from_secs(2);

/// Begins a tunnel. Cancel safe.
///
/// # Errors
/// `invalid_request` for what is no upgrade, `forbidden` on a connection without TLS,
/// `overloaded` when too many tunnels have not proved themselves.
pub async fn tunnel(
    state: &Arc<State>,
    connection: &Arc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let response = transport::websocket::accept_upgrade(&request)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    let channel = channel(state, connection)?;
    if state.is_draining() {
        let detail = "this relay is shutting down";
        return Err(Problem::not_sent(Code::Overloaded, detail));
    }
    let entering = state.unproven.enter(connection.peer.ip(), PLACE_WITHIN);
    let turn = entering.await.ok_or_else(|| {
        state.metrics.tunnel_refused("unproven");
        let detail = "too many tunnels are waiting to prove themselves";
        Problem::not_sent(Code::Overloaded, detail).later(tunnel::RETRY_OVERLOADED)
    })?;
    let authority = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    let arrival = Arrival {
        channel,
        authority,
        peer: connection.peer.ip(),
        turn: Arc::new(turn),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    connection.turns_raw();
    tokio::spawn(run(state.clone(), connection.clone(), upgrade, arrival));
    Ok(response.map(|()| body::empty()))
}

/// What the bridge's signature is held against.
fn channel(state: &State, connection: &Connection) -> Result<ChannelBinding, Problem> {
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

async fn run(state: Arc<State>, connection: Arc<Connection>, upgrade: OnUpgrade, arrival: Arrival) {
    // Boxed: what the opening needs is given back when the tunnel is up.
    let opening = Box::pin(open(&state, &connection, upgrade, arrival));
    if let Some(up) = opening.await {
        tunnel::carry(&state, up).await;
    }
    // Its place among the connections is free only now.
    drop(connection);
}

async fn open(
    state: &State,
    connection: &Connection,
    upgrade: OnUpgrade,
    arrival: Arrival,
) -> Option<Up> {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, peer = %connection.peer, "a tunnel was lost at its upgrade");
            return None;
        }
    };
    match connection.arrived {
        Arrived::Tls => {
            let parts = upgraded
                .downcast::<TokioIo<ByLines<TlsStream<TcpStream>>>>()
                .ok()?;
            let Parts { io, read_buf, .. } = parts;
            tunnel::open(state, io.into_inner().into_inner(), read_buf, arrival).await
        }
        Arrived::Plain | Arrived::Proxy | Arrived::Admin => {
            let parts = upgraded.downcast::<TokioIo<ByLines<TcpStream>>>().ok()?;
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
