//! Routes of stored calls. No disturbance of a tunnel, a relay or a database ends a call without cause or
//! makes it twice.

use hyper::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::setup::{Allow, Bridge, BridgeSetup, Builder};
use support::{
    Answer, Ask, Direction, FlakyProxy, LONG_TIMEOUT, PostgresDatabase, Target, TestEnv,
    eventually, let_time_pass,
};

/// Sets short retry intervals, so that a second attempt would come soon.
fn with_short_schedule(builder: Builder) -> Builder {
    builder.relay(|relay| relay.set("deliveries.schedule", vec!["200ms", "200ms", "200ms"]))
}

/// One more bridge of the tenant, which serves other hosts.
async fn add_other_bridge(site: &TestEnv) -> Bridge {
    let rule = Allow::host("other.example").ports([80]);
    site.add_bridge(BridgeSetup::new("other").allow(rule)).await
}

/// The same test on both databases.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($site:ident: Builder) $body:block)*) => {
        $(async fn $name($site: Builder) $body)*

        mod sqlite {
            $($(#[$doc])* #[tokio::test] async fn $name() {
                super::$name(super::TestEnv::builder()).await;
            })*
        }

        mod postgres {
            $($(#[$doc])* #[tokio::test] async fn $name() {
                let database = super::PostgresDatabase::create();
                let site = super::TestEnv::builder();
                super::$name(site.relay(|relay| relay.database(database.url()))).await;
            })*
        }
    };
}

/// Sends until the response is another one than `overloaded`: a returning database needs a moment.
async fn patiently(site: &TestEnv, ask: impl Fn() -> Ask) -> Answer {
    eventually(LONG_TIMEOUT, "a response other than 503", async || {
        let answer = site.api.send(ask()).await;
        match answer.status.as_u16() {
            503 => Err(answer.text()),
            _ => Ok(answer),
        }
    })
    .await
}

async fn submit(site: &TestEnv, call: Value) -> String {
    let mut call = call;
    call["mode"] = json!("deliver");
    let ask = || Ask::post("/v1/calls").key(&site.caller).json(&call);
    let answer = patiently(site, ask).await.expect_status(202);
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn show(site: &TestEnv, id: &str) -> Value {
    let ask = || Ask::get(format!("/v1/calls/{id}")).key(&site.caller);
    patiently(site, ask).await.expect_status(200).json()
}

/// Waits for a state. A final state that is another one fails at once.
async fn wait_state(site: &TestEnv, id: &str, wanted: &str) -> Value {
    eventually(
        LONG_TIMEOUT,
        &format!("call {id} is {wanted}"),
        async || {
            let call = show(site, id).await;
            if call["state"] == wanted {
                return Ok(call);
            }
            let is_open = ["pending", "waiting_for_bridge", "attempting"]
                .iter()
                .any(|open| call["state"] == *open);
            assert!(is_open, "not {wanted}: {call:#}");
            Err(format!("{call:#}"))
        },
    )
    .await
}

async fn explained(site: &TestEnv, url: &str) -> Value {
    let ask = Ask::post("/v1/calls/explain")
        .key(&site.caller)
        .json(&json!({"url": url}));
    site.api.send(ask).await.expect_status(200).json()
}

/// The bridges as the database has them.
async fn stored_bridges(site: &TestEnv) -> Value {
    let stdout = site
        .relay
        .cli(&["bridge", "list", "--json"])
        .await
        .success();
    serde_json::from_str(stdout.trim()).unwrap()
}

async fn stop_bridge(site: &mut TestEnv) {
    site.bridge.stop(LONG_TIMEOUT).await;
    let name = site.bridge.name().to_owned();
    site.relay
        .wait_bridge(&site.admin, &name, false, LONG_TIMEOUT)
        .await;
}

async fn allow_direct(site: &TestEnv, patterns: &[String]) {
    let mut args = vec!["tenant", "direct", site.tenant()];
    for pattern in patterns {
        args.extend(["--allow", pattern]);
    }
    site.relay.cli(&args).await.success();
}

on_both! {

/// The relay cancels after its limit. The response and the bridge's acknowledgement cross the cancel, and only
/// the journal reports that the target got the call.
async fn held_response_makes_no_second_delivery(site: Builder) {
    let site = with_short_schedule(site).start().await;
    let call = json!({"url": site.target.url("/delay/1500"), "body": "x", "timeout_ms": 3000});
    let id = submit(&site, call).await;
    site.target.wait_for_requests(1, LONG_TIMEOUT).await;
    site.proxy().freeze(Direction::Upstream);
    let why = "the relay cancels after the call's limit, and the journal keeps the outcome";
    let_time_pass(Duration::from_millis(8800), why).await;
    site.proxy().thaw();
    let call = wait_state(&site, &id, "succeeded").await;
    assert_eq!(call["attempts"], 1, "{call:#}");
    assert_eq!(site.target.requests(), 1);
}

async fn stopped_relay_makes_no_second_delivery(site: Builder) {
    let site = with_short_schedule(site).start().await;
    let call = json!({"url": site.target.url("/delay/1500"), "body": "x", "timeout_ms": 3000});
    let id = submit(&site, call).await;
    site.target.wait_for_requests(1, LONG_TIMEOUT).await;
    site.relay.process().signal("STOP");
    let_time_pass(Duration::from_secs(10), "the stopped relay misses the response").await;
    site.relay.process().signal("CONT");
    let call = wait_state(&site, &id, "succeeded").await;
    assert_eq!(call["attempts"], 1, "{call:#}");
    assert_eq!(site.target.requests(), 1);
}

/// A tenant has patterns for direct calls, and its bridge is away: what matches none of them waits.
async fn direct_patterns_leave_other_calls_waiting(site: Builder) {
    let mut site = site.start().await;
    allow_direct(&site, &["https://hooks.example.com/in/*".to_owned()]).await;
    // The relay sees within a moment what the command line changed.
    eventually(LONG_TIMEOUT, "a direct route", async || {
        explained(&site, "https://hooks.example.com/in/1").await["route"] == "direct"
    })
    .await;
    stop_bridge(&mut site).await;
    let mut ids = Vec::new();
    for url in [
        site.target.url("/hook"),
        "https://hooks.example.com/out".to_owned(),
        "https://hooks.example.com:8443/in/1".to_owned(),
        "http://hooks.example.com/in/1".to_owned(),
    ] {
        let explained = explained(&site, &url).await;
        // A call that waits for its response fails at once: no bridge ever served the other URLs. A stored one waits.
        let expected = match url == site.target.url("/hook") {
            true => "bridge_offline",
            false => "refused_by_policy",
        };
        assert_eq!(explained["code"], expected, "{explained:#}");
        let id = submit(&site, json!({"url": url})).await;
        let call = wait_state(&site, &id, "waiting_for_bridge").await;
        assert_eq!(call["attempts"], 0, "{call:#}");
        ids.push(id);
    }
    // A call that names the bridge, or needs its credential, waits for it whatever the patterns are.
    for more in [json!({"bridge": site.bridge.name()}), json!({"credential": "c"})] {
        let mut call = json!({"url": "https://hooks.example.com/in/1"});
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let id = submit(&site, call).await;
        let call = wait_state(&site, &id, "waiting_for_bridge").await;
        assert_eq!(call["attempts"], 0, "{call:#}");
    }
    site.bridge.start();
    wait_state(&site, &ids[0], "succeeded").await;
    // The other calls are refused by a bridge that is ready.
    for id in &ids[1..] {
        let call = wait_state(&site, id, "refused").await;
        assert_eq!(call["code"], "refused_by_policy", "{call:#}");
    }
}

/// A pattern matches a name that has a private address: the relay cannot call it, and the bridge can.
async fn private_name_that_matches_a_pattern_waits(site: Builder) {
    let target = Target::start().await;
    let port = target.port();
    let mut site = site.allow(Allow::host("localhost").ports([port])).start().await;
    stop_bridge(&mut site).await;
    let url = format!("http://localhost:{port}/hook");
    let before = submit(&site, json!({"url": url})).await;
    let call = wait_state(&site, &before, "waiting_for_bridge").await;
    assert_eq!(call["attempts"], 0, "{call:#}");
    // Calls that wait already are routed by the new patterns, too.
    allow_direct(&site, &[format!("http://localhost:{port}/*")]).await;
    eventually(LONG_TIMEOUT, "an attempt of the relay", async || {
        show(&site, &before).await["attempts"] != 0
    })
    .await;
    let after = submit(&site, json!({"url": url})).await;
    for id in [&before, &after] {
        let call = wait_state(&site, id, "waiting_for_bridge").await;
        assert_eq!(call["attempts"], 1, "{call:#}");
    }
    site.bridge.start();
    for id in [&before, &after] {
        wait_state(&site, id, "succeeded").await;
    }
    assert_eq!(target.hooks().len(), 2);
}

/// The relay believes in a tunnel whose bridge is gone, and another bridge of the tenant serves other hosts.
/// What was sent into that tunnel is made once, by the bridge that comes back.
async fn half_open_tunnel_ends_no_delivery(site: Builder) {
    let mut site = with_short_schedule(site).start().await;
    let _other = add_other_bridge(&site).await;
    site.proxy().freeze_existing();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let call = json!({"url": site.target.url("/hook"), "timeout_ms": 1000});
        ids.push(submit(&site, call).await);
    }
    for id in &ids {
        wait_state(&site, id, "attempting").await;
    }
    site.bridge.kill9();
    site.bridge.start();
    for id in &ids {
        let call = wait_state(&site, id, "succeeded").await;
        assert_eq!(call["attempts"], 1, "{call:#}");
    }
    assert_eq!(site.target.hooks().len(), 3);
}

/// A bridge that is unknown, disabled or not paired yet is no refusal.
async fn missing_bridge_ends_no_delivery(site: Builder) {
    let site = site.start().await;
    let call = json!({"url": site.target.url("/hook"), "bridge": "other"});
    let unknown = submit(&site, call).await;
    wait_state(&site, &unknown, "waiting_for_bridge").await;
    let name = site.bridge.name().to_owned();
    let act = |what: &str| Ask::post(format!("/v1/bridges/{name}/{what}")).key(&site.admin);
    site.relay.internal().send(act("disable")).await.expect_status(200);
    site.relay.wait_bridge(&site.admin, &name, false, LONG_TIMEOUT).await;
    let named = json!({"url": site.target.url("/hook"), "bridge": name});
    let disabled = submit(&site, named).await;
    wait_state(&site, &disabled, "waiting_for_bridge").await;
    let anywhere = submit(&site, json!({"url": "http://10.9.8.7/hook"})).await;
    wait_state(&site, &anywhere, "waiting_for_bridge").await;
    assert_eq!(site.target.hooks().len(), 0);
    site.relay.internal().send(act("enable")).await.expect_status(200);
    let rule = Allow::loopback(site.target.port());
    let _other = site.add_bridge(BridgeSetup::new("other").allow(rule)).await;
    wait_state(&site, &unknown, "succeeded").await;
}
}

/// A database that is slow keeps a bridge's journal unknown for longer. Calls that come meanwhile, or are
/// due, wait for it, although another bridge of the tenant is up and serves other hosts.
#[tokio::test]
async fn reconnecting_bridge_ends_no_delivery() {
    let database = PostgresDatabase::create();
    let (server, url) = behind_proxy(&database).await;
    let mut site = TestEnv::builder()
        .relay(|relay| relay.database(&url))
        .start()
        .await;
    let _other = add_other_bridge(&site).await;
    server.delay(Duration::from_millis(20));
    let mut ids: Vec<String> = Vec::new();
    for round in 0..6 {
        match round % 2 {
            0 => {
                // A delivery that is killed with its bridge has an unknown outcome, which is another test's subject.
                for id in &ids {
                    wait_state(&site, id, "succeeded").await;
                }
                site.bridge.kill9();
            }
            _ => site.bridge.stop(LONG_TIMEOUT).await,
        }
        site.bridge.start();
        let name = site.bridge.name().to_owned();
        eventually(LONG_TIMEOUT, "a bridge that delivers", async || {
            ids.push(submit(&site, json!({"url": site.target.url("/hook")})).await);
            let bridges = site.relay.bridges(&site.admin).await;
            let own = bridges.iter().find(|bridge| bridge["name"] == *name);
            let sessions = own.and_then(|own| own["sessions"].as_array());
            match sessions.is_some_and(|all| all.iter().any(|one| one["delivers"] == true)) {
                true => Ok(()),
                false => Err(format!("{bridges:?}")),
            }
        })
        .await;
    }
    for id in &ids {
        wait_state(&site, id, "succeeded").await;
    }
    let mut seen: Vec<_> = site
        .target
        .hooks()
        .iter()
        .map(|hook| hook.headers["webhook-id"].to_str().unwrap().to_owned())
        .collect();
    seen.sort_unstable();
    ids.sort_unstable();
    assert_eq!(seen, ids);
}

/// A proxy in front of a database, and the URL through it.
async fn behind_proxy(database: &PostgresDatabase) -> (FlakyProxy, String) {
    let (origin, name) = database.url().rsplit_once('/').unwrap();
    let (scheme, address) = origin.rsplit_once('@').unwrap();
    let proxy = FlakyProxy::start(address.parse().unwrap()).await;
    let url = format!("{scheme}@{}/{name}", proxy.addr());
    (proxy, url)
}

/// The database is away while a bridge connects. Afterwards its deliveries go on, without a restart and
/// without another event.
#[tokio::test]
async fn bridge_delivers_once_the_database_is_back() {
    let database = PostgresDatabase::create();
    let (server, url) = behind_proxy(&database).await;
    let mut site = TestEnv::builder()
        .relay(|relay| relay.database(&url))
        .start()
        .await;
    let _other = add_other_bridge(&site).await;
    for round in 0..2 {
        stop_bridge(&mut site).await;
        let waiting = submit(&site, json!({"url": site.target.url("/hook")})).await;
        wait_state(&site, &waiting, "waiting_for_bridge").await;
        server.refuse(true).await;
        server.reset();
        site.bridge.start();
        let up = site
            .bridge
            .process()
            .wait_log("session up", LONG_TIMEOUT)
            .await;
        assert!(!up.is_empty());
        let_time_pass(
            Duration::from_secs(3),
            "every query of the relay fails once",
        )
        .await;
        server.refuse(false).await;
        wait_state(&site, &waiting, "succeeded").await;
        let next = submit(&site, json!({"url": site.target.url("/hook")})).await;
        wait_state(&site, &next, "succeeded").await;
        assert_eq!(site.target.hooks().len(), 2 * (round + 1));
    }
}

/// Calls of one tenant to names that nothing serves are refused without looking them up, and do not hold
/// up the calls of another.
#[tokio::test]
async fn calls_to_unknown_names_delay_no_other_tenant() {
    let site = TestEnv::start().await;
    let mut refused = Vec::new();
    for number in 0..40 {
        let url = format!("http://name-{number}.does-not-exist.example/");
        refused.push(submit(&site, json!({"url": url})).await);
    }
    let began = Instant::now();
    let id = submit(&site, json!({"url": site.target.url("/hook")})).await;
    wait_state(&site, &id, "succeeded").await;
    for id in &refused {
        let call = wait_state(&site, id, "refused").await;
        assert_eq!(call["attempts"], 0);
    }
    assert!(began.elapsed() < Duration::from_secs(20));
}

/// A notice about an offline bridge does not wait for that bridge. The tenant's administrator sets the URL
/// of notices.
#[tokio::test]
async fn offline_notice_needs_no_bridge() {
    let mut site = TestEnv::builder()
        .relay(|relay| relay.set("notices.bridge_offline_after", "1s"))
        .start()
        .await;
    let change = |url: Value, key| {
        Ask::new(Method::PUT, "/v1/notice-url")
            .key(key)
            .json(&json!({"url": url}))
    };
    let api = site.relay.internal();
    api.send(change(json!("ftp://x/"), &site.admin))
        .await
        .expect_status(400);
    api.send(change(json!(site.target.url("/hook")), &site.caller))
        .await
        .expect_status(403);
    api.send(change(json!(site.target.url("/hook")), &site.admin))
        .await
        .expect_status(200);
    let url = api
        .send(Ask::get("/v1/notice-url").key(&site.admin))
        .await
        .expect_status(200)
        .json();
    assert_eq!(url["url"], site.target.url("/hook"));
    // The relay notes every half minute which bridges are there; only one that was can be away.
    eventually(
        Duration::from_secs(120),
        "a bridge that was seen",
        async || !stored_bridges(&site).await[0]["last_seen_at"].is_null(),
    )
    .await;
    stop_bridge(&mut site).await;
    eventually(Duration::from_secs(120), "a notice", async || {
        let page = site.get("/v1/notices?open=true", &site.admin).await;
        let mut notices = page["notices"].as_array().unwrap().iter();
        match notices.any(|notice| notice["kind"] == "bridge_offline") {
            true => Ok(()),
            false => Err(format!("{page:#}")),
        }
    })
    .await;
    site.relay
        .process()
        .wait_log("only shown in the API", LONG_TIMEOUT)
        .await;
    let ask = Ask::get("/v1/calls").key(&site.admin);
    let calls = api.send(ask).await.expect_status(200).json();
    assert_eq!(calls["calls"], json!([]), "{calls:#}");
}

/// A bridge that is switched off does not turn every URL into `bridge_offline`: the relay remembers what it served.
#[tokio::test]
async fn url_that_no_bridge_served_is_refused() {
    let mut site = TestEnv::start().await;
    let mut other = add_other_bridge(&site).await;
    // Its declaration is stored soon after it has connected.
    let stored = async || {
        let needle = b"\"other.example\"";
        site.relay_files().iter().any(|file| {
            let bytes = std::fs::read(file).unwrap_or_default();
            bytes.windows(needle.len()).any(|window| window == needle)
        })
    };
    eventually(LONG_TIMEOUT, "a stored declaration", stored).await;
    other.stop(LONG_TIMEOUT).await;
    for restarted in [false, true] {
        if restarted {
            site.kill_relay().await;
            site.start_relay().await;
            site.wait_online().await;
        }
        let code = async |host: &str| {
            let call = json!({"url": format!("http://{host}/"), "method": "GET"});
            site.call(call).await.code()
        };
        eventually(LONG_TIMEOUT, "a refusal", async || {
            let code = code("none.example").await;
            if code == "refused_by_policy" {
                Ok(())
            } else {
                Err(code)
            }
        })
        .await;
        assert_eq!(code("other.example").await, "bridge_offline");
        let ask = Ask::get("/v1/endpoints/nothing/").key(&site.caller);
        assert_eq!(site.api.send(ask).await.code(), "unknown_endpoint");
    }
    // A stored call waits: the bridge may serve more when it comes back.
    let waiting = submit(&site, json!({"url": "http://none.example/"})).await;
    wait_state(&site, &waiting, "waiting_for_bridge").await;
}
