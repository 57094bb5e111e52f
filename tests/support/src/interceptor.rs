//! A proxy that inspects TLS, as companies use them: it accepts CONNECT, presents a certificate of its own CA
//! for any requested name, and connects to the real server itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::ca::ThrowawayCa;
use crate::tasks::AbortOnDrop;

/// What is carried at a time.
const COPY_BYTES: usize = 16 * 1024;

/// Longest CONNECT that is read, in bytes.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// A tunnel without a byte for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// The proxy.
#[derive(Debug)]
pub struct Interceptor {
    addr: SocketAddr,
    own: Arc<ThrowawayCa>,
    client: Arc<ClientConfig>,
    serving: AbortOnDrop,
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
        let serving = serve(listener, Arc::clone(&own), Arc::clone(&client));
        Self {
            addr,
            own,
            client,
            serving,
        }
    }

    /// Breaks everything off, and begins again on the same port.
    ///
    /// # Panics
    ///
    /// Where the port is taken meanwhile.
    pub async fn restart(&mut self) {
        self.serving.end().await;
        let listener = TcpListener::bind(self.addr).await.expect("its own port");
        self.serving = serve(listener, Arc::clone(&self.own), Arc::clone(&self.client));
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.addr.to_string()
    }
}

fn serve(listener: TcpListener, own: Arc<ThrowawayCa>, client: Arc<ClientConfig>) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        // Goes with the task, and the tunnels with it.
        let mut tunnels = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let (own, client) = (Arc::clone(&own), Arc::clone(&client));
            tunnels.spawn(async move {
                let _ = carry(socket, own, client).await;
            });
        }
    }))
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
    let (mut up, mut down) = ([0; COPY_BYTES], [0; COPY_BYTES]);
    loop {
        let piece = async {
            tokio::select! {
                read = inside.read(&mut up) => (true, read),
                read = outside.read(&mut down) => (false, read),
            }
        };
        let Ok((is_up, read)) = timeout(IDLE_MAX, piece).await else {
            return Ok(());
        };
        match (is_up, read?) {
            (_, 0) => return Ok(()),
            (true, length) => outside.write_all(&up[..length]).await?,
            (false, length) => inside.write_all(&down[..length]).await?,
        }
    }
}
