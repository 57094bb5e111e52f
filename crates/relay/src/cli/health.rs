//! `health`: asks the running relay by HTTP whether it works, for health checks of containers.
//!
//! ```text
//! listen.admin, else listen.internal, else listen.public --> GET /healthz, or /readyz with --ready
//! ```
//!
//! The listener for administrators has connections of its own, so it responds while callers use all others. In
//! standby it is open, and the public one is not.

use super::{CliError, output};
use crate::config::{Config, Tls};
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use runtime::pem::{self, Certificate};
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use transport::failure::{self, Diagnosis};
use transport::tls::{TlsSetupError, client_config};

/// Time limit for the whole check. Health checks of containers often have 5 s.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Bytes of a response that are read.
const BODY_MAX_BYTES: usize = 4096;

/// Why the relay does not work, or was not asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthError {
    /// The system chose the port at the relay's start.
    #[error(
        "cannot ask the running relay: {0} has port 0, so its port is not known; set a port, or set listen.admin"
    )]
    UnknownPort(&'static str),
    /// The certificate's file has no name to ask for.
    #[error(
        "cannot ask the running relay by TLS: the certificate in {} has no name; set listen.admin, or use a certificate \
         with a subjectAltName (tls.cert_file)",
        .0.display()
    )]
    Nameless(PathBuf),
    /// The certificate's file cannot be read.
    #[error("cannot ask the running relay by TLS: {0}")]
    Trust(#[from] TlsSetupError),
    /// Nothing accepts the connection.
    #[error("no connection to the relay at {listener}: {why}{hint}", why = failure::connect(.error))]
    Connect {
        listener: String,
        hint: &'static str,
        error: io::Error,
    },
    /// The handshake failed.
    #[error("no TLS connection to the relay at {listener}: {why}")]
    Handshake { listener: String, why: Diagnosis },
    /// The connection ended without a response.
    #[error("the relay at {0} closed the connection without a response")]
    Closed(String),
    /// It responded that it does not work.
    #[error("the relay at {listener} responded to GET {path} with {status}: {text}")]
    Status {
        listener: String,
        path: &'static str,
        status: u16,
        text: String,
    },
    /// It did not respond.
    #[error("the relay at {listener} did not respond to GET {path} within {TIMEOUT:?}")]
    Late {
        listener: String,
        path: &'static str,
    },
}

/// Asks the running relay, and prints its response.
pub(super) fn run(config: &Config, wants_ready: bool) -> Result<(), CliError> {
    let path = match wants_ready {
        true => "/readyz",
        false => "/healthz",
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let said = runtime.block_on(ask(config, path))?;
    output::lines(&[said])
}

/// Returns the listener and its response, such as `127.0.0.1:9090 (listen.admin): ok`.
async fn ask(config: &Config, path: &'static str) -> Result<String, HealthError> {
    let listener = Listener::of(config)?;
    let asking = tokio::time::timeout(TIMEOUT, listener.get(path));
    match asking.await {
        Ok(said) => said.map(|text| format!("{listener}: {text}")),
        Err(_) => Err(HealthError::Late {
            listener: listener.to_string(),
            path,
        }),
    }
}

/// The listener that is asked.
struct Listener<'a> {
    key: &'static str,
    address: SocketAddr,
    tls: Option<&'a Tls>,
}

impl fmt::Display for Listener<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.key)
    }
}

impl<'a> Listener<'a> {
    fn of(config: &'a Config) -> Result<Self, HealthError> {
        let listen = &config.listen;
        let (key, address, tls) = match (listen.admin, listen.internal, listen.public) {
            (Some(admin), _, _) => ("listen.admin", admin, None),
            (None, Some(internal), _) => ("listen.internal", internal, None),
            (None, None, Some(public)) => ("listen.public", public, config.tls.as_ref()),
            // The config is rejected without a listener.
            (None, None, None) => return Err(HealthError::UnknownPort("listen.public")),
        };
        if address.port() == 0 {
            return Err(HealthError::UnknownPort(key));
        }
        Ok(Self {
            key,
            address: reachable(address),
            tls,
        })
    }

    /// Sends the request. Returns the text of a response with status 200.
    async fn get(&self, path: &'static str) -> Result<String, HealthError> {
        // Before the connection, which the relay closes if nothing comes.
        let secure = self.tls.map(trusted).transpose()?;
        let connected = TcpStream::connect(self.address).await;
        let stream = connected.map_err(|error| HealthError::Connect {
            listener: self.to_string(),
            hint: match self.key {
                "listen.public" => {
                    "; a relay in standby refuses connections there: set listen.admin to tell the two apart"
                }
                _ => "",
            },
            error,
        })?;
        let Some((ca_file, name)) = secure else {
            return self.exchange(stream, path).await;
        };
        let tls = client_config(&[ca_file], &[])?;
        let secured = failure::handshake(tls, name, stream, TIMEOUT).await;
        let stream = secured.map_err(|why| HealthError::Handshake {
            listener: self.to_string(),
            why,
        })?;
        self.exchange(stream, path).await
    }

    async fn exchange<S>(&self, stream: S, path: &'static str) -> Result<String, HealthError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let closed = || HealthError::Closed(self.to_string());
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| closed())?;
        // The connection ends with the runtime at the latest.
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(HOST, self.address.to_string())
            .body(Empty::<Bytes>::new())
            .expect("a path and a header field without special characters");
        let response = sender.send_request(request).await.map_err(|_| closed())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX_BYTES).collect();
        // The status is enough: a text that is too long or cut off belongs to another program.
        let body = body.await.map(|body| body.to_bytes()).unwrap_or_default();
        let text = failure::clean(&String::from_utf8_lossy(&body));
        match status {
            StatusCode::OK => Ok(text),
            status => Err(HealthError::Status {
                listener: self.to_string(),
                path,
                status: status.as_u16(),
                text,
            }),
        }
    }
}

/// Returns the address by which this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Returns the file that a client of this relay trusts, and a name in the relay's certificate.
///
/// With files it is the certificate itself: its issuer may be a CA that this machine does not trust. For up to ten
/// seconds after the files were renewed the relay still presents the previous certificate. The check then fails
/// unless the same CA issued both and is known here, and health checks are repeated.
fn trusted(tls: &Tls) -> Result<(PathBuf, ServerName<'static>), HealthError> {
    match tls {
        Tls::SelfSigned { dir, .. } => {
            let name =
                ServerName::try_from("localhost").expect("a name without special characters");
            Ok((dir.join("relay-ca.pem"), name))
        }
        Tls::Files { cert_file, .. } => {
            let name = name_in(cert_file)?;
            let name = name.ok_or_else(|| HealthError::Nameless(cert_file.clone()))?;
            Ok((cert_file.clone(), name))
        }
    }
}

/// Returns the first name in a file's certificates. Those of CAs have none, so their order does not matter.
fn name_in(cert_file: &Path) -> Result<Option<ServerName<'static>>, HealthError> {
    let certificates = pem::certificates(cert_file).map_err(TlsSetupError::from)?;
    let mut names = certificates.all.iter().flat_map(Certificate::names);
    // A wildcard stands for one label.
    let name = |name: String| match name.strip_prefix("*.") {
        Some(rest) => ServerName::try_from(format!("health.{rest}")).ok(),
        None => ServerName::try_from(name).ok(),
    };
    Ok(names.find_map(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::running::{Relay, RunningRelay};
    use crate::testing::TempDir;
    use support::ThrowawayCa;

    /// Starts a relay. Returns it with its config, which has the actual ports.
    async fn started(mut config: Config) -> (RunningRelay, Config) {
        let relay = Relay::start(config.clone()).await.unwrap();
        config.listen.public = relay.public_addr();
        config.listen.internal = relay.internal_addr();
        config.listen.admin = relay.admin_addr();
        (relay, config)
    }

    #[tokio::test]
    async fn each_listener_reports_health() {
        let dir = TempDir::new("health");
        let mut config = Config::local(dir.path());
        config.listen.admin = config.listen.internal;
        let (relay, mut config) = started(config).await;
        for key in ["listen.admin", "listen.internal", "listen.public"] {
            let said = ask(&config, "/healthz").await.unwrap();
            assert!(said.ends_with(&format!("({key}): ok")), "{said}");
            let said = ask(&config, "/readyz").await.unwrap();
            assert!(said.ends_with(&format!("({key}): ready")), "{said}");
            match config.listen.admin.take() {
                Some(_) => {}
                None => config.listen.internal = None,
            }
        }
        relay.shutdown().await;
    }

    #[tokio::test]
    async fn own_certificate_is_trusted_and_no_other() {
        for names in [["relay.example", "192.0.2.1"], ["*.relay.example", "::1"]] {
            let dir = TempDir::new("health-files");
            let ca = ThrowawayCa::new();
            let files = |name: &str| {
                let files = ca.issue(&names).write_to(dir.path(), name);
                Some(Tls::Files {
                    cert_file: files.cert_file,
                    key_file: files.key_file,
                })
            };
            let mut config = Config::local(dir.path());
            config.listen.internal = None;
            config.tls = files("leaf");
            let (relay, mut config) = started(config).await;
            let said = ask(&config, "/healthz").await.unwrap();
            assert!(said.ends_with("(listen.public): ok"), "{said}");
            config.tls = files("other");
            let error = ask(&config, "/healthz").await.unwrap_err();
            assert!(matches!(error, HealthError::Handshake { .. }), "{error}");
            relay.shutdown().await;
        }
    }

    #[tokio::test]
    async fn relay_that_does_not_run_is_unhealthy() {
        let mut config = Config::local(Path::new("data"));
        config.listen.internal = None;
        config.tls = None;
        let error = ask(&config, "/healthz").await.unwrap_err();
        assert!(error.to_string().contains("listen.public has port 0"));
        config.listen.public = Some(support::ports::free_addr());
        let error = ask(&config, "/healthz").await.unwrap_err().to_string();
        assert!(error.contains("connection refused"), "{error}");
        assert!(error.contains("set listen.admin"), "{error}");
    }

    #[tokio::test]
    async fn other_program_on_the_port_is_unhealthy() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut config = Config::local(Path::new("data"));
        for (response, says) in [
            ("", "closed the connection without a response"),
            (
                "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nno\x1b\n",
                "responded to GET /healthz with 404: no",
            ),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            config.listen.internal = listener.local_addr().ok();
            let serving = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                // Unread bytes would reset the connection, and the response with it.
                assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                stream.write_all(response.as_bytes()).await.unwrap();
            });
            let error = ask(&config, "/healthz").await.unwrap_err().to_string();
            assert!(error.ends_with(says), "{error}");
            serving.await.unwrap();
        }
    }

    #[test]
    fn listener_on_all_addresses_is_reached_on_loopback() {
        for (address, reached) in [
            ("0.0.0.0:8443", "127.0.0.1:8443"),
            ("[::]:8443", "[::1]:8443"),
            ("192.0.2.1:8443", "192.0.2.1:8443"),
        ] {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), reached);
        }
    }
}
