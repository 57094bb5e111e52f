//! Connects to an approved address: TCP, through the proxy for targets where there is one, then TLS by the
//! URL's name. Several addresses are tried in parallel ([`transport::race`]).

use crate::connection::Connection;
use crate::http2;
use crate::proxied::{Absolute, Method, Purpose, TargetProxy};
use crate::reuse::PoolKey;
use crate::stream::Stream;
use crate::tls::TlsConfigs;
use policy::Approved;
use protocol::{Code, Failure};
use runtime::shortage;
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use transport::dial::ProxyError;
use transport::failure::{self, Cause, Diagnosis};
use transport::race::{STAGGER, STAGGER_PROXIED, race};
use transport::read_ahead::ClientStream;

/// Longest reason of an unusable certificate or key file that a caller gets, in bytes.
const SETUP_MAX_BYTES: usize = 512;

/// Connects to the first address that accepts, within `limit` for all of them together.
///
/// # Errors
/// `target_refused`, `target_tls`, and `overloaded` where this machine has no descriptor, port or memory
/// left; nothing was dispatched.
pub(crate) async fn connect(
    approved: Vec<Approved>,
    (key, http2, title_case): (&PoolKey, bool, bool),
    tls: &TlsConfigs,
    (proxy, is_upgrade): (&TargetProxy, bool),
    limit: Duration,
) -> Result<(Approved, Connection), Failure> {
    let purpose = match (key.is_tls, is_upgrade) {
        (true, _) => Purpose::Bytes,
        (false, true) => Purpose::Upgrade,
        (false, false) => Purpose::Http,
    };
    let has_others = approved.len() > 1;
    let (approved, (stream, absolute)) = tcp(approved, (proxy, purpose), limit).await?;
    let mut is_http2 = false;
    let stream = if key.is_tls {
        let secured = secure(stream, (key, http2), tls, limit).await?;
        is_http2 = secured.get_ref().1.alpn_protocol() == Some(http2::ALPN);
        Stream::Tls(Box::new(secured))
    } else {
        Stream::Plain(stream)
    };
    let end = (key.clone(), approved.socket_addr());
    let connection = Connection::begin(stream, end, is_http2, title_case).await;
    let mut connection = connection.map_err(|_| {
        let why = Diagnosis::from(Cause::ClosedBeforeResponse);
        Failure::not_dispatched(Code::TargetRefused, why.with_remedy())
    })?;
    if let Some(absolute) = absolute {
        connection.set_absolute(absolute, has_others);
    }
    Ok((approved, connection))
}

/// Connects a plain TCP stream to the first address that accepts, for raw streams.
pub(crate) async fn raw_stream(
    approved: Vec<Approved>,
    proxy: &TargetProxy,
    limit: Duration,
) -> Result<TcpStream, Failure> {
    let (_, (stream, _)) = tcp(approved, (proxy, Purpose::Bytes), limit).await?;
    Ok(stream)
}

/// Why an address was not reached.
struct ConnectError {
    detail: String,
    /// This machine lacks a resource: the error states nothing about the target.
    is_shortage: bool,
}

impl ConnectError {
    fn of(address: SocketAddr, error: &io::Error, detail: String) -> Self {
        let is_shortage = shortage::is_connect_shortage(error, || has_route_to(address.ip()));
        Self {
            detail,
            is_shortage,
        }
    }

    fn of_proxy(address: SocketAddr, error: &ProxyError) -> Self {
        let detail = match error.diagnosis() {
            Some(why) => format!("{error}; {}", why.remedy()),
            None => error.to_string(),
        };
        match error.io_error() {
            Some(error) => Self::of(address, error, detail),
            None => Self {
                detail,
                is_shortage: false,
            },
        }
    }
}

/// Returns whether this machine has an address of that family. Without an IPv6 address, a connection fails
/// with EADDRNOTAVAIL, which is also the error of a machine without a free port.
fn has_route_to(address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else {
        return true;
    };
    if_addrs::get_if_addrs().is_ok_and(|all| {
        all.iter().any(|interface| match interface.ip() {
            IpAddr::V6(own) => own.is_loopback() == address.is_loopback(),
            IpAddr::V4(_) => false,
        })
    })
}

/// A stream to a target; or to the proxy, with how requests are written on it.
type Reached = (TcpStream, Option<Arc<Absolute>>);

/// Connects to one approved address, through the proxy or directly.
async fn reach(
    approved: Approved,
    (proxy, purpose): (&TargetProxy, Purpose),
    limit: Duration,
) -> Result<Reached, ConnectError> {
    let address = approved.socket_addr();
    let Some(server) = proxy.server_for(&approved) else {
        return match TcpStream::connect(address).await {
            Ok(stream) => Ok((stream, None)),
            Err(error) => {
                let detail = failure::connect(&error).with_remedy();
                Err(ConnectError::of(address, &error, detail))
            }
        };
    };
    let failed = |error: ProxyError| ConnectError::of_proxy(address, &error);
    let method = proxy.method(&approved, purpose);
    if method != Method::Absolute {
        // The proxy gets the address that was approved. By name, it would resolve the name again, and could
        // reach an address that the policy never saw.
        match server.tunnel(&address.to_string(), limit).await {
            Ok(stream) => return Ok((stream, None)),
            Err(error) if method == Method::TunnelFirst && error.refuses_connect() => {
                proxy.note_refused(&approved);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let (stream, login) = server.open_for_urls(limit).await.map_err(failed)?;
    let authority = proxy.authority(&approved);
    let absolute = Absolute::new(server.clone(), authority, login);
    Ok((stream, Some(Arc::new(absolute))))
}

/// Returns the failure for a shortage of this machine: nothing was dispatched, and a retry may succeed.
fn overloaded(detail: impl std::fmt::Display) -> Failure {
    let detail = format!("this machine is short of file descriptors, ports or memory: {detail}");
    Failure::not_dispatched(Code::Overloaded, detail)
}

async fn tcp(
    approved: Vec<Approved>,
    (proxy, purpose): (&TargetProxy, Purpose),
    limit: Duration,
) -> Result<(Approved, Reached), Failure> {
    let is_proxied = approved
        .first()
        .is_some_and(|first| proxy.server_for(first).is_some());
    let stagger = if is_proxied { STAGGER_PROXIED } else { STAGGER };
    let racing = race(
        approved,
        Approved::socket_addr,
        (stagger, limit),
        |approved| reach(approved.clone(), (proxy, purpose), limit),
    );
    let lost = match racing.await {
        Ok((approved, reached)) => {
            if let Err(error) = reached.0.set_nodelay(true) {
                let address = approved.socket_addr();
                tracing::debug!(%address, %error, "cannot set TCP_NODELAY");
            }
            return Ok((approved, reached));
        }
        Err(lost) => lost,
    };
    let failed = lost.failed.iter();
    let mut details: Vec<String> = failed
        .map(|(address, error)| format!("{address}: {}", error.detail))
        .collect();
    // The address that could not be tried might have accepted: the target is not to blame.
    let shortage = lost.failed.iter().position(|(_, error)| error.is_shortage);
    if let Some(shortage) = shortage.and_then(|at| details.get(at)) {
        return Err(overloaded(shortage));
    }
    let silent = lost.silent.iter();
    details.extend(silent.map(|address| {
        let within = format!("no connection within {:.1} s", limit.as_secs_f64());
        let why = Diagnosis::new(Cause::ConnectTimeout, within);
        format!("{address}: {}", why.with_remedy())
    }));
    // The owner of a DNS zone chooses how many there are.
    let last = details
        .pop()
        .unwrap_or_else(|| "it has no address that may be used".into());
    let detail = format!("cannot connect to the target: {last}");
    Err(Failure::not_dispatched(Code::TargetRefused, detail))
}

async fn secure(
    stream: TcpStream,
    (key, http2): (&PoolKey, bool),
    tls: &TlsConfigs,
    limit: Duration,
) -> Result<ClientStream, Failure> {
    let failed = |detail: String| {
        let detail = format!("TLS with {} failed: {detail}", key.authority());
        Failure::not_dispatched(Code::TargetTls, detail)
    };
    let config = tls
        .get(key.ca_file.as_ref(), key.client_cert.as_ref(), http2)
        .await
        .map_err(|error| match shortage::is_in(&error) {
            true => overloaded(&error),
            false => {
                // Callers need no path of this machine's files; the log has it.
                tracing::warn!(target = key.authority(), error = %error, "TLS cannot be set up");
                failed(
                    Diagnosis::explained(
                        Cause::TlsLocal,
                        &error.without_directory(),
                        SETUP_MAX_BYTES,
                    )
                    .with_remedy(),
                )
            }
        })?;
    // The name comes from the URL, not from the address: that is what the certificate must match.
    let name = match &key.host {
        policy::Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| failed("the host is not a name that a certificate can have".into()))?,
        policy::Host::Addr(address) => ServerName::IpAddress((*address).into()),
    };
    let secured = failure::handshake(config, name, stream, limit).await;
    secured.map_err(|why| failed(why.with_remedy()))
}
