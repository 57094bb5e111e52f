//! The whole product, set up as its administrators would: configuration files, the programs'
//! own command lines, real sockets.
//!
//! ```no_run
//! # async fn example() {
//! use support::{Ask, Installation, Target};
//!
//! let target = Target::start().await;
//! let site = Installation::builder().target("app", &target).start().await;
//! let ask = Ask::get("/v1/endpoints/app/small").key(&site.caller);
//! site.relay.internal().send(ask).await.expect_status(200);
//! # }
//! ```
//!
//! ```text
//! caller ──> relay (public: TLS, internal, admin) <── [FlakyProxy] <── bridge ──> target
//! ```
//!
//! [`Relay`] and [`Bridge`] can also be started by themselves, for tests with several tenants,
//! several bridges, or a configuration that is refused.

mod bridge;
mod config;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use crate::ca::ThrowawayCa;
use crate::flaky::FlakyProxy;
use crate::http::ApiKey;
use crate::link::{Line, Link};
use crate::target::Target;
use crate::tempdir::TempDir;

pub use bridge::{Bridge, BridgeSetup};
pub use relay::{Relay, RelaySetup};

/// What any one step of the set-up may take. Generous: all tests may run at once on a small machine.
const STEP: Duration = Duration::from_secs(30);

/// A relay and a connected bridge of one tenant.
///
/// The fields are dropped in this order: the bridge leaves before its relay, and both before their
/// files.
#[derive(Debug)]
pub struct Installation {
    /// The bridge.
    pub bridge: Bridge,
    /// What the bridge dials through, where the builder was told [`flaky`](Builder::flaky).
    pub proxy: Option<FlakyProxy>,
    /// What the bridge dials through, where the builder was told [`over`](Builder::over).
    pub link: Option<Link>,
    /// The relay.
    pub relay: Relay,
    /// The tenant's name.
    pub tenant: String,
    /// A key with the role `admin` of the tenant.
    pub admin: ApiKey,
    /// A key with the role `caller`.
    pub caller: ApiKey,
    /// The key with the role `bridge` that the bridge was paired with.
    pub pairing: ApiKey,
    /// The root that vouches for the relay, and for HTTPS targets.
    pub ca: Arc<ThrowawayCa>,
    dir: TempDir,
}

/// What an [`Installation`] shall be like.
#[derive(Debug)]
pub struct Builder {
    tenant: String,
    ca: Option<Arc<ThrowawayCa>>,
    flaky: bool,
    line: Option<Line>,
    relay: RelaySetup,
    bridge: BridgeSetup,
}

impl Installation {
    /// Begins with a tenant `acme`, a bridge `berlin` and nothing that it may reach.
    pub fn builder() -> Builder {
        Builder {
            tenant: "acme".to_owned(),
            ca: None,
            flaky: false,
            line: None,
            relay: RelaySetup::default(),
            bridge: BridgeSetup::new("berlin"),
        }
    }

    /// An installation whose bridge has `target` as the endpoint `app` and may call it by URL.
    pub async fn with_target(target: &Target) -> Self {
        Self::builder().target("app", target).start().await
    }

    /// The proxy.
    ///
    /// # Panics
    ///
    /// Where the builder was not told [`flaky`](Builder::flaky).
    pub fn proxy(&self) -> &FlakyProxy {
        self.proxy
            .as_ref()
            .expect("an installation built with `flaky()`")
    }

    /// Pairs and starts one more bridge of the same tenant, and waits until it is online.
    pub async fn add_bridge(&self, setup: BridgeSetup) -> Bridge {
        let key = self.relay.create_key(&self.tenant, "bridge").await;
        let mut bridge = Bridge::write(&self.relay, setup, &self.dir);
        bridge.pair(&key).await;
        bridge.start();
        self.wait_online(&bridge).await;
        bridge
    }

    /// Waits until the relay shows this bridge online.
    ///
    /// # Panics
    ///
    /// Where that takes longer than 30 s.
    pub async fn wait_online(&self, bridge: &Bridge) {
        self.relay
            .wait_bridge(&self.admin, bridge.name(), true, STEP)
            .await;
    }

    /// Kills the bridge (SIGKILL), waits until the relay has noticed, starts it with the same data,
    /// and waits until it is online.
    pub async fn restart_bridge(&mut self) {
        self.bridge.kill9();
        self.relay
            .wait_bridge(&self.admin, self.bridge.name(), false, STEP)
            .await;
        self.bridge.start();
        self.wait_online(&self.bridge).await;
    }

    /// Kills the relay (SIGKILL), starts it with the same data, and waits until the bridge, which
    /// is left alone, is back.
    pub async fn restart_relay(&mut self) {
        self.relay.kill9();
        self.relay.start().await;
        self.wait_online(&self.bridge).await;
    }

    /// Where the files are.
    pub fn dir(&self) -> &TempDir {
        &self.dir
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

    /// Names the bridge.
    pub fn bridge_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.bridge.name);
        self
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

    /// Puts a [`Link`] between the bridge and the relay.
    pub fn over(self, line: Line) -> Self {
        Self {
            line: Some(line),
            ..self
        }
    }

    /// Makes `target` the endpoint `name`, and lets the bridge call it by URL, too.
    pub fn target(self, name: &str, target: &Target) -> Self {
        let port = target.port();
        self.endpoint(name, &target.url("/")).bridge_extra(&format!(
            "[[allow]]\nhost = \"127.0.0.1\"\nports = [{port}]\nmethods = [\"*\"]\n"
        ))
    }

    /// Adds a named endpoint.
    pub fn endpoint(self, name: &str, url: &str) -> Self {
        self.bridge_extra(&format!("[[endpoint]]\nname = {name:?}\nurl = {url:?}\n"))
    }

    /// Merges TOML into the bridge's configuration: see [`BridgeSetup::extra`].
    pub fn bridge_extra(mut self, toml: &str) -> Self {
        self.bridge = self.bridge.extra(toml);
        self
    }

    /// Merges TOML into the relay's configuration: see [`RelaySetup::extra`].
    pub fn relay_extra(mut self, toml: &str) -> Self {
        self.relay = self.relay.extra(toml);
        self
    }

    /// Gives the relay a resolver of its own: see [`RelaySetup::resolver`].
    pub fn relay_resolver(mut self, server: std::net::Ipv4Addr) -> Self {
        self.relay = self.relay.resolver(server);
        self
    }

    /// Opens these files as the standard errors of relay and bridge.
    pub fn stderr(mut self, relay: &std::path::Path, bridge: &std::path::Path) -> Self {
        self.relay = self.relay.stderr(relay);
        self.bridge = self.bridge.stderr(bridge);
        self
    }

    /// Sets a variable in the bridge's environment.
    pub fn bridge_env(mut self, name: &str, value: &str) -> Self {
        self.bridge = self.bridge.env(name, value);
        self
    }

    /// Sets a variable in the relay's environment.
    pub fn relay_env(mut self, name: &str, value: &str) -> Self {
        self.relay = self.relay.env(name, value);
        self
    }

    /// Starts everything and waits until the bridge is online.
    ///
    /// # Panics
    ///
    /// Where any step fails or takes longer than 30 s, with what the processes wrote.
    pub async fn start(self) -> Installation {
        let dir = TempDir::new("site");
        let ca = self.ca.unwrap_or_else(|| Arc::new(ThrowawayCa::new()));
        let mut relay = Relay::write(self.relay, &ca, &dir);
        relay.create_tenant(&self.tenant).await;
        let pairing = relay.create_key(&self.tenant, "bridge").await;
        let admin = relay.create_key(&self.tenant, "admin").await;
        let caller = relay.create_key(&self.tenant, "caller").await;
        relay.start().await;

        let mut setup = self.bridge;
        let mut proxy = None;
        if self.flaky {
            let started = proxy.insert(FlakyProxy::start(relay.public().addr()).await);
            setup = setup.via(started.addr());
        }
        let link = self
            .line
            .map(|line| Link::start(relay.public().addr(), line));
        if let Some(link) = &link {
            setup = setup.via(link.addr());
        }
        let mut bridge = Bridge::write(&relay, setup, &dir);
        bridge.pair(&pairing).await;
        bridge.start();
        let site = Installation {
            bridge,
            proxy,
            link,
            relay,
            tenant: self.tenant,
            admin,
            caller,
            pairing,
            ca,
            dir,
        };
        site.wait_online(&site.bridge).await;
        site
    }
}
