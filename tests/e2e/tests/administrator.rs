//! The bridge's administration: status, reload, pause, metrics, the audit file.

use serde_json::{Value, json};
use std::time::Duration;
use support::process::{command, finish};
use support::setup::{Bridge, BridgeSetup};
use support::{Ask, LONG_TIMEOUT, TIMEOUT, TestEnv, eventually, let_time_pass};

/// Waits for a state of the bridge, as `status` reports it.
async fn until(world: &TestEnv, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(TIMEOUT, "a status", async || {
        let status = world.bridge.status().await;
        if wanted(&status) {
            return Ok(status);
        }
        Err(format!("{status:#}"))
    })
    .await
}

/// Changes the bridge's config file.
fn edit(world: &TestEnv, change: impl Fn(&str) -> String) {
    let file = world.bridge_config();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, change(&text)).unwrap();
}

#[tokio::test]
async fn status_reports_online_and_offline() {
    let mut world = TestEnv::start().await;
    world
        .call(json!({"url": world.target.url("/hook?token=x")}))
        .await
        .expect_status(200);
    world
        .call(json!({"url": "http://never.allowed.example/", "bridge": "b1"}))
        .await
        .expect_status(403);
    let now = until(&world, |status| status["endpoints"][0]["health"] == "up").await;
    assert_eq!(now["online"], true);
    assert_eq!(now["bridge"], "b1");
    assert_eq!(now["connections"][0]["state"], "up");
    assert_eq!(now["exchanges_failed"]["refused_by_policy"], 1);
    let calls = now["last_calls"].as_array().unwrap();
    assert_eq!(calls[0]["outcome"], "refused_by_policy");
    assert_eq!(calls[1]["outcome"], "200");
    assert!(
        !now.to_string().contains("token"),
        "status must not show a query"
    );
    let text = world.bridge_cli(&["status"]).await.success();
    assert!(text.contains("bridge b1 of tenant acme: online"), "{text}");

    world.kill_relay().await;
    let now = until(&world, |status| status["online"] == false).await;
    assert_eq!(now["sessions"], json!([]));
    assert_ne!(now["connections"][0]["state"], "up");
    until(&world, |status| {
        status["connections"][0]["error"].is_string()
    })
    .await;
    let text = world.bridge_cli(&["status"]).await;
    assert!(
        !text.status.success() && text.stdout.contains("OFFLINE"),
        "{}",
        text.stdout
    );
    world.start_relay().await;
    until(&world, |status| status["online"] == true).await;

    world.stop_bridge().await;
    let gone = world.bridge_cli(&["status"]).await.failure();
    assert!(gone.contains("no bridge runs with this config"), "{gone}");
}

#[tokio::test]
async fn config_reload_applies_or_reports_rejection() {
    let mut world = TestEnv::start().await;
    let (path, caller) = (world.endpoint("/small"), world.caller.clone());
    let small = || Ask::get(path.clone()).key(&caller);
    world.api.send(small()).await.expect_status(200);
    edit(&world, |text| format!("{text}\n[nonsense]\nx = 1\n"));
    let now = until(&world, |status| status["config_refused"].is_string()).await;
    let why = now["config_refused"].as_str().unwrap();
    assert!(
        why.contains("nonsense") && why.contains("bridge.toml"),
        "{why}"
    );
    world.api.send(small()).await.expect_status(200);
    eventually(TIMEOUT, "the rejected config at the relay", async || {
        let bridge = world.get("/v1/bridges/b1", &world.admin).await;
        match bridge["sessions"][0]["config_refused"].is_string() {
            true => Ok(()),
            false => Err(format!("{bridge:#}")),
        }
    })
    .await;
    let refused = world.bridge_cli(&["reload"]).await.failure();
    assert!(refused.contains("nonsense"), "{refused}");

    // A paused bridge rejects requests, and `status` reports it.
    edit(&world, |text| {
        let text = text.replace("\n[nonsense]\nx = 1\n", "");
        text.replace("[bridge]\n", "[bridge]\npaused = true\n")
    });
    until(&world, |status| status["paused"] == true).await;
    let rejected = world.api.send(small()).await;
    assert_eq!(rejected.code(), "overloaded");
    assert_eq!(rejected.execution(), "not_dispatched");
    // The log shows it when it begins, and after a restart.
    for restarts in [false, true] {
        if restarts {
            // It serves nothing, so the log alone shows that it is back.
            world.stop_bridge().await;
            world.start_bridge();
        }
        let log = world.bridge.process();
        log.wait_log("paused by its config", TIMEOUT).await;
    }
    edit(&world, |text| text.replace("paused = true\n", ""));
    world.bridge_cli(&["reload"]).await.success();
    world.wait_online().await;
    world.api.send(small()).await.expect_status(200);
    let now = world.bridge.status().await;
    assert_eq!(now["config_refused"], Value::Null);
}

#[tokio::test]
async fn audit_chain_survives_kills_and_shows_edits() {
    let mut world = TestEnv::builder()
        .bridge(|bridge| bridge.set("audit.file_max", "4KiB"))
        .start()
        .await;
    let hook = world.target.url("/hook?token=x");
    for round in 0..3 {
        for _ in 0..15 {
            world
                .call(json!({"url": hook, "headers": {"x-secret": "y"}}))
                .await
                .expect_status(200);
        }
        let small = Ask::get(world.endpoint("/small")).key(&world.caller);
        world.api.send(small).await.expect_status(200);
        let_time_pass(
            Duration::from_millis(500),
            "the bridge writes its sums to the file",
        )
        .await;
        if round < 2 {
            world.kill_bridge().await;
            world.start_bridge();
            world.wait_online().await;
        }
    }
    world.stop_bridge().await;
    let output = world.bridge_cli(&["audit", "verify"]).await.success();
    assert!(output.contains(": valid."), "{output}");
    let files: Vec<_> = std::fs::read_dir(world.bridge_data_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains("audit.jsonl"))
        .collect();
    assert!(files.len() > 2, "{files:?}");
    let all: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    assert_eq!(all.matches("\"event\":\"call\"").count(), 45);
    assert!(
        all.contains("\"path\":\"/hook\"") && !all.contains("token"),
        "{all}"
    );
    let file = &files[0];
    let changed = std::fs::read_to_string(file)
        .unwrap()
        .replacen("\"200\"", "\"500\"", 1);
    std::fs::write(file, changed).unwrap();
    let output = world.bridge_cli(&["audit", "verify"]).await.failure();
    assert!(output.contains("is not valid"), "{output}");
}

/// Returns the exit code and the output of `audit verify`.
async fn verify(world: &TestEnv, args: &[&str]) -> (i32, String) {
    let args = [&["audit", "verify"], args].concat();
    let output = world.bridge_cli(&args).await;
    let text = format!("{}{}", output.stdout, output.stderr);
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn audit_verify_detects_removal_and_says_what_is_open() {
    let mut world = TestEnv::start().await;
    for _ in 0..5 {
        let call = json!({"url": world.target.url("/small")});
        world.call(call).await.expect_status(200);
    }
    // The head in the bridge's memory is compared, too.
    let output = world.bridge_cli(&["audit", "verify"]).await.success();
    assert!(output.contains(": valid."), "{output}");
    world.stop_bridge().await;
    let file = world.bridge_data_dir().join("audit.jsonl");
    let head = world.bridge_data_dir().join("audit.head.json");
    let good = std::fs::read_to_string(&file).unwrap();
    let signed = std::fs::read_to_string(&head).unwrap();

    let copy = world.dir().join("copy.jsonl");
    std::fs::write(&copy, &good).unwrap();
    let copy = copy.to_str().unwrap();
    let (code, text) = verify(&world, &["--file", copy]).await;
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("no defect was found"), "{text}");
    assert!(
        text.contains("it cannot be concluded that the bridge wrote"),
        "{text}"
    );
    let (code, text) = verify(
        &world,
        &["--file", copy, "--head-file", head.to_str().unwrap()],
    )
    .await;
    assert_eq!((code, text.contains(": valid.")), (0, true), "{text}");

    // As `kill -9` leaves it, before the bridge runs again.
    std::fs::write(&file, format!("{good}{{\"seq\":")).unwrap();
    let (code, text) = verify(&world, &[]).await;
    assert_eq!((code, text.contains(": valid.")), (0, true), "{text}");
    assert!(text.contains("is not complete (7 bytes"), "{text}");

    let without_first: String = good
        .lines()
        .skip(2)
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&file, without_first).unwrap();
    let (code, text) = verify(&world, &[]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("its beginning was removed"), "{text}");

    std::fs::write(&file, &good).unwrap();
    let unsigned =
        json!({"id": "00".repeat(16), "seq": 0, "hash": "00".repeat(32), "signature": ""});
    std::fs::write(&head, unsigned.to_string()).unwrap();
    let (code, text) = verify(&world, &[]).await;
    assert_eq!(code, 1, "{text}");
    std::fs::write(&head, &signed).unwrap();

    std::fs::write(&file, "").unwrap();
    let (code, text) = verify(&world, &[]).await;
    assert_eq!((code, text.contains("is empty")), (1, true), "{text}");
    // A bridge that starts with the emptied file does not hide it.
    world.start_bridge();
    world.wait_online().await;
    world.stop_bridge().await;
    let (code, text) = verify(&world, &[]).await;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("its beginning was removed"), "{text}");
}

#[tokio::test]
async fn metrics_listen_on_loopback_only() {
    let port = support::ports::free();
    let listen = format!("127.0.0.1:{port}");
    let world = TestEnv::builder()
        .bridge(|bridge| bridge.set("metrics.listen", listen))
        .start()
        .await;
    let small = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(small).await.expect_status(200);
    let metrics = support::Origin::http(([127, 0, 0, 1], port).into());
    let text = metrics
        .send(Ask::get("/metrics"))
        .await
        .expect_status(200)
        .text();
    assert!(text.contains("integration_bridge_online 1"), "{text}");
    assert!(
        text.contains("integration_bridge_exchanges_answered_total 1"),
        "{text}"
    );
    metrics.send(Ask::get("/")).await.expect_status(404);
    edit(&world, |text| {
        text.replace("listen = \"127.0.0.1", "listen = \"0.0.0.0")
    });
    let output = world.bridge_cli(&["config", "check"]).await.failure();
    assert!(output.contains("loopback"), "{output}");
}

#[tokio::test]
async fn log_filter_changes_at_run_time() {
    let world = TestEnv::start().await;
    world.bridge_cli(&["log-level", "debug"]).await.success();
    world
        .api
        .send(Ask::get(world.endpoint("/small")).key(&world.caller))
        .await;
    world
        .bridge
        .process()
        .wait_log("request done", TIMEOUT)
        .await;
    let wrong = world.bridge_cli(&["log-level", "[=loud"]).await.failure();
    assert!(wrong.contains("not a log filter"), "{wrong}");
}

#[tokio::test]
async fn reload_rejects_what_it_cannot_apply() {
    let world = TestEnv::start().await;
    let good = std::fs::read_to_string(world.bridge_config()).unwrap();
    let small = || Ask::get(world.endpoint("/small")).key(&world.caller);
    for (more, named) in [
        ("[log]\nfile = \"bridge.log\"\n", "log.file has changed"),
        ("[log]\nlevel = \"debug\"\n", "log.level has changed"),
    ] {
        edit(&world, |_| format!("{good}\n{more}"));
        let refused = world.bridge_cli(&["reload"]).await.failure();
        assert!(refused.contains(named), "{refused}");
        assert!(refused.contains("needs a restart"), "{refused}");
    }
    // A CA file that is missing, found by the automatic reload.
    let more =
        "[[endpoint]]\nname = \"later\"\nurl = \"https://a.example/\"\nca_file = \"later.pem\"\n";
    edit(&world, |_| format!("{good}\n{more}"));
    let key = "endpoint later: ca_file";
    until(&world, |status| {
        let refused = status["config_refused"].as_str();
        refused.is_some_and(|why| why.contains(key) && why.contains("later.pem"))
    })
    .await;
    let refused = world.bridge_cli(&["reload"]).await.failure();
    assert!(refused.contains(key), "{refused}");
    world.api.send(small()).await.expect_status(200);
    // Its arrival is a reason to try again, without a change of the config.
    let file = world.bridge_config().with_file_name("later.pem");
    std::fs::copy(world.ca_file(), file).unwrap();
    let now = until(&world, |status| status["config_refused"].is_null()).await;
    assert_eq!(now["endpoints"].as_array().unwrap().len(), 2, "{now:#}");
}

#[tokio::test]
async fn log_file_is_no_file_of_the_bridge() {
    let mut world = TestEnv::start().await;
    let dir = world.bridge_data_dir();
    let names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(names.len() > 3, "{names:?}");
    let config = world.bridge_config();
    let with_log = async |args: &[&str], name: &str| {
        let mut bridge = command("integration-bridge");
        bridge.args(args).arg("--config").arg(&config);
        bridge.env("BRIDGE_LOG_FILE", name);
        finish("with a log file", bridge, LONG_TIMEOUT).await
    };
    for name in &names {
        let checked = with_log(&["config", "check"], name).await;
        let said = format!("{}{}", checked.stdout, checked.stderr);
        assert!(said.contains("error: log.file: "), "{name}: {said}");
        assert!(!checked.status.success(), "{name}: {said}");
    }
    world.stop_bridge().await;
    let identity = dir.join("identity.json");
    let before = std::fs::read(&identity).unwrap();
    let error = with_log(&["run"], "identity.json").await.failure();
    assert!(error.contains("log.file"), "{error}");
    assert_eq!(std::fs::read(&identity).unwrap(), before);
}

#[tokio::test]
async fn check_finds_a_missing_proxy_credential() {
    let world = TestEnv::start().await;
    let good = std::fs::read_to_string(world.bridge_config()).unwrap();
    for section in ["relay", "targets"] {
        edit(&world, |_| {
            let header = format!("[{section}]\n");
            good.replace(&header, &format!("{header}proxy_credential = \"absent\"\n"))
        });
        let checked = world.bridge_cli(&["config", "check"]).await;
        let said = format!("{}{}", checked.stdout, checked.stderr);
        let error =
            format!("error: {section}.proxy_credential: there is no credential named absent");
        assert!(said.contains(&error), "{said}");
        assert_eq!(checked.status.code(), Some(1), "{said}");
    }
    // Before it is paired, the credential may be stored later.
    let setup = BridgeSetup::new("b2").set("relay.proxy_credential", "absent");
    let other = Bridge::write(&world.relay, setup, world.dir());
    let said = other.cli(&["config", "check"]).await.success();
    assert!(
        said.contains("warning: relay.proxy_credential: there is no credential named absent"),
        "{said}"
    );
}

#[tokio::test]
async fn pair_reads_the_secret_file_of_the_environment() {
    let world = TestEnv::start().await;
    let key = world.key("bridge", &[]).await;
    let secret = world.dir().join("secret-of-b2");
    std::fs::write(&secret, &key.client_secret).unwrap();
    let setup = BridgeSetup::new("b2").env("BRIDGE_CLIENT_SECRET_FILE", secret.to_str().unwrap());
    let other = Bridge::write(&world.relay, setup, world.dir());
    let pair = ["pair", "--client-id", &key.client_id];
    let said = other.cli(&pair).await.success();
    assert!(said.contains("bridge b2 of tenant acme"), "{said}");
    std::fs::remove_file(&secret).unwrap();
    let error = other.cli(&pair).await.failure();
    assert!(error.contains("BRIDGE_CLIENT_SECRET_FILE"), "{error}");
}
