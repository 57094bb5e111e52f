//! `pair`: registers this bridge with the relay. The secret comes from a file, the environment,
//! standard input or a prompt, and never from the command line, where other users could see it.

use super::{ConfigArg, DONE, Outcome, say, short_runtime};
use crate::config::check_name;
use crate::pairing::{self, ApiKey, Secret};
use clap::Args;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

/// The environment variable with the client secret.
const SECRET_ENV: &str = "BRIDGE_CLIENT_SECRET";

/// Longest secret that is read, in bytes.
const SECRET_MAX_BYTES: u64 = 4096;

/// What pairing needs.
#[derive(Debug, Args)]
pub(super) struct PairArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The relay, instead of relay.url in the config
    #[arg(long, value_name = "URL")]
    relay: Option<String>,
    /// The API key's client id
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// The file with the API key's client secret; "-" is standard input. Without it the
    /// environment variable BRIDGE_CLIENT_SECRET, or else a prompt
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The bridge's name, instead of bridge.name in the config
    #[arg(long)]
    name: Option<String>,
}

pub(super) fn pair(args: PairArgs) -> Outcome {
    let mut config = args.config.load()?;
    if let Some(relay) = args.relay {
        config.relay.url = relay
            .parse()
            .map_err(|error| format!("--relay {relay} {error}"))?;
    }
    if let Some(name) = args.name {
        check_name(&name)?;
        config.bridge.name = name;
    }
    let client_secret = secret(args.client_secret_file.as_deref())?;
    if client_secret.is_empty() {
        return Err("the client secret is empty; it was shown when the API key was created".into());
    }
    let api_key = ApiKey {
        client_id: args.client_id,
        client_secret,
    };
    let identity = short_runtime()?.block_on(pairing::pair(&config, &api_key))?;
    say(&format!(
        "paired with {}: bridge {} of tenant {}; now run `integration-bridge run --config {}`",
        identity.relay,
        identity.name,
        identity.tenant,
        config.path.display()
    ));
    Ok(DONE)
}

fn secret(file: Option<&Path>) -> Result<Secret, String> {
    if let Some(path) = file {
        return read(path).map(|text| Secret::new(&text)).map_err(|error| {
            format!(
                "the client secret cannot be read from {}: {error}",
                path.display()
            )
        });
    }
    if let Ok(text) = std::env::var(SECRET_ENV) {
        return Ok(Secret::new(&text));
    }
    if !std::io::stdin().is_terminal() {
        return Err(format!(
            "no client secret: give --client-secret-file FILE (\"-\" for standard input), or set {SECRET_ENV}"
        ));
    }
    rpassword::prompt_password("client secret: ")
        .map(|text| Secret::new(&text))
        .map_err(|error| format!("the client secret cannot be read: {error}"))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .take(SECRET_MAX_BYTES)
            .read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?
            .take(SECRET_MAX_BYTES)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}
