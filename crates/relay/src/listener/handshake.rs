//! The TLS handshake of a connection: admitted by a fair queue, with a permit that it holds for a short time.

use super::{client_hello, tls};
use crate::admission::HandshakePermit;
use crate::connection::{Connection, TLS_BYTES};
use crate::data_plane::DataPlane;
use crate::metrics::Handshake;
use rustls::HandshakeKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use transport::failure::client::ClientCause;
use transport::read_ahead::ReadAhead;

/// How long a client may take to send its ClientHello; and, after its permit, to complete its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection waits for a permit. A client gives up after about this time, so a later handshake
/// would be lost for this client and delay the next one.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection holds its permit. A slower client continues without one: the permit is for the
/// relay's own work, and a silent client must not block others.
const PERMIT_HELD_FOR: Duration = Duration::from_millis(100);

/// What a pending connection is charged when its handshake takes longer than [`SLOW_AFTER`]: the longest
/// handshake message, which rustls collects.
const SLOW_TLS_BYTES: usize = 64 * 1024;
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Completes the TLS handshake when the connection gets a permit. Returns `None` if it failed or the
/// connection was evicted.
pub(super) async fn complete(
    data: &DataPlane,
    stream: TcpStream,
    connection: &mut Connection,
    acceptor: &TlsAcceptor,
) -> Option<TlsStream<ReadAhead<TcpStream>>> {
    let metrics = &data.metrics;
    let peer = connection.peer;
    let permit = tokio::select! {
        permit = permit(data, &stream, peer) => permit?,
        () = connection.evicted() => {
            tracing::debug!(%peer, "connection evicted before its TLS handshake");
            return None;
        }
    };
    connection.charge(TLS_BYTES);
    let pending = &*connection;
    let handshake = async {
        let handshake =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(ReadAhead::new(stream)));
        let mut handshake = std::pin::pin!(handshake);
        let early = tokio::time::timeout(PERMIT_HELD_FOR, handshake.as_mut()).await;
        drop(permit);
        match early {
            Ok(done) => done,
            Err(_) => match tokio::time::timeout(SLOW_AFTER, handshake.as_mut()).await {
                Ok(done) => done,
                Err(_) => {
                    pending.charge(SLOW_TLS_BYTES);
                    handshake.await
                }
            },
        }
    };
    let done = tokio::select! {
        done = handshake => done,
        () = connection.evicted() => {
            metrics.handshake(Handshake::Failed);
            tracing::debug!(%peer, "connection evicted during its TLS handshake");
            return None;
        }
    };
    let stream = match done {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.handshake(Handshake::Failed);
            log_failure(data, peer, &error);
            return None;
        }
        Err(_) => {
            metrics.handshake(Handshake::Failed);
            tracing::debug!(%peer, "TLS handshake timed out");
            return None;
        }
    };
    let session = stream.get_ref().1;
    metrics.handshake(match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => Handshake::Resumed,
        _ => Handshake::Full,
    });
    connection.exporter = tls::exporter(session);
    Some(stream)
}

/// Logs why a client failed its handshake. A client that rejects the certificate needs the operator; the rest
/// is mostly scans of the port.
fn log_failure(data: &DataPlane, peer: SocketAddr, error: &std::io::Error) {
    let (cause, error) = ClientCause::of(error);
    let remedy = cause.remedy();
    if cause.needs_operator() && data.failed_handshakes.allow() {
        let suppressed = data.failed_handshakes.suppressed();
        tracing::warn!(%peer, error, remedy, suppressed, "TLS handshake failed");
    } else {
        tracing::debug!(%peer, error, remedy, "TLS handshake failed");
    }
}

/// Waits for a permit for a connection's handshake. Returns `None` if the client does not complete its
/// ClientHello, or if there is no permit in time.
async fn permit(data: &DataPlane, stream: &TcpStream, peer: SocketAddr) -> Option<HandshakePermit> {
    // The ClientHello comes first, so that a connection that sends nothing waits as a socket and a small task
    // and does not enter the queue.
    let offer = tokio::time::timeout(HANDSHAKE_TIMEOUT, client_hello::read_offer(stream)).await;
    let Ok(Ok(offers_http2)) = offer else {
        data.metrics.handshake(Handshake::Failed);
        tracing::debug!(%peer, "ClientHello was not completed");
        return None;
    };
    // Bridges offer HTTP/1.1 only, so a client that offers HTTP/2 is a caller.
    let admission = match offers_http2 {
        true => &data.caller_handshakes,
        false => &data.handshakes,
    };
    let permit = admission.acquire(peer.ip(), PERMIT_TIMEOUT).await;
    if permit.is_none() {
        data.metrics.handshake(Handshake::Late);
        if data.late_handshakes.allow() {
            let suppressed = data.late_handshakes.suppressed();
            tracing::warn!(%peer, suppressed, "connection closed: timed out waiting for a TLS handshake permit (limits.handshakes_max)");
        }
    }
    permit
}
