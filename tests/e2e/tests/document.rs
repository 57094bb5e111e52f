//! The API and its own document: every request, valid or not, gets a response that `proto/openapi.json`
//! describes, and never an internal error.

mod schema;

use hyper::Method;
use schema::{Dice, Document};
use serde_json::Value;
use std::collections::BTreeMap;
use support::{Answer, Ask, TestEnv};

/// Requests to each operation, as each of the callers.
const ROUNDS: usize = 40;

/// The tunnel is a WebSocket, and an endpoint returns its target's responses.
const LEFT_OUT: [&str; 2] = ["/v1/tunnel", "/v1/endpoints/{endpoint}/{path}"];

/// Operations that may report the failure of a target or a bridge.
fn may_fail_elsewhere(path: &str, method: &str) -> bool {
    (path, method) == ("/v1/calls", "post")
}

#[tokio::test]
async fn api_responses_match_the_openapi_document() {
    let world = TestEnv::builder()
        .relay(|relay| relay.set("limits.auth_failures_per_minute", 100_000))
        .start()
        .await;
    let document = Document::new(include_str!("../../../proto/openapi.json"));
    let site = world.site_admin().await;
    let callers = [
        ("admin", &world.admin),
        ("site-admin", &site),
        ("caller", &world.caller),
    ];
    let mut dice = Dice::new(0x5eed);
    let mut wrong = BTreeMap::new();
    let mut statuses = BTreeMap::<u16, usize>::new();
    for operation in document.operations() {
        if LEFT_OUT.contains(&operation.path.as_str()) {
            continue;
        }
        for (who, key) in callers {
            for round in 0..ROUNDS {
                let made = operation.request(&document, &mut dice, round);
                let method = Method::from_bytes(operation.method.to_uppercase().as_bytes());
                let mut ask = Ask::new(method.unwrap(), made.target.clone()).key(key);
                for (name, value) in &made.headers {
                    ask = ask.header(name, value);
                }
                if let Some(body) = &made.body {
                    ask = ask
                        .header("content-type", "application/json")
                        .body(body.clone().into_bytes());
                }
                let answer = world.api.send(ask).await;
                *statuses.entry(answer.status.as_u16()).or_default() += 1;
                if let Err(why) = judge(&document, &operation, &answer) {
                    let place = format!("{} {}: {why}", operation.method, operation.path);
                    let how = format!("as {who}: {} {:?}", made.target, made.body);
                    wrong.entry(place).or_insert(how);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A run with rejections only would prove nothing.
    for status in [200, 201, 202, 400, 403, 404] {
        assert!(
            statuses.contains_key(&status),
            "never {status}: {statuses:?}"
        );
    }
}

fn judge(
    document: &Document,
    operation: &schema::Operation,
    answer: &Answer,
) -> Result<(), String> {
    let status = answer.status.as_u16();
    let elsewhere = may_fail_elsewhere(&operation.path, &operation.method);
    if status == 500 || (status > 500 && !elsewhere) {
        return Err(format!("{status} {}", answer.text()));
    }
    let described = operation.answer(document, status);
    let described = described.ok_or_else(|| format!("{status} is not described"))?;
    let content = &described["content"];
    let kind = answer.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if content.is_null() {
        return match answer.body.as_ref().unwrap().is_empty() {
            true => Ok(()),
            false => Err(format!("{status} has a body, which is not described")),
        };
    }
    let media = content
        .get(kind)
        .ok_or_else(|| format!("{status} is {kind:?}, which is not described"))?;
    if !kind.ends_with("json") {
        return Ok(());
    }
    let value: Value = serde_json::from_str(&answer.text())
        .map_err(|error| format!("{status} is not JSON: {error}"))?;
    document
        .conforms(&media["schema"], &value)
        .map_err(|why| format!("{status}: {why}"))
}
