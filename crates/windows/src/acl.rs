//! Access control lists of files and directories: the system's counterpart of a Unix mode.
//!
//! ```text
//! only the system, administrators, the service and this user  -> private
//! and other single accounts                                   -> single
//! and a group of many accounts, or no list at all             -> open
//! ```
//!
//! Lists are read and changed by handle: a path may lead to another file by then.

use crate::files::reopen;
use crate::sid::{self, Standing, standing};
use crate::text::{of_system, wide, wide_path};
use std::fs::File;
use std::io;
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use windows_sys::Win32::Foundation::{CloseHandle, ERROR_SUCCESS, HANDLE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW,
    ConvertStringSidToSidW, EXPLICIT_ACCESS_W, GRANT_ACCESS, GetSecurityInfo, NO_MULTIPLE_TRUSTEE,
    SDDL_REVISION_1, SE_FILE_OBJECT, SE_KERNEL_OBJECT, SE_OBJECT_TYPE, SetEntriesInAclW,
    SetSecurityInfo, TRUSTEE_IS_SID, TRUSTEE_IS_UNKNOWN, TRUSTEE_W,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, CheckTokenMembership, DACL_SECURITY_INFORMATION, GetAce,
    GetSecurityDescriptorDacl, GetTokenInformation, INHERIT_ONLY_ACE, NO_INHERITANCE,
    OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID,
    SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateDirectoryW, FILE_GENERIC_EXECUTE, FILE_GENERIC_READ, READ_CONTROL, WRITE_DAC,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// Rights with which an account reads or changes content: data of a file, entries of a directory, the list itself.
const HARMFUL: u32 = 0x0000_0047 | 0x000c_0000 | 0xd000_0000;

/// Entry types that grant rights and have the form of [`ACCESS_ALLOWED_ACE`]: plain ones and those with a condition.
const ALLOWED: [u8; 2] = [0, 9];

/// Entry types that deny: without effect on the verdict, which is then too strict at most.
const DENIED: [u8; 4] = [1, 6, 10, 12];

/// Bytes of a token's user with the longest SID.
const USER_MAX_BYTES: usize = 256;

/// Who has access to a file or directory, apart from the accounts that are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// No other account.
    Private,
    /// Single accounts.
    Single,
    /// Many accounts.
    Open,
}

/// A security descriptor that the system has allocated.
struct Descriptor(PSECURITY_DESCRIPTOR);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the system allocated it with LocalAlloc, and nothing else frees it.
        unsafe { LocalFree(self.0) };
    }
}

impl Descriptor {
    fn parse(text: &str) -> io::Result<Self> {
        let text = wide(text);
        let mut made = null_mut();
        // SAFETY: the text ends with a zero, and `made` is written by the call.
        let is_made = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &mut made,
                null_mut(),
            )
        };
        match is_made {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(Self(made)),
        }
    }

    /// Returns its list, which lives as long as the descriptor.
    fn list(&self) -> io::Result<*const ACL> {
        let (mut is_present, mut list, mut is_default) = (0, null_mut(), 0);
        // SAFETY: the descriptor is valid, and the call writes the three values.
        let is_read = unsafe {
            GetSecurityDescriptorDacl(self.0, &mut is_present, &mut list, &mut is_default)
        };
        match is_read {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(list),
        }
    }
}

/// A SID that the system has allocated.
struct Sid(PSID);

impl Drop for Sid {
    fn drop(&mut self) {
        // SAFETY: the system allocated it with LocalAlloc, and nothing else frees it.
        unsafe { LocalFree(self.0) };
    }
}

impl Sid {
    fn parse(text: &str) -> io::Result<Self> {
        let text = wide(text);
        let mut made = null_mut();
        // SAFETY: the text ends with a zero, and `made` is written by the call.
        match unsafe { ConvertStringSidToSidW(text.as_ptr(), &mut made) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(Self(made)),
        }
    }
}

/// A descriptor for the functions that make an object.
pub(crate) struct Attributes {
    raw: SECURITY_ATTRIBUTES,
    _descriptor: Descriptor,
}

impl Attributes {
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let descriptor = Descriptor::parse(text)?;
        Ok(Self {
            raw: SECURITY_ATTRIBUTES {
                nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default(),
                lpSecurityDescriptor: descriptor.0,
                bInheritHandle: 0,
            },
            _descriptor: descriptor,
        })
    }

    pub(crate) fn raw(&mut self) -> *mut SECURITY_ATTRIBUTES {
        &mut self.raw
    }
}

/// Returns who has access to an open file or directory.
///
/// # Errors
/// The system's error, for example without the right to read the list.
pub fn access(file: &File) -> io::Result<Access> {
    let is_directory = file.metadata()?.is_dir();
    let own = own_sid()?;
    let found = found(file.as_raw_handle(), SE_FILE_OBJECT)?;
    // No list: everyone has every right. File systems without lists report this, too.
    if found.list.is_null() {
        return Ok(Access::Open);
    }
    let mut access = Access::Private;
    for index in 0..entries(found.list) {
        let mut entry = null_mut();
        // SAFETY: the list is valid for as long as `found` lives, and `entry` is written by the call.
        if unsafe { GetAce(found.list, index, &mut entry) } == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: each entry begins with a header.
        let header = unsafe { *entry.cast::<ACE_HEADER>() };
        let is_of_children_only = u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0;
        if DENIED.contains(&header.AceType) || is_of_children_only && !is_directory {
            continue;
        }
        // A form that is not known may grant anything to anyone.
        if !ALLOWED.contains(&header.AceType) {
            return Ok(Access::Open);
        }
        let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
        // SAFETY: entries of these types have this form, and their SID begins at `SidStart`.
        let (mask, account) = unsafe {
            (
                (*entry).Mask,
                text_of(std::ptr::addr_of_mut!((*entry).SidStart).cast())?,
            )
        };
        if mask & HARMFUL == 0 {
            continue;
        }
        match standing(&account, &own) {
            Standing::Trusted => {}
            Standing::Single => access = Access::Single,
            Standing::Broad => return Ok(Access::Open),
        }
    }
    Ok(access)
}

/// Returns whether the system, an administrator, the service or this user owns an open file or directory.
///
/// # Errors
/// The system's error.
pub fn has_trusted_owner(file: &File) -> io::Result<bool> {
    is_owner_trusted(file.as_raw_handle(), SE_FILE_OBJECT)
}

/// The same of a pipe.
pub(crate) fn has_pipe_trusted_owner(pipe: HANDLE) -> io::Result<bool> {
    is_owner_trusted(pipe, SE_KERNEL_OBJECT)
}

fn is_owner_trusted(handle: HANDLE, kind: SE_OBJECT_TYPE) -> io::Result<bool> {
    let own = own_sid()?;
    let found = found(handle, kind)?;
    // SAFETY: the owner is a part of the descriptor, which lives as long as `found`.
    let owner = unsafe { text_of(found.owner)? };
    Ok(standing(&owner, &own) == Standing::Trusted)
}

/// Gives an open file or directory the list of a private one.
///
/// # Errors
/// The system's error: this user may not change the list, or the file system has none.
pub fn make_private(file: &File) -> io::Result<()> {
    let is_directory = file.metadata()?.is_dir();
    set(file, &sid::private(additional()?.as_deref(), is_directory))
}

/// Gives an open directory the list of the program's config: administrators write, the service reads.
///
/// # Errors
/// As [`make_private`].
pub fn make_config_dir(directory: &File) -> io::Result<()> {
    set(directory, &sid::of_config())
}

/// Lets the service read an open file, in addition to the accounts of its list. Directories above the file need no change:
/// every account may pass them.
///
/// # Errors
/// The system's error: this user may not change the list.
pub fn let_service_read(file: &File) -> io::Result<()> {
    let file = reopen(file, READ_CONTROL | WRITE_DAC)?;
    let found = found(file.as_raw_handle(), SE_FILE_OBJECT)?;
    let service = Sid::parse(sid::SERVICE)?;
    let entry = EXPLICIT_ACCESS_W {
        grfAccessPermissions: FILE_GENERIC_READ | FILE_GENERIC_EXECUTE,
        grfAccessMode: GRANT_ACCESS,
        grfInheritance: NO_INHERITANCE,
        Trustee: TRUSTEE_W {
            pMultipleTrustee: null_mut(),
            MultipleTrusteeOperation: NO_MULTIPLE_TRUSTEE,
            TrusteeForm: TRUSTEE_IS_SID,
            TrusteeType: TRUSTEE_IS_UNKNOWN,
            ptstrName: service.0.cast(),
        },
    };
    let mut list = null_mut();
    // SAFETY: the entry, its SID and the old list live until after the call, which allocates the new list.
    of_code(unsafe { SetEntriesInAclW(1, &entry, found.list, &mut list) })?;
    // SAFETY: the handle has the right to change the list. Its inherited entries stay inherited.
    let error = unsafe {
        SetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION,
            null_mut(),
            null_mut(),
            list,
            null(),
        )
    };
    // SAFETY: allocated with LocalAlloc by the call above, and not used again.
    unsafe { LocalFree(list.cast()) };
    of_code(error)
}

/// Returns whether this user may change the list.
pub fn may_change(file: &File) -> bool {
    reopen(file, READ_CONTROL | WRITE_DAC).is_ok()
}

/// Makes a directory for this user and the service alone. It has its list from the start.
///
/// # Errors
/// The system's error, for example that it exists.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut attributes = Attributes::parse(&sid::private(additional()?.as_deref(), true))?;
    let path = wide_path(path)?;
    // SAFETY: the path ends with a zero; the attributes live until after the call.
    match unsafe { CreateDirectoryW(path.as_ptr(), attributes.raw()) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Returns whether this process has the rights of an administrator: it was started with "Run as administrator".
pub fn is_administrator() -> bool {
    let Ok(descriptor) = Descriptor::parse("O:BA") else {
        return false;
    };
    let (mut account, mut is_default, mut is_member) = (null_mut(), 0, 0);
    // SAFETY: the descriptor is valid, and the call writes both values.
    let is_read = unsafe {
        windows_sys::Win32::Security::GetSecurityDescriptorOwner(
            descriptor.0,
            &mut account,
            &mut is_default,
        )
    };
    // SAFETY: the account is a part of the descriptor, which lives until the end of this function.
    is_read != 0
        && unsafe { CheckTokenMembership(null_mut(), account, &mut is_member) } != 0
        && is_member != 0
}

/// Returns the SID of this process's user.
///
/// # Errors
/// The system's error.
pub(crate) fn own_sid() -> io::Result<String> {
    static OWN: OnceLock<String> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own.clone());
    }
    let own = with_own_user(|user| {
        // SAFETY: the SID is valid during this call.
        unsafe { text_of(user) }
    })??;
    Ok(OWN.get_or_init(|| own).clone())
}

/// Calls a function with the SID of this process's user.
pub(crate) fn with_own_user<T>(then: impl FnOnce(PSID) -> T) -> io::Result<T> {
    let mut token = null_mut();
    // SAFETY: the pseudo handle of the process needs no close, and `token` is written by the call.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // As words: the system writes a structure with a pointer, which must be aligned.
    let mut buffer = [0_u64; USER_MAX_BYTES / 8];
    let mut bytes = 0;
    // SAFETY: the buffer has the given length, and `bytes` is written by the call.
    let is_read = unsafe {
        GetTokenInformation(
            token,
            TokenUser,
            buffer.as_mut_ptr().cast(),
            u32::try_from(USER_MAX_BYTES).unwrap_or_default(),
            &mut bytes,
        )
    };
    let error = io::Error::last_os_error();
    // SAFETY: this function has opened it, and does not use it again.
    unsafe { CloseHandle(token) };
    if is_read == 0 {
        return Err(error);
    }
    // SAFETY: the call has written this structure; its SID is in the same buffer, which lives until the return.
    let user = unsafe { (*buffer.as_ptr().cast::<TOKEN_USER>()).User.Sid };
    Ok(then(user))
}

/// Returns the account that a private file lists in addition: this user, if it is no administrator. An administrator has
/// access by the group; an entry would remain after the account has left it.
fn additional() -> io::Result<Option<String>> {
    match is_administrator() {
        true => Ok(None),
        false => own_sid().map(Some),
    }
}

fn set(file: &File, descriptor: &str) -> io::Result<()> {
    let descriptor = Descriptor::parse(descriptor)?;
    let file = reopen(file, READ_CONTROL | WRITE_DAC)?;
    // SAFETY: the handle has the right to change the list, and the list lives until after the call.
    let error = unsafe {
        SetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION,
            null_mut(),
            null_mut(),
            descriptor.list()?,
            null(),
        )
    };
    of_code(error)
}

/// What is known of an object's security. Owner and list are parts of the descriptor.
struct Found {
    owner: PSID,
    list: *const ACL,
    _descriptor: Descriptor,
}

fn found(handle: HANDLE, kind: SE_OBJECT_TYPE) -> io::Result<Found> {
    let (mut owner, mut list, mut descriptor) = (null_mut(), null_mut(), null_mut());
    // SAFETY: the call writes the pointers, which lead into the descriptor that it allocates.
    let error = unsafe {
        GetSecurityInfo(
            handle,
            kind,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            &mut owner,
            null_mut(),
            &mut list,
            null_mut(),
            &mut descriptor,
        )
    };
    of_code(error)?;
    Ok(Found {
        owner,
        list,
        _descriptor: Descriptor(descriptor),
    })
}

fn entries(list: *const ACL) -> u32 {
    // SAFETY: the caller has checked that the list is not null; it belongs to a descriptor that lives.
    u32::from(unsafe { (*list).AceCount })
}

/// Returns the text of a SID.
///
/// # Safety
/// `account` leads to a valid SID, or is null.
unsafe fn text_of(account: PSID) -> io::Result<String> {
    let mut text = null_mut();
    // SAFETY: the caller guarantees the SID; the call refuses a null pointer.
    if unsafe { ConvertSidToStringSidW(account, &mut text) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has allocated a text that ends with a zero.
    let copy = unsafe { of_system(text) };
    // SAFETY: allocated with LocalAlloc by the call above, and not used again.
    unsafe { LocalFree(text.cast()) };
    Ok(copy)
}

fn of_code(code: u32) -> io::Result<()> {
    match code {
        ERROR_SUCCESS => Ok(()),
        // The codes of the system are small, and the type of the standard library is signed.
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FLAG_DIRECTORY;
    use std::os::windows::fs::OpenOptionsExt as _;

    fn open(path: &Path) -> File {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(FLAG_DIRECTORY);
        options.open(path).unwrap()
    }

    #[test]
    fn private_directory_is_private_from_the_start() {
        let above = std::env::temp_dir().join(format!("bridge acl ä {}", std::process::id()));
        std::fs::create_dir_all(&above).unwrap();
        let dir = above.join("private");
        create_private_dir(&dir).unwrap();
        create_private_dir(&dir).unwrap_err();
        let opened = open(&dir);
        assert_eq!(access(&opened).unwrap(), Access::Private);
        assert!(has_trusted_owner(&opened).unwrap());
        let file = dir.join("file");
        std::fs::write(&file, "x").unwrap();
        let file = open(&file);
        assert!(may_change(&file));
        make_private(&file).unwrap();
        assert_eq!(access(&file).unwrap(), Access::Private);
        // Everyone reads.
        set(&file, "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FR;;;WD)").unwrap();
        assert_eq!(access(&file).unwrap(), Access::Open);
        let_service_read(&file).unwrap();
        make_config_dir(&opened).unwrap();
        std::fs::remove_dir_all(&above).unwrap();
    }
}
