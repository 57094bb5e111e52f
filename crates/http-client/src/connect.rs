//! Connects to an approved address: TCP, through the proxy for targets where there is one, then TLS by the
//! URL's name.

use crate::connection::Connection;
use crate::http2;
use crate::reuse::PoolKey;
use crate::stream::Stream;
use crate::tls::TlsConfigs;
use policy::Approved;
use protocol::{Code, Failure};
use runtime::shortage;
use rustls::pki_types::ServerName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;
use transport::dial::{Proxy, ProxyError};
use transport::failure::{self, Cause, Diagnosis};

/// Connects to the first address that accepts, within `limit` for all of them together.
///
/// # Errors
/// `target_refused`, `target_tls`, and `overloaded` where this machine has no descriptor, port or memory
/// left; nothing was dispatched.
pub(crate) async fn connect(
    approved: Vec<Approved>,
    (key, http2): (&PoolKey, bool),
    tls: &TlsConfigs,
    proxy: &Proxy,
    limit: Duration,
) -> Result<(Approved, Connection), Failure> {
    let (approved, stream) = tcp(approved, proxy, limit).await?;
    let mut is_http2 = false;
    let stream = if key.is_tls {
        let secured = secure(stream, (key, http2), tls, limit).await?;
        is_http2 = secured.get_ref().1.alpn_protocol() == Some(http2::ALPN);
        Stream::Tls(Box::new(secured))
    } else {
        Stream::Plain(stream)
    };
    let end = (key.clone(), approved.socket_addr());
    let connection = Connection::begin(stream, end, is_http2).await;
    let connection = connection.map_err(|_| {
        let why = Diagnosis::from(Cause::ClosedBeforeResponse);
        Failure::not_dispatched(Code::TargetRefused, why.with_remedy())
    })?;
    Ok((approved, connection))
}

/// Connects a plain TCP stream to the first address that accepts, for raw streams.
pub(crate) async fn raw_stream(
    approved: Vec<Approved>,
    proxy: &Proxy,
    limit: Duration,
) -> Result<TcpStream, Failure> {
    let (_, stream) = tcp(approved, proxy, limit).await?;
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

/// Connects to one approved address, through the proxy or directly.
async fn reach(approved: &Approved, proxy: &Proxy) -> Result<TcpStream, ConnectError> {
    let address = approved.socket_addr();
    let host = approved.target().host().to_string();
    // The proxy gets the address that was approved. By name, it would resolve the name again, and could
    // reach an address that the policy never saw.
    let through = proxy
        .through(&host, address.port(), &address.to_string())
        .await;
    match through {
        Some(Ok(stream)) => Ok(stream),
        Some(Err(error)) => Err(ConnectError::of_proxy(address, &error)),
        None => TcpStream::connect(address).await.map_err(|error| {
            let detail = failure::connect(&error).with_remedy();
            ConnectError::of(address, &error, detail)
        }),
    }
}

/// Returns the failure for a shortage of this machine: nothing was dispatched, and a retry may succeed.
fn overloaded(detail: impl std::fmt::Display) -> Failure {
    let detail = format!("this machine is short of file descriptors, ports or memory: {detail}");
    Failure::not_dispatched(Code::Overloaded, detail)
}

async fn tcp(
    approved: Vec<Approved>,
    proxy: &Proxy,
    limit: Duration,
) -> Result<(Approved, TcpStream), Failure> {
    let deadline = Instant::now() + limit;
    let count = approved.len();
    let mut last = String::from("it has no address that may be used");
    let mut shortage = None;
    for (index, approved) in approved.into_iter().enumerate() {
        let address = approved.socket_addr();
        // The time left is divided evenly, so that one silent address does not use all of it.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(count - index).map_or(left, |rest| left / rest);
        // One after the other, not in parallel: the addresses share the time, and a target gets one connection.
        last = match timeout(share, reach(&approved, proxy)).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%address, %error, "cannot set TCP_NODELAY");
                }
                return Ok((approved, stream));
            }
            Ok(Err(error)) => {
                let detail = format!("{address}: {}", error.detail);
                if error.is_shortage {
                    shortage = Some(detail.clone());
                }
                detail
            }
            Err(_) => {
                let within = format!("no connection within {:.1} s", share.as_secs_f64());
                let why = Diagnosis::new(Cause::ConnectTimeout, within);
                format!("{address}: {}", why.with_remedy())
            }
        };
    }
    if let Some(shortage) = shortage {
        // The address that could not be tried might have accepted: the target is not to blame.
        return Err(overloaded(shortage));
    }
    let detail = format!("cannot connect to the target: {last}");
    Err(Failure::not_dispatched(Code::TargetRefused, detail))
}

async fn secure(
    stream: TcpStream,
    (key, http2): (&PoolKey, bool),
    tls: &TlsConfigs,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
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
                failed(Diagnosis::from(Cause::TlsLocal).with_remedy())
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
