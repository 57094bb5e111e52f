//! A shortage on the bridge's machine is never reported as a target's failure, and is temporary.
#![cfg(target_os = "linux")]

use serde_json::json;
use std::collections::HashMap;
use support::setup::Allow;
use support::{Ask, LONG_TIMEOUT, Running, TestEnv, eventually, process};
use tokio::net::{TcpListener, TcpStream};

/// Starts the bridge with a limit of open files.
fn spawn_with_files(world: &TestEnv, files: u32) -> Running {
    let program = process::command("integration-bridge");
    let mut command = std::process::Command::new("sh");
    command
        .arg("-c")
        .arg(format!(
            "ulimit -n {files} && exec \"$0\" run --config \"$1\""
        ))
        .arg(program.get_program())
        .arg(world.bridge_config());
    Running::spawn("bridge with few files", command)
}

/// A target that accepts every connection and never responds.
async fn silent() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let taking = tokio::spawn(async move {
        let mut taken: Vec<TcpStream> = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            taken.push(stream);
        }
    });
    (port, taking)
}

#[tokio::test]
async fn bridge_without_descriptors_recovers() {
    let (port, taking) = silent().await;
    let mut world = TestEnv::builder()
        .allow(Allow::loopback(port))
        .allow(Allow::host("localhost").ports([port]))
        .start()
        .await;
    world.kill_bridge().await;
    let bridge = spawn_with_files(&world, 64);
    world.wait_online_within(LONG_TIMEOUT).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..120 {
        let host = ["127.0.0.1", "localhost"][number % 2];
        let call = json!({
            "url": format!("http://{host}:{port}/"), "method": "POST", "timeout_ms": 20_000,
        });
        let ask = Ask::post("/v1/calls").key(&world.caller).json(&call);
        let origin = world.api.clone();
        calls.spawn(async move { origin.send(ask.within(LONG_TIMEOUT)).await });
    }
    let mut codes: HashMap<String, usize> = HashMap::new();
    while let Some(answer) = calls.join_next().await {
        let problem = answer.unwrap().json();
        let code = problem["code"].as_str().unwrap_or_default().to_owned();
        if code == "overloaded" {
            assert_eq!(problem["execution"], "not_dispatched", "{problem:#}");
        }
        *codes.entry(code).or_default() += 1;
    }
    assert!(codes.contains_key("overloaded"), "{codes:?}");
    let is_own =
        |code: &String| matches!(code.as_str(), "overloaded" | "target_timeout" | "timeout");
    assert!(codes.keys().all(is_own), "{codes:?}");
    taking.abort();
    // The descriptors are free again.
    eventually(LONG_TIMEOUT, "200 from the endpoint", async || {
        let small = Ask::get(world.endpoint("/small")).key(&world.caller);
        let answer = world.api.send(small).await;
        match answer.status.as_u16() {
            200 => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
    assert!(bridge.exited().is_none());
}
