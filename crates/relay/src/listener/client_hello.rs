//! A look at a client's first words, before anything is spent on it.
//!
//! The bytes stay with the system: while a connection waits for its turn, it costs a socket and a
//! task. Bridges offer HTTP/1.1 alone, so a client that offers HTTP/2 is a caller.

use super::tls::ALPN_HTTP2;
use rustls::server::Acceptor;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

/// How much is looked at: a ClientHello with a post-quantum key share is below.
const LOOK_BYTES: usize = 4096;

/// How long a ClientHello that is not complete waits for its next look, at first and at most. What the
/// system keeps cannot be waited for, as it is readable all the time.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(500);

/// Waits until a client's ClientHello is complete, or as long as the relay inspects. Returns whether it
/// offers HTTP/2.
///
/// # Errors
/// When the client is gone.
pub(super) async fn read_offer(stream: &TcpStream) -> io::Result<bool> {
    // Being readable alone is a guess, and wrong at times.
    if stream.peek(&mut [0]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut again = LOOK_AGAIN_MIN;
    loop {
        if let Some(answer) = poll_fn(|cx| poll_look(stream, cx)).await? {
            return Ok(answer);
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(LOOK_AGAIN_MAX);
    }
}

/// `None` for a ClientHello that is not complete. The buffer lives here, not in the task.
fn poll_look(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Option<bool>>> {
    let mut bytes = [0; LOOK_BYTES];
    let mut seen = ReadBuf::new(&mut bytes);
    Poll::Ready(match ready!(stream.poll_peek(cx, &mut seen))? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        // As much as the relay inspects.
        LOOK_BYTES => Ok(Some(offer(seen.filled()).unwrap_or(false))),
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
    fn a_caller_is_told_from_a_bridge_by_its_offer_of_http2() {
        assert_eq!(offer(&hello(&[b"h2", b"http/1.1"])), Some(true));
        assert_eq!(offer(&hello(&[b"http/1.1"])), Some(false));
        assert_eq!(offer(&hello(&[])), Some(false));
    }

    #[test]
    fn words_that_are_cut_off_or_no_tls_are_no_offer() {
        let whole = hello(&[b"h2"]);
        for length in 1..whole.len() {
            assert_ne!(offer(&whole[..length]), Some(true), "{length}");
        }
        assert_eq!(offer(&whole[..whole.len() - 1]), None);
        assert_eq!(offer(b"GET / HTTP/1.1\r\n\r\n"), Some(false));
    }
}
