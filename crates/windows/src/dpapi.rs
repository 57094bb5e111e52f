//! Secrets that only this machine can read (the Data Protection API).
//!
//! Every process of the machine can unseal them, so that a command of an administrator and the service read the same file.
//! What keeps other users away is the list of the file. The seal protects a copy of the file: a backup, or a disk that
//! was removed.

use std::io;
use std::ptr::{null, null_mut};
use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Cryptography::{
    CRYPT_INTEGER_BLOB, CRYPTPROTECT_LOCAL_MACHINE, CRYPTPROTECT_UI_FORBIDDEN, CryptProtectData,
    CryptUnprotectData,
};

/// Longest secret, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Never asks a person: the service has no desktop.
const FLAGS: u32 = CRYPTPROTECT_LOCAL_MACHINE | CRYPTPROTECT_UI_FORBIDDEN;

/// Seals a secret. `purpose` separates the secrets of one program; it is needed to unseal it.
///
/// # Errors
/// The system's error, or the secret is too long.
pub fn seal(secret: &[u8], purpose: &str) -> io::Result<Vec<u8>> {
    let (secret, purpose) = (blob(secret)?, blob(purpose.as_bytes())?);
    let mut sealed = empty();
    // SAFETY: both inputs live until after the call, which writes `sealed`.
    let is_sealed = unsafe {
        CryptProtectData(
            &secret,
            null(),
            &purpose,
            null(),
            null(),
            FLAGS,
            &mut sealed,
        )
    };
    taken(is_sealed, sealed)
}

/// Unseals a secret.
///
/// # Errors
/// The system's error: another machine has sealed it, or for another purpose, or it was changed.
pub fn unseal(sealed: &[u8], purpose: &str) -> io::Result<Vec<u8>> {
    let (sealed, purpose) = (blob(sealed)?, blob(purpose.as_bytes())?);
    let mut secret = empty();
    // SAFETY: both inputs live until after the call, which writes `secret`.
    let is_unsealed = unsafe {
        CryptUnprotectData(
            &sealed,
            null_mut(),
            &purpose,
            null(),
            null(),
            FLAGS,
            &mut secret,
        )
    };
    taken(is_unsealed, secret)
}

fn empty() -> CRYPT_INTEGER_BLOB {
    CRYPT_INTEGER_BLOB {
        cbData: 0,
        pbData: null_mut(),
    }
}

fn blob(bytes: &[u8]) -> io::Result<CRYPT_INTEGER_BLOB> {
    let length = u32::try_from(bytes.len()).ok();
    let length = length.filter(|_| bytes.len() <= MAX_BYTES);
    Ok(CRYPT_INTEGER_BLOB {
        cbData: length.ok_or(io::ErrorKind::InvalidInput)?,
        // The calls only read it.
        pbData: bytes.as_ptr().cast_mut(),
    })
}

/// Copies what a call has allocated, overwrites it, and frees it.
fn taken(is_done: i32, made: CRYPT_INTEGER_BLOB) -> io::Result<Vec<u8>> {
    if is_done == 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = made.cbData as usize;
    // SAFETY: the call has allocated and written so many bytes.
    let made_bytes = unsafe { std::slice::from_raw_parts_mut(made.pbData, bytes) };
    let copy = made_bytes.to_vec();
    for byte in made_bytes {
        // SAFETY: a reference is valid for a write. Volatile, for the compiler would drop a write before the free.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    // SAFETY: allocated with LocalAlloc by the call, and not used again.
    unsafe { LocalFree(made.pbData.cast()) };
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_opens_for_its_purpose_only() {
        let sealed = seal(b"sesame", "a test").unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"sesame"));
        assert_eq!(unseal(&sealed, "a test").unwrap(), b"sesame");
        unseal(&sealed, "another test").unwrap_err();
        unseal(&sealed[..sealed.len() / 2], "a test").unwrap_err();
        seal(&[0; MAX_BYTES + 1], "a test").unwrap_err();
    }
}
