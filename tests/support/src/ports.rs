//! Ports that no other process takes before the test listens on them.
//!
//! Binding port 0 and closing the socket returns a port that any outgoing connection may take in the next
//! moment. A test that restarts a server on that port would fail now and then. So these ports lie below the
//! kernel's ephemeral range, and a lock on a file reserves each of them until the process ends.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, process};

/// Below it live the well-known services.
const PORT_FIRST: u16 = 10_000;
/// The ephemeral range's usual start on Linux, where the system does not tell.
const EPHEMERAL_FIRST_USUAL: u16 = 32_768;

/// Ports of this process, with the locks that hold them.
static HELD: Mutex<Option<HashMap<u16, File>>> = Mutex::new(None);

/// A free port on 127.0.0.1, this process's own until it ends.
pub fn free() -> u16 {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    let held = held.get_or_insert_default();
    let span = ephemeral_first().saturating_sub(PORT_FIRST).max(1_000);
    let start = somewhere() % u32::from(span);
    (0..u32::from(span))
        .map(|step| {
            PORT_FIRST + u16::try_from((start + step) % u32::from(span)).expect("below a u16")
        })
        .find(|port| {
            if held.contains_key(port) {
                return false;
            }
            match hold(*port) {
                Some(lock) => held.insert(*port, lock).is_none(),
                None => false,
            }
        })
        .unwrap_or_else(|| panic!("no free port among {span} from {PORT_FIRST} on"))
}

/// [`free`], as an address on loopback.
pub fn free_addr() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free()).into()
}

/// Takes the lock of `port` if it is free.
fn hold(port: u16) -> Option<File> {
    let dir = env::temp_dir().join("integration-bridge-ports");
    fs::create_dir_all(&dir).ok()?;
    let lock = File::create(dir.join(port.to_string())).ok()?;
    lock.try_lock().ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(lock)
}

/// The first port that the kernel may give to an outgoing connection.
fn ephemeral_first() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(EPHEMERAL_FIRST_USUAL)
}

/// A different number for each process and moment, so that test processes do not queue up at the
/// same first port.
fn somewhere() -> u32 {
    let moment = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    process::id().wrapping_mul(2_654_435_761) ^ (moment >> 8)
}

#[cfg(test)]
mod tests {
    use super::{PORT_FIRST, ephemeral_first, free};
    use std::collections::HashSet;

    #[test]
    fn ports_are_unique_and_below_ephemeral() {
        let ports: HashSet<u16> = (0..50).map(|_| free()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| *port >= PORT_FIRST));
        assert!(ports.iter().all(|port| *port < ephemeral_first()));
    }
}
