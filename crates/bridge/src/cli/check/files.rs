//! What the config names: certificates, keys, the data directory, credentials, log files. They are read as at a
//! start, and nothing is created or changed.

use crate::config::{Config, FilePath};
use crate::credentials::store::KEY_BYTES;
use crate::credentials::{Kind as CredentialKind, Store};
use crate::data_dir::PrivateDir;
use crate::identity::{Identity, IdentityError};
use crate::signed::TenantKey;
use crate::text::error_chain;
use runtime::files::Kind;
use runtime::findings::Findings;
use runtime::pem;
use std::path::Path;
use transport::tls::{inspect_ca_file, inspect_chain};

/// Reads everything that a config names.
pub(super) fn inspect(config: &Config) -> Findings {
    let mut found = Findings::default();
    certificates(config, &mut found);
    keys(config, &mut found);
    data_dir(config, &mut found);
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
    let mut ca_file = |key: &str, path: Option<&Path>| {
        if let Some(path) = path {
            found.read(key, inspect_ca_file(path));
        }
    };
    ca_file(
        "relay.ca_file",
        config.relay.ca_file.as_ref().map(FilePath::get),
    );
    ca_file(
        "targets.ca_file",
        config.targets.ca_file.as_ref().map(FilePath::get),
    );
    let rules = &config.rules;
    for endpoint in &rules.endpoints {
        let settings = rules.settings(&endpoint.name);
        let key = format!("endpoint {}: ca_file", endpoint.name);
        ca_file(
            &key,
            settings.and_then(|settings| settings.ca_file.as_deref()),
        );
    }
    for (index, path) in rules.allow_ca_files().enumerate() {
        ca_file(&format!("allow rule {}: ca_file", index + 1), path);
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
    if found.errors() > errors || !path.exists() {
        return;
    }
    if !config.bridge.data_dir_shared {
        found.private(key, path, Kind::Own);
    }
    let dir = match PrivateDir::open_unchanged(path, config.bridge.data_dir_shared) {
        Ok(dir) => dir,
        Err(error) => return found.error(key, error_chain(&error)),
    };
    match Identity::load(&dir) {
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
    credentials(config, dir, found);
}

fn credentials(config: &Config, dir: PrivateDir, found: &mut Findings) {
    let key_file = config.bridge.key_file.as_ref().map(FilePath::get);
    let all = match Store::of(dir, key_file).load() {
        Ok(all) => all,
        Err(error) => return found.error("credentials", error_chain(&error)),
    };
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
