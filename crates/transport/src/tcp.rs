//! Socket options of a tunnel's connection, and what an error of a socket means.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// Unsent bytes that the kernel keeps: one write's worth. More would queue behind the order that
/// the session has decided.
const NOTSENT_LOWAT_BYTES: u32 = 64 * 1024;

/// Below the idle limits of the balancers that cut silently.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Makes the end of a connection one that no peer takes for an orderly one: a reset, once it is dropped.
/// For what was broken off in the middle.
pub fn will_reset(stream: &TcpStream) {
    // A socket that is gone already has ended.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Sets `TCP_NODELAY`, `TCP_NOTSENT_LOWAT` where the system has it, and keepalive probes.
///
/// # Errors
/// When the socket is gone.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

/// Whether a connection failed before it was accepted: nothing is wrong with the listener.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn connection_that_is_gone_is_no_shortage() {
        use rustix::io::Errno;
        let of = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        for gone in [Errno::CONNABORTED, Errno::CONNRESET, Errno::CONNREFUSED] {
            assert!(is_gone(&of(gone)), "{gone:?}");
        }
        for shortage in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(!is_gone(&of(shortage)), "{shortage:?}");
        }
    }
}
