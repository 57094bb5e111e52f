//! Inspects a client's ClientHello before its handshake begins.
//!
//! The bytes stay in the kernel: while a connection waits for a permit, it takes a socket and a small task. Bridges
//! offer HTTP/1.1 only, so a client that offers HTTP/2 is a caller.

use super::tls::ALPN_HTTP2;
use rustls::server::Acceptor;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// Bytes that are inspected. A ClientHello with a post-quantum key share is smaller.
const PEEK_BYTES: usize = 4096;

/// Interval in which an incomplete ClientHello is checked again, at first and at most. The socket stays readable
/// while the bytes are in the kernel, so there is no event to wait for.
const RECHECK_MIN: Duration = Duration::from_millis(10);
const RECHECK_MAX: Duration = Duration::from_millis(500);

/// Waits until a client's ClientHello is complete, or fills the inspected bytes. Returns whether it offers HTTP/2.
///
/// # Errors
/// When the client has closed the connection.
pub(super) async fn read_offer(stream: &TcpStream) -> io::Result<bool> {
    // Readiness may be spurious, so a byte is peeked.
    if stream.peek(&mut [0]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut again = RECHECK_MIN;
    loop {
        if let Some(offers_http2) = poll_fn(|cx| poll_offer(stream, cx)).await? {
            return Ok(offers_http2);
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(RECHECK_MAX);
    }
}

/// Returns `None` for an incomplete ClientHello. The buffer is on the stack here, and not in the task.
fn poll_offer(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Option<bool>>> {
    let mut bytes = [0; PEEK_BYTES];
    let mut seen = ReadBuf::new(&mut bytes);
    Poll::Ready(match ready!(stream.poll_peek(cx, &mut seen))? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        // No more is inspected: a larger ClientHello counts as it is.
        PEEK_BYTES => Ok(Some(offer(seen.filled()).unwrap_or(false))),
        _ => Ok(offer(seen.filled())),
    })
}

fn offer(mut bytes: &[u8]) -> Option<bool> {
    let mut acceptor = Acceptor::default();
    if acceptor.read_tls(&mut bytes).is_err() {
        return Some(false);
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => {
            let hello = accepted.client_hello();
            let mut offered = hello.alpn().into_iter().flatten();
            Some(offered.any(|name| name == ALPN_HTTP2))
        }
        Ok(None) => None,
        Err(_) => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(transport::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = "relay.example".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn offer_of_http2_marks_a_caller() {
        assert_eq!(offer(&hello(&[b"h2", b"http/1.1"])), Some(true));
        assert_eq!(offer(&hello(&[b"http/1.1"])), Some(false));
        assert_eq!(offer(&hello(&[])), Some(false));
    }

    #[test]
    fn incomplete_hello_is_no_offer() {
        let whole = hello(&[b"h2"]);
        for length in 1..whole.len() {
            assert_ne!(offer(&whole[..length]), Some(true), "{length}");
        }
        assert_eq!(offer(&whole[..whole.len() - 1]), None);
        assert_eq!(offer(b"GET / HTTP/1.1\r\n\r\n"), Some(false));
    }
}
