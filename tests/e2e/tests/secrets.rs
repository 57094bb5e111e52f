//! Secrets stay out of the journal and out of core dumps.

use support::process::{command, finish};
use support::{LONG_TIMEOUT, TempDir, TestEnv, eventually};

/// Returns the secret in the file of the first key, after checks of its mode and of where else it is.
fn first_secret(dir: &std::path::Path, shown: &str) -> String {
    let path = dir.join("first-admin-key.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let secret = text.split_whitespace().last().unwrap().to_owned();
    assert!(secret.starts_with("ibs_"), "{text}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
    assert!(shown.contains(path.to_str().unwrap()), "{shown}");
    assert!(!shown.contains("ibs_"), "{shown}");
    secret
}

#[tokio::test]
async fn first_key_is_in_a_private_file() {
    let world = TestEnv::start().await;
    // The first start: its standard output is a pipe, as with a service.
    let shown = eventually(LONG_TIMEOUT, "the first key is shown", async || {
        let lines = world.relay.process().log();
        let all: Vec<_> = lines.into_iter().map(|line| line.text).collect();
        let all = all.join("\n");
        all.contains("first-admin-key.txt").then_some(all)
    })
    .await;
    let dir = world
        .relay_files()
        .into_iter()
        .find(|path| path.ends_with("first-admin-key.txt"))
        .unwrap();
    let secret = first_secret(dir.parent().unwrap(), &shown);
    let id = std::fs::read_to_string(&dir).unwrap();
    let id = id.split_whitespace().nth(2).unwrap().to_owned();
    let key = support::ApiKey::new(id, secret);
    let tenants = world.get("/v1/tenants", &key).await;
    assert!(tenants.to_string().contains("acme"), "{tenants}");

    // `init` does the same, unless a program asks for JSON.
    let home = TempDir::new("init");
    let init = |name: &str, args: &[&str]| {
        let dir = home.join(name);
        let mut init = command("integration-relay");
        init.arg("init")
            .args(args)
            .env("RELAY_CONFIG", home.join("none.toml"))
            .env("RELAY_LISTEN_INTERNAL", "127.0.0.1:1")
            .env(
                "RELAY_STORAGE_URL",
                format!("sqlite://{}", dir.join("relay.db").display()),
            );
        std::fs::create_dir(&dir).unwrap();
        finish("init", init, LONG_TIMEOUT)
    };
    let shown = init("text", &[]).await.success();
    first_secret(&home.join("text"), &shown);
    let shown = init("json", &["--json"]).await.success();
    assert!(shown.contains("\"client_secret\": \"ibs_"), "{shown}");
    assert!(!home.join("json").join("first-admin-key.txt").exists());
}

#[tokio::test]
async fn first_key_is_an_event_of_a_json_log() {
    let builder = TestEnv::builder().relay(|relay| relay.set("log.format", "json"));
    let world = builder.start().await;
    let lines = || {
        let lines = world.relay.process().log().into_iter();
        lines.map(|line| line.text).collect::<Vec<_>>()
    };
    let event = eventually(LONG_TIMEOUT, "the first key is logged", async || {
        let names_file = |line: &String| line.contains("first-admin-key.txt");
        lines().into_iter().find(names_file)
    })
    .await;
    let home = world.relay.config().parent().unwrap();
    first_secret(home, &event);
    for line in lines() {
        let parsed = serde_json::from_str::<serde_json::Value>(&line);
        assert!(parsed.is_ok_and(|line| line.is_object()), "{line}");
        assert!(!line.contains("ibs_"), "{line}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn programs_leave_no_core_dump() {
    let world = TestEnv::start().await;
    for process in [world.relay.process(), world.bridge.process()] {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let words: Vec<_> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{}: {core}", process.name());
    }
}
