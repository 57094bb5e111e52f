//! Secrets that are typed, read from a file, or given in the environment; never on the command line,
//! where other users could see them.

use crate::secret::Secret;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

/// Longest secret that is read, in bytes: a private key fits.
const SECRET_MAX_BYTES: u64 = 64 * 1024;

/// From a file ("-" is standard input), else from the environment variable, else from a prompt.
///
/// # Errors
/// What could not be read, and where else the secret can come from.
pub(super) fn secret(
    what: &str,
    option: &str,
    file: Option<&Path>,
    variable: Option<&str>,
) -> Result<Secret, String> {
    if let Some(path) = file {
        return read(path).map(|text| Secret::new(&text)).map_err(|error| {
            format!("the {what} cannot be read from {}: {error}", path.display())
        });
    }
    if let Some(text) = variable.and_then(|name| std::env::var(name).ok()) {
        return Ok(Secret::new(&text));
    }
    if !std::io::stdin().is_terminal() {
        let or = variable.map(|name| format!(", or set {name}"));
        return Err(format!(
            "no {what}: give {option} FILE (\"-\" for standard input){}",
            or.unwrap_or_default()
        ));
    }
    rpassword::prompt_password(format!("{what}: "))
        .map(|text| Secret::new(&text))
        .map_err(|error| format!("the {what} cannot be read: {error}"))
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
