//! Limits of endpoints and rules, and calls that have to be signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::pattern::PatternBody;
use support::setup::{Allow, Endpoint, path};
use support::{Ask, TIMEOUT, Target, TempDir, TestEnv, eventually, let_time_pass};

#[tokio::test]
async fn endpoint_quota_rejects_at_once() {
    let target = Target::start().await;
    let url = target.url("/");
    let endpoint = |name: &str| Endpoint::new(name, &*url);
    let small = endpoint("small").set("request_max", "1KiB");
    let always = vec!["daily 00:00-12:00", "daily 12:00-00:00"];
    let world = TestEnv::builder()
        .endpoint(endpoint("one").set("concurrent_max", 1))
        .endpoint(endpoint("few").set("rate", "3/h"))
        .endpoint(small.set("response_max", "1KiB"))
        .endpoint(endpoint("short").set("total_timeout", "300ms"))
        .endpoint(endpoint("closed").set("maintenance", always))
        .start()
        .await;
    let get = |path: &str| Ask::get(format!("/v1/endpoints/{path}")).key(&world.caller);
    let hanging = world.api.send(get("one/delay/1500"));
    let parallel = async {
        let_time_pass(Duration::from_millis(400), "the slow request comes first").await;
        world.api.send(get("one/small")).await
    };
    let (first, second) = tokio::join!(hanging, parallel);
    first.expect_status(200);
    assert_eq!(
        (second.code(), second.execution()),
        ("overloaded".into(), "not_dispatched".into())
    );
    world.api.send(get("one/small")).await.expect_status(200);

    for _ in 0..3 {
        world.api.send(get("few/small")).await.expect_status(200);
    }
    let refused = world.api.send(get("few/small")).await;
    assert!(refused.text().contains("rate"), "{}", refused.text());

    let large = Ask::post("/v1/endpoints/small/sink")
        .key(&world.caller)
        .upload(5000);
    assert_eq!(world.api.send(large).await.code(), "request_too_large");
    assert_eq!(
        world.api.send(get("small/bytes/5000")).await.code(),
        "response_too_large"
    );

    let start = Instant::now();
    let late = world.api.send(get("short/hang")).await;
    assert_eq!(late.code(), "target_timeout");
    assert!(start.elapsed() < Duration::from_secs(10));

    let closed = world.api.send(get("closed/small")).await;
    assert_eq!(closed.code(), "overloaded");
    assert!(closed.text().contains("maintenance"), "{}", closed.text());
}

#[tokio::test]
async fn rule_has_its_own_timeouts() {
    let (prompt, steady) = (Target::start().await, Target::start().await);
    let rule = |target: &Target| Allow::loopback(target.port()).methods(&["GET"]);
    let world = TestEnv::builder()
        .allow(rule(&prompt).set("head_timeout", "300ms"))
        .allow(rule(&steady).set("idle_timeout", "300ms"))
        .start()
        .await;
    let call = |target: &Target, path: &str| json!({"mode": "wait", "method": "GET", "url": target.url(path)});
    let late = world.call(call(&prompt, "/delay/5000")).await;
    assert_eq!(late.code(), "target_timeout", "{}", late.text());
    // The head is in time, and the rest has no limit.
    let slow = world.call(call(&prompt, "/drip/4/500")).await;
    slow.expect_status(200);
    let stuck = world.call(call(&steady, "/drip/2/5000")).await;
    assert_eq!(stuck.code(), "target_timeout", "{}", stuck.text());
    let late = world.call(call(&steady, "/delay/900")).await;
    late.expect_status(200);
}

/// The bridge buffers a body that must be signed, which is how this test uses memory.
#[tokio::test]
async fn memory_limit_rejects_new_requests_only() {
    const HELD_BYTES: u64 = 48 * 1024 * 1024;
    const PIECE_BYTES: usize = 64 * 1024;
    let tenant = Tenant::new();
    let dir = TempDir::new("memory");
    let file = dir.write("tenant.pem", tenant.pem());
    let target = Target::start().await;
    let world = TestEnv::builder()
        .bridge(|bridge| {
            bridge
                .set("limits.memory_max", "40MiB")
                .set("signed_calls.public_key_file", path(&file))
                .set("signed_calls.body_max", "64MiB")
        })
        .endpoint(Endpoint::new("open", target.url("/")).set("unsigned", true))
        .start()
        .await;
    let open = |path: &str| Ask::get(format!("/v1/endpoints/open/{path}")).key(&world.caller);
    world.api.send(open("small")).await.expect_status(200);
    // A running exchange outlives the shortage.
    let running = world.api.send(open("drip/40/250"));
    let held = async {
        let body = PatternBody::new(HELD_BYTES).chunked();
        let body = body.dripping(PIECE_BYTES, Duration::from_millis(5));
        let ask = Ask::post(world.endpoint("/sink"))
            .key(&world.caller)
            .stream(body);
        world.api.send(ask).await
    };
    let until = async |wanted: &str, within: Duration| {
        eventually(within, wanted, async || {
            let answer = world.api.send(open("small")).await;
            let is_rejected = answer.status != 200;
            if is_rejected {
                assert_eq!(answer.code(), "overloaded", "{}", answer.text());
                assert_eq!(answer.execution(), "not_dispatched");
                assert!(answer.text().contains("memory_max"), "{}", answer.text());
            }
            is_rejected == (wanted == "full")
        })
        .await;
    };
    let watching = async {
        until("full", Duration::from_secs(8)).await;
    };
    let (running, held, ()) = tokio::join!(running, held, watching);
    assert_eq!(running.expect_status(200).body.unwrap().len(), 40);
    assert_eq!(held.code(), "refused_by_policy", "{}", held.text());
    until("free", Duration::from_secs(10)).await;
}

struct Tenant(Ed25519KeyPair);

impl Tenant {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    /// As `openssl pkey -pubout` writes it.
    fn pem(&self) -> String {
        let mut der = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        der.extend_from_slice(self.0.public_key().as_ref());
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der)
        )
    }

    /// A signed `POST` as the document of a call.
    fn call(&self, mode: &str, url: &str, body: &str, nonce: &str) -> Value {
        let hash = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
        let digest = format!("sha-256=:{}:", STANDARD.encode(hash));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let covered = format!(
            "(\"@method\" \"@target-uri\" \"content-digest\" \"bridge-name\" \"bridge-call\")\
             ;created={now};expires={};nonce=\"{nonce}\";alg=\"ed25519\"",
            now + 600
        );
        let base = format!(
            "\"@method\": POST\n\"@target-uri\": {url}\n\"content-digest\": {digest}\n\
             \"bridge-name\": b1\n\"bridge-call\": c-1\n\"@signature-params\": {covered}"
        );
        let signature = STANDARD.encode(self.0.sign(base.as_bytes()));
        json!({
            "mode": mode, "url": url, "body": body,
            "headers": {
                "content-digest": digest, "bridge-name": "b1", "bridge-call": "c-1",
                "signature-input": format!("sig={covered}"), "signature": format!("sig=:{signature}:"),
            },
        })
    }
}

#[tokio::test]
async fn signed_call_is_executed_once() {
    let tenant = Tenant::new();
    let dir = TempDir::new("tenant");
    let file = dir.write("tenant.pem", tenant.pem());
    let open = Target::start().await;
    let world = TestEnv::builder()
        .bridge(|bridge| bridge.set("signed_calls.public_key_file", path(&file)))
        .endpoint(Endpoint::new("open", open.url("/")).set("unsigned", true))
        .relay(|relay| relay.set("deliveries.schedule", vec!["200ms", "200ms", "200ms"]))
        .start()
        .await;
    let hook = world.target.url("/hook");

    let unsigned = world.call(json!({"url": hook, "body": "{}"})).await;
    assert_eq!(unsigned.code(), "refused_by_policy");
    let endpoint = Ask::get(world.endpoint("/small")).key(&world.caller);
    assert_eq!(world.api.send(endpoint).await.code(), "refused_by_policy");
    let exempt = Ask::get("/v1/endpoints/open/small").key(&world.caller);
    world.api.send(exempt).await.expect_status(200);
    let forged = Tenant::new().call("wait", &hook, "{}", "nonce-of-a-forger");
    assert_eq!(world.call(forged).await.code(), "refused_by_policy");
    assert_eq!(world.target.requests(), 0);

    let signed = tenant.call("wait", &hook, "{\"n\":1}", "nonce-number-one-");
    world.call(signed.clone()).await.expect_status(200);
    let seen = &world.target.hooks()[0];
    assert!(seen.headers.get("signature").is_none() && seen.headers.get("bridge-call").is_none());
    assert_eq!(&seen.body[..], b"{\"n\":1}");
    // A replay of the signed call is rejected.
    let again = world.call(signed).await;
    assert_eq!(again.code(), "refused_by_policy");
    assert!(again.text().contains("nonce"), "{}", again.text());
    assert_eq!(world.target.hooks().len(), 1);

    // A delivery that the target rejects is retried with the same signature.
    let failing = world.target.url("/status/500");
    let call = tenant.call("deliver", &failing, "{}", "nonce-number-two-");
    let id = world.deliver(call).await;
    let call = world.wait_call(&id, "failed", TIMEOUT).await;
    assert_eq!(call["attempts"], 4, "{call:#}");
}
