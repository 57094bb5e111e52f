//! The bridge and a company's proxies: a real squid with a password, and a proxy that inspects TLS.

use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use support::process::Running;
use support::setup::{Bridge, BridgeSetup, Endpoint, path};
use support::{
    Ask, Interceptor, LONG_TIMEOUT, RawTarget, Squid, TestEnv, ThrowawayCa, eventually,
    let_time_pass, ports,
};

/// Starts a relay whose first bridge has no endpoint, and so stays out of the tests.
async fn start() -> TestEnv {
    TestEnv::bare().start().await
}

/// Writes a bridge that serves the endpoint `t`. The tests let it dial through a proxy.
fn bridge(site: &TestEnv, name: &str, change: impl FnOnce(BridgeSetup) -> BridgeSetup) -> Bridge {
    let setup = BridgeSetup::new(name).endpoint(Endpoint::new("t", site.target.url("/")));
    Bridge::write(&site.relay, change(setup), site.dir())
}

/// Takes the proxy from the environment.
fn proxy_from_environment(setup: BridgeSetup, proxy: &str) -> BridgeSetup {
    setup
        .set("relay.proxy", "env")
        .env("HTTPS_PROXY", proxy)
        .env("NO_PROXY", "")
}

async fn small(site: &TestEnv) -> u16 {
    let ask = Ask::get("/v1/endpoints/t/small").key(&site.caller);
    site.relay.internal().send(ask).await.status.as_u16()
}

async fn until_works(site: &TestEnv) {
    eventually(LONG_TIMEOUT, "an exchange through the proxy", async || {
        small(site).await == 200
    })
    .await;
}

fn sessions(process: &Running) -> usize {
    let log = process.log();
    log.iter()
        .filter(|line| format!("{line:?}").contains("session up"))
        .count()
}

#[tokio::test]
async fn no_proxy_entries_are_separated_by_tabs() {
    let site = start().await;
    let gone = format!("http://127.0.0.1:{}", ports::free());
    let mut bridge = bridge(&site, "tabs", |setup| {
        let setup = proxy_from_environment(setup, &gone);
        setup.env("NO_PROXY", "other.example\tlocalhost\n127.0.0.1")
    });
    let key = site.relay.create_key(site.tenant(), "bridge").await;
    bridge.pair(&key).await;
    bridge.start();
    until_works(&site).await;
}

#[tokio::test]
async fn squid_with_password_is_passed_and_survived() {
    let site = start().await;
    let mut squid = Squid::start("me", "sesame").await;
    let key = site.relay.create_key(site.tenant(), "bridge").await;

    // Without a password, and with a wrong one, the error names what the proxy requires.
    let by = |user: &str| format!("http://{user}{}", squid.authority());
    let bare = bridge(&site, "bare", |setup| {
        proxy_from_environment(setup, &by(""))
    });
    let output = bare.try_pair(&key).await.failure();
    assert!(
        output.contains("407") && output.contains("user and password"),
        "{output}"
    );
    let wrong = bridge(&site, "wrong", |setup| {
        proxy_from_environment(setup, &by("me:wrong@"))
    });
    let output = wrong.try_pair(&key).await.failure();
    assert!(
        output.contains("does not accept the user and password"),
        "{output}"
    );
    assert!(!output.contains("me:wrong"), "{output}");

    let mut bridge = bridge(&site, "proxied", |setup| {
        proxy_from_environment(setup, &by("me:sesame@"))
    });
    bridge.pair(&key).await;
    bridge.start();
    until_works(&site).await;
    let report = bridge.doctor().await;
    let checks = report["checks"].as_array().unwrap();
    let proxy = checks.iter().find(|check| check["hop"] == "proxy").unwrap();
    assert_eq!(proxy["state"], "ok", "{report:#}");

    let quiet = std::env::var("QUIET_SECS").ok();
    let quiet = quiet.map_or(45, |quiet| quiet.parse().unwrap());
    let why = "squid closes idle tunnels earlier; the heartbeat must keep this one";
    let_time_pass(Duration::from_secs(quiet), why).await;
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
async fn proxy_password_comes_from_a_credential() {
    let site = start().await;
    let squid = Squid::start("me", "sesame").await;
    let proxy = format!("http://{}", squid.authority());
    // The same proxy for the relay and for targets.
    let mut bridge = bridge(&site, "proxied", |setup| {
        setup
            .set("relay.proxy", &*proxy)
            .set("relay.proxy_credential", "proxy")
            .set("targets.proxy", &*proxy)
            .set("targets.proxy_credential", "proxy")
    });
    let key = site.relay.create_key(site.tenant(), "bridge").await;
    let output = bridge.try_pair(&key).await.failure();
    assert!(output.contains("no credential named proxy"), "{output}");
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

    // Without squid the target is unreachable, although it is on the same machine.
    drop(squid);
    eventually(
        LONG_TIMEOUT,
        "the use of the proxy for targets",
        async || small(&site).await != 200,
    )
    .await;
}

#[tokio::test]
async fn http_target_needs_no_connect() {
    let site = start().await;
    let squid = Squid::start_strict("me", "sesame").await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let target = RawTarget::start(answer).await;
    let named = target.url("/").replace("127.0.0.1", "localhost");
    let gone = ports::free();
    let by = |user: &str| format!("http://{user}{}", squid.authority());
    let write = |name: &str, proxy: &str, names: bool| {
        let endpoint = |suffix: &str, url: String| Endpoint::new(&format!("{name}-{suffix}"), url);
        let setup = BridgeSetup::new(name)
            .endpoint(endpoint("t", target.url("/base/")))
            .endpoint(endpoint("named", named.clone()))
            .endpoint(endpoint("gone", format!("http://127.0.0.1:{gone}/")))
            .set("targets.proxy", "env")
            .env("HTTPS_PROXY", proxy)
            .env("NO_PROXY", "")
            .set("targets.proxy_names", names)
            .set("targets.health_interval", "off");
        Bridge::write(&site.relay, setup, site.dir())
    };
    let key = site.relay.create_key(site.tenant(), "bridge").await;
    let get = async |endpoint: &str| {
        let ask = Ask::get(format!("/v1/endpoints/{endpoint}/a%2Fb?x=%20")).key(&site.caller);
        site.relay.internal().send(ask).await
    };
    let online = async |endpoint: &str| {
        eventually(LONG_TIMEOUT, "a response", async || {
            let answer = get(endpoint).await;
            let is_offline =
                answer.header("bridge-error").is_some() && !answer.code().starts_with("target");
            (!is_offline).then_some(answer)
        })
        .await
    };
    let mut good = write("good", &by("me:sesame@"), false);
    good.pair(&key).await;
    good.start();
    assert_eq!(online("good-t").await.expect_status(200).text(), "hi");
    let request = target.last_request();
    let lower = request.to_lowercase();
    assert!(
        request.starts_with("GET /base/a%2Fb?x=%20 HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(!lower.contains("proxy-authorization"), "{request}");
    assert!(
        lower.contains(&format!("host: {}\r\n", target.addr())),
        "{request}"
    );
    // By name, squid is asked for CONNECT first, and refuses it.
    assert_eq!(online("good-named").await.expect_status(200).text(), "hi");
    // An error of squid is not a response of the target.
    let answer = online("good-gone").await;
    assert_eq!(answer.code(), "target_refused");
    assert_eq!(answer.execution(), "not_dispatched");
    assert!(
        answer.text().contains("ERR_CONNECT_FAIL"),
        "{}",
        answer.text()
    );

    let mut names = write("names", &by("me:sesame@"), true);
    names.pair(&key).await;
    names.start();
    online("names-named").await.expect_status(200);
    let request = target.last_request().to_lowercase();
    let host = format!("host: localhost:{}\r\n", target.addr().port());
    assert!(request.contains(&host), "{request}");

    let mut wrong = write("wrong", &by("me:wrong@"), false);
    wrong.pair(&key).await;
    wrong.start();
    let answer = online("wrong-t").await;
    assert_eq!(answer.code(), "target_refused");
    assert_eq!(answer.execution(), "not_dispatched");
    assert!(
        answer
            .text()
            .contains("does not accept the user and password"),
        "{}",
        answer.text()
    );
    assert!(answer.header("proxy-authenticate").is_none());
}

#[tokio::test]
async fn tls_inspection_needs_ca_and_relay_permission() {
    let site = start().await;
    let own = Arc::new(ThrowawayCa::new());
    let mut interceptor = Interceptor::start(Arc::clone(&own), &site.ca).await;
    let proxy = format!("http://{}", interceptor.authority());
    let key = site.relay.create_key(site.tenant(), "bridge").await;

    let blind = bridge(&site, "blind", |setup| setup.set("relay.proxy", &*proxy));
    let output = blind.try_pair(&key).await.failure();
    // The CA of this test has the names of the real one, and another key.
    assert!(
        output.contains("a signature of the certificate") && output.contains("ca_file"),
        "{output}"
    );

    let file = site.dir().join("inspection-ca.pem");
    std::fs::write(&file, own.pem()).unwrap();
    let mut bridge = bridge(&site, "inspected", |setup| {
        let setup = setup.set("relay.proxy", &*proxy);
        setup.set("relay.ca_file", path(&file))
    });
    bridge.pair(&key).await;
    bridge.start();
    // Any middlebox could be an attacker: it needs the administrator's permission.
    bridge
        .process()
        .wait_log("terminates TLS", LONG_TIMEOUT)
        .await;
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
    let why = "the interceptor closes idle tunnels earlier; the heartbeat must keep this one";
    let_time_pass(Duration::from_secs(45), why).await;
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
