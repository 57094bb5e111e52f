//! What several end-to-end tests share beyond the crate `support`: a hostile relay, and a target that
//! reads heads by hand.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod hostile_relay;

use support::TIMEOUT;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

/// Accepts the next request of a target, and returns its connection and its head.
///
/// # Panics
///
/// Panics where no request arrives in time.
pub async fn accept_request(listener: &TcpListener) -> (TcpStream, String) {
    loop {
        let accepting = tokio::time::timeout(TIMEOUT, listener.accept()).await;
        let (mut stream, _) = accepting.expect("a request").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(TIMEOUT, stream.read_u8()).await {
                Ok(Ok(byte)) => head.push(byte),
                // The bridge's health check connects, and closes without a request.
                Ok(Err(_)) => break,
                Err(_) => panic!("no more than {}", head.escape_ascii()),
            }
        }
        if !head.is_empty() {
            return (stream, String::from_utf8(head).unwrap());
        }
    }
}
