//! Routes of URLs. None lets the relay call a private network.

use serde_json::json;
use std::time::Duration;
use support::{Ask, TestEnv, eventually};

async fn explain(world: &TestEnv, url: &str) -> serde_json::Value {
    let ask = Ask::post("/v1/calls/explain")
        .key(&world.caller)
        .json(&json!({"url": url}));
    world.api.send(ask).await.expect_status(200).json()
}

#[tokio::test]
async fn explain_shows_the_route_and_sends_nothing() {
    let world = TestEnv::start().await;
    let served = explain(&world, &world.target.url("/hook")).await;
    assert_eq!(
        (&served["route"], &served["bridge"]),
        (&json!("bridge"), &json!("b1"))
    );
    let private = explain(&world, "http://10.1.2.3/").await;
    assert_eq!(private["route"], "refused");
    assert!(
        private["reason"]
            .as_str()
            .unwrap()
            .contains("install a bridge"),
        "{private}"
    );
    let public = explain(&world, "https://8.8.8.8/hook").await;
    assert_eq!(public["route"], "refused");
    assert!(
        public["reason"]
            .as_str()
            .unwrap()
            .contains("site administrator"),
        "{public}"
    );
    let tenant = world.tenant().to_owned();
    world
        .relay_cli(&["tenant", "direct", &tenant, "--allow", "https://8.8.8.8/*"])
        .await;
    eventually(Duration::from_secs(5), "a direct route", async || {
        explain(&world, "https://8.8.8.8/hook").await["route"] == "direct"
    })
    .await;
    assert_eq!(world.target.requests(), 0);
}

#[tokio::test]
async fn direct_patterns_allow_no_private_address() {
    let mut world = TestEnv::start().await;
    let port = world.target.port();
    let tenant = world.tenant().to_owned();
    let mut args = vec!["tenant", "direct", tenant.as_str()];
    let patterns = ["localhost", "127.0.0.1"].map(|host| format!("http://{host}:{port}/*"));
    for pattern in &patterns {
        args.extend(["--allow", pattern]);
    }
    world.relay_cli(&args).await;
    // Without its bridge only a direct call could work.
    world.stop_bridge().await;
    // The relay reads what the command line changed within a moment.
    let url = format!("http://localhost:{port}/hook");
    let problem = eventually(Duration::from_secs(5), "the new patterns", async || {
        let problem = world.call(json!({"url": url})).await.json();
        // Before it has read them, it refuses the host as one that no bridge allows.
        (problem["execution"] != "not_sent").then_some(problem)
    })
    .await;
    assert_eq!(problem["code"], "refused_by_policy", "{problem}");
    assert_eq!(problem["execution"], "not_dispatched", "{problem}");
    for url in [
        format!("http://127.0.0.1:{port}/hook"),
        format!("http://[::1]:{port}/hook"),
        format!("http://[::ffff:127.0.0.1]:{port}/hook"),
        format!("http://2130706433:{port}/hook"),
        format!("http://0x7f.1:{port}/hook"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let answer = world.call(json!({"url": url})).await;
        assert!(answer.status.as_u16() >= 400, "{url}: {}", answer.text());
    }
    assert_eq!(world.target.requests(), 0);
}
