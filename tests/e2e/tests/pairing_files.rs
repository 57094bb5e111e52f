//! Pairing files: one command on each side, one bridge a file, also after a crash at any step.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::process::{Finished, Running, command, finish};
use support::{ApiKey, Ask, LONG_TIMEOUT, TIMEOUT, TestEnv, eventually, let_time_pass};

/// A machine that a bridge is to be installed on: an empty directory, and the program.
struct Machine {
    home: PathBuf,
}

impl Machine {
    fn new(world: &TestEnv, name: &str) -> Self {
        let home = world.dir().join(format!("machine {name}"));
        fs::create_dir_all(&home).unwrap();
        Self { home }
    }

    fn config(&self) -> PathBuf {
        self.home.join("bridge.toml")
    }

    fn identity(&self) -> PathBuf {
        self.home.join("data/identity.json")
    }

    /// Runs a command of the bridge with this machine's config.
    async fn cli(&self, args: &[&str]) -> Finished {
        let mut bridge = command("integration-bridge");
        bridge.args(args).arg("--config").arg(self.config());
        finish(&args.join(" "), bridge, LONG_TIMEOUT).await
    }

    async fn pair(&self, bundle: &Path) -> Finished {
        self.cli(&["pair", "--bundle", text(bundle)]).await
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn url(world: &TestEnv) -> String {
    format!("https://localhost:{}", world.relay.public().addr().port())
}

/// Creates a pairing file for a bridge of this name.
async fn bundle(world: &TestEnv, name: &str, more: &[&str]) -> PathBuf {
    let path = world.dir().join(format!("{name}.json"));
    let (url, ca) = (url(world), world.ca_file());
    let create = [
        "key",
        "create",
        "--role",
        "bridge",
        "--tenant",
        world.tenant(),
    ];
    let of = ["--bridge", name, "--bundle", text(&path)];
    let contact = ["--relay-url", &url, "--ca-file", text(&ca)];
    let said = world
        .relay_cli(&[&create[..], &of, &contact, more].concat())
        .await;
    let document = read(&path);
    let secret = document["client_secret"].as_str().unwrap();
    assert!(!said.contains(secret), "{said}");
    assert!(
        said.contains("pair --bundle") || said.contains("\"bundle\""),
        "{said}"
    );
    path
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Writes a private file.
fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Copies a pairing file, as an attacker or a backup does.
fn copy(path: &Path, name: &str) -> PathBuf {
    let copy = path.with_file_name(name);
    write(&copy, &fs::read(path).unwrap());
    copy
}

/// Changes members of a pairing file.
fn change(path: &Path, members: &[(&str, Value)]) {
    let mut document = read(path);
    for (name, value) in members {
        document[*name] = value.clone();
    }
    write(path, document.to_string().as_bytes());
}

#[tokio::test]
async fn bundle_is_all_that_a_bridge_needs() {
    let world = TestEnv::bare().start().await;
    let machine = Machine::new(&world, "m1");
    let bundle = bundle(&world, "m1", &[]).await;
    let mode = fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let said = machine.pair(&bundle).await.success();
    assert!(said.contains("bridge m1 of tenant acme"), "{said}");
    assert!(!bundle.exists(), "the file is destroyed");
    let names: Vec<_> = fs::read_dir(machine.home.join("data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.contains(&"relay-ca.pem".to_owned()), "{names:?}");
    assert!(!names.contains(&"pairing.json".to_owned()), "{names:?}");
    machine.cli(&["config", "check"]).await.success();
    let mut run = command("integration-bridge");
    run.args(["run", "--config", text(&machine.config())]);
    let running = Running::spawn("bridge m1", run);
    let online = world.relay.wait_bridge(&world.admin, "m1", true, TIMEOUT);
    online.await;
    let list = world.relay_cli(&["bridge", "list"]).await;
    let row = list.lines().find(|line| line.starts_with("m1 ")).unwrap();
    assert!(row.contains("from 127.0.0.1 ("), "{row}");
    let list = world.relay_cli(&["bridge", "list", "--json"]).await;
    assert!(list.contains("\"paired_at\""), "{list}");
    let keys = world.relay_cli(&["key", "list"]).await;
    assert!(keys.contains("spent"), "{keys}");
    drop(running);
    // The file is gone, and the command is repeated all the same.
    let again = machine.pair(&bundle).await.failure();
    assert!(again.contains("paired already"), "{again}");
}

#[tokio::test]
async fn second_use_is_refused_and_raises_a_notice() {
    let world = TestEnv::bare()
        .relay(|relay| relay.set("audit.sums_every", "200ms"))
        .start()
        .await;
    let (machine, thief) = (Machine::new(&world, "m1"), Machine::new(&world, "thief"));
    let bundle = bundle(&world, "m1", &["--existing", "join"]).await;
    let stolen = copy(&bundle, "stolen.json");
    let key = read(&bundle)["client_id"].clone();
    machine.pair(&bundle).await.success();
    let refused = thief.pair(&stolen).await.failure();
    assert!(refused.contains("used already"), "{refused}");
    assert!(!thief.identity().exists() && stolen.exists());
    let metrics = world.metrics().await;
    assert!(metrics.contains("outcome=\"key_spent\""), "{metrics}");
    let notice = eventually(LONG_TIMEOUT, "a notice", async || {
        let page = world.get("/v1/notices?open=true", &world.admin).await;
        let notices = page["notices"].as_array()?.clone();
        notices
            .into_iter()
            .find(|one| one["kind"] == "pairing_file_reused")
    })
    .await;
    assert_eq!(notice["object"], key);
    eventually(LONG_TIMEOUT, "an audit row", async || {
        let path = "/v1/audit?action=bridge.pair&result=key_spent";
        let rows = world.get(path, &world.admin).await;
        rows["audit"][0]["object"] == key
    })
    .await;
    // The operator revokes the key and keeps the bridge.
    let revoke = ["key", "revoke", key.as_str().unwrap(), "--keep-bridges"];
    world.relay_cli(&revoke).await;
    let gone = thief.pair(&stolen).await.failure();
    assert!(gone.contains("HTTP 401"), "{gone}");
}

#[tokio::test]
async fn one_of_two_machines_at_once_is_paired() {
    let world = TestEnv::bare().start().await;
    for round in 0..3 {
        let name = format!("r{round}");
        let (one, two) = (
            Machine::new(&world, &format!("{name} one")),
            Machine::new(&world, &format!("{name} two")),
        );
        let first = bundle(&world, &name, &["--existing", "join"]).await;
        let second = copy(&first, &format!("{name} copy.json"));
        let (a, b) = tokio::join!(one.pair(&first), two.pair(&second));
        let won = [&a, &b].map(|done| done.status.success());
        assert!(won[0] != won[1], "{} / {}", a.stderr, b.stderr);
        let lost = if won[0] { &b } else { &a };
        assert!(lost.stderr.contains("used already"), "{}", lost.stderr);
        assert_ne!(one.identity().exists(), two.identity().exists());
    }
}

#[tokio::test]
async fn expired_bundle_is_refused_on_both_sides() {
    let world = TestEnv::bare().start().await;
    let machine = Machine::new(&world, "m1");
    let path = bundle(&world, "m1", &["--expires", "1s"]).await;
    change(&path, &[("expires_at", json!("2001-01-01T00:00:00Z"))]);
    let refused = machine.pair(&path).await.failure();
    assert!(refused.contains("expired at 2001-01-01"), "{refused}");
    assert!(!machine.config().exists(), "nothing was written");
    let_time_pass(Duration::from_millis(1500), "the key expires").await;
    // The file says otherwise: the relay decides.
    change(&path, &[("expires_at", json!("2999-01-01T00:00:00Z"))]);
    let refused = machine.pair(&path).await.failure();
    assert!(refused.contains("has expired"), "{refused}");
    let path = text(&path).to_owned() + "2";
    let create = [
        "key",
        "create",
        "--role",
        "bridge",
        "--tenant",
        world.tenant(),
    ];
    let (own, week) = (url(&world), ["--expires", "8d"]);
    let long = ["--bundle", &path, "--relay-url", &own];
    let refused = world
        .relay_cli_fails(&[&create[..], &long, &week].concat())
        .await;
    assert!(refused.contains("7 days"), "{refused}");
    assert!(!Path::new(&path).exists());
}

#[tokio::test]
async fn pairing_continues_after_a_crash_at_any_step() {
    let mut world = TestEnv::bare().start().await;
    let machine = Machine::new(&world, "m1");
    let bundle = bundle(&world, "m1", &[]).await;
    let kept = copy(&bundle, "kept.json");
    // The config, the CA and the key pair are written, and the relay does not respond.
    world.kill_relay().await;
    machine.pair(&bundle).await.failure();
    assert!(machine.config().exists() && !machine.identity().exists());
    let pending = machine.home.join("data/pairing.json");
    assert!(pending.exists() && bundle.exists());
    world.start_relay().await;
    machine.pair(&bundle).await.success();
    // The relay has registered the bridge, and the response was lost.
    let identity = read(&machine.identity());
    let members = ["relay", "instance", "private_key"];
    let begun: Value = members
        .iter()
        .map(|name| ((*name).to_owned(), identity[*name].clone()))
        .collect();
    fs::remove_file(machine.identity()).unwrap();
    write(&pending, begun.to_string().as_bytes());
    fs::copy(&kept, &bundle).unwrap();
    machine.pair(&bundle).await.success();
    let again = read(&machine.identity());
    assert_eq!(again["bridge_id"], identity["bridge_id"]);
    assert_eq!(again["instance"], identity["instance"]);
    // The identity is stored, and the file is still there; also the config is lost.
    fs::copy(&kept, &bundle).unwrap();
    fs::remove_file(machine.config()).unwrap();
    machine.pair(&bundle).await.success();
    assert!(!bundle.exists() && machine.config().exists());
    // Another key pair is another machine.
    fs::remove_file(machine.identity()).unwrap();
    let refused = machine.pair(&kept).await.failure();
    assert!(refused.contains("used already"), "{refused}");
}

#[tokio::test]
async fn bundle_of_another_relay_or_tenant_is_refused() {
    let world = TestEnv::bare().start().await;
    let machine = Machine::new(&world, "m1");
    let first = bundle(&world, "m1", &[]).await;
    machine.pair(&first).await.success();
    let config = fs::read_to_string(machine.config()).unwrap();
    let identity = fs::read(machine.identity()).unwrap();
    let next = bundle(&world, "m1", &["--existing", "replace"]).await;
    // As an attacker would send it: the bridge has targets by now.
    for (members, says) in [
        (("relay_url", json!("https://evil.example")), "relay.url of"),
        (("bridge", json!("m2")), "bridge.name of"),
        // Before the request: the key could be one of that tenant.
        (("tenant", json!("evil")), "this bridge belongs to acme"),
        (("relay_url", json!("http://localhost:1")), "https://"),
        (("bridge", json!("m1\u{1b}]0;x\u{7}")), "bridge: "),
        (("version", json!(2)), "version 2"),
    ] {
        let wrong = copy(&next, "wrong.json");
        change(&wrong, &[members]);
        let refused = machine.pair(&wrong).await.failure();
        assert!(refused.contains(says), "{says}: {refused}");
        let is_plain = |line: &str| line.chars().all(|c| !c.is_control());
        assert!(refused.lines().all(is_plain), "{refused:?}");
        assert_eq!(fs::read_to_string(machine.config()).unwrap(), config);
        assert_eq!(fs::read(machine.identity()).unwrap(), identity);
    }
    // A key of another tenant under the own tenant's name: the relay says whose it is.
    world.relay.create_tenant("evil").await;
    let evil = world.relay.create_key("evil", "bridge").await;
    let fresh = Machine::new(&world, "fresh");
    change(
        &next,
        &[
            ("client_id", json!(evil.client_id)),
            ("client_secret", json!(evil.client_secret)),
        ],
    );
    let refused = fresh.pair(&next).await.failure();
    assert!(refused.contains("its key is of evil"), "{refused}");
    assert!(!fresh.identity().exists());
}

#[tokio::test]
async fn ca_of_the_bundle_is_what_the_bridge_trusts() {
    let world = TestEnv::bare().start().await;
    let machine = Machine::new(&world, "m1");
    let path = bundle(&world, "m1", &[]).await;
    let kept = copy(&path, "kept.json");
    // Of a CA that this machine does not know, and the file does not have.
    change(&path, &[("ca_pem", Value::Null)]);
    let refused = machine.pair(&path).await.failure();
    assert!(refused.contains("certificate"), "{refused}");
    // The key is not spent by that.
    machine.pair(&kept).await.success();
    let config = fs::read_to_string(machine.config()).unwrap();
    assert!(config.contains("ca_file = "), "{config}");
}

#[tokio::test]
async fn bundle_is_written_to_a_new_file_only() {
    let world = TestEnv::bare().start().await;
    let (taken, target) = (world.dir().join("taken"), world.dir().join("target"));
    fs::write(&taken, "theirs").unwrap();
    let link = world.dir().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let keys = async || world.relay_cli(&["key", "list"]).await.lines().count();
    let before = keys().await;
    let create = [
        "key",
        "create",
        "--role",
        "bridge",
        "--tenant",
        world.tenant(),
    ];
    let url = url(&world);
    for path in [&taken, &link, &world.dir().join("none/file")] {
        let file = ["--bundle", text(path), "--relay-url", &url];
        let refused = world.relay_cli_fails(&[&create[..], &file].concat()).await;
        assert!(
            refused.contains("cannot write the pairing file"),
            "{refused}"
        );
    }
    let file = world.dir().join("file");
    let file = ["--bundle", text(&file)];
    let refused = world.relay_cli_fails(&[&create[..], &file].concat()).await;
    assert!(refused.contains("listen.public_url"), "{refused}");
    assert_eq!(fs::read_to_string(&taken).unwrap(), "theirs");
    assert!(!target.exists());
    assert_eq!(keys().await, before, "no key was made");
}

#[tokio::test]
async fn run_pairs_with_the_bundle_of_its_environment() {
    let world = TestEnv::bare().start().await;
    let machine = Machine::new(&world, "m1");
    let path = bundle(&world, "m1", &[]).await;
    let start = || {
        let mut run = command("integration-bridge");
        run.args(["run", "--config", text(&machine.config())]);
        run.env("BRIDGE_BUNDLE_FILE", &path);
        Running::spawn("bridge m1", run)
    };
    let first = start();
    first
        .wait_log("paired by the pairing file", LONG_TIMEOUT)
        .await;
    world
        .relay
        .wait_bridge(&world.admin, "m1", true, TIMEOUT)
        .await;
    first.kill9();
    assert!(path.exists(), "a mounted secret is not removed");
    // Paired: the file is of no more use, and may be gone.
    for is_gone in [false, true] {
        match is_gone {
            true => fs::remove_file(&path).unwrap(),
            false => change(&path, &[("expires_at", json!("2001-01-01T00:00:00Z"))]),
        }
        let next = start();
        next.wait_log("session up", LONG_TIMEOUT).await;
        next.kill9();
        // Nor is the file to blame for a mistake in the config.
        let config = fs::read_to_string(machine.config()).unwrap();
        let wrong = config.replacen("[relay]\n", "[relay]\nconnections = 99\n", 1);
        fs::write(machine.config(), wrong).unwrap();
        let mut run = command("integration-bridge");
        run.args(["run", "--config", text(&machine.config())]);
        run.env("BRIDGE_BUNDLE_FILE", &path);
        let mistaken = finish("run", run, LONG_TIMEOUT).await;
        assert_eq!(mistaken.status.code(), Some(5), "{}", mistaken.stderr);
        let names = mistaken.stderr.contains("1 to 8");
        assert!(names, "{}", mistaken.stderr);
        fs::write(machine.config(), config).unwrap();
    }
    let mut other = command("integration-bridge");
    other.args(["run", "--config", text(&world.dir().join("other.toml"))]);
    other.env("BRIDGE_BUNDLE_FILE", &path);
    let missing = finish("run", other, LONG_TIMEOUT).await;
    assert_eq!(missing.status.code(), Some(5), "{}", missing.stderr);
    assert!(
        missing.stderr.contains("pairing file"),
        "{}",
        missing.stderr
    );
}

#[tokio::test]
async fn api_returns_the_same_file() {
    let ca = "listen.public_ca_file";
    let world = TestEnv::bare()
        .relay(|relay| {
            relay
                .set("listen.public_url", "https://localhost:1")
                .set(ca, "ca.pem")
        })
        .start()
        .await;
    let create = |key: &ApiKey, body: Value| {
        let ask = Ask::post("/v1/pairing-files").key(key).json(&body);
        let api = world.api.clone();
        async move { api.send(ask).await }
    };
    let url = url(&world);
    let body = json!({"scope": {"bridges": ["m1"]}, "relay_url": url});
    let made = create(&world.admin, body.clone())
        .await
        .expect_status(201)
        .text();
    let path = world.dir().join("api.json");
    write(&path, made.as_bytes());
    let document = read(&path);
    assert_eq!(document["bridge"], "m1");
    assert_eq!(document["relay_url"], url);
    assert!(
        document["ca_pem"]
            .as_str()
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    let machine = Machine::new(&world, "m1");
    machine.pair(&path).await.success();
    let key = format!("/v1/keys/{}", document["client_id"].as_str().unwrap());
    let shown = world.get(key, &world.admin).await;
    assert_eq!(
        (&shown["state"], &shown["one_time"]),
        (&json!("spent"), &json!(true))
    );
    // Only for a bridge that the narrowed key manages.
    let narrow = world.key("admin", &["--bridge", "m2"]).await;
    let refused = create(&narrow, body).await;
    assert_eq!(refused.code(), "forbidden");
    let own = json!({"scope": {"bridges": ["m2"]}});
    let own = create(&narrow, own).await.expect_status(201).json();
    assert_eq!(own["relay_url"], "https://localhost:1");
    for (wrong, says) in [
        (json!({"relay_url": "http://a"}), "https://"),
        (json!({"bridge": "a b"}), "bridge"),
        (json!({"expires_at": "2999-01-01T00:00:00Z"}), "7 days"),
    ] {
        let refused = create(&world.admin, wrong).await;
        assert_eq!(refused.code(), "invalid_request");
        assert!(refused.text().contains(says), "{}", refused.text());
    }
}
