//! Socket options of a tunnel's connection, and the meaning of socket errors.

use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::net::TcpStream;

/// Unsent bytes that the kernel buffers: one write. More would leave in their old order, after the session has
/// already decided on a new one.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOTSENT_LOWAT_BYTES: u32 = 64 * 1024;

/// Idle time before a keepalive probe, below the idle limits of balancers that drop connections silently.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Time between two keepalive probes.
#[cfg(windows)]
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// A write of up to this many bytes is copied into one buffer: that costs less than a vectored write in the
/// kernel.
pub const SMALL_BYTES: usize = 2 * 1024;

/// Makes a connection end with a TCP reset when it is dropped, so that the peer cannot mistake an
/// aborted stream for a complete one.
pub fn will_reset(stream: &TcpStream) {
    // An error means that the socket is closed already, so there is nothing left to reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Undoes [`will_reset`]: the connection ends in order.
pub fn will_end_in_order(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(None);
}

/// Sets `TCP_NODELAY`, `TCP_NOTSENT_LOWAT` where the system has it, and keepalive probes.
///
/// # Errors
/// When the socket is closed.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    // Windows takes both values together, and has no default for the second one.
    #[cfg(windows)]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)
}

/// Joins the buffers of a write, if they are small.
pub fn joined<'a>(small: &'a mut [u8; SMALL_BYTES], bufs: &[IoSlice<'_>]) -> Option<&'a [u8]> {
    let mut len = 0;
    for buf in bufs {
        small.get_mut(len..len + buf.len())?.copy_from_slice(buf);
        len += buf.len();
    }
    Some(&small[..len])
}

/// Whether a connection failed before it was accepted, so that the listener itself is fine.
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
    fn aborted_connection_is_no_shortage() {
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
