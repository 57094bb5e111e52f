//! Dialing: from the bridge to the relay, under one deadline.
//!
//! ```text
//! proxy?  ->  DNS  ->  TCP  ->  (CONNECT)  ->  TLS  ->  WebSocket upgrade  ->  opening
//! ```
//!
//! A step that fails is named, for the administrator. Without a proxy, every address of the relay's name is
//! tried ([`crate::race`]). A relay that refuses the connection, does not respond, or is on standby, costs a few seconds
//! and not the whole deadline.
//!
//! ```text
//! relay_url  where the relay is      error    why it was not reached, and what follows
//! proxy      CONNECT                 no_proxy which hosts are reached without a proxy
//! connect    DNS and TCP             probe    the steps one by one, for `doctor`
//! system_proxy  the proxy settings of Windows
//! ```

mod connect;
mod error;
mod no_proxy;
mod probe;
mod proxy;
mod relay_url;
mod system_proxy;

pub use error::DialError;
pub use probe::{PathReport, probe_path};
pub use proxy::{
    Begun, Exchange, Mechanism, MechanismError, Proxy, ProxyError, ProxyServer, Scheme,
    SchemeChoice, Seen, UrlLogin,
};
pub use relay_url::{RelayUrl, RelayUrlError};

use crate::handle::Settings;
use crate::handshake::{Dialled, Identity, Introduction, Tunnel, bridge_opening};
use crate::read_ahead::ClientStream;
use crate::socket::Metered;
use crate::{failure, tcp, tls, websocket};
use connect::{connect_any, connect_tcp, no_address, resolve};
use error::{MostSignificant, upgrade_error};
use http::{HeaderMap, header};
use rustls::ClientConfig;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

/// The `User-Agent` of requests that the bridge itself makes: some proxies and firewalls refuse requests
/// without one.
pub const USER_AGENT: &str = concat!("integration-bridge/", env!("CARGO_PKG_VERSION"));

/// The whole dial, from the first name lookup to WELCOME.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// TCP with any of the addresses, which are tried in parallel.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// The steps after TCP with one address of several. The last address may take what is left.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses that one dial tries.
const ROUTES_MAX: usize = 8;

/// The routes to the relay that were not used yet.
#[derive(Debug)]
enum Routes {
    /// To one of these addresses of the relay.
    Direct(Vec<SocketAddr>),
    /// Through the proxy, which chooses the address.
    Proxied,
    /// None.
    Used,
}

impl Routes {
    fn is_used(&self) -> bool {
        match self {
            Self::Direct(addresses) => addresses.is_empty(),
            Self::Proxied => false,
            Self::Used => true,
        }
    }
}

/// Dials one relay.
#[derive(Debug, Clone)]
pub struct Dialer {
    relay: RelayUrl,
    tls: Arc<ClientConfig>,
    proxy: Proxy,
    source: Option<IpAddr>,
}

impl Dialer {
    /// Creates a dialer for `relay` with `tls` (ALPN is set to `http/1.1`), through `proxy`.
    pub fn new(relay: RelayUrl, tls: &ClientConfig, proxy: Proxy) -> Self {
        let mut tls = tls.clone();
        // WebSocket over HTTP/1.1 only: a bridge that offered HTTP/2 would be queued with the callers.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        // RFC 9266, section 3: with TLS 1.2 a binding needs the extended master secret.
        tls.require_ems = true;
        Self {
            relay,
            tls: Arc::new(tls),
            proxy,
            source: None,
        }
    }

    /// Dials from this local address, instead of one that the system chooses.
    #[must_use]
    pub fn with_source_address(self, address: IpAddr) -> Self {
        Self {
            source: Some(address),
            ..self
        }
    }

    /// Returns the relay that is dialled.
    pub fn relay(&self) -> &RelayUrl {
        &self.relay
    }

    /// Opens a TLS connection to the relay, for HTTP/1.1, within [`DIAL_TIMEOUT`].
    ///
    /// # Errors
    /// [`DialError`] names the step.
    pub async fn connect(&self) -> Result<ClientStream, DialError> {
        let mut step = "TCP";
        let connecting = async {
            let routes = self.routes().await?;
            self.connect_by(routes, &mut step).await
        };
        match timeout(DIAL_TIMEOUT, connecting).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { step }),
        }
    }

    async fn connect_by(
        &self,
        mut routes: Routes,
        step: &mut &'static str,
    ) -> Result<ClientStream, DialError> {
        let mut errors = MostSignificant::default();
        while let Some((address, stream)) = self.connected(&mut routes, &mut errors, step).await? {
            let secured = in_time(address, routes.is_used(), self.secure(stream, step)).await;
            let secured =
                secured.unwrap_or_else(|address| Err(DialError::Silent { address, step }));
            match secured {
                // Other errors concern this bridge, and every address would return the same.
                Err(error) if error.may_differ_elsewhere() => errors.add(error),
                result => return result,
            }
        }
        Err(self.no_route(errors))
    }

    /// Opens a tunnel to the relay, within [`DIAL_TIMEOUT`].
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
            let mut routes = self.routes().await?;
            let mut errors = MostSignificant::default();
            while let Some((address, stream)) =
                self.connected(&mut routes, &mut errors, &mut step).await?
            {
                let (introduction, settings) = (introduction.clone(), settings.clone());
                let opening =
                    self.tunnel_steps(stream, &mut step, identity, introduction, settings);
                let opened = in_time(address, routes.is_used(), opening).await;
                let opened =
                    opened.unwrap_or_else(|address| Err(DialError::Silent { address, step }));
                match opened {
                    Err(error) if error.may_differ_elsewhere() => errors.add(error),
                    result => return result,
                }
            }
            Err(self.no_route(errors))
        };
        match timeout(DIAL_TIMEOUT, dialling).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { step }),
        }
    }

    async fn tunnel_steps(
        &self,
        stream: TcpStream,
        step: &mut &'static str,
        identity: &Identity,
        introduction: Introduction,
        settings: Settings,
    ) -> Result<Tunnel, DialError> {
        let stream = self.secure(stream, step).await?;
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

    /// Returns the routes to the relay.
    async fn routes(&self) -> Result<Routes, DialError> {
        let relay = &self.relay;
        // Through a proxy there is one route: the proxy resolves the name, which may be unknown here.
        if self.proxy.server_for(relay.host(), relay.port()).is_some() {
            return Ok(Routes::Proxied);
        }
        let mut addresses = resolve(relay.host(), relay.port()).await?;
        // Bounded, so that a name with many dead addresses leaves time for the last one.
        addresses.truncate(ROUTES_MAX);
        Ok(Routes::Direct(addresses))
    }

    /// Connects to the first address that accepts of those that are left, and takes it off. Returns `None`
    /// when no route is left, with the addresses that failed in `errors`.
    async fn connected(
        &self,
        routes: &mut Routes,
        errors: &mut MostSignificant,
        step: &mut &'static str,
    ) -> Result<Option<(Option<SocketAddr>, TcpStream)>, DialError> {
        let relay = &self.relay;
        match std::mem::replace(routes, Routes::Used) {
            Routes::Direct(mut addresses) if !addresses.is_empty() => {
                *step = "TCP";
                match connect_any(addresses.clone(), self.source).await {
                    Ok((address, stream)) => {
                        addresses.retain(|other| *other != address);
                        *routes = Routes::Direct(addresses);
                        Ok(Some((Some(address), stream)))
                    }
                    Err(all) => {
                        for error in all {
                            errors.add(error);
                        }
                        Ok(None)
                    }
                }
            }
            Routes::Proxied => {
                *step = "proxy";
                match self.proxy.server_for(relay.host(), relay.port()) {
                    Some(server) => {
                        let stream = connect_tcp(server.host(), server.port(), self.source).await?;
                        let stream = server.connect(stream, &relay.authority()).await?;
                        Ok(Some((None, stream)))
                    }
                    None => Ok(None),
                }
            }
            Routes::Direct(_) | Routes::Used => Ok(None),
        }
    }

    fn no_route(&self, errors: MostSignificant) -> DialError {
        errors
            .into_error()
            .unwrap_or_else(|| no_address(self.relay.host()))
    }

    async fn secure(
        &self,
        stream: TcpStream,
        step: &mut &'static str,
    ) -> Result<ClientStream, DialError> {
        let relay = &self.relay;
        tcp::tune(&stream).map_err(|error| DialError::Tcp {
            address: relay.authority(),
            error,
        })?;
        *step = "TLS";
        let (tls, name) = (self.tls.clone(), relay.server_name.clone());
        // The limit of the whole dial ends it earlier, and names the step.
        let secured = failure::handshake(tls, name, stream, DIAL_TIMEOUT).await;
        secured.map_err(|why| DialError::Tls {
            host: relay.host().to_owned(),
            why,
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
        headers.insert(header::USER_AGENT, value(USER_AGENT.into()));
        headers.insert(header::SEC_WEBSOCKET_VERSION, value("13".into()));
        headers.insert(header::SEC_WEBSOCKET_KEY, value(generate_key()));
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            value(websocket::SUBPROTOCOL.into()),
        );
        request
    }
}

/// Runs the steps after TCP with one address of several, but not for so long that the others have no time.
///
/// # Errors
/// The address that took too long. The last one may take what is left of [`DIAL_TIMEOUT`].
async fn in_time<T>(
    address: Option<SocketAddr>,
    is_last: bool,
    steps: impl Future<Output = T>,
) -> Result<T, SocketAddr> {
    match address {
        Some(address) if !is_last => timeout(ROUTE_TIMEOUT, steps).await.map_err(|_| address),
        Some(_) | None => Ok(steps.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::net::TcpListener;

    /// Starts a relay that accepts TLS connections, and a client config that trusts it.
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
    async fn dial_continues_after_a_failed_address() {
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
        let routes = Routes::Direct(vec![refuses, hangs_up, good]);
        let stream = dialer.connect_by(routes, &mut step).await.unwrap();
        assert_eq!(stream.get_ref().0.get_ref().peer_addr().unwrap(), good);
        // The most significant error is returned, in any order.
        let routes = Routes::Direct(vec![hangs_up, refuses]);
        let error = dialer.connect_by(routes, &mut step).await.unwrap_err();
        assert!(matches!(error, DialError::Tls { .. }), "{error}");
        let none = Routes::Direct(Vec::new());
        let error = dialer.connect_by(none, &mut step).await.unwrap_err();
        assert!(matches!(error, DialError::Dns { .. }), "{error}");
    }
}
