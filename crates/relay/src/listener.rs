//! Accept loops: from a socket to requests.
//!
//! ```text
//! public    TCP -> permit -> TLS (10 s) -> HTTP/1.1 or HTTP/2 by ALPN -> RequestHandler
//! internal  TCP ->                         HTTP/1.1                   -> RequestHandler
//! proxy     TCP -> (permit -> TLS) ->      HTTP/1.1 or HTTP/2         -> RequestHandler
//! admin     TCP ->                         HTTP/1.1                   -> health and metrics
//! ```
//!
//! Each listener has its own budget of connections (`admission`). A connection is pending until a bridge has
//! authenticated on it or an API key was accepted, and a pending connection may be evicted. The number of
//! concurrent TLS handshakes is limited, and the others wait for a permit: when thousands of bridges reconnect,
//! each is served in time, instead of all at once and none. When the relay drains, accept loops end, idle
//! connections close, and requests in progress are finished.
//!
//! A connection from a load balancer of `listen.proxy_protocol_from` first sends a header with its client's address.
//! From then on it counts as one of that client.
//!
//! | file | what |
//! | --- | --- |
//! | `socket` | addresses |
//! | `proxy_protocol` | the header of a load balancer |
//! | `handshake`, `client_hello`, `tls`, `self_signed` | TLS |
//! | `serve`, `idle`, `h2_header_timeout` | HTTP on a connection, and its timeouts |

mod client_hello;
mod h2_header_timeout;
mod handshake;
mod idle;
mod proxy_protocol;
pub(crate) mod self_signed;
mod serve;
mod socket;
pub(crate) mod tls;

pub(crate) use socket::{bind, listen, of_key, reserve};

use crate::admission::{ListenerConnections, OpenConnection};
use crate::connection::{Connection, ListenerKind, SOCKET_BYTES};
use crate::data_plane::DataPlane;
use crate::sending::{Progress, ResponseBody};
use crate::throttle::LogRateLimiter;
use http::{Request, Response};
use hyper::body::Incoming;
use proxy_protocol::HeaderError;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tls::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// How long accepting pauses when the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long it pauses after an eviction, which frees descriptors within a moment.
const EVICTED_PAUSE: Duration = Duration::from_millis(10);

/// How long a load balancer may take to send the header with its client's address. It sends it at once.
const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pending connections that are evicted at once when descriptors run out.
const EVICTED_AT_ONCE: usize = 16;

/// Responds to requests.
pub(crate) trait RequestHandler: Send + Sync + 'static {
    /// Responds to a request; every failure is a response as well. `progress` reports whether the caller
    /// reads the response.
    fn respond(
        &self,
        connection: &Arc<Connection>,
        progress: &Arc<Progress>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// What a listener needs of its relay.
#[derive(Debug)]
pub(crate) struct ListenerContext<H> {
    /// Responds to requests.
    pub(crate) handler: Arc<H>,
    /// Limits, permits, metrics.
    pub(crate) data: Arc<DataPlane>,
    /// Turns true when connections must end.
    pub(crate) closing: watch::Receiver<bool>,
    /// Held by every connection that serves requests. The receiver ends when all of them are gone.
    pub(crate) alive: mpsc::Sender<Infallible>,
}

impl<H> Clone for ListenerContext<H> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            data: self.data.clone(),
            closing: self.closing.clone(),
            alive: self.alive.clone(),
        }
    }
}

/// Accepts connections until the relay drains. Without `tls` they are plain HTTP/1.1.
pub(crate) async fn accept<H: RequestHandler>(
    listener: TcpListener,
    arrived: ListenerKind,
    connections: Arc<ListenerConnections>,
    tls: Option<Acceptor>,
    mut context: ListenerContext<H>,
) {
    let data = context.data.clone();
    let full = LogRateLimiter::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = context.closing.wait_for(|closing| *closing) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tokio::time::sleep(accept_failed(&data, &error)).await;
                continue;
            }
        };
        let open = match arrived {
            // Health and metrics must work when descriptors run out.
            ListenerKind::Admin => data.connections.open_always(),
            ListenerKind::Tls | ListenerKind::Plain | ListenerKind::Proxy => {
                match data.connections.open() {
                    Some(open) => open,
                    None => {
                        // Rate limited: the peers decide how often this happens.
                        if full.allow() {
                            tracing::warn!(%peer, suppressed = full.suppressed(), "connection closed: no file descriptors left");
                        }
                        continue;
                    }
                }
            }
        };
        let accepted = Accepted {
            stream,
            arrived,
            connections: connections.clone(),
            open,
            acceptor: tls.as_ref().map(Acceptor::current),
            context: context.clone(),
        };
        let is_balancer =
            arrived != ListenerKind::Admin && data.config.listen.is_balancer(peer.ip());
        if is_balancer {
            tokio::spawn(Box::pin(accepted.begin_for_client(peer)));
        } else {
            accepted.begin(peer);
        }
    }
}

/// A connection that was accepted, before it counts as one of its peer.
struct Accepted<H> {
    stream: TcpStream,
    arrived: ListenerKind,
    connections: Arc<ListenerConnections>,
    open: OpenConnection,
    acceptor: Option<TlsAcceptor>,
    context: ListenerContext<H>,
}

impl<H: RequestHandler> Accepted<H> {
    /// Serves it as one of this peer, in a task of its own.
    fn begin(self, peer: SocketAddr) {
        let pending = self.connections.pending.admit(peer.ip(), SOCKET_BYTES);
        let connection = Connection::new(peer, self.arrived, pending, self.connections, self.open);
        tokio::spawn(begin(self.stream, connection, self.acceptor, self.context));
    }

    /// Serves it as one of the client that a load balancer names. Until then it counts as one of the balancer.
    async fn begin_for_client(mut self, balancer: SocketAddr) {
        let waiting = self.connections.pending.admit(balancer.ip(), SOCKET_BYTES);
        let header = proxy_protocol::read(&mut self.stream);
        let header = tokio::select! {
            header = tokio::time::timeout(PROXY_HEADER_TIMEOUT, header) => header,
            () = waiting.evicted() => {
                tracing::debug!(%balancer, "connection evicted before its PROXY header");
                return;
            }
        };
        drop(waiting);
        let error = match header {
            Ok(Ok(client)) => return self.begin(client.unwrap_or(balancer)),
            // A health check of the balancer may connect and close.
            Ok(Err(error @ HeaderError::Lost(_))) => {
                tracing::debug!(%balancer, %error, "connection of a load balancer lost");
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its PROXY header did not arrive in time".to_owned(),
        };
        let limiter = &self.context.data.failed_proxy_headers;
        if limiter.allow() {
            let suppressed = limiter.suppressed();
            tracing::warn!(%balancer, error, suppressed, "connection of a load balancer closed (listen.proxy_protocol_from)");
        }
    }
}

/// Logs that a connection could not be accepted. If descriptors run out, pending connections are evicted.
/// Returns how long to pause.
fn accept_failed(data: &DataPlane, error: &io::Error) -> Duration {
    data.metrics.accept_failed();
    if transport::tcp::is_gone(error) {
        // The error is this connection's alone.
        return Duration::ZERO;
    }
    let evicted = match runtime::shortage::is_shortage(error) {
        true => data.connections.evict(EVICTED_AT_ONCE),
        false => 0,
    };
    if data.failed_accepts.allow() {
        let suppressed = data.failed_accepts.suppressed();
        tracing::warn!(%error, evicted, suppressed, "cannot accept a connection");
    }
    match evicted {
        0 => ACCEPT_PAUSE,
        _ => EVICTED_PAUSE,
    }
}

async fn begin<H: RequestHandler>(
    stream: TcpStream,
    mut connection: Connection,
    tls: Option<TlsAcceptor>,
    context: ListenerContext<H>,
) {
    if let Err(error) = transport::tcp::tune(&stream) {
        tracing::debug!(%error, peer = %connection.peer, "connection lost at once");
        return;
    }
    let Some(acceptor) = tls else {
        Box::pin(serve::http1(stream, connection, context)).await;
        return;
    };
    let data = context.data.clone();
    let handshake = handshake::complete(&data, stream, &mut connection, &acceptor);
    let Some(stream) = Box::pin(handshake).await else {
        return;
    };
    let session = stream.get_ref().1;
    // Boxed, here and above, so that the task of a connection that waits is small: there may be thousands.
    if session.alpn_protocol() == Some(tls::ALPN_HTTP2) {
        Box::pin(serve::http2(stream, connection, context)).await;
    } else {
        Box::pin(serve::http1(stream, connection, context)).await;
    }
}
