//! A tunnel by hand: TLS, the upgrade, and any bytes that a test sends.

use std::net::IpAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::ca::ThrowawayCa;
use crate::http::Origin;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const PROTOCOL: &str = "integration-bridge.v1";

/// Returns the upgrade request, as bytes.
pub fn upgrade_request() -> String {
    format!(
        "GET /v1/tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    )
}

/// Opens a TCP connection from an address of loopback.
pub(in crate::setup) async fn connect_from(to: &Origin, from: IpAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind((from, 0).into())
        .expect("an address of loopback");
    let connecting = socket.connect(to.addr());
    connecting.await.expect("the relay listens")
}

/// Opens a TLS connection from an address of loopback.
pub(in crate::setup) async fn tls_from(
    public: &Origin,
    ca: &ThrowawayCa,
    from: IpAddr,
) -> TlsStream<TcpStream> {
    let tcp = connect_from(public, from).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(ca.client_config());
    let connecting = connector.connect(name, tcp);
    connecting.await.expect("a TLS handshake")
}

/// An upgraded connection that has not authenticated.
#[derive(Debug)]
pub struct SilentTunnel {
    stream: TlsStream<TcpStream>,
}

impl SilentTunnel {
    pub(in crate::setup) async fn open(public: &Origin, ca: &ThrowawayCa, from: IpAddr) -> Self {
        let mut stream = tls_from(public, ca, from).await;
        let request = upgrade_request();
        let writing = stream.write_all(request.as_bytes());
        writing.await.expect("the relay reads the upgrade");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("a response to the upgrade"));
        }
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 101"), "{text}");
        Self { stream }
    }

    /// Waits until the relay closes the connection. Returns `false` where it does not in time.
    pub async fn is_closed_within(&mut self, within: Duration) -> bool {
        let mut rest = [0; 4096];
        let closing =
            async { while matches!(self.stream.read(&mut rest).await, Ok(read) if read > 0) {} };
        tokio::time::timeout(within, closing).await.is_ok()
    }

    /// Sends bytes and waits until the relay closes the connection.
    pub async fn send_and_wait_for_close(&mut self, bytes: &[u8], within: Duration) -> bool {
        let closing = async {
            if self.stream.write_all(bytes).await.is_err() || self.stream.flush().await.is_err() {
                return;
            }
            let mut rest = [0; 4096];
            while matches!(self.stream.read(&mut rest).await, Ok(read) if read > 0) {}
        };
        tokio::time::timeout(within, closing).await.is_ok()
    }
}
