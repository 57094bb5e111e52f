//! Typical mistakes of administrators, operators and rule authors: what the programs say. The table is also the section
//! "Typical mistakes" of the troubleshooting guide.

mod table;

use serde_json::json;
use std::time::Duration;
use support::process::{self, Finished};
use support::setup::{Bridge as RealBridge, BridgeSetup};
use support::{ApiKey, Ask, TempDir, TestEnv, ports};
use table::Change::{Bridge, Relay, RelayVariable, Variable};
use table::{BRIDGE, CONFIG, IN_USE, InConfig, RELAY};

/// A command that ends soon.
const STEP: Duration = Duration::from_secs(20);

fn text(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

async fn check(dir: &TempDir, mistake: &InConfig) -> Finished {
    let replaced = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{}: {from}", mistake.name);
        text.replacen(from, to, 1)
    };
    let (bridge, relay) = match mistake.change {
        Bridge(from, to) => (replaced(BRIDGE, from, to), RELAY.to_owned()),
        Relay(from, to) => (BRIDGE.to_owned(), replaced(RELAY, from, to)),
        Variable(..) | RelayVariable(..) => (BRIDGE.to_owned(), RELAY.to_owned()),
    };
    let is_of_relay = matches!(mistake.change, Relay(..) | RelayVariable(..));
    let (program, config, text) = match is_of_relay {
        false => ("integration-bridge", dir.join("bridge.toml"), bridge),
        true => ("integration-relay", dir.join("relay.toml"), relay),
    };
    std::fs::write(&config, text).unwrap();
    let mut command = process::command(program);
    command.args(["config", "check", "--config"]).arg(&config);
    if let Variable(name, value) | RelayVariable(name, value) = mistake.change {
        command.env(name, value);
    }
    process::finish(mistake.name, command, STEP).await
}

#[tokio::test]
async fn config_mistake_is_named_with_its_place() {
    let dir = TempDir::new("mistakes");
    for mistake in CONFIG {
        let finished = check(&dir, mistake).await;
        let said = text(&finished);
        assert!(!finished.status.success(), "{}: {said}", mistake.name);
        assert!(said.contains(mistake.shown), "{}: {said}", mistake.name);
        // A line of the file, or the variable.
        let place = match mistake.change {
            Bridge(..) => "bridge.toml",
            Relay(..) => "relay.toml",
            Variable(name, _) | RelayVariable(name, _) => name,
        };
        assert!(said.contains(place), "{}: {said}", mistake.name);
        for foreign in [
            "serde",
            "TOML parse",
            "struct ",
            "i64",
            "u32",
            "expected one of",
            "Sesame",
            "Street",
        ] {
            assert!(!said.contains(foreign), "{}: {said}", mistake.name);
        }
    }
}

#[tokio::test]
async fn mistake_in_use_is_named() {
    let mut env = TestEnv::start().await;
    let key = env.key("bridge", &[]).await;
    let wrong = ApiKey::new(key.client_id.clone(), "ibs_wrong");
    let mut seen: Vec<(&str, String)> = Vec::new();

    let other = RealBridge::write(&env.relay, BridgeSetup::new("b2"), env.dir());
    let finished = other.try_pair(&wrong).await;
    seen.push(("a wrong client secret for pairing", text(&finished)));
    let finished = other.try_pair(&env.caller).await;
    seen.push(("an API key of another role for pairing", text(&finished)));
    let empty = ApiKey::new(key.client_id.clone(), "");
    seen.push((
        "an empty client secret",
        text(&other.try_pair(&empty).await),
    ));
    let finished = other.cli(&["run"]).await;
    seen.push(("run before pairing", text(&finished)));
    let finished = other.cli(&["status"]).await;
    seen.push(("status without a running bridge", text(&finished)));
    let finished = env.bridge_cli(&["run"]).await;
    seen.push(("two bridges with one data directory", text(&finished)));
    let finished = env.bridge_cli(&["log-level", "blah"]).await;
    seen.push(("a word that is no log level", text(&finished)));

    let dir = TempDir::new("mistakes-in-use");
    let secret = dir.join("secret");
    std::fs::write(&secret, "sesame\n").unwrap();
    let secret = secret.to_str().unwrap();
    let finished = env
        .bridge_cli(&[
            "credential",
            "set",
            "ci",
            "--user",
            "me",
            "--secret-file",
            secret,
        ])
        .await;
    seen.push(("a credential without an origin", text(&finished)));
    let closed = ports::free();
    let name = format!("https://localhost:{closed}");
    std::fs::write(dir.join("secret-of-key"), &key.client_secret).unwrap();
    let finished = other
        .cli(&[
            "pair",
            "--relay",
            &name,
            "--client-id",
            &key.client_id,
            "--client-secret-file",
            dir.join("secret-of-key").to_str().unwrap(),
        ])
        .await;
    seen.push(("the port of the relay is closed", text(&finished)));
    let twin = RealBridge::write(&env.relay, BridgeSetup::new("b1"), &dir);
    seen.push((
        "a bridge's name that is paired already",
        text(&twin.try_pair(&key).await),
    ));
    let mut command = process::command("integration-bridge");
    command
        .args(["config", "check", "--config"])
        .arg(dir.join("none.toml"));
    let finished = process::finish("config check", command, STEP).await;
    seen.push(("a config file that does not exist", text(&finished)));

    std::fs::write(dir.join("relay.toml"), RELAY).unwrap();
    let mut command = process::command("integration-relay");
    command
        .args(["key", "list", "--config"])
        .arg(dir.join("relay.toml"));
    let finished = process::finish("key list", command, STEP).await;
    seen.push(("a relay command with a wrong config", text(&finished)));
    for (name, args) in [
        (
            "a tenant that does not exist",
            &["tenant", "show", "nowhere"][..],
        ),
        (
            "a key without a tenant",
            &["key", "create", "--role", "caller"],
        ),
        (
            "a tenant's name with a blank",
            &["tenant", "create", "Acme Corp"],
        ),
    ] {
        seen.push((name, text(&env.relay.cli(args).await)));
    }

    let wrong = ApiKey::new(env.caller.client_id.clone(), "ibs_wrong");
    let small = Ask::get(env.endpoint("/small"));
    seen.push((
        "a wrong client secret of a caller",
        env.api.send(small.key(&wrong)).await.text(),
    ));
    let keys = Ask::get("/v1/keys").key(&env.caller);
    seen.push((
        "a caller's key for administration",
        env.api.send(keys).await.text(),
    ));
    let closed_target = format!("http://127.0.0.1:{}/", ports::free());
    for (name, call) in [
        (
            "a host that no rule allows",
            json!({"url": "http://other.example/", "bridge": "b1"}),
        ),
        (
            "a port that no rule allows",
            json!({"url": closed_target, "bridge": "b1"}),
        ),
        (
            "a misspelled field of a call",
            json!({"url": env.target.url("/small"), "methd": "GET"}),
        ),
        (
            "a timeout that is too short",
            json!({"url": env.target.url("/hang"), "method": "GET", "timeout_ms": 300}),
        ),
    ] {
        seen.push((name, env.call(call).await.text()));
    }
    let nowhere = Ask::get("/v1/endpoints/nowhere/").key(&env.caller);
    seen.push((
        "an endpoint that does not exist",
        env.api.send(nowhere).await.text(),
    ));
    env.stop_bridge().await;
    let call = json!({"url": env.target.url("/small"), "method": "GET"});
    seen.push(("a bridge that is stopped", env.call(call).await.text()));

    let refusing = TestEnv::builder()
        .allow(support::setup::Allow::loopback(closed))
        .start()
        .await;
    let call = json!({"url": format!("http://127.0.0.1:{closed}/"), "method": "GET"});
    seen.push((
        "a target whose port is closed",
        refusing.call(call).await.text(),
    ));

    // All at once: one run shows every message that has changed.
    let mut wrong = Vec::new();
    for (name, shown) in IN_USE {
        let found = seen.iter().find(|(own, _)| own == name);
        let (_, said) = found.unwrap_or_else(|| panic!("{name} was not made"));
        let is_secret = said.contains("ibs_wrong") || said.contains("sesame");
        if !said.contains(shown) || is_secret {
            wrong.push(format!("{name} lacks {shown:?}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen.len(), IN_USE.len());
}

#[tokio::test]
async fn closed_pipe_ends_a_command_quietly() {
    let dir = TempDir::new("closed-pipe");
    std::fs::write(dir.join("bridge.toml"), BRIDGE).unwrap();
    std::fs::write(dir.join("relay.toml"), RELAY).unwrap();
    let commands = [
        ("integration-bridge", "config check --config bridge.toml"),
        ("integration-bridge", "doctor --config bridge.toml"),
        ("integration-bridge", "--help"),
        ("integration-relay", "config check"),
        ("integration-relay", "openapi"),
        ("integration-relay", "--help"),
        ("quickstart", "--help"),
        ("quickstart", "--once"),
    ];
    for (program, args) in commands {
        let mut shell = std::process::Command::new("sh");
        // The reader has gone before the first byte.
        let line = format!("\"{}\" {args} | exec true", process::bin(program).display());
        shell.args(["-c", &line]).current_dir(dir.path());
        let finished = process::finish(&line, shell, STEP).await;
        assert!(
            !finished.stderr.contains("panicked"),
            "{line}: {}",
            finished.stderr
        );
        assert!(
            !finished.stderr.contains("error:"),
            "{line}: {}",
            finished.stderr
        );
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn key_that_cannot_be_shown_is_revoked() {
    let env = TestEnv::start().await;
    let config = env.relay_config();
    let run = async |command: &str, redirection: &str| {
        let mut shell = std::process::Command::new("sh");
        let line = format!("exec \"$0\" {command} --config \"$1\" {redirection}");
        shell.args(["-c", &line]);
        shell.arg(process::bin("integration-relay")).arg(&config);
        process::finish(command, shell, STEP).await.failure()
    };
    let state_of = async |name: &str| {
        let keys: serde_json::Value =
            serde_json::from_str(&env.relay_cli(&["key", "list", "--json"]).await).unwrap();
        let key = keys
            .as_array()
            .unwrap()
            .iter()
            .find(|key| key["name"] == name);
        key.map(|key| key["state"].as_str().unwrap().to_owned())
    };
    for format in ["", "--json"] {
        let name = format!("full{format}");
        let create = format!("key create --tenant acme --role caller --name {name} {format}");
        let said = run(&create, "> /dev/full").await;
        assert!(said.contains("the key ibk_"), "{said}");
        assert!(said.contains("the key is revoked"), "{said}");
        assert!(!said.contains("ibs_"), "{said}");
        assert_eq!(state_of(&name).await.as_deref(), Some("revoked"));
    }
    for redirection in [">&-", "> /dev/null"] {
        let create = "key create --tenant acme --role caller --name closed";
        let said = run(create, redirection).await;
        assert!(said.contains("nothing was changed"), "{said}");
        assert_eq!(state_of("closed").await, None);
    }
    let key = env.key("caller", &["--name", "kept"]).await;
    let rotate = format!("key rotate {} --overlap 1h", key.client_id);
    let said = run(&rotate, "> /dev/full").await;
    assert!(
        said.contains(&format!("key rotate {}`", key.client_id)),
        "{said}"
    );
    assert!(said.contains("stays valid for"), "{said}");
    assert_eq!(state_of("kept").await.as_deref(), Some("valid"));
}

#[test]
fn guide_lists_each_mistake() {
    let guide = include_str!("../../../deploy/guide/troubleshooting.md");
    let section = guide.split("\n## Typical mistakes\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mistakes = CONFIG.iter().map(|mistake| (mistake.name, mistake.shown));
    let all: Vec<_> = mistakes.chain(IN_USE.iter().copied()).collect();
    let cells = |(name, shown): &(&str, &str)| format!("| {name} | {} | ", code(shown));
    for row in &all {
        assert!(
            section.contains(&cells(row)),
            "the guide lacks: {}",
            cells(row)
        );
    }
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| --"));
    // The rows of TLS and of the network have their own table, with a link.
    let rows = rows.filter(|line| !line.contains("](#") && !line.starts_with("| mistake |"));
    assert_eq!(rows.count(), all.len());
}

/// A text as Markdown shows it literally, also one with backticks.
fn code(text: &str) -> String {
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}
