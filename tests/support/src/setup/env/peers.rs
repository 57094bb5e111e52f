//! Further bridges, and further tenants on the same relay.

use super::TestEnv;
use crate::http::ApiKey;
use crate::setup::{Bridge, BridgeSetup, STEP};
use crate::target::Target;

/// Another tenant on the same relay, whose bridge and endpoint have the same names.
#[derive(Debug)]
pub struct Neighbour {
    /// Its own target.
    pub target: Target,
    /// A key with the role `caller`.
    pub caller: ApiKey,
    /// A key with the role `admin`.
    pub admin: ApiKey,
    _bridge: Bridge,
}

impl TestEnv {
    /// Pairs and starts one more bridge of the tenant, and waits until it is online.
    pub async fn add_bridge(&self, setup: BridgeSetup) -> Bridge {
        let key = self.key("bridge", &[]).await;
        self.add_bridge_with_key(setup, &key).await
    }

    /// Does the same with a given key.
    pub async fn add_bridge_with_key(&self, setup: BridgeSetup, key: &ApiKey) -> Bridge {
        let bridge = self.run_bridge(setup, key).await;
        bridge.process().wait_log("session up", STEP).await;
        self.wait_bridge_online(&bridge).await;
        bridge
    }

    /// Pairs and starts a bridge, without waiting for its session.
    pub async fn run_bridge(&self, setup: BridgeSetup, key: &ApiKey) -> Bridge {
        let mut bridge = Bridge::write(&self.relay, setup, &self.dir);
        bridge.pair(key).await;
        bridge.start();
        bridge
    }

    /// Pairs and starts a bridge named `name`, whose files are in a directory of `label`.
    pub async fn pair_and_run(&self, name: &str, key: &ApiKey, label: &str) -> Bridge {
        let setup = BridgeSetup::new(label).set("bridge.name", name);
        self.run_bridge(setup, key).await
    }

    /// Pairs a bridge, which must fail. Returns the program's standard error.
    pub async fn pair_fails(&self, name: &str, key: &ApiKey) -> String {
        let setup = BridgeSetup::new("refused").set("bridge.name", name);
        let bridge = Bridge::write(&self.relay, setup, &self.dir);
        bridge.try_pair(key).await.failure()
    }

    /// Starts `count` bridges, in tenants of twenty each.
    pub async fn many_bridges(&self, count: usize, label: &str) -> Vec<Bridge> {
        let mut bridges = Vec::with_capacity(count);
        let mut key = None;
        for n in 0..count {
            if n % 20 == 0 {
                let tenant = format!("{label}-{n}");
                self.relay.create_tenant(&tenant).await;
                key = Some(self.relay.create_key(&tenant, "bridge").await);
            }
            let key = key.as_ref().expect("a key of the current tenant");
            let setup = BridgeSetup::new(&format!("{label}-{n}"));
            bridges.push(self.run_bridge(setup, key).await);
        }
        bridges
    }

    /// Starts `count` bridges of a new tenant. Each serves the target as an endpoint of its own name,
    /// `{label}-0` and so on. Returns them with a key to call them.
    pub async fn bridges_to_call(&self, count: usize, label: &str) -> (Vec<Bridge>, ApiKey) {
        self.relay.create_tenant(label).await;
        let key = self.relay.create_key(label, "bridge").await;
        let caller = self.relay.create_key(label, "caller").await;
        let mut bridges = Vec::with_capacity(count);
        for n in 0..count {
            let name = format!("{label}-{n}");
            let setup =
                BridgeSetup::new(&name).endpoint(super::Endpoint::new(&name, self.target.url("/")));
            bridges.push(self.run_bridge(setup, &key).await);
        }
        (bridges, caller)
    }

    /// Returns a copy of the bridge with its data directory, as on a cloned machine, whose endpoint `t`
    /// is another target. Neither it nor the bridge may run meanwhile.
    ///
    /// # Panics
    ///
    /// Panics where the files cannot be copied.
    pub fn copy_of_bridge(&self, target: &Target) -> Bridge {
        let setup = BridgeSetup::new("copy")
            .set("bridge.name", "b1")
            .endpoint(super::Endpoint::new("t", target.url("/")))
            .via(self.proxy().addr());
        let copy = Bridge::write(&self.relay, setup, &self.dir);
        let (from, to) = (self.bridge.data_dir(), copy.data_dir());
        copy_files(from, to).expect("a copy of the data directory");
        copy
    }

    /// Creates a tenant without bridges, and returns a caller's key of it.
    pub async fn tenant_without_bridges(&self) -> ApiKey {
        self.relay.create_tenant("empty").await;
        self.relay.create_key("empty", "caller").await
    }

    /// Creates another tenant with a bridge and an endpoint of the same names, and its own target.
    pub async fn second_tenant(&self, name: &str) -> Neighbour {
        self.relay.create_tenant(name).await;
        let target = Target::start().await;
        let setup = BridgeSetup::new(name)
            .set("bridge.name", "b1")
            .target("t", &target);
        let key = self.relay.create_key(name, "bridge").await;
        let bridge = self.run_bridge(setup, &key).await;
        let admin = self.relay.create_key(name, "admin").await;
        self.relay.wait_bridge(&admin, "b1", true, STEP).await;
        Neighbour {
            target,
            caller: self.relay.create_key(name, "caller").await,
            admin,
            _bridge: bridge,
        }
    }
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    // The directory holds a private key, and the bridge checks its mode.
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())
}
