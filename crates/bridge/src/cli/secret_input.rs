//! Secrets from a file, standard input, the environment or a prompt. Never from the command line, where other
//! users could see them in the list of processes. `runtime::value` decides which forms are taken.

use super::common::warn;
use crate::secret::Secret;
use runtime::pem;
use runtime::secret::Zeroizing;
use runtime::value::{self, Form};
use std::io::{IsTerminal as _, Read};
use std::path::Path;

/// The environment variable with the client secret of an API key.
pub(super) const SECRET_ENV: &str = "BRIDGE_CLIENT_SECRET";

/// The environment variable with the path of a file that holds that secret. It comes first.
pub(super) const SECRET_FILE_ENV: &str = "BRIDGE_CLIENT_SECRET_FILE";

/// Longest secret that is read, in bytes. A private key in PEM fits.
const SECRET_MAX_BYTES: usize = 64 * 1024;

/// A secret that a command needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// What it is, for messages: `client secret`.
    pub(super) what: &'a str,
    /// What it may look like.
    pub(super) form: Form,
    /// The option, or the variable, with its file.
    pub(super) option: &'a str,
    /// The environment variable with the secret itself.
    pub(super) variable: Option<&'a str>,
}

/// Reads a secret from a file ("-" is standard input), else from an environment variable, else from a prompt.
///
/// # Errors
/// The source that cannot be read and why, or the sources that are possible.
pub(super) fn secret(wanted: Wanted<'_>, file: Option<&Path>) -> Result<Secret, String> {
    let Wanted {
        what,
        form,
        option,
        variable,
    } = wanted;
    let source = match file {
        Some(path) if path == Path::new("-") => "standard input".to_owned(),
        Some(path) => format!("{} ({option})", path.display()),
        None => String::new(),
    };
    let failed = |error: &dyn std::fmt::Display, source: &str| {
        format!("cannot read the {what} from {source}: {error}")
    };
    if let Some(path) = file {
        let bytes = read(path).map_err(|error| failed(&error, &source))?;
        let text = value::read(form, &bytes).map_err(|error| failed(&error, &source))?;
        return Ok(taken(wanted, text, &source));
    }
    if let Some(name) = variable {
        let source = format!("the environment variable {name}");
        let text = value::variable(form, name).map_err(|error| failed(&error, &source))?;
        if let Some(text) = text {
            return Ok(taken(wanted, text, &source));
        }
    }
    // A prompt in a script or a service would wait for ever.
    if !std::io::stdin().is_terminal() {
        let or = variable.map(|name| format!(", or set {name}"));
        return Err(format!(
            "no {what}: use {option} FILE (\"-\" for standard input){}",
            or.unwrap_or_default()
        ));
    }
    let typed = rpassword::prompt_password(format!("{what}: "))
        .map(Zeroizing::new)
        .map_err(|error| failed(&error, "the prompt"))?;
    let text = value::read(form, typed.as_bytes()).map_err(|error| failed(&error, "the prompt"))?;
    Ok(taken(wanted, text, "the prompt"))
}

/// Reads a private key from a file ("-" is standard input), in any form that the reader of keys takes. Returns it
/// as PEM.
///
/// # Errors
/// The file that cannot be read, or what it holds instead. No part of it is in the message.
pub(super) fn private_key(option: &str, path: &Path) -> Result<Secret, String> {
    let bytes = read(path)
        .map_err(|error| format!("cannot read the key from {}: {error}", path.display()))?;
    let key = pem::private_key_in(&bytes)
        .map_err(|detail| format!("{option} {}: {detail}", path.display()))?;
    Ok(Secret::owned(pem::key_text(&key)))
}

/// A password may have blanks and quotation marks. At its ends they are more often a mistake, so they are kept and
/// reported.
fn taken(wanted: Wanted<'_>, text: String, source: &str) -> Secret {
    if wanted.form == Form::Password
        && let Some(oddity) = value::oddity(&text)
    {
        warn(&format!("the {} from {source} {oddity}", wanted.what));
    }
    Secret::owned(text)
}

fn read(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // With room for all, so that growing leaves no part in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX_BYTES + 1));
    let input: &mut dyn Read = match path == Path::new("-") {
        true => &mut std::io::stdin(),
        false => &mut std::fs::File::open(path)?,
    };
    // One more than the longest: a part of a secret would be refused elsewhere, without this reason.
    input
        .take(SECRET_MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() <= SECRET_MAX_BYTES {
        true => Ok(bytes),
        false => Err(std::io::Error::other(format!(
            "it is longer than {} KiB, the limit for a secret",
            SECRET_MAX_BYTES / 1024
        ))),
    }
}
