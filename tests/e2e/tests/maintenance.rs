//! What an operator does to a relay's files: restore, lost keys, commands as root, reload, log rotation.
#![cfg(unix)]

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::setup::{Relay, RelaySetup};
use support::{
    Ask, LONG_TIMEOUT, Running, TIMEOUT, TempDir, TestEnv, ThrowawayCa, eventually, let_time_pass,
    process,
};

fn with_part(path: &Path, part: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(part);
    name.into()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The relay was killed: its last changes are in the log of the database alone.
#[tokio::test]
async fn restore_leaves_no_log_of_the_old_database() {
    let mut world = TestEnv::start().await;
    let dir = world.relay_config().parent().unwrap().to_owned();
    let (database, copy) = (dir.join("relay.db"), dir.join("copy.db"));
    let copy_name = copy.to_str().unwrap();
    world.relay_cli(&["backup", copy_name]).await;
    let restore = ["restore", copy_name, "--replace"];
    let running = world.relay_cli_fails(&restore).await;
    assert!(running.contains("another process serves"), "{running}");
    let late = world.key("caller", &["--name", "late"]).await;
    world.kill_relay().await;
    assert!(with_part(&database, "-wal").exists());
    set_mode(&database, 0o644);
    set_mode(&copy, 0o644);
    world.relay_cli(&["restore", copy_name, "--replace"]).await;
    for part in ["-wal", "-shm", "-journal"] {
        assert!(!with_part(&database, part).exists(), "{part}");
    }
    assert_eq!(mode(&database), 0o600);
    let keys = world.relay_cli(&["key", "list"]).await;
    assert!(!keys.contains(&late.client_id), "{keys}");
    world.start_relay().await;
    world.wait_online_within(LONG_TIMEOUT).await;
    // The previous database is whole: restored again, it has the late key.
    world.kill_relay().await;
    let aside = fs::read_dir(&dir).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_str()
            .unwrap()
            .contains(".replaced-")
            .then_some(path)
    });
    let aside = aside.unwrap();
    let restore = ["restore", aside.to_str().unwrap(), "--replace"];
    let said = world.relay_cli(&restore).await;
    assert!(
        said.contains("not made by `integration-relay backup`"),
        "{said}"
    );
    let keys = world.relay_cli(&["key", "list"]).await;
    assert!(keys.contains(&late.client_id), "{keys}");
}

/// At whatever moment: the database is the old one, or the new one.
#[tokio::test]
async fn killed_restore_leaves_one_whole_database() {
    let mut world = TestEnv::start().await;
    let dir = world.relay_config().parent().unwrap().to_owned();
    let copy = dir.join("copy.db");
    world.relay_cli(&["backup", copy.to_str().unwrap()]).await;
    world.key("caller", &["--name", "late"]).await;
    world.kill_relay().await;
    for step in 0..12 {
        let mut restore = process::command("integration-relay");
        restore.arg("restore").arg(&copy).arg("--replace");
        restore.arg("--config").arg(world.relay_config());
        let running = Running::spawn("restore", restore);
        let_time_pass(Duration::from_millis(20 * step), "a step of the restore").await;
        running.kill9();
        running.wait_exit(TIMEOUT).await;
        let keys = world.relay_cli(&["key", "list"]).await;
        assert!(keys.contains(&world.caller.client_id), "{step}: {keys}");
    }
    world.start_relay().await;
    world.wait_online_within(LONG_TIMEOUT).await;
}

#[tokio::test]
async fn damaged_backup_replaces_nothing() {
    let mut world = TestEnv::start().await;
    let dir = world.relay_config().parent().unwrap().to_owned();
    let copy = dir.join("copy.db");
    world.relay_cli(&["backup", copy.to_str().unwrap()]).await;
    let mut bytes = fs::read(&copy).unwrap();
    let half = bytes.len() / 2;
    bytes[half..half + 8192].fill(0xff);
    fs::write(&copy, bytes).unwrap();
    world.kill_relay().await;
    let error = world
        .relay_cli_fails(&["restore", copy.to_str().unwrap(), "--replace"])
        .await;
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(!dir.join("relay.db.restoring").exists());
    world.start_relay().await;
    world.wait_online_within(LONG_TIMEOUT).await;
}

/// The copy is put in place by hand, on a machine without the file that would detect it.
#[tokio::test]
async fn backup_in_place_by_hand_has_deliveries_paused() {
    let mut world = TestEnv::start().await;
    let dir = world.relay_config().parent().unwrap().to_owned();
    let (database, copy) = (dir.join("relay.db"), dir.join("copy.db"));
    world.relay_cli(&["backup", copy.to_str().unwrap()]).await;
    world.terminate_relay(LONG_TIMEOUT).await;
    fs::rename(&copy, &database).unwrap();
    fs::remove_file(dir.join("relay-secrets.generation")).unwrap();
    world.start_relay().await;
    let status = world.relay_cli(&["deliveries", "status"]).await;
    assert!(status.contains("are paused"), "{status}");
}

#[tokio::test]
async fn lost_key_file_is_reported_and_not_replaced() {
    let mut world = TestEnv::start().await;
    let call = serde_json::json!({"mode": "deliver", "url": world.target.url("/hook")});
    world.call(call).await.expect_status(202);
    world.terminate_relay(LONG_TIMEOUT).await;
    let file = world.relay_config().with_file_name("relay-secrets.key");
    let kept = file.with_extension("kept");
    fs::rename(&file, &kept).unwrap();
    let error = world.relay_cli_fails(&["serve"]).await;
    assert!(
        error.contains("does not exist") && error.contains("storage.key_file"),
        "{error}"
    );
    assert!(!file.exists());
    fs::rename(&kept, &file).unwrap();
    world.start_relay().await;
}

/// The service runs as another user, to whom the directory belongs.
#[tokio::test]
async fn files_of_root_belong_to_the_directory_owner() {
    let dir = TempDir::new("owner");
    let ca = Arc::new(ThrowawayCa::new());
    let mut relay = Relay::write(RelaySetup::default(), &ca, &dir);
    let home = relay.config().parent().unwrap().to_owned();
    if chown(&home, Some(65534), Some(65534)).is_err() {
        return;
    }
    relay.create_tenant("acme").await;
    relay.create_key("acme", "caller").await;
    let backup = home.join("copy.db");
    relay
        .cli(&["backup", backup.to_str().unwrap()])
        .await
        .success();
    let restore = ["restore", backup.to_str().unwrap(), "--replace"];
    relay.cli(&restore).await.success();
    relay.start().await;
    relay.kill9();
    let mut own = 0;
    for entry in fs::read_dir(&home).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("relay.db") || name.starts_with("relay-secrets") {
            let found = fs::symlink_metadata(&path).unwrap();
            // The socket is removed at the next start, which the directory's owner may do.
            if !name.ends_with(".sock") {
                assert_eq!(found.uid(), 65534, "{name}");
                own += 1;
            }
        }
    }
    assert!(own >= 5, "{own} files");
}

#[tokio::test]
async fn reload_command_reports_a_rejected_config() {
    let mut world = TestEnv::start().await;
    let said = world.relay_cli(&["reload"]).await;
    assert!(said.contains("has read its config"), "{said}");
    let config = fs::read_to_string(world.relay_config()).unwrap();
    let changed = format!("{config}\n[limits]\nconnections_max = 7\n");
    fs::write(world.relay_config(), changed).unwrap();
    let error = world.relay_cli_fails(&["reload"]).await;
    assert!(error.contains("limits.connections_max"), "{error}");
    fs::write(world.relay_config(), format!("{config}\n[nonsense]\n")).unwrap();
    let error = world.relay_cli_fails(&["reload"]).await;
    assert!(error.contains("nonsense"), "{error}");
    fs::write(world.relay_config(), &config).unwrap();
    world.kill_relay().await;
    let error = world.relay_cli_fails(&["reload"]).await;
    assert!(error.contains("no relay runs with this config"), "{error}");
    // The same for the bridge.
    let config = fs::read_to_string(world.bridge_config()).unwrap();
    fs::write(world.bridge_config(), config.replace("\"b1\"", "\"b2\"")).unwrap();
    let error = world.bridge_cli(&["reload"]).await.failure();
    assert!(error.contains("bridge.name"), "{error}");
}

#[tokio::test]
async fn lists_show_expiry_narrowing_and_connections() {
    let mut world = TestEnv::start().await;
    world
        .key("caller", &["--expires", "90d", "--host", "*.corp.example"])
        .await;
    let small = Ask::get(world.endpoint("/small")).key(&world.caller);
    world.api.send(small).await.expect_status(200);
    let keys = world.relay_cli(&["key", "list"]).await;
    let header = keys.lines().next().unwrap();
    for column in ["EXPIRES", "LAST USED", "NARROWED TO"] {
        assert!(header.contains(column), "{keys}");
    }
    assert!(keys.contains("host *.corp.example"), "{keys}");
    let list = world.relay_cli(&["bridge", "list"]).await;
    for part in [
        "CONNECTED",
        "since 20",
        "session",
        "integration-bridge/",
        "127.0.0.1",
    ] {
        assert!(list.contains(part), "{part}: {list}");
    }
    let list = world.relay_cli(&["bridge", "list", "--json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["online"], true);
    let session = &list[0]["sessions"][0];
    assert!(
        session["software"].is_string() && session["up_s"].is_u64(),
        "{list}"
    );
    // Without a running relay it is not known, which differs from not connected.
    world.kill_relay().await;
    let list = world.relay_cli(&["bridge", "list", "--json"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert!(list[0]["online"].is_null(), "{list}");
}

/// Runs logrotate with the example of this repository, for these log files.
fn logrotate(dir: &TempDir, files: &[PathBuf], pids: &[u32], method: &str) -> bool {
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/examples/logrotate.conf"
    );
    let example = fs::read_to_string(example).unwrap();
    let (_, body) = example.split_once('{').unwrap();
    let (options, _) = body.split_once("postrotate").unwrap();
    let options = match method {
        "move" => {
            let kill: Vec<_> = pids.iter().map(|pid| format!("kill -HUP {pid}")).collect();
            format!("{options}postrotate\n{}\nendscript\n", kill.join("\n"))
        }
        method => format!("{options}{method}\n"),
    };
    let names: Vec<_> = files
        .iter()
        .map(|file| format!("\"{}\"", file.display()))
        .collect();
    let text = format!("{} {{\n{options}}}\n", names.join(" "));
    let config = dir.write("logrotate.conf", text);
    set_mode(&config, 0o600);
    let mut run = Command::new("logrotate");
    run.arg("--force").arg("--state").arg(dir.join("state"));
    match run.arg(&config).output() {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn logs_survive_rotation_by_another_program() {
    let dir = TempDir::new("rotated");
    let [relay, bridge, audit] =
        ["relay.log", "bridge.log", "audit.jsonl"].map(|name| dir.join(name));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let world = TestEnv::builder()
        .relay(|setup| setup.set("log.file", text(&relay)))
        .bridge(|setup| {
            setup
                .set("log.file", text(&bridge))
                .set("audit.file", text(&audit))
        })
        .start()
        .await;
    let files = [relay.clone(), bridge.clone(), audit.clone()];
    let pids = [world.relay.process().pid(), world.bridge.process().pid()];
    for method in ["move", "copytruncate"] {
        if !logrotate(&dir, &files, &pids, method) {
            return;
        }
        eventually(TIMEOUT, &format!("lines after {method}"), async || {
            let failing = serde_json::json!({"url": "http://127.0.0.1:1/", "method": "POST"});
            world.call(failing).await;
            files.iter().all(|file| {
                fs::read(file).is_ok_and(|bytes| !bytes.is_empty() && !bytes.contains(&0))
            })
        })
        .await;
        let verified = world.bridge_cli(&["audit", "verify"]).await.success();
        assert!(verified.contains("valid"), "{verified}");
    }
    let kept = fs::read_dir(dir.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("relay.log.")
    });
    assert_eq!(kept.count(), 2);
    // Also without a signal, within a second.
    fs::rename(&relay, dir.join("relay.moved")).unwrap();
    eventually(Duration::from_secs(10), "a new file", async || {
        let stranger = support::ApiKey::new("x", "y");
        world.api.send(Ask::get("/v1/bridges").key(&stranger)).await;
        relay.exists()
    })
    .await;
}
