//! The first command of the README.

use std::process::Stdio;
use std::time::{Duration, Instant};
use support::process::{self, Running};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn once_tells_of_an_executed_call_and_exits_with_zero() {
    let mut command = process::command("quickstart");
    command.arg("--once");
    let said = process::finish("quickstart", command, Duration::from_secs(30)).await.success();
    assert!(said.contains("executed"), "{said}");
}

#[tokio::test]
async fn json_is_one_object_with_everything_to_go_on() {
    let mut command = process::command("quickstart");
    command.args(["--once", "--json"]);
    let said = process::finish("quickstart", command, Duration::from_secs(30)).await.success();
    let told: serde_json::Value = serde_json::from_str(&said).expect("one JSON object");
    for key in ["relay_url", "ca_file", "caller", "call"] {
        assert!(!told[key].is_null(), "{key} in {told}");
    }
    assert_eq!(told["call"]["execution"], "executed");
}

#[tokio::test]
async fn the_first_word_comes_within_a_second_and_it_stays_until_it_is_ended() {
    let start = Instant::now();
    let mut child = process::command("quickstart")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let mut curl = None;
    while curl.is_none() {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
        let line = line.unwrap().unwrap().expect("it stays up");
        curl = line.contains("curl ").then_some(line);
    }
    assert!(child.try_wait().unwrap().is_none());
    drop(child);
    let _: Option<Running> = None;
}
