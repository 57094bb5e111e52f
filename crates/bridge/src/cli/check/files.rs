//! What the config names: certificates, keys, the data directory, credentials, log files. They are read as at a
//! start, and nothing is created or changed.

use crate::config::{Config, FilePath};
use crate::credentials::store::KEY_BYTES;
use crate::credentials::{Credentials, Kind as CredentialKind, Store};
use crate::data_dir::PrivateDir;
use crate::identity::{Identity, IdentityError};
use crate::own_files;
use crate::proxy_login::{ProxyCredentialError, Route};
use crate::signed::TenantKey;
use crate::text::error_chain;
use runtime::files::Kind;
use runtime::findings::Findings;
use runtime::pem;
use transport::tls::{inspect_ca_file, inspect_chain};

/// Reads everything that a config names.
pub(super) fn inspect(config: &Config) -> Findings {
    let mut found = Findings::default();
    certificates(config, &mut found);
    keys(config, &mut found);
    data_dir(config, &mut found);
    for collision in own_files::collisions(config) {
        found.error(&collision.key, collision.text);
    }
    let data_dir = config.bridge.data_dir.get();
    if let Some(file) = &config.log.file {
        found.written("log.file", &file.in_dir(data_dir), true);
    }
    if config.audit.enabled
        && let Some(file) = &config.audit.file
    {
        found.written("audit.file", &file.in_dir(data_dir), true);
    }
    found
}

fn certificates(config: &Config, found: &mut Findings) {
    for (key, path) in config.ca_files() {
        found.read(&key, inspect_ca_file(path));
    }
}

fn keys(config: &Config, found: &mut Findings) {
    let key = "signed_calls.public_key_file";
    if let Some(file) = &config.signed_calls.public_key_file
        && let Err(detail) = TenantKey::read(file.get())
    {
        found.error(key, format!("{file}: {detail}"));
    }
    let Some(file) = &config.bridge.key_file else {
        return;
    };
    let key = "bridge.key_file";
    match pem::read_file(file.get()) {
        Err(error) => found.error(key, error.to_string()),
        Ok(bytes) if !KEY_BYTES.contains(&bytes.len()) => {
            let count = bytes.len();
            found.error(
                key,
                format!("{file} has {count} bytes; a key has 32 to 4096"),
            );
        }
        Ok(_) => found.private(key, file.get(), Kind::Given),
    }
}

fn data_dir(config: &Config, found: &mut Findings) {
    let key = "bridge.data_dir";
    let path = config.bridge.data_dir.get();
    let errors = found.errors();
    found.directory(key, path);
    if found.errors() > errors {
        return;
    }
    if !path.exists() {
        return proxy_credentials(config, &Credentials::default(), false, found);
    }
    if !config.bridge.data_dir_shared {
        found.private(key, path, Kind::Own);
    }
    let dir = match PrivateDir::open_unchanged(path, config.bridge.data_dir_shared) {
        Ok(dir) => dir,
        Err(error) => return found.error(key, error_chain(&error)),
    };
    let loaded = Identity::load(&dir);
    let is_paired = !matches!(loaded, Err(IdentityError::NotPaired { .. }));
    match loaded {
        Ok(identity) => {
            if let Err(other) = identity.check(&config.relay.url, &config.bridge.name) {
                found.error(other.key(), other.to_string());
            }
        }
        Err(IdentityError::NotPaired { .. }) => {
            found.note("not paired yet: run `integration-bridge pair`");
        }
        Err(error) => found.error(key, error_chain(&error)),
    }
    credentials(config, dir, is_paired, found);
}

/// Checks the credentials of the proxies: the bridge does not start without them. Before it is paired, they may be
/// missing yet.
fn proxy_credentials(config: &Config, all: &Credentials, is_paired: bool, found: &mut Findings) {
    for (section, route) in [
        ("relay", Route::to_relay(config)),
        ("targets", Route::to_targets(config)),
    ] {
        // The setting was read before: its mistakes are those of the config.
        let Ok(route) = route.resolve() else {
            continue;
        };
        let Err(error) = route.with_login(all) else {
            continue;
        };
        let key = match &error {
            ProxyCredentialError::Scheme(_) => format!("{section}.proxy_auth"),
            ProxyCredentialError::Unknown(_) | ProxyCredentialError::Kind(_) => {
                format!("{section}.proxy_credential")
            }
        };
        let text = error.to_string();
        let text = text.trim_start_matches("proxy_credential: ");
        let text = text.trim_start_matches("proxy_auth: ");
        match is_paired {
            true => found.error(&key, text),
            false => found.warning(format!("{key}: {text}")),
        }
    }
}

fn credentials(config: &Config, dir: PrivateDir, is_paired: bool, found: &mut Findings) {
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    let all = match Store::of(dir, key_file).load() {
        Ok(all) => all,
        Err(error) => return found.error("credentials", error_chain(&error)),
    };
    proxy_credentials(config, &all, is_paired, found);
    for endpoint in &config.rules.endpoints {
        let settings = config.rules.settings(&endpoint.name);
        let Some(name) = settings.and_then(|settings| settings.credential.as_deref()) else {
            continue;
        };
        if all.get(name).is_none() {
            found.warning(format!(
                "endpoint {}: there is no credential named {name}; set it with `integration-bridge credential \
                 set {name}`",
                endpoint.name
            ));
        }
    }
    for credential in all.all() {
        let CredentialKind::Certificate(certificate) = &credential.kind else {
            continue;
        };
        let chain = pem::certificates_in(certificate.chain_pem().as_bytes());
        for warning in chain.iter().flat_map(|chain| inspect_chain(&chain.all)) {
            found.warning(format!("credential {}: {warning}", credential.name));
        }
    }
}
