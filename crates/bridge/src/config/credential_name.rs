//! The syntax of a credential's name.

/// Checks whether a text can be the name of a credential.
///
/// # Errors
/// The syntax of a name.
pub(crate) fn check_credential_name(name: &str) -> Result<(), String> {
    protocol::name::check("a credential", name).map_err(|error| error.to_string())
}
