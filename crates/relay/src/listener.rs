//! Accept loops: from a socket to requests.
//!
//! ```text
//! public    TCP -> turn -> TLS (10 s) -> HTTP/1.1 or HTTP/2 by ALPN -> Service
//! internal  TCP ->                       HTTP/1.1                   -> Service
//! admin     TCP ->                       HTTP/1.1                   -> health and metrics
//! ```
//!
//! Each listener has a budget of its own for connections (`gate`): a connection is pending until a bridge
//! has proved itself or an API key was accepted on it, and a pending one may be evicted. TLS handshakes run
//! so many at once, and the rest wait for their turn: when thousands of bridges come back together, each is
//! served in time, instead of all at once and none. A connection takes its turn when its ClientHello is
//! complete, and has it for a short time. When the relay drains, loops end, idle connections close, and
//! what runs is finished.

pub(crate) mod bare_lf_guard;
mod client_hello;
pub mod connection;
mod h2_header_timeout;
mod idle;
mod inspected_io;
pub mod self_signed;
pub mod tls;
mod write_timeout;

use crate::admission::{HandshakePermit, ListenerConnections};
use crate::metrics::Handshake;
use crate::reload::Acceptor;
use crate::sending::Progress;
use crate::service::Service;
use crate::state::State;
use crate::throttle::LogRateLimiter;
use bare_lf_guard::{BareLfGuard, BareLfIo};
use connection::{ByteCount, Connection, ListenerKind};
use h2_header_timeout::{H2HeaderIo, HeaderTimeout};
use hyper_util::rt::{TokioIo, TokioTimer};
use idle::{IdleClock, IdleLimits, StreamExecutor, current_stream};
use rustls::HandshakeKind;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use write_timeout::WriteTimeout;

/// Until a connection has said something, and then again from its turn to the end of its TLS
/// handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection waits for its turn. Beyond, its client would give up before the end: the
/// work would be lost for this one and late for the next.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// How long a connection has its turn. A client that takes longer goes on without: the turn is for the
/// relay's own work, and a silent client keeps it from no other client.
const TURN_FOR: Duration = Duration::from_millis(100);

/// How long accepting pauses when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long it pauses when pending connections were evicted, whose descriptors are free in a moment.
const EVICTED_PAUSE: Duration = Duration::from_millis(10);

/// Pending connections that are evicted at once for want of descriptors.
const EVICTED_AT_ONCE: usize = 16;

/// What a pending connection is charged: a socket and its task; with TLS; with HTTP/2.
const SOCKET_BYTES: usize = 2 * 1024;
const TLS_BYTES: usize = 24 * 1024;
const HTTP2_BYTES: usize = 48 * 1024;

/// What it is charged when its handshake takes longer than this: the longest message of a handshake, which
/// the library collects.
const SLOW_TLS_BYTES: usize = 64 * 1024;
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// Connections that the system keeps for us while we are busy: what comes in a moment when
/// thousands of bridges come back.
const BACKLOG: u32 = 4096;

/// HTTP/1 buffer of a connection. Above every head that can pass (a head on the wire has 48 KiB).
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// HTTP/1 fields that are parsed; the limit that is told is `limits.headers_max`.
const HTTP1_FIELDS: usize = 512;

/// HTTP/2 requests at once on one connection.
const HTTP2_STREAMS: u32 = 256;

/// HTTP/2 header section; the limit that is told is `limits.header_bytes_max`.
const HTTP2_HEADER_BYTES: u32 = 64 * 1024;

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
pub struct ListenerContext {
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
    arrived: ListenerKind,
    connections: Arc<ListenerConnections>,
    tls: Option<Acceptor>,
    mut doors: ListenerContext,
) {
    let state = doors.service.state.clone();
    let full = LogRateLimiter::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = doors.closing.wait_for(|closing| *closing) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tokio::time::sleep(not_accepted(&state, &error)).await;
                continue;
            }
        };
        let open = match arrived {
            // Health and metrics are for the moment when descriptors are short.
            ListenerKind::Admin => state.connections.open_always(),
            ListenerKind::Tls | ListenerKind::Plain | ListenerKind::Proxy => {
                match state.connections.open() {
                    Some(open) => open,
                    None => {
                        // Once a second at most: the peers decide how often this happens.
                        if full.allow() {
                            tracing::warn!(%peer, suppressed = full.suppressed(), "a connection was closed: the process has no file descriptors left for it");
                        }
                        continue;
                    }
                }
            }
        };
        let connection = Connection {
            peer,
            arrived,
            exporter: None,
            is_raw: AtomicBool::new(false),
            memory: ByteCount::default(),
            unsent: ByteCount::default(),
            is_cut: AtomicBool::new(false),
            pending: connections.pending.admit(peer.ip(), SOCKET_BYTES),
            established: OnceLock::new(),
            listener: connections.clone(),
            _open: open,
        };
        let acceptor = tls.as_ref().map(Acceptor::current);
        tokio::spawn(begin(stream, connection, acceptor, doors.clone()));
    }
}

/// Says that a connection could not be accepted. Where descriptors are short, pending connections make
/// room. Returns how long to pause.
fn not_accepted(state: &State, error: &io::Error) -> Duration {
    state.metrics.accept_failed();
    if transport::tcp::is_gone(error) {
        // The next connection may be better.
        return Duration::ZERO;
    }
    let evicted = match runtime::shortage::is_shortage(error) {
        true => state.connections.evict(EVICTED_AT_ONCE),
        false => 0,
    };
    if state.failed_accepts.allow() {
        let suppressed = state.failed_accepts.suppressed();
        tracing::warn!(%error, evicted, suppressed, "a connection could not be accepted");
    }
    match evicted {
        0 => ACCEPT_PAUSE,
        _ => EVICTED_PAUSE,
    }
}

async fn begin(
    stream: TcpStream,
    mut connection: Connection,
    tls: Option<TlsAcceptor>,
    doors: ListenerContext,
) {
    if let Err(error) = transport::tcp::tune(&stream) {
        tracing::debug!(%error, peer = %connection.peer, "a connection was gone at once");
        return;
    }
    let Some(acceptor) = tls else {
        Box::pin(serve_http1(stream, connection, doors)).await;
        return;
    };
    let state = doors.service.state.clone();
    let handshake = shake_hands(&state, stream, &mut connection, &acceptor);
    let Some(stream) = Box::pin(handshake).await else {
        return;
    };
    let session = stream.get_ref().1;
    // Boxed, so that a connection that waits is small.
    if session.alpn_protocol() == Some(tls::ALPN_HTTP2) {
        Box::pin(serve_http2(stream, connection, doors)).await;
    } else {
        Box::pin(serve_http1(stream, connection, doors)).await;
    }
}

/// Has the TLS handshake when it is the connection's turn. `None` where it failed or the connection was
/// evicted.
async fn shake_hands(
    state: &State,
    stream: TcpStream,
    connection: &mut Connection,
    acceptor: &TlsAcceptor,
) -> Option<TlsStream<TcpStream>> {
    let metrics = &state.metrics;
    let peer = connection.peer;
    let turn = tokio::select! {
        turn = turn(state, &stream, peer) => turn?,
        () = connection.evicted() => {
            tracing::debug!(%peer, "evicted before its TLS handshake");
            return None;
        }
    };
    connection.charge(TLS_BYTES);
    let pending = &*connection;
    let handshake = async {
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
        let mut handshake = std::pin::pin!(handshake);
        let early = tokio::time::timeout(TURN_FOR, handshake.as_mut()).await;
        drop(turn);
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
            tracing::debug!(%peer, "evicted in its TLS handshake");
            return None;
        }
    };
    let stream = match done {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.handshake(Handshake::Failed);
            tracing::debug!(%error, %peer, "a TLS handshake failed");
            return None;
        }
        Err(_) => {
            metrics.handshake(Handshake::Failed);
            tracing::debug!(%peer, "a TLS handshake took too long");
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

/// Waits for a connection's turn to have its handshake. None for one that says nothing, and when
/// it takes too long.
async fn turn(state: &State, stream: &TcpStream, peer: SocketAddr) -> Option<HandshakePermit> {
    let offer = tokio::time::timeout(HANDSHAKE_TIMEOUT, client_hello::read_offer(stream)).await;
    let Ok(Ok(offers_http2)) = offer else {
        state.metrics.handshake(Handshake::Failed);
        tracing::debug!(%peer, "a connection did not complete its ClientHello");
        return None;
    };
    let gate = match offers_http2 {
        true => &state.caller_handshakes,
        false => &state.handshakes,
    };
    let turn = gate.enter(peer.ip(), TURN_WITHIN).await;
    if turn.is_none() {
        state.metrics.handshake(Handshake::Late);
        if state.late_handshakes.allow() {
            let suppressed = state.late_handshakes.suppressed();
            tracing::warn!(%peer, suppressed, "a connection was closed: its turn for TLS did not come in time");
        }
    }
    turn
}

async fn serve_http1<IO>(io: IO, connection: Connection, doors: ListenerContext)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ListenerContext {
        service,
        closing,
        alive,
    } = doors;
    let limits = idle_limits(&service.state);
    let timeout = limits.without_permit;
    let connection = Arc::new(connection);
    let evicted = connection.clone();
    let patience = WriteTimeout::new(limits.usual);
    let io = BareLfIo::new(io, BareLfGuard::new(connection.clone()), patience);
    let progress = Arc::<Progress>::default();
    let mut clock = IdleClock::new(progress.clone(), limits);
    let answer = hyper::service::service_fn(move |request| {
        let (service, connection) = (service.clone(), connection.clone());
        let progress = progress.clone();
        async move { Ok::<_, Infallible>(service.answer(&connection, &progress, request).await) }
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
        biased;
        result = serving.as_mut() => Some(result),
        () = clock.over() => None,
        () = evicted.evicted() => {
            tracing::debug!(peer = %evicted.peer, "evicted before it authenticated");
            return;
        }
        () = is_closing(closing) => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                result = serving.as_mut() => Some(result),
                () = clock.over() => None,
            }
        }
    };
    ended(result);
    drop(alive);
}

/// Says how a connection ended; `None` is for one whose caller did not read the responses.
fn ended(result: Option<hyper::Result<()>>) {
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "a connection ended in an error"),
        None => tracing::debug!("a connection was closed: its caller did not read the response"),
    }
}

/// How long callers may read nothing.
fn idle_limits(state: &State) -> IdleLimits {
    let limits = state.limits();
    IdleLimits {
        usual: limits.caller_idle_timeout.0,
        without_permit: limits.header_read_timeout.0,
    }
}

async fn serve_http2<IO>(io: IO, connection: Connection, doors: ListenerContext)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ListenerContext {
        service,
        closing,
        alive,
    } = doors;
    let limits = idle_limits(&service.state);
    let patience = limits.usual;
    let connection = Arc::new(connection);
    let evicted = connection.clone();
    connection.charge(HTTP2_BYTES);
    let header_clock = HeaderTimeout::new(limits.without_permit, Some(connection.clone()));
    let io = H2HeaderIo::new(io, header_clock, WriteTimeout::new(patience));
    let mut clock = IdleClock::new(connection.clone(), limits);
    let asked = Arc::new(AtomicU64::new(0));
    let counting = asked.clone();
    let answer = hyper::service::service_fn(move |request| {
        counting.fetch_add(1, Ordering::Relaxed);
        let (service, connection) = (service.clone(), connection.clone());
        async move {
            let progress = current_stream();
            Ok::<_, Infallible>(service.answer(&connection, &progress, request).await)
        }
    });
    let mut serving = std::pin::pin!(
        hyper::server::conn::http2::Builder::new(StreamExecutor::new(limits))
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
        biased;
        result = serving.as_mut() => Some(result),
        () = clock.over() => None,
        () = evicted.evicted() => {
            tracing::debug!(peer = %evicted.peer, "evicted before it authenticated");
            return;
        }
        () = async { tokio::select! { () = is_closing(closing) => {}, () = is_idle(&asked) => {} } } => {
            // What runs is finished.
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                result = serving.as_mut() => Some(result),
                () = clock.over() => None,
            }
        }
    };
    ended(result);
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
