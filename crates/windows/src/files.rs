//! What the standard library does not tell of an open file: which one it is, and how many names it has.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _};
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_BASIC_INFO, FileBasicInfo, GetFileInformationByHandle,
    GetFileInformationByHandleEx, ReOpenFile,
};

/// Opens a directory, which needs this flag.
pub const FLAG_DIRECTORY: u32 = windows_sys::Win32::Storage::FileSystem::FILE_FLAG_BACKUP_SEMANTICS;

/// Opens a link itself, not what it leads to. Links, junctions and mount points are all reparse points.
pub const FLAG_NO_FOLLOW: u32 =
    windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OPEN_REPARSE_POINT;

/// The attribute of a link.
pub const ATTRIBUTE_LINK: u32 =
    windows_sys::Win32::Storage::FileSystem::FILE_ATTRIBUTE_REPARSE_POINT;

/// Other processes may read and write the file in the meantime.
pub const SHARE_READ_WRITE: u32 = windows_sys::Win32::Storage::FileSystem::FILE_SHARE_READ
    | windows_sys::Win32::Storage::FileSystem::FILE_SHARE_WRITE;

/// They may also rename and remove it.
pub const SHARE_ALL: u32 =
    SHARE_READ_WRITE | windows_sys::Win32::Storage::FileSystem::FILE_SHARE_DELETE;

/// The rights of a handle that reads.
pub const RIGHTS_READ: u32 = windows_sys::Win32::Storage::FileSystem::FILE_GENERIC_READ;

/// The rights of a handle that writes.
pub const RIGHTS_WRITE: u32 = windows_sys::Win32::Storage::FileSystem::FILE_GENERIC_WRITE;

/// The right to make a file in a directory, and to write into a file.
pub const RIGHT_ADD: u32 = windows_sys::Win32::Storage::FileSystem::FILE_ADD_FILE;

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The volume's number.
    pub volume: u32,
    /// The file's number in it.
    pub index: u64,
}

/// Returns which file it is.
///
/// # Errors
/// The system's error, for example for a pipe.
pub fn identity(file: &File) -> io::Result<Identity> {
    let found = information(file)?;
    Ok(Identity {
        volume: found.dwVolumeSerialNumber,
        index: u64::from(found.nFileIndexHigh) << 32 | u64::from(found.nFileIndexLow),
    })
}

/// Returns how many names it has: more than one with a hard link.
///
/// # Errors
/// As [`identity`].
pub fn names(file: &File) -> io::Result<u32> {
    information(file).map(|found| found.nNumberOfLinks)
}

/// Returns when anything of the file changed, its attributes and its list included, in units of 100 ns. Programs that set
/// other times cannot easily set this one.
///
/// # Errors
/// As [`identity`].
pub fn changed(file: &File) -> io::Result<i64> {
    // SAFETY: the structure has numbers alone.
    let mut found: FILE_BASIC_INFO = unsafe { zeroed() };
    let bytes = u32::try_from(size_of::<FILE_BASIC_INFO>()).unwrap_or_default();
    // SAFETY: the buffer has the size of the structure that the call writes.
    let is_read = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            FileBasicInfo,
            (&raw mut found).cast(),
            bytes,
        )
    };
    match is_read {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(found.ChangeTime),
    }
}

/// Opens an open file again, with other rights.
///
/// # Errors
/// The system's error: this user does not have the rights.
pub fn reopen(file: &File, rights: u32) -> io::Result<File> {
    // Also for a directory, which is not opened without this flag.
    let flags = FLAG_DIRECTORY | FLAG_NO_FOLLOW;
    // SAFETY: the handle is open for as long as `file` is borrowed.
    let handle = unsafe { ReOpenFile(file.as_raw_handle(), rights, SHARE_ALL, flags) };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has opened it, and nothing else owns it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

fn information(file: &File) -> io::Result<BY_HANDLE_FILE_INFORMATION> {
    // SAFETY: the structure has numbers alone.
    let mut found: BY_HANDLE_FILE_INFORMATION = unsafe { zeroed() };
    // SAFETY: the handle is open, and the call writes the structure.
    match unsafe { GetFileInformationByHandle(file.as_raw_handle(), &mut found) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn opened_file_has_identity_names_and_other_rights() {
        let dir = std::env::temp_dir().join(format!("bridge windows ä {}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let [one, other, twin] = ["one", "other", "twin"].map(|name| dir.join(name));
        std::fs::write(&one, "text").unwrap();
        std::fs::write(&other, "").unwrap();
        let open = |path| File::open(path).unwrap();
        assert_eq!(
            identity(&open(&one)).unwrap(),
            identity(&open(&one)).unwrap()
        );
        assert_ne!(
            identity(&open(&one)).unwrap(),
            identity(&open(&other)).unwrap()
        );
        assert_eq!(names(&open(&one)).unwrap(), 1);
        std::fs::hard_link(&one, &twin).unwrap();
        assert_eq!(names(&open(&one)).unwrap(), 2);
        assert!(changed(&open(&one)).unwrap() > 0);
        // A handle that appends may not cut the file.
        let mut options = std::fs::OpenOptions::new();
        let mut appended = options.append(true).open(&one).unwrap();
        reopen(&appended, RIGHTS_WRITE).unwrap().set_len(1).unwrap();
        appended.write_all(b"x").unwrap();
        assert_eq!(std::fs::read_to_string(&one).unwrap(), "tx");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
