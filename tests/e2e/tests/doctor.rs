//! `doctor`, the support bundle, a bridge in a container, and the service unit.

use base64::Engine as _;
use serde_json::Value;
use std::os::unix::ffi::OsStrExt as _;
use support::process::{command, finish};
use support::setup::{Bridge, BridgeSetup, Endpoint, path};
use support::{Ask, LONG_TIMEOUT, Running, Target, TempDir, TestEnv, eventually};

async fn doctor(world: &TestEnv) -> Value {
    let output = world.bridge_cli(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|_| panic!("{} {}", output.stdout, output.stderr));
    assert_eq!(
        output.status.success(),
        report["state"] != "fail",
        "{report:#}"
    );
    report
}

fn check<'a>(report: &'a Value, hop: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["hop"] == hop);
    found.unwrap_or_else(|| panic!("no {hop} in {report:#}"))
}

#[tokio::test]
async fn doctor_passes_on_a_healthy_bridge() {
    let world = TestEnv::start().await;
    let report = doctor(&world).await;
    assert_eq!(report["fails_at"], Value::Null, "{report:#}");
    for hop in [
        "identity",
        "dns",
        "tcp",
        "tls",
        "relay",
        "websocket",
        "tunnel",
        "endpoint",
    ] {
        assert_eq!(check(&report, hop)["state"], "ok", "{report:#}");
    }
    let tls = check(&report, "tls")["found"].as_str().unwrap();
    assert!(
        tls.contains("TLSv1.3") && tls.contains("signed by"),
        "{tls}"
    );
    let text = world.bridge_cli(&["doctor"]).await.success();
    assert!(text.contains("ok    endpoint   t:"), "{text}");
}

#[tokio::test]
async fn system_table_needs_no_config() {
    let home = TempDir::new("system");
    let program = |args: &[&str]| {
        let mut command = command("integration-bridge");
        command.args(["doctor", "--system"]).args(args);
        command.env("BRIDGE_CONFIG", home.join("none.toml"));
        command
    };
    let output = finish("doctor --system", program(&["--json"]), LONG_TIMEOUT).await;
    let table: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        output.status.success(),
        table["state"] != "fail",
        "{table:#}"
    );
    let rows = table["requirements"].as_array().unwrap();
    let row = |name: &str| {
        let found = rows.iter().find(|row| row["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {table:#}"))
    };
    assert_eq!(row("architecture")["found"], std::env::consts::ARCH);
    assert_eq!(row("config")["state"], "skipped");
    assert_eq!(row("operating system")["state"], "ok");
    for name in [
        "cores",
        "memory",
        "memory limit",
        "disk",
        "open files",
        "clock",
        "data directory",
        "other programs",
    ] {
        assert!(row(name)["needed"].is_string(), "{name}");
    }
    let text = finish("doctor --system", program(&[]), LONG_TIMEOUT)
        .await
        .stdout;
    assert!(text.starts_with("REQUIREMENT"), "{text}");
    assert!(text.contains("80 GB of free disk"), "{text}");
    // Nothing was created.
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn system_table_reads_the_config() {
    let world = TestEnv::start().await;
    let output = world.bridge_cli(&["doctor", "--system", "--json"]).await;
    let table: Value = serde_json::from_str(&output.stdout).unwrap();
    let rows = table["requirements"].as_array().unwrap();
    for name in ["config", "data directory"] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(row["state"], "ok", "{table:#}");
    }
}

#[tokio::test]
async fn doctor_names_the_failing_hop() {
    let mut world = TestEnv::builder()
        .endpoint(Endpoint::new("gone", "http://127.0.0.1:9/"))
        .start()
        .await;
    let report = doctor(&world).await;
    assert_eq!(report["fails_at"], "endpoint");
    let text = world.bridge_cli(&["doctor"]).await.stdout;
    assert!(
        text.contains("FAIL  endpoint   gone:") && text.contains("that the server runs"),
        "{text}"
    );

    // Another CA than the relay's.
    let other = support::ThrowawayCa::new();
    let file = world.bridge_data_dir().join("other-ca.pem");
    std::fs::write(&file, other.pem()).unwrap();
    let set = |key: &str, value: &str| {
        let path = world.bridge_config();
        let text = std::fs::read_to_string(&path).unwrap();
        let changed: Vec<String> = text
            .lines()
            .map(|line| match line.split_once(" = ") {
                Some((name, _)) if name == key && !line.contains("data") => {
                    format!("{key} = \"{value}\"")
                }
                _ => line.to_owned(),
            })
            .collect();
        std::fs::write(path, changed.join("\n") + "\n").unwrap();
    };
    let before = std::fs::read_to_string(world.bridge_config()).unwrap();
    set("ca_file", file.to_str().unwrap());
    let report = doctor(&world).await;
    assert_eq!(report["fails_at"], "tls", "{report:#}");
    let tls = check(&report, "tls");
    assert!(
        tls["found"].as_str().unwrap().contains("The server sent:"),
        "{tls:#}"
    );
    assert!(
        tls["advice"]
            .as_str()
            .unwrap()
            .contains("set relay.ca_file"),
        "{tls:#}"
    );

    std::fs::write(world.bridge_config(), &before).unwrap();
    set("url", "https://no-such-host.invalid");
    let report = doctor(&world).await;
    assert_eq!(check(&report, "dns")["state"], "fail", "{report:#}");

    std::fs::write(world.bridge_config(), &before).unwrap();
    world.kill_relay().await;
    let report = doctor(&world).await;
    // The proxy still accepts connections, but cannot reach the relay.
    let hop = report["fails_at"].as_str().unwrap();
    assert!(["tcp", "tls"].contains(&hop), "{report:#}");

    std::fs::write(world.bridge_config(), "[relay]\nurl = 1\n").unwrap();
    let output = world.bridge_cli(&["doctor"]).await;
    assert!(output.stdout.contains("FAIL  config"), "{}", output.stdout);
}

/// Returns a file of a support bundle.
fn file_in(archive: &[u8], name: &str) -> String {
    let path = format!("support-bundle/{name}\0");
    let mut at = 0;
    while at + 512 <= archive.len() {
        let header = &archive[at..at + 512];
        let size = String::from_utf8_lossy(&header[124..135]);
        let size = usize::from_str_radix(size.trim(), 8).unwrap_or(0);
        if header.starts_with(path.as_bytes()) {
            return String::from_utf8(archive[at + 512..at + 512 + size].to_vec()).unwrap();
        }
        at += 512 + size.div_ceil(512) * 512;
    }
    panic!("no {name} in the archive");
}

#[tokio::test]
async fn support_bundle_contains_no_secret() {
    let log = TempDir::new("bridge-log");
    let file = log.join("bridge.log");
    let target = Target::start().await;
    let endpoint = Endpoint::new("private", target.url("/")).set("credential", "own");
    let world = TestEnv::builder()
        .bridge(|bridge| {
            bridge
                .set("log.file", path(&file))
                .set("log.level", "debug")
        })
        .endpoint(endpoint)
        .start()
        .await;
    let secrets = [
        "planted-password",
        "planted-in-config",
        "planted-in-log",
        "PlantedT0kenOfManyLetters",
    ];
    let secret_file = log.join("secret");
    std::fs::write(&secret_file, secrets[0]).unwrap();
    let secret_file = secret_file.to_str().unwrap();
    let set = [
        "credential",
        "set",
        "own",
        "--user",
        "planted-user",
        "--secret-file",
        secret_file,
    ];
    world.bridge_cli(&set).await.success();
    // An administrator's notes, and what another program wrote into the log.
    let path = world.bridge_config();
    let text = std::fs::read_to_string(&path).unwrap();
    let notes = format!("# use {} here\n{text}# pass={}\n", secrets[1], secrets[1]);
    std::fs::write(&path, notes).unwrap();
    let mut lines = std::fs::read_to_string(&file).unwrap();
    assert!(lines.contains("session up"), "{lines}");
    lines.push_str(&format!("Authorization: Basic {}\n", secrets[2]));
    lines.push_str(&format!(
        "the login was planted-user:{} and {}\n",
        secrets[0], secrets[3]
    ));
    // The credential's secret, as programs encode it.
    let percent: String = secrets[0]
        .bytes()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    let unicode = percent.replace('%', "%u00");
    let twice = percent.replace('%', "%25");
    let entities = percent.replace('%', ";&#x").split_off(1);
    let hex = percent.replace('%', "");
    let colons = percent.replace('%', ":").split_off(1);
    let base64 = base64::engine::general_purpose::STANDARD.encode(secrets[0]);
    let encoded = [
        percent.as_str(),
        &unicode,
        &twice,
        &entities,
        &hex,
        &colons,
        base64.trim_end_matches('='),
    ];
    for text in encoded {
        lines.push_str(&format!("{{\"message\":\"sent {text}\"}}\nsent {text}\n"));
    }
    std::fs::write(&file, lines).unwrap();
    // The journal of a machine without this service.
    let journalctl = log.join("journalctl");
    let script = format!("#!/bin/sh\necho \"unit $2 failed: pass={}\"\n", secrets[0]);
    std::fs::write(&journalctl, script).unwrap();
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&journalctl, executable).unwrap();

    let archive = log.join("bundle.tar");
    let bundle = |path: &str| {
        let mut command = command("integration-bridge");
        command
            .args(["support-bundle", "--output", archive.to_str().unwrap()])
            .arg("--config")
            .arg(world.bridge_config())
            .env("PATH", path)
            .env("FTP_PROXY", "http://u:planted/in#proxy@proxy.example:1")
            .env("BRIDGE_UNKNOWN", "planted-in-unknown")
            .env("NOT_TEXT", std::ffi::OsStr::from_bytes(b"\xff"));
        finish("support-bundle", command, LONG_TIMEOUT)
    };
    let output = bundle(log.path().to_str().unwrap()).await.success();
    assert!(
        output.contains("doctor.txt") && output.contains("status.txt"),
        "{output}"
    );
    let bytes = std::fs::read(&archive).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("session up") && text.contains("b1"));
    let identity = std::fs::read_to_string(world.bridge_data_dir().join("identity.json")).unwrap();
    let identity: Value = serde_json::from_str(&identity).unwrap();
    let private: Vec<&str> = identity
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_str)
        .filter(|text| text.len() > 40)
        .collect();
    assert!(!private.is_empty());
    let of_key = [world.bridge_key.client_secret.as_str()];
    let planted = secrets.iter().chain(&encoded);
    for secret in planted.chain(&private).chain(&of_key) {
        assert!(!text.contains(secret), "{secret} is in the archive");
    }
    for name in ["doctor.json", "status.json"] {
        let text = file_in(&bytes, name);
        let document: Result<Value, _> = serde_json::from_str(&text);
        assert!(
            document.is_ok_and(|document| document.is_object()),
            "{text}"
        );
    }
    let journal = file_in(&bytes, "journal.txt");
    assert!(
        journal.contains("unit integration-bridge failed: pass=[removed]"),
        "{journal}"
    );
    let audit = file_in(&bytes, "audit.jsonl");
    let line: Value = serde_json::from_str(audit.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["seq"], &line["event"]),
        (&1.into(), &"opened".into())
    );
    assert!(line["id"].as_str().unwrap().len() == 32, "{line}");
    let environment = file_in(&bytes, "environment.txt");
    assert_eq!(
        environment.trim_end().lines().collect::<Vec<_>>(),
        [
            "BRIDGE_UNKNOWN=[not a known variable; value removed]",
            "FTP_PROXY=http://[removed]@proxy.example:1"
        ]
    );
    let checked = file_in(&bytes, "config-check.txt");
    assert!(checked.contains("bridge.toml: valid"), "{checked}");
    let status = file_in(&bytes, "status.txt");
    assert!(!status.contains("key [removed]"), "{status}");
    let metrics = file_in(&bytes, "metrics.txt");
    assert!(metrics.contains("metrics.listen"), "{metrics}");
    // Without a journal the bundle says so.
    std::fs::remove_file(&archive).unwrap();
    bundle("/nonexistent").await.success();
    let bytes = std::fs::read(&archive).unwrap();
    let journal = file_in(&bytes, "journal.txt");
    assert!(journal.contains("journalctl does not run"), "{journal}");
    let again = world
        .bridge_cli(&["support-bundle", "--output", archive.to_str().unwrap()])
        .await
        .failure();
    assert!(again.contains("cannot write"), "{again}");
}

#[tokio::test]
async fn container_is_configured_by_environment() {
    let world = TestEnv::start().await;
    let home = TempDir::new("container");
    let secret = home.join("client-secret");
    std::fs::write(&secret, &world.bridge_key.client_secret).unwrap();
    let target = Target::start().await;
    let endpoints = format!("[{{name = \"boxed\", url = \"{}\"}}]", target.url("/"));
    let data = home.join("data ünd state");
    let environment = [
        (
            "BRIDGE_CONFIG",
            home.join("none.toml").display().to_string(),
        ),
        (
            "BRIDGE_RELAY_URL",
            world.public.url("").replace("127.0.0.1", "localhost"),
        ),
        (
            "BRIDGE_RELAY_CA_FILE",
            world.ca_file().display().to_string(),
        ),
        ("BRIDGE_RELAY_PROXY", "none".to_owned()),
        ("BRIDGE_NAME", "boxed".to_owned()),
        ("BRIDGE_DATA_DIR", data.display().to_string()),
        ("BRIDGE_ENDPOINTS", endpoints),
        ("BRIDGE_CLIENT_ID", world.bridge_key.client_id.clone()),
        ("BRIDGE_CLIENT_SECRET_FILE", secret.display().to_string()),
    ];
    let program = |args: &[&str]| {
        let mut command = command("integration-bridge");
        command
            .args(args)
            .envs(environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("HOME");
        command
    };
    let running = Running::spawn("boxed bridge", program(&["run"]));
    running
        .wait_log("paired by the API key", LONG_TIMEOUT)
        .await;
    running.wait_log("session up", LONG_TIMEOUT).await;
    let small = Ask::get("/v1/endpoints/boxed/small").key(&world.caller);
    world.api.send(small).await.expect_status(200);
    let output = finish("status", program(&["status"]), LONG_TIMEOUT)
        .await
        .success();
    assert!(
        output.contains("bridge boxed of tenant acme: online"),
        "{output}"
    );
    running.terminate();
    assert!(running.wait_exit(LONG_TIMEOUT).await.success());
    // With an identity the bridge needs no key.
    std::fs::remove_file(&secret).unwrap();
    let again = Running::spawn("boxed bridge", program(&["run"]));
    again.wait_log("session up", LONG_TIMEOUT).await;
}

#[tokio::test]
async fn service_unit_is_installed_and_removed() {
    let world = TestEnv::start().await;
    let units = TempDir::new("units");
    let dir = units.path().to_str().unwrap();
    let install = [
        "service",
        "install",
        "--unit-dir",
        dir,
        "--no-start",
        "--account",
        "svc",
    ];
    world.bridge_cli(&install).await.success();
    let unit = std::fs::read_to_string(units.join("integration-bridge.service")).unwrap();
    assert!(
        unit.contains("bridge.toml\"") && unit.contains("User=svc"),
        "{unit}"
    );
    let mut removal = command("integration-bridge");
    removal.args(["service", "uninstall", "--unit-dir", dir, "--no-start"]);
    finish("uninstall", removal, LONG_TIMEOUT).await.success();
    assert!(!units.join("integration-bridge.service").exists());
}

#[tokio::test]
async fn policy_test_names_the_case_of_a_method() {
    let world = TestEnv::start().await;
    std::fs::write(
        world.bridge_config(),
        std::fs::read_to_string(world.bridge_config()).unwrap()
            + "\n[[allow]]\nhost = \"ci.example\"\nmethods = [\"GET\"]\n",
    )
    .unwrap();
    let output = world
        .bridge_cli(&["policy", "test", "--method", "get", "https://ci.example/"])
        .await;
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    assert!(
        output
            .stderr
            .contains("methods are case-sensitive: use --method GET"),
        "{}",
        output.stderr
    );
}

#[tokio::test]
async fn changed_name_is_reported_after_pairing() {
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    let config = std::fs::read_to_string(world.bridge_config()).unwrap();
    std::fs::write(world.bridge_config(), config.replace("\"b1\"", "\"b2\"")).unwrap();
    for command in [&["run"][..], &["doctor"], &["config", "check"]] {
        let output = world.bridge_cli(command).await;
        assert!(!output.status.success(), "{command:?}: {}", output.stdout);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(text.contains("bridge.name is \"b2\""), "{text}");
        assert!(text.contains("paired as \"b1\""), "{text}");
    }
}

#[tokio::test]
async fn error_of_a_start_is_in_the_log_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = TestEnv::start().await;
    let setup = BridgeSetup::new("b2").set("log.file", "own.log");
    let other = Bridge::write(&world.relay, setup, world.dir());
    let finished = other.cli(&["run"]).await;
    assert!(!finished.status.success(), "{}", finished.stdout);
    let log = std::fs::read_to_string(other.data_dir().join("own.log")).unwrap();
    assert!(log.contains("not paired yet"), "{log}");
    assert!(!log.contains("other users had access"), "{log}");
    let mode = std::fs::metadata(other.data_dir()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
}

#[tokio::test]
async fn policy_test_of_no_url_is_a_usage_error() {
    let world = TestEnv::start().await;
    for url in ["ci.corp.example", "", "https://"] {
        let output = world.bridge_cli(&["policy", "test", url]).await;
        assert_eq!(output.status.code(), Some(2), "{url}: {}", output.stderr);
        assert!(
            output.stderr.contains("a URL like https://"),
            "{url}: {}",
            output.stderr
        );
        assert_eq!(output.stdout, "", "{url}");
    }
    let output = world
        .bridge_cli(&["policy", "test", "https://ci.example/"])
        .await;
    assert_eq!(output.status.code(), Some(3), "{}", output.stderr);
}

#[tokio::test]
async fn revoked_bridge_has_advice() {
    let world = TestEnv::start().await;
    world
        .relay_cli(&["bridge", "revoke", "--tenant", world.tenant(), "b1"])
        .await;
    let advice = "pair it again, with a new API key if that was revoked";
    eventually(LONG_TIMEOUT, "the advice in status", async || {
        let output = world.bridge_cli(&["status"]).await;
        output.stdout.contains(advice)
    })
    .await;
    let report = doctor(&world).await;
    let tunnel = check(&report, "tunnel");
    assert_eq!(tunnel["state"], "fail", "{report:#}");
    assert!(
        tunnel["advice"].as_str().unwrap().contains(advice),
        "{report:#}"
    );
}

/// Terminates TLS before the relay, as a balancer that the relay is not configured for.
async fn balancer(ca: &support::ThrowawayCa, relay: std::net::SocketAddr) -> std::net::SocketAddr {
    let config = ca.server_config(&["localhost"], &["http/1.1"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(socket).await.ok()?;
                let mut server = tokio::net::TcpStream::connect(relay).await.ok()?;
                tokio::io::copy_bidirectional(&mut client, &mut server)
                    .await
                    .ok()
            });
        }
    });
    address
}

#[tokio::test]
async fn balancer_that_ends_tls_is_explained() {
    let world = TestEnv::bare().start().await;
    let address = balancer(&world.ca, world.relay.internal().addr()).await;
    let setup = BridgeSetup::new("balanced").via(address);
    let mut bridge = Bridge::write(&world.relay, setup, world.dir());
    let key = world.relay.create_key(world.tenant(), "bridge").await;
    bridge.pair(&key).await;
    bridge.start();
    let reason = "listen.behind_balancer = true";
    eventually(LONG_TIMEOUT, "the relay's reason in status", async || {
        let status = bridge.cli(&["status"]).await;
        status.stdout.contains(reason)
    })
    .await;
    let report = bridge.doctor().await;
    let websocket = check(&report, "websocket");
    assert_eq!(websocket["state"], "fail", "{report:#}");
    assert!(
        websocket["found"].as_str().unwrap().contains(reason),
        "{report:#}"
    );
    let line = "tunnel refused";
    world.relay.process().wait_log(line, LONG_TIMEOUT).await;
}

#[tokio::test]
async fn doctor_has_one_remedy_for_a_tls_failure() {
    // Of a CA that nothing here trusts.
    let target = Target::start_tls(&support::ThrowawayCa::new()).await;
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("strange", target.url("/")))
        .start()
        .await;
    let report = doctor(&world).await;
    let checks = report["checks"].as_array().unwrap();
    let is_it = |check: &&Value| {
        check["hop"] == "endpoint" && check["found"].as_str().unwrap().starts_with("strange:")
    };
    let check = checks.iter().find(is_it).unwrap();
    let (found, advice) = (
        check["found"].as_str().unwrap(),
        check["advice"].as_str().unwrap(),
    );
    assert!(
        found.contains("(trusted here: targets.ca_file, and"),
        "{check:#}"
    );
    assert!(found.ends_with("(target_tls)"), "{check:#}");
    assert!(!found.contains(advice), "{check:#}");
    assert!(
        !advice.contains("check the certificate of the target"),
        "{check:#}"
    );
}
