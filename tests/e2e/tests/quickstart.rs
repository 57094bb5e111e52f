//! `quickstart`, the first command of the README.

use std::time::Duration;
use support::eventually;
use support::process::{self, Running};

#[tokio::test]
async fn quickstart_once_reports_an_executed_call() {
    let mut command = process::command("quickstart");
    command.arg("--once");
    let output = process::finish("quickstart", command, Duration::from_secs(30)).await;
    let output = output.success();
    assert!(output.contains("executed"), "{output}");
}

#[tokio::test]
async fn quickstart_json_is_one_object() {
    let mut command = process::command("quickstart");
    command.args(["--once", "--json"]);
    let output = process::finish("quickstart", command, Duration::from_secs(30)).await;
    let output = output.success();
    let document: serde_json::Value = serde_json::from_str(&output).expect("one JSON object");
    for key in ["relay_url", "ca_file", "caller", "call"] {
        assert!(!document[key].is_null(), "{key} in {document}");
    }
    assert_eq!(document["call"]["execution"], "executed");
}

#[tokio::test]
async fn quickstart_starts_quickly_and_stays() {
    let running = Running::spawn("quickstart", process::command("quickstart"));
    eventually(Duration::from_secs(1), "a first line", async || {
        !running.log().is_empty()
    })
    .await;
    running.wait_log("curl ", Duration::from_secs(20)).await;
    assert!(running.exited().is_none());
    running.signal("INT");
    let status = running.wait_exit(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
}
