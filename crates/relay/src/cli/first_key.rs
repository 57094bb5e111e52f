//! Shows the first site administrator's key: on a terminal, or in a file that only the relay's user can read.
//!
//! Standard output of a service leads to the journal, which more people read and which is kept for months. The key may do
//! everything, so it is never written there.
//!
//! A relay that logs in JSON writes nothing but JSON: the key is in the file, and where it is in the log.

use super::{CliError, key};
use crate::storage::{ApiKey, Secret};
use runtime::files::{Dir, Owner};
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

/// The file, next to the relay's key file.
const FILE: &str = "first-admin-key.txt";

/// Shows a key. `whose` introduces it, `key_file` is `storage.key_file`. Blocks.
///
/// # Errors
/// The key was shown nowhere; another one has to be created.
pub(super) fn show(
    (made, secret): (&ApiKey, &Secret),
    whose: &str,
    key_file: &Path,
) -> Result<(), CliError> {
    if io::stdout().is_terminal() {
        return key::shown(made, secret, "", whose.to_owned(), false);
    }
    let path = write(made, secret, key_file)?;
    super::output::lines(&[
        whose.to_owned(),
        format!("  client id      {}", made.client_id),
        format!("  client secret  in the file {}", path.display()),
        "Store the secret elsewhere and remove the file: the relay keeps only its hash.".to_owned(),
    ])
}

/// Writes a key to its file, and logs where it is. Blocks.
///
/// # Errors
/// The key was shown nowhere; another one has to be created.
pub(super) fn log((made, secret): (&ApiKey, &Secret), key_file: &Path) -> Result<(), CliError> {
    let path = write(made, secret, key_file)?;
    // A warning, so that it is logged with `log.level = "warn"` as well: the file has to be removed.
    tracing::warn!(
        client_id = %made.client_id,
        file = %path.display(),
        "the first key of a site administrator, to manage tenants over the API, is in this file: store its secret \
         elsewhere and remove the file; the relay keeps only its hash"
    );
    Ok(())
}

/// Writes the key to its file. Returns the path.
fn write(made: &ApiKey, secret: &Secret, key_file: &Path) -> Result<PathBuf, CliError> {
    let dir = key_file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let path = dir.join(FILE);
    let text = format!(
        "client id      {}\nclient secret  {}\n",
        made.client_id,
        secret.reveal()
    );
    std::fs::create_dir_all(dir)
        .and_then(|()| Dir::open(dir))
        // Replaced as a whole and by name, so that a link of another user is not followed.
        .and_then(|dir| dir.replace(FILE, text.as_bytes(), 0o600, Owner::Process))
        .map_err(|source| CliError::FirstKey {
            path: path.clone(),
            source,
        })?;
    Ok(path)
}
