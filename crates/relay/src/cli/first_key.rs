//! Shows the first site administrator's key: on a terminal, or in a file that only the relay's user can read.
//!
//! Standard output of a service leads to the journal, which more people read and which is kept for months. The key may do
//! everything, so it is never written there.

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
