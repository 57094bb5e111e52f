//! Secrets from a file, standard input, the environment or a prompt. Never from the command line, where other
//! users could see them in the list of processes.

use crate::secret::Secret;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

/// The environment variable with the client secret of an API key.
pub(super) const SECRET_ENV: &str = "BRIDGE_CLIENT_SECRET";

/// Longest secret that is read, in bytes. A private key in PEM fits.
const SECRET_MAX_BYTES: u64 = 64 * 1024;

/// Reads a secret from a file ("-" is standard input), else from an environment variable, else from a prompt.
/// `what` names the secret in messages, `option` the option with the file.
///
/// # Errors
/// The source that cannot be read, or the sources that are possible.
pub(super) fn secret(
    what: &str,
    option: &str,
    file: Option<&Path>,
    variable: Option<&str>,
) -> Result<Secret, String> {
    if let Some(path) = file {
        return read(path)
            .map(Secret::owned)
            .map_err(|error| format!("cannot read the {what} from {}: {error}", path.display()));
    }
    if let Some(text) = variable.and_then(|name| std::env::var(name).ok()) {
        return Ok(Secret::owned(text));
    }
    // A prompt in a script or a service would wait for ever.
    if !std::io::stdin().is_terminal() {
        let or = variable.map(|name| format!(", or set {name}"));
        return Err(format!(
            "no {what}: use {option} FILE (\"-\" for standard input){}",
            or.unwrap_or_default()
        ));
    }
    rpassword::prompt_password(format!("{what}: "))
        .map(Secret::owned)
        .map_err(|error| format!("cannot read the {what}: {error}"))
}

fn read(path: &Path) -> std::io::Result<String> {
    // With room for all, so that growing leaves no part in freed memory.
    let mut text = String::with_capacity(usize::try_from(SECRET_MAX_BYTES).unwrap_or_default());
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
