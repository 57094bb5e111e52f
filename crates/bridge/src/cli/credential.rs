//! `credential`: named secrets for targets, stored on this machine.

use super::common::{ConfigArg, DONE, Outcome, REFUSED, print, short_runtime, warn};
use super::secret_input::{Wanted, private_key, secret};
use crate::config::{Config, FilePath};
use crate::credentials::store::{checked, make_kind};
use crate::credentials::{Origin, Store, alm};
use crate::dispatcher::{Active, own_addresses};
use crate::health::probe;
use clap::{Args, Subcommand, ValueEnum};
use runtime::pem;
use runtime::value::Form;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use transport::tls::inspect_chain;

/// `credential`.
#[derive(Debug, Subcommand)]
pub(super) enum CredentialCommand {
    /// Store a credential, and replace one with the same name. Asks for the secret.
    Set(SetArgs),
    /// List the credentials, without their secrets.
    List {
        #[command(flatten)]
        config: ConfigArg,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a credential.
    Remove {
        /// The name of the credential.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Send a request with the credential to each endpoint that uses it, and report whether it is accepted.
    Test {
        /// The name of the credential.
        name: String,
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// `--kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// User and password in `Authorization: Basic`.
    Basic,
    /// A token in `Authorization: Bearer`.
    Bearer,
    /// A value in a header field (--header).
    Header,
    /// A client certificate in TLS (--certificate-file).
    Certificate,
    /// The sign-in of ALM: the bridge exchanges user and password, or an API key, for cookies.
    Alm,
}

impl KindArg {
    /// Returns the kind's name in the store.
    fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::Header => "header",
            Self::Certificate => "certificate",
            Self::Alm => "alm",
        }
    }
}

/// `credential set`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  integration-bridge credential set alm-sync --kind alm --user sync
  integration-bridge credential set ci --kind bearer --origin https://ci.corp.example
  integration-bridge credential set proxy --user me --origin http://proxy.corp.example:3128")]
pub(super) struct SetArgs {
    /// The name by which endpoints and calls refer to the credential.
    name: String,
    /// How the secret is sent.
    #[arg(long, value_enum, default_value = "basic")]
    kind: KindArg,
    /// The user, for the kinds `basic` and `alm`.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The client id of an API key of ALM, for the kind `alm` instead of a user. The secret is that of the key.
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    client_id: Option<String>,
    /// The name of the header field, for the kind `header`.
    #[arg(long, value_name = "FIELD")]
    header: Option<String>,
    /// The PEM file with the certificate and its chain, for the kind `certificate`. The secret is its private
    /// key in PEM.
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// An origin that the credential may be sent to, like https://alm.corp.example:8443. May be repeated.
    /// Defaults to the origins of the endpoints that use the credential.
    #[arg(long, value_name = "ORIGIN")]
    origin: Vec<String>,
    /// The file with the secret; "-" is standard input. Defaults to a prompt.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(command: CredentialCommand) -> Outcome {
    match command {
        CredentialCommand::Set(args) => set(args),
        CredentialCommand::List { config, json } => list(&config.load()?, json),
        CredentialCommand::Remove { name, config } => {
            store(&config.load()?)?.remove(&name)?;
            print(&format!(
                "{name}: removed; a running bridge stops using it within a few seconds"
            ));
            Ok(DONE)
        }
        CredentialCommand::Test { name, config } => test(config.load()?, &name),
    }
}

fn store(config: &Config) -> Result<Store, crate::credentials::StoreError> {
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    Store::of_bridge(&config.bridge, key_file)
}

/// Returns the origins of the endpoints that use a credential.
fn origins_in(config: &Config, name: &str) -> Vec<Origin> {
    let mut origins = Vec::new();
    for endpoint in &config.rules.endpoints {
        let settings = config.rules.settings(&endpoint.name);
        let own = settings.and_then(|settings| settings.credential.as_deref());
        let origin = Origin::of(&endpoint.base);
        if own == Some(name) && !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    origins
}

fn set(args: SetArgs) -> Outcome {
    let config = args.config.load()?;
    let origins: Result<Vec<Origin>, _> = args
        .origin
        .iter()
        .map(|text| {
            text.parse()
                // Without the value: it may have a password.
                .map_err(|error| format!("--origin: {error}"))
        })
        .collect();
    // A credential without origins could be sent nowhere; `checked` rejects that.
    let origins = match origins? {
        none if none.is_empty() => origins_in(&config, &args.name),
        some => some,
    };
    crate::config::check_credential_name(&args.name)?;
    // Stored as PEM, whatever form the file has.
    let certificate = args.certificate_file.as_deref().map(|path| {
        let bytes = pem::read_file(path).map_err(|error| error.detail());
        let chain = bytes.and_then(|bytes| pem::certificates_in(&bytes)?.whole());
        chain
            .map(|chain| {
                // It is stored all the same: a clock may be wrong, and the target decides.
                for warning in inspect_chain(&chain.all) {
                    warn(&format!("--certificate-file {}: {warning}", path.display()));
                }
                chain.ders().iter().map(pem::certificate_text).collect()
            })
            .map_err(|detail| format!("--certificate-file {}: {detail}", path.display()))
    });
    let (what, form) = match args.kind {
        KindArg::Alm if args.client_id.is_some() => ("client secret", Form::Key),
        KindArg::Basic | KindArg::Alm => ("password", Form::Password),
        KindArg::Bearer => ("token", Form::Key),
        KindArg::Header => ("value", Form::Password),
        KindArg::Certificate => ("key", Form::Lines),
    };
    // After the checks that need no secret: a mistake must not cost the administrator a second prompt.
    let wanted = Wanted {
        what,
        form,
        option: "--secret-file",
        variable: None,
    };
    let secret = match (args.kind, args.secret_file.as_deref()) {
        (KindArg::Certificate, Some(path)) => private_key("--secret-file", path)?,
        (_, path) => secret(wanted, path)?,
    };
    let certificate: Option<String> = certificate.transpose()?;
    let header = args.header.as_deref();
    let kind = args.kind.name();
    let kind = make_kind(kind, args.user, args.client_id, header, certificate, secret)?;
    let credential = checked(&args.name, kind, origins)?;
    store(&config)?.set(&credential)?;
    let origins: Vec<String> = credential.origins.iter().map(ToString::to_string).collect();
    print(&format!(
        "{}: stored, for {}; a running bridge uses it within a few seconds",
        args.name,
        origins.join(", ")
    ));
    Ok(DONE)
}

fn list(config: &Config, as_json: bool) -> Outcome {
    let all = store(config)?.load()?;
    if as_json {
        let all: Vec<_> = all
            .all()
            .map(|one| {
                let origins: Vec<String> = one.origins.iter().map(ToString::to_string).collect();
                json!({
                    "name": one.name,
                    "kind": one.kind.word(),
                    "user": one.kind.user(),
                    "origins": origins,
                })
            })
            .collect();
        print(&serde_json::to_string_pretty(&all)?);
        return Ok(DONE);
    }
    let mut is_empty = true;
    for one in all.all() {
        is_empty = false;
        let user = one.kind.user().map(|user| format!(", user {user}"));
        let origins: Vec<String> = one.origins.iter().map(ToString::to_string).collect();
        print(&format!(
            "{}: {}{}, for {}",
            one.name,
            one.kind.word(),
            user.unwrap_or_default(),
            origins.join(", ")
        ));
    }
    if is_empty {
        print("no credentials; `integration-bridge credential set NAME` stores one");
    }
    Ok(DONE)
}

/// Sends a request with the credential to each endpoint that uses it: to its `health_path`, or its base URL.
fn test(config: Config, name: &str) -> Outcome {
    let credentials = store(&config)?.load()?;
    if credentials.get(name).is_none() {
        return Err(format!(
            "there is no credential named {name}; `integration-bridge credential list` shows all"
        )
        .into());
    }
    let named: Vec<String> = config
        .rules
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.clone())
        .filter(|endpoint| {
            let settings = config.rules.settings(endpoint);
            settings.and_then(|settings| settings.credential.as_deref()) == Some(name)
        })
        .collect();
    if named.is_empty() {
        return Err(format!("no [[endpoint]] of the config uses the credential {name}").into());
    }
    // The same policy and client as in a running bridge: a test must not reach what a request cannot.
    let active = Arc::new(Active::new(config, own_addresses(), Arc::new(credentials))?);
    let mut is_accepted = true;
    for endpoint in named {
        let found = short_runtime()?.block_on(async {
            let found = probe(&active, &endpoint, true).await;
            // Otherwise ALM would keep the session and its locks for an hour.
            alm::sign_out_of(&active.access, &active.credentials, &endpoint).await;
            found
        });
        // A target may respond with any status to a path that it does not know. Only 401 and 403 concern the
        // credential.
        let line = match (&found.failure, found.status) {
            (Some(failure), _) => {
                is_accepted = false;
                format!("failed: {}", failure.detail)
            }
            (None, Some(status @ (401 | 403))) => {
                is_accepted = false;
                format!("rejected: the target responded with {status}")
            }
            (None, status) => format!(
                "accepted: the target responded with {}",
                status.map_or_else(|| "no status".to_owned(), |status| status.to_string())
            ),
        };
        print(&format!("endpoint {endpoint}: {line}"));
    }
    Ok(if is_accepted { DONE } else { REFUSED })
}
