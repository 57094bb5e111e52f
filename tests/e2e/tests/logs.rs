//! Standard error, standard output and log files that cannot be written: the programs lose log lines only.
#![cfg(unix)]

use serde_json::json;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Ask, LONG_TIMEOUT, TestEnv, eventually, process};

/// The reader of a program's standard error.
#[derive(Debug, Clone, Copy)]
enum Reader {
    /// A pipe whose reader has gone.
    Gone,
    /// A pipe whose reader does not read.
    Stuck,
    /// A disk without room.
    Full,
}

/// A process, killed with the value, and the end of its pipe.
struct Own {
    child: Child,
    _reader: Option<std::io::PipeReader>,
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Own {
    fn spawn(mut command: Command, reader: Reader) -> Self {
        let (stderr, kept) = match reader {
            Reader::Full => (
                Stdio::from(File::options().write(true).open("/dev/full").unwrap()),
                None,
            ),
            Reader::Gone | Reader::Stuck => {
                let (read, write) = std::io::pipe().unwrap();
                let kept = matches!(reader, Reader::Stuck).then_some(read);
                (Stdio::from(write), kept)
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        Self {
            child: command.spawn().unwrap(),
            _reader: kept,
        }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

fn program(name: &str, verb: &str, config: &Path) -> Command {
    let mut command = process::command(name);
    command.arg(verb).arg("--config").arg(config);
    command
}

async fn until_ready(world: &TestEnv) {
    eventually(LONG_TIMEOUT, "200 from /readyz", async || {
        let ask = Ask::get("/readyz").within(Duration::from_secs(5));
        let asking = world.admin_origin.try_send(ask);
        asking.await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

/// Sends requests that succeed, are rejected and fail: all of them are logged at this level.
async fn serves(world: &TestEnv) {
    for _ in 0..20 {
        let small = Ask::get(world.endpoint("/small")).key(&world.caller);
        world.api.send(small).await.expect_status(200);
        let call = json!({"url": world.target.url("/small"), "method": "POST", "body": "x"});
        world.call(call).await.expect_status(200);
        let refused = json!({"url": "http://127.0.0.1:1/", "method": "POST"});
        let refused = world.call(refused).await;
        assert!(refused.status.as_u16() >= 400, "{}", refused.status);
        let stranger = support::ApiKey {
            client_id: "x".into(),
            client_secret: "y".into(),
        };
        let list = Ask::get("/v1/bridges").key(&stranger);
        assert!(matches!(
            world.api.send(list).await.status.as_u16(),
            401 | 429
        ));
    }
}

/// Both programs, with the loudest log there is.
async fn both_serve_with(reader: Reader) {
    let mut world = TestEnv::builder()
        .bridge(|bridge| bridge.set("log.level", "trace"))
        .relay(|relay| relay.set("log.level", "trace"))
        .start()
        .await;
    world.kill_bridge().await;
    world.kill_relay().await;
    let relay_config = world.relay_config();
    let bridge_config = world.bridge_config();
    let mut relay = Own::spawn(program("integration-relay", "serve", &relay_config), reader);
    until_ready(&world).await;
    let mut bridge = Own::spawn(program("integration-bridge", "run", &bridge_config), reader);
    world.wait_online_within(LONG_TIMEOUT).await;
    serves(&world).await;
    assert!(relay.is_running() && bridge.is_running(), "{reader:?}");
}

#[tokio::test]
async fn programs_serve_without_a_log_reader() {
    both_serve_with(Reader::Gone).await;
}

#[tokio::test]
async fn programs_serve_with_a_stuck_log_reader() {
    both_serve_with(Reader::Stuck).await;
}

#[tokio::test]
async fn programs_serve_with_a_full_log_disk() {
    both_serve_with(Reader::Full).await;
}

#[tokio::test]
async fn quickstart_serves_without_a_log() {
    for reader in [Reader::Gone, Reader::Full] {
        let mut command = process::command("quickstart");
        command.arg("--once").env("RUST_LOG", "debug");
        let mut own = Own::spawn(command, reader);
        let what = format!("the end of quickstart, {reader:?}");
        eventually(LONG_TIMEOUT, &what, async || !own.is_running()).await;
        assert!(own.child.wait().unwrap().success(), "{reader:?}");
    }
}

/// Runs a command with this standard output, and returns its exit code and its standard error.
fn complaint(mut command: Command, stdout: Stdio) -> (Option<i32>, String) {
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    (child.wait().unwrap().code(), text)
}

#[tokio::test]
async fn command_with_closed_stdout_fails_quietly() {
    let world = TestEnv::start().await;
    let closed = || {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        Stdio::from(write)
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let bridge = |args: &[&str]| {
        let mut command = process::command("integration-bridge");
        command
            .args(args)
            .arg("--config")
            .arg(world.bridge_config());
        command
    };
    let relay = |args: &[&str]| {
        let mut command = process::command("integration-relay");
        command.args(args).arg("--config").arg(world.relay_config());
        command
    };
    for args in [
        &["status", "--watch"] as &[&str],
        &["config", "check"],
        &["credential", "list"],
    ] {
        let (code, text) = complaint(bridge(args), closed());
        assert_eq!((code, text.as_str()), (Some(1), ""), "{args:?}");
        let (code, text) = complaint(bridge(args), full());
        assert_eq!(code, Some(1), "{args:?}: {text}");
        assert!(text.contains("cannot write the output"), "{args:?}: {text}");
    }
    for args in [
        &["tenant", "list"] as &[&str],
        &["config", "check"],
        &["openapi"],
    ] {
        let (code, text) = complaint(relay(args), closed());
        assert_eq!((code, text.as_str()), (Some(1), ""), "{args:?}");
        let (code, text) = complaint(relay(args), full());
        assert_eq!(code, Some(1), "{args:?}: {text}");
        assert!(
            text.contains("output cannot be written"),
            "{args:?}: {text}"
        );
    }
}
