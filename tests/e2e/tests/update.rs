//! `update`: a program is replaced by a signed one, and by nothing else.
//!
//! The old program is a copy of the real one. The new ones are scripts that answer what a program is asked: its version,
//! `doctor --route`, and `run`.
#![cfg(target_os = "linux")]

mod release;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use release::{Home, Release, chmod, install, key, keys, manifest, script};
use ring::signature::KeyPair as _;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use support::process::finish;
use support::{LONG_TIMEOUT, Running, TIMEOUT, TestEnv, ThrowawayCa, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const NEW: &str = "999.1.0";

#[tokio::test]
async fn signed_program_replaces_the_old_one() {
    let home = Home::new();
    let own = key(1);
    home.configure("https://relay.example", &keys(&own));
    let tried = home.path.join("tried");
    let doctor = format!("echo \"$@\" > '{}'", tried.display());
    let release = Release::new(script(NEW, &doctor, "exit 1"), NEW, &own);
    let from = release.write(&home);

    let checked = home.update(&["--check", "--from", &from]).await.success();
    assert!(checked.contains("may be installed"), "{checked}");
    assert_eq!(home.left(), ["integration-bridge"]);
    assert!(!tried.exists(), "a check runs nothing");

    let old = std::fs::read(home.program()).unwrap();
    let output = home.update(&["--from", &from]).await.success();
    assert!(output.contains("installed 999.1.0"), "{output}");
    assert!(
        output.contains("no bridge runs with this config"),
        "{output}"
    );
    assert_eq!(home.version().await.trim(), "integration-bridge 999.1.0");
    let args = std::fs::read_to_string(&tried).unwrap();
    assert!(args.starts_with("doctor --route --config /"), "{args}");
    let previous = home.path.join("bin/integration-bridge.previous");
    assert!(std::fs::read(&previous).unwrap() == old);
    assert_eq!(
        home.left(),
        ["integration-bridge", "integration-bridge.previous"]
    );
    let mode = std::fs::metadata(home.program()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o7777, 0o755);
}

#[tokio::test]
async fn untrusted_release_changes_nothing() {
    let home = Home::new();
    let (own, stranger) = (key(1), key(2));
    let good = || script(NEW, "exit 0", "exit 1");
    home.configure("https://relay.example", "");
    let from = Release::new(good(), NEW, &own).write(&home);
    let message = home.refused(&["--from", &from]).await;
    assert!(message.contains("update.keys has no key"), "{message}");

    home.configure("https://relay.example", &keys(&own));
    let other = |field: &str, value: Value| {
        let mut document = manifest(&good(), NEW);
        document[field] = value;
        Release::with_manifest(good(), &document, &own)
    };
    let mut unsigned = Release::new(good(), NEW, &own);
    unsigned.signature.clear();
    let mut edited = Release::new(good(), NEW, &own);
    let at = edited.manifest.len() / 2;
    edited.manifest[at] ^= 1;
    let mut truncated = Release::new(good(), NEW, &own);
    truncated.program.pop();
    let mut longer = Release::new(good(), NEW, &own);
    longer.program.push(b'\n');
    let mut exchanged = Release::new(good(), NEW, &own);
    exchanged.program = script("999.1.1", "exit 0", "exit 1");
    let old = "0.0.1";
    let replayed = Release::new(script(old, "exit 0", "exit 1"), old, &own);
    let cases = [
        (Release::new(good(), NEW, &stranger), "is not by a key"),
        (unsigned, "has no signature"),
        (edited, "is not by a key"),
        (truncated, "truncated"),
        (longer, "more than"),
        (exchanged, "was damaged or exchanged"),
        (replayed, "--allow-downgrade"),
        (
            other("product", json!("integration-relay")),
            "is a release of integration-relay",
        ),
        (
            other("target", json!("x86_64-pc-windows-gnu")),
            "is for x86_64-pc-windows-gnu",
        ),
        (other("format", json!(2)), "has the format 2"),
        (other("size", json!(u64::MAX)), "the field size"),
        // Signed, and another version than its program.
        (
            Release::new(script("999.0.9", "exit 0", "exit 1"), NEW, &own),
            "does not report the version 999.1.0",
        ),
        (
            Release::new(script(NEW, "echo no route; exit 1", "exit 1"), NEW, &own),
            "it does not reach the relay",
        ),
        (
            Release::new(b"no program".to_vec(), NEW, &own),
            "the new program",
        ),
    ];
    for (release, expected) in cases {
        let from = release.write(&home);
        let message = home.refused(&["--from", &from]).await;
        assert!(message.contains(expected), "{expected}: {message}");
    }

    let from = Release::new(good(), NEW, &own).write(&home);
    for (setting, expected) in [
        ("pin = \"999.0.0\"", "update.pin"),
        ("window = \"mon 00:00-00:01\"", "update.window"),
    ] {
        // Once a week this test runs in the window.
        let is_window = setting.starts_with("window");
        let update = format!("{}\n{setting}", keys(&own));
        home.configure("https://relay.example", &update);
        if is_window && is_monday_midnight() {
            continue;
        }
        let message = home.refused(&["--from", &from]).await;
        assert!(message.contains(expected), "{expected}: {message}");
    }
    home.configure("https://relay.example", &keys(&own));
    std::fs::remove_file(home.path.join("release.sig")).unwrap();
    let message = home.refused(&["--from", &from]).await;
    assert!(message.contains("release.sig"), "{message}");
    // A directory that others may write to.
    let from = Release::new(good(), NEW, &own).write(&home);
    chmod(&home.path.join("bin"), 0o777);
    let message = home.refused(&["--from", &from]).await;
    assert!(message.contains("others may write"), "{message}");
}

/// Whether it is about midnight between Sunday and Monday, in UTC.
fn is_monday_midnight() -> bool {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // The first day of 1970 was a Thursday.
    let of_week = (now + 3 * 86_400) % (7 * 86_400);
    !(600..7 * 86_400 - 600).contains(&of_week)
}

#[tokio::test]
async fn downgrade_needs_its_option() {
    let home = Home::new();
    let own = key(1);
    home.configure("https://relay.example", &keys(&own));
    let old = "0.0.1";
    let release = Release::new(script(old, "exit 0", "exit 1"), old, &own);
    let from = release.write(&home);
    home.refused(&["--from", &from]).await;
    home.update(&["--from", &from, "--allow-downgrade"])
        .await
        .success();
    assert_eq!(home.version().await.trim(), "integration-bridge 0.0.1");
}

#[tokio::test]
async fn killed_update_leaves_a_program_that_starts() {
    let home = Home::new();
    let own = key(1);
    home.configure("https://relay.example", &keys(&own));
    let tried = home.path.join("tried");
    let doctor = format!("touch '{}'; sleep 60", tried.display());
    let from = Release::new(script(NEW, &doctor, "exit 1"), NEW, &own).write(&home);
    let update = home.command(&["update", "--in-container", "--from", &from]);
    let running = Running::spawn("update", update);
    eventually(LONG_TIMEOUT, "the trial", async || tried.exists()).await;
    // Another one waits for no lock: it reports the first.
    let busy = home.update(&["--from", &from]).await.failure();
    assert!(busy.contains("in progress"), "{busy}");
    running.kill9();
    running.wait_exit(TIMEOUT).await;
    let version = home.version().await;
    assert!(!version.contains(NEW), "{version}");
    assert_eq!(
        home.left(),
        ["integration-bridge", "integration-bridge.new"]
    );
    // What is left does not disturb the next one.
    let from = Release::new(script(NEW, "exit 0", "exit 1"), NEW, &own).write(&home);
    home.update(&["--from", &from]).await.success();
    assert_eq!(home.version().await.trim(), "integration-bridge 999.1.0");
}

#[tokio::test]
async fn program_is_downloaded_by_https_only() {
    let home = Home::new();
    let own = key(1);
    let ca = ThrowawayCa::new();
    let release = Release::new(script(NEW, "exit 0", "exit 1"), NEW, &own);
    let files = HashMap::from([
        ("/release".to_owned(), release.program.clone()),
        ("/release.manifest".to_owned(), release.manifest.clone()),
        ("/release.sig".to_owned(), release.signature.clone()),
    ]);
    let port = serve(&ca, files).await;
    let url = format!("https://localhost:{port}/release");
    home.configure("https://relay.example", &keys(&own));
    // Its certificate is not trusted.
    home.refused(&["--from", &url]).await;
    let config = std::fs::read_to_string(home.config()).unwrap();
    let file = ca.write_to(&home.path);
    let trusted = config.replace(
        "proxy = \"none\"",
        &format!("proxy = \"none\"\nca_file = \"{}\"", file.display()),
    );
    std::fs::write(home.config(), trusted).unwrap();
    for (wrong, expected) in [
        (format!("http://localhost:{port}/release"), "https://"),
        (
            format!("https://localhost:{port}/moved"),
            "redirects are not followed",
        ),
        (format!("https://localhost:{port}/none"), "HTTP 404"),
        (format!("{url}?token=1"), "query"),
    ] {
        let message = home.refused(&["--from", &wrong]).await;
        assert!(message.contains(expected), "{expected}: {message}");
    }
    home.update(&["--from", &url]).await.success();
    assert_eq!(home.version().await.trim(), "integration-bridge 999.1.0");
}

/// Serves files by HTTPS for `localhost`, and redirects the paths that begin with `/moved`. Returns the port.
async fn serve(ca: &ThrowawayCa, files: HashMap<String, Vec<u8>>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = TlsAcceptor::from(ca.server_config(&["localhost"], &["http/1.1"]));
    let files = Arc::new(files);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, files) = (tls.clone(), files.clone());
            tokio::spawn(async move {
                let mut stream = tls.accept(tcp).await.ok()?;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.ok()?);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1)?;
                let (status, body) = match files.get(path) {
                    Some(body) => ("200 OK", body.as_slice()),
                    None if path.starts_with("/moved") => {
                        ("302 Found\r\nLocation: /release", &[][..])
                    }
                    None => ("404 Not Found", &[][..]),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(body).await.ok()?;
                stream.shutdown().await.ok()
            });
        }
    });
    port
}

#[tokio::test]
async fn version_above_the_operators_newest_waits() {
    let own = key(1);
    let public = STANDARD.encode(own.public_key());
    let world = TestEnv::builder()
        .relay(|relay| relay.set("bridges.version_newest", "999.0.0"))
        .bridge(|bridge| bridge.set("update.keys", vec![public]))
        .start()
        .await;
    eventually(LONG_TIMEOUT, "the newest version", async || {
        world.bridge.status().await["version"]["newest"] == "999.0.0"
    })
    .await;
    let home = Home::new();
    let from = Release::new(script(NEW, "exit 0", "exit 1"), NEW, &own).write(&home);
    let check = ["update", "--check", "--from", &from];
    let message = world.bridge_cli(&check).await.failure();
    assert!(message.contains("--allow-newer"), "{message}");
    let allowed = [&check[..], &["--allow-newer"]].concat();
    let output = world.bridge_cli(&allowed).await.success();
    assert!(output.contains("may be installed"), "{output}");
}

/// A service manager that starts and restarts the program of a home. The real one is tested with the packages.
struct FakeManager<'a> {
    home: &'a Home,
}

impl<'a> FakeManager<'a> {
    fn new(home: &'a Home) -> Self {
        let dir = home.path.join("manager");
        std::fs::create_dir_all(&dir).unwrap();
        let (program, config, home_dir) = (home.program(), home.config(), &home.path);
        let text = format!(
            "#!/bin/sh\n\
             # The service is that of the user, so that the test needs no root.\n\
             [ \"$1\" = --user ] || {{ echo MainPID=0; exit 0; }}\n\
             pid=$(cat '{home}/pid' 2>/dev/null)\n\
             case \"$2\" in\n\
             show) echo \"MainPID=$pid\" ;;\n\
             restart)\n\
               if [ -n \"$pid\" ]; then kill \"$pid\" 2>/dev/null\n\
                 while [ -e \"/proc/$pid/exe\" ]; do sleep 0.1; done\n\
               fi\n\
               '{program}' run --config '{config}' >> '{home}/log' 2>&1 < /dev/null &\n\
               echo $! > '{home}/pid' ;;\n\
             esac\n",
            home = home_dir.display(),
            program = program.display(),
            config = config.display(),
        );
        let written = dir.join("text");
        std::fs::write(&written, text).unwrap();
        install(&written, &dir.join("systemctl"));
        Self { home }
    }

    fn path(&self) -> String {
        let own = self.home.path.join("manager");
        let path = std::env::var("PATH").unwrap();
        format!("{}:{path}", own.display())
    }

    fn restart(&self) {
        let mut command = Command::new(self.home.path.join("manager/systemctl"));
        let status = command.args(["--user", "restart"]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for FakeManager<'_> {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(self.home.path.join("pid")) {
            let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
        }
    }
}

#[tokio::test]
async fn program_that_does_not_connect_is_rolled_back() {
    let own = key(1);
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    let home = Home::new();
    // The identity and the config of the bridge that was paired.
    let config = std::fs::read_to_string(world.bridge_config()).unwrap();
    std::fs::write(
        home.config(),
        format!("{config}\n[update]\n{}\n", keys(&own)),
    )
    .unwrap();
    let manager = FakeManager::new(&home);
    manager.restart();
    world.wait_online().await;

    let release = Release::new(script(NEW, "exit 0", "sleep 1; exit 1"), NEW, &own);
    let from = release.write(&home);
    let before = std::fs::read(home.program()).unwrap();
    let mut update = home.command(&["update", "--in-container", "--from", &from, "--wait", "10s"]);
    update.env("PATH", manager.path());
    let message = finish("update", update, LONG_TIMEOUT * 2).await.failure();
    assert!(message.contains("did not connect"), "{message}");
    assert!(message.contains("is back and connected"), "{message}");
    assert!(std::fs::read(home.program()).unwrap() == before);
    assert_eq!(home.left(), ["integration-bridge"]);
    world.wait_online().await;
}

#[tokio::test]
async fn route_check_needs_no_running_bridge() {
    let mut world = TestEnv::start().await;
    let report = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let route = ["doctor", "--route", "--json"];
    let output = world.bridge_cli(&route).await.success();
    let checks = report(&output);
    let hops = |report: &Value| -> Vec<String> {
        let checks = report["checks"].as_array().unwrap().iter();
        checks
            .map(|check| check["hop"].as_str().unwrap().to_owned())
            .collect()
    };
    let found = hops(&checks);
    assert!(found.contains(&"websocket".to_owned()), "{found:?}");
    for absent in ["endpoint", "tunnel"] {
        assert!(!found.contains(&absent.to_owned()), "{found:?}");
    }
    world.stop_bridge().await;
    world.bridge_cli(&route).await.success();
    world.kill_relay().await;
    world.bridge_cli(&route).await.failure();
}
