//! No program shows a part of a password in a URL, also where the URL is not percent-encoded.

use std::path::Path;
use std::time::Duration;
use support::process::{self, Finished};
use support::{TempDir, ports};

/// A command that ends soon, or is ended.
const STEP: Duration = Duration::from_secs(40);

/// Passwords whose parts occur in no message by chance.
const PASSWORDS: [&str; 9] = [
    "xQ7zK9wV2uJ4",
    "xQ7z/K9wV2uJ4",
    "xQ7z#K9wV2uJ4",
    "xQ7z?K9wV2uJ4",
    "xQ7z@K9wV2uJ4",
    "xQ7z:K9wV2uJ4",
    "xQ7z%K9wV2uJ4",
    "xQ7z K9wV/2u#J4tH",
    "xQ7z\\K9wV]2uJ4",
];

const BRIDGE: &str = "\
[relay]
url = \"https://localhost:1\"
[bridge]
name = \"b\"
data_dir = \"data\"
";

const RELAY: &str = "\
[listen]
internal = \"127.0.0.1:PORT\"
[storage]
url = \"sqlite://relay.db\"
";

fn assert_hidden(what: &str, finished: &Finished, password: &str) {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    let characters: Vec<char> = password.chars().collect();
    for piece in characters.windows(4) {
        let piece: String = piece.iter().collect();
        assert!(!said.contains(&piece), "{what}: {said}");
    }
    // Nor does the user become a host.
    assert!(!said.contains("robot-7"), "{what}: {said}");
}

async fn run(program: &str, config: &Path, args: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut command = process::command(program);
    command.args(args).arg("--config").arg(config);
    command.envs(env.iter().copied());
    process::finish(&format!("{program} {}", args.join(" ")), command, STEP).await
}

#[tokio::test]
async fn bridge_shows_no_part_of_a_password() {
    let dir = TempDir::new("passwords-bridge");
    let config = dir.join("bridge.toml");
    for password in PASSWORDS {
        let port = ports::free();
        let url = format!("http://robot-7:{password}@127.0.0.1:{port}");
        std::fs::write(&config, BRIDGE).unwrap();
        for (args, variable) in [
            (&["config", "check"][..], "HTTPS_PROXY"),
            (&["doctor"], "HTTPS_PROXY"),
            (&["config", "check"], "BRIDGE_RELAY_PROXY"),
            (&["config", "check"], "BRIDGE_TARGETS_PROXY"),
            (&["config", "check"], "BRIDGE_RELAY_URL"),
            (&["config", "check"], "BRIDGE_LOG_LEVEL"),
            (&["config", "check"], "BRIDGE_METRICS_LISTEN"),
            (&["config", "check"], "BRIDGE_LIMITS_STREAMS_MAX"),
            (&["config", "check"], "BRIDGE_TARGETS_CONNECT_TIMEOUT"),
            (&["config", "check"], "BRIDGE_ENDPOINTS"),
        ] {
            let finished = run("integration-bridge", &config, args, &[(variable, &url)]).await;
            assert_hidden(&format!("{args:?} with {variable}"), &finished, password);
        }
        let relay = format!("https://robot-7:{password}@relay.example");
        let id = ["pair", "--client-id", "ibk_1", "--relay", &relay];
        let finished = run(
            "integration-bridge",
            &config,
            &id,
            &[("BRIDGE_CLIENT_SECRET", "ibs_1")],
        )
        .await;
        assert_hidden("pair --relay", &finished, password);
        let origin = ["credential", "set", "c", "--user", "u", "--origin", &url];
        let finished = run("integration-bridge", &config, &origin, &[]).await;
        assert_hidden("credential set --origin", &finished, password);
        let finished = run(
            "integration-bridge",
            &config,
            &["policy", "test", &url],
            &[],
        )
        .await;
        assert_hidden("policy test", &finished, password);
        let escaped = url.replace('\\', "\\\\");
        for section in [
            "[targets]\nproxy",
            "[[endpoint]]\nname = \"e\"\nurl",
            "[[allow]]\nmethods = [\"*\"]\nhost",
        ] {
            std::fs::write(&config, format!("{BRIDGE}{section} = \"{escaped}\"\n")).unwrap();
            let finished = run("integration-bridge", &config, &["config", "check"], &[]).await;
            assert!(!finished.status.success(), "{section}");
            assert_hidden(section, &finished, password);
        }
        // Without quotation marks, the whole line is a mistake.
        std::fs::write(
            &config,
            BRIDGE.replace("[bridge]", &format!("proxy = {url}\n[bridge]")),
        )
        .unwrap();
        let finished = run("integration-bridge", &config, &["config", "check"], &[]).await;
        assert_hidden("no quotation marks", &finished, password);
    }
}

#[tokio::test]
async fn relay_shows_no_part_of_a_password() {
    let dir = TempDir::new("passwords-relay");
    let config = dir.join("relay.toml");
    let file = dir.join("url");
    for password in PASSWORDS {
        let port = ports::free();
        std::fs::write(&config, RELAY.replace("PORT", &ports::free().to_string())).unwrap();
        let database = format!("postgres://robot-7:{password}@127.0.0.1:{port}/relay");
        let collector = format!("http://robot-7:{password}@127.0.0.1:{port}/v1/traces");
        for (args, variable, url) in [
            (&["config", "check"][..], "RELAY_STORAGE_URL", &database),
            (&["tenant", "list"], "RELAY_STORAGE_URL", &database),
            (
                &["config", "check"],
                "RELAY_TELEMETRY_OTLP_ENDPOINT",
                &collector,
            ),
            (&["config", "check"], "RELAY_LISTEN_PUBLIC", &collector),
            (&["config", "check"], "RELAY_LISTEN_AUTHORITIES", &collector),
        ] {
            let finished = run("integration-relay", &config, args, &[(variable, url)]).await;
            assert_hidden(&format!("{args:?} with {variable}"), &finished, password);
        }
        std::fs::write(&file, format!("{database}\n")).unwrap();
        let text = "[listen]\ninternal = \"127.0.0.1:1\"\n[storage]\nurl_file = \"url\"\n";
        std::fs::write(&config, text).unwrap();
        let finished = run("integration-relay", &config, &["config", "check"], &[]).await;
        assert_hidden("storage.url_file", &finished, password);
        // The host is forgotten. What follows an `@` is then the host for every reader.
        if password.contains('@') {
            continue;
        }
        std::fs::write(&file, format!("postgres://robot-7:{password}")).unwrap();
        let finished = run("integration-relay", &config, &["config", "check"], &[]).await;
        assert_hidden("a URL without a host", &finished, password);
    }
}
