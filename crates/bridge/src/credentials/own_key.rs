//! The content of the key file that the bridge makes itself.
//!
//! ```text
//! Windows         "DPAPI1", the key as the Data Protection API seals it for this machine
//! other systems   the key
//! ```
//!
//! What keeps other users of the machine away is the list or mode of the file. The seal protects a copy of the data directory:
//! on another machine it opens nothing. A bridge that moves to another machine, with its credentials, needs
//! `bridge.key_file`.

use runtime::secret::Zeroizing;

/// Begins a file with a sealed key. Files of earlier versions have the key alone, which is random.
#[cfg(any(windows, test))]
const SEALED: &[u8] = b"DPAPI1";

/// Separates this key from other sealed secrets of the machine.
#[cfg(windows)]
const PURPOSE: &str = "integration-bridge credentials.key";

/// Returns the content of the file for a key.
///
/// # Errors
/// Why the system does not seal it.
#[cfg(windows)]
pub(super) fn wrapped(key: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let sealed = bridge_windows::dpapi::seal(key, PURPOSE)
        .map_err(|error| format!("the system does not seal it: {error}"))?;
    Ok([SEALED, &sealed].concat().into())
}

/// Returns the key in a file.
///
/// # Errors
/// Why the system does not unseal it.
#[cfg(windows)]
pub(super) fn unwrapped(file: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, String> {
    let Some(sealed) = sealed_part(&file) else {
        return Ok(file);
    };
    let key = bridge_windows::dpapi::unseal(sealed, PURPOSE).map_err(|error| {
        format!(
            "the system does not unseal it ({error}): it was sealed on another machine, or was changed; restore the data \
             directory on the machine that made it, or remove the file and set each credential again"
        )
    })?;
    Ok(key.into())
}

/// Returns the content of the file for a key.
#[cfg(not(windows))]
pub(super) fn wrapped(key: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    Ok(key.to_vec().into())
}

/// Returns the key in a file.
#[cfg(not(windows))]
pub(super) fn unwrapped(file: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, String> {
    Ok(file)
}

/// Returns the sealed key of a file; `None` if the file has the key itself.
#[cfg(any(windows, test))]
fn sealed_part(file: &[u8]) -> Option<&[u8]> {
    file.strip_prefix(SEALED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_comes_back_from_its_file() {
        let file = wrapped(&[7; 32]).unwrap();
        assert_eq!(sealed_part(&file).is_some(), cfg!(windows));
        assert_eq!(*unwrapped(file).unwrap(), [7; 32]);
        // The file of an earlier version.
        assert_eq!(*unwrapped(vec![8; 32].into()).unwrap(), [8; 32]);
        assert_eq!(sealed_part(b"DPAPI1x"), Some(&b"x"[..]));
    }
}
