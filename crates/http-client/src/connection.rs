//! A connection to a target, and the body of a response on it.

use crate::error::BodyError;
use crate::http2::{self, Tasks};
use crate::proxied::Absolute;
use crate::request_body::RequestBody;
use crate::reuse::{PoolKey, Pooled, keep_alive_timeout};
use crate::spelling::spell;
use crate::stream::Stream;
use crate::wire::Wire;
use crate::{HEAD_BUFFER_BYTES, RESPONSE_HEADERS_MAX};
use bytes::Bytes;
use http::header::{HeaderMap, TRANSFER_ENCODING};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper::client::conn::http2::SendRequest as Http2Sender;
use hyper_util::rt::TokioIo;
use policy::Host;
use protocol::Failure;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;
use transport::read_ahead::ClientStream;

/// A live connection. Dropping it closes it.
///
/// The bytes of an HTTP/1.1 connection move while [`Self::send`] or a [`ResponseBody`] is polled; those of
/// HTTP/2 move in tasks of their own.
#[derive(Debug)]
pub struct Connection {
    http: Http,
    key: PoolKey,
    address: SocketAddr,
    is_reused: bool,
    is_for_once: bool,
    /// When it was made.
    since: Instant,
    /// Whether field names are written in their usual spelling.
    title_case: bool,
    /// How requests are written, on a connection to a proxy that has no tunnel.
    absolute: Option<Arc<Absolute>>,
    /// Whether its target has other addresses.
    has_others: bool,
    /// When the head of the last response arrived, and how long the target keeps the connection from then on.
    keep_alive: Option<(Instant, Duration)>,
    /// Whether the last response has a transfer coding that is not decoded here.
    has_other_coding: bool,
}

/// Which HTTP the connection speaks.
#[derive(Debug)]
enum Http {
    One {
        sender: http1::SendRequest<RequestBody>,
        wire: Wire,
    },
    Two {
        sender: Http2Sender<RequestBody>,
        _tasks: Tasks,
    },
}

impl Http {
    /// Moves bytes that no task moves.
    fn poll(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::One { wire, .. } => wire.poll(cx),
            Self::Two { .. } => {}
        }
    }
}

impl Connection {
    /// Begins HTTP on a stream to a target.
    pub(crate) async fn begin(
        stream: Stream,
        (key, address): (PoolKey, SocketAddr),
        is_http2: bool,
        title_case: bool,
    ) -> hyper::Result<Self> {
        let http = if is_http2 {
            let (sender, tasks) = http2::handshake(stream).await?;
            Http::Two {
                sender,
                _tasks: tasks,
            }
        } else {
            let mut builder = http1::Builder::new();
            builder
                // Targets that write their own HTTP: a blank before the colon must be removed (RFC 9112, 5.1), and
                // a folded value is joined by a space (5.2). Neither may reach the caller.
                .allow_spaces_after_header_name_in_responses(true)
                .allow_obsolete_multiline_headers_in_responses(true)
                .title_case_headers(title_case)
                .max_headers(RESPONSE_HEADERS_MAX)
                .max_buf_size(HEAD_BUFFER_BYTES);
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
            Http::One {
                sender,
                wire: Wire::new(connection),
            }
        };
        Ok(Self {
            http,
            key,
            address,
            is_reused: false,
            is_for_once: false,
            since: Instant::now(),
            title_case,
            absolute: None,
            has_others: false,
            keep_alive: None,
            has_other_coding: false,
        })
    }

    /// Begins HTTP/1.1 on a connection that [`transport::dial::Dialer`] made. The dialer connects to the
    /// program's own relay, or to the server that an administrator's `update` names, so no policy is asked.
    ///
    /// # Errors
    /// The I/O error of a stream that was closed meanwhile.
    pub async fn with_dialed(stream: ClientStream) -> std::io::Result<Self> {
        let address = stream.get_ref().0.get_ref().peer_addr()?;
        // Only for completeness: a dialed connection is never given to a pool.
        let key = PoolKey::of_dialed(Host::Addr(address.ip()), address.port());
        Self::begin(Stream::Tls(Box::new(stream)), (key, address), false, true)
            .await
            .map_err(std::io::Error::other)
    }

    /// Sends a request and waits for the response's head.
    ///
    /// # Errors
    /// hyper's error. It holds the request if no byte of it was sent.
    pub async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        if let Some(absolute) = &self.absolute {
            absolute.apply(&mut request);
        }
        match &mut self.http {
            Http::One { sender, wire } => {
                if self.title_case {
                    let headers = std::mem::take(request.headers_mut());
                    spell(&headers, request.extensions_mut());
                    *request.headers_mut() = headers;
                }
                let mut response = pin!(sender.try_send_request(request));
                let response = poll_fn(|cx| {
                    // The connection is polled first: it may bring the response that the next poll takes.
                    wire.poll(cx);
                    response.as_mut().poll(cx)
                })
                .await;
                // The target announces its keep-alive time again with each response; none means that it is
                // unknown.
                if let Ok(response) = &response {
                    let timeout = keep_alive_timeout(response.headers());
                    self.keep_alive = timeout.map(|timeout| (Instant::now(), timeout));
                    self.has_other_coding = has_other_coding(response.headers());
                }
                response
            }
            Http::Two { sender, .. } => {
                // Boxed to keep the future of an HTTP/1.1 exchange small: most targets have no HTTP/2.
                let request = http2::to_http2(request);
                Box::pin(sender.try_send_request(request)).await
            }
        }
    }

    /// Moves its bytes in a task from now on, whether or not the exchange polls it.
    pub fn run_alone(&mut self) {
        if let Http::One { wire, .. } = &mut self.http {
            wire.run_alone();
        }
    }

    /// Does the same as [`Self::run_alone`], for a request whose response may switch protocols.
    pub fn run_for_upgrade(&mut self) {
        if let Http::One { wire, .. } = &mut self.http {
            wire.run_for_upgrade();
        }
    }

    /// Returns whether it has served a request before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Waits until it can take another request. Returns false when it is closed.
    pub(crate) async fn ready(&mut self) -> bool {
        poll_fn(|cx| match &mut self.http {
            Http::One { sender, wire } => {
                wire.poll(cx);
                sender.poll_ready(cx)
            }
            Http::Two { sender, .. } => sender.poll_ready(cx),
        })
        .await
        .is_ok()
    }

    /// Notes that it leads to a proxy, which gets requests in the absolute form.
    pub(crate) fn set_absolute(&mut self, absolute: Arc<Absolute>, has_others: bool) {
        self.absolute = Some(absolute);
        self.has_others = has_others;
    }

    /// Checks that a request can be sent on it.
    ///
    /// # Errors
    /// `target_refused` for a request that has no absolute form, on a connection to a proxy.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        match &self.absolute {
            Some(absolute) => absolute.check(request),
            None => Ok(()),
        }
    }

    /// Returns the failure, if a response is that of the proxy itself, and whether the request may be sent to
    /// another address. The one that the proxy does not reach is then asked last.
    pub(crate) fn proxy_failure<B>(&self, response: &Response<B>) -> Option<(Failure, bool)> {
        let (failure, is_unreachable) = self.absolute.as_ref()?.own_failure(response)?;
        if is_unreachable {
            transport::race::ask_last(self.address);
        }
        Some((failure, is_unreachable && self.has_others))
    }

    /// Notes that it was made for a request that may be sent only once.
    pub(crate) fn mark_for_once(&mut self) {
        self.is_for_once = true;
    }

    /// Notes that it has served a request.
    pub(crate) fn mark_reused(&mut self) {
        self.is_reused = true;
    }
}

impl Pooled for Connection {
    fn key(&self) -> &PoolKey {
        &self.key
    }

    fn address(&self) -> IpAddr {
        self.address.ip()
    }

    fn keep_alive(&self) -> Option<(Instant, Duration)> {
        self.keep_alive
    }

    fn is_for_once(&self) -> bool {
        self.is_for_once
    }

    fn since(&self) -> Instant {
        self.since
    }

    fn is_usable(&mut self) -> bool {
        // An idle connection is not polled: read now what has arrived since, usually its end.
        self.http.poll(&mut Context::from_waker(Waker::noop()));
        match &self.http {
            Http::One { sender, .. } => sender.is_ready() && !sender.is_closed(),
            Http::Two { sender, .. } => sender.is_ready() && !sender.is_closed(),
        }
    }
}

/// Returns the stream below a connection whose target switched protocols, and the bytes that the target
/// sent since.
pub fn switched(upgraded: hyper::upgrade::Upgraded) -> Option<(Stream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Stream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

/// Returns whether a response has a transfer coding other than chunked. No request names one in `TE`, so a target must
/// not use it (RFC 9112, 7.4). `identity`, which old servers write, is none (RFC 2616, 3.6).
fn has_other_coding(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TRANSFER_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    codings.map(<[u8]>::trim_ascii).any(|coding| {
        !coding.is_empty()
            && !coding.eq_ignore_ascii_case(b"chunked")
            && !coding.eq_ignore_ascii_case(b"identity")
    })
}

/// The body of a response. Polling it moves the connection's bytes.
#[derive(Debug)]
pub struct ResponseBody<'a> {
    incoming: Incoming,
    connection: &'a mut Connection,
}

impl<'a> ResponseBody<'a> {
    /// Joins the body of the last response with the connection that it arrives on.
    pub fn new(incoming: Incoming, connection: &'a mut Connection) -> Self {
        Self {
            incoming,
            connection,
        }
    }

    /// Returns the rest of the body, without its connection.
    pub fn into_incoming(self) -> Incoming {
        self.incoming
    }

    /// Returns whether the end that hyper reports is the response's end. hyper reports an HTTP/2 stream that
    /// was reset with NO_ERROR as ended; that is only right after a complete response (RFC 9113, 8.1).
    fn is_complete(&self) -> bool {
        matches!(self.connection.http, Http::One { .. })
            || self.incoming.is_end_stream()
            || self.incoming.size_hint().exact() == Some(0)
    }
}

impl Body for ResponseBody<'_> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        // hyper removes only the chunks. The caller would take the coded bytes that are left for the body.
        if this.connection.has_other_coding && !this.incoming.is_end_stream() {
            return Poll::Ready(Some(Err(BodyError::Coding)));
        }
        let mut incoming = Pin::new(&mut this.incoming);
        // The body is polled before the connection: that is how hyper learns that bytes are wanted, and
        // only then reads them.
        let mut frame = incoming.as_mut().poll_frame(cx);
        if frame.is_pending() {
            this.connection.http.poll(cx);
            frame = incoming.poll_frame(cx);
        }
        let frame = std::task::ready!(frame);
        if frame.is_none() && !this.is_complete() {
            return Poll::Ready(Some(Err(BodyError::Incomplete)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderValue;

    #[test]
    fn transfer_coding_other_than_chunks_is_found() {
        for (values, expected) in [
            (&[] as &[&str], false),
            (&["chunked"], false),
            (&["Chunked", "chunked"], false),
            (&["identity"], false),
            (&["identity, chunked"], false),
            (&["chunked,"], false),
            (&["gzip, chunked"], true),
            (&["gzip", "chunked"], true),
            (&["chunked, gzip"], true),
            (&["gzip"], true),
            (&["x-chunked"], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(has_other_coding(&headers), expected, "{values:?}");
        }
    }
}
