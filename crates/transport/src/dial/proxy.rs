//! HTTP proxies between the bridge and the relay: CONNECT, with Basic where a user is given.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use std::fmt;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer to CONNECT; what is longer is a web page.
const ANSWER_MAX_BYTES: usize = 16 * 1024;

/// Header fields of that answer.
const ANSWER_HEADERS_MAX: usize = 64;

/// Why a proxy is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The setting cannot be understood. Its text may hold a password, so it is not repeated.
    #[error("the proxy setting {name} is not a URL like http://proxy.example.com:3128")]
    Setting {
        /// Where it stands.
        name: String,
    },
    /// Another status than 200.
    #[error("the proxy {proxy} answered CONNECT with {status}{hint}")]
    Status {
        /// The proxy.
        proxy: String,
        /// Its status.
        status: u16,
        /// What that may mean.
        hint: &'static str,
    },
    /// It does not speak HTTP.
    #[error("the proxy {proxy} did not answer CONNECT with HTTP")]
    NotHttp {
        /// The proxy.
        proxy: String,
    },
    /// The connection to it failed.
    #[error("the connection to the proxy {proxy} failed: {source}")]
    Io {
        /// The proxy.
        proxy: String,
        /// What the system said.
        source: io::Error,
    },
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyServer {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyServer({}:{})", self.host, self.port)
    }
}

/// Which proxy to use for which host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// None.
    Direct,
    /// This one, but for the hosts in the list (`NO_PROXY`).
    Via {
        /// The proxy.
        server: ProxyServer,
        /// Names (with all below them), addresses, `host:port`, or `*`.
        except: Vec<String>,
    },
}

impl Proxy {
    /// From a URL like `http://proxy.example.com:3128`.
    ///
    /// # Errors
    /// [`ProxyError::Setting`], which does not repeat the URL.
    pub fn from_url(name: &str, url: &str) -> Result<Self, ProxyError> {
        Ok(Self::Via {
            server: ProxyServer::parse(name, url)?,
            except: Vec::new(),
        })
    }

    /// From `HTTPS_PROXY` (or `ALL_PROXY`) and `NO_PROXY`, in capitals or not.
    ///
    /// # Errors
    /// [`ProxyError::Setting`] when the variable is set and cannot be understood.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let set = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let found = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
            .iter()
            .find_map(|name| Some((*name, set(name)?)));
        let Some((name, url)) = found else {
            return Ok(Self::Direct);
        };
        let except = set("NO_PROXY")
            .or_else(|| set("no_proxy"))
            .unwrap_or_default();
        Ok(Self::Via {
            server: ProxyServer::parse(name, url.trim())?,
            except: except
                .split(',')
                .map(|item| item.trim().trim_start_matches('.').to_ascii_lowercase())
                .filter(|item| !item.is_empty())
                .collect(),
        })
    }

    /// With a user and a password, in place of those of its URL.
    #[must_use]
    pub fn with_basic(mut self, user: &str, password: &str) -> Self {
        if let Self::Via { server, .. } = &mut self {
            let pair = STANDARD.encode(format!("{user}:{password}"));
            server.authorization = Some(format!("Basic {pair}"));
        }
        self
    }

    /// A connection to `authority` (`host:port`), through the proxy if it is to be used for that host and
    /// port; `None` where it is not, and nothing was done.
    ///
    /// # Errors
    /// [`ProxyError`] when the proxy cannot be reached or does not let it through.
    pub async fn through(
        &self,
        host: &str,
        port: u16,
        authority: &str,
    ) -> Option<Result<TcpStream, ProxyError>> {
        let server = self.for_host(host, port)?;
        let connected = TcpStream::connect((server.host.as_str(), server.port)).await;
        let stream = match connected {
            Ok(stream) => stream,
            Err(source) => {
                let proxy = server.name();
                return Some(Err(ProxyError::Io { proxy, source }));
            }
        };
        Some(server.connect(stream, authority).await)
    }

    /// The proxy for a host, if it is to be used there.
    pub(super) fn for_host(&self, host: &str, port: u16) -> Option<&ProxyServer> {
        match self {
            Self::Direct => None,
            Self::Via { server, except } => {
                let with_port = format!("{host}:{port}");
                let spared = except.iter().any(|item| {
                    item == "*"
                        || item == host
                        || *item == with_port
                        || host
                            .strip_suffix(item.trim_start_matches("*."))
                            .is_some_and(|rest| rest.ends_with('.'))
                });
                (!spared).then_some(server)
            }
        }
    }
}

impl ProxyServer {
    fn parse(name: &str, url: &str) -> Result<Self, ProxyError> {
        let wrong = || ProxyError::Setting {
            name: name.to_owned(),
        };
        let url = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong());
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
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(3128),
            authorization,
        })
    }

    /// Its name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Asks for a way through to `authority` (RFC 9110, 9.3.6).
    pub(super) async fn connect(
        &self,
        mut stream: TcpStream,
        authority: &str,
    ) -> Result<TcpStream, ProxyError> {
        let failed = |source| ProxyError::Io {
            proxy: self.name(),
            source,
        };
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        let mut answer = Vec::with_capacity(512);
        loop {
            // Byte by byte at the end: what follows the answer belongs to the tunnel.
            let byte = stream.read_u8().await.map_err(failed)?;
            answer.push(byte);
            if answer.ends_with(b"\r\n\r\n") || answer.ends_with(b"\n\n") {
                return self.judge(&answer).map(|()| stream);
            }
            if answer.len() >= ANSWER_MAX_BYTES {
                return Err(ProxyError::NotHttp { proxy: self.name() });
            }
        }
    }

    fn judge(&self, answer: &[u8]) -> Result<(), ProxyError> {
        let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(answer);
        let Some(status) = response.code.filter(|_| parsed.is_ok()) else {
            return Err(ProxyError::NotHttp { proxy: self.name() });
        };
        // It names no scheme that is spoken here.
        let mut schemes = response
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case("proxy-authenticate"));
        let is_basic = |value: &[u8]| value.to_ascii_lowercase().starts_with(b"basic");
        let wants_other =
            schemes.clone().next().is_some() && !schemes.any(|field| is_basic(field.value));
        let hint = match status {
            200..=299 => return Ok(()),
            407 if self.authorization.is_some() => ": it does not accept the user and password",
            407 if wants_other => {
                ": it wants NTLM or Negotiate, which are not spoken here; have Basic allowed for this machine"
            }
            407 => {
                ": it wants a user and password: proxy_credential, or http://user:password@host:port in \
                 HTTPS_PROXY"
            }
            403 => ": it does not allow connections to that host and port",
            502..=504 => ": it could not reach that host",
            _ => "",
        };
        Err(ProxyError::Status {
            proxy: self.name(),
            status,
            hint,
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
    fn the_environment_names_a_proxy_and_who_is_spared() {
        let proxy = env(&[
            ("https_proxy", "http://u%40x:p%3A@proxy:8080"),
            ("NO_PROXY", ".corp.example, 10.0.0.1"),
        ]);
        let server = proxy.for_host("relay.example.com", 443).unwrap();
        assert_eq!((server.host(), server.port()), ("proxy", 8080));
        assert_eq!(server.authorization.as_deref(), Some("Basic dUB4OnA6"));
        assert!(proxy.for_host("ci.corp.example", 443).is_none());
        assert!(proxy.for_host("corp.example", 443).is_none());
        assert!(proxy.for_host("10.0.0.1", 443).is_none());
        assert!(proxy.for_host("notcorp.example", 443).is_some());
        assert_eq!(env(&[]), Proxy::Direct);
        assert_eq!(env(&[("HTTPS_PROXY", " ")]), Proxy::Direct);
    }

    #[test]
    fn neither_debug_nor_an_error_shows_the_password() {
        let proxy = env(&[("HTTPS_PROXY", "http://me:secret@proxy")]);
        assert!(!format!("{proxy:?}").contains("secret"));
        let error = Proxy::from_url("relay.proxy", "ftp://me:secret@proxy").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
