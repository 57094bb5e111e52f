//! A network of namespaces, for faults that loopback cannot show: lost packets, an address that changes,
//! a missing resolver. Needs root and Linux. It is removed when the value is dropped.
//!
//! ```text
//! bridge's namespace                                relay's namespace
//!   10.x.2.1 <── line: loses and delays packets ──>  10.x.2.2  relay.test
//!   10.x.0.2                                         10.x.1.2
//!       └── veth: resolver, targets ── the test ── veth: the relay's API ──┘
//!                             10.x.0.1     10.x.1.1
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process::{Running, command_in};
use crate::tempdir::TempDir;

/// What `ip` looks for namespaces' own files in.
const ETC: &str = "/etc/netns";
/// How long the line may take to be there.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The second numbers of addresses that networks may have.
const SUBNETS: std::ops::Range<u8> = 100..200;

/// The network.
#[derive(Debug)]
pub struct Network {
    /// What carries the packets; killed before the namespaces go.
    line: Option<Running>,
    settings: PathBuf,
    name: String,
    /// The second number of all addresses.
    subnet: u8,
    _dir: TempDir,
}

impl Network {
    /// Makes the namespaces, and a line that loses nothing.
    ///
    /// # Panics
    ///
    /// Panics where the system does not allow it, with the output of `ip`.
    pub async fn start() -> Self {
        let dir = TempDir::new("network");
        let settings = dir.join("settings");
        let subnet = take_subnet();
        let mut network = Self {
            line: None,
            settings,
            name: name(subnet),
            subnet,
            _dir: dir,
        };
        network.set_line(0, Duration::ZERO);
        network.make_namespaces();
        network.make_line().await;
        network
    }

    fn make_namespaces(&self) {
        for (index, namespace) in [(0, self.bridge()), (1, self.relay())] {
            if namespace != self.bridge() {
                ip(&format!("netns add {namespace}"));
            }
            ip(&format!("-n {namespace} link set lo up"));
            let [inside, outside] = ["i", "o"].map(|end| format!("{namespace}{end}"));
            ip(&format!(
                "link add {outside} type veth peer name {inside} netns {namespace}"
            ));
            let [here, there] = [1, 2].map(|host| self.address(index, host));
            ip(&format!("addr add {here}/24 dev {outside}"));
            ip(&format!("link set {outside} up"));
            ip(&format!("-n {namespace} addr add {there}/24 dev {inside}"));
            ip(&format!("-n {namespace} link set {inside} up"));
        }
        for (namespace, resolver, timeout_s) in [
            (self.bridge(), self.outside(), 1),
            // As long as it is by default.
            (self.relay(), self.relay_outside(), 5),
        ] {
            let etc = PathBuf::from(ETC).join(namespace);
            fs::create_dir_all(&etc).expect("root may write there");
            let text = format!("nameserver {resolver}\noptions timeout:{timeout_s} attempts:2\n");
            fs::write(etc.join("resolv.conf"), text).expect("our own directory");
        }
    }

    async fn make_line(&mut self) {
        let bridge = self.bridge();
        let mut command = command_in(Some(&bridge), "network-line");
        command.arg(&self.settings);
        let line = Running::spawn("the line", command);
        line.wait_log("ready", TIMEOUT).await;
        let relay = self.relay();
        ip(&format!("-n {bridge} link set line1 netns {relay}"));
        for (namespace, device, host) in [(&bridge, "line0", 1), (&relay, "line1", 2)] {
            let address = self.address(2, host);
            ip(&format!(
                "-n {namespace} addr add {address}/24 dev {device}"
            ));
            ip(&format!("-n {namespace} link set {device} up"));
        }
        self.line = Some(line);
    }

    /// The bridge's namespace.
    pub fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    /// The relay's namespace.
    pub fn relay(&self) -> String {
        format!("{}r", self.name)
    }

    fn address(&self, network: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet, network, host)
    }

    /// Where the test itself can be reached by the bridge: its resolver, its targets.
    pub fn outside(&self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// Where the test itself can be reached by the relay: its resolver.
    pub fn relay_outside(&self) -> Ipv4Addr {
        self.address(1, 1)
    }

    /// Where the test reaches the relay.
    pub fn relay_api(&self) -> Ipv4Addr {
        self.address(1, 2)
    }

    /// Where the bridge reaches the relay.
    pub fn relay_address(&self) -> Ipv4Addr {
        self.address(2, 2)
    }

    /// Gives the relay another address in place of that one.
    pub fn move_relay(&self) -> Ipv4Addr {
        let (relay, old, new) = (self.relay(), self.relay_address(), self.address(2, 3));
        ip(&format!("-n {relay} addr del {old}/24 dev line1"));
        ip(&format!("-n {relay} addr add {new}/24 dev line1"));
        new
    }

    /// Gives the bridge's machine one more address.
    pub fn add_to_bridge(&self, address: Ipv4Addr) {
        ip(&format!(
            "-n {} addr add {address}/32 dev lo",
            self.bridge()
        ));
    }

    /// Sets the lost packets in a thousand, and the delay in each direction.
    pub fn set_line(&self, lost_permille: u32, delay: Duration) {
        self.write_settings(&format!("{lost_permille} {}", delay.as_millis()));
    }

    /// Loses every packet that is larger than this, in both directions, without a notice.
    pub fn set_packet_max(&self, bytes: usize) {
        self.write_settings(&format!("0 0 {bytes}"));
    }

    fn write_settings(&self, text: &str) {
        // As a whole: it is read all the time.
        let new = self.settings.with_extension("new");
        fs::write(&new, text).expect("our own directory");
        fs::rename(new, &self.settings).expect("our own directory");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.line = None;
        // The bridge's namespace claims the number, so it goes last: the next network may take the number from then on.
        for namespace in [self.relay(), self.bridge()] {
            // At once: the namespace itself goes when the kernel comes to it.
            let _ = try_ip(&format!("link del {namespace}o"));
            let _ = fs::remove_dir_all(PathBuf::from(ETC).join(&namespace));
            let _ = try_ip(&format!("netns del {namespace}"));
        }
        let _ = fs::remove_dir(ETC);
    }
}

/// What the namespaces of a network are called, without their last letter.
fn name(subnet: u8) -> String {
    format!("ibtest{subnet}")
}

/// A number that no other network on this machine has: creating the namespace of that name claims it.
fn take_subnet() -> u8 {
    let free = SUBNETS.into_iter().find(|subnet| {
        let made = try_ip(&format!("netns add {}b", name(*subnet)));
        made.is_ok()
    });
    free.unwrap_or_else(|| {
        let error = try_ip("netns add ibtest");
        panic!("no network of namespaces can be made: {error:?}")
    })
}

/// Runs `ip` with these arguments.
fn ip(words: &str) {
    if let Err(error) = try_ip(words) {
        panic!("ip {words}: {error}");
    }
}

fn try_ip(words: &str) -> Result<(), String> {
    let said = Command::new("ip")
        .args(words.split(' '))
        .output()
        .expect("ip is installed (Debian: iproute2)");
    if said.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&said.stderr).into_owned())
}
