//! WebSocket uses HTTP/1.1, also with a target that offers HTTP/2.

use super::site::BOTH;
use super::{ENDPOINT, KEY};
use std::sync::Arc;
use support::setup::Endpoint;
use support::{TIMEOUT, TestEnv, ThrowawayCa};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const HANDSHAKE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The most connections that are accepted before the request.
const CONNECTIONS_MAX: usize = 20;

async fn within<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, waiting).await.unwrap()
}

/// Reads a head up to its empty line. Returns `None` where the other end sends nothing.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// The connection that a request came on by HTTP/1.1, and its head.
async fn asked(listener: &TcpListener, tls: &TlsAcceptor) -> (TlsStream<TcpStream>, String) {
    for _ in 0..CONNECTIONS_MAX {
        let (tcp, _) = within(listener.accept()).await.unwrap();
        // A health check may end here, or send no request.
        let Ok(mut stream) = within(tls.accept(tcp)).await else {
            continue;
        };
        if stream.get_ref().1.alpn_protocol() != Some(&b"http/1.1"[..]) {
            continue;
        }
        if let Some(head) = head(&mut stream).await {
            return (stream, head);
        }
    }
    panic!("{CONNECTIONS_MAX} connections, and no request by HTTP/1.1");
}

#[tokio::test]
async fn websocket_works_with_a_target_that_offers_both() {
    let ca = Arc::new(ThrowawayCa::new());
    let tls = TlsAcceptor::from(ca.server_config(&["127.0.0.1"], BOTH));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let site = TestEnv::bare()
        .ca(&ca)
        .endpoint(Endpoint::new("t", url))
        .start()
        .await;
    let key = site.caller.basic();
    let asking = async {
        let mut caller = TcpStream::connect(site.relay.internal().addr())
            .await
            .unwrap();
        let text =
            format!("GET {ENDPOINT}/room?x HTTP/1.1\r\nHost: x\r\n{KEY}: {key}\r\n{HANDSHAKE}\r\n");
        caller.write_all(text.as_bytes()).await.unwrap();
        let head = head(&mut caller).await;
        (caller, head.unwrap())
    };
    let answering = async {
        let (mut target, asked) = asked(&listener, &tls).await;
        assert!(asked.starts_with("GET /room?x HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.to_lowercase().contains("upgrade: websocket\r\n"),
            "{asked}"
        );
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nwelcome";
        target.write_all(answer.as_bytes()).await.unwrap();
        target.flush().await.unwrap();
        target
    };
    let ((mut caller, head), mut target) = tokio::join!(asking, answering);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let mut welcome = [0; 7];
    within(caller.read_exact(&mut welcome)).await.unwrap();
    assert_eq!(&welcome, b"welcome");
    caller.write_all(b"\x81\x85mask.").await.unwrap();
    let mut frame = [0; 7];
    within(target.read_exact(&mut frame)).await.unwrap();
    assert_eq!(&frame, b"\x81\x85mask.");
}
