//! `pair`: registers this bridge with the relay.

use super::common::{ConfigArg, DONE, Outcome, print, short_runtime, warn};
use super::secret_input::{SECRET_ENV, SECRET_FILE_ENV, Wanted, secret};
use crate::config::{Config, check_name};
use crate::data_dir::PrivateDir;
use crate::identity::{Identity, IdentityError};
use crate::pairing::{self, ApiKey};
use crate::pairing_file::{PairingFile, prepare};
use clap::Args;
use runtime::files;
use runtime::shortage::in_words;
use runtime::value::{self, Form};
use std::path::{Path, PathBuf};

/// `pair`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  integration-bridge pair --bundle berlin.json                (a file from the relay's operator)
  integration-bridge pair --client-id ibk_1                   (asks for the client secret)
  integration-bridge pair --client-id ibk_1 --client-secret-file secret.txt
  read-secret | integration-bridge pair --client-id ibk_1 --client-secret-file -")]
pub(super) struct PairArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// A pairing file. It has everything that is needed: a missing config is written, and a key that the config lacks is
    /// added. The file is destroyed after the pairing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["relay", "client_id", "client_secret_file"])]
    bundle: Option<PathBuf>,
    /// The URL of the relay. Defaults to `relay.url` of the config.
    #[arg(long, value_name = "URL")]
    relay: Option<String>,
    /// The client id of the API key.
    #[arg(long, value_name = "ID", required_unless_present = "bundle")]
    client_id: Option<String>,
    /// The file with the client secret of the API key; "-" is standard input. Defaults to the file that the environment
    /// variable BRIDGE_CLIENT_SECRET_FILE names, else to the variable BRIDGE_CLIENT_SECRET, or else a prompt.
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// The name of the bridge. Defaults to `bridge.name` of the config, or to what the pairing file suggests.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) fn pair(args: PairArgs) -> Outcome {
    // A misspelled variable would pair another name or with another relay.
    for mistake in Config::unknown_variables().mistakes {
        warn(&mistake);
    }
    if let Some(bundle) = &args.bundle {
        return pair_by_file(bundle, args.name.as_deref(), &args.config.config);
    }
    let mut config = args.config.load()?;
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
    let client_id = args.client_id.unwrap_or_default();
    let client_id = value::read(Form::Key, client_id.as_bytes())
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
    print_paired(&identity, &config.path);
    Ok(DONE)
}

/// Pairs with a pairing file, which has everything. It may be repeated after a crash at any step.
fn pair_by_file(path: &Path, name: Option<&str>, config: &Path) -> Outcome {
    let file = PairingFile::read(path).inspect_err(|_| warn_if_paired(config))?;
    if let Some(mode) = file.was_open {
        warn(&format!(
            "other users had access to {} ({}), and now only its owner has; if one of them may have read it, ask the \
             relay's operator to revoke it (`key revoke {}`) and for another file",
            path.display(),
            files::shown(mode),
            file.api_key.client_id
        ));
    }
    file.check_expiry()
        .inspect_err(|_| warn_if_paired(config))?;
    let prepared = prepare(&file, name, config)?;
    if prepared.is_changed {
        print(&format!("wrote {}", config.display()));
    }
    let pairing = pairing::pair_in(&prepared.config, &file.api_key, Some(&file.tenant));
    let identity = short_runtime()?.block_on(pairing)?;
    print_paired(&identity, &prepared.config.path);
    match files::destroy(path) {
        Ok(()) => print(&format!(
            "{} was removed; the secret in it is spent",
            path.display()
        )),
        // It is of no more use, so this is no failure.
        Err(error) => warn(&format!(
            "{} could not be removed ({}): the secret in it is spent; remove the file",
            path.display(),
            in_words(&error)
        )),
    }
    Ok(DONE)
}

/// Says that the bridge is paired, for an administrator who repeats the command with a file that is of no more use.
fn warn_if_paired(config: &Path) {
    let Ok(config) = Config::load(config) else {
        return;
    };
    let bridge = &config.bridge;
    let dir = PrivateDir::open_unchanged(bridge.data_dir.get(), bridge.data_dir_shared);
    if let Ok(identity) = dir
        .map_err(IdentityError::from)
        .and_then(|dir| Identity::load(&dir))
    {
        warn(&format!(
            "this bridge is paired already with {}: bridge {} of tenant {}",
            identity.relay, identity.name, identity.tenant
        ));
    }
}

fn print_paired(identity: &Identity, config: &Path) {
    print(&format!(
        "paired with {}: bridge {} of tenant {}; next, run `integration-bridge run --config {}`",
        identity.relay,
        identity.name,
        identity.tenant,
        config.display()
    ));
}
