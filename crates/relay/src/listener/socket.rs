//! Sockets: an address is reserved first, and listened on when this process serves.

use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel queues while the process is busy: the burst when thousands of bridges
/// reconnect.
const BACKLOG: u32 = 4096;

/// Opens a socket and listens on it.
///
/// # Errors
/// When the address is not available; names it.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    listen(reserve(address)?)
}

/// Listens on a reserved socket.
///
/// # Errors
/// When another process listens there meanwhile; names the address.
pub(crate) fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    let address = socket.local_addr();
    socket.listen(BACKLOG).map_err(|error| {
        let address = address.map_or_else(|_| "its address".to_owned(), |at| at.to_string());
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {}", words(&error)),
        )
    })
}

/// Returns why an address is not available, and the remedy.
fn words(error: &io::Error) -> String {
    let words = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program uses this port: stop it, or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: choose one of its own, or 0.0.0.0 for all of them"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not use this port: choose one from 1024 on, or give the program CAP_NET_BIND_SERVICE"
        }
        _ => return error.to_string(),
    };
    words.to_owned()
}

/// Returns the error with the config key that names the address.
pub(crate) fn of_key(key: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{error} ({key})"))
}

/// Reserves an address without listening: the kernel refuses connections at once, and clients try another
/// address.
///
/// # Errors
/// When the address is not available; names it.
pub(crate) fn reserve(address: SocketAddr) -> io::Result<TcpSocket> {
    let open = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restarted process must get the port while connections of the old one are in TIME_WAIT. On
        // Windows the option would let two processes share the port.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    open().map_err(|error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {}", words(&error)),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_in_use_names_key_and_remedy() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        let text = of_key("listen.admin", &error).to_string();
        assert_eq!(
            text,
            format!(
                "cannot listen on {address}: another program uses this port: stop it, or choose another port \
                 (listen.admin)"
            )
        );
    }
}
