//! `pair`: registers this bridge with the relay. The secret comes from a file, the environment,
//! standard input or a prompt, and never from the command line, where other users could see it.

use super::secret_input::secret;
use super::{ConfigArg, DONE, Outcome, say, short_runtime};
use crate::config::check_name;
use crate::pairing::{self, ApiKey};
use clap::Args;
use std::path::PathBuf;

/// The environment variable with the client secret.
pub(super) const SECRET_ENV: &str = "BRIDGE_CLIENT_SECRET";

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
    let client_secret = secret(
        "client secret",
        "--client-secret-file",
        args.client_secret_file.as_deref(),
        Some(SECRET_ENV),
    )?;
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
