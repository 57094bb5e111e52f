//! The way to the relay, step by step, for whoever wants to know where it ends.

use super::{
    DIAL_TIMEOUT, DialError, Dialer, Proxy, RelayUrl, connect_tcp, explain_tls, upgrade_error,
};
use crate::socket::Metered;
use crate::tls::{Oldest, TlsSetupError, provider, roots};
use crate::{tcp, websocket};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long one step may take.
const STEP_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of an HTTP answer that are read.
const ANSWER_MAX_BYTES: u64 = 16 * 1024;

/// Header fields of it.
const ANSWER_HEADERS_MAX: usize = 64;

/// How far a look came. What is behind the first failure was not tried.
#[derive(Debug, Default)]
pub struct PathReport {
    /// The proxy, `host:port`; none for the direct way.
    pub proxy: Option<String>,
    /// What the relay's name (or the proxy's) resolved to.
    pub resolved: Vec<IpAddr>,
    /// Where a TCP connection was made to.
    pub connected: Option<SocketAddr>,
    /// Whether the proxy let it through.
    pub through_proxy: bool,
    /// The certificates that were shown, the leaf first; also those that were not accepted.
    pub chain: Vec<CertificateDer<'static>>,
    /// The version of TLS that was agreed on.
    pub tls: Option<String>,
    /// What `GET /healthz` was answered with.
    pub health: Option<u16>,
    /// The clock of who answered, as its field `Date` had it.
    pub date: Option<String>,
    /// Whether the upgrade to a WebSocket was taken.
    pub upgraded: bool,
    /// Where it ended.
    pub failure: Option<DialError>,
}

/// Keeps the certificates that it sees; what they are worth is another's to say.
#[derive(Debug)]
struct Keeps {
    judge: Arc<WebPkiServerVerifier>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Keeps {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(leaf).chain(others);
        let all = all.map(|one| one.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = all;
        self.judge.verify_server_cert(leaf, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// Looks at the way to a relay, without proving who is looking.
///
/// # Errors
/// [`TlsSetupError`] when a CA file cannot be used: then nothing was tried.
pub async fn probe_path(
    relay: &RelayUrl,
    ca_files: &[PathBuf],
    oldest: Oldest,
    proxy: &Proxy,
) -> Result<PathReport, TlsSetupError> {
    let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca_files)?), provider())
        .build()
        .map_err(|error| TlsSetupError::from(rustls::Error::General(error.to_string())))?;
    let keeps = Arc::new(Keeps {
        judge,
        seen: Mutex::default(),
    });
    let versions: &[&rustls::SupportedProtocolVersion] = match oldest {
        Oldest::Tls12 => rustls::DEFAULT_VERSIONS,
        Oldest::Tls13 => &[&rustls::version::TLS13],
    };
    let tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(keeps.clone())
        .with_no_client_auth();
    let dialer = Dialer::new(relay.clone(), &tls, proxy.clone());
    let mut report = PathReport::default();
    let steps = steps(&dialer, &mut report);
    let ended = timeout(DIAL_TIMEOUT, steps).await;
    report.failure = match ended {
        Ok(result) => result.err(),
        Err(_) => Some(DialError::Timeout {
            step: "one of the steps",
        }),
    };
    report.chain = std::mem::take(&mut *keeps.seen.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(report)
}

async fn steps(dialer: &Dialer, report: &mut PathReport) -> Result<(), DialError> {
    let relay = &dialer.relay;
    let server = dialer.proxy.for_host(&relay.host, relay.port);
    let (host, port) = server.map_or((relay.host(), relay.port()), |server| {
        (server.host(), server.port())
    });
    report.proxy = server.map(|server| format!("{}:{}", server.host(), server.port()));
    let resolving = tokio::net::lookup_host((host, port));
    let dns = |detail: String| DialError::Dns {
        host: host.to_owned(),
        detail,
    };
    let resolved = timeout(STEP_WITHIN, resolving).await;
    let resolved = resolved.map_err(|_| dns(format!("no answer within {STEP_WITHIN:?}")))?;
    report.resolved = resolved
        .map_err(|error| dns(error.to_string()))?
        .map(|address| address.ip())
        .collect();
    report.resolved.dedup();
    let stream = connect_tcp(host, port, None).await?;
    report.connected = stream.peer_addr().ok();
    drop(stream);
    let stream = secured(dialer, report).await?;
    ask_health(dialer, stream, report).await?;
    let stream = secured(dialer, report).await?;
    let upgrading = tokio_tungstenite::client_async_with_config(
        dialer.upgrade_request(),
        Metered::new(stream, 0),
        Some(websocket::config(websocket::Buffers::Small)),
    );
    let upgraded = timeout(STEP_WITHIN, upgrading).await;
    let late = DialError::Timeout {
        step: "WebSocket upgrade",
    };
    upgraded.map_err(|_| late)?.map_err(upgrade_error)?;
    report.upgraded = true;
    Ok(())
}

/// A connection with TLS, through the proxy if there is one.
async fn secured(
    dialer: &Dialer,
    report: &mut PathReport,
) -> Result<TlsStream<tokio::net::TcpStream>, DialError> {
    let relay = &dialer.relay;
    let late = |step| move |_| DialError::Timeout { step };
    let connecting = async {
        match dialer.proxy.for_host(&relay.host, relay.port) {
            None => connect_tcp(&relay.host, relay.port, None).await,
            Some(server) => {
                let stream = connect_tcp(server.host(), server.port(), None).await?;
                Ok(server.connect(stream, &relay.authority()).await?)
            }
        }
    };
    let connected = timeout(STEP_WITHIN, connecting).await;
    let stream = connected.map_err(late("proxy"))??;
    report.through_proxy = true;
    tcp::tune(&stream).map_err(|source| DialError::Tcp {
        address: relay.authority(),
        source,
    })?;
    let connector = TlsConnector::from(dialer.tls.clone());
    let handshake = connector.connect(relay.server_name.clone(), stream);
    let shaken = timeout(STEP_WITHIN, handshake).await;
    let stream = shaken
        .map_err(late("TLS"))?
        .map_err(|error| DialError::Tls {
            host: relay.host.clone(),
            detail: explain_tls(&error),
        })?;
    let version = stream.get_ref().1.protocol_version();
    report.tls = version.and_then(|version| version.as_str().map(|text| text.replace('_', ".")));
    Ok(stream)
}

async fn ask_health(
    dialer: &Dialer,
    mut stream: TlsStream<tokio::net::TcpStream>,
    report: &mut PathReport,
) -> Result<(), DialError> {
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        dialer.relay.authority()
    );
    let mut answer = Vec::new();
    let asking = async {
        stream.write_all(request.as_bytes()).await?;
        let mut stream = stream.take(ANSWER_MAX_BYTES);
        // The head is enough; some close without the goodbye that TLS wants.
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    let asked = timeout(STEP_WITHIN, asking).await;
    let late = DialError::Timeout { step: "HTTP" };
    let asked = asked.map_err(|_| late)?;
    let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(&answer);
    let Some(status) = response.code.filter(|_| parsed.is_ok()) else {
        let detail = asked.err().map(|error| error.to_string());
        return Err(DialError::Upgrade(
            detail.unwrap_or_else(|| "what answers is no HTTP server".to_owned()),
        ));
    };
    report.health = Some(status);
    let date = response
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("date"));
    report.date = date.and_then(|field| String::from_utf8(field.value.to_vec()).ok());
    Ok(())
}
