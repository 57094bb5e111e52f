//! The service manager's socket: a path, or on Linux an abstract name, which begins with `@`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

/// How often a thread tries again to send what must arrive, should the receiver's queue be full.
const RETRIES: u32 = 50;

/// Pause before each of these tries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The address that messages are sent to.
#[derive(Debug, Clone)]
pub(super) struct Socket(SocketAddr);

impl Socket {
    /// Returns the socket of this name; `None` for a name of another kind.
    pub(super) fn named(name: &OsStr) -> Option<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => abstract_address(name),
            [b'/', ..] => SocketAddr::from_pathname(name),
            _ => return None,
        };
        address.ok().map(Self)
    }

    /// Sends a message. Never blocks. Returns whether it may succeed later: the receiver's queue is full.
    pub(super) fn send(&self, message: &str) -> bool {
        // A new socket each time: the service manager may have been replaced, and messages are rare.
        let sent = || -> io::Result<usize> {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            socket.send_to_addr(message.as_bytes(), &self.0)
        };
        match sent() {
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, "cannot report to the service manager");
                error.kind() == io::ErrorKind::WouldBlock
            }
        }
    }

    /// Sends a message for which the service manager waits. Never blocks: while the receiver's queue is full, a thread of
    /// its own tries again.
    pub(super) fn deliver(&self, message: &str) {
        if !self.send(message) {
            return;
        }
        let (socket, message) = (self.clone(), message.to_owned());
        let retrying = thread::Builder::new().name("notify".to_owned());
        let spawned = retrying.spawn(move || {
            for _ in 0..RETRIES {
                thread::sleep(RETRY_PAUSE);
                if !socket.send(&message) {
                    return;
                }
            }
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "cannot report to the service manager");
        }
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}
