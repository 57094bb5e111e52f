//! `pair`: registers this bridge with the relay.

use super::common::{ConfigArg, DONE, Outcome, print, short_runtime, warn};
use super::secret_input::{SECRET_ENV, SECRET_FILE_ENV, Wanted, secret};
use crate::config::{Config, check_name};
use crate::pairing::{self, ApiKey};
use clap::Args;
use runtime::value::{self, Form};
use std::path::PathBuf;

/// `pair`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  integration-bridge pair --client-id ibk_1                   (asks for the client secret)
  integration-bridge pair --client-id ibk_1 --client-secret-file secret.txt
  read-secret | integration-bridge pair --client-id ibk_1 --client-secret-file -")]
pub(super) struct PairArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// The URL of the relay. Defaults to `relay.url` of the config.
    #[arg(long, value_name = "URL")]
    relay: Option<String>,
    /// The client id of the API key.
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// The file with the client secret of the API key; "-" is standard input. Defaults to the file that the environment
    /// variable BRIDGE_CLIENT_SECRET_FILE names, else to the variable BRIDGE_CLIENT_SECRET, or else a prompt.
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The name of the bridge. Defaults to `bridge.name` of the config.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) fn pair(args: PairArgs) -> Outcome {
    let mut config = args.config.load()?;
    // A misspelled variable would pair another name or with another relay.
    for mistake in Config::unknown_variables().mistakes {
        warn(&mistake);
    }
    if let Some(relay) = args.relay {
        config.relay.url = relay
            .parse()
            // Without the value: it may have a password.
            .map_err(|error| format!("the URL of --relay {error}"))?;
    }
    if let Some(name) = args.name {
        check_name(&name)?;
        config.bridge.name = name;
    }
    let client_id = value::read(Form::Key, args.client_id.as_bytes())
        .map_err(|error| format!("--client-id: {error}"))?;
    // As for `run`, so that one environment serves both.
    let (option, file) = match args.client_secret_file {
        Some(file) => ("--client-secret-file", Some(file)),
        None => match value::variable(Form::Setting, SECRET_FILE_ENV) {
            Ok(Some(file)) => (SECRET_FILE_ENV, Some(PathBuf::from(file))),
            Ok(None) => ("--client-secret-file", None),
            Err(error) => {
                return Err(format!("environment variable {SECRET_FILE_ENV}: {error}").into());
            }
        },
    };
    let wanted = Wanted {
        what: "client secret",
        form: Form::Key,
        option,
        variable: Some(SECRET_ENV),
    };
    let client_secret = secret(wanted, file.as_deref())?;
    // The relay would count it as a failed authentication, and may block this address after some.
    if client_secret.is_empty() {
        return Err(
            "the client secret is empty; the relay showed it once, when the API key was created"
                .into(),
        );
    }
    let api_key = ApiKey {
        client_id,
        client_secret,
    };
    let identity = short_runtime()?.block_on(pairing::pair(&config, &api_key))?;
    print(&format!(
        "paired with {}: bridge {} of tenant {}; next, run `integration-bridge run --config {}`",
        identity.relay,
        identity.name,
        identity.tenant,
        config.path.display()
    ));
    Ok(DONE)
}
