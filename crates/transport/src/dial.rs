//! The way from the bridge to the relay, under one deadline.
//!
//! ```text
//! proxy?  ->  DNS  ->  TCP  ->  (CONNECT)  ->  TLS  ->  WebSocket upgrade  ->  opening
//! ```
//!
//! Each step that fails says which it was, in words for the administrator. Without a proxy, every
//! address of the relay's name is tried: a relay that refuses the connection, stays silent, or is not
//! the one that serves, costs a moment and not a whole wait.

mod probe;
mod proxy;

pub use probe::{PathReport, probe_path};
pub use proxy::{Proxy, ProxyError};

use crate::handle::Settings;
use crate::handshake::{Dialled, Identity, Introduction, OpeningError, Tunnel, bridge_opening};
use crate::socket::Metered;
use crate::{tcp, tls, websocket};
use http::{HeaderMap, Uri, header};
use protocol::frame::RefusedCode;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

/// The whole dial phase, from the first name looked up to WELCOME.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// One address of several.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// The steps after TCP, with one address of several. The last address may take what is left.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses that one dial tries.
const ROUTES_MAX: usize = 8;

/// Where the relay is, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUrl {
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

/// Why a URL cannot be a relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayUrlError {
    /// Not a URL.
    #[error("is not a URL; it should look like https://relay.example.com")]
    Syntax,
    /// Another scheme than `https`.
    #[error("must begin with https://: the tunnel always uses TLS")]
    Scheme,
    /// It has a path, a query, or a user.
    #[error("must be only https://host or https://host:port, without a path, query or user")]
    Extra,
    /// The host is no DNS name and no address.
    #[error("its host is neither a DNS name nor an address")]
    Host,
}

impl std::str::FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(url: &str) -> Result<Self, RelayUrlError> {
        let uri: Uri = url.parse().map_err(|_| RelayUrlError::Syntax)?;
        match uri.scheme_str() {
            Some("https") => {}
            Some(_) => return Err(RelayUrlError::Scheme),
            None => return Err(RelayUrlError::Syntax),
        }
        let authority = uri.authority().ok_or(RelayUrlError::Syntax)?;
        if !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
            || authority.as_str().contains('@')
            || url.contains('#')
        {
            return Err(RelayUrlError::Extra);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.contains(']') => {
                port.parse().map_err(|_| RelayUrlError::Syntax)?
            }
            Some(_) | None => 443,
        };
        let server_name = ServerName::try_from(host.to_owned()).map_err(|_| RelayUrlError::Host)?;
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
            server_name,
        })
    }
}

impl std::fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl RelayUrl {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Why the relay was not reached. Names the step.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name could not be resolved.
    #[error("the name {host} could not be resolved: {detail}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        detail: String,
    },
    /// No address took the connection.
    #[error("no TCP connection to {address}: {source}")]
    Tcp {
        /// The last address tried.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The proxy did not let it through.
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    /// TLS failed.
    #[error("TLS with {host} failed: {detail}")]
    Tls {
        /// The relay's name.
        host: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// The relay, or something before it, answered the upgrade with another status.
    #[error("the relay answered the WebSocket upgrade with HTTP {status}{hint}")]
    Http {
        /// The status.
        status: u16,
        /// When to come again.
        retry_after: Option<Duration>,
        /// What that may mean.
        hint: &'static str,
    },
    /// The upgrade failed otherwise.
    #[error("the WebSocket upgrade failed: {0}")]
    Upgrade(String),
    /// The opening failed, or the relay refused the tunnel.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// It took too long.
    #[error("no tunnel within {DIAL_TIMEOUT:?}; it hung at: {step}")]
    Timeout {
        /// The step that was under way.
        step: &'static str,
    },
    /// One address of several took the connection and then said nothing.
    #[error("{address} took the connection and did not go on in time; it hung at: {step}")]
    Silent {
        /// The address.
        address: SocketAddr,
        /// The step that was under way.
        step: &'static str,
    },
}

/// One way to the relay.
#[derive(Debug, Clone, Copy)]
enum Route {
    /// To this address of the relay.
    Direct(SocketAddr),
    /// Through the proxy, which chooses the address.
    Proxied,
}

/// The error that says most, of several addresses.
#[derive(Debug, Default)]
struct Worst(Option<DialError>);

impl Worst {
    fn add(&mut self, error: DialError) {
        let is_better = self
            .0
            .as_ref()
            .is_none_or(|known| error.telling() >= known.telling());
        if is_better {
            self.0 = Some(error);
        }
    }
}

impl DialError {
    /// The code of a refusal, if the relay refused.
    pub fn refused(&self) -> Option<RefusedCode> {
        match self {
            Self::Opening(OpeningError::Refused(refused)) => Some(refused.code),
            _ => None,
        }
    }

    /// When the relay wants to be asked again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http { retry_after, .. } => *retry_after,
            Self::Opening(OpeningError::Refused(refused)) if refused.retry_after_ms > 0 => {
                Some(Duration::from_millis(refused.retry_after_ms.into()))
            }
            _ => None,
        }
    }

    /// Whether another address of the relay may take the bridge.
    fn may_differ_elsewhere(&self) -> bool {
        match self {
            Self::Tcp { .. } | Self::Tls { .. } | Self::Upgrade(_) | Self::Silent { .. } => true,
            Self::Http { status, .. } => matches!(status, 429 | 500..=599),
            Self::Opening(error) => match error {
                OpeningError::Refused(refused) => refused.code == RefusedCode::Overloaded,
                OpeningError::Timeout
                | OpeningError::WebSocket(_)
                | OpeningError::Closed
                | OpeningError::Protocol(_) => true,
                OpeningError::Random => false,
            },
            Self::Dns { .. } | Self::Proxy(_) | Self::Timeout { .. } => false,
        }
    }

    /// How much it tells the administrator, compared with the errors of other addresses.
    fn telling(&self) -> u8 {
        match self {
            Self::Dns { .. } => 0,
            Self::Tcp { .. } => 1,
            Self::Silent { .. } | Self::Timeout { .. } => 2,
            Self::Upgrade(_) => 3,
            Self::Tls { .. } | Self::Proxy(_) => 4,
            Self::Http { .. } | Self::Opening(_) => 5,
        }
    }

    /// Whether asking again soon is of no use: somebody has to do something first.
    pub fn needs_operator(&self) -> bool {
        match self {
            Self::Http { status, .. } => matches!(status, 401 | 403 | 404),
            _ => matches!(
                self.refused(),
                Some(
                    RefusedCode::Unauthorized
                        | RefusedCode::Revoked
                        | RefusedCode::TenantSuspended
                        | RefusedCode::Version
                        | RefusedCode::ChannelBinding
                        | RefusedCode::Authority
                )
            ),
        }
    }
}

/// Knows how to reach one relay.
#[derive(Debug, Clone)]
pub struct Dialer {
    relay: RelayUrl,
    tls: Arc<ClientConfig>,
    proxy: Proxy,
    from: Option<IpAddr>,
}

/// A TLS connection to the relay.
pub type RelayStream = TlsStream<TcpStream>;

impl Dialer {
    /// Dials `relay` with `tls` (ALPN is set to `http/1.1`), through `proxy`.
    pub fn new(relay: RelayUrl, tls: &ClientConfig, proxy: Proxy) -> Self {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        // RFC 9266, section 3: with TLS 1.2 a binding needs the extended master secret.
        tls.require_ems = true;
        Self {
            relay,
            tls: Arc::new(tls),
            proxy,
            from: None,
        }
    }

    /// Dials from this address of the machine, instead of one that the system chooses.
    #[must_use]
    pub fn with_source_address(self, address: IpAddr) -> Self {
        Self {
            from: Some(address),
            ..self
        }
    }

    /// The relay that is dialled.
    pub fn relay(&self) -> &RelayUrl {
        &self.relay
    }

    /// A TLS connection to the relay, for HTTP/1.1, within [`DIAL_TIMEOUT`].
    ///
    /// # Errors
    /// [`DialError`] names the step.
    pub async fn connect(&self) -> Result<RelayStream, DialError> {
        let mut step = "TCP";
        let connecting = async {
            let routes = self.routes().await?;
            self.connect_by(&routes, &mut step).await
        };
        match timeout(DIAL_TIMEOUT, connecting).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { step }),
        }
    }

    async fn connect_by(
        &self,
        routes: &[Route],
        step: &mut &'static str,
    ) -> Result<RelayStream, DialError> {
        let mut worst = Worst::default();
        for (index, route) in routes.iter().enumerate() {
            let connecting = self.connect_steps(*route, step);
            let is_last = index + 1 == routes.len();
            let connected = in_time(*route, is_last, connecting).await;
            let connected =
                connected.unwrap_or_else(|address| Err(DialError::Silent { address, step }));
            match connected {
                Err(error) if error.may_differ_elsewhere() => worst.add(error),
                result => return result,
            }
        }
        Err(self.no_route(worst))
    }

    /// A tunnel to the relay, within [`DIAL_TIMEOUT`].
    ///
    /// # Errors
    /// [`DialError`] names the step.
    pub async fn tunnel(
        &self,
        identity: &Identity,
        introduction: Introduction,
        settings: Settings,
    ) -> Result<Tunnel, DialError> {
        let mut step = "TCP";
        let dialling = async {
            let routes = self.routes().await?;
            let mut worst = Worst::default();
            for (index, route) in routes.iter().enumerate() {
                let (introduction, settings) = (introduction.clone(), settings.clone());
                let opening =
                    self.tunnel_steps(*route, &mut step, identity, introduction, settings);
                let is_last = index + 1 == routes.len();
                let opened = in_time(*route, is_last, opening).await;
                let opened =
                    opened.unwrap_or_else(|address| Err(DialError::Silent { address, step }));
                match opened {
                    Err(error) if error.may_differ_elsewhere() => worst.add(error),
                    result => return result,
                }
            }
            Err(self.no_route(worst))
        };
        match timeout(DIAL_TIMEOUT, dialling).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { step }),
        }
    }

    async fn tunnel_steps(
        &self,
        route: Route,
        step: &mut &'static str,
        identity: &Identity,
        introduction: Introduction,
        settings: Settings,
    ) -> Result<Tunnel, DialError> {
        let stream = self.connect_steps(route, step).await?;
        *step = "WebSocket upgrade";
        let dialled = Dialled {
            authority: self.relay.authority(),
            channel: tls::channel_binding(stream.get_ref().1),
        };
        let (ws, _) = tokio_tungstenite::client_async_with_config(
            self.upgrade_request(),
            Metered::new(stream, 0),
            Some(websocket::config(websocket::Buffers::Small)),
        )
        .await
        .map_err(upgrade_error)?;
        *step = "opening";
        let tunnel = bridge_opening(ws, dialled, identity, introduction, settings).await?;
        Ok(tunnel)
    }

    /// The ways to the relay, in the order in which they are tried.
    async fn routes(&self) -> Result<Vec<Route>, DialError> {
        let relay = &self.relay;
        if self.proxy.for_host(&relay.host, relay.port).is_some() {
            return Ok(vec![Route::Proxied]);
        }
        let addresses = look_up(&relay.host, relay.port).await?;
        let addresses = addresses.into_iter().take(ROUTES_MAX);
        Ok(addresses.map(Route::Direct).collect())
    }

    fn no_route(&self, worst: Worst) -> DialError {
        worst.0.unwrap_or_else(|| no_address(&self.relay.host))
    }

    async fn connect_steps(
        &self,
        route: Route,
        step: &mut &'static str,
    ) -> Result<RelayStream, DialError> {
        let relay = &self.relay;
        let stream = match (route, self.proxy.for_host(&relay.host, relay.port)) {
            (Route::Direct(address), _) => {
                *step = "TCP";
                connect_to(address, self.from).await?
            }
            (Route::Proxied, Some(server)) => {
                *step = "proxy";
                let stream = connect_tcp(server.host(), server.port(), self.from).await?;
                server.connect(stream, &relay.authority()).await?
            }
            (Route::Proxied, None) => connect_tcp(&relay.host, relay.port, self.from).await?,
        };
        tcp::tune(&stream).map_err(|source| DialError::Tcp {
            address: relay.authority(),
            source,
        })?;
        *step = "TLS";
        TlsConnector::from(self.tls.clone())
            .connect(relay.server_name.clone(), stream)
            .await
            .map_err(|error| DialError::Tls {
                host: relay.host.clone(),
                detail: explain_tls(&error),
            })
    }

    fn upgrade_request(&self) -> http::Request<()> {
        let mut request = http::Request::new(());
        let uri = format!("wss://{}{}", self.relay.authority(), websocket::TUNNEL_PATH);
        *request.uri_mut() = uri.parse().expect("authority and path were parsed before");
        let headers: &mut HeaderMap = request.headers_mut();
        let value = |text: String| text.parse().expect("visible ASCII");
        headers.insert(header::HOST, value(self.relay.authority()));
        headers.insert(header::CONNECTION, value("Upgrade".into()));
        headers.insert(header::UPGRADE, value("websocket".into()));
        headers.insert(header::SEC_WEBSOCKET_VERSION, value("13".into()));
        headers.insert(header::SEC_WEBSOCKET_KEY, value(generate_key()));
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            value(websocket::SUBPROTOCOL.into()),
        );
        request
    }
}

/// Waits for one way of several, but not for so long that the others have no time. The address that
/// took too long otherwise.
async fn in_time<T>(
    route: Route,
    is_last: bool,
    steps: impl Future<Output = T>,
) -> Result<T, SocketAddr> {
    match route {
        Route::Direct(address) if !is_last => {
            let limit = ADDRESS_TIMEOUT + ROUTE_TIMEOUT;
            timeout(limit, steps).await.map_err(|_| address)
        }
        Route::Direct(_) | Route::Proxied => Ok(steps.await),
    }
}

async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| DialError::Dns {
        host: host.to_owned(),
        detail: error.to_string(),
    })?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn no_address(host: &str) -> DialError {
    DialError::Dns {
        host: host.to_owned(),
        detail: "it has no address".to_owned(),
    }
}

async fn connect_tcp(host: &str, port: u16, from: Option<IpAddr>) -> Result<TcpStream, DialError> {
    let mut last = no_address(host);
    for address in look_up(host, port).await? {
        match connect_to(address, from).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr, from: Option<IpAddr>) -> Result<TcpStream, DialError> {
    let source = match timeout(ADDRESS_TIMEOUT, connect_address(address, from)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {ADDRESS_TIMEOUT:?}: is a firewall in between?"),
        ),
    };
    Err(DialError::Tcp {
        address: address.to_string(),
        source,
    })
}

async fn connect_address(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(to).await;
    };
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// Adds to what TLS says what an administrator can do about it.
pub fn explain_tls(error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let hint = match inner {
        Some(Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "; if the certificate comes from a private CA, or a proxy inspects TLS, give that CA's certificate as ca_file"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "; if the certificate is valid, check this machine's clock"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "; check this machine's clock"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "; the certificate is for another name than the one in the URL"
            }
            _ => "",
        },
        Some(Error::InvalidMessage(_)) => "; is there really a TLS server at this port?",
        _ => "",
    };
    format!("{error}{hint}")
}

fn upgrade_error(error: WsError) -> DialError {
    let response = match error {
        WsError::Http(response) => response,
        other => return DialError::Upgrade(other.to_string()),
    };
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let hint = match status {
        200 | 400 | 426 => "; does something in between strip WebSocket upgrades?",
        404 => "; is this URL that of an integration relay?",
        407 => "; a proxy in between asks for a password",
        429 | 503 => "; it is busy and will be asked again",
        _ => "",
    };
    DialError::Http {
        status,
        retry_after,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;

    /// A relay that takes TLS connections on an address of its own, and a client's trust in it.
    async fn relay() -> (SocketAddr, ClientConfig) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let server = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let accepted = acceptor.accept(stream).await;
                tokio::spawn(async move {
                    tokio::time::sleep(DIAL_TIMEOUT).await;
                    drop(accepted);
                });
            }
        });
        (address, client)
    }

    #[tokio::test]
    async fn address_that_refuses_or_hangs_up_costs_the_next_one_nothing() {
        let (good, client) = relay().await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refuses = closed.local_addr().unwrap();
        drop(closed);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hangs_up = listener.local_addr().unwrap();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let url = "https://localhost:1".parse().unwrap();
        let dialer = Dialer::new(url, &client, Proxy::Direct);
        let mut step = "";
        let routes = [refuses, hangs_up, good].map(Route::Direct);
        let stream = dialer.connect_by(&routes, &mut step).await.unwrap();
        assert_eq!(stream.get_ref().0.peer_addr().unwrap(), good);
        // The error that tells most is shown, whatever came last.
        let routes = [hangs_up, refuses].map(Route::Direct);
        let error = dialer.connect_by(&routes, &mut step).await.unwrap_err();
        assert!(matches!(error, DialError::Tls { .. }), "{error}");
        let error = dialer.connect_by(&[], &mut step).await.unwrap_err();
        assert!(matches!(error, DialError::Dns { .. }), "{error}");
    }

    #[test]
    fn relays_word_ends_a_dial_and_a_busy_or_silent_relay_does_not() {
        let refused = |code| {
            DialError::Opening(OpeningError::Refused(protocol::frame::Refused {
                code,
                retry_after_ms: 0,
            }))
        };
        let http = |status| DialError::Http {
            status,
            retry_after: None,
            hint: "",
        };
        for error in [http(503), http(502), refused(RefusedCode::Overloaded)] {
            assert!(error.may_differ_elsewhere(), "{error}");
        }
        for error in [http(404), http(403), refused(RefusedCode::Revoked)] {
            assert!(!error.may_differ_elsewhere(), "{error}");
        }
    }

    #[test]
    fn a_busy_relay_is_asked_again_when_it_says() {
        let answer = |status: u16, later: &str| {
            let mut response = http::Response::new(None);
            *response.status_mut() = status.try_into().unwrap();
            let later = later.parse().unwrap();
            response.headers_mut().insert(header::RETRY_AFTER, later);
            upgrade_error(WsError::Http(Box::new(response)))
        };
        for status in [429, 503] {
            let error = answer(status, "7");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
            assert!(!error.needs_operator(), "{error}");
        }
        assert_eq!(answer(503, "soon").retry_after(), None);
    }

    #[test]
    fn a_relay_url_is_https_and_nothing_else() {
        let url: RelayUrl = "https://Relay.example.com".parse().unwrap();
        assert_eq!(url.authority(), "relay.example.com:443");
        let url: RelayUrl = "https://[::1]:8443/".parse().unwrap();
        assert_eq!(url.authority(), "[::1]:8443");
        for (bad, error) in [
            ("http://relay.example.com", RelayUrlError::Scheme),
            ("relay.example.com", RelayUrlError::Syntax),
            ("https://relay.example.com/x", RelayUrlError::Extra),
            ("https://me@relay.example.com", RelayUrlError::Extra),
            ("https://relay.example.com:99999", RelayUrlError::Syntax),
        ] {
            assert_eq!(bad.parse::<RelayUrl>(), Err(error), "{bad}");
        }
    }
}
