//! A connection to a target: TCP to an approved address, TLS by the URL's name, HTTP/1.1.

use super::body::RequestBody;
use super::pool::{Key, Pooled};
use super::stream::Stream;
use super::tls::TlsConfigs;
use super::wire::Wire;
use super::{HEAD_BUFFER_BYTES, RESPONSE_HEADERS_MAX};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use policy::Approved;
use protocol::{Code, Failure};
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
/// polled. Dropping it closes it.
#[derive(Debug)]
pub struct Connection {
    sender: http1::SendRequest<RequestBody>,
    wire: Wire,
    key: Key,
    address: SocketAddr,
    is_reused: bool,
}

impl Connection {
    /// Hands a request over. The future is the answer's head.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let wire = &mut self.wire;
        poll_fn(|cx| {
            wire.poll(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// From now on its bytes move in both directions whoever polls.
    pub fn run_alone(&mut self) {
        self.wire.run_alone();
    }

    /// As [`Self::run_alone`], for a request whose answer may be another protocol.
    pub(crate) fn run_for_upgrade(&mut self) {
        self.wire.run_for_upgrade();
    }

    /// Whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Waits until it can take another request; false when it is closed.
    pub(super) async fn ready(&mut self) -> bool {
        let (wire, sender) = (&mut self.wire, &mut self.sender);
        poll_fn(|cx| {
            wire.poll(cx);
            sender.poll_ready(cx)
        })
        .await
        .is_ok()
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

    fn is_usable(&mut self) -> bool {
        // Sees what has come since: its end, as a rule.
        self.wire.poll(&mut Context::from_waker(Waker::noop()));
        self.sender.is_ready() && !self.sender.is_closed()
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

impl Body for AnswerBody<'_> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let mut incoming = Pin::new(&mut this.incoming);
        // Asking first tells the connection that bytes are wanted.
        if let Poll::Ready(frame) = incoming.as_mut().poll_frame(cx) {
            return Poll::Ready(frame);
        }
        this.connection.wire.poll(cx);
        incoming.poll_frame(cx)
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
    key: &Key,
    tls: &TlsConfigs,
    proxy: &Proxy,
    limit: Duration,
) -> Result<(Approved, Connection), Failure> {
    let (approved, stream) = tcp(approved, proxy, limit).await?;
    let address = approved.socket_addr();
    let stream = if key.is_tls {
        let secured = secure(stream, key, tls, limit).await?;
        Stream::Tls(Box::new(secured))
    } else {
        Stream::Plain(stream)
    };
    let (sender, wire) = handshake(stream).await?;
    let connection = Connection {
        sender,
        wire,
        key: key.clone(),
        address,
        is_reused: false,
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

/// To an address that was approved: through the proxy for targets, or directly.
async fn reach(approved: &Approved, proxy: &Proxy) -> Result<TcpStream, String> {
    let address = approved.socket_addr();
    let host = approved.target().host().to_string();
    let through = proxy
        .through(&host, address.port(), &address.to_string())
        .await;
    match through {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) => Err(error.to_string()),
        None => TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string()),
    }
}

async fn tcp(
    approved: Vec<Approved>,
    proxy: &Proxy,
    limit: Duration,
) -> Result<(Approved, TcpStream), Failure> {
    let deadline = Instant::now() + limit;
    let count = approved.len();
    let mut last = String::from("it has no address that may be used");
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
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address}: no answer within {share:?}"),
        };
    }
    let detail = format!("the target did not take a connection: {last}");
    Err(Failure::not_dispatched(Code::TargetRefused, detail))
}

async fn secure(
    stream: TcpStream,
    key: &Key,
    tls: &TlsConfigs,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let failed = |detail: String| {
        let detail = format!("TLS with {} failed: {detail}", key.authority());
        Failure::not_dispatched(Code::TargetTls, detail)
    };
    let config = tls
        .get(key.ca_file.as_ref(), key.own.as_ref())
        .await
        .map_err(|error| failed(error.to_string()))?;
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

async fn handshake(stream: Stream) -> Result<(http1::SendRequest<RequestBody>, Wire), Failure> {
    let (sender, connection) = http1::Builder::new()
        .max_headers(RESPONSE_HEADERS_MAX)
        .max_buf_size(HEAD_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| {
            let error = io::Error::other(error);
            Failure::not_dispatched(Code::TargetRefused, error.to_string())
        })?;
    Ok((sender, Wire::new(connection)))
}
