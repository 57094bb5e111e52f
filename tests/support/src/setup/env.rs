//! [`TestEnv`]: a relay, a bridge and a target of one tenant, and what a test does with them.
//!
//! Further bridges and tenants are in `env/peers.rs`, raw connections to the relay in
//! `env/connections.rs`.

mod connections;
mod peers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::{Allow, Bridge, BridgeSetup, Endpoint, Relay, RelaySetup, STEP};
use crate::ca::ThrowawayCa;
use crate::flaky::FlakyProxy;
use crate::http::{Answer, ApiKey, Ask, Origin};
use crate::link::{Line, Link};
use crate::process::Finished;
use crate::target::Target;
use crate::tempdir::TempDir;
use crate::wait::eventually;

pub use peers::Neighbour;

/// A relay and a connected bridge of one tenant, and a target.
///
/// The fields are dropped in this order: the bridge leaves before its relay, and both before their
/// files.
#[derive(Debug)]
pub struct TestEnv {
    /// The bridge.
    pub bridge: Bridge,
    /// The proxy between bridge and relay. [`proxy`](Self::proxy) returns it.
    flaky: Option<FlakyProxy>,
    /// The line that the bridge dials through, where the builder was given [`over`](Builder::over).
    pub link: Option<Link>,
    /// The relay.
    pub relay: Relay,
    /// The target. In a [`bare`](Self::bare) environment the bridge has no route to it.
    pub target: Target,
    /// The relay's listener without TLS.
    pub api: Origin,
    /// The relay's HTTPS listener.
    pub public: Origin,
    /// The relay's listener for health and metrics.
    pub admin_origin: Origin,
    /// A key with the role `caller`.
    pub caller: ApiKey,
    /// A key with the role `admin` of the tenant.
    pub admin: ApiKey,
    /// The key with the role `bridge` that the bridge was paired with.
    pub bridge_key: ApiKey,
    /// The root of the relay's certificate, and of HTTPS targets.
    pub ca: Arc<ThrowawayCa>,
    tenant: String,
    dir: TempDir,
}

/// The parts of a [`TestEnv`] that is still to be started.
#[derive(Debug)]
pub struct Builder {
    tenant: String,
    ca: Option<Arc<ThrowawayCa>>,
    has_target: bool,
    flaky: bool,
    line: Option<Line>,
    relay: RelaySetup,
    bridge: BridgeSetup,
}

impl TestEnv {
    /// Starts the standard environment: tenant `acme`, and bridge `b1`, which dials through a
    /// [`FlakyProxy`] and serves the target as the endpoint `t` and by URL.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder of the standard environment.
    pub fn builder() -> Builder {
        Builder {
            has_target: true,
            ..Self::bare().flaky()
        }
    }

    /// Returns a builder of an environment whose bridge dials directly and has no endpoint and no rule.
    pub fn bare() -> Builder {
        Builder {
            tenant: "acme".to_owned(),
            ca: None,
            has_target: false,
            flaky: false,
            line: None,
            relay: RelaySetup::default(),
            bridge: BridgeSetup::new("b1"),
        }
    }

    /// Returns the proxy between bridge and relay.
    ///
    /// # Panics
    ///
    /// Panics where the bridge dials directly.
    pub fn proxy(&self) -> &FlakyProxy {
        self.flaky
            .as_ref()
            .expect("an environment with a proxy between bridge and relay")
    }

    /// Returns the tenant's name.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Returns the directory of all files.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Returns the path of the endpoint `t`.
    pub fn endpoint(&self, path: &str) -> String {
        format!("/v1/endpoints/t{path}")
    }

    /// Returns the target as an origin, without a tunnel.
    pub fn target_origin(&self) -> Origin {
        Origin::http(self.target.addr())
    }

    /// Returns the address of the relay's forward proxy.
    pub fn forward(&self) -> SocketAddr {
        self.relay.proxy()
    }

    /// Returns the file of the root of the relay's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.relay.ca_file().to_owned()
    }

    /// Returns the relay's config file.
    pub fn relay_config(&self) -> PathBuf {
        self.relay.config().to_owned()
    }

    /// Returns the bridge's config file.
    pub fn bridge_config(&self) -> PathBuf {
        self.bridge.config().to_owned()
    }

    /// Returns the directory where the bridge keeps its identity and its journal.
    pub fn bridge_data_dir(&self) -> PathBuf {
        self.bridge.data_dir().to_owned()
    }

    /// Returns every file next to the relay's config: the config, the certificate, the database.
    pub fn relay_files(&self) -> Vec<PathBuf> {
        let home = self.relay.config().parent().expect("a file has a parent");
        let entries = std::fs::read_dir(home).expect("a directory of our own");
        let files = entries.map(|entry| entry.expect("a directory of our own").path());
        files.filter(|path| path.is_file()).collect()
    }

    /// Sends `POST /v1/calls` as the caller.
    pub async fn call(&self, call: Value) -> Answer {
        let ask = Ask::post("/v1/calls").key(&self.caller).json(&call);
        self.api.send(ask).await
    }

    /// Sends a GET, and returns the JSON of its 200.
    pub async fn get(&self, path: impl Into<String>, key: &ApiKey) -> Value {
        let ask = Ask::get(path).key(key);
        self.api.send(ask).await.expect_status(200).json()
    }

    /// Stores a call for delivery as the caller, and returns its id.
    pub async fn deliver(&self, mut call: Value) -> String {
        call["mode"] = "deliver".into();
        let receipt = self.call(call).await.expect_status(202).json();
        let id = receipt["id"].as_str();
        id.unwrap_or_else(|| panic!("no id in {receipt}"))
            .to_owned()
    }

    /// Returns a stored call of the caller.
    pub async fn stored_call(&self, id: &str) -> Value {
        self.get(format!("/v1/calls/{id}"), &self.caller).await
    }

    /// Waits until a stored call has this state, and returns it.
    pub async fn wait_call(&self, id: &str, state: &str, within: Duration) -> Value {
        eventually(within, &format!("call {id} is {state}"), async || {
            let call = self.stored_call(id).await;
            if call["state"] == state {
                return Ok(call);
            }
            Err(format!("{call:#}"))
        })
        .await
    }

    /// Runs a command of the relay's program, which must succeed. Returns its standard output.
    pub async fn relay_cli(&self, args: &[&str]) -> String {
        self.relay.cli(args).await.success()
    }

    /// Runs a command of the relay's program, which must fail. Returns its standard error.
    pub async fn relay_cli_fails(&self, args: &[&str]) -> String {
        self.relay.cli(args).await.failure()
    }

    /// Runs a command of the bridge's program.
    pub async fn bridge_cli(&self, args: &[&str]) -> Finished {
        self.bridge.cli(args).await
    }

    /// Creates a key of the tenant.
    pub async fn key(&self, role: &str, more: &[&str]) -> ApiKey {
        self.relay.create_key_with(&self.tenant, role, more).await
    }

    /// Creates a key with the role `site-admin`, which belongs to no tenant.
    pub async fn site_admin(&self) -> ApiKey {
        let create = ["key", "create", "--role", "site-admin", "--json"];
        ApiKey::from_json(&self.relay_cli(&create).await)
    }

    /// Returns the relay's metrics, as text.
    pub async fn metrics(&self) -> String {
        self.relay.metrics().await
    }

    /// Returns the number of connected sessions, read from the metrics.
    pub async fn sessions(&self) -> u64 {
        let metrics = self.metrics().await;
        let mut lines = metrics.lines().filter_map(|line| line.split_once(' '));
        let sessions = lines.find(|(name, _)| name.ends_with("integration_relay_sessions"));
        let (_, count) = sessions.unwrap_or_else(|| panic!("no sessions in {metrics}"));
        count.parse().expect("a number of sessions")
    }

    /// Waits until the relay has this number of sessions.
    pub async fn wait_sessions(&self, wanted: u64, within: Duration) {
        eventually(within, &format!("{wanted} sessions"), async || {
            let connected = self.sessions().await;
            if connected == wanted {
                return Ok(());
            }
            Err(format!("{connected} sessions"))
        })
        .await;
    }

    /// Waits until the bridge is online and an exchange with it succeeds.
    pub async fn wait_online(&self) {
        self.wait_online_within(STEP).await;
    }

    /// Waits until the bridge is online and an exchange with it succeeds.
    pub async fn wait_online_within(&self, within: Duration) {
        eventually(within, "an exchange with the bridge", async || {
            let ask = Ask::get(self.endpoint("/small")).key(&self.caller);
            let sending = self.api.try_send(ask.within(Duration::from_secs(2)));
            match sending.await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.status.to_string()),
                Err(failure) => Err(failure.to_string()),
            }
        })
        .await;
    }

    /// Waits until the relay lists this bridge as online.
    pub async fn wait_bridge_online(&self, bridge: &Bridge) {
        let name = bridge.name();
        self.relay.wait_bridge(&self.admin, name, true, STEP).await;
    }

    /// Returns the resident memory of relay and bridge, in KiB.
    pub fn rss_kib(&self) -> (u64, u64) {
        (
            self.relay.process().rss_kib(),
            self.bridge.process().rss_kib(),
        )
    }

    /// Resets the recorded peaks of both programs' memory.
    pub fn reset_peaks(&self) {
        self.relay.process().reset_peak_rss();
        self.bridge.process().reset_peak_rss();
    }

    /// Asserts that neither program's peak is more than `max_kib` above its memory `before`.
    ///
    /// # Panics
    ///
    /// Panics where one is.
    pub fn assert_grown_less(&self, before: (u64, u64), max_kib: u64) {
        let peaks = (
            self.relay.process().peak_rss_kib(),
            self.bridge.process().peak_rss_kib(),
        );
        let grown = (
            peaks.0.saturating_sub(before.0),
            peaks.1.saturating_sub(before.1),
        );
        assert!(
            grown.0 < max_kib && grown.1 < max_kib,
            "relay and bridge grew by {grown:?} KiB, from {before:?} to {peaks:?}"
        );
    }

    /// Stops the bridge (SIGTERM) and waits until the relay has no session.
    pub async fn stop_bridge(&mut self) {
        self.bridge.stop(STEP).await;
        self.wait_sessions(0, STEP).await;
    }

    /// Kills the bridge (SIGKILL) and waits for its end.
    pub async fn kill_bridge(&mut self) {
        self.bridge.kill9();
        self.bridge.process().wait_exit(STEP).await;
    }

    /// Starts the bridge with its data.
    pub fn start_bridge(&mut self) {
        self.bridge.start();
    }

    /// Kills the relay (SIGKILL) and waits for its end.
    pub async fn kill_relay(&mut self) {
        self.relay.kill9();
        self.relay.process().wait_exit(STEP).await;
    }

    /// Starts the relay with its data.
    pub async fn start_relay(&mut self) {
        self.relay.start().await;
    }

    /// Sends SIGTERM to the bridge and returns its exit status.
    pub async fn terminate_bridge(&mut self, within: Duration) -> ExitStatus {
        self.bridge.process().terminate_in_order().await;
        self.bridge.process().wait_exit(within).await
    }

    /// Sends SIGTERM to the relay and returns its exit status.
    pub async fn terminate_relay(&mut self, within: Duration) -> ExitStatus {
        self.relay.process().terminate_in_order().await;
        self.relay.process().wait_exit(within).await
    }
}

impl Builder {
    /// Names the tenant.
    pub fn tenant(self, name: &str) -> Self {
        Self {
            tenant: name.to_owned(),
            ..self
        }
    }

    /// Uses this root, so that a target's certificate can come from the same one.
    pub fn ca(self, ca: &Arc<ThrowawayCa>) -> Self {
        Self {
            ca: Some(Arc::clone(ca)),
            ..self
        }
    }

    /// Puts a [`FlakyProxy`] between the bridge and the relay.
    pub fn flaky(self) -> Self {
        Self {
            flaky: true,
            ..self
        }
    }

    /// Lets the bridge dial the relay directly.
    pub fn direct(self) -> Self {
        Self {
            flaky: false,
            ..self
        }
    }

    /// Puts a [`Link`] between the bridge and the relay.
    pub fn over(self, line: Line) -> Self {
        Self {
            line: Some(line),
            ..self
        }
    }

    /// Changes the relay's setup.
    pub fn relay(mut self, change: impl FnOnce(RelaySetup) -> RelaySetup) -> Self {
        self.relay = change(self.relay);
        self
    }

    /// Changes the bridge's setup.
    pub fn bridge(mut self, change: impl FnOnce(BridgeSetup) -> BridgeSetup) -> Self {
        self.bridge = change(self.bridge);
        self
    }

    /// Adds an endpoint of the bridge.
    pub fn endpoint(self, endpoint: Endpoint) -> Self {
        self.bridge(|bridge| bridge.endpoint(endpoint))
    }

    /// Adds a rule of the bridge.
    pub fn allow(self, rule: Allow) -> Self {
        self.bridge(|bridge| bridge.allow(rule))
    }

    /// Starts everything and waits until the bridge is online.
    ///
    /// # Panics
    ///
    /// Panics where any step fails or takes longer than 30 s, with the processes' output.
    pub async fn start(self) -> TestEnv {
        let dir = TempDir::new("env");
        let ca = self.ca.unwrap_or_else(|| Arc::new(ThrowawayCa::new()));
        let mut relay = Relay::write(self.relay, &ca, &dir);
        relay.create_tenant(&self.tenant).await;
        let bridge_key = relay.create_key(&self.tenant, "bridge").await;
        let admin = relay.create_key(&self.tenant, "admin").await;
        let caller = relay.create_key(&self.tenant, "caller").await;
        relay.start().await;

        let target = Target::start().await;
        let mut setup = self.bridge;
        if self.has_target {
            setup = setup.target("t", &target);
        }
        let mut flaky = None;
        if self.flaky {
            let started = flaky.insert(FlakyProxy::start(relay.public().addr()).await);
            setup = setup.via(started.addr());
        }
        let link = self
            .line
            .map(|line| Link::start(relay.public().addr(), line));
        if let Some(link) = &link {
            setup = setup.via(link.addr());
        }
        let mut bridge = Bridge::write(&relay, setup, &dir);
        bridge.pair(&bridge_key).await;
        bridge.start();
        let env = TestEnv {
            bridge,
            flaky,
            link,
            api: relay.internal(),
            public: relay.public(),
            admin_origin: relay.admin(),
            relay,
            target,
            caller,
            admin,
            bridge_key,
            ca,
            tenant: self.tenant,
            dir,
        };
        env.wait_bridge_online(&env.bridge).await;
        env
    }
}
