//! Typical mistakes of administrators, operators and rule authors: what the programs say. The table is also the section
//! "Typical mistakes" of the troubleshooting guide.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::json;
use std::time::Duration;
use support::process::{self, Finished};
use support::setup::{Bridge as RealBridge, BridgeSetup};
use support::{ApiKey, Ask, TempDir, TestEnv, ports};

/// A command that ends soon.
const STEP: Duration = Duration::from_secs(20);

const BRIDGE: &str = "\
[relay]
url = \"https://relay.example.com\"
[bridge]
name = \"berlin-dc1\"
data_dir = \"data\"
[targets]
connect_timeout = \"5s\"
[[endpoint]]
name = \"alm\"
url = \"https://alm.corp.example/qcbin/\"
[[allow]]
host = \"ci.corp.example\"
methods = [\"POST\"]
";

const RELAY: &str = "\
[listen]
public = \"127.0.0.1:8443\"
[tls]
self_signed = true
[storage]
url = \"sqlite://relay.db\"
";

/// A mistake in a file or in the environment of `config check`: its name, what is shown, and the change that makes
/// it.
struct InConfig {
    name: &'static str,
    shown: &'static str,
    change: Change,
}

enum Change {
    /// A text of the bridge's config, and what stands there instead.
    Bridge(&'static str, &'static str),
    /// The same in the relay's config.
    Relay(&'static str, &'static str),
    /// An environment variable of the bridge.
    Variable(&'static str, &'static str),
    /// An environment variable of the relay.
    RelayVariable(&'static str, &'static str),
}

use Change::{Bridge, Relay, RelayVariable, Variable};

const fn mistake(name: &'static str, shown: &'static str, change: Change) -> InConfig {
    InConfig {
        name,
        shown,
        change,
    }
}

const CONFIG: &[InConfig] = &[
    mistake(
        "typographic quotation marks in the config",
        "typographic quotation marks",
        Bridge("\"berlin-dc1\"", "\u{201c}berlin-dc1\u{201d}"),
    ),
    mistake(
        "a text without quotation marks",
        "write url = \"...\"",
        Bridge("\"https://relay.example.com\"", "https://relay.example.com"),
    ),
    mistake(
        "a missing quotation mark",
        "lacks its closing quotation mark",
        Bridge("\"berlin-dc1\"", "\"berlin-dc1"),
    ),
    mistake(
        "a backslash in double quotes",
        "single quotes",
        Bridge("\"data\"", "\"C:\\bridge\\data\""),
    ),
    mistake(
        "a colon instead of an equals sign",
        "and not a colon",
        Bridge("name = \"berlin-dc1\"", "name: \"berlin-dc1\""),
    ),
    mistake(
        "a duration without quotation marks",
        "write connect_timeout = \"5s\"",
        Bridge("\"5s\"", "5s"),
    ),
    mistake(
        "a duration that is a number",
        "a duration in quotes with its unit",
        Bridge("\"5s\"", "5"),
    ),
    mistake(
        "a duration without its unit",
        "is not a duration",
        Bridge("\"5s\"", "\"5\""),
    ),
    mistake(
        "a number in quotation marks",
        "a whole number without quotation marks",
        Bridge("[bridge]", "connections = \"2\"\n[bridge]"),
    ),
    mistake(
        "true or false in quotation marks",
        "true or false without quotation marks",
        Bridge("[targets]", "[targets]\nhttp2 = \"true\""),
    ),
    mistake(
        "[allow] instead of [[allow]]",
        "write [[allow]]",
        Bridge("[[allow]]", "[allow]"),
    ),
    mistake(
        "a section twice",
        "[relay] is there twice",
        Bridge("[targets]", "[relay]\n[targets]"),
    ),
    mistake(
        "a key twice",
        "name is there twice",
        Bridge("[targets]", "name = \"b\"\n[targets]"),
    ),
    mistake(
        "a key in the wrong section",
        "it belongs under [bridge]",
        Bridge("[bridge]\n", "paused = false\n[bridge]\n"),
    ),
    mistake(
        "a misspelled key",
        "did you mean `connect_timeout`?",
        Bridge("connect_timeout", "connect_timout"),
    ),
    mistake(
        "a missing key",
        "missing key `data_dir` in [bridge]",
        Bridge("data_dir = \"data\"", ""),
    ),
    mistake(
        "a missing section",
        "missing key `url` in [relay]",
        Bridge("[relay]\nurl = \"https://relay.example.com\"", ""),
    ),
    mistake(
        "a bridge's name with a blank",
        "for example `Berlin-DC-1`",
        Bridge("berlin-dc1", "Berlin DC 1"),
    ),
    mistake(
        "an endpoint's name in capitals",
        "for example `alm`",
        Bridge("name = \"alm\"", "name = \"ALM\""),
    ),
    mistake(
        "two endpoints of one name",
        "already",
        Bridge(
            "[[allow]]",
            "[[endpoint]]\nname = \"alm\"\nurl = \"https://b.example/\"\n[[allow]]",
        ),
    ),
    mistake(
        "http:// in the relay's URL",
        "must begin with https://",
        Bridge("https://relay", "http://relay"),
    ),
    mistake(
        "a path in the relay's URL",
        "without a path",
        Bridge("relay.example.com\"", "relay.example.com/v1\""),
    ),
    mistake(
        "a password in relay.proxy",
        "no passwords in this file",
        Bridge(
            "[bridge]",
            "proxy = \"http://me:Sesame-Street-7@proxy.example:3128\"\n[bridge]",
        ),
    ),
    mistake(
        "a URL as the host of a rule",
        "scheme",
        Bridge("\"ci.corp.example\"", "\"https://ci.corp.example/\""),
    ),
    mistake(
        "a method in small letters",
        "POST",
        Bridge("[\"POST\"]", "[\"post\"]"),
    ),
    mistake(
        "metrics on an address that others reach",
        "other machines can reach",
        Bridge(
            "[targets]",
            "[metrics]\nlisten = \"0.0.0.0:9091\"\n[targets]",
        ),
    ),
    mistake(
        "an unknown log level",
        "is not known for `log.level`",
        Bridge("[targets]", "[log]\nlevel = \"verbose\"\n[targets]"),
    ),
    mistake(
        "a misspelled environment variable",
        "did you mean BRIDGE_RELAY_URL?",
        Variable("BRIDGE_RELAY_URI", "https://relay.example.com"),
    ),
    mistake(
        "quotation marks in an environment variable",
        "remove the quotes",
        Variable("BRIDGE_RELAY_URL", "\"https://relay.example.com\""),
    ),
    mistake(
        "a line break in an environment variable",
        "line break",
        Variable("BRIDGE_RELAY_URL", "https://relay\n.example.com"),
    ),
    mistake(
        "a list in a variable that is no list",
        "an array of inline tables",
        Variable("BRIDGE_ENDPOINTS", "alm"),
    ),
    mistake(
        "a password in HTTPS_PROXY that is not percent-encoded",
        "must be percent-encoded",
        Variable(
            "HTTPS_PROXY",
            "http://me:Sesame/Street#7@proxy.example:3128",
        ),
    ),
    mistake(
        "a word that is no log level in BRIDGE_LOG",
        "is not a log filter",
        Variable("BRIDGE_LOG", "verbose"),
    ),
    mistake(
        "no TLS on an address that others reach",
        "would listen without TLS",
        Relay(
            "127.0.0.1:8443\"\n[tls]\nself_signed = true",
            "0.0.0.0:8443\"",
        ),
    ),
    mistake(
        "a host name in listen.public",
        "write ip:port",
        Relay("127.0.0.1:8443", "localhost:8443"),
    ),
    mistake(
        "a certificate without its key",
        "tls.key_file is missing",
        Relay("self_signed = true", "cert_file = \"relay.crt\""),
    ),
    mistake(
        "a database of another kind",
        "is not a database URL",
        Relay(
            "sqlite://relay.db",
            "mysql://relay:Sesame-Street-7@db/relay",
        ),
    ),
    mistake(
        "a database password that is not percent-encoded",
        "must be percent-encoded",
        RelayVariable(
            "RELAY_STORAGE_URL",
            "postgres://relay:Sesame/Street#7@db/relay",
        ),
    ),
    mistake(
        "behind_balancer without names",
        "needs listen.authorities",
        Relay("[tls]", "behind_balancer = true\n[tls]"),
    ),
    mistake(
        "a URL in listen.authorities",
        "write host or host:port",
        Relay(
            "[tls]",
            "authorities = [\"https://relay.example.com/\"]\n[tls]",
        ),
    ),
    mistake(
        "a URL in tls.names",
        "neither a DNS name nor an IP address",
        Relay(
            "self_signed = true",
            "self_signed = true\nnames = [\"https://relay.example.com\"]",
        ),
    ),
    mistake(
        "an international name in tls.names",
        "in its xn-- form",
        Relay(
            "self_signed = true",
            "self_signed = true\nnames = [\"b\u{fc}cher.example\"]",
        ),
    ),
    mistake(
        "a misspelled parameter of a PostgreSQL URL",
        "did you mean sslmode?",
        RelayVariable(
            "RELAY_STORAGE_URL",
            "postgres://relay:Sesame-Street-7@db/relay?sslmod=verify-full",
        ),
    ),
    mistake(
        "an unknown sslmode",
        "did you mean verify-full?",
        RelayVariable(
            "RELAY_STORAGE_URL",
            "postgres://relay:Sesame-Street-7@db/relay?sslmode=verify_full",
        ),
    ),
    mistake(
        "a parameter in a SQLite URL",
        "which a SQLite database does not take",
        Relay("relay.db", "relay.db?mode=rwc"),
    ),
    mistake(
        "a SQLite URL without //",
        "write sqlite:// and the path",
        Relay("sqlite://relay.db", "sqlite:relay.db"),
    ),
    mistake(
        "a database in memory",
        "which is not supported",
        Relay("sqlite://relay.db", "sqlite::memory:"),
    ),
    mistake(
        "an unknown key of the relay",
        "did you mean `streams_max`?",
        Relay("[storage]", "[limits]\nstream_max = 5\n[storage]"),
    ),
];

/// A mistake with running programs: its name, and what is shown. The test below makes it.
const IN_USE: &[(&str, &str)] = &[
    (
        "a wrong client secret for pairing",
        "the client id or the client secret is wrong",
    ),
    (
        "an API key of another role for pairing",
        "it needs the role bridge",
    ),
    ("an empty client secret", "the client secret is empty"),
    (
        "a bridge's name that is paired already",
        "--existing replace",
    ),
    ("run before pairing", "not paired yet"),
    ("the port of the relay is closed", "was not reached"),
    (
        "a config file that does not exist",
        "does not exist; name another with --config",
    ),
    (
        "status without a running bridge",
        "no bridge runs with this config",
    ),
    (
        "two bridges with one data directory",
        "is in use by another integration-bridge process",
    ),
    (
        "a word that is no log level",
        "write a level (error, warn, info, debug, trace, off)",
    ),
    (
        "a credential without an origin",
        "add --origin https://host",
    ),
    ("a relay command with a wrong config", "no database at"),
    ("a tenant that does not exist", "there is no tenant"),
    ("a key without a tenant", "--tenant NAME is missing"),
    ("a tenant's name with a blank", "for example `Acme-Corp`"),
    ("a wrong client secret of a caller", "unauthorized"),
    (
        "a caller's key for administration",
        "this needs a key with the role admin",
    ),
    ("a host that no rule allows", "add an [[allow]] entry"),
    ("a port that no rule allows", "to its ports"),
    ("a target whose port is closed", "target_refused"),
    (
        "an endpoint that does not exist",
        "no bridge declares an endpoint named",
    ),
    ("a misspelled field of a call", "invalid_request"),
    ("a timeout that is too short", "timeout"),
    ("a bridge that is stopped", "these are offline"),
];

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
