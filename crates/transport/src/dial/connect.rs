//! Name lookup and TCP connections of a dial.

use super::{ADDRESS_TIMEOUT, DialError};
use crate::race::{STAGGER, race};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream};

/// Resolves a name to addresses, each once, in the resolver's order.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| DialError::Dns {
        host: host.to_owned(),
        detail: error.to_string(),
    })?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        // A resolver may repeat an address, and each repeat could cost another timeout.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// The error of a name that exists and has no address.
pub(super) fn no_address(host: &str) -> DialError {
    DialError::Dns {
        host: host.to_owned(),
        detail: "it has no address".to_owned(),
    }
}

/// Connects to the first address of a name that accepts, within [`ADDRESS_TIMEOUT`] for all of them together.
pub(super) async fn connect_tcp(
    host: &str,
    port: u16,
    source: Option<IpAddr>,
) -> Result<TcpStream, DialError> {
    let addresses = resolve(host, port).await?;
    if addresses.is_empty() {
        return Err(no_address(host));
    }
    let connected = connect_any(addresses, source).await;
    connected.map(|(_, stream)| stream).map_err(|mut errors| {
        // The last failure, as it was the nearest to success.
        errors.pop().unwrap_or_else(|| no_address(host))
    })
}

/// Connects to the first of the addresses that accepts, within [`ADDRESS_TIMEOUT`] for all of them together.
///
/// # Errors
/// The error of each of them.
pub(super) async fn connect_any(
    addresses: Vec<SocketAddr>,
    source: Option<IpAddr>,
) -> Result<(SocketAddr, TcpStream), Vec<DialError>> {
    let time = (STAGGER, ADDRESS_TIMEOUT);
    let racing = race(
        addresses,
        |one| *one,
        time,
        |one| connect_from(*one, source),
    );
    racing.await.map_err(|lost| {
        let silent = lost.silent.into_iter().map(|address| {
            let detail = format!(
                "no response within {ADDRESS_TIMEOUT:?}: does a firewall drop the packets?"
            );
            (address, io::Error::new(io::ErrorKind::TimedOut, detail))
        });
        let failed = lost.failed.into_iter();
        let error = |(address, source): (SocketAddr, io::Error)| DialError::Tcp {
            address: address.to_string(),
            source,
        };
        failed.chain(silent).map(error).collect()
    })
}

async fn connect_from(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect(to).await;
    };
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(to).await
}
