//! Socket options of a tunnel's connection.

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
