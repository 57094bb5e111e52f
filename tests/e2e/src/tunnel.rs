//! A tunnel by hand: TLS, the upgrade, and whatever bytes a test wants to send.

use std::net::IpAddr;
use std::time::Duration;
use support::{Ask, Origin, ThrowawayCa};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const PROTOCOL: &str = "integration-bridge.v1";

/// The upgrade request, for the HTTP client.
pub(crate) fn upgrade_ask() -> Ask {
    Ask::get("/v1/tunnel")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
        .header("sec-websocket-protocol", PROTOCOL)
}

/// The same, as it stands on the wire.
pub fn upgrade_request() -> String {
    format!(
        "GET /v1/tunnel HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    )
}

/// A TCP connection that leaves from an address of loopback.
pub(crate) async fn connect_from(to: &Origin, from: IpAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to.addr()).await.unwrap()
}

/// A connection with TLS, from an address of loopback.
pub(crate) async fn tls_from(
    public: &Origin,
    ca: &ThrowawayCa,
    from: IpAddr,
) -> TlsStream<TcpStream> {
    let tcp = connect_from(public, from).await;
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(ca.client_config());
    connector.connect(name, tcp).await.unwrap()
}

/// An upgraded connection that has not proved itself.
pub struct SilentTunnel {
    stream: TlsStream<TcpStream>,
}

impl SilentTunnel {
    pub(crate) async fn open(public: &Origin, ca: &ThrowawayCa, from: IpAddr) -> Self {
        let mut stream = tls_from(public, ca, from).await;
        stream
            .write_all(upgrade_request().as_bytes())
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 101"), "{text}");
        Self { stream }
    }

    /// Waits until the relay closes.
    pub async fn is_closed_within(&mut self, within: Duration) -> bool {
        let mut rest = [0; 4096];
        let closing =
            async { while matches!(self.stream.read(&mut rest).await, Ok(read) if read > 0) {} };
        tokio::time::timeout(within, closing).await.is_ok()
    }

    /// Sends bytes, and waits until the relay closes.
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
