//! What a TLS handshake costs the relay, whole and resumed.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use support::TestEnv;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The relay's processor time for one connection with one small request.
pub(crate) struct Handshakes {
    pub(crate) whole: Duration,
    pub(crate) resumed: Duration,
    /// How many of the second kind really were resumed.
    pub(crate) really: u32,
    pub(crate) connections: u32,
}

impl Handshakes {
    /// One connection after the other, so many of each kind.
    pub(crate) async fn measure(site: &TestEnv, connections: u32) -> Result<Self, Box<dyn Error>> {
        let mut config = (*site.ca.client_config()).clone();
        config.resumption = Resumption::in_memory_sessions(4);
        let resuming = Arc::new(config.clone());
        config.resumption = Resumption::disabled();
        let (whole, _) = cost(site, Arc::new(config), connections).await?;
        let (resumed, really) = cost(site, resuming, connections).await?;
        Ok(Self {
            whole,
            resumed,
            really,
            connections,
        })
    }
}

async fn cost(
    site: &TestEnv,
    config: Arc<ClientConfig>,
    connections: u32,
) -> Result<(Duration, u32), Box<dyn Error>> {
    let before = site.relay.process().cpu_time();
    let mut resumed = 0;
    for _ in 0..connections {
        resumed += u32::from(connect(site, &config).await?);
    }
    let cpu = site.relay.process().cpu_time().saturating_sub(before);
    Ok((cpu / connections.max(1), resumed))
}

/// Whether the connection's session was resumed. The response is read, and the tickets with it.
async fn connect(site: &TestEnv, config: &Arc<ClientConfig>) -> Result<bool, Box<dyn Error>> {
    let tcp = TcpStream::connect(site.relay.public().addr()).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await?;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err("the relay did not answer /healthz with 200".into());
    }
    let kind = stream.get_ref().1.handshake_kind();
    Ok(kind == Some(HandshakeKind::Resumed))
}
