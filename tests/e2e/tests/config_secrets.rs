//! A secret in the bridge's config stays on its machine, whichever key contains it.

use std::collections::BTreeSet;
use std::path::Path;
use support::{Ask, TIMEOUT, TestEnv, eventually};

/// A proxy URL with a password, as an administrator may write it.
const SECRET: &str = "http://robot:canary-7f3a@proxy.corp.example:3128";
const CANARY: &str = "canary";

/// Section and key of each line of the example, also of those that are commented out.
fn keys() -> BTreeSet<(String, String)> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/bridge.toml");
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in std::fs::read_to_string(example).unwrap().lines() {
        if line.starts_with('[') {
            let brackets = line.chars().take_while(|one| *one == '[').count();
            section = line[..line.find(']').unwrap() + brackets].to_owned();
            continue;
        }
        let Some((key, _)) = line.trim_start_matches('#').split_once(" = ") else {
            continue;
        };
        let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if !section.is_empty() && key.bytes().all(is_key) {
            keys.insert((section.clone(), key.to_owned()));
        }
    }
    keys
}

/// A config with a value for one key, in place of any that it has.
fn with(text: &str, section: &str, key: &str, value: &str) -> String {
    let mut is_in = false;
    let mut kept: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            is_in = line == section && !kept.iter().any(|line| line == section);
        }
        if !(is_in && line.starts_with(&format!("{key} ="))) {
            kept.push(line.to_owned());
        }
    }
    let own = format!("{key} = {value}");
    match kept.iter().position(|line| line == section) {
        Some(at) => kept.insert(at + 1, own),
        None => kept.extend([section.to_owned(), own]),
    }
    kept.join("\n") + "\n"
}

async fn check(env: &[(&str, &str)]) {
    let mut builder = TestEnv::builder();
    for (name, value) in env {
        builder = builder.bridge(|bridge| bridge.env(name, value));
    }
    let site = builder.start().await;
    let api = site.relay.internal();
    let good = std::fs::read_to_string(site.bridge.config()).unwrap();
    let keys = keys();
    assert!(keys.len() > 40, "{keys:?}");
    for (section, key) in &keys {
        for value in [format!("\"{SECRET}\""), format!("[\"{SECRET}\"]")] {
            let bad = with(&good, section, key, &value);
            std::fs::write(site.bridge.config(), bad).unwrap();
            let reloaded = site.bridge.cli(&["reload"]).await;
            // The bridge sends its report before the response to this request.
            let small = Ask::get("/v1/endpoints/t/small").key(&site.caller);
            let answer = api.send(small).await.text();
            let bridges = api.send(Ask::get("/v1/bridges").key(&site.caller)).await;
            let bridges = bridges.expect_status(200).text();
            let missing = Ask::get("/v1/endpoints/t/status/500").key(&site.caller);
            let missing = api.send(missing).await.text();
            for text in [&answer, &bridges, &missing] {
                assert!(!text.contains(CANARY), "{section} {key}: {text}");
            }
            if !reloaded.status.success() {
                assert!(
                    bridges.contains("config_refused\":\""),
                    "{section} {key}: {bridges}"
                );
            }
        }
    }
    // Text that is no TOML at all.
    std::fs::write(site.bridge.config(), format!("{good}\n{SECRET}\n")).unwrap();
    site.bridge.cli(&["reload"]).await.failure();
    let place = format!("at line {};", good.lines().count() + 2);
    eventually(TIMEOUT, &place, async || {
        let bridges = api.send(Ask::get("/v1/bridges").key(&site.caller)).await;
        let bridges = bridges.expect_status(200).text();
        assert!(!bridges.contains(CANARY), "{bridges}");
        match bridges.contains(&place) {
            true => Ok(()),
            false => Err(bridges),
        }
    })
    .await;
}

#[tokio::test]
async fn rejected_config_text_is_hidden_from_callers() {
    check(&[]).await;
}

#[tokio::test]
async fn rejected_config_text_is_hidden_with_environment() {
    check(&[("BRIDGE_LOG_LEVEL", "debug")]).await;
}
