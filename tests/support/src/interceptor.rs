//! A proxy that ends TLS and looks inside, as companies have them: it takes CONNECT, shows a certificate of
//! its own CA for whatever name is asked for, and talks to the real server in its own name.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::ca::ThrowawayCa;
use crate::tasks::AbortOnDrop;

/// Longest CONNECT that is read, in bytes.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// The proxy.
#[derive(Debug)]
pub struct Interceptor {
    addr: SocketAddr,
    _serving: AbortOnDrop,
}

impl Interceptor {
    /// Shows certificates of `own`, and trusts `real` towards the servers.
    ///
    /// # Panics
    ///
    /// Where loopback has no free port.
    pub async fn start(own: Arc<ThrowawayCa>, real: &ThrowawayCa) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback has a free port");
        let addr = listener.local_addr().expect("it is bound");
        let client = real.client_config();
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (own, client) = (Arc::clone(&own), Arc::clone(&client));
                tokio::spawn(async move {
                    let _ = carry(socket, own, client).await;
                });
            }
        });
        Self {
            addr,
            _serving: AbortOnDrop(serving),
        }
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.addr.to_string()
    }
}

async fn carry(
    mut socket: TcpStream,
    own: Arc<ThrowawayCa>,
    client: Arc<ClientConfig>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX_BYTES {
        head.push(socket.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let authority = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let host = authority
        .rsplit_once(':')
        .map_or("", |(host, _)| host)
        .to_owned();
    let Ok(server) = TcpStream::connect(&authority).await else {
        return socket.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
    };
    socket
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    let acceptor = TlsAcceptor::from(own.server_config(&[&host], &["http/1.1"]));
    let mut inside = acceptor.accept(socket).await?;
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    let mut outside = TlsConnector::from(client).connect(name, server).await?;
    copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}
