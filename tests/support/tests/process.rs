//! Processes are started, watched and killed. The ones here are the system's own.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::{Duration, Instant};

use support::process::{Running, finish};

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[tokio::test]
async fn process_output_is_awaited_and_kept() {
    let script = "echo early; sleep 0.1; echo late >&2; sleep 60";
    let running = Running::spawn("writer", shell(script));
    assert_eq!(running.wait_log("lat", SOON).await, "late");
    assert_eq!(running.wait_log("early", SOON).await, "early");
    assert_eq!(running.log_mark(), 2);
    assert!(running.rss_kib() > 0);
    assert!(running.peak_rss_kib() >= running.rss_kib());
}

#[tokio::test]
async fn wait_log_ends_with_the_process() {
    let began = Instant::now();
    let waited = tokio::spawn(async {
        let running = Running::spawn("brief", shell("echo something else"));
        running.wait_log("never", Duration::from_secs(60)).await
    });
    let panic = waited.await.expect_err("it panics").into_panic();
    let message = panic.downcast_ref::<String>().expect("a message");
    assert!(
        message.contains("ended without writing \"never\""),
        "{message}"
    );
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn process_ends_by_signal_and_on_drop() {
    let polite = Running::spawn(
        "polite",
        shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done"),
    );
    polite.wait_log("up", SOON).await;
    assert!(polite.exited().is_none());
    polite.terminate();
    assert_eq!(polite.wait_exit(SOON).await.code(), Some(7));

    let stubborn = Running::spawn(
        "stubborn",
        shell("trap '' TERM; echo up; while :; do sleep 0.01; done"),
    );
    stubborn.wait_log("up", SOON).await;
    let proc = format!("/proc/{}", stubborn.pid());
    assert!(std::fs::exists(&proc).expect("/proc"));
    drop(stubborn);
    assert!(!std::fs::exists(&proc).expect("/proc"));
}

#[tokio::test]
async fn cpu_time_is_counted() {
    let busy = Running::spawn("busy", shell("while :; do :; done"));
    let deadline = Instant::now() + SOON;
    while busy.cpu_time() < Duration::from_millis(50) {
        assert!(Instant::now() < deadline, "{:?}", busy.cpu_time());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn finish_runs_a_command_to_its_end() {
    let done = finish("ok", shell("echo out; echo err >&2"), SOON).await;
    assert_eq!(done.stderr, "err\n");
    assert_eq!(done.success(), "out\n");
    let failed = finish("not ok", shell("echo why >&2; exit 3"), SOON).await;
    assert_eq!(failed.status.code(), Some(3));
    assert_eq!(failed.failure(), "why\n");
}
