//! `run` with a pairing file where there is no config, or one that is read-only, as in a container.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Command;
use support::process::{Running, command, finish};
use support::{LONG_TIMEOUT, TIMEOUT, TestEnv};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn container_needs_only_the_pairing_file() {
    let world = TestEnv::bare().start().await;
    let bundle = world.dir().join("dc1.json");
    let url = format!("https://localhost:{}", world.relay.public().addr().port());
    let ca = world.ca_file();
    let create = [
        "key",
        "create",
        "--role",
        "bridge",
        "--tenant",
        world.tenant(),
        "--bridge",
        "dc1",
        "--bundle",
        text(&bundle),
        "--relay-url",
        &url,
        "--ca-file",
        text(&ca),
    ];
    world.relay_cli(&create).await;
    let copy = world.dir().join("copy.json");
    fs::copy(&bundle, &copy).unwrap();
    let config = world.dir().join("etc/bridge.toml");
    let bridge = |args: &[&str], bundle: &Path, state: &str| {
        let mut command: Command = command("integration-bridge");
        command.args(args).arg("--config").arg(&config);
        command.env("BRIDGE_DATA_DIR", world.dir().join(state));
        command.env("BRIDGE_BUNDLE_FILE", bundle);
        command
    };
    let first = Running::spawn("bridge dc1", bridge(&["run"], &bundle, "state"));
    first
        .wait_log("paired by the pairing file", LONG_TIMEOUT)
        .await;
    world
        .relay
        .wait_bridge(&world.admin, "dc1", true, TIMEOUT)
        .await;
    first.kill9();
    assert!(!config.exists(), "nothing is written outside of the state");
    fs::remove_file(&bundle).unwrap();
    let next = Running::spawn("bridge dc1", bridge(&["run"], &bundle, "state"));
    next.wait_log("session up", LONG_TIMEOUT).await;
    next.kill9();
    let check = bridge(&["config", "check"], &bundle, "state");
    let said = finish("config check", check, LONG_TIMEOUT).await.success();
    assert!(said.contains("relay.json"), "{said}");
    // What the administrator sets wins, and a contradiction is named.
    let mut other = bridge(&["run"], &copy, "other");
    other.env("BRIDGE_RELAY_URL", "https://other.example");
    let refused = finish("run", other, LONG_TIMEOUT).await;
    assert_eq!(refused.status.code(), Some(5), "{}", refused.stderr);
    for part in ["relay.url", "https://other.example", &url] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
}
