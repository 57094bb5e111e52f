//! The protocol by which a service reports its state to systemd (`sd_notify(3)`).
//!
//! ```text
//! program --READY=1, STATUS=..., WATCHDOG=1, RELOADING=1, STOPPING=1--> datagram socket in NOTIFY_SOCKET
//! ```
//!
//! Each method sends one datagram, and does nothing where no service manager listens: in a terminal, in a container. On
//! Windows, `ready` alone has a meaning. No method blocks, because the callers are tasks. While the queue of the service
//! manager is full, READY, STOPPING and pings are tried again for a moment. What then cannot be sent is dropped: no program
//! stops for want of an observer.
//!
//! The variables stay in the environment. The commands `run` and `serve` start no other program that could inherit them,
//! and the units have `NotifyAccess=main`.
//!
//! [`crate::liveness`] decides whether a ping is sent.

use crate::peer_text::PeerText;
use std::ffi::OsString;
use std::time::Duration;

#[cfg(unix)]
mod socket;

/// Other systems have no such socket.
#[cfg(not(unix))]
mod socket {
    /// The service manager's socket: there is none.
    #[derive(Debug, Clone)]
    pub(super) enum Socket {}

    impl Socket {
        pub(super) fn named(_: &std::ffi::OsStr) -> Option<Self> {
            None
        }

        pub(super) fn send(&self, _: &str) -> bool {
            match *self {}
        }

        pub(super) fn deliver(&self, _: &str) {
            match *self {}
        }
    }
}

use socket::Socket;

/// Names the socket.
const SOCKET_ENV: &str = "NOTIFY_SOCKET";

/// Microseconds within which the service manager expects a ping.
const WATCHDOG_ENV: &str = "WATCHDOG_USEC";

/// The process that the watchdog is for. Another one has inherited the variables.
const WATCHDOG_PID_ENV: &str = "WATCHDOG_PID";

/// Characters of a status line.
const STATUS_MAX_CHARS: usize = 300;

/// How often [`ServiceManager::follow`] compares the status line.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);

/// How often [`ServiceManager::starting`] asks for more time.
const EXTEND_INTERVAL: Duration = Duration::from_secs(30);

/// The time that it asks for: several requests may be lost.
const EXTEND_BY: Duration = Duration::from_secs(120);

/// The service manager that has started this process, or none.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager {
    socket: Option<Socket>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Returns the service manager that this process's environment names.
    pub fn of_environment() -> Self {
        Self::of_variables(|name| std::env::var_os(name), std::process::id())
    }

    fn of_variables(get: impl Fn(&str) -> Option<OsString>, pid: u32) -> Self {
        let Some(socket) = get(SOCKET_ENV).and_then(|name| Socket::named(&name)) else {
            return Self::default();
        };
        let number = |name: &str| get(name)?.to_str()?.parse::<u64>().ok();
        let is_own = number(WATCHDOG_PID_ENV).is_none_or(|of| of == u64::from(pid));
        let watchdog = number(WATCHDOG_ENV).filter(|usec| is_own && *usec > 0);
        Self {
            socket: Some(socket),
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Returns one with this socket and watchdog.
    #[cfg(all(test, unix))]
    pub(crate) fn with_watchdog(path: &std::path::Path, watchdog: Duration) -> Self {
        Self {
            socket: Socket::named(path.as_os_str()),
            watchdog: Some(watchdog),
        }
    }

    /// Returns the time within which a ping is expected, if there is a watchdog.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Reports that the program has started, with its status line.
    pub fn ready(&self, status: &str) {
        // Windows has its own protocol, which needs no more than this.
        #[cfg(windows)]
        if let Some(control) = bridge_windows::service::Control::current() {
            control.running();
        }
        self.deliver(&format!("READY=1\n{}", status_line(status)));
    }

    /// Asks for more time to start, again and again. Without that, the service manager kills the process after its time
    /// limit, and the next start would begin a long change of the database from its beginning. Returns at once without a service manager,
    /// and otherwise never: drop it when the program is ready.
    pub async fn starting(self) {
        if self.socket.is_none() {
            return;
        }
        let usec = EXTEND_BY.as_micros();
        loop {
            tokio::time::sleep(EXTEND_INTERVAL).await;
            self.send(&format!("EXTEND_TIMEOUT_USEC={usec}"));
        }
    }

    /// Reports the status line, which `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.send(&status_line(status));
    }

    /// Reports that the program is alive. Returns whether it should be tried again soon: the queue of the service manager
    /// is full.
    pub fn ping(&self) -> bool {
        self.send("WATCHDOG=1")
    }

    /// Reports a reload that begins, and its end when the value is dropped.
    pub fn reloading(&self) -> Reloading<'_> {
        // Some versions of systemd accept a reload with its time alone.
        let usec = monotonic_usec().map(|usec| format!("\nMONOTONIC_USEC={usec}"));
        self.send(&format!("RELOADING=1{}", usec.unwrap_or_default()));
        Reloading(self)
    }

    /// Reports that the program stops, and that this may take so long. Without that, the service manager kills the
    /// process after its own time limit.
    pub fn stopping(&self, limit: Duration) {
        let usec = limit.as_micros();
        self.deliver(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={usec}"));
    }

    /// Reports the status line whenever it has changed. Returns at once without a service manager, and otherwise never.
    /// Cancel safe.
    pub async fn follow(self, line: impl Fn() -> String) {
        if self.socket.is_none() {
            return;
        }
        let mut last = String::new();
        loop {
            let now = line();
            if now != last {
                self.status(&now);
                last = now;
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }

    /// Sends a message that may be lost. Returns whether it may succeed later.
    fn send(&self, message: &str) -> bool {
        let socket = self.socket.as_ref();
        socket.is_some_and(|socket| socket.send(message))
    }

    /// Sends a message for which the service manager waits.
    fn deliver(&self, message: &str) {
        if let Some(socket) = &self.socket {
            socket.deliver(message);
        }
    }
}

/// A reload that runs.
#[derive(Debug)]
#[must_use = "dropping it reports the end of the reload"]
pub struct Reloading<'a>(&'a ServiceManager);

impl Drop for Reloading<'_> {
    fn drop(&mut self) {
        self.0.deliver("READY=1");
    }
}

/// Returns a message with the status line. A peer may have chosen a part of it, and a line break would begin another
/// message.
fn status_line(status: &str) -> String {
    format!("STATUS={}", PeerText::bounded(status, STATUS_MAX_CHARS))
}

/// Returns the monotonic clock in microseconds, as systemd reads it.
#[cfg(unix)]
fn monotonic_usec() -> Option<u64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).ok()?;
    let micros = u64::try_from(now.tv_nsec).ok()? / 1_000;
    Some(seconds * 1_000_000 + micros)
}

#[cfg(not(unix))]
fn monotonic_usec() -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::net::UnixDatagram;

    fn variables(socket: &str, pid: &str) -> ServiceManager {
        let get = |name: &str| match name {
            SOCKET_ENV => Some(socket.into()),
            WATCHDOG_ENV => Some("3000000".into()),
            WATCHDOG_PID_ENV => Some(pid.into()),
            _ => None,
        };
        ServiceManager::of_variables(get, 7)
    }

    fn next(receiver: &UnixDatagram) -> String {
        receiver
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut buffer = [0; 1024];
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn messages_have_the_form_of_the_protocol() {
        let dir = TempDir::new("notify");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let manager = variables(path.to_str().unwrap(), "7");
        assert_eq!(manager.watchdog(), Some(Duration::from_secs(3)));
        manager.ready("starting");
        assert_eq!(next(&receiver), "READY=1\nSTATUS=starting");
        manager.ping();
        assert_eq!(next(&receiver), "WATCHDOG=1");
        drop(manager.reloading());
        let reloading = next(&receiver);
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert_eq!(next(&receiver), "READY=1");
        manager.stopping(Duration::from_secs(40));
        assert_eq!(next(&receiver), "STOPPING=1\nEXTEND_TIMEOUT_USEC=40000000");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_queue_blocks_no_caller() {
        let dir = TempDir::new("notify-full");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let manager = variables(path.to_str().unwrap(), "7");
        let is_full = (0..1_000_000).any(|_| manager.ping());
        assert!(is_full);
        manager.status("lost");
        manager.ready("kept");
        // Its thread waits for room, and this one did not.
        loop {
            match next(&receiver).as_str() {
                "WATCHDOG=1" => {}
                kept => {
                    assert_eq!(kept, "READY=1\nSTATUS=kept");
                    break;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_start_asks_for_more_time() {
        let dir = TempDir::new("notify-start");
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let manager = variables(path.to_str().unwrap(), "7");
        let starting = tokio::spawn(manager.starting());
        tokio::time::sleep(EXTEND_INTERVAL * 5 / 2).await;
        starting.abort();
        for _ in 0..2 {
            assert_eq!(next(&receiver), "EXTEND_TIMEOUT_USEC=120000000");
        }
        receiver.set_nonblocking(true).unwrap();
        receiver.recv(&mut [0; 64]).unwrap_err();
        // Nothing waits without a service manager.
        ServiceManager::default().starting().await;
    }

    #[test]
    fn status_of_a_peer_stays_one_line() {
        let line = status_line("offline: the relay said \"a\nSTOPPING=1\"");
        assert_eq!(line.lines().count(), 1, "{line}");
        let long = status_line(&"x".repeat(5000));
        assert!(long.chars().count() <= STATUS_MAX_CHARS + "STATUS=...".len());
    }

    #[test]
    fn watchdog_of_another_process_is_ignored() {
        assert_eq!(variables("/none/notify", "8").watchdog(), None);
        // A socket that does not exist is no reason to fail.
        variables("/none/notify", "7").ping();
        let none = ServiceManager::of_variables(|_| None, 7);
        none.ready("");
        assert!(none.socket.is_none());
        assert_eq!(none.watchdog(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_socket_is_reached() {
        use std::os::linux::net::SocketAddrExt as _;
        use std::os::unix::net::SocketAddr;
        let name = format!("integration-bridge-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        variables(&format!("@{name}"), "7").ping();
        assert_eq!(next(&receiver), "WATCHDOG=1");
    }
}
