//! HTTP proxies: CONNECT (RFC 9110, 9.3.6), and authentication.
//!
//! The relay and, where configured, targets are reached through them. [`super::no_proxy`] has the exceptions.
//!
//! ```text
//! login      the schemes and users       handshake  what is sent first, and after each 407
//! offers     Proxy-Authenticate          connect    CONNECT, until there is a tunnel
//! by_url     the login on a connection without a tunnel
//! ```

mod by_url;
mod connect;
#[cfg(test)]
mod fake;
mod handshake;
mod login;
mod offers;

pub use by_url::UrlLogin;
pub use login::{Begun, Exchange, Mechanism, MechanismError, Scheme, SchemeChoice, Seen};

use super::no_proxy::NoProxy;
use crate::failure::{self, Cause, Diagnosis};
use crate::race::{STAGGER, race};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use handshake::Handshake;
use http::Uri;
use login::Login;
use runtime::secret::Secret;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// The port of a proxy whose URL names none: that of squid. curl's default is 1080; neither is a standard.
const DEFAULT_PORT: u16 = 3128;

/// Why a connection through a proxy failed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The setting is not a proxy URL. Its text may hold a password, so the error does not repeat it.
    #[error("the proxy setting {name} {why}")]
    Setting {
        /// The name of the setting.
        name: String,
        /// What is wrong, without the text.
        why: String,
    },
    /// The proxy responded with a status other than 2xx.
    #[error("the proxy {proxy} answered CONNECT with {status}: {why}")]
    Status {
        /// The proxy.
        proxy: String,
        /// Its status.
        status: u16,
        /// The reason.
        why: Diagnosis,
    },
    /// There is no login for it, on a connection without a tunnel.
    #[error("the proxy {proxy} answered with 407: {why}")]
    Login {
        /// The proxy.
        proxy: String,
        /// The reason.
        why: Diagnosis,
    },
    /// The response is not HTTP.
    #[error("the proxy {proxy} failed: {what}", what = Cause::ProxyNotHttp.words().what)]
    NotHttp {
        /// The proxy.
        proxy: String,
    },
    /// There is no connection to it.
    #[error("the proxy {proxy} was not reached: {why}", why = failure::reach(.error))]
    Unreachable {
        /// The proxy.
        proxy: String,
        /// The system's error.
        error: io::Error,
    },
    /// The connection to it ended before its response.
    #[error("the proxy {proxy} failed: {what}", what = Cause::ProxyClosed.words().what)]
    Io {
        /// The proxy.
        proxy: String,
        /// The system's error.
        error: io::Error,
    },
}

impl ProxyError {
    /// Returns why the connection failed. `None` for a setting that is no proxy URL.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        match self {
            Self::Setting { .. } => None,
            Self::Status { why, .. } | Self::Login { why, .. } => Some(why.clone()),
            Self::NotHttp { .. } => Some(Cause::ProxyNotHttp.into()),
            Self::Unreachable { error, .. } => Some(failure::reach(error)),
            Self::Io { .. } => Some(Cause::ProxyClosed.into()),
        }
    }

    /// Returns the system's error, if there is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Unreachable { error, .. } | Self::Io { error, .. } => Some(error),
            Self::Setting { .. }
            | Self::Status { .. }
            | Self::Login { .. }
            | Self::NotHttp { .. } => None,
        }
    }
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyServer {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization` for Basic.
    authorization: Option<Secret>,
    /// Shared by all copies: what one connection learns about the proxy, the next ones use.
    login: Arc<Login>,
    /// Whether user and password are those of an environment variable: only there can they be corrected.
    is_login_of_variable: bool,
}

impl fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyServer({}:{})", self.host, self.port)
    }
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl ProxyError {
    /// Whether the proxy refuses CONNECT to that port, but may pass on requests to it.
    pub fn refuses_connect(&self) -> bool {
        matches!(
            self,
            Self::Status {
                status: 400 | 403 | 405 | 501,
                ..
            }
        )
    }
}

/// Which hosts are reached through a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// None: every connection is direct.
    Direct,
    /// All but those of a list (`NO_PROXY`).
    Via {
        /// The proxy.
        server: ProxyServer,
        /// Hosts that are reached directly.
        no_proxy: NoProxy,
    },
}

impl Proxy {
    /// The variables that [`Self::from_env`] reads.
    pub const VARIABLES: [&'static str; 6] = [
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
    ];

    /// Parses a URL like `http://proxy.example.com:3128`. Without a port it is 3128.
    ///
    /// # Errors
    /// [`ProxyError::Setting`], which does not repeat the URL.
    pub fn from_url(name: &str, url: &str) -> Result<Self, ProxyError> {
        Ok(Self::Via {
            server: ProxyServer::parse(name, url)?,
            no_proxy: NoProxy::default(),
        })
    }

    /// Reads `HTTPS_PROXY` (or `ALL_PROXY`) and `NO_PROXY`, in upper or lower case.
    ///
    /// # Errors
    /// [`ProxyError::Setting`] when the variable is set and is not a proxy URL.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        // An empty variable counts as unset: this is the usual way to switch a proxy off.
        let set = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let found = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
            .iter()
            .find_map(|name| Some((*name, set(name)?)));
        let Some((name, url)) = found else {
            return Ok(Self::Direct);
        };
        let no_proxy = set("NO_PROXY")
            .or_else(|| set("no_proxy"))
            .unwrap_or_default();
        Ok(Self::Via {
            server: ProxyServer {
                is_login_of_variable: true,
                ..ProxyServer::parse(name, url.trim())?
            },
            no_proxy: NoProxy::parse(&no_proxy),
        })
    }

    /// Sets user and password, instead of those of the URL.
    #[must_use]
    pub fn with_basic(mut self, user: &str, password: &str) -> Self {
        if let Self::Via { server, .. } = &mut self {
            let pair = STANDARD.encode(format!("{user}:{password}"));
            server.authorization = Some(Secret::owned(format!("Basic {pair}")));
            server.is_login_of_variable = false;
        }
        self
    }

    /// Returns user and password, where they are given.
    pub fn user_and_password(&self) -> Option<(String, Secret)> {
        let Self::Via { server, .. } = self else {
            return None;
        };
        let pair = server.authorization.as_ref()?.expose();
        let pair = STANDARD.decode(pair.strip_prefix("Basic ")?).ok()?;
        let pair = Secret::owned(String::from_utf8(pair).ok()?);
        let (user, password) = pair.expose().split_once(':').unwrap_or((pair.expose(), ""));
        Some((user.to_owned(), Secret::new(password)))
    }

    /// Sets which schemes may be used, and the mechanisms of those other than Basic.
    #[must_use]
    pub fn with_schemes(
        mut self,
        choice: SchemeChoice,
        mechanisms: Vec<Arc<dyn Mechanism>>,
    ) -> Self {
        if let Self::Via { server, .. } = &mut self {
            server.login = Arc::new(Login::new(choice, mechanisms));
        }
        self
    }

    /// Returns the proxy that a host and port are reached through, if any.
    pub fn server_for(&self, host: &str, port: u16) -> Option<&ProxyServer> {
        match self {
            Self::Direct => None,
            Self::Via { server, no_proxy } => (!no_proxy.matches(host, port)).then_some(server),
        }
    }
}

impl ProxyServer {
    pub(super) fn parse(name: &str, url: &str) -> Result<Self, ProxyError> {
        let because = |why: String| ProxyError::Setting {
            name: name.to_owned(),
            why,
        };
        let wrong = || because("is not a URL like http://proxy.example.com:3128".into());
        // Before the URL is parsed: with an unencoded `/` in the password, the user would be the host.
        runtime::userinfo::check(url).map_err(|error| because(error.to_string()))?;
        let url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(because(
                    "begins with https://: write http://, with which proxies connect to HTTPS servers, too".into(),
                ));
            }
            Some(_) | None => return Err(wrong()),
        }
        let authority = uri.authority().ok_or_else(wrong)?;
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
        let authorization = match user.map(percent_decoded) {
            None => None,
            Some(user) => Some(Secret::owned(format!(
                "Basic {}",
                STANDARD.encode(user.ok_or_else(wrong)?)
            ))),
        };
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong());
        }
        let after_host = authority.as_str().rsplit_once('@');
        let after_host = after_host.map_or(authority.as_str(), |(_, rest)| rest);
        let port = match after_host.get(host.len()..).unwrap_or_default() {
            "" | ":" => DEFAULT_PORT,
            // The library gives no port both without one and for one that is too large.
            _ => authority.port_u16().filter(|port| *port > 0).ok_or_else(|| {
                because("has a port that is not a number from 1 to 65535: write http://proxy.example.com:3128".into())
            })?,
        };
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authorization,
            login: Arc::default(),
            is_login_of_variable: false,
        })
    }

    /// Returns its name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what the proxy offered, and what it accepted, on the connections so far.
    pub fn seen(&self) -> Seen {
        self.login.seen()
    }

    fn handshake(&self) -> Handshake<'_> {
        let basic = self.authorization.as_ref();
        Handshake::new(&self.login, basic, self.is_login_of_variable)
    }

    /// Connects to the proxy itself, within `limit`.
    ///
    /// # Errors
    /// [`ProxyError::Unreachable`].
    pub async fn open(&self, limit: Duration) -> Result<TcpStream, ProxyError> {
        let failed = |error| ProxyError::Unreachable {
            proxy: self.name(),
            error,
        };
        let resolving = tokio::net::lookup_host((self.host.as_str(), self.port));
        let began = Instant::now();
        let silent = || io::Error::from(io::ErrorKind::TimedOut);
        let addresses = timeout(limit, resolving).await;
        let addresses = addresses
            .unwrap_or_else(|_| Err(silent()))
            .map_err(failed)?;
        let left = limit.saturating_sub(began.elapsed());
        let racing = race(
            addresses.collect(),
            |one| *one,
            (STAGGER, left),
            |one| TcpStream::connect(*one),
        );
        match racing.await {
            Ok((_, stream)) => Ok(stream),
            Err(mut lost) => Err(failed(
                lost.failed.pop().map_or_else(silent, |(_, error)| error),
            )),
        }
    }

    /// Opens a tunnel to `authority` (`host:port`) through the proxy, whose own connection takes at most
    /// `limit`.
    ///
    /// # Errors
    /// [`ProxyError`] when the proxy cannot be reached or does not connect.
    pub async fn tunnel(&self, authority: &str, limit: Duration) -> Result<TcpStream, ProxyError> {
        let stream = self.open(limit).await?;
        self.connect(stream, authority).await
    }

    fn name(&self) -> String {
        self.to_string()
    }

    /// Asks for a tunnel to `authority` on a connection to the proxy.
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        authority: &str,
    ) -> Result<TcpStream, ProxyError> {
        connect::tunnel(self, stream, authority).await
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
