//! The registry: texts and numbers, each with a limit.

use crate::text::{until_zero, wide};
use std::io;
use std::ptr::{null, null_mut};
use windows_sys::Win32::Foundation::ERROR_SUCCESS;
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_CURRENT_USER, HKEY_LOCAL_MACHINE, KEY_READ, KEY_WRITE, REG_DWORD, REG_EXPAND_SZ,
    REG_OPTION_NON_VOLATILE, RRF_NOEXPAND, RRF_RT_REG_DWORD, RRF_RT_REG_EXPAND_SZ, RRF_RT_REG_SZ,
    RegCloseKey, RegCreateKeyExW, RegDeleteKeyW, RegEnumKeyExW, RegGetValueW, RegOpenKeyExW,
    RegSetValueExW,
};

/// Longest text that is read, in units of UTF-16.
const TEXT_MAX_UNITS: usize = 8 * 1024;

/// Longest name of a key.
const NAME_MAX_UNITS: usize = 256;

/// Most keys of a list.
const KEYS_MAX: u32 = 4096;

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// The machine's.
    Machine,
    /// This user's.
    User,
}

impl Root {
    fn key(self) -> HKEY {
        match self {
            Self::Machine => HKEY_LOCAL_MACHINE,
            Self::User => HKEY_CURRENT_USER,
        }
    }
}

/// Returns a text; `None` if it is missing, is no text, or is too long.
pub(crate) fn text(root: Root, key: &str, name: &str) -> Option<String> {
    let (key, name) = (wide(key), wide(name));
    let mut buffer = vec![0_u16; TEXT_MAX_UNITS];
    let mut bytes = u32::try_from(buffer.len() * 2).ok()?;
    // Both kinds of text, and without replacing variables in them.
    let kinds = RRF_RT_REG_SZ | RRF_RT_REG_EXPAND_SZ | RRF_NOEXPAND;
    // SAFETY: the names end with a zero, and the buffer has the given length.
    let error = unsafe {
        RegGetValueW(
            root.key(),
            key.as_ptr(),
            name.as_ptr(),
            kinds,
            null_mut(),
            buffer.as_mut_ptr().cast(),
            &mut bytes,
        )
    };
    (error == ERROR_SUCCESS).then(|| until_zero(&buffer))
}

/// Returns a number; `None` if it is missing.
pub(crate) fn number(root: Root, key: &str, name: &str) -> Option<u32> {
    let (key, name) = (wide(key), wide(name));
    let mut value = 0_u32;
    let mut bytes = u32::try_from(size_of::<u32>()).ok()?;
    // SAFETY: the names end with a zero, and the value has the given size.
    let error = unsafe {
        RegGetValueW(
            root.key(),
            key.as_ptr(),
            name.as_ptr(),
            RRF_RT_REG_DWORD,
            null_mut(),
            (&raw mut value).cast(),
            &mut bytes,
        )
    };
    (error == ERROR_SUCCESS).then_some(value)
}

/// An open key.
struct Key(HKEY);

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: this value has opened it, and nothing else closes it.
        unsafe { RegCloseKey(self.0) };
    }
}

/// Returns the names of the keys below one of the machine.
pub(crate) fn keys(key: &str) -> Vec<String> {
    let name = wide(key);
    let mut opened = null_mut();
    // SAFETY: the name ends with a zero, and `opened` is written by the call.
    let error =
        unsafe { RegOpenKeyExW(HKEY_LOCAL_MACHINE, name.as_ptr(), 0, KEY_READ, &mut opened) };
    if error != ERROR_SUCCESS {
        return Vec::new();
    }
    let key = Key(opened);
    let mut names = Vec::new();
    for index in 0..KEYS_MAX {
        let mut buffer = [0_u16; NAME_MAX_UNITS];
        let mut units = u32::try_from(buffer.len()).unwrap_or_default();
        // SAFETY: the key is open, and the buffer has the given length. The other values are not wanted.
        let error = unsafe {
            RegEnumKeyExW(
                key.0,
                index,
                buffer.as_mut_ptr(),
                &mut units,
                null(),
                null_mut(),
                null_mut(),
                null_mut(),
            )
        };
        if error != ERROR_SUCCESS {
            break;
        }
        names.push(until_zero(&buffer));
    }
    names
}

/// Makes a key of the machine with a text and numbers in it.
pub(crate) fn write(key: &str, text: (&str, &str), numbers: &[(&str, u32)]) -> io::Result<()> {
    let name = wide(key);
    let mut opened = null_mut();
    // SAFETY: the name ends with a zero, and `opened` is written by the call.
    let error = unsafe {
        RegCreateKeyExW(
            HKEY_LOCAL_MACHINE,
            name.as_ptr(),
            0,
            null(),
            REG_OPTION_NON_VOLATILE,
            KEY_WRITE,
            null(),
            &mut opened,
            null_mut(),
        )
    };
    of_code(error)?;
    let key = Key(opened);
    let value: Vec<u8> = wide(text.1)
        .into_iter()
        .flat_map(u16::to_le_bytes)
        .collect();
    set(&key, text.0, REG_EXPAND_SZ, &value)?;
    for (name, number) in numbers {
        set(&key, name, REG_DWORD, &number.to_le_bytes())?;
    }
    Ok(())
}

fn set(key: &Key, name: &str, kind: u32, value: &[u8]) -> io::Result<()> {
    let name = wide(name);
    let bytes = u32::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the key is open, the name ends with a zero, and the value has the given length.
    of_code(unsafe { RegSetValueExW(key.0, name.as_ptr(), 0, kind, value.as_ptr(), bytes) })
}

/// Removes a key of the machine that has no keys below it.
pub(crate) fn remove(key: &str) -> io::Result<()> {
    let name = wide(key);
    // SAFETY: the name ends with a zero.
    of_code(unsafe { RegDeleteKeyW(HKEY_LOCAL_MACHINE, name.as_ptr()) })
}

fn of_code(code: u32) -> io::Result<()> {
    match code {
        ERROR_SUCCESS => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}
