//! Relay, bridge and target, set up one after the other as their administrators do it.

use crate::caller::{self, Key, Outcome, SetupError};
use crate::cli::Args;
use crate::target;
use integration_bridge::{ApiKey, Bridge, RunningBridge, Secret};
use integration_relay::config::Config as RelayConfig;
use integration_relay::storage::{Existing, Role, StorageError};
use integration_relay::{Relay, RunningRelay};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use toml::{Table, Value};
use transport::dial::RelayUrl;

const TENANT: &str = "quickstart";
const BRIDGE: &str = "quickstart-bridge";
const ENDPOINT: &str = "sample";

/// Ports that `--allow HOST` opens.
const USUAL_PORTS: [i64; 4] = [80, 443, 8080, 8443];

/// Pause before the sample call is retried.
const ROUTE_POLL: Duration = Duration::from_millis(20);

/// Time for the bridge to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Where everything is kept. A temporary directory is removed at the end.
struct DataDir {
    path: PathBuf,
    is_temporary: bool,
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if self.is_temporary {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The running demonstration.
pub(crate) struct Demo {
    bridge: RunningBridge,
    relay: RunningRelay,
    relay_url: RelayUrl,
    target: SocketAddr,
    caller: Key,
    admin: Key,
    ca_file: PathBuf,
    endpoints: Vec<String>,
    allowed: Vec<String>,
    data_dir: DataDir,
}

impl Demo {
    /// Starts everything.
    ///
    /// # Errors
    /// [`SetupError`].
    pub(crate) async fn start(args: &Args) -> Result<Self, SetupError> {
        let data_dir = data_dir(args.data_dir.as_deref())?;
        // First: the bridge's policy needs its port.
        let target = target::start().await?;
        let mut config = RelayConfig::local(&data_dir.path.join("relay"));
        config.listen.public = Some(SocketAddr::from(([127, 0, 0, 1], args.port)));
        // The relay first: pairing needs its address, its CA and a key.
        let relay = Relay::start(config).await?;
        // With `--data-dir` the tenant may exist from an earlier run.
        match relay.create_tenant(TENANT).await {
            Ok(_) | Err(StorageError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let pairing = new_key(&relay, Role::Bridge).await?;
        let caller = new_key(&relay, Role::Caller).await?;
        let admin = new_key(&relay, Role::Admin).await?;
        let address = relay
            .public_addr()
            .ok_or("the relay has no public listener")?;
        let port = address.port();
        let ca_file = relay.ca_path().ok_or("the relay made no CA")?.to_owned();
        let relay_url: RelayUrl = format!("https://localhost:{port}").parse()?;

        let toml = bridge_toml(args, &relay_url, &ca_file, target)?;
        let file = data_dir.path.join("bridge.toml");
        // Written although it is parsed from memory: a user can read it, and give it to the bridge's commands.
        std::fs::write(&file, &toml)?;
        let config = integration_bridge::Config::parse(&toml, &file)?;
        let api_key = ApiKey {
            client_id: pairing.client_id.clone(),
            client_secret: Secret::new(&pairing.client_secret),
        };
        integration_bridge::pair(&config, &api_key).await?;
        let bridge = Bridge::start(config)?;
        if !bridge.wait_connected(CONNECT_TIMEOUT).await {
            return Err(format!("the bridge did not connect within {CONNECT_TIMEOUT:?}").into());
        }
        let mut endpoints = vec![ENDPOINT.to_owned()];
        endpoints.extend(args.endpoint.iter().map(|(name, _)| name.clone()));
        let mut allowed = vec![format!("http://{target}, the sample target")];
        allowed.extend(
            args.endpoint
                .iter()
                .map(|(name, url)| format!("{url}, as the endpoint {name}")),
        );
        allowed.extend(args.allow.iter().cloned());
        Ok(Self {
            bridge,
            relay,
            relay_url,
            target,
            caller,
            admin,
            ca_file,
            endpoints,
            allowed,
            data_dir,
        })
    }

    /// Sends the sample call.
    ///
    /// # Errors
    /// [`SetupError`] when the relay cannot be reached.
    pub(crate) async fn call(&self) -> Result<Outcome, SetupError> {
        let call = json!({
            "url": self.hook_url(),
            "headers": {"content-type": "application/json"},
            "body": "{\"event\":\"defect closed\"}",
        });
        let start = Instant::now();
        loop {
            let outcome = caller::call(&self.relay_url, &self.ca_file, &self.caller, &call).await?;
            // The bridge knows that it is connected a moment before the relay routes calls to it. Nothing was sent
            // then, so the retry is safe.
            let is_early = outcome.document["code"] == "bridge_offline";
            if !is_early || start.elapsed() > CONNECT_TIMEOUT {
                return Ok(outcome);
            }
            tokio::time::sleep(ROUTE_POLL).await;
        }
    }

    /// Stops bridge and relay, in this order: a bridge that loses its relay would log it and reconnect.
    pub(crate) async fn stop(self) {
        self.bridge.shutdown().await;
        self.relay.shutdown().await;
    }

    pub(crate) fn relay_url(&self) -> String {
        self.relay_url.to_string()
    }

    pub(crate) fn internal_url(&self) -> Option<String> {
        let addr = self.relay.internal_addr()?;
        Some(format!("http://{addr}"))
    }

    pub(crate) fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir.path
    }

    pub(crate) fn tenant(&self) -> &str {
        TENANT
    }

    pub(crate) fn bridge_name(&self) -> &str {
        BRIDGE
    }

    pub(crate) fn target_url(&self) -> String {
        format!("http://{}", self.target)
    }

    pub(crate) fn hook_url(&self) -> String {
        format!("http://{}/hooks/defect", self.target)
    }

    pub(crate) fn caller(&self) -> &Key {
        &self.caller
    }

    pub(crate) fn admin(&self) -> &Key {
        &self.admin
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) fn allowed(&self) -> &[String] {
        &self.allowed
    }
}

fn data_dir(given: Option<&Path>) -> Result<DataDir, SetupError> {
    let (path, is_temporary) = match given {
        Some(path) => (path.to_owned(), false),
        None => {
            let name = format!("integration-bridge-quickstart-{}", std::process::id());
            (std::env::temp_dir().join(name), true)
        }
    };
    for dir in [path.clone(), path.join("relay")] {
        std::fs::create_dir_all(&dir)
            .map_err(|error| format!("cannot create the directory {}: {error}", dir.display()))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(DataDir {
        path: std::path::absolute(path)?,
        is_temporary,
    })
}

/// Returns the bridge's config, as its administrator would write it.
fn bridge_toml(
    args: &Args,
    relay: &RelayUrl,
    ca_file: &Path,
    target: SocketAddr,
) -> Result<String, SetupError> {
    let text = |text: &str| Value::String(text.to_owned());
    let path = |path: &Path| {
        path.to_str()
            .map(text)
            .ok_or("the path of the data directory is not UTF-8")
    };
    let mut relay_section = Table::new();
    relay_section.insert("url".into(), text(&relay.to_string()));
    relay_section.insert("ca_file".into(), path(ca_file)?);
    // The relay is on loopback, where a proxy of the environment cannot reach it.
    relay_section.insert("proxy".into(), text("none"));
    let mut bridge = Table::new();
    bridge.insert("name".into(), text(BRIDGE));
    bridge.insert("data_dir".into(), text("bridge"));
    let mut endpoints = vec![endpoint(ENDPOINT, &format!("http://{target}/"))];
    endpoints.extend(args.endpoint.iter().map(|(name, url)| endpoint(name, url)));
    let mut rules = vec![allow("127.0.0.1", &[target.port().into()])];
    rules.extend(args.allow.iter().map(|pattern| pattern_rule(pattern)));
    let mut config = Table::new();
    config.insert("relay".into(), relay_section.into());
    config.insert("bridge".into(), bridge.into());
    config.insert("endpoint".into(), endpoints.into());
    config.insert("allow".into(), rules.into());
    Ok(config.to_string())
}

fn endpoint(name: &str, url: &str) -> Table {
    let mut table = Table::new();
    table.insert("name".into(), name.into());
    table.insert("url".into(), url.into());
    table
}

fn allow(host: &str, ports: &[i64]) -> Table {
    let mut table = Table::new();
    table.insert("host".into(), host.into());
    table.insert("ports".into(), ports.to_vec().into());
    table.insert("methods".into(), vec!["*"].into());
    table
}

/// `HOST` or `HOST:PORT`; an IPv6 address with a port stands in brackets.
fn pattern_rule(pattern: &str) -> Table {
    match pattern.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => allow(host.trim_matches(['[', ']']), &[port]),
            Err(_) => allow(pattern, &USUAL_PORTS),
        },
        _ => allow(pattern, &USUAL_PORTS),
    }
}

async fn new_key(relay: &RunningRelay, role: Role) -> Result<Key, SetupError> {
    let existing = match role {
        // An earlier run with the same directory may have paired under the same name.
        Role::Bridge => Existing::Replace,
        _ => Existing::Refuse,
    };
    let created = relay.create_key(TENANT, role, "quickstart", existing);
    let (key, secret) = created.await?;
    Ok(Key {
        client_id: key.client_id.to_string(),
        client_secret: secret.reveal().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_pattern_may_have_a_port() {
        for (pattern, host, ports) in [
            ("ci.corp.example", "ci.corp.example", &USUAL_PORTS[..]),
            ("ci.corp.example:9000", "ci.corp.example", &[9000]),
            ("*.corp.example", "*.corp.example", &USUAL_PORTS),
            ("10.0.0.0/8", "10.0.0.0/8", &USUAL_PORTS),
            ("fd00::1", "fd00::1", &USUAL_PORTS),
            ("[fd00::1]:9000", "fd00::1", &[9000]),
        ] {
            let rule = pattern_rule(pattern);
            assert_eq!(rule["host"].as_str(), Some(host));
            let found: Vec<_> = rule["ports"].as_array().into_iter().flatten().collect();
            assert_eq!(found.len(), ports.len(), "{pattern}");
        }
    }
}
