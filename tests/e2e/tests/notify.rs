//! What relay and bridge report to a service manager: a socket of the test in place of systemd's.
#![cfg(target_os = "linux")]

use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use std::{fs, io};
use support::process::{Running, command, finish};
use support::setup::{Bridge, BridgeSetup};
use support::{TIMEOUT, TempDir, TestEnv, eventually, let_time_pass};

/// The time within which a ping is expected.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The service manager: its socket, and the messages that it has received.
struct Manager {
    socket: UnixDatagram,
    path: String,
    messages: Vec<String>,
    _dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = TempDir::new("notify");
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            path: path.to_str().unwrap().to_owned(),
            messages: Vec::new(),
            _dir: dir,
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            self.messages.push(message);
        }
    }

    /// Forgets what has arrived.
    fn clear(&mut self) {
        self.read();
        self.messages.clear();
    }

    /// Stops a process, and forgets what it has sent before.
    async fn pause(&mut self, process: &Running) {
        process.signal("STOP");
        // The signal does its work later, and a ping may be on its way until then.
        let threads = format!("/proc/{}/task", process.pid());
        eventually(TIMEOUT, "a stopped process", async || {
            match fs::read_dir(&threads).unwrap().all(is_stopped) {
                true => Ok(()),
                false => Err("a thread still runs".to_owned()),
            }
        })
        .await;
        self.clear();
    }

    /// Checks that a process that stands still sends nothing, and pings again when it goes on.
    async fn expect_no_ping_while_paused(&mut self, process: &Running) {
        self.pause(process).await;
        let_time_pass(2 * WATCHDOG, "no ping arrives within the watchdog's time").await;
        self.read();
        assert!(self.messages.is_empty(), "{:?}", self.messages);
        process.signal("CONT");
        self.wait("WATCHDOG=1").await;
    }

    /// Waits for a message that contains `part`.
    async fn wait(&mut self, part: &str) {
        eventually(TIMEOUT, part, async || {
            self.read();
            match self.messages.iter().any(|message| message.contains(part)) {
                true => Ok(()),
                false => Err(self.messages.join(" | ")),
            }
        })
        .await;
    }
}

/// Returns whether a thread is stopped: state T in `/proc/PID/task/TID/stat`.
fn is_stopped(thread: io::Result<fs::DirEntry>) -> bool {
    let stat = thread.and_then(|thread| fs::read_to_string(thread.path().join("stat")));
    // The name, in parentheses, may hold anything.
    stat.is_ok_and(|stat| {
        let after_name = stat.rsplit_once(") ");
        after_name.is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

fn watchdog_usec() -> String {
    WATCHDOG.as_micros().to_string()
}

#[tokio::test]
async fn bridge_reports_its_state_to_the_service_manager() {
    let mut manager = Manager::new();
    let mut world = TestEnv::builder()
        .bridge(|bridge| {
            bridge
                .env("NOTIFY_SOCKET", &manager.path)
                .env("WATCHDOG_USEC", &watchdog_usec())
        })
        .start()
        .await;
    manager.wait("READY=1").await;
    manager.wait("STATUS=connected to https://localhost").await;
    manager.wait("WATCHDOG=1").await;
    let process = world.bridge.process();
    manager.expect_no_ping_while_paused(process).await;
    process.signal("HUP");
    manager.wait("RELOADING=1\nMONOTONIC_USEC=").await;
    assert!(world.terminate_bridge(TIMEOUT).await.success());
    manager.wait("STOPPING=1\nEXTEND_TIMEOUT_USEC=").await;
}

#[tokio::test]
async fn bridge_is_ready_without_a_relay() {
    let mut manager = Manager::new();
    let mut world = TestEnv::builder()
        .bridge(|bridge| bridge.env("NOTIFY_SOCKET", &manager.path))
        .start()
        .await;
    world.stop_bridge().await;
    world.kill_relay().await;
    manager.clear();
    world.start_bridge();
    manager.wait("READY=1").await;
    manager.wait("STATUS=offline: ").await;
}

#[tokio::test]
async fn unpaired_bridge_is_ready_without_a_relay() {
    let mut manager = Manager::new();
    let mut world = TestEnv::bare().start().await;
    let unpaired = Bridge::write(&world.relay, BridgeSetup::new("b2"), world.dir());
    world.kill_relay().await;
    let mut run = command("integration-bridge");
    run.args(["run", "--config"])
        .arg(unpaired.config())
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", watchdog_usec())
        .env("BRIDGE_CLIENT_ID", "ibk_1")
        .env("BRIDGE_CLIENT_SECRET", "ibs_1");
    let _running = Running::spawn("bridge b2", run);
    // It retries for as long as it takes, which must exceed neither the time limit of the start nor the watchdog.
    manager.wait("READY=1\nSTATUS=not paired: ").await;
    manager.clear();
    manager.wait("WATCHDOG=1").await;
}

#[tokio::test]
async fn relay_reports_its_state_to_the_service_manager() {
    let mut manager = Manager::new();
    let mut world = TestEnv::builder()
        .relay(|relay| {
            relay
                .env("NOTIFY_SOCKET", &manager.path)
                .env("WATCHDOG_USEC", &watchdog_usec())
        })
        .start()
        .await;
    manager.wait("READY=1").await;
    manager.wait("STATUS=serving: ").await;
    manager.wait("WATCHDOG=1").await;
    manager
        .expect_no_ping_while_paused(world.relay.process())
        .await;
    assert!(world.terminate_relay(TIMEOUT).await.success());
    manager.wait("STOPPING=1\nEXTEND_TIMEOUT_USEC=").await;
}

#[tokio::test]
async fn start_that_needs_a_correction_has_its_exit_code() {
    let world = TestEnv::bare().start().await;
    let unpaired = Bridge::write(&world.relay, BridgeSetup::new("b2"), world.dir());
    let ended = unpaired.cli(&["run"]).await;
    assert_eq!(ended.status.code(), Some(5), "{}", ended.stderr);
    assert!(ended.stderr.contains("is not paired"), "{}", ended.stderr);
    let config = world.dir().write("wrong.toml", "[listen\n");
    let mut serve = command("integration-relay");
    serve.arg("serve").arg("--config").arg(config);
    let ended = finish("serve", serve, TIMEOUT).await;
    assert_eq!(ended.status.code(), Some(5), "{}", ended.stderr);
    // A restart may help: the data directory is in use by the bridge that runs.
    let ended = world.bridge_cli(&["run"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
}
