//! What the end-to-end tests share: a relay, a bridge behind a flaky proxy, and a target.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod hostile_relay;
mod tunnel;

pub use tunnel::{SilentTunnel, upgrade_request};

use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::setup::{Bridge, BridgeSetup, Builder};
use support::{Answer, ApiKey, Ask, FlakyProxy, Installation, Origin, Running, Target};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;

/// What any one wait may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is something, and returns it.
///
/// # Panics
/// Where there is nothing within this time; `what` is what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    within: Duration,
    ask: impl Fn() -> F,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A request that the target gets, up to the end of its head.
///
/// # Panics
/// Where none comes.
pub async fn asked(own: &TcpListener) -> (TcpStream, String) {
    loop {
        let accepting = tokio::time::timeout(PATIENCE, own.accept()).await;
        let (mut stream, _) = accepting.expect("no request came").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(PATIENCE, stream.read_u8()).await {
                Ok(Ok(byte)) => head.push(byte),
                // A look at the endpoint's health.
                Ok(Err(_)) => break,
                Err(_) => panic!("no more than {}", head.escape_ascii()),
            }
        }
        if !head.is_empty() {
            return (stream, String::from_utf8(head).unwrap());
        }
    }
}

/// The whole product, with a target that the bridge `b1` has as the endpoint `t` and may call.
pub struct World {
    site: Installation,
    /// The target.
    pub target: Target,
    /// The relay's listener without TLS.
    pub api: Origin,
    /// The relay's HTTPS listener.
    pub public: Origin,
    /// The relay's listener for health and metrics.
    pub admin_origin: Origin,
    /// A key of the role `caller`.
    pub caller: ApiKey,
    /// A key of the role `admin`.
    pub admin: ApiKey,
    /// The key that the bridge was paired with.
    pub bridge_key: ApiKey,
}

/// Another tenant on the same relay, with the same names.
pub struct Neighbour {
    /// Its own target.
    pub target: Target,
    /// A key of the role `caller`.
    pub caller: ApiKey,
    /// A key of the role `admin`.
    pub admin: ApiKey,
    _bridge: Bridge,
}

impl World {
    /// As shipped.
    pub async fn start() -> Self {
        Self::start_full("", "").await
    }

    /// With more in the bridge's configuration.
    pub async fn start_with(bridge_toml: &str) -> Self {
        Self::start_full(bridge_toml, "").await
    }

    /// With more in both configurations.
    pub async fn start_full(bridge_toml: &str, relay_toml: &str) -> Self {
        let builder = Installation::builder().bridge_extra(bridge_toml);
        Self::start_from(builder.relay_extra(relay_toml)).await
    }

    /// As the builder says, with the bridge `b1` and its target.
    pub async fn start_from(builder: Builder) -> Self {
        let target = Target::start().await;
        let builder = builder.bridge_name("b1").flaky().target("t", &target);
        let site = builder.start().await;
        Self {
            api: site.relay.internal(),
            public: site.relay.public(),
            admin_origin: site.relay.admin(),
            caller: site.caller.clone(),
            admin: site.admin.clone(),
            bridge_key: site.pairing.clone(),
            site,
            target,
        }
    }

    /// `POST /v1/calls`.
    pub async fn call(&self, call: Value) -> Answer {
        self.api
            .send(Ask::post("/v1/calls").key(&self.caller).json(&call))
            .await
    }

    /// The path of the endpoint `t`.
    pub fn endpoint(&self, path: &str) -> String {
        format!("/v1/endpoints/t{path}")
    }

    /// The target, without a tunnel.
    pub fn target_origin(&self) -> Origin {
        Origin::http(self.target.addr())
    }

    /// The tenant's name.
    pub fn tenant(&self) -> &str {
        &self.site.tenant
    }

    /// What the bridge dials through.
    pub fn proxy(&self) -> &FlakyProxy {
        self.site.proxy()
    }

    /// The relay's forward proxy.
    pub fn forward(&self) -> SocketAddr {
        self.site.relay.proxy()
    }

    /// The relay's process.
    pub fn relay(&self) -> &Running {
        self.site.relay.process()
    }

    /// The bridge's process.
    pub fn bridge(&self) -> &Running {
        self.site.bridge.process()
    }

    /// The root that vouches for the relay.
    pub fn ca_file(&self) -> PathBuf {
        self.site.relay.ca_file().to_owned()
    }

    /// The relay's configuration.
    pub fn relay_config(&self) -> PathBuf {
        self.site.relay.config().to_owned()
    }

    /// Where the bridge keeps its identity and its journal.
    pub fn bridge_data_dir(&self) -> PathBuf {
        self.site.bridge.data_dir().to_owned()
    }

    /// Every file that the relay keeps, but for its TLS key.
    pub fn relay_files(&self) -> Vec<PathBuf> {
        let home = self.site.relay.config().parent().unwrap();
        let entries = std::fs::read_dir(home).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file()).collect()
    }

    /// Runs the relay's command line.
    pub async fn relay_cli(&self, args: &[&str]) -> String {
        self.site.relay.cli(args).await.success()
    }

    /// Runs the relay's command line, which must fail; what it says.
    pub async fn relay_cli_fails(&self, args: &[&str]) -> String {
        self.site.relay.cli(args).await.failure()
    }

    /// Runs the bridge's command line.
    pub async fn bridge_cli(&self, args: &[&str]) -> support::process::Finished {
        self.site.bridge.cli(args).await
    }

    /// The bridge's configuration file.
    pub fn bridge_config(&self) -> PathBuf {
        self.site.bridge.config().to_owned()
    }

    /// A new key of the tenant.
    pub async fn key(&self, role: &str, more: &[&str]) -> ApiKey {
        let tenant = self.tenant();
        self.site.relay.create_key_with(tenant, role, more).await
    }

    /// The relay's metrics, as text.
    pub async fn metrics(&self) -> String {
        self.site.relay.metrics().await
    }

    /// Sessions that are up, as the metrics say.
    pub async fn sessions(&self) -> u64 {
        let metrics = self.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("integration_relay_sessions "));
        let line = line.unwrap_or_else(|| panic!("no sessions in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until so many sessions are up.
    pub async fn wait_sessions(&self, wanted: u64, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let up = self.sessions().await;
            if up == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{up} sessions are up, not {wanted}, after {within:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the bridge is online.
    pub async fn wait_online(&self) {
        self.wait_online_within(PATIENCE).await;
    }

    /// Waits until the bridge is online and an exchange with it works.
    pub async fn wait_online_within(&self, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let ask = Ask::get(self.endpoint("/small")).key(&self.caller);
            let ask = ask.within(Duration::from_secs(2));
            let answered = self.api.try_send(ask).await;
            if answered.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "not online within {within:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Resident memory of relay and bridge, in KiB.
    pub fn rss_kib(&self) -> (u64, u64) {
        (self.relay().rss_kib(), self.bridge().rss_kib())
    }

    /// Starts to record the peaks of both anew.
    pub fn reset_peaks(&self) {
        self.relay().reset_peak_rss();
        self.bridge().reset_peak_rss();
    }

    /// Neither process's peak is more than `max_kib` above what it was `before`.
    ///
    /// # Panics
    /// Where one is.
    pub fn assert_grown_less(&self, before: (u64, u64), max_kib: u64) {
        let peaks = (self.relay().peak_rss_kib(), self.bridge().peak_rss_kib());
        let grown = (
            peaks.0.saturating_sub(before.0),
            peaks.1.saturating_sub(before.1),
        );
        assert!(
            grown.0 < max_kib && grown.1 < max_kib,
            "relay and bridge grew by {grown:?} KiB, from {before:?} to {peaks:?}"
        );
    }

    /// Stops the bridge (SIGTERM) and waits until the relay knows.
    pub async fn stop_bridge(&mut self) {
        self.site.bridge.stop(PATIENCE).await;
        self.wait_sessions(0, PATIENCE).await;
    }

    /// Kills the bridge (SIGKILL) and waits until it is gone.
    pub async fn kill_bridge(&mut self) {
        self.site.bridge.kill9();
        self.bridge().wait_exit(PATIENCE).await;
    }

    /// Starts the bridge with its data.
    pub fn start_bridge(&mut self) {
        self.site.bridge.start();
    }

    /// Kills the relay (SIGKILL) and waits until it is gone.
    pub async fn kill_relay(&mut self) {
        self.site.relay.kill9();
        self.relay().wait_exit(PATIENCE).await;
    }

    /// Starts the relay with its data.
    pub async fn start_relay(&mut self) {
        self.site.relay.start().await;
    }

    /// SIGTERM to the bridge; how it ended.
    pub async fn terminate_bridge(&mut self, within: Duration) -> ExitStatus {
        self.bridge().terminate();
        self.bridge().wait_exit(within).await
    }

    /// SIGTERM to the relay; how it ended.
    pub async fn terminate_relay(&mut self, within: Duration) -> ExitStatus {
        self.relay().terminate();
        self.relay().wait_exit(within).await
    }

    /// Starts more bridges, in tenants of twenty each.
    pub async fn many_bridges(&self, count: usize, label: &str) -> Vec<Bridge> {
        let mut bridges = Vec::with_capacity(count);
        let mut key = None;
        for n in 0..count {
            if n % 20 == 0 {
                let tenant = format!("{label}-{n}");
                self.site.relay.create_tenant(&tenant).await;
                key = Some(self.site.relay.create_key(&tenant, "bridge").await);
            }
            let setup = BridgeSetup::new(&format!("{label}-{n}"));
            let mut bridge = Bridge::write(&self.site.relay, setup, self.site.dir());
            bridge.pair(key.as_ref().unwrap()).await;
            bridge.start();
            bridges.push(bridge);
        }
        bridges
    }

    /// Running bridges of one tenant, each with the target as an endpoint of its own name, and a key
    /// to call them with: `{label}-0` and so on.
    pub async fn bridges_to_call(&self, count: usize, label: &str) -> (Vec<Bridge>, ApiKey) {
        let relay = &self.site.relay;
        relay.create_tenant(label).await;
        let key = relay.create_key(label, "bridge").await;
        let caller = relay.create_key(label, "caller").await;
        let mut bridges = Vec::with_capacity(count);
        for n in 0..count {
            let name = format!("{label}-{n}");
            let endpoint = format!(
                "[[endpoint]]\nname = \"{name}\"\nurl = \"{}\"\n",
                self.target.url("/")
            );
            let setup = BridgeSetup::new(&name).extra(&endpoint);
            let mut bridge = Bridge::write(relay, setup, self.site.dir());
            bridge.pair(&key).await;
            bridge.start();
            bridges.push(bridge);
        }
        (bridges, caller)
    }

    /// A bridge with its own files, paired under `name` with `key` and running.
    pub async fn pair_and_run(&self, name: &str, key: &ApiKey, label: &str) -> Bridge {
        let mut bridge = self.unpaired(name, label);
        bridge.pair(key).await;
        bridge.start();
        bridge
    }

    /// One more bridge of the tenant, with this configuration, connected.
    pub async fn add_bridge(&self, name: &str, key: &ApiKey, toml: &str) -> Bridge {
        let setup = BridgeSetup::new(name).extra(toml);
        let mut bridge = Bridge::write(&self.site.relay, setup, self.site.dir());
        bridge.pair(key).await;
        bridge.start();
        bridge.process().wait_log("session up", PATIENCE).await;
        bridge
    }

    /// The same, dialling through the proxy of the first one.
    pub async fn add_bridge_behind_proxy(&self, name: &str, key: &ApiKey, toml: &str) -> Bridge {
        let setup = BridgeSetup::new(name).extra(toml).via(self.proxy().addr());
        let mut bridge = Bridge::write(&self.site.relay, setup, self.site.dir());
        bridge.pair(key).await;
        bridge.start();
        bridge.process().wait_log("session up", PATIENCE).await;
        bridge
    }

    /// What the bridge's program says when it may not pair.
    pub async fn pair_fails(&self, name: &str, key: &ApiKey) -> String {
        self.unpaired(name, "refused").try_pair(key).await.failure()
    }

    /// A copy of the bridge with its data directory, as of a machine that was cloned, with another
    /// target behind the endpoint `t`. It does not run yet. The bridge must not run meanwhile.
    ///
    /// # Panics
    /// Where the files cannot be copied.
    pub fn copy_of_bridge(&self, target: &Target) -> Bridge {
        let toml = format!(
            "[bridge]\nname = \"b1\"\n[[endpoint]]\nname = \"t\"\nurl = \"{}\"\n",
            target.url("/")
        );
        let setup = BridgeSetup::new("copy")
            .extra(&toml)
            .via(self.proxy().addr());
        let copy = Bridge::write(&self.site.relay, setup, self.site.dir());
        std::fs::create_dir_all(copy.data_dir()).unwrap();
        for entry in std::fs::read_dir(self.bridge_data_dir()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), copy.data_dir().join(entry.file_name())).unwrap();
            }
        }
        // As the bridge wants it: it holds a private key.
        let mode = std::fs::metadata(self.bridge_data_dir())
            .unwrap()
            .permissions();
        std::fs::set_permissions(copy.data_dir(), mode).unwrap();
        copy
    }

    fn unpaired(&self, name: &str, label: &str) -> Bridge {
        let setup = BridgeSetup::new(label);
        let setup = setup.extra(&format!("[bridge]\nname = \"{name}\"\n"));
        Bridge::write(&self.site.relay, setup, self.site.dir())
    }

    /// A caller's key of a tenant that has no bridge.
    pub async fn tenant_without_bridges(&self) -> ApiKey {
        self.site.relay.create_tenant("empty").await;
        self.site.relay.create_key("empty", "caller").await
    }

    /// Another tenant with a bridge and an endpoint of the same names, and a target of its own.
    pub async fn second_tenant(&self, name: &str) -> Neighbour {
        let relay = &self.site.relay;
        relay.create_tenant(name).await;
        let target = Target::start().await;
        let endpoint = format!(
            "[bridge]\nname = \"b1\"\n[[endpoint]]\nname = \"t\"\nurl = \"{}\"\n\
             [[allow]]\nhost = \"127.0.0.1\"\nports = [{}]\nmethods = [\"*\"]\n",
            target.url("/"),
            target.port()
        );
        let setup = BridgeSetup::new(name).extra(&endpoint);
        let mut bridge = Bridge::write(relay, setup, self.site.dir());
        bridge.pair(&relay.create_key(name, "bridge").await).await;
        bridge.start();
        let admin = relay.create_key(name, "admin").await;
        relay.wait_bridge(&admin, "b1", true, PATIENCE).await;
        Neighbour {
            target,
            caller: relay.create_key(name, "caller").await,
            admin,
            _bridge: bridge,
        }
    }

    /// A tunnel that was upgraded and says nothing.
    pub async fn open_silent_tunnel(&self) -> SilentTunnel {
        self.open_silent_tunnel_from([127, 0, 0, 1].into()).await
    }

    /// The same, from another address of loopback.
    pub async fn open_silent_tunnel_from(&self, from: IpAddr) -> SilentTunnel {
        SilentTunnel::open(&self.public, &self.site.ca, from).await
    }

    /// A TCP connection to the relay's HTTPS listener, from an address of loopback.
    pub async fn connect_from(&self, from: IpAddr) -> TcpStream {
        tunnel::connect_from(&self.public, from).await
    }

    /// A connection with TLS to the same listener, from an address of loopback.
    pub async fn tls_from(&self, from: IpAddr) -> TlsStream<TcpStream> {
        tunnel::tls_from(&self.public, &self.site.ca, from).await
    }

    /// A whole ClientHello, as a bridge sends it.
    pub fn client_hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(self.site.ca.client_config(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// A TLS handshake with the relay on a connection, offering these protocols.
    pub async fn handshake(&self, tcp: TcpStream, alpn: &[&str]) -> std::io::Result<()> {
        self.tls(tcp, alpn).await.map(drop)
    }

    /// The TLS stream of such a handshake.
    ///
    /// # Errors
    /// What went wrong with the handshake.
    pub async fn tls(
        &self,
        tcp: TcpStream,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut tls = (*self.site.ca.client_config()).clone();
        tls.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await
    }

    /// The request that such a tunnel begins with.
    pub fn upgrade_ask(&self) -> Ask {
        tunnel::upgrade_ask()
    }
}
