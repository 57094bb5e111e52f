//! Common HTTP clients, by both ingresses of the relay.
//!
//! ```text
//! curl, requests, httpx, ──> named endpoints ──┐
//! Node, Java, git,                             ├── relay ── bridge ──> target, website
//! Chromium               ──> forward proxy ────┘
//! ```
//!
//! Each is used with TLS and without.
//!
//! The scripts in `clients/` hold what a client does and what it must get, in the client's language. This file starts
//! the servers. The clients are Debian's: `cargo xtask test` installs them, and a missing one fails its test.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::ca::IssuedFiles;
use support::process::{Running, finish};
use support::setup::{Allow, Endpoint};
use support::{TIMEOUT, Target, TempDir, TestEnv, ThrowawayCa, pattern};

/// The longest that one script may take. Alone on two cores none needs more than 12 s.
const CLIENT: Duration = Duration::from_secs(120);

/// The file that clients send and get: more than a window of the tunnel.
const BODY_BYTES: usize = 3_000_007;
/// The body of curl's long transfers.
const LARGE_BYTES: u64 = 20_000_003;

const PYTHON: &str = "/usr/bin/python3";
const NODE: &str = "/usr/bin/node";
const JAVA: &str = "/usr/bin/java";

/// The whole environment of clients and servers: no proxy variables and no settings of the user.
const SURROUNDINGS: [(&str, &str); 2] = [("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")];

/// A relay, and a bridge that reaches a target and a website.
struct ClientEnv {
    env: TestEnv,
    target: Target,
    target_tls: Target,
    web: Web,
    web_tls: Web,
    dir: TempDir,
}

/// The website in `clients/web.py`.
struct Web {
    url: String,
    port: u16,
    _running: Running,
}

impl ClientEnv {
    async fn start() -> Self {
        let dir = TempDir::new("clients");
        for name in ["files", "git", "home"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        dir.write("files/body.bin", pattern::bytes(BODY_BYTES));
        let ca = Arc::new(ThrowawayCa::new());
        let issued = ca.issue(&["127.0.0.1"]).write_to(dir.path(), "web");
        let target_tls = Target::start_tls(&ca).await;
        let web = Web::start(dir.path(), None).await;
        let web_tls = Web::start(dir.path(), Some(&issued)).await;
        let target = Target::start().await;
        let ports = [target.port(), target_tls.port(), web.port, web_tls.port];
        let rule = Allow::host("127.0.0.1").ports(ports).set("connect", true);
        let env = TestEnv::bare()
            .ca(&ca)
            // Chromium runs scripts of pages of endpoints.
            .relay(|relay| relay.set("endpoints.sandbox", false))
            .endpoint(Endpoint::new("t", target.url("/")))
            .endpoint(Endpoint::new("web", format!("{}/", web.url)))
            .allow(rule)
            .start()
            .await;
        Self {
            env,
            target,
            target_tls,
            web,
            web_tls,
            dir,
        }
    }

    /// Runs a script of `clients/`. It prints `done` only if everything was as expected.
    async fn run(&self, program: &str, name: &str, args: &[&str]) {
        let mut command = Command::new(program);
        command.arg(script(name)).args(args);
        command.env_clear().envs(SURROUNDINGS);
        command
            .envs(self.environment())
            .current_dir(self.path("home"));
        let output = finish(name, command, CLIENT).await.success();
        assert!(output.ends_with("done\n"), "{name} ended early: {output}");
    }

    /// The environment variables of the scripts. URLs have no slash at their ends.
    fn environment(&self) -> [(&'static str, String); 18] {
        let (relay, key) = (&self.env.relay, &self.env.caller);
        let ca_file = relay.ca_file().display().to_string();
        [
            ("HOME", self.path("home")),
            ("RELAY", relay.internal().url("/v1/endpoints")),
            ("RELAY_TLS", relay.public().url("/v1/endpoints")),
            ("PROXY", relay.proxy().to_string()),
            ("CLIENT_ID", key.client_id.clone()),
            ("CLIENT_SECRET", key.client_secret.clone()),
            ("NODE_EXTRA_CA_CERTS", ca_file.clone()),
            ("CA", ca_file),
            ("TARGET", self.target.url("")),
            ("TARGET_TLS", self.target_tls.url("")),
            ("WEB", self.web.url.clone()),
            ("WEB_TLS", self.web_tls.url.clone()),
            ("WEB_HOME", self.path("")),
            ("BODY", self.path("files/body.bin")),
            ("BODY_BYTES", BODY_BYTES.to_string()),
            ("BODY_SHA256", pattern::sha256(BODY_BYTES as u64)),
            ("LARGE_BYTES", LARGE_BYTES.to_string()),
            ("LARGE_SHA256", pattern::sha256(LARGE_BYTES)),
        ]
    }

    /// A path in the site's directory: `home` is for what clients write.
    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

impl Web {
    async fn start(dir: &Path, tls: Option<&IssuedFiles>) -> Self {
        let mut command = Command::new(PYTHON);
        command.env_clear().envs(SURROUNDINGS);
        command.arg(script("web.py")).arg(dir);
        if let Some(files) = tls {
            command.args([&files.cert_file, &files.key_file]);
        }
        let running = Running::spawn("web", command);
        let line = running.wait_log("listening on ", TIMEOUT).await;
        let port: u16 = line.rsplit(':').next().unwrap().parse().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self {
            url: format!("{scheme}://127.0.0.1:{port}"),
            port,
            _running: running,
        }
    }
}

/// The path of a file in `clients/`.
fn script(name: &str) -> String {
    format!("{}/tests/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn curl_requests_and_rejections() {
    ClientEnv::start()
        .await
        .run(PYTHON, "via_curl.py", &[])
        .await;
}

#[tokio::test]
async fn python_requests_cookies_streams_and_forms() {
    ClientEnv::start()
        .await
        .run(PYTHON, "via_requests.py", &[])
        .await;
}

#[tokio::test]
async fn python_httpx_concurrent_requests_by_http2() {
    ClientEnv::start()
        .await
        .run(PYTHON, "via_httpx.py", &[])
        .await;
}

#[tokio::test]
async fn node_fetch_streams_and_tunnels() {
    ClientEnv::start()
        .await
        .run(NODE, "via_node.mjs", &[])
        .await;
}

#[tokio::test]
async fn java_client_challenges_and_http2() {
    ClientEnv::start()
        .await
        .run(JAVA, "ViaJava.java", &[])
        .await;
}

#[tokio::test]
async fn git_clone_push_and_pull() {
    ClientEnv::start()
        .await
        .run(PYTHON, "via_git.py", &[])
        .await;
}

#[tokio::test]
async fn chromium_pages_forms_and_websocket() {
    let site = ClientEnv::start().await;
    for way in ["endpoint", "proxy"] {
        site.run(NODE, "via_chromium.mjs", &[way]).await;
    }
}
