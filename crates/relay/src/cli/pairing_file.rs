//! `key create --bundle FILE`: the key in a pairing file, and its secret nowhere else.
//!
//! ```text
//! contact (URL, CA) -> new file, 0600 -> new key -> content -> what to do next
//!                         remove      <- failed     revoke and remove <- failed
//! ```

use super::{CliError, key, output};
use crate::api::pairing_files::{Contact, PairingFile, default_expiry, suggested};
use crate::config::Config;
use crate::storage::{NewKey, Storage};
use clap::Args;
use runtime::output::counted;
use runtime::secret::Zeroizing;
use runtime::time::to_minute;
use serde_json::json;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The options of `key create` that are about a pairing file.
#[derive(Debug, Args)]
pub(super) struct BundleOptions {
    /// Write a pairing file for one bridge. It has the secret, which is not shown. Its key pairs once, and expires
    /// after 24 hours unless --expires is given (7d at most). The file must not exist.
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: Option<PathBuf>,
    /// URL by which the bridge dials this relay. Defaults to `listen.public_url` of the config.
    #[arg(long, value_name = "URL", requires = "bundle")]
    relay_url: Option<String>,
    /// File with the CA of the relay's certificate, if that is not a public one. Defaults to
    /// `listen.public_ca_file`, or to what `[tls]` has.
    #[arg(long, value_name = "FILE", requires = "bundle")]
    ca_file: Option<PathBuf>,
}

/// Creates a key and writes it to a new file. Nothing that this prints is a secret.
pub(super) async fn create(
    storage: &Storage,
    config: &Config,
    (tenant, new): (&str, NewKey),
    (options, path): (&BundleOptions, &Path),
    json: bool,
) -> Result<(), CliError> {
    let url = options.relay_url.as_deref();
    let contact = Contact::of(config, url, options.ca_file.as_deref());
    let contact = contact.map_err(|error| CliError::Contact(error.to_string()))?;
    // The key's name is for people; one that a bridge can have is also proposed as the bridge's.
    let named = Some(new.name.clone())
        .filter(|name| new.scope.bridges.is_empty() && protocol::name::is_valid(name));
    let bridge = suggested(named, &new.scope).map_err(CliError::Contact)?;
    let new = NewKey {
        expires: Some(new.expires.unwrap_or_else(default_expiry)),
        is_one_time: true,
        ..new
    };
    let failed = |source| CliError::PairingFile {
        path: path.to_owned(),
        source,
    };
    // Before the key: a key whose secret has no place would be of no use.
    let mut file = runtime::files::create_new(path, 0o600).map_err(failed)?;
    let (made, secret) = match storage.create_key_with(tenant, new).await {
        Ok(made) => made,
        Err(error) => {
            let _ = std::fs::remove_file(path);
            return Err(error.into());
        }
    };
    let content = PairingFile::new(&contact, tenant, bridge.clone(), (&made, &secret));
    if let Err(source) = write(&mut file, &content) {
        let _ = std::fs::remove_file(path);
        // Its secret is lost, and half of a file may be on the disk.
        let _ = storage.revoke_key(made.client_id.as_str(), false).await;
        return Err(failed(source));
    }
    if json {
        let mut document = key::document(&made, tenant);
        document["bundle"] = json!(path.display().to_string());
        document["relay_url"] = json!(contact.url.to_string());
        document["bridge"] = json!(bridge);
        document["has_ca"] = json!(contact.ca_pem.is_some());
        return output::json(&document);
    }
    let name = match &bridge {
        Some(name) => format!("bridge {name}"),
        None => "a bridge that its administrator names (--name)".to_owned(),
    };
    let expires = made.expires.map_or_else(|| "never".to_owned(), to_minute);
    let ca = match &contact.ca_pem {
        Some(pem) => {
            let count = pem.matches("BEGIN CERTIFICATE").count();
            format!("in the file ({})", counted(count, "certificate"))
        }
        None => "none in the file: bridges trust their system's roots".to_owned(),
    };
    let mut lines = vec![
        format!(
            "Pairing file {} for {name} of tenant {tenant}:",
            path.display()
        ),
        format!("  client id      {}", made.client_id),
        format!("  relay          {}", contact.url),
        format!("  CA             {ca}"),
        format!("  expires        {expires}"),
    ];
    if let Some(warning) = &contact.warning {
        lines.push(format!("Warning: {warning}."));
    }
    lines.push(
        "The file has a secret that pairs one bridge. Give it to that bridge's administrator by a way that others \
         cannot read, who then runs:"
            .to_owned(),
    );
    let name = path.file_name().unwrap_or(path.as_os_str());
    lines.push(format!(
        "  integration-bridge pair --bundle {}",
        name.to_string_lossy()
    ));
    output::lines(&lines)
}

fn write(file: &mut File, content: &PairingFile<'_>) -> std::io::Result<()> {
    let text = Zeroizing::new(serde_json::to_vec_pretty(content)?);
    file.write_all(&text)?;
    file.write_all(b"\n")?;
    file.sync_all()
}
