//! A relay with more and more tenants, and a process of bridges for each step.

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use support::process::command;
use support::setup::{Bridge, BridgeSetup, Endpoint, Relay, RelaySetup};
use support::{ApiKey, Running, TempDir, ThrowawayCa};

use super::ENDPOINT;
use crate::load::Load;

/// Pairing and connecting the bridges of one step.
const CONNECTED: Duration = Duration::from_secs(300);

/// Tenants, each with a bridge that is connected, and a key to call it.
pub(super) struct Tenants {
    /// Dropped before the relay.
    bridges: Vec<Running>,
    relay: Relay,
    dir: TempDir,
    callers: Vec<ApiKey>,
    target: SocketAddr,
}

impl Tenants {
    /// A relay without any.
    pub(super) async fn start(target: SocketAddr) -> Self {
        let dir = TempDir::new("tenants");
        let ca = Arc::new(ThrowawayCa::new());
        let mut relay = Relay::write(RelaySetup::default(), &ca, &dir);
        relay.start().await;
        Self {
            bridges: Vec::new(),
            relay,
            dir,
            callers: Vec::new(),
            target,
        }
    }

    /// Creates tenants up to `count`, and waits until the new bridges are connected.
    pub(super) async fn grow_to(&mut self, count: usize) -> Result<(), Box<dyn Error>> {
        let mut list = String::new();
        for number in self.callers.len()..count {
            let tenant = format!("tenant-{number}");
            self.relay.create_tenant(&tenant).await;
            self.callers
                .push(self.relay.create_key(&tenant, "caller").await);
            let key = self.relay.create_key(&tenant, "bridge").await;
            let setup = BridgeSetup::new(&format!("bridge-{number}"))
                .set("relay.connections", 1)
                .endpoint(Endpoint::new(ENDPOINT, format!("http://{}/", self.target)));
            let bridge = Bridge::write(&self.relay, setup, &self.dir);
            let ApiKey {
                client_id,
                client_secret,
                ..
            } = &key;
            let config = bridge.config().display();
            list.push_str(&format!("{client_id}\t{client_secret}\t{config}\n"));
        }
        let file = self.dir.join(format!("bridges-to-{count}"));
        fs::write(&file, list)?;
        let mut bridges = command("bench-bridges");
        bridges.arg(file);
        let bridges = Running::spawn("bridges", bridges);
        bridges.wait_log("all connected", CONNECTED).await;
        self.bridges.push(bridges);
        Ok(())
    }

    /// Requests to all of them in turn.
    pub(super) fn load(&self) -> Load {
        let path = format!("/v1/endpoints/{ENDPOINT}/small");
        let keys: Vec<String> = self.callers.iter().map(ApiKey::basic).collect();
        Load::get_as(self.relay.internal().addr(), &path, &keys)
    }

    pub(super) fn relay(&self) -> &Running {
        self.relay.process()
    }

    /// The relay, and then all bridges.
    pub(super) fn processes(&self) -> Vec<&Running> {
        std::iter::once(self.relay()).chain(&self.bridges).collect()
    }
}
