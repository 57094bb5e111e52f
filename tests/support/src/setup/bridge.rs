//! The bridge: its files, its command line, its process.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use toml::Table;

use super::{Allow, Endpoint, Relay, STEP, config};
use crate::http::ApiKey;
use crate::process::{Finished, Running, command_in, finish};
use crate::target::Target;
use crate::tempdir::TempDir;

const PROGRAM: &str = "integration-bridge";

/// The config and the surroundings of a bridge.
#[derive(Debug)]
pub struct BridgeSetup {
    pub(super) name: String,
    via: Option<SocketAddr>,
    config: Table,
    env: Vec<(String, String)>,
    namespace: Option<String>,
    stderr: Option<PathBuf>,
}

impl BridgeSetup {
    /// A bridge of this name that may reach nothing.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            via: None,
            config: Table::new(),
            env: Vec::new(),
            namespace: None,
            stderr: None,
        }
    }

    /// Dials this address instead of the relay's own, such as a
    /// [`FlakyProxy`](crate::FlakyProxy)'s.
    pub fn via(self, addr: SocketAddr) -> Self {
        Self {
            via: Some(addr),
            ..self
        }
    }

    /// Merges TOML: entries of lists are added to those that are there, other values replace them.
    pub fn toml(mut self, toml: &str) -> Self {
        config::merge(&mut self.config, config::parse(toml));
        self
    }

    /// Sets the value at a dotted path of keys, such as `targets.health_interval`.
    pub fn set(mut self, path: &str, value: impl Into<toml::Value>) -> Self {
        config::set(&mut self.config, path, value.into());
        self
    }

    /// Adds an `[[endpoint]]`.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        config::push(&mut self.config, "endpoint", endpoint.into());
        self
    }

    /// Adds an `[[allow]]` rule.
    pub fn allow(mut self, rule: Allow) -> Self {
        config::push(&mut self.config, "allow", rule.into());
        self
    }

    /// Adds `target` as an endpoint, and allows its address.
    pub fn target(self, name: &str, target: &Target) -> Self {
        self.endpoint(Endpoint::new(name, target.url("/")))
            .allow(Allow::loopback(target.port()))
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

    /// Opens this file as its standard error. The test then sees no log line.
    pub fn stderr(self, file: &Path) -> Self {
        Self {
            stderr: Some(file.to_owned()),
            ..self
        }
    }
}

/// A bridge with a data directory of its own, running or not.
#[derive(Debug)]
pub struct Bridge {
    running: Option<Running>,
    name: String,
    home: PathBuf,
    config: PathBuf,
    data_dir: PathBuf,
    env: Vec<(String, String)>,
    namespace: Option<String>,
    stderr: Option<PathBuf>,
}

impl Bridge {
    /// Writes its files into `dir`. It is not paired yet.
    pub fn write(relay: &Relay, setup: BridgeSetup, dir: &TempDir) -> Self {
        let home = dir.join(format!("bridge {}", setup.name));
        fs::create_dir_all(&home).expect("a directory in our own");
        let bridge = Self {
            running: None,
            config: home.join("bridge.toml"),
            data_dir: home.join("data"),
            name: setup.name,
            env: setup.env,
            namespace: setup.namespace,
            stderr: setup.stderr,
            home,
        };
        let relay_addr = setup.via.unwrap_or_else(|| relay.public().addr());
        let mut dial = Table::new();
        dial.insert(
            "url".to_owned(),
            format!("https://localhost:{}", relay_addr.port()).into(),
        );
        dial.insert("ca_file".to_owned(), config::path(relay.ca_file()));
        dial.insert("proxy".to_owned(), "none".into());
        let mut own = Table::new();
        own.insert("name".to_owned(), bridge.name.clone().into());
        own.insert("data_dir".to_owned(), config::path(&bridge.data_dir));
        let mut targets = Table::new();
        targets.insert("ca_file".to_owned(), config::path(relay.ca_file()));
        let mut toml = Table::new();
        for (name, table) in [("relay", dial), ("bridge", own), ("targets", targets)] {
            toml.insert(name.to_owned(), table.into());
        }
        config::merge(&mut toml, setup.config);
        config::write(&bridge.config, &toml);
        bridge
    }

    /// Pairs it with this API key.
    ///
    /// # Panics
    ///
    /// Where the relay refuses, with what the program wrote.
    pub async fn pair(&self, key: &ApiKey) {
        self.try_pair(key).await.success();
    }

    /// The same, where being refused may be right.
    pub async fn try_pair(&self, key: &ApiKey) -> Finished {
        let secret = self.home.join("client-secret");
        fs::write(&secret, &key.client_secret).expect("a file in our own directory");
        let secret = secret.to_str().expect("a temporary path in UTF-8");
        self.cli(&[
            "pair",
            "--client-id",
            &key.client_id,
            "--client-secret-file",
            secret,
        ])
        .await
    }

    /// Starts `run`, without waiting. Its data survives [`Self::kill9`].
    pub fn start(&mut self) {
        let mut command = command_in(self.namespace.as_deref(), PROGRAM);
        command
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .envs(self.env.iter().cloned());
        let name = format!("bridge {}", self.name);
        let stderr = self.stderr.as_deref();
        self.running = Some(Running::spawn_with_stderr(name, command, stderr));
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

    /// Returns the report of `status --json`.
    pub async fn status(&self) -> Value {
        self.report("status").await
    }

    /// Returns the report of `doctor --json`.
    pub async fn doctor(&self) -> Value {
        self.report("doctor").await
    }

    async fn report(&self, command: &str) -> Value {
        let finished = self.cli(&[command, "--json"]).await;
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|_| panic!("{command}: {} {}", finished.stdout, finished.stderr))
    }

    /// Kills it (SIGKILL).
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
            "the bridge ended with {status} after SIGTERM"
        );
    }

    /// Its process, also one that has ended.
    ///
    /// # Panics
    ///
    /// Where it was never started.
    pub fn process(&self) -> &Running {
        self.running.as_ref().expect("a bridge that was started")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its config file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}
