//! A connection to a target: TCP to an approved address, TLS by the URL's name, HTTP/1.1 or HTTP/2.

use super::body::RequestBody;
use super::error::BodyError;
use super::http2::{self, Running};
use super::pool::{Key, Pooled, announced};
use super::stream::Stream;
use super::tls::TlsConfigs;
use super::wire::Wire;
use super::{HEAD_BUFFER_BYTES, RESPONSE_HEADERS_MAX};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper::client::conn::http2::SendRequest as SendRequest2;
use hyper_util::rt::TokioIo;
use policy::Approved;
use protocol::{Code, Failure};
use runtime::shortage;
use rustls::pki_types::ServerName;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use transport::dial::Proxy;

/// A live connection to a target. Its bytes move while [`Self::send`] or an [`AnswerBody`] is
/// polled; by HTTP/2 they move by themselves. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    line: Line,
    key: Key,
    address: SocketAddr,
    is_reused: bool,
    is_for_once: bool,
    /// When the head of the last response came, and for how long the target keeps the connection idle.
    announced: Option<(Instant, Duration)>,
}

/// What is spoken on it.
#[derive(Debug)]
enum Line {
    Http1 {
        sender: http1::SendRequest<RequestBody>,
        wire: Wire,
    },
    Http2 {
        sender: SendRequest2<RequestBody>,
        _running: Running,
    },
}

impl Line {
    /// Moves what nobody else moves.
    fn poll(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1 { wire, .. } => wire.poll(cx),
            Self::Http2 { .. } => {}
        }
    }
}

impl Connection {
    /// Hands a request over. The future is the answer's head.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.line {
            Line::Http1 { sender, wire } => {
                let mut answer = pin!(sender.try_send_request(request));
                let answer = poll_fn(|cx| {
                    wire.poll(cx);
                    answer.as_mut().poll(cx)
                })
                .await;
                if let Ok(response) = &answer {
                    let timeout = announced(response.headers());
                    self.announced = timeout.map(|timeout| (Instant::now(), timeout));
                }
                answer
            }
            Line::Http2 { sender, .. } => {
                // Boxed: most targets do without.
                let request = http2::in_its_form(request);
                Box::pin(sender.try_send_request(request)).await
            }
        }
    }

    /// From now on its bytes move in both directions whoever polls.
    pub fn run_alone(&mut self) {
        if let Line::Http1 { wire, .. } = &mut self.line {
            wire.run_alone();
        }
    }

    /// As [`Self::run_alone`], for a request whose answer may be another protocol.
    pub(crate) fn run_for_upgrade(&mut self) {
        if let Line::Http1 { wire, .. } = &mut self.line {
            wire.run_for_upgrade();
        }
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Waits until it can take another request; false when it is closed.
    pub(super) async fn ready(&mut self) -> bool {
        poll_fn(|cx| match &mut self.line {
            Line::Http1 { sender, wire } => {
                wire.poll(cx);
                sender.poll_ready(cx)
            }
            Line::Http2 { sender, .. } => sender.poll_ready(cx),
        })
        .await
        .is_ok()
    }

    /// It was made for a request that may leave only once.
    pub(crate) fn mark_for_once(&mut self) {
        self.is_for_once = true;
    }

    /// It has served a request.
    pub(super) fn mark_reused(&mut self) {
        self.is_reused = true;
    }
}

impl Pooled for Connection {
    fn key(&self) -> &Key {
        &self.key
    }

    fn address(&self) -> IpAddr {
        self.address.ip()
    }

    fn announced(&self) -> Option<(Instant, Duration)> {
        self.announced
    }

    fn is_for_once(&self) -> bool {
        self.is_for_once
    }

    fn is_usable(&mut self) -> bool {
        // Sees what has come since: its end, as a rule.
        self.line.poll(&mut Context::from_waker(Waker::noop()));
        match &self.line {
            Line::Http1 { sender, .. } => sender.is_ready() && !sender.is_closed(),
            Line::Http2 { sender, .. } => sender.is_ready() && !sender.is_closed(),
        }
    }
}

/// The stream below a connection whose target switched protocols, and what it has sent since.
pub(crate) fn switched(upgraded: hyper::upgrade::Upgraded) -> Option<(Stream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Stream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

/// The body of an answer, and the connection that it comes on.
#[derive(Debug)]
pub struct AnswerBody<'a> {
    incoming: Incoming,
    connection: &'a mut Connection,
}

impl<'a> AnswerBody<'a> {
    /// The body of the answer to the request that was sent last.
    pub fn new(incoming: Incoming, connection: &'a mut Connection) -> Self {
        Self {
            incoming,
            connection,
        }
    }
}

impl AnswerBody<'_> {
    /// What is left of the body, without its connection.
    pub(crate) fn into_rest(self) -> Incoming {
        self.incoming
    }

    /// Whether the end that the HTTP library tells of is one. It takes an HTTP/2 stream that is reset
    /// without an error for ended, which is right only behind the whole answer (RFC 9113, 8.1).
    fn is_whole(&self) -> bool {
        matches!(self.connection.line, Line::Http1 { .. })
            || self.incoming.is_end_stream()
            || self.incoming.size_hint().exact() == Some(0)
    }
}

impl Body for AnswerBody<'_> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut incoming = Pin::new(&mut this.incoming);
        // Asking first tells the connection that bytes are wanted.
        let mut frame = incoming.as_mut().poll_frame(cx);
        if frame.is_pending() {
            this.connection.line.poll(cx);
            frame = incoming.poll_frame(cx);
        }
        let frame = std::task::ready!(frame);
        if frame.is_none() && !this.is_whole() {
            return Poll::Ready(Some(Err(BodyError::Short)));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Http)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Connects to the first address that answers, within `limit` for all of them together.
pub(super) async fn connect(
    approved: Vec<Approved>,
    (key, http2): (&Key, bool),
    tls: &TlsConfigs,
    proxy: &Proxy,
    limit: Duration,
) -> Result<(Approved, Connection), Failure> {
    let (approved, stream) = tcp(approved, proxy, limit).await?;
    let address = approved.socket_addr();
    let mut chosen = None;
    let stream = if key.is_tls {
        let secured = secure(stream, (key, http2), tls, limit).await?;
        chosen = secured.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        Stream::Tls(Box::new(secured))
    } else {
        Stream::Plain(stream)
    };
    let is_http2 = chosen.is_some_and(|name| name == http2::ALPN);
    let connection = Connection {
        line: line(stream, is_http2).await?,
        key: key.clone(),
        address,
        is_reused: false,
        is_for_once: false,
        announced: None,
    };
    Ok((approved, connection))
}

/// A plain TCP stream to the first address that answers, for raw streams.
pub(super) async fn raw_stream(
    approved: Vec<Approved>,
    proxy: &Proxy,
    limit: Duration,
) -> Result<TcpStream, Failure> {
    let (_, stream) = tcp(approved, proxy, limit).await?;
    Ok(stream)
}

/// Why an address was not reached.
struct NotReached {
    detail: String,
    /// This machine is short of something, and the target has done nothing.
    is_shortage: bool,
}

impl NotReached {
    fn of(address: SocketAddr, error: &(dyn std::error::Error + 'static)) -> Self {
        let is_shortage = shortage::io_error(error)
            .is_some_and(|error| shortage::is_connect_shortage(error, || has_way_to(address.ip())));
        Self {
            detail: error.to_string(),
            is_shortage,
        }
    }
}

/// Whether this machine has an address from which another of that family can be reached. Without one, IPv6
/// fails with the error that tells of no free port, too.
fn has_way_to(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else {
        return true;
    };
    if_addrs::get_if_addrs().is_ok_and(|all| {
        all.iter().any(|interface| match interface.ip() {
            IpAddr::V6(own) => own.is_loopback() == address.is_loopback(),
            IpAddr::V4(_) => false,
        })
    })
}

/// To an address that was approved: through the proxy for targets, or directly.
async fn reach(approved: &Approved, proxy: &Proxy) -> Result<TcpStream, NotReached> {
    let address = approved.socket_addr();
    let host = approved.target().host().to_string();
    let through = proxy
        .through(&host, address.port(), &address.to_string())
        .await;
    match through {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) => Err(NotReached::of(address, &error)),
        None => TcpStream::connect(address)
            .await
            .map_err(|error| NotReached::of(address, &error)),
    }
}

/// What this machine is short of, as it is reported to the relay: nothing was dispatched, and it may come again.
fn overloaded(detail: impl std::fmt::Display) -> Failure {
    let detail = format!("this bridge's machine is short of resources: {detail}");
    Failure::not_dispatched(Code::Overloaded, detail)
}

async fn tcp(
    approved: Vec<Approved>,
    proxy: &Proxy,
    limit: Duration,
) -> Result<(Approved, TcpStream), Failure> {
    let deadline = Instant::now() + limit;
    let count = approved.len();
    let mut last = String::from("it has no address that may be used");
    let mut own = None;
    for (index, approved) in approved.into_iter().enumerate() {
        let address = approved.socket_addr();
        // What is left is shared evenly, so that one silent address does not use it all.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(count - index).map_or(left, |rest| left / rest);
        last = match timeout(share, reach(&approved, proxy)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%address, %error, "TCP_NODELAY");
                }
                return Ok((approved, stream));
            }
            Ok(Err(error)) => {
                let detail = format!("{address}: {}", error.detail);
                if error.is_shortage {
                    own = Some(detail.clone());
                }
                detail
            }
            Err(_) => format!("{address}: no answer within {share:?}"),
        };
    }
    if let Some(own) = own {
        // The address that was not asked might have been the one that works.
        return Err(overloaded(own));
    }
    let detail = format!("the target did not take a connection: {last}");
    Err(Failure::not_dispatched(Code::TargetRefused, detail))
}

async fn secure(
    stream: TcpStream,
    (key, http2): (&Key, bool),
    tls: &TlsConfigs,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let failed = |detail: String| {
        let detail = format!("TLS with {} failed: {detail}", key.authority());
        Failure::not_dispatched(Code::TargetTls, detail)
    };
    let config = tls
        .get(key.ca_file.as_ref(), key.own.as_ref(), http2)
        .await
        .map_err(|error| match shortage::is_in(&error) {
            true => overloaded(&error),
            false => failed(error.to_string()),
        })?;
    let name = match &key.host {
        policy::Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| failed("the host is no name that a certificate can have".into()))?,
        policy::Host::Addr(address) => ServerName::IpAddress((*address).into()),
    };
    let connecting = TlsConnector::from(config).connect(name, stream);
    match timeout(limit, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(transport::dial::explain_tls(&error))),
        Err(_) => Err(failed(format!("no handshake within {limit:?}"))),
    }
}

/// Begins to speak HTTP.
async fn line(stream: Stream, is_http2: bool) -> Result<Line, Failure> {
    let made = if is_http2 {
        http2::handshake(stream)
            .await
            .map(|(sender, running)| Line::Http2 {
                sender,
                _running: running,
            })
    } else {
        http1::Builder::new()
            .max_headers(RESPONSE_HEADERS_MAX)
            .max_buf_size(HEAD_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map(|(sender, connection)| Line::Http1 {
                sender,
                wire: Wire::new(connection),
            })
    };
    made.map_err(|error| {
        let error = io::Error::other(error);
        Failure::not_dispatched(Code::TargetRefused, error.to_string())
    })
}
