//! Accept loops: from a socket to requests.
//!
//! ```text
//! public    TCP -> turn -> TLS (10 s) -> HTTP/1.1 or HTTP/2 by ALPN -> Service
//! internal  TCP ->                       HTTP/1.1                   -> Service
//! admin     TCP ->                       HTTP/1.1                   -> health and metrics
//! ```
//!
//! Every connection has a place in one budget. TLS handshakes run so many at once, and the rest
//! wait for their turn: when thousands of bridges come back together, each is served in time,
//! instead of all at once and none. A connection takes its turn only after it has spoken. When the relay drains, loops end, idle connections
//! close, and what runs is finished.

mod by_frames;
pub mod connection;
mod hello;
pub(crate) mod line_ends;
mod patience;
pub mod self_signed;
pub mod tls;
mod watched;

use crate::gate::Turn;
use crate::metrics::Handshake;
use crate::reload::Acceptor;
use crate::service::Service;
use crate::state::State;
use crate::throttle::Throttle;
use by_frames::{ByFrames, HeaderClock};
use connection::{Arrived, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use line_ends::{ByLines, LineEnds};
use patience::Patience;
use rustls::HandshakeKind;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// Until a connection has said something, and then again from its turn to the end of its TLS
/// handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection waits for its turn. Beyond, its client would give up before the end: the
/// work would be lost for this one and late for the next.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// How long accepting pauses when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that the system keeps for us while we are busy: what comes in a moment when
/// thousands of bridges come back.
const BACKLOG: u32 = 4096;

/// HTTP/1 buffer of a connection. Beyond every limit of ours, so that who goes beyond them is
/// answered with a problem document instead of a bare status.
const HTTP1_BUFFER_BYTES: usize = 256 * 1024;

/// HTTP/1 fields that are parsed; the limit that is told is `limits.headers_max`.
const HTTP1_FIELDS: usize = 512;

/// HTTP/2 requests at once on one connection.
const HTTP2_STREAMS: u32 = 256;

/// HTTP/2 header section; the limit that is told is `limits.header_bytes_max`.
const HTTP2_HEADER_BYTES: u32 = 128 * 1024;

/// HTTP/2 request bodies in flight: one stream, and the whole connection.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// HTTP/2 answer that waits unsent in one stream.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 * 1024;

/// HTTP/2 streams that a client may have reset before we looked at them (CVE-2023-44487).
const HTTP2_PENDING_RESETS: usize = 32;

/// An HTTP/2 connection that says nothing for this long is asked whether it is there.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// An HTTP/2 connection without a request for this long is asked to end.
const HTTP2_IDLE: Duration = Duration::from_secs(60);

/// What a listener needs to know of the relay that it is one of.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Answers requests.
    pub service: Arc<Service>,
    /// Turns true when connections shall come to their end.
    pub closing: watch::Receiver<bool>,
    /// Held by every connection that serves requests; all gone when it is over.
    pub alive: mpsc::Sender<Infallible>,
}

/// Opens a socket.
///
/// # Errors
/// When the address cannot be had; names it.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    listen(reserve(address)?)
}

/// Listens on a socket that was reserved.
///
/// # Errors
/// When another process listens there by now; names the address.
pub fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    let address = socket.local_addr();
    socket.listen(BACKLOG).map_err(|error| {
        let address = address.map_or_else(|_| "its address".to_owned(), |at| at.to_string());
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Takes an address without listening: the system refuses connections at once, and clients go on to
/// another address.
///
/// # Errors
/// When the address cannot be had; names it.
pub fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let open = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restart takes the port over from connections that are still closing.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    open().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// Accepts connections until the relay drains. Without `tls`, they speak plain HTTP/1.1.
pub async fn accept(
    listener: TcpListener,
    arrived: Arrived,
    tls: Option<Acceptor>,
    mut doors: Doors,
) {
    let full = Throttle::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = doors.closing.wait_for(|closing| *closing) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let places = doors.service.connections.clone();
        // Health and metrics are for the moment when there is no place.
        let place = match places.try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) if arrived == Arrived::Admin => None,
            Err(_) => {
                // Once a second at most: whoever connects decides how often this happens.
                if full.may_speak() {
                    tracing::warn!(%peer, suppressed = full.suppressed(), "a connection was closed: there are as many as there may be");
                }
                continue;
            }
        };
        let mut own = None;
        if tls.is_some() {
            own = doors.service.state.connections_by_address.take(peer.ip());
            if own.is_none() {
                if full.may_speak() {
                    tracing::warn!(%peer, suppressed = full.suppressed(), "a connection was closed: its address has as many as it may have");
                }
                continue;
            }
        }
        let connection = Connection {
            peer,
            arrived,
            exporter: None,
            is_raw: AtomicBool::new(false),
            _place: place,
            _own: own,
        };
        let acceptor = tls.as_ref().map(Acceptor::current);
        tokio::spawn(begin(stream, connection, acceptor, doors.clone()));
    }
}

async fn begin(
    stream: TcpStream,
    mut connection: Connection,
    tls: Option<TlsAcceptor>,
    doors: Doors,
) {
    if let Err(error) = transport::tcp::tune(&stream) {
        tracing::debug!(%error, peer = %connection.peer, "a connection was gone at once");
        return;
    }
    let Some(acceptor) = tls else {
        Box::pin(serve_http1(stream, connection, doors)).await;
        return;
    };
    let state = &doors.service.state;
    let metrics = &state.metrics;
    let Some(turn) = turn(state, &stream, connection.peer).await else {
        return;
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.handshake(Handshake::Failed);
            tracing::debug!(%error, peer = %connection.peer, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            metrics.handshake(Handshake::Failed);
            tracing::debug!(peer = %connection.peer, "a TLS handshake took too long");
            return;
        }
    };
    drop(turn);
    let session = stream.get_ref().1;
    metrics.handshake(match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => Handshake::Resumed,
        _ => Handshake::Full,
    });
    connection.exporter = tls::exporter(session);
    // Boxed, so that a connection that waits is small.
    if session.alpn_protocol() == Some(tls::ALPN_HTTP2) {
        Box::pin(serve_http2(stream, connection, doors)).await;
    } else {
        Box::pin(serve_http1(stream, connection, doors)).await;
    }
}

/// Waits for a connection's turn to have its handshake. None for one that says nothing, and when
/// it takes too long.
async fn turn(state: &State, stream: &TcpStream, peer: SocketAddr) -> Option<Turn> {
    let spoken = tokio::time::timeout(HANDSHAKE_TIMEOUT, hello::has_spoken(stream)).await;
    if !matches!(spoken, Ok(Ok(()))) {
        state.metrics.handshake(Handshake::Failed);
        tracing::debug!(%peer, "a connection said nothing");
        return None;
    }
    let gate = match hello::offers_http2(stream).await {
        true => &state.caller_handshakes,
        false => &state.handshakes,
    };
    let turn = gate.enter(peer.ip(), TURN_WITHIN).await;
    if turn.is_none() {
        state.metrics.handshake(Handshake::Late);
        if state.late_handshakes.may_speak() {
            let suppressed = state.late_handshakes.suppressed();
            tracing::warn!(%peer, suppressed, "a connection was closed: its turn for TLS did not come in time");
        }
    }
    turn
}

async fn serve_http1<IO>(io: IO, connection: Connection, doors: Doors)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Doors {
        service,
        closing,
        alive,
    } = doors;
    let timeout = service.state.limits().header_read_timeout.0;
    let connection = Arc::new(connection);
    let patience = Patience::new(service.state.limits().caller_idle_timeout.0);
    let io = ByLines::new(io, LineEnds::new(connection.clone()), patience);
    let answer = hyper::service::service_fn(move |request| {
        let (service, connection) = (service.clone(), connection.clone());
        async move { Ok::<_, Infallible>(service.answer(&connection, request).await) }
    });
    let mut serving = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(timeout)
            .max_buf_size(HTTP1_BUFFER_BYTES)
            .max_headers(HTTP1_FIELDS)
            .serve_connection(TokioIo::new(io), answer)
            .with_upgrades()
    );
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = is_closing(closing) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended in an error");
    }
    drop(alive);
}

async fn serve_http2<IO>(io: IO, connection: Connection, doors: Doors)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Doors {
        service,
        closing,
        alive,
    } = doors;
    let limits = service.state.limits();
    let patience = limits.caller_idle_timeout.0;
    let clock = HeaderClock::new(limits.header_read_timeout.0);
    let io = ByFrames::new(io, clock, Patience::new(patience));
    let connection = Arc::new(connection);
    let asked = Arc::new(AtomicU64::new(0));
    let counting = asked.clone();
    let answer = hyper::service::service_fn(move |request| {
        counting.fetch_add(1, Ordering::Relaxed);
        let (service, connection) = (service.clone(), connection.clone());
        async move { Ok::<_, Infallible>(service.answer(&connection, request).await) }
    });
    let mut serving = std::pin::pin!(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // Some clients read only while they are asked to.
            .keep_alive_interval(HTTP2_PING)
            .keep_alive_timeout(patience)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(HTTP2_HEADER_BYTES)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
            .serve_connection(TokioIo::new(io), answer)
    );
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = async { tokio::select! { () = is_closing(closing) => {}, () = is_idle(&asked) => {} } } => {
            // What runs is finished.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended in an error");
    }
    drop(alive);
}

/// Waits until no request came for [`HTTP2_IDLE`].
async fn is_idle(asked: &AtomicU64) {
    let mut before = 0;
    loop {
        tokio::time::sleep(HTTP2_IDLE).await;
        let now = asked.load(Ordering::Relaxed);
        if now == before {
            return;
        }
        before = now;
    }
}

async fn is_closing(mut closing: watch::Receiver<bool>) {
    // A relay that is gone closes, too.
    let _ = closing.wait_for(|closing| *closing).await;
}
