//! Raw connections to the relay's HTTPS listener: TCP, TLS, and tunnels that never authenticate.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::TestEnv;
use crate::setup::tunnel::{self, SilentTunnel};

/// The name in the relay's certificate.
fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

impl TestEnv {
    /// Opens a tunnel that is upgraded and sends nothing.
    pub async fn open_silent_tunnel(&self) -> SilentTunnel {
        self.open_silent_tunnel_from([127, 0, 0, 1].into()).await
    }

    /// Does the same from another address of loopback.
    pub async fn open_silent_tunnel_from(&self, from: IpAddr) -> SilentTunnel {
        SilentTunnel::open(&self.public, &self.ca, from).await
    }

    /// Opens a TCP connection from an address of loopback.
    pub async fn connect_from(&self, from: IpAddr) -> TcpStream {
        tunnel::connect_from(&self.public, from).await
    }

    /// Opens a TLS connection from an address of loopback.
    pub async fn tls_from(&self, from: IpAddr) -> TlsStream<TcpStream> {
        tunnel::tls_from(&self.public, &self.ca, from).await
    }

    /// Returns a complete ClientHello, as a bridge sends it.
    pub fn client_hello(&self) -> Vec<u8> {
        let config = self.ca.client_config();
        let mut client = ClientConnection::new(config, server_name()).expect("a valid config");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory takes all");
        bytes
    }

    /// Makes a TLS handshake on a connection, offering these protocols.
    ///
    /// # Errors
    ///
    /// The handshake failed.
    pub async fn handshake(&self, tcp: TcpStream, alpn: &[&str]) -> io::Result<()> {
        self.tls(tcp, alpn).await.map(drop)
    }

    /// Makes a TLS handshake on a connection, and returns its stream.
    ///
    /// # Errors
    ///
    /// The handshake failed.
    pub async fn tls(&self, tcp: TcpStream, alpn: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let mut tls = (*self.ca.client_config()).clone();
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(tls));
        connector.connect(server_name(), tcp).await
    }
}
