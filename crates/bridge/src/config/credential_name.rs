//! The syntax of a credential's name.

/// Longest name of a credential, in bytes.
const NAME_MAX: usize = 64;

/// Checks whether a text can be the name of a credential.
///
/// # Errors
/// The syntax of a name.
pub(crate) fn check_credential_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(format!(
        "the name of a credential has 1 to {NAME_MAX} letters, digits, '-', '_' and '.'"
    ))
}
