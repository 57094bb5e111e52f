//! HTTP proxies: CONNECT (RFC 9110, 9.3.6), with Basic authentication where a user is given.
//!
//! The relay and, where configured, targets are reached through them. [`super::no_proxy`] has the exceptions.

use super::USER_AGENT;
use super::no_proxy::NoProxy;
use crate::failure::{self, Cause, Diagnosis};
use crate::race::{STAGGER, race};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Longest response head to CONNECT. A longer one is a web page.
const RESPONSE_MAX_BYTES: usize = 16 * 1024;

/// The port of a proxy whose URL names none: that of squid. curl's default is 1080; neither is a standard.
const DEFAULT_PORT: u16 = 3128;

/// Header fields of that response.
const RESPONSE_HEADERS_MAX: usize = 64;

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
    #[error("the proxy {proxy} answered CONNECT with {status}: {what}", what = .cause.words().what)]
    Status {
        /// The proxy.
        proxy: String,
        /// Its status.
        status: u16,
        /// The reason.
        cause: Cause,
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
            Self::Status { cause, .. } => Some((*cause).into()),
            Self::NotHttp { .. } => Some(Cause::ProxyNotHttp.into()),
            Self::Unreachable { error, .. } => Some(failure::reach(error)),
            Self::Io { .. } => Some(Cause::ProxyClosed.into()),
        }
    }

    /// Returns the system's error, if there is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Unreachable { error, .. } | Self::Io { error, .. } => Some(error),
            Self::Setting { .. } | Self::Status { .. } | Self::NotHttp { .. } => None,
        }
    }
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyServer {
    host: String,
    port: u16,
    authorization: Option<String>,
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
            server.authorization = Some(format!("Basic {pair}"));
            server.is_login_of_variable = false;
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
    fn parse(name: &str, url: &str) -> Result<Self, ProxyError> {
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
            Some(user) => Some(format!(
                "Basic {}",
                STANDARD.encode(user.ok_or_else(wrong)?)
            )),
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

    /// Returns the value of `Proxy-Authorization`, a secret, where a user is given.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
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

    /// Sends CONNECT for `authority`, and reads the response head.
    pub(super) async fn connect(
        &self,
        mut stream: TcpStream,
        authority: &str,
    ) -> Result<TcpStream, ProxyError> {
        let failed = |error| ProxyError::Io {
            proxy: self.name(),
            error,
        };
        let mut request = format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {USER_AGENT}\r\n"
        );
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut response_head = Vec::with_capacity(512);
        loop {
            // One byte at a time: bytes after the head belong to the tunnel, and must stay in the socket.
            let byte = stream.read_u8().await.map_err(failed)?;
            response_head.push(byte);
            if response_head.ends_with(b"\r\n\r\n") || response_head.ends_with(b"\n\n") {
                return self.check(&response_head).map(|()| stream);
            }
            // A captive portal or an error page could otherwise be read for ever.
            if response_head.len() >= RESPONSE_MAX_BYTES {
                return Err(ProxyError::NotHttp { proxy: self.name() });
            }
        }
    }

    fn check(&self, response_head: &[u8]) -> Result<(), ProxyError> {
        let mut headers = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        // A blank before a colon is common in responses of small proxies (RFC 9112, 5.1).
        let mut parser = httparse::ParserConfig::default();
        parser.allow_spaces_after_header_name_in_responses(true);
        let parsed = parser.parse_response(&mut response, response_head);
        let Some(status) = response.code.filter(|_| parsed.is_ok()) else {
            return Err(ProxyError::NotHttp { proxy: self.name() });
        };
        // The proxy offers schemes, and none that is supported here.
        let mut schemes = response
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("proxy-authenticate"));
        let is_basic = |value: &[u8]| value.to_ascii_lowercase().starts_with(b"basic");
        // A proxy may offer several schemes. Only one that excludes Basic deserves the hint.
        let wants_other =
            schemes.clone().next().is_some() && !schemes.any(|field| is_basic(field.value));
        let cause = match status {
            200..=299 => return Ok(()),
            407 if wants_other => Cause::ProxyLoginScheme,
            407 if self.authorization.is_some() && self.is_login_of_variable => {
                Cause::ProxyVariableLoginRejected
            }
            407 if self.authorization.is_some() => Cause::ProxyLoginRejected,
            407 => Cause::ProxyLoginMissing,
            403 => Cause::ProxyForbids,
            502..=504 => Cause::ProxyCannotReach,
            _ => Cause::ProxyRefuses,
        };
        Err(ProxyError::Status {
            proxy: self.name(),
            status,
            cause,
        })
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
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Proxy {
        let get = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Proxy::from_env(get).unwrap()
    }

    #[test]
    fn environment_sets_proxy_and_exceptions() {
        let proxy = env(&[
            ("https_proxy", "http://u%40x:p%3A@proxy:8080"),
            ("NO_PROXY", ".corp.example, 10.0.0.1"),
        ]);
        let server = proxy.server_for("relay.example.com", 443).unwrap();
        assert_eq!((server.host(), server.port()), ("proxy", 8080));
        assert_eq!(server.authorization.as_deref(), Some("Basic dUB4OnA6"));
        assert!(proxy.server_for("ci.corp.example", 443).is_none());
        assert!(proxy.server_for("corp.example", 443).is_none());
        assert!(proxy.server_for("10.0.0.1", 443).is_none());
        assert!(proxy.server_for("notcorp.example", 443).is_some());
        assert_eq!(env(&[]), Proxy::Direct);
        assert_eq!(env(&[("HTTPS_PROXY", " ")]), Proxy::Direct);
    }

    #[test]
    fn port_of_proxy_is_default_or_checked() {
        for (url, shown) in [
            ("http://proxy", "proxy:3128"),
            ("proxy:", "proxy:3128"),
            ("me:pw@proxy", "proxy:3128"),
            ("http://me:pw@proxy:8080/", "proxy:8080"),
            ("http://[fd00::1]", "[fd00::1]:3128"),
            ("http://[fd00::1]:65535", "[fd00::1]:65535"),
        ] {
            let Ok(Proxy::Via { server, .. }) = Proxy::from_url("relay.proxy", url) else {
                panic!("{url} is refused");
            };
            assert_eq!(server.to_string(), shown);
        }
        for url in [
            "http://proxy:31280000",
            "proxy:99999",
            "http://proxy:0",
            "http://me:pw@127.0.0.1:65536",
            "http://[fd00::1]:65536/",
        ] {
            let error = Proxy::from_url("HTTPS_PROXY", url).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("from 1 to 65535"), "{url}: {error}");
            assert!(!error.contains("pw"), "{error}");
        }
    }

    #[test]
    fn rejected_login_names_where_it_is_set() {
        let cause = |proxy: &Proxy| {
            let server = proxy.server_for("relay.example.com", 443).unwrap();
            let response = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
            match server.check(response) {
                Err(ProxyError::Status { cause, .. }) => cause,
                other => panic!("{other:?}"),
            }
        };
        let proxy = env(&[("HTTPS_PROXY", "http://me:secret@proxy")]);
        assert_eq!(cause(&proxy), Cause::ProxyVariableLoginRejected);
        let proxy = proxy.with_basic("me", "other");
        assert_eq!(cause(&proxy), Cause::ProxyLoginRejected);
        let proxy = env(&[("HTTPS_PROXY", "http://proxy")]);
        assert_eq!(cause(&proxy), Cause::ProxyLoginMissing);
    }

    #[test]
    fn password_is_in_neither_debug_nor_error() {
        let proxy = env(&[("HTTPS_PROXY", "http://me:secret@proxy")]);
        assert!(!format!("{proxy:?}").contains("secret"));
        let error = Proxy::from_url("relay.proxy", "ftp://me:secret@proxy").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn unencoded_password_is_refused_in_words() {
        for password in [
            "sec/ret", "sec#ret", "sec?ret", "sec@ret", "sec ret", "sec%ret",
        ] {
            let url = format!("http://me:{password}@proxy:3128");
            let error = Proxy::from_url("HTTPS_PROXY", &url)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("HTTPS_PROXY") && error.contains("write %2"),
                "{error}"
            );
            assert!(!error.contains("sec") && !error.contains("ret@"), "{error}");
        }
        let proxy = env(&[("HTTPS_PROXY", "http://me:a:b%2F@proxy")]);
        let server = proxy.server_for("relay.example.com", 443).unwrap();
        assert_eq!(server.host(), "proxy");
        assert_eq!(server.authorization.as_deref(), Some("Basic bWU6YTpiLw=="));
    }
}
