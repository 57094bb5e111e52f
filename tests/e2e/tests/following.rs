//! One request is followed by its id: from its caller's response through the relay's log and audit record to the log
//! and the audit file of the bridge.

use serde_json::{Value, json};
use support::process::Running;
use support::{Answer, Ask, Origin, TIMEOUT, TestEnv, eventually};

/// Starts an environment whose log and retries show what these tests look for.
async fn followed() -> TestEnv {
    TestEnv::builder()
        .relay(|relay| {
            relay
                .set("log.level", "debug")
                .set("deliveries.schedule", vec!["200ms", "200ms"])
        })
        .bridge(|bridge| bridge.set("log.level", "debug"))
        .start()
        .await
}

/// Returns the id in the response's header field.
fn id_of(answer: &Answer) -> String {
    let id = answer.header("bridge-request-id");
    id.unwrap_or_else(|| panic!("no id in {:?}", answer.headers))
        .to_owned()
}

/// Waits for the line of a program's log that has all of these texts.
async fn logged(process: &Running, texts: &[&str]) -> String {
    let what = format!("a line of {} with {texts:?}", process.name());
    eventually(TIMEOUT, &what, async || {
        let mut lines = process.log().into_iter().map(|line| line.text);
        lines.rfind(|line| texts.iter().all(|text| line.contains(text)))
    })
    .await
}

/// Waits for the rows of the relay's audit record about an object, newest first.
async fn audited(world: &TestEnv, query: &str, count: usize) -> Vec<Value> {
    eventually(TIMEOUT, &format!("{count} rows of {query}"), async || {
        let page = world.get(format!("/v1/audit?{query}"), &world.admin).await;
        let rows = page["audit"].as_array().unwrap().clone();
        (rows.len() == count).then_some(rows)
    })
    .await
}

/// Waits for the lines of the bridge's audit file about a request, oldest first.
async fn audited_by_bridge(world: &TestEnv, id: &str, count: usize) -> Vec<Value> {
    let file = world.bridge_data_dir().join("audit.jsonl");
    eventually(TIMEOUT, &format!("{count} lines of {id}"), async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let lines: Vec<Value> = lines.filter(|line: &Value| line["id"] == id).collect();
        (lines.len() == count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn wait_call_is_followed_by_its_id() {
    let world = followed().await;
    let url = world.target.url("/hook?token=secret");
    let call = json!({"url": url, "body": "x", "label": "nightly import"});
    let answer = world.call(call).await.expect_status(200);
    let id = id_of(&answer);
    assert_eq!(answer.json()["id"], id);

    let line = logged(world.relay.process(), &[&id, "request done"]).await;
    for part in [
        "nightly import",
        "host=\"127.0.0.1\"",
        "bridge=\"b1\"",
        "status=200",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = logged(world.bridge.process(), &[&id, "request done"]).await;
    for part in [
        "nightly import",
        "127.0.0.1:",
        "path=\"/hook\"",
        "status=200",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!line.contains("secret"), "{line}");
    let rows = audited(&world, &format!("object={id}"), 1).await;
    assert_eq!(rows[0]["action"], "call");
    assert_eq!(rows[0]["bridge"], "b1");
    assert_eq!(rows[0]["bytes_up"], 1);
    assert_eq!(rows[0]["detail"]["label"], "nightly import");
    let lines = audited_by_bridge(&world, &id, 1).await;
    assert_eq!(lines[0]["label"], "nightly import");
    assert_eq!(lines[0]["path"], "/hook");
    // No target gets the context.
    let hook = &world.target.hooks()[0];
    assert!(
        hook.headers
            .keys()
            .all(|name| !name.as_str().contains("bridge-"))
    );

    let shown = world.stored_call(&id).await;
    assert_eq!(
        (&shown["mode"], &shown["state"]),
        (&json!("wait"), &json!("succeeded"))
    );
    assert_eq!(shown["status"], 200);
    assert_eq!(shown["attempt_list"][0]["bridge"], "b1");
    let page = world
        .get("/v1/calls?label=nightly%20import", &world.caller)
        .await;
    assert_eq!(page["calls"][0]["id"], id);
    let again = Ask::post(format!("/v1/calls/{id}/redeliver")).key(&world.caller);
    assert_eq!(world.api.send(again).await.code(), "conflict");
}

#[tokio::test]
async fn refused_call_has_its_reason_everywhere() {
    let world = followed().await;
    let call = json!({"url": world.target.url("/hook?q=1"), "method": "DELETE", "bridge": "b1"});
    let port = world.target.port();
    let mut refused = call.clone();
    refused["url"] = json!(format!("http://10.9.8.7:{port}/a/b?q=1"));
    refused["body"] = json!("never sent");
    let answer = world.call(refused).await;
    assert_eq!(answer.code(), "refused_by_policy");
    let id = id_of(&answer);
    let problem = answer.json();
    assert_eq!(problem["id"], id);
    let detail = problem["detail"].as_str().unwrap();
    let quoted = detail.replace('"', "\\\"");

    let line = logged(world.relay.process(), &[&id, "request failed"]).await;
    for part in [
        "refused_by_policy",
        &quoted,
        "host=\"10.9.8.7\"",
        "bridge=\"b1\"",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let line = logged(world.bridge.process(), &[&id, "request refused"]).await;
    for part in ["refused_by_policy", detail, "10.9.8.7", "path=\"/a/b\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let rows = audited(&world, &format!("object={id}&result=failed"), 1).await;
    assert_eq!(rows[0]["result"], "refused_by_policy");
    assert_eq!(rows[0]["bytes_up"], 0);
    assert_eq!(rows[0]["detail"]["detail"], detail);
    let lines = audited_by_bridge(&world, &id, 1).await;
    assert_eq!(lines[0]["event"], "refused");
    let shown = world.stored_call(&id).await;
    assert_eq!(shown["state"], "refused");
    assert_eq!(shown["detail"], detail);

    // A call that the relay itself rejects has an id and a line as well.
    let wrong = world
        .call(json!({"url": "http://x/", "label": "a\nb"}))
        .await;
    assert_eq!(wrong.code(), "invalid_request");
    logged(
        world.relay.process(),
        &[&id_of(&wrong), "invalid_request", "a label must have"],
    )
    .await;
    let stranger = support::ApiKey::new("ibk_nobody", "wrong");
    let ask = Ask::post("/v1/calls")
        .key(&stranger)
        .json(&json!({"url": "http://x/"}));
    let denied = world.api.send(ask).await;
    assert_eq!(denied.code(), "unauthorized");
    logged(world.relay.process(), &[&id_of(&denied), "unauthorized"]).await;
}

#[tokio::test]
async fn call_that_its_caller_leaves_is_recorded() {
    let world = followed().await;
    let url = world.target.url("/hang");
    let call = json!({"url": url, "label": "left alone", "body": "abc"});
    let mut calling = Box::pin(world.call(call));
    let find = async |state: &str| {
        let path = format!("/v1/calls?label=left%20alone&state={state}");
        let page = world.get(path, &world.caller).await;
        page["calls"][0]["id"].as_str().map(str::to_owned)
    };
    let id = tokio::select! {
        answer = &mut calling => panic!("{}", answer.text()),
        id = eventually(TIMEOUT, "the call in progress", async || find("attempting").await) => id,
    };
    world.target.wait_for_requests(1, TIMEOUT).await;
    drop(calling);
    eventually(TIMEOUT, "the cancelled call", async || {
        find("cancelled").await
    })
    .await;
    let rows = audited(&world, &format!("object={id}&result=cancelled"), 1).await;
    assert_eq!(rows[0]["execution"], "possibly_executed");
    assert_eq!(rows[0]["bridge"], "b1");
    assert_eq!(rows[0]["bytes_up"], 3);
    let left = "the caller closed its connection";
    let reason = format!("{left} before the response");
    assert_eq!(rows[0]["detail"]["detail"], reason);
    let shown = world.stored_call(&id).await;
    assert_eq!(shown["detail"], reason);
    assert_eq!(shown["attempts"], 1);
    let attempt = &shown["attempt_list"][0];
    for (name, expected) in [
        ("route", "bridge"),
        ("bridge", "b1"),
        ("code", "cancelled"),
        ("execution", "possibly_executed"),
        ("detail", reason.as_str()),
    ] {
        assert_eq!(attempt[name], expected, "{name}: {attempt:#}");
    }
    logged(
        world.relay.process(),
        &[&id, "request failed", "code=cancelled", &reason],
    )
    .await;
    logged(world.bridge.process(), &[&id, "request failed", left]).await;
}

#[tokio::test]
async fn delivery_is_followed_through_its_retries() {
    let world = followed().await;
    let url = world.target.url("/status/500");
    let call = json!({"mode": "deliver", "url": url, "label": "order:4711", "body": "xyz"});
    let answer = world.call(call).await.expect_status(202);
    let id = id_of(&answer);
    assert_eq!(answer.json()["id"], id);
    let call = world.wait_call(&id, "failed", TIMEOUT).await;
    assert_eq!(
        (&call["label"], &call["mode"]),
        (&json!("order:4711"), &json!("deliver"))
    );
    for attempt in ["attempt=1", "attempt=3"] {
        let line = logged(
            world.relay.process(),
            &[&id, "delivery attempt failed", attempt],
        )
        .await;
        assert!(
            line.contains("order:4711") && line.contains("status=500"),
            "{line}"
        );
        let line = logged(world.bridge.process(), &[&id, "request done", attempt]).await;
        assert!(line.contains("order:4711"), "{line}");
    }
    let rows = audited(&world, &format!("object={id}&status=500"), 3).await;
    for row in &rows {
        assert_eq!(row["detail"]["label"], "order:4711");
        assert_eq!(row["bytes_up"], 3);
    }
    let lines = audited_by_bridge(&world, &id, 3).await;
    assert_eq!(lines[2]["attempt"], 3);
    // Until the next attempt ends, a call that is delivered again has no result.
    let mut world = world;
    world.stop_bridge().await;
    let again = Ask::post(format!("/v1/calls/{id}/redeliver")).key(&world.caller);
    let shown = world.api.send(again).await.expect_status(202).json();
    for name in ["status", "code", "execution", "detail"] {
        assert!(shown[name].is_null(), "{name}: {shown:#}");
    }
}

#[tokio::test]
async fn endpoint_request_is_followed_by_its_id() {
    let world = followed().await;
    let ask = Ask::get(world.endpoint("/small?token=secret"))
        .key(&world.caller)
        .header("bridge-label", "page 7");
    let id = id_of(&world.api.send(ask).await.expect_status(200));
    for process in [world.relay.process(), world.bridge.process()] {
        let line = logged(process, &[&id, "request done"]).await;
        assert!(
            line.contains("page 7") && line.contains("endpoint=\"t\""),
            "{line}"
        );
        assert!(!line.contains("secret"), "{line}");
    }

    let ask = Ask::get("/v1/endpoints/absent/x").key(&world.caller);
    let answer = world.api.send(ask).await;
    let (id, code) = (id_of(&answer), answer.code());
    assert_eq!(code, "unknown_endpoint");
    assert_eq!(answer.json()["id"], id);
    let line = logged(world.relay.process(), &[&id, "request failed"]).await;
    assert!(
        line.contains("endpoint=\"absent\"") && line.contains(&code),
        "{line}"
    );

    // The target closes the connection without a response.
    let ask = Ask::post(world.endpoint("/close")).key(&world.caller);
    let answer = world.api.send(ask).await;
    assert_eq!(answer.code(), "target_closed");
    let id = id_of(&answer);
    for process in [world.relay.process(), world.bridge.process()] {
        logged(process, &[&id, "request failed", "target_closed"]).await;
    }
    let lines = audited_by_bridge(&world, &id, 1).await;
    assert_eq!(
        (&lines[0]["to"], &lines[0]["path"]),
        (&json!("endpoint t"), &json!("/close"))
    );
    let bad = Ask::get(world.endpoint("/small")).key(&world.caller);
    let answer = world.api.send(bad.header("bridge-label", "ä")).await;
    assert_eq!(answer.code(), "invalid_request");
}

#[tokio::test]
async fn proxy_request_is_logged_with_its_host() {
    let world = followed().await;
    let proxy = Origin::http(world.forward());
    let key = world.caller.basic();
    let target = world.target.url("/small");
    for (url, host, message) in [
        (target.as_str(), "127.0.0.1", "request done"),
        ("http://10.1.1.1/", "10.1.1.1", "request failed"),
    ] {
        let label = format!("to {host}");
        let ask = format!(
            "GET {url} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\nBridge-Label: {label}\r\n\
             Connection: close\r\n\r\n"
        );
        proxy.raw(ask.as_bytes(), TIMEOUT).await;
        let line = logged(world.relay.process(), &[message, &label]).await;
        assert!(line.contains(&format!("host=\"{host}\"")), "{line}");
    }
}

#[tokio::test]
async fn stored_and_waited_calls_are_one_list() {
    let world = followed().await;
    let hook = world.target.url("/hook");
    let mut made = Vec::new();
    for n in 0..7 {
        let mode = if n % 2 == 0 { "wait" } else { "deliver" };
        let call = json!({"url": hook, "mode": mode, "label": format!("n{n}")});
        made.push(id_of(&world.call(call).await));
    }
    made.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/calls?limit=2{cursor}");
        let page = world.get(path, &world.caller).await;
        for call in page["calls"].as_array().unwrap() {
            seen.push(call["id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    // Two calls may be of the same millisecond.
    let (mut seen_ids, mut made_ids) = (seen.clone(), made.clone());
    seen_ids.sort_unstable();
    made_ids.sort_unstable();
    assert_eq!(seen_ids, made_ids);
    assert_eq!(seen[0], made[0]);
    // Another tenant sees none of them.
    world.relay_cli(&["tenant", "create", "other"]).await;
    let other = world.relay.create_key("other", "admin").await;
    let page = world.get("/v1/calls", &other).await;
    assert!(page["calls"].as_array().unwrap().is_empty());
    let ask = Ask::get(format!("/v1/calls/{}", made[0])).key(&other);
    assert_eq!(world.api.send(ask).await.code(), "not_found");
}
