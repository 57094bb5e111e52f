//! Credentials for targets: the bridge stores them, adds them after the policy, and shows them to no one
//! else.

use hyper::Method;
use serde_json::json;
use std::time::Duration;
use support::recorder::{RawRequest, Sending, talk};
use support::setup::{Endpoint, path};
use support::{
    Alm, Answer, Ask, RawTarget, TIMEOUT, Target, TempDir, TestEnv, ThrowawayCa, eventually,
};

const PASSWORD: &str = "correct horse battery";
/// `me:` and the password.
const BASIC: &str = "Basic bWU6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5";

/// Stores a credential by the command line.
async fn set(world: &TestEnv, name: &str, more: &[&str], secret: &str) {
    let file = world.bridge_data_dir().join("a secret for the test");
    std::fs::write(&file, format!("{secret}\n")).unwrap();
    let file = file.to_str().unwrap();
    let mut args = vec!["credential", "set", name, "--secret-file", file];
    args.extend(more);
    let output = world.bridge_cli(&args).await.success();
    assert!(!output.contains(secret), "{output}");
}

/// Sends until the response is 200: a running bridge notices a credential within a moment.
async fn until_good(world: &TestEnv, ask: impl Fn() -> Ask) -> Answer {
    eventually(
        Duration::from_secs(20),
        "200 with the credential",
        async || {
            let answer = world.api.send(ask()).await;
            match answer.status.as_u16() {
                200 => Ok(answer),
                _ => Err(answer.text()),
            }
        },
    )
    .await
}

/// A bridge with an endpoint `private` that names the credential `own`, on its own target.
async fn start(change: impl FnOnce(Endpoint) -> Endpoint) -> (TestEnv, Target) {
    let target = Target::start().await;
    let endpoint = Endpoint::new("private", target.url("/")).set("credential", "own");
    let builder = TestEnv::builder().endpoint(change(endpoint));
    (builder.start().await, target)
}

#[tokio::test]
async fn endpoint_credential_reaches_its_target_only() {
    let (world, target) = start(|endpoint| endpoint).await;
    let ask = || Ask::get("/v1/endpoints/private/headers").key(&world.caller);
    let missing = world.api.send(ask()).await;
    assert_eq!(missing.code(), "invalid_request");
    assert_eq!(missing.execution(), "not_dispatched");
    set(&world, "own", &["--user", "me"], PASSWORD).await;
    let seen = until_good(&world, ask).await.text();
    assert!(seen.contains(&format!("authorization: {BASIC}")), "{seen}");

    // A caller's own credential would replace it: rejected, and nothing reaches the target.
    let before = target.requests();
    let own = Ask::get("/v1/endpoints/private/headers")
        .header("bridge-authorization", &world.caller.basic())
        .header("authorization", "Basic Zm9yZ2VkOmZvcmdlZA==");
    let refused = world.api.send(own).await;
    assert_eq!(refused.code(), "invalid_request");
    assert_eq!(target.requests(), before);

    // TRACE would return it to the caller.
    let trace = Ask::new(Method::TRACE, "/v1/endpoints/private/echo").key(&world.caller);
    let refused = world.api.send(trace).await;
    assert_eq!(refused.code(), "refused_by_policy");

    let listed = world
        .bridge_cli(&["credential", "list", "--json"])
        .await
        .success();
    assert!(
        listed.contains("\"basic\"") && !listed.contains(PASSWORD),
        "{listed}"
    );
    let on_disk =
        std::fs::read_to_string(world.bridge_data_dir().join("credentials.json")).unwrap();
    let log: Vec<String> = world
        .bridge
        .process()
        .log()
        .iter()
        .map(|line| format!("{line:?}"))
        .collect();
    for text in [&on_disk, &log.join("\n")] {
        assert!(
            !text.contains(PASSWORD) && !text.contains(&BASIC[6..]),
            "{text}"
        );
    }
    let test = world
        .bridge_cli(&["credential", "test", "own"])
        .await
        .success();
    assert!(test.contains("accepted"), "{test}");

    world
        .bridge_cli(&["credential", "remove", "own"])
        .await
        .success();
    eventually(
        Duration::from_secs(20),
        "no use of the credential",
        async || world.api.send(ask()).await.status != 200,
    )
    .await;
}

#[tokio::test]
async fn credential_is_in_no_part_of_a_response() {
    let redirect = "X-Next: https://x.example/cb?pw=correct%20horse%20battery\r\n";
    let echo = format!("X-Echo: {BASIC}\r\n{redirect}");
    let response = format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n{echo}\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Echo, X-Next, X-Sum\r\n{echo}\r\n\
         3\r\nabc\r\n0\r\n{echo}X-Sum: 7\r\n\r\n"
    );
    let target = RawTarget::start(response).await;
    let endpoint = Endpoint::new("private", target.url("/")).set("credential", "own");
    let world = TestEnv::builder().endpoint(endpoint).start().await;
    set(&world, "own", &["--user", "me"], PASSWORD).await;
    let ask = || Ask::get("/v1/endpoints/private/").key(&world.caller);
    until_good(&world, ask).await;
    let request = RawRequest {
        head: format!(
            "GET /v1/endpoints/private/ HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n\
             TE: trailers\r\nConnection: close, TE\r\n\r\n",
            world.caller.basic()
        )
        .into(),
        body: Vec::new(),
        sending: Sending::AtOnce,
    };
    let heard = talk(world.api.addr(), None, &request, TIMEOUT)
        .await
        .unwrap();
    let answer = heard.answer.as_ref().unwrap();
    assert_eq!((answer.status(), &*answer.body), (200, &b"abc"[..]));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), b"7".to_vec())]);
    let all = String::from_utf8_lossy(&heard.raw()).into_owned();
    assert!(
        !all.contains(&BASIC[6..]) && !all.contains("horse"),
        "{all}"
    );
}

#[tokio::test]
async fn override_replaces_the_callers_credential() {
    let (world, _target) = start(|endpoint| endpoint.set("caller_credentials", "override")).await;
    set(&world, "own", &["--kind", "bearer"], "token-of-the-bridge").await;
    let ask = || {
        Ask::get("/v1/endpoints/private/headers")
            .header("bridge-authorization", &world.caller.basic())
            .header("authorization", "Bearer of-the-caller")
    };
    let seen = until_good(&world, ask).await.text();
    assert!(
        seen.contains("authorization: Bearer token-of-the-bridge"),
        "{seen}"
    );
    assert!(!seen.contains("of-the-caller"), "{seen}");
}

#[tokio::test]
async fn named_credential_goes_to_its_origins_only() {
    let (world, _target) = start(|endpoint| endpoint).await;
    let origin = world.target.url("");
    let origin = origin.trim_end_matches('/');
    let field = [
        "--kind",
        "header",
        "--header",
        "X-Api-Key",
        "--origin",
        origin,
    ];
    set(&world, "api", &field, "key-number-one").await;
    let elsewhere = ["--kind", "bearer", "--origin", "https://elsewhere.example"];
    set(&world, "foreign", &elsewhere, "never-to-be-seen").await;
    let url = world.target.url("/headers");
    let call = |name: &str| {
        let document = json!({"url": url, "method": "GET", "credential": name});
        Ask::post("/v1/calls").key(&world.caller).json(&document)
    };
    let answer = until_good(&world, || call("api")).await.json();
    let seen = answer["response"]["body"].as_str().unwrap().to_lowercase();
    assert!(seen.contains("x-api-key: key-number-one"), "{seen}");
    for (name, code) in [
        ("foreign", "refused_by_policy"),
        ("unheard-of", "invalid_request"),
    ] {
        let before = world.target.requests();
        let refused = world.api.send(call(name)).await;
        assert_eq!(refused.code(), code, "{name}");
        assert_eq!(refused.execution(), "not_dispatched", "{name}");
        assert_eq!(world.target.requests(), before, "{name}");
    }
}

#[tokio::test]
async fn alm_sign_in_is_shared_and_renewed() {
    let alm = Alm::start("sync", "s3cret<&>").await;
    // The simulation compares what came as XML.
    alm.set_password("s3cret&lt;&amp;&gt;");
    let endpoint = Endpoint::new("alm", alm.url())
        .set("credential", "alm-sync")
        .set("methods", vec!["GET", "PUT"]);
    let world = TestEnv::builder().endpoint(endpoint).start().await;
    set(
        &world,
        "alm-sync",
        &["--kind", "alm", "--user", "sync"],
        "s3cret<&>",
    )
    .await;
    let get = || Ask::get("/v1/endpoints/alm/rest/defects").key(&world.caller);
    let answer = until_good(&world, get).await;
    assert!(
        answer.header("set-cookie").is_none(),
        "the sign-in stays on the bridge"
    );
    let put = || {
        Ask::new(Method::PUT, "/v1/endpoints/alm/rest/defects/1")
            .key(&world.caller)
            .header("cookie", "own=1")
            .body("{\"n\":1}")
    };
    let answer = world.api.send(put()).await.expect_status(200).json();
    assert_eq!(answer["body"], "{\"n\":1}");
    assert!(
        answer["cookies"].as_str().unwrap().contains("own=1"),
        "{answer}"
    );
    assert_eq!(alm.sign_ins(), 1, "one sign-in serves all");

    // Many concurrent requests find an expired session: each succeeds, and few sign in.
    alm.expire();
    let asks = (0..20).map(|_| world.api.send(put()));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(alm.sign_ins() <= 4, "{} sign-ins", alm.sign_ins());

    // A password that ALM rejects is not tried repeatedly.
    alm.set_password("another");
    alm.expire();
    let before = alm.sign_ins();
    for _ in 0..10 {
        let refused = world.api.send(get()).await;
        assert_eq!(refused.code(), "forbidden");
    }
    assert!(
        alm.sign_ins() <= before + 1,
        "repeated sign-ins lock the account"
    );
    let test = world.bridge_cli(&["credential", "test", "alm-sync"]).await;
    assert!(!test.status.success());
}

#[tokio::test]
async fn client_certificate_is_sent_by_its_endpoint() {
    let ca = ThrowawayCa::new();
    let target = Target::start_mutual(&ca).await;
    let dir = TempDir::new("mutual");
    let own = ca
        .issue(&["bridge.corp.example"])
        .write_to(dir.path(), "own");
    let (url, ca_file) = (target.url("/"), ca.write_to(dir.path()));
    let endpoint = |name: &str| Endpoint::new(name, &*url).set("ca_file", path(&ca_file));
    let world = TestEnv::builder()
        .endpoint(endpoint("bare"))
        .endpoint(endpoint("private").set("credential", "own"))
        .start()
        .await;
    let ask = |name: &str| Ask::get(format!("/v1/endpoints/{name}/small")).key(&world.caller);
    world.api.send(ask("bare")).await.expect_status(502);
    let key = std::fs::read_to_string(&own.key_file).unwrap();
    let certificate = own.cert_file.to_str().unwrap();
    let kind = ["--kind", "certificate", "--certificate-file", certificate];
    set(&world, "own", &kind, &key).await;
    until_good(&world, || ask("private")).await;
    // The certificate belongs to that endpoint only.
    world.api.send(ask("bare")).await.expect_status(502);
    assert_eq!(target.requests(), 1);
}
