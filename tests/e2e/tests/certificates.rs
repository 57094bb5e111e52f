//! Certificates as administrators have them, and which of them counts for which request.

use serde_json::json;
use std::path::Path;
use std::time::Duration;
use support::setup::{Allow, Endpoint, path};
use support::{Ask, Target, TempDir, TestEnv, ThrowawayCa, eventually};

const TIMEOUT: Duration = Duration::from_secs(20);

fn write(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[tokio::test]
async fn self_signed_certificate_is_trusted_as_itself() {
    let names = ["localhost", "127.0.0.1"];
    let own = ThrowawayCa::self_signed(&names);
    let target = Target::start_tls_with(&own).await;
    let dir = TempDir::new("self-signed");
    let right = write(&dir, "own.pem", &own.cert_pem);
    // As an editor of Windows saves it.
    let utf16: Vec<u8> = format!("\u{feff}{}", own.cert_pem.replace('\n', "\r\n"))
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let windows = write(&dir, "windows.pem", utf16);
    let other = write(&dir, "other.pem", ThrowawayCa::self_signed(&names).cert_pem);
    let url = target.url("/");
    let endpoint = |name: &str, file: &Path| Endpoint::new(name, &*url).set("ca_file", path(file));
    let world = TestEnv::builder()
        .endpoint(endpoint("right", &right))
        .endpoint(endpoint("windows", &windows))
        .endpoint(endpoint("other", &other))
        .start()
        .await;
    let ask = |name: &str| Ask::get(format!("/v1/endpoints/{name}/small")).key(&world.caller);
    world.api.send(ask("right")).await.expect_status(200);
    world.api.send(ask("windows")).await.expect_status(200);
    let refused = world.api.send(ask("other")).await.expect_status(502);
    assert_eq!(refused.code(), "target_tls");
}

#[tokio::test]
async fn ca_file_counts_for_its_own_entry_alone() {
    let ca = ThrowawayCa::new();
    let target = Target::start_tls(&ca).await;
    let dir = TempDir::new("entries");
    let right = ca.write_to(dir.path());
    let wrong = write(&dir, "wrong.pem", ThrowawayCa::new().pem());
    let allow = |file: &Path, paths: &str| {
        let rule = Allow::loopback(target.port()).set("paths", vec![paths]);
        rule.set("ca_file", path(file))
    };
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("right", target.url("/")).set("ca_file", path(&right)))
        .allow(allow(&right, "/small"))
        .allow(allow(&wrong, "/hook"))
        .start()
        .await;
    let call = |path: &str| world.call(json!({"url": target.url(path), "method": "GET"}));
    // Its connection is kept, and must not serve a request of an entry with another CA file.
    let ask = Ask::get("/v1/endpoints/right/small").key(&world.caller);
    world.api.send(ask).await.expect_status(200);
    let answer = call("/small").await.expect_status(200).json();
    assert_eq!(answer["response"]["status"], 200, "{answer:#}");
    let refused = call("/hook").await;
    assert_eq!(refused.code(), "target_tls", "{}", refused.text());
    let detail = refused.json()["detail"].to_string();
    assert!(detail.contains("[[allow]]"), "{detail}");
    assert!(detail.contains("targets.ca_file"), "{detail}");
}

#[tokio::test]
async fn check_of_the_config_opens_what_it_names() {
    let dir = TempDir::new("check");
    let ca = write(&dir, "ca.pem", ThrowawayCa::new().pem());
    let world = TestEnv::builder()
        .endpoint(Endpoint::new("one", "https://one.corp.example/").set("ca_file", path(&ca)))
        .start()
        .await;
    let output = world.bridge_cli(&["config", "check"]).await.success();
    assert!(output.contains(": valid\n"), "{output}");
    let output = world.relay_cli(&["config", "check"]).await;
    assert!(output.contains("is valid."), "{output}");

    std::fs::write(
        &ca,
        "-----BEGIN CERTIFICATE-----\nnot base64\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let finished = world.bridge_cli(&["config", "check"]).await;
    assert!(!finished.status.success());
    let output = finished.stdout;
    assert!(output.contains("endpoint one: ca_file: "), "{output}");
    assert!(output.contains("certificate 1 of 1 (line 1)"), "{output}");

    let config = std::fs::read_to_string(world.relay_config()).unwrap();
    let key = dir.join("other.key");
    std::fs::write(&key, ThrowawayCa::new().issue(&["localhost"]).key_pem).unwrap();
    let changed: Vec<String> = config
        .lines()
        .map(|line| match line.starts_with("key_file") {
            true => format!("key_file = {:?}", key.display().to_string()),
            false => line.to_owned(),
        })
        .collect();
    std::fs::write(world.relay_config(), changed.join("\n")).unwrap();
    // The findings are on standard output, the result on standard error.
    let output = world.relay_cli_fails(&["config", "check"]).await;
    assert!(output.contains("names what cannot be used"), "{output}");
}

#[tokio::test]
async fn expired_certificate_is_stored_with_a_warning() {
    let world = TestEnv::start().await;
    let dir = TempDir::new("client-certificate");
    let ca = ThrowawayCa::new();
    for (name, issued, is_expired) in [
        ("current", ca.issue(&["client"]), false),
        ("expired", ca.issue_expired(&["client"]), true),
    ] {
        let files = issued.write_to(dir.path(), name);
        let finished = world
            .bridge_cli(&[
                "credential",
                "set",
                name,
                "--kind",
                "certificate",
                "--origin",
                "https://ci.corp.example",
                "--certificate-file",
                files.cert_file.to_str().unwrap(),
                "--secret-file",
                files.key_file.to_str().unwrap(),
            ])
            .await;
        let said = &finished.stderr;
        assert!(finished.status.success(), "{said}");
        assert_eq!(said.contains("has expired (Jan"), is_expired, "{said}");
    }
}

#[tokio::test]
async fn check_warns_of_what_bridges_reject() {
    let world = TestEnv::start().await;
    let config = std::fs::read_to_string(world.relay_config()).unwrap();
    let changed = config.replace(
        "[listen]",
        "[listen]\nauthorities = [\"relay.other.example\"]",
    );
    assert_ne!(config, changed);
    std::fs::write(world.relay_config(), changed).unwrap();
    let output = world.relay_cli(&["config", "check"]).await;
    assert!(
        output.contains("warning: listen.authorities: the certificate in "),
        "{output}"
    );
    assert!(
        output.contains("is not for relay.other.example:"),
        "{output}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn opened_data_directory_is_closed_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut world = TestEnv::start().await;
    world.stop_bridge().await;
    // As Kubernetes does to a volume with `fsGroup` when a pod starts again.
    let data = world.bridge_data_dir();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    let open = |path: &Path, bits: u32| {
        let mode = std::fs::Permissions::from_mode(mode(path) | bits);
        std::fs::set_permissions(path, mode).unwrap();
    };
    open(&data, 0o2770);
    for entry in std::fs::read_dir(&data).unwrap().flatten() {
        let is_file = entry.file_type().unwrap().is_file();
        if is_file {
            open(&entry.path(), 0o660);
        }
    }
    let check = world.bridge_cli(&["config", "check"]).await.success();
    assert!(check.contains("other users have access"), "{check}");
    assert_ne!(mode(&data) & 0o077, 0, "a check changes nothing");
    world.start_bridge();
    world.wait_online().await;
    assert_eq!(mode(&data) & 0o077, 0);
    assert_eq!(mode(&data.join("identity.json")) & 0o077, 0);
    let ask = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(ask).await.expect_status(200);
}

#[tokio::test]
async fn corrected_ca_file_of_the_relay_is_tried_at_once() {
    let mut world = TestEnv::start().await;
    let right = std::fs::read_to_string(world.ca_file()).unwrap();
    world.stop_bridge().await;
    // The bridge's own copy: the fixture itself uses the other one.
    let dir = TempDir::new("relay-ca");
    let file = write(&dir, "ca.pem", ThrowawayCa::new().pem());
    let config = std::fs::read_to_string(world.bridge_config()).unwrap();
    let changed = config.replace(
        &format!("{:?}", world.ca_file().display().to_string()),
        &format!("{:?}", file.display().to_string()),
    );
    assert_ne!(config, changed);
    std::fs::write(world.bridge_config(), changed).unwrap();
    world.start_bridge();
    let process = world.bridge.process();
    process
        .wait_log("cannot connect to the relay", TIMEOUT)
        .await;
    std::fs::write(&file, right).unwrap();
    eventually(TIMEOUT, "a session with the corrected file", async || {
        (world.sessions().await > 0).then_some(())
    })
    .await;
}
