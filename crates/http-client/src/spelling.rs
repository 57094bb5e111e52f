//! The spelling of field names in HTTP/1.1: `Content-Type`, `SOAPAction`, `WWW-Authenticate`.
//!
//! Names have no case (RFC 9110, 5.1), and the tunnel and HTTP/2 carry them in lower case. Some old targets and
//! callers compare them with case all the same, in the usual spelling: capitals after each hyphen, with exceptions.
//!
//! hyper writes the capitals (`title_case_headers`). The exceptions it takes only from a map that it made itself
//! while it read a message with such names. So this module lets it read one, once, from memory.

use crate::request_body::RequestBody;
use http::header::HeaderMap;
use http::{Extensions, Request};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The exceptions, 100 lines at most: hyper reads no more. A name is listed as often as a message may have it.
const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\
    SOAPAction: \r\nETag: \r\nTE: \r\nDNT: \r\nDAV: \r\nP3P: \r\n\
    WWW-Authenticate: \r\nWWW-Authenticate: \r\nWWW-Authenticate: \r\nWWW-Authenticate: \r\n\
    Content-MD5: \r\nContent-ID: \r\nMIME-Version: \r\nExpect-CT: \r\nNEL: \r\nSourceMap: \r\n\
    Sec-WebSocket-Key: \r\nSec-WebSocket-Version: \r\nSec-WebSocket-Accept: \r\n\
    Sec-WebSocket-Protocol: \r\nSec-WebSocket-Protocol: \r\n\
    Sec-WebSocket-Extensions: \r\nSec-WebSocket-Extensions: \r\n\
    Sec-GPC: \r\nSec-CH-UA: \r\nSec-CH-UA-Mobile: \r\nSec-CH-UA-Platform: \r\n\
    UA-CPU: \r\nX-UA-Compatible: \r\nX-XSS-Protection: \r\nX-DNS-Prefetch-Control: \r\n\
    X-Request-ID: \r\nX-Correlation-ID: \r\nX-XSRF-TOKEN: \r\nX-CSRF-Token: \r\n\
    X-HTTP-Method-Override: \r\nX-HTTP-Method: \r\nX-Original-URL: \r\nX-Rewrite-URL: \r\n\
    X-Real-IP: \r\nX-AspNet-Version: \r\nALM-API-KEY: \r\n\
    Last-Event-ID: \r\nDPoP: \r\nDPoP-Nonce: \r\nX-API-Key: \r\nX-WSSE: \r\nX-PJAX: \r\n\
    CDN-Loop: \r\nCDN-Loop: \r\nTTL: \r\nIM: \r\nA-IM: \r\nOSLC-Core-Version: \r\n\
    X-B3-TraceId: \r\nX-B3-SpanId: \r\nX-B3-ParentSpanId: \r\n\
    X-IBM-Client-Id: \r\nX-IBM-Client-Secret: \r\nX-RequestDigest: \r\n\
    X-GitHub-Event: \r\nX-GitHub-Delivery: \r\nX-GitHub-Hook-ID: \r\n\
    X-GitHub-Hook-Installation-Target-ID: \r\nX-GitHub-Hook-Installation-Target-Type: \r\n\
    X-GitHub-Api-Version: \r\nX-GitHub-Enterprise-Host: \r\nX-GitHub-Enterprise-Version: \r\n\
    X-Gitlab-Event-UUID: \r\nX-Gitlab-Webhook-UUID: \r\n\r\n";

struct Spellings {
    /// What hyper takes the exceptions from.
    extensions: Extensions,
    names: HeaderMap,
}

static SPELLINGS: LazyLock<Option<Spellings>> = LazyLock::new(read);

/// Adds the exceptions to a message with one of these names. Without one, hyper needs no map.
pub fn spell(headers: &HeaderMap, extensions: &mut Extensions) {
    if let Some(spellings) = &*SPELLINGS
        && headers
            .keys()
            .any(|name| spellings.names.contains_key(name))
    {
        extensions.extend(spellings.extensions.clone());
    }
}

/// Lets hyper read the names. `None` if it does not do so at once: then they are written like all others.
fn read() -> Option<Spellings> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true);
    let io = TokioIo::new(Memory {
        is_asked: false,
        left: RESPONSE,
    });
    let Poll::Ready(Ok((mut sender, mut connection))) = pin!(builder.handshake(io)).poll(&mut cx)
    else {
        return None;
    };
    let mut response = pin!(sender.send_request(Request::new(RequestBody::empty())));
    // Nothing here waits: each poll moves on, and few are needed.
    for _ in 0..8 {
        let _ = Pin::new(&mut connection).poll(&mut cx);
        if let Poll::Ready(response) = response.as_mut().poll(&mut cx) {
            let (parts, _) = response.ok()?.into_parts();
            return Some(Spellings {
                extensions: parts.extensions,
                names: parts.headers,
            });
        }
    }
    None
}

/// A peer in memory, which responds once it was asked.
struct Memory {
    is_asked: bool,
    left: &'static [u8],
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_asked {
            return Poll::Pending;
        }
        let (now, later) = self.left.split_at(self.left.len().min(buf.remaining()));
        buf.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderValue;
    use std::fmt::Write as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn names_have_their_usual_spelling() {
        let (client, mut server) = tokio::io::duplex(4096);
        let mut builder = http1::Builder::new();
        builder.title_case_headers(true);
        let (mut sender, connection) = builder.handshake(TokioIo::new(client)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::new(RequestBody::empty());
        let names = [
            "soapaction",
            "content-type",
            "x-other-name",
            "sec-websocket-key",
            "cookie",
            "last-event-id",
            "dpop",
            "x-api-key",
            "x-github-hook-id",
            "x-gitlab-event",
            "oslc-core-version",
            "x-b3-traceid",
            "a-im",
        ];
        for name in names {
            request
                .headers_mut()
                .append(name, HeaderValue::from_static("1"));
        }
        for value in ["a", "b"] {
            request
                .headers_mut()
                .append("www-authenticate", HeaderValue::from_static(value));
        }
        let headers = request.headers().clone();
        spell(&headers, request.extensions_mut());
        let sending = sender.send_request(request);
        let serving = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(server.read_u8().await.unwrap());
            }
            server
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .await
                .unwrap();
            String::from_utf8(head).unwrap()
        };
        let (response, head) = tokio::join!(sending, serving);
        response.unwrap();
        let mut expected = String::from("GET / HTTP/1.1\r\n");
        for name in [
            "SOAPAction",
            "Content-Type",
            "X-Other-Name",
            "Sec-WebSocket-Key",
            "Cookie",
            "Last-Event-ID",
            "DPoP",
            "X-API-Key",
            "X-GitHub-Hook-ID",
            "X-Gitlab-Event",
            "OSLC-Core-Version",
            "X-B3-TraceId",
            "A-IM",
        ] {
            write!(expected, "{name}: 1\r\n").unwrap();
        }
        expected.push_str("WWW-Authenticate: a\r\nWWW-Authenticate: b\r\n\r\n");
        assert_eq!(head, expected);
    }

    #[test]
    fn every_listed_name_is_read() {
        let lines = std::str::from_utf8(RESPONSE).unwrap().lines().skip(1);
        let names: Vec<&str> = lines.filter_map(|line| line.strip_suffix(": ")).collect();
        let read = &SPELLINGS.as_ref().unwrap().names;
        assert_eq!(read.len(), names.len());
        for name in names {
            assert!(read.contains_key(name), "{name}");
        }
    }
}
