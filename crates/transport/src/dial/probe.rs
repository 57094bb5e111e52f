//! The steps to the relay one by one, for `doctor`: how far they succeed.

use super::connect::connect_tcp;
use super::error::{invalid_head, upgrade_error};
use super::{DIAL_TIMEOUT, DialError, Dialer, Proxy, ProxyServer, RelayUrl, Seen, USER_AGENT};
use crate::failure::{self, Cause, Diagnosis, Observer};
use crate::read_ahead::ClientStream;
use crate::socket::Metered;
use crate::tls::{Oldest, TlsSetupError, Trust, provider};
use crate::{tcp, websocket};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// The time for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The segment size that every IPv4 path carries (RFC 9293, 3.7.1).
const SMALL_SEGMENT_BYTES: u32 = 536;

/// Bytes of an HTTP response that are read.
const RESPONSE_MAX_BYTES: u64 = 16 * 1024;

/// Header fields of that response.
const RESPONSE_HEADERS_MAX: usize = 64;

/// How far a probe came. Steps after the first failure were not tried.
#[derive(Debug, Default)]
pub struct PathReport {
    /// The proxy, `host:port`; `None` for a direct connection.
    pub proxy: Option<String>,
    /// The addresses of the relay's name, or of the proxy's.
    pub resolved: Vec<IpAddr>,
    /// The address of the TCP connection.
    pub connected: Option<SocketAddr>,
    /// Whether the proxy connected.
    pub through_proxy: bool,
    /// The schemes that the proxy offered, and the one that it accepted.
    pub proxy_login: Seen,
    /// The certificates that were presented, the leaf first; also when they were rejected.
    pub chain: Vec<CertificateDer<'static>>,
    /// The negotiated version of TLS.
    pub tls: Option<String>,
    /// The status of `GET /healthz`.
    pub health: Option<u16>,
    /// The redirect that came in place of the relay's response to it.
    pub redirect: Option<Diagnosis>,
    /// The server's clock, from the field `Date`.
    pub date: Option<String>,
    /// Whether the upgrade to a WebSocket was accepted.
    pub upgraded: bool,
    /// The first failure.
    pub failure: Option<DialError>,
}

/// Records the presented certificates, and leaves the decision to the verifier of real connections.
#[derive(Debug)]
struct RecordingVerifier {
    inner: Arc<Observer>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for RecordingVerifier {
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
        self.inner.verify_server_cert(leaf, others, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Runs the steps to a relay, without authenticating.
///
/// # Errors
/// [`TlsSetupError`] when a CA file is unusable: then nothing was tried.
pub async fn probe_path(
    relay: &RelayUrl,
    ca_files: &[PathBuf],
    oldest: Oldest,
    proxy: &Proxy,
) -> Result<PathReport, TlsSetupError> {
    let verifier = Trust::read(ca_files)?.verifier();
    let recording = Arc::new(RecordingVerifier {
        inner: Observer::new(Arc::new(verifier)),
        seen: Mutex::default(),
    });
    let versions: &[&rustls::SupportedProtocolVersion] = match oldest {
        Oldest::Tls12 => rustls::DEFAULT_VERSIONS,
        Oldest::Tls13 => &[&rustls::version::TLS13],
    };
    let mut tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(recording.clone())
        .with_no_client_auth();
    tls.client_auth_cert_resolver = failure::certificate_resolver(tls.client_auth_cert_resolver);
    let dialer = Dialer::new(relay.clone(), &tls, proxy.clone());
    let mut report = PathReport::default();
    let steps = steps(&dialer, &mut report);
    let result = timeout(DIAL_TIMEOUT, steps).await;
    let server = dialer.proxy.server_for(relay.host(), relay.port());
    report.proxy_login = server.map(ProxyServer::seen).unwrap_or_default();
    report.failure = match result {
        Ok(result) => result.err(),
        Err(_) => Some(DialError::Timeout {
            step: "one of the steps",
        }),
    };
    if let Some(DialError::Tls { why, .. }) = &mut report.failure
        && matches!(
            why.cause(),
            Cause::SilentInHandshake | Cause::StalledInHandshake
        )
        && let (None, Some(address)) = (&report.proxy, report.connected)
        && small_packets_pass(&dialer, address).await
    {
        *why = Cause::LargePacketsLost.into();
    }
    report.chain = std::mem::take(
        &mut *recording
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner),
    );
    Ok(report)
}

async fn steps(dialer: &Dialer, report: &mut PathReport) -> Result<(), DialError> {
    let relay = &dialer.relay;
    let server = dialer.proxy.server_for(relay.host(), relay.port());
    let (host, port) = server.map_or((relay.host(), relay.port()), |server| {
        (server.host(), server.port())
    });
    report.proxy = server.map(|server| format!("{}:{}", server.host(), server.port()));
    let resolving = tokio::net::lookup_host((host, port));
    let dns = |why: Diagnosis| DialError::Dns {
        host: host.to_owned(),
        why,
    };
    let resolved = timeout(STEP_TIMEOUT, resolving).await;
    let resolved = resolved.map_err(|_| dns(Cause::NameServerSilent.into()))?;
    report.resolved = resolved
        .map_err(|error| dns(failure::lookup(&error)))?
        .map(|address| address.ip())
        .collect();
    report.resolved.dedup();
    let stream = connect_tcp(host, port, None).await?;
    report.connected = stream.peer_addr().ok();
    // This connection only shows that TCP works. The next steps open their own, through the proxy.
    drop(stream);
    // Two connections: the relay closes the first one after the response, and the upgrade needs its own.
    let stream = secured(dialer, report).await?;
    request_health(dialer, stream, report).await?;
    let stream = secured(dialer, report).await?;
    let upgrading = tokio_tungstenite::client_async_with_config(
        dialer.upgrade_request(),
        Metered::new(stream, 0),
        Some(websocket::config(websocket::Buffers::Small)),
    );
    let upgraded = timeout(STEP_TIMEOUT, upgrading).await;
    let late = DialError::Timeout {
        step: "WebSocket upgrade",
    };
    upgraded.map_err(|_| late)?.map_err(upgrade_error)?;
    report.upgraded = true;
    Ok(())
}

/// Returns whether a handshake succeeds with small packets: then the path loses large ones.
async fn small_packets_pass(dialer: &Dialer, address: SocketAddr) -> bool {
    let connecting = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        limit_segments(&socket)?;
        socket.connect(address).await
    };
    let Ok(Ok(stream)) = timeout(STEP_TIMEOUT, connecting).await else {
        return false;
    };
    let (tls, name) = (dialer.tls.clone(), dialer.relay.server_name.clone());
    let shaken = failure::handshake(tls, name, stream, STEP_TIMEOUT).await;
    shaken.is_ok()
}

/// Announces a small segment size, so that both sides send small packets.
#[cfg(unix)]
fn limit_segments(socket: &TcpSocket) -> std::io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_mss(SMALL_SEGMENT_BYTES)
}

#[cfg(not(unix))]
fn limit_segments(_: &TcpSocket) -> std::io::Result<()> {
    let _ = SMALL_SEGMENT_BYTES;
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Opens a TLS connection, through the proxy if there is one.
async fn secured(dialer: &Dialer, report: &mut PathReport) -> Result<ClientStream, DialError> {
    let relay = &dialer.relay;
    let late = |step| move |_| DialError::Timeout { step };
    let connecting = async {
        match dialer.proxy.server_for(relay.host(), relay.port()) {
            None => connect_tcp(relay.host(), relay.port(), None).await,
            Some(server) => {
                let stream = connect_tcp(server.host(), server.port(), None).await?;
                Ok(server.connect(stream, &relay.authority()).await?)
            }
        }
    };
    let connected = timeout(STEP_TIMEOUT, connecting).await;
    let stream = connected.map_err(late("proxy"))??;
    report.through_proxy = true;
    tcp::tune(&stream).map_err(|error| DialError::Tcp {
        address: relay.authority(),
        error,
    })?;
    let (tls, name) = (dialer.tls.clone(), relay.server_name.clone());
    let shaken = failure::handshake(tls, name, stream, STEP_TIMEOUT).await;
    let stream = shaken.map_err(|why| DialError::Tls {
        host: relay.host().to_owned(),
        why,
    })?;
    let version = stream.get_ref().1.protocol_version();
    report.tls = version.and_then(|version| version.as_str().map(|text| text.replace('_', ".")));
    Ok(stream)
}

/// Sends `GET /healthz` and reads the head of the response.
async fn request_health(
    dialer: &Dialer,
    mut stream: ClientStream,
    report: &mut PathReport,
) -> Result<(), DialError> {
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nConnection: close\r\n\r\n",
        dialer.relay.authority()
    );
    let mut response_head = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut stream = stream.take(RESPONSE_MAX_BYTES);
        // The head is enough. Some servers close without a TLS close_notify, which rustls reports as an error;
        // reading to the end would turn a good response into a failure.
        while !response_head.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut response_head).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    let exchanged = timeout(STEP_TIMEOUT, exchange).await;
    let late = DialError::Timeout { step: "HTTP" };
    let exchanged = exchanged.map_err(|_| late)?;
    let mut headers = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(&response_head);
    let Some(status) = response.code.filter(|_| parsed.is_ok()) else {
        let is_lost = response_head.is_empty();
        let why = exchanged
            .err()
            .and_then(|error| failure::after_handshake(&error));
        return Err(DialError::Upgrade(why.unwrap_or_else(|| match parsed {
            Err(error) => invalid_head(error),
            Ok(_) if is_lost => Cause::RelayClosedBeforeResponse.into(),
            Ok(_) => Cause::RelayNotHttp.into(),
        })));
    };
    report.health = Some(status);
    let field = |name: &str| {
        let mut fields = response.headers.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| field.value)
    };
    report.redirect = failure::redirect(status, field("location"));
    report.date = field("date").and_then(|value| String::from_utf8(value.to_vec()).ok());
    Ok(())
}
