//! One ALM session for all callers of an endpoint: the bridge opens and ends it, and no caller can.

use hyper::Method;
use std::time::Duration;
use support::setup::{BridgeSetup, Endpoint};
use support::{Alm, Answer, Ask, TIMEOUT, TestEnv, eventually};

const PASSWORD: &str = "s3cret-of-alm";
const CREDENTIAL: &str = "alm-sync";

/// An ALM, and a bridge whose endpoint `alm` signs in to it.
struct AlmEnv {
    alm: Alm,
    world: TestEnv,
}

impl AlmEnv {
    async fn start() -> Self {
        Self::start_with(|bridge| bridge).await
    }

    /// With changes to the bridge's setup.
    async fn start_with(change: impl FnOnce(BridgeSetup) -> BridgeSetup) -> Self {
        let site = Self::start_without(change).await;
        site.set(&["--user", "sync"], PASSWORD).await;
        site.until_good().await;
        site
    }

    /// Without the credential.
    async fn start_without(change: impl FnOnce(BridgeSetup) -> BridgeSetup) -> Self {
        let alm = Alm::start("sync", PASSWORD).await;
        let endpoint = Endpoint::new("alm", alm.url())
            .set("credential", CREDENTIAL)
            .set("caller_credentials", "override");
        let builder = TestEnv::builder().endpoint(endpoint).bridge(change);
        Self {
            world: builder.start().await,
            alm,
        }
    }

    async fn set(&self, more: &[&str], secret: &str) {
        let file = self.world.bridge_data_dir().join("secret-of-the-test");
        std::fs::write(&file, secret).unwrap();
        let file = file.to_str().unwrap();
        let mut args = vec!["credential", "set", CREDENTIAL, "--kind", "alm"];
        args.extend(["--secret-file", file]);
        args.extend(more);
        self.world.bridge_cli(&args).await.success();
    }

    fn ask(&self, method: Method, path: &str) -> Ask {
        Ask::new(method, format!("/v1/endpoints/alm/{path}")).key(&self.world.caller)
    }

    async fn get(&self) -> Answer {
        let ask = self.ask(Method::GET, "rest/defects");
        self.world.api.send(ask).await
    }

    async fn put(&self) -> Answer {
        let ask = self.ask(Method::PUT, "rest/defects/1").body("{\"n\":1}");
        self.world.api.send(ask).await
    }

    /// Waits until the bridge uses the credential.
    async fn until_good(&self) {
        eventually(TIMEOUT, "200 with the credential", async || {
            self.get().await.status == 200
        })
        .await;
    }
}

#[tokio::test]
async fn callers_cannot_open_or_end_shared_session() {
    let site = AlmEnv::start().await;
    let (sign_ins, requests) = (site.alm.sign_ins(), site.alm.requests());
    for (method, path) in [
        ("POST", "authentication-point/logout"),
        ("GET", "authentication-point/logout"),
        ("POST", "authentication-point/alm-authenticate"),
        ("POST", "Authentication-Point/LOGOUT"),
        ("POST", "/authentication-point//logout/"),
        ("POST", "authentication%2Dpoint/logout"),
        ("POST", "%61uthentication-point%2Flogout"),
        ("POST", "authentication-point;a=b/logout;jsessionid=1"),
        ("POST", "rest/../authentication-point/logout"),
        ("POST", "rest/%2e%2e/authentication-point/logout"),
        ("POST", "authentication-point/logout?x=1"),
        ("DELETE", "rest/site-session"),
        ("POST", "rest/site-session"),
        ("DELETE", "rest/site-session/"),
        ("DELETE", "rest/%73ite-session"),
        ("POST", "rest/oauth2/login"),
        ("GET", "rest/is-authenticated?login-form-required=y"),
        ("POST", "api/authentication/sign-out"),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let ask = site.ask(method, path).body("");
        let refused = site.world.api.send(ask).await;
        assert_eq!(
            refused.code(),
            "refused_by_policy",
            "{path}: {}",
            refused.text()
        );
        assert_eq!(refused.execution(), "not_dispatched", "{path}");
    }
    assert_eq!(site.alm.requests(), requests, "nothing reached ALM");
    // A request target in absolute form, which servers read as a path.
    let head = format!(
        "POST http://relay.example/v1/endpoints/alm/authentication-point/logout HTTP/1.1\r\n\
         host: relay.example\r\nauthorization: {}\r\ncontent-length: 0\r\n\r\n",
        site.world.caller.basic()
    );
    let quiet = Duration::from_secs(2);
    let answer = site.world.api.raw(head.as_bytes(), quiet).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    site.get().await.expect_status(200);
    site.put().await.expect_status(200);
    assert_eq!(site.alm.sign_ins(), sign_ins);
}

#[tokio::test]
async fn callers_cannot_send_session_cookies() {
    let site = AlmEnv::start().await;
    let ask = site
        .ask(Method::PUT, "rest/defects/1")
        .header(
            "cookie",
            "QCSession=theirs; own=1; lwsso_cookie_key=theirs; q=\"",
        )
        .header("x-xsrf-token", "theirs")
        .body("{}");
    let seen = site.world.api.send(ask).await.expect_status(200).json();
    let cookies = seen["cookies"].as_str().unwrap();
    assert!(
        cookies.contains("own=1") && !cookies.contains("theirs") && !cookies.contains('"'),
        "{cookies}"
    );
}

#[tokio::test]
async fn session_signed_out_elsewhere_is_renewed() {
    let site = AlmEnv::start().await;
    for round in 1..=2 {
        site.alm.log_out_all();
        let ask = site.ask(Method::GET, "rest/domains/DEFAULT/projects/Demo/defects");
        let ask = ask.header("accept", "application/json");
        site.world.api.send(ask).await.expect_status(200);
        site.put().await.expect_status(200);
        assert_eq!(site.alm.sign_ins(), 1 + round);
    }
    // Another 500 ends nothing.
    site.alm.commit_then_fail(1);
    let defect = "{\"Fields\":[{\"Name\":\"name\",\"values\":[{\"value\":\"a\"}]}]}";
    let ask = site
        .ask(
            Method::POST,
            "rest/domains/DEFAULT/projects/Demo/release-folders",
        )
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .body(defect);
    let _ = site.world.api.send(ask).await;
    site.put().await.expect_status(200);
    assert_eq!(site.alm.sign_ins(), 3);
}

#[tokio::test]
async fn expired_session_is_detected_with_any_body() {
    let site = AlmEnv::start().await;
    let long = |is_chunked: bool| {
        let ask = site.ask(Method::PUT, "rest/defects/1");
        match is_chunked {
            false => ask.upload(60_000),
            true => ask.upload_chunked(60_000),
        }
    };
    for is_chunked in [false, true] {
        site.alm.expire();
        let before = site.alm.sign_ins();
        // This body is gone; the caller repeats the request.
        let refused = site.world.api.send(long(is_chunked)).await;
        refused.expect_status(401);
        let repeated = site.world.api.send(long(is_chunked)).await;
        repeated.expect_status(200);
        assert_eq!(site.alm.sign_ins(), before + 1);
    }
    // A body that the bridge holds is sent again.
    site.alm.expire();
    site.put().await.expect_status(200);
}

#[tokio::test]
async fn caller_hangup_keeps_sign_in_for_others() {
    let site = AlmEnv::start().await;
    site.alm.set_sign_in_delay(Duration::from_secs(1));
    site.alm.log_out_all();
    let before = site.alm.sign_ins();
    for _ in 0..5 {
        let asking = site.get();
        let hung_up = tokio::time::timeout(Duration::from_millis(100), asking).await;
        assert!(hung_up.is_err());
    }
    site.get().await.expect_status(200);
    site.put().await.expect_status(200);
    assert_eq!(site.alm.sign_ins(), before + 1);
}

#[tokio::test]
async fn rejected_sign_in_is_not_repeated() {
    let site = AlmEnv::start().await;
    site.alm.set_password("another");
    site.alm.log_out_all();
    let before = site.alm.sign_ins();
    for _ in 0..3 {
        let asks = (0..10).map(|_| site.put());
        for refused in futures_util::future::join_all(asks).await {
            assert_eq!(refused.code(), "forbidden", "{}", refused.text());
            // ALM has refused the write, and there is no new session.
            assert_eq!(refused.execution(), "not_dispatched");
        }
    }
    assert_eq!(site.alm.sign_ins(), before + 1);
    // The administrator has set the credential again.
    site.set(&["--user", "sync"], "another").await;
    site.until_good().await;
}

#[tokio::test]
async fn busy_sign_in_returns_overloaded() {
    let site = AlmEnv::start().await;
    site.alm.log_out_all();
    site.alm.set_busy(Some(40));
    let before = site.alm.sign_ins();
    for _ in 0..5 {
        let busy = site.put().await.expect_status(503);
        assert_eq!(
            (busy.code().as_str(), busy.execution().as_str()),
            ("overloaded", "not_dispatched")
        );
        let wait: u64 = busy.header("retry-after").unwrap().parse().unwrap();
        assert!((20..=40).contains(&wait), "{wait}");
    }
    assert_eq!(site.alm.sign_ins(), before + 1);
    // A reload tries again at once.
    site.alm.set_busy(None);
    site.world.bridge_cli(&["reload"]).await.success();
    site.put().await.expect_status(200);
}

#[tokio::test]
async fn alm_api_key_signs_in() {
    let site = AlmEnv::start_without(|bridge| bridge).await;
    site.alm
        .set_api_key("key-1", "secret-of-the-key", "sync", true);
    site.set(&["--client-id", "key-1"], "secret-of-the-key")
        .await;
    site.until_good().await;
    site.put().await.expect_status(200);
    let listed = site
        .world
        .bridge_cli(&["credential", "list"])
        .await
        .success();
    assert!(
        listed.contains("key-1") && !listed.contains("secret-of-the-key"),
        "{listed}"
    );
    let tested = site
        .world
        .bridge_cli(&["credential", "test", CREDENTIAL])
        .await;
    assert!(tested.success().contains("accepted"));
    assert_eq!(site.alm.open_sessions(), 1, "the test has signed out");
    site.alm.expire();
    site.put().await.expect_status(200);
}

#[tokio::test]
async fn stopping_bridge_signs_out() {
    let mut site = AlmEnv::start().await;
    assert_eq!(site.alm.open_sessions(), 1);
    site.world.stop_bridge().await;
    assert_eq!(site.alm.open_sessions(), 0);
}

#[tokio::test]
async fn replaced_or_removed_credential_signs_out() {
    let site = AlmEnv::start().await;
    site.alm.add_user("other", PASSWORD);
    site.set(&["--user", "other"], PASSWORD).await;
    eventually(TIMEOUT, "the end of the old session", async || {
        site.alm.open_sessions() == 0
    })
    .await;
    site.get().await.expect_status(200);
    assert_eq!(site.alm.open_sessions(), 1);
    // A reload alone keeps the session.
    let before = site.alm.sign_ins();
    site.world.bridge_cli(&["reload"]).await.success();
    site.get().await.expect_status(200);
    assert_eq!(site.alm.sign_ins(), before);
    let remove = ["credential", "remove", CREDENTIAL];
    site.world.bridge_cli(&remove).await.success();
    eventually(TIMEOUT, "the end of the session", async || {
        site.alm.open_sessions() == 0
    })
    .await;
}

#[tokio::test]
async fn session_is_renewed_after_max_age() {
    let site =
        AlmEnv::start_with(|bridge| bridge.set("targets.alm_session_max_age", "500ms")).await;
    let before = site.alm.sign_ins();
    eventually(TIMEOUT, "another session", async || {
        site.get().await.expect_status(200);
        site.alm.sign_ins() > before
    })
    .await;
    eventually(TIMEOUT, "the end of the old sessions", async || {
        site.alm.open_sessions() <= 1
    })
    .await;
}
