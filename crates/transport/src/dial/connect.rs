//! Name lookup and TCP connections of a dial.

use super::{ADDRESS_TIMEOUT, DialError};
use crate::failure::{self, Cause};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Resolves a name to addresses, each once, in the resolver's order.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| DialError::Dns {
        host: host.to_owned(),
        why: failure::lookup(&error),
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
        why: Cause::NameWithoutAddress.into(),
    }
}

/// Connects to the first address of a name that accepts.
pub(super) async fn connect_tcp(
    host: &str,
    port: u16,
    source: Option<IpAddr>,
) -> Result<TcpStream, DialError> {
    let mut last = no_address(host);
    for address in resolve(host, port).await? {
        match connect_to(address, source).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to one address, within [`ADDRESS_TIMEOUT`].
pub(super) async fn connect_to(
    address: SocketAddr,
    source: Option<IpAddr>,
) -> Result<TcpStream, DialError> {
    let error = match timeout(ADDRESS_TIMEOUT, connect_from(address, source)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(error)) => error,
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    Err(DialError::Tcp {
        address: address.to_string(),
        error,
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
