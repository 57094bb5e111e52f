//! CONNECT on a connection to a proxy: as many requests as the login needs.
//!
//! ```text
//! CONNECT                  --> 407, offers   the proxy may close the connection, and the next request goes on a new one
//! CONNECT, first message   --> 407, a challenge     from here on, the messages belong to this connection
//! CONNECT, second message  --> 200
//! ```

use super::handshake::Next;
use super::offers::Offers;
use super::{ProxyError, ProxyServer};
use crate::dial::USER_AGENT;
use crate::failure::{Cause, Diagnosis};
use runtime::secret::{Secret, Zeroizing};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Longest head of a response. A longer one is a web page.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// Fields of a head.
const FIELDS_MAX: usize = 64;

/// Largest body of a 407 that is read, to keep the connection. It is a page for people.
const BODY_MAX_BYTES: u64 = 256 * 1024;

/// Longest line between the chunks of such a body.
const CHUNK_LINE_MAX_BYTES: usize = 256;

/// How often one CONNECT goes on a new connection.
const RECONNECTS_MAX: u32 = 2;

/// The time for a new connection to an address of the proxy that has accepted one before.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the proxy for a tunnel to `authority`.
pub(super) async fn tunnel(
    server: &ProxyServer,
    stream: TcpStream,
    authority: &str,
) -> Result<TcpStream, ProxyError> {
    let mut line = Line::new(server, stream);
    let mut handshake = server.handshake();
    let mut next = handshake.first();
    loop {
        let value = match next {
            Next::Send(value) => value,
            Next::Begin(mechanism) => {
                let begun = mechanism.begin(server.host()).await;
                next = handshake.begun(mechanism, begun);
                continue;
            }
            Next::Fail(why) => return Err(line.rejected(why)),
        };
        let request = connect_request(authority, value.as_ref(), handshake.has_mechanisms());
        let answer = match line.exchange(&request).await {
            // The proxy closed the connection after its 407, without announcing it.
            Err(ProxyError::Io { .. }) if line.has_served && !handshake.is_bound() => {
                line.reconnect().await?;
                next = Next::Send(value);
                continue;
            }
            answer => answer?,
        };
        let cause = match answer.status {
            200..=299 => {
                handshake.accepted();
                return Ok(line.stream);
            }
            407 => {
                let is_kept = line.skip_body(&answer).await;
                next = handshake.rejected(answer.offers);
                if is_kept || matches!(next, Next::Fail(_)) {
                    continue;
                }
                if handshake.is_bound() {
                    let found = "it closes the connection between the messages of one login";
                    return Err(line.rejected(Diagnosis::new(Cause::ProxyLoginFailed, found)));
                }
                line.reconnect().await?;
                continue;
            }
            403 => Cause::ProxyForbids,
            502..=504 => Cause::ProxyCannotReach,
            _ => Cause::ProxyRefuses,
        };
        return Err(ProxyError::Status {
            proxy: server.to_string(),
            status: answer.status,
            why: cause.into(),
        });
    }
}

pub(super) fn connect_request(
    authority: &str,
    value: Option<&Secret>,
    is_long: bool,
) -> Zeroizing<String> {
    let mut request = Zeroizing::new(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\n"
    ));
    add_login(&mut request, value, is_long);
    request
}

/// Adds the fields of a login, and ends the head.
fn add_login(request: &mut Zeroizing<String>, value: Option<&Secret>, is_long: bool) {
    // Reserved at once: a string that grows would leave copies of the secret.
    request.reserve(value.map_or(0, |value| value.expose().len()) + 128);
    if let Some(value) = value {
        request.push_str("Proxy-Authorization: ");
        request.push_str(value.expose());
        request.push_str("\r\n");
    }
    // Old proxies close the connection without it, between the messages of NTLM.
    if is_long {
        request.push_str("Proxy-Connection: keep-alive\r\n");
    }
    request.push_str("\r\n");
}

/// A connection to the proxy.
pub(super) struct Line<'a> {
    server: &'a ProxyServer,
    pub(super) stream: TcpStream,
    /// Whether a response has arrived on it.
    pub(super) has_served: bool,
    /// The addresses of the proxy and of this machine. A connection that was reset no longer has them.
    ends: Option<(SocketAddr, SocketAddr)>,
    reconnects: u32,
}

/// The head of a response.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) offers: Offers,
    body: Body,
    is_kept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
}

impl<'a> Line<'a> {
    pub(super) fn new(server: &'a ProxyServer, stream: TcpStream) -> Self {
        let ends = stream.peer_addr().ok().zip(stream.local_addr().ok());
        Self {
            server,
            stream,
            has_served: false,
            ends,
            reconnects: 0,
        }
    }

    fn failed(&self, error: io::Error) -> ProxyError {
        ProxyError::Io {
            proxy: self.server.to_string(),
            error,
        }
    }

    pub(super) fn rejected(&self, why: Diagnosis) -> ProxyError {
        ProxyError::Status {
            proxy: self.server.to_string(),
            status: 407,
            why,
        }
    }

    /// Sends a request without a body, and reads the head of the response.
    pub(super) async fn exchange(&mut self, request: &str) -> Result<Answer, ProxyError> {
        let written = self.stream.write_all(request.as_bytes()).await;
        written.map_err(|error| self.failed(error))?;
        let mut head = Vec::with_capacity(512);
        loop {
            // One byte at a time: bytes after the head belong to the tunnel, and must stay in the socket.
            let byte = self.stream.read_u8().await;
            head.push(byte.map_err(|error| self.failed(error))?);
            if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
                break;
            }
            // A captive portal or an error page could otherwise be read for ever.
            if head.len() >= HEAD_MAX_BYTES {
                return Err(self.not_http());
            }
        }
        self.has_served = true;
        Answer::parse(&head).ok_or_else(|| self.not_http())
    }

    fn not_http(&self) -> ProxyError {
        ProxyError::NotHttp {
            proxy: self.server.to_string(),
        }
    }

    /// Reads the body of a 407. Returns whether the connection can be used for another request.
    pub(super) async fn skip_body(&mut self, answer: &Answer) -> bool {
        if !answer.is_kept {
            return false;
        }
        let skipped = match answer.body {
            Body::Length(bytes) => self.skip(bytes, BODY_MAX_BYTES).await.map(|_| ()),
            Body::Chunked => self.skip_chunks().await,
        };
        skipped.is_some()
    }

    /// Reads `bytes`. Returns what is left of `max`.
    async fn skip(&mut self, bytes: u64, max: u64) -> Option<u64> {
        let left = max.checked_sub(bytes)?;
        let mut part = (&mut self.stream).take(bytes);
        let read = tokio::io::copy(&mut part, &mut tokio::io::sink())
            .await
            .ok()?;
        (read == bytes).then_some(left)
    }

    async fn skip_chunks(&mut self) -> Option<()> {
        let mut left = BODY_MAX_BYTES;
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).ok()?;
            if size == 0 {
                break;
            }
            left = self.skip(size, left).await?;
            if !self.line().await?.is_empty() {
                return None;
            }
        }
        // The trailer section ends with an empty line.
        for _ in 0..FIELDS_MAX {
            if self.line().await?.is_empty() {
                return Some(());
            }
        }
        None
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while line.len() < CHUNK_LINE_MAX_BYTES {
            match self.stream.read_u8().await.ok()? {
                b'\n' => {
                    let text = String::from_utf8(line).ok()?;
                    return Some(text.trim_end_matches('\r').to_owned());
                }
                byte => line.push(byte),
            }
        }
        None
    }

    /// Connects again, to the same address from the same one.
    pub(super) async fn reconnect(&mut self) -> Result<(), ProxyError> {
        let connected = match self.ends {
            Some(ends) if self.reconnects < RECONNECTS_MAX => {
                let connecting = timeout(RECONNECT_TIMEOUT, connected_like(ends));
                let silent = |_| Err(io::ErrorKind::TimedOut.into());
                connecting.await.unwrap_or_else(silent)
            }
            Some(_) | None => Err(io::ErrorKind::ConnectionReset.into()),
        };
        self.stream = connected.map_err(|error| self.failed(error))?;
        self.reconnects += 1;
        self.has_served = false;
        Ok(())
    }
}

async fn connected_like((peer, mut own): (SocketAddr, SocketAddr)) -> io::Result<TcpStream> {
    let socket = match own.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    own.set_port(0);
    socket.bind(own)?;
    socket.connect(peer).await
}

impl Answer {
    fn parse(head: &[u8]) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut response = httparse::Response::new(&mut fields);
        // A blank before a colon is common in responses of small proxies (RFC 9112, 5.1).
        let mut parser = httparse::ParserConfig::default();
        parser.allow_spaces_after_header_name_in_responses(true);
        parser.parse_response(&mut response, head).ok()?;
        let status = response.code?;
        let values = |name: &'static str| {
            let own = response.headers.iter();
            let own = own.filter(move |field| field.name.eq_ignore_ascii_case(name));
            own.map(|field| field.value)
        };
        let has_option = |option: &str| {
            let all = values("connection").chain(values("proxy-connection"));
            let all = all.filter_map(|value| std::str::from_utf8(value).ok());
            let mut options = all.flat_map(|value| value.split(','));
            options.any(|one| one.trim().eq_ignore_ascii_case(option))
        };
        let is_kept =
            !has_option("close") && (response.version == Some(1) || has_option("keep-alive"));
        let length = values("content-length").next();
        let length = length.map(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
        let body = match (values("transfer-encoding").next(), length) {
            (Some(_), _) => Some(Body::Chunked),
            (None, Some(length)) => length.map(Body::Length),
            // By the rules it would end with the connection, and proxies that write no length write no body.
            (None, None) => Some(Body::Length(0)),
        };
        Some(Self {
            status,
            offers: Offers::read(values("proxy-authenticate")),
            is_kept: is_kept && body.is_some(),
            body: body.unwrap_or(Body::Length(0)),
        })
    }
}

#[cfg(test)]
mod tests;
