//! The commands of the README and of the guides work as they are written: two programs, a target, and `curl`. Only ports,
//! ids and secrets are replaced.

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::process::{self, Running};
use support::{TIMEOUT, TempDir, eventually, ports};

const README: &str = include_str!("../../../README.md");
const DELIVERIES: &str = include_str!("../../../deploy/guide/deliveries.md");
const CALLERS: &str = include_str!("../../../deploy/guide/callers.md");

/// A command that ends soon.
const STEP: Duration = Duration::from_secs(30);

/// The folder of the walk, and what stands instead of the document's ports, ids and secrets.
struct Walk {
    dir: TempDir,
    replaced: Vec<(&'static str, String)>,
}

impl Walk {
    fn text(&self, text: &str) -> String {
        let replace = |text: String, (from, to): &(&str, String)| text.replace(from, to);
        self.replaced.iter().fold(text.to_owned(), replace)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.join(name), self.text(text)).unwrap();
    }

    /// A line of a document, for a shell.
    fn command(&self, line: &str) -> Command {
        let bin = process::bin("integration-relay");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        // As `process::command` does for the programs themselves.
        for (name, _) in process::command("integration-relay").get_envs() {
            shell.env_remove(name);
        }
        shell.args(["-c", &format!("exec {}", self.text(line))]);
        shell.env(
            "PATH",
            format!("{}:{path}", bin.parent().unwrap().display()),
        );
        shell.current_dir(self.dir.path());
        shell
    }

    async fn run(&self, line: &str) -> String {
        process::finish(line, self.command(line), STEP)
            .await
            .success()
    }

    fn spawn(&self, line: &str) -> Running {
        Running::spawn(line, self.command(line))
    }
}

/// Returns the code blocks of a language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    let starts = document.split(opening.as_str()).skip(1);
    starts
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

/// Returns the commands of a block. A backslash continues a line.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the commands of all blocks for a shell.
fn all(document: &str) -> Vec<String> {
    blocks(document, "sh")
        .into_iter()
        .flat_map(commands)
        .collect()
}

/// Returns the only command that contains all of the words.
#[track_caller]
fn only<'a>(commands: &'a [String], words: &[&str]) -> &'a str {
    let mut found = commands
        .iter()
        .filter(|line| words.iter().all(|word| line.contains(word)));
    let line = found
        .next()
        .unwrap_or_else(|| panic!("no command has {words:?}"));
    assert!(found.next().is_none(), "several commands have {words:?}");
    line
}

/// Returns the word that begins like an id or a secret.
fn word(text: &str, prefix: &str) -> String {
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')));
    words
        .find(|word| word.starts_with(prefix))
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn readme_commands_work_as_written() {
    let mut walk = Walk {
        dir: TempDir::new("readme"),
        replaced: ["8443", "9090", "8000"]
            .map(|port| (port, ports::free().to_string()))
            .to_vec(),
    };
    let toml = blocks(README, "toml");
    let lines = all(README);
    walk.write("relay.toml", toml[0]);
    walk.write("bridge.toml", toml[1]);
    walk.run(only(&lines, &["integration-relay tenant create"]))
        .await;
    let bridge_key = walk
        .run(only(&lines, &["key create", "--role bridge"]))
        .await;
    let caller_key = walk
        .run(only(&lines, &["key create", "--role caller"]))
        .await;
    walk.replaced
        .push(("CLIENT_ID_OF_THE_BRIDGE_KEY", word(&bridge_key, "ibk_")));
    walk.replaced.push(("CALLER_ID", word(&caller_key, "ibk_")));
    walk.replaced
        .push(("CALLER_SECRET", word(&caller_key, "ibs_")));
    let relay = walk.spawn(only(&lines, &["integration-relay serve"]));
    relay.wait_log("listening", TIMEOUT).await;

    let checked = walk
        .run(only(&lines, &["integration-bridge config check"]))
        .await;
    assert!(checked.contains("valid"), "{checked}");
    let pair = only(&lines, &["integration-bridge pair"]);
    let mut command = walk.command(pair);
    // `pair` asks a person for it.
    command.env("BRIDGE_CLIENT_SECRET", word(&bridge_key, "ibs_"));
    process::finish(pair, command, STEP).await.success();
    let _bridge = walk.spawn(only(&lines, &["integration-bridge run"]));
    eventually(TIMEOUT, "the bridge is online", async || {
        let status = walk.command("integration-bridge status --config bridge.toml");
        process::finish("status", status, STEP)
            .await
            .status
            .success()
    })
    .await;

    walk.run(only(&lines, &["mkdir"])).await;
    let target = walk.spawn(only(&lines, &["python3 -m http.server"]));
    eventually(TIMEOUT, "the target's port", async || {
        let call = walk.run(only(&lines, &["curl", "/v1/calls"])).await;
        let call: Value = serde_json::from_str(&call).unwrap();
        match call["response"]["status"] == 200 {
            true => Ok(()),
            false => Err(format!("{call:#} {:?}", target.exited())),
        }
    })
    .await;
    let page = walk.run(only(&lines, &["curl", "/v1/endpoints/ci/"])).await;
    assert!(page.contains("Directory listing"), "{page}");
    // The folder of the programs has their keys.
    assert!(
        !page.contains("relay") && !page.contains("bridge"),
        "{page}"
    );

    // The guides continue the same setup.
    let call = walk.run(only(&all(CALLERS), &["curl", "/v1/calls"])).await;
    assert!(call.contains("\"executed\""), "{call}");
    let lines = all(DELIVERIES);
    let stored = walk.run(only(&lines, &["\"mode\": \"deliver\""])).await;
    let stored: Value = serde_json::from_str(&stored).unwrap();
    walk.replaced
        .push(("CALL_ID", stored["id"].as_str().unwrap().to_owned()));
    let show = only(&lines, &["CALL_ID"]).to_owned();
    eventually(TIMEOUT, "the delivery succeeded", async || {
        let call: Value = serde_json::from_str(&walk.run(&show).await).unwrap();
        match call["state"] == "succeeded" {
            true => Ok(()),
            false => Err(format!("{call:#}")),
        }
    })
    .await;
}

#[test]
fn examples_that_the_guides_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for line in all(include_str!("../../../deploy/guide/installation.md")) {
        for word in line
            .split_whitespace()
            .filter(|word| word.starts_with("deploy/"))
        {
            assert!(root.join(word).exists(), "{line}");
        }
    }
}
