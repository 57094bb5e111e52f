//! Call URL requests to a target that offers HTTP/2 only.

use super::site::{H2Env, HTTP2_ALONE, ok};
use hyper::Version;
use serde_json::{Value, json};
use support::h2_target::{BodyEnd, Seen};
use support::{Answer, Ask, TIMEOUT};

async fn call(site: &H2Env, call: &Value) -> Answer {
    let ask = Ask::post("/v1/calls").key(&site.env.caller);
    site.send(ask.json(call)).await
}

/// The one request to `/hook`.
fn only(site: &H2Env) -> Seen {
    let mut seen = site.target.take("/hook");
    assert_eq!(seen.len(), 1);
    let seen = seen.pop().unwrap();
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.path, "/hook?a=b");
    assert_eq!(seen.body, b"{\"n\":1}");
    assert_eq!(seen.body_end, BodyEnd::Whole);
    seen
}

/// The values of a field.
fn values<'a>(seen: &'a Seen, name: &str) -> Vec<&'a [u8]> {
    let fields = seen.fields.iter().filter(|(own, _)| own == name);
    fields.map(|(_, value)| value.as_slice()).collect()
}

#[tokio::test]
async fn call_to_http2_only_target_is_executed() {
    let site = H2Env::start(HTTP2_ALONE).await;
    site.target.answer("/hook", ok("done"));
    let asked = json!({
        "mode": "wait",
        "url": site.target.url("/hook?a=b"),
        "body": "{\"n\":1}",
        "headers": {"x-two": ["a", "b"]},
    });
    let answer = call(&site, &asked).await.expect_status(200).json();
    assert_eq!(answer["execution"], "executed");
    assert_eq!(answer["route"], "bridge");
    assert_eq!(answer["response"]["status"], 200);
    assert_eq!(answer["response"]["body"], "done");
    assert_eq!(values(&only(&site), "x-two"), [b"a", b"b"]);
}

#[tokio::test]
async fn delivery_to_http2_only_target_is_made_once() {
    let site = H2Env::start(HTTP2_ALONE).await;
    site.target.answer("/hook", ok("done"));
    let asked = json!({
        "mode": "deliver",
        "url": site.target.url("/hook?a=b"),
        "body": "{\"n\":1}",
    });
    let taken = call(&site, &asked).await.expect_status(202).json();
    let id = taken["id"].as_str().unwrap();
    let delivered = site.env.wait_call(id, "succeeded", TIMEOUT).await;
    assert_eq!(delivered["attempts"], 1);
    assert_eq!(delivered["status"], 200);
    let seen = only(&site);
    assert_eq!(values(&seen, "webhook-id"), [id.as_bytes()]);
    assert_eq!(values(&seen, "webhook-signature").len(), 1);
}
