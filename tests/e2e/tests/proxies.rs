//! The bridge behind a company's proxies: a real squid with a password, and one that ends TLS.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::process::Running;
use support::setup::{Bridge, BridgeSetup};
use support::{Ask, Installation, Interceptor, Squid, Target, ThrowawayCa};

const PATIENCE: Duration = Duration::from_secs(60);

/// A relay with a bridge that it does not need, and a target.
async fn site() -> (Installation, Target) {
    let target = Target::start().await;
    let site = Installation::builder()
        .target("direct", &target)
        .start()
        .await;
    (site, target)
}

/// A bridge that leaves by a proxy, with the endpoint `t`.
async fn bridge_by(
    site: &Installation,
    target: &Target,
    name: &str,
    toml: &str,
    env: &str,
) -> Bridge {
    let endpoint = format!(
        "[[endpoint]]\nname = \"t\"\nurl = \"{}\"\n{toml}\n",
        target.url("/")
    );
    let setup = BridgeSetup::new(name).extra(&endpoint);
    let setup = match env {
        "" => setup,
        proxy => setup
            .extra("[relay]\nproxy = \"env\"\n")
            .env("HTTPS_PROXY", proxy)
            .env("NO_PROXY", ""),
    };
    Bridge::write(&site.relay, setup, site.dir())
}

async fn small(site: &Installation) -> u16 {
    let ask = Ask::get("/v1/endpoints/t/small").key(&site.caller);
    site.relay.internal().send(ask).await.status.as_u16()
}

async fn until_works(site: &Installation) {
    let deadline = Instant::now() + PATIENCE;
    while small(site).await != 200 {
        assert!(Instant::now() < deadline, "no way through");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn sessions(process: &Running) -> usize {
    let log = process.log();
    log.iter()
        .filter(|line| format!("{line:?}").contains("session up"))
        .count()
}

#[tokio::test]
async fn a_real_squid_with_a_password_is_passed_and_outlived() {
    let (site, target) = site().await;
    let mut squid = Squid::start("me", "sesame").await;
    let key = site.relay.create_key(&site.tenant, "bridge").await;

    // Without a password, and with a wrong one: it says what the proxy wants.
    let by = |user: &str| format!("http://{user}{}", squid.authority());
    let bare = bridge_by(&site, &target, "bare", "", &by("")).await;
    let said = bare.try_pair(&key).await.failure();
    assert!(
        said.contains("407") && said.contains("user and password"),
        "{said}"
    );
    let wrong = bridge_by(&site, &target, "wrong", "", &by("me:wrong@")).await;
    let said = wrong.try_pair(&key).await.failure();
    assert!(
        said.contains("does not accept the user and password"),
        "{said}"
    );
    assert!(!said.contains("me:wrong"), "{said}");

    let mut bridge = bridge_by(&site, &target, "proxied", "", &by("me:sesame@")).await;
    bridge.pair(&key).await;
    bridge.start();
    until_works(&site).await;
    let doctor = bridge.cli(&["doctor", "--json"]).await.success();
    let report: Value = serde_json::from_str(&doctor).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let proxy = checks.iter().find(|check| check["hop"] == "proxy").unwrap();
    assert_eq!(proxy["state"], "ok", "{report:#}");

    // Longer quiet than squid bears: the heartbeat keeps the tunnel.
    let quiet = std::env::var("QUIET_SECS").ok();
    let quiet = quiet.map_or(45, |quiet| quiet.parse().unwrap());
    tokio::time::sleep(Duration::from_secs(quiet)).await;
    assert_eq!(small(&site).await, 200);
    assert_eq!(
        sessions(bridge.process()),
        1,
        "the session was lost while it was quiet"
    );

    squid.restart().await;
    until_works(&site).await;
}

#[tokio::test]
async fn the_password_of_a_proxy_may_be_a_credential() {
    let (site, target) = site().await;
    let squid = Squid::start("me", "sesame").await;
    let proxy = format!("http://{}", squid.authority());
    // For the relay and for targets alike.
    let toml = format!(
        "[relay]\nproxy = \"{proxy}\"\nproxy_credential = \"proxy\"\n\
         [targets]\nproxy = \"{proxy}\"\nproxy_credential = \"proxy\"\n"
    );
    let mut bridge = bridge_by(&site, &target, "proxied", &toml, "").await;
    let key = site.relay.create_key(&site.tenant, "bridge").await;
    let said = bridge.try_pair(&key).await.failure();
    assert!(said.contains("no credential named proxy"), "{said}");
    let secret = site.dir().join("proxy-secret");
    std::fs::write(&secret, "sesame").unwrap();
    let set = [
        "credential",
        "set",
        "proxy",
        "--user",
        "me",
        "--origin",
        &proxy,
    ];
    let file = ["--secret-file", secret.to_str().unwrap()];
    bridge.cli(&[&set[..], &file[..]].concat()).await.success();
    bridge.pair(&key).await;
    bridge.start();
    until_works(&site).await;

    // Without squid there is no way to the target, though it is on this same machine.
    drop(squid);
    let deadline = Instant::now() + PATIENCE;
    while small(&site).await == 200 {
        assert!(
            Instant::now() < deadline,
            "the proxy for targets is not used"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn tls_inspection_needs_its_ca_here_and_a_mark_on_the_relay() {
    let (site, target) = site().await;
    let own = Arc::new(ThrowawayCa::new());
    let mut interceptor = Interceptor::start(Arc::clone(&own), &site.ca).await;
    let proxy = format!("[relay]\nproxy = \"http://{}\"\n", interceptor.authority());
    let key = site.relay.create_key(&site.tenant, "bridge").await;

    let blind = bridge_by(&site, &target, "blind", &proxy, "").await;
    let said = blind.try_pair(&key).await.failure();
    assert!(
        said.contains("inspects TLS") && said.contains("ca_file"),
        "{said}"
    );

    let file = site.dir().join("inspection-ca.pem");
    std::fs::write(&file, own.pem()).unwrap();
    let toml = format!("{proxy}ca_file = \"{}\"\n", file.display());
    let mut bridge = bridge_by(&site, &target, "inspected", &toml, "").await;
    bridge.pair(&key).await;
    bridge.start();
    // Somebody in between could be anybody: not without a word of the administrator's.
    bridge.process().wait_log("terminates TLS", PATIENCE).await;
    assert_ne!(small(&site).await, 200);
    let mark =
        Ask::new(hyper::Method::PUT, "/v1/bridges/inspected/tls-inspection").key(&site.admin);
    let marked = site
        .relay
        .internal()
        .send(mark)
        .await
        .expect_status(200)
        .json();
    assert_eq!(marked, json!({"name": "inspected", "tls_inspection": true}));
    bridge.kill9();
    bridge.start();
    until_works(&site).await;
    // Longer quiet than it bears, and a new one in its place.
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(small(&site).await, 200);
    interceptor.restart().await;
    until_works(&site).await;
    let unmark = Ask::new(
        hyper::Method::DELETE,
        "/v1/bridges/inspected/tls-inspection",
    )
    .key(&site.admin);
    site.relay.internal().send(unmark).await.expect_status(200);
}
