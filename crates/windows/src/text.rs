//! Texts of the system: UTF-16 with a zero at the end.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

/// Returns a text as system functions take it.
pub(crate) fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain(Some(0)).collect()
}

/// Returns a path as system functions take it, without their limit of 260 characters.
pub(crate) fn wide_path(path: &Path) -> io::Result<Vec<u16>> {
    let path = std::path::absolute(path)?;
    let is_long_form = path.as_os_str().to_string_lossy().starts_with(r"\\");
    let mut text = OsString::from(if is_long_form { "" } else { r"\\?\" });
    text.push(&path);
    Ok(wide(text))
}

/// Returns the text in a buffer, up to its first zero.
pub(crate) fn until_zero(buffer: &[u16]) -> String {
    let end = buffer.iter().position(|unit| *unit == 0);
    let text = &buffer[..end.unwrap_or(buffer.len())];
    OsString::from_wide(text).to_string_lossy().into_owned()
}

/// Returns a text of the system.
///
/// # Safety
/// `text` is null, or leads to a text that ends with a zero and stays as it is during the call.
pub(crate) unsafe fn of_system(text: *const u16) -> String {
    if text.is_null() {
        return String::new();
    }
    let mut units = 0;
    // SAFETY: no unit after the zero is read, and the caller guarantees those before it.
    while unsafe { *text.add(units) } != 0 {
        units += 1;
    }
    // SAFETY: as above.
    until_zero(unsafe { std::slice::from_raw_parts(text, units) })
}
