//! The relay: its files, its command line, its process.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use toml::Table;

use super::{STEP, config};
use crate::ca::ThrowawayCa;
use crate::http::{ApiKey, Ask, Origin};
use crate::ports;
use crate::process::{Finished, Running, command_in, command_with_resolver, finish};
use crate::tempdir::TempDir;
use crate::wait::eventually;

const PROGRAM: &str = "integration-relay";
/// The names in its certificate.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "relay.test"];

/// The config and the surroundings of a relay.
#[derive(Debug, Default)]
pub struct RelaySetup {
    config: Table,
    env: Vec<(String, String)>,
    namespace: Option<String>,
    resolver: Option<Ipv4Addr>,
    stderr: Option<PathBuf>,
}

impl RelaySetup {
    /// Merges TOML: entries of lists are added to those that are there, other values replace them.
    pub fn toml(mut self, toml: &str) -> Self {
        config::merge(&mut self.config, config::parse(toml));
        self
    }

    /// Sets the value at a dotted path of keys, such as `limits.streams_max`.
    pub fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        config::set(&mut self.config, path, value.into());
        self
    }

    /// Stores its data in this database.
    pub fn database(self, url: &str) -> Self {
        self.set("storage.url", url)
    }

    /// Sets a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it in this network namespace.
    pub fn in_namespace(self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self
        }
    }

    /// Runs it with its own `resolv.conf`, which names this server alone. Needs root and Linux.
    pub fn resolver(self, server: Ipv4Addr) -> Self {
        Self {
            resolver: Some(server),
            ..self
        }
    }

    /// Opens this file as its standard error. The test then sees no log line.
    pub fn stderr(self, file: &Path) -> Self {
        Self {
            stderr: Some(file.to_owned()),
            ..self
        }
    }
}

/// A relay with a directory and ports of its own, running or not.
#[derive(Debug)]
pub struct Relay {
    running: Option<Running>,
    config: PathBuf,
    env: Vec<(String, String)>,
    namespace: Option<String>,
    resolv_conf: Option<PathBuf>,
    stderr: Option<PathBuf>,
    public: SocketAddr,
    internal: SocketAddr,
    proxy: SocketAddr,
    admin: SocketAddr,
    ca: Arc<ThrowawayCa>,
    ca_file: PathBuf,
}

impl Relay {
    /// Writes its files into `dir`, with a certificate of `ca`. It does not run yet.
    pub fn write(setup: RelaySetup, ca: &Arc<ThrowawayCa>, dir: &TempDir) -> Self {
        let home = dir.join("relay");
        fs::create_dir_all(&home).expect("a directory in our own");
        let ca_file = ca.write_to(&home);
        let tls = ca.issue(&NAMES).write_to(&home, "relay");
        let mut relay = Self {
            running: None,
            config: home.join("relay.toml"),
            env: setup.env,
            namespace: setup.namespace,
            stderr: setup.stderr,
            resolv_conf: setup.resolver.map(|server| {
                let path = home.join("resolv.conf");
                fs::write(
                    &path,
                    format!("nameserver {server}\noptions timeout:5 attempts:2\n"),
                )
                .expect("a file in our own directory");
                path
            }),
            public: ports::free_addr(),
            internal: ports::free_addr(),
            proxy: ports::free_addr(),
            admin: ports::free_addr(),
            ca: Arc::clone(ca),
            ca_file,
        };
        let mut listen = Table::new();
        for (name, addr) in [
            ("public", relay.public),
            ("internal", relay.internal),
            ("proxy", relay.proxy),
            ("admin", relay.admin),
        ] {
            listen.insert(name.to_owned(), addr.to_string().into());
        }
        let mut files = Table::new();
        files.insert("cert_file".to_owned(), config::path(&tls.cert_file));
        files.insert("key_file".to_owned(), config::path(&tls.key_file));
        let mut storage = Table::new();
        let database = home.join("relay.db");
        storage.insert(
            "url".to_owned(),
            format!("sqlite://{}", database.display()).into(),
        );
        let mut toml = Table::new();
        for (name, table) in [("listen", listen), ("tls", files), ("storage", storage)] {
            toml.insert(name.to_owned(), table.into());
        }
        config::merge(&mut toml, setup.config);
        for (name, addr) in [
            ("public", &mut relay.public),
            ("internal", &mut relay.internal),
            ("proxy", &mut relay.proxy),
            ("admin", &mut relay.admin),
        ] {
            *addr = listens_on(&toml, name).unwrap_or(*addr);
        }
        config::write(&relay.config, &toml);
        relay
    }

    /// Starts `serve` and waits until `/readyz` returns 200.
    ///
    /// # Panics
    ///
    /// Where it is not ready within 30 s, with what it wrote.
    pub async fn start(&mut self) {
        self.spawn();
        self.wait_ready(STEP).await;
    }

    /// Starts `serve` without waiting.
    pub fn spawn(&mut self) {
        let mut command = match &self.resolv_conf {
            Some(path) => command_with_resolver(path, PROGRAM),
            None => command_in(self.namespace.as_deref(), PROGRAM),
        };
        command
            .arg("serve")
            .arg("--config")
            .arg(&self.config)
            .envs(self.env.iter().cloned());
        let stderr = self.stderr.as_deref();
        self.running = Some(Running::spawn_with_stderr("relay", command, stderr));
    }

    /// Waits until `/readyz` on the admin listener answers 200.
    ///
    /// # Panics
    ///
    /// Where it does not within this time, or the process ends.
    pub async fn wait_ready(&self, within: Duration) {
        eventually(within, "200 from /readyz", async || {
            let admin = self.admin();
            let last = match admin.try_send(Ask::get("/readyz").within(within)).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("{} {:?}", answer.status, answer.body),
                Err(failure) => failure.to_string(),
            };
            let exited = self.process().exited();
            assert!(
                exited.is_none(),
                "the relay exited before it was ready: {exited:?}"
            );
            Err(last)
        })
        .await;
    }

    /// Runs its program with these arguments and `--config`.
    pub async fn cli(&self, args: &[&str]) -> Finished {
        let mut command = command_in(self.namespace.as_deref(), PROGRAM);
        command
            .args(args)
            .arg("--config")
            .arg(&self.config)
            .envs(self.env.iter().cloned());
        finish(&format!("{PROGRAM} {}", args.join(" ")), command, STEP).await
    }

    /// `tenant create NAME`.
    pub async fn create_tenant(&self, name: &str) {
        self.cli(&["tenant", "create", name]).await.success();
    }

    /// `key create --tenant NAME --role ROLE`.
    pub async fn create_key(&self, tenant: &str, role: &str) -> ApiKey {
        self.create_key_with(tenant, role, &[]).await
    }

    /// The same, with more arguments.
    pub async fn create_key_with(&self, tenant: &str, role: &str, more: &[&str]) -> ApiKey {
        let mut args = vec![
            "key", "create", "--tenant", tenant, "--role", role, "--json",
        ];
        args.extend(more);
        ApiKey::from_json(&self.cli(&args).await.success())
    }

    /// Its HTTPS listener, by the name `localhost`.
    pub fn public(&self) -> Origin {
        Origin::https(self.public, "localhost", &self.ca)
    }

    /// Its listener without TLS.
    pub fn internal(&self) -> Origin {
        Origin::http(self.internal)
    }

    /// Its forward proxy, which uses HTTP/1.1 without TLS.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Its listener for health and metrics.
    pub fn admin(&self) -> Origin {
        Origin::http(self.admin)
    }

    /// `/metrics`, as text.
    pub async fn metrics(&self) -> String {
        self.admin()
            .send(Ask::get("/metrics"))
            .await
            .expect_status(200)
            .text()
    }

    /// `GET /v1/bridges` with this key: one JSON object for each bridge.
    pub async fn bridges(&self, admin: &ApiKey) -> Vec<Value> {
        let answer = self
            .internal()
            .send(Ask::get("/v1/bridges").key(admin))
            .await;
        bridges_in(&answer.expect_status(200).json())
    }

    /// Waits until [`Self::bridges`] shows this one online, or no longer online.
    ///
    /// # Panics
    ///
    /// Where it does not within this time.
    pub async fn wait_bridge(&self, admin: &ApiKey, name: &str, online: bool, within: Duration) {
        let what = format!("bridge {name} with online = {online}");
        eventually(within, &what, async || {
            let bridges = self.bridges(admin).await;
            let is_online = bridges
                .iter()
                .any(|bridge| bridge["name"] == name && online_in(bridge));
            if is_online == online {
                return Ok(());
            }
            Err(format!("{bridges:?}"))
        })
        .await;
    }

    /// Kills it (SIGKILL). [`Self::start`] runs it again with the same data and ports.
    pub fn kill9(&mut self) {
        self.process().kill9();
    }

    /// Asks it to end (SIGTERM) and waits until it has, with success.
    ///
    /// # Panics
    ///
    /// Where it does not within this time, or fails.
    pub async fn stop(&mut self, within: Duration) {
        self.process().terminate_in_order().await;
        let status = self.process().wait_exit(within).await;
        assert!(
            status.success(),
            "the relay ended with {status} after SIGTERM"
        );
    }

    /// Its process, also one that has ended.
    ///
    /// # Panics
    ///
    /// Where it was never started.
    pub fn process(&self) -> &Running {
        self.running.as_ref().expect("a relay that was started")
    }

    /// Its config file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The root that a bridge must trust.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }
}

/// An address under `[listen]`.
fn listens_on(toml: &Table, name: &str) -> Option<SocketAddr> {
    let addr: SocketAddr = toml.get("listen")?.get(name)?.as_str()?.parse().ok()?;
    // Listening everywhere includes here.
    let ip = if addr.ip().is_unspecified() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        addr.ip()
    };
    Some(SocketAddr::new(ip, addr.port()))
}

/// The list itself, or the list inside an object that leaves room for paging.
fn bridges_in(document: &Value) -> Vec<Value> {
    let list = document
        .as_array()
        .or_else(|| document.get("bridges")?.as_array());
    list.unwrap_or_else(|| panic!("GET /v1/bridges: no list of bridges: {document}"))
        .clone()
}

/// Whether the relay lists this bridge as online.
fn online_in(bridge: &Value) -> bool {
    bridge["online"]
        .as_bool()
        .unwrap_or_else(|| panic!("GET /v1/bridges: no online: {bridge}"))
}
