//! The machine and the process: memory, disk, version, account.

use crate::acl::with_own_user;
use crate::registry::{Root, keys, text};
use crate::text::{until_zero, wide_path};
use std::io;
use std::mem::zeroed;
use std::path::Path;
use std::ptr::{null, null_mut};
use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::Security::LookupAccountSidW;
use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;
use windows_sys::Win32::System::Diagnostics::Debug::{
    SEM_FAILCRITICALERRORS, SEM_NOGPFAULTERRORBOX, SetErrorMode,
};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::SystemInformation::{
    GlobalMemoryStatusEx, MEMORYSTATUSEX, OSVERSIONINFOW,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Where the system keeps its services.
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

/// Longest name of an account or a domain.
const NAME_MAX_UNITS: usize = 256;

/// The machine's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What is installed.
    pub total: u64,
    /// What programs can get without a use of the page file.
    pub available: u64,
}

/// Returns the machine's memory.
pub fn memory() -> Option<Memory> {
    // SAFETY: the structure has numbers alone.
    let mut found: MEMORYSTATUSEX = unsafe { zeroed() };
    found.dwLength = u32::try_from(size_of::<MEMORYSTATUSEX>()).ok()?;
    // SAFETY: the structure has its length in it, and the call writes the rest.
    let is_read = unsafe { GlobalMemoryStatusEx(&mut found) };
    (is_read != 0).then_some(Memory {
        total: found.ullTotalPhys,
        available: found.ullAvailPhys,
    })
}

/// Returns the resident memory of this process, in bytes.
pub fn resident() -> Option<u64> {
    // SAFETY: the structure has numbers alone.
    let mut found: PROCESS_MEMORY_COUNTERS = unsafe { zeroed() };
    let bytes = u32::try_from(size_of::<PROCESS_MEMORY_COUNTERS>()).ok()?;
    // SAFETY: the structure has the given size, and the pseudo handle needs no close.
    let is_read = unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &mut found, bytes) };
    (is_read != 0).then_some(found.WorkingSetSize as u64)
}

/// Returns the bytes that this user may still write to the disk of a directory: quotas count.
///
/// # Errors
/// The system's error.
pub fn disk_free(directory: &Path) -> io::Result<u64> {
    let directory = wide_path(directory)?;
    let mut free = 0;
    // SAFETY: the path ends with a zero, and the call writes the one number that is wanted.
    let is_read =
        unsafe { GetDiskFreeSpaceExW(directory.as_ptr(), &mut free, null_mut(), null_mut()) };
    match is_read {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(free),
    }
}

/// Returns the system's version, as in `Windows 6.1.7601`. It is the true one: other functions return an older one to a
/// program without a manifest.
pub fn version() -> String {
    // SAFETY: the structure has numbers alone.
    let mut found: OSVERSIONINFOW = unsafe { zeroed() };
    found.dwOSVersionInfoSize = u32::try_from(size_of::<OSVERSIONINFOW>()).unwrap_or_default();
    // SAFETY: the structure has its length in it; the call cannot fail.
    unsafe { RtlGetVersion(&mut found) };
    let OSVERSIONINFOW {
        dwMajorVersion: major,
        dwMinorVersion: minor,
        dwBuildNumber: build,
        ..
    } = found;
    format!("Windows {major}.{minor}.{build}")
}

/// Makes a crash end the process without a report: the report would have its memory, with keys and passwords.
pub fn without_crash_reports() {
    // SAFETY: the call takes flags and no pointer.
    unsafe { SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX) };
}

/// Returns this process's user as `DOMAIN\name`, from the system and not from variables.
pub fn account() -> Option<String> {
    let (mut name, mut domain) = ([0_u16; NAME_MAX_UNITS], [0_u16; NAME_MAX_UNITS]);
    let units = u32::try_from(NAME_MAX_UNITS).ok()?;
    let (mut name_units, mut domain_units, mut kind) = (units, units, 0);
    let is_found = with_own_user(|user| {
        // SAFETY: the SID is valid during this call, and both buffers have the given lengths.
        unsafe {
            LookupAccountSidW(
                null(),
                user,
                name.as_mut_ptr(),
                &mut name_units,
                domain.as_mut_ptr(),
                &mut domain_units,
                &mut kind,
            )
        }
    });
    if is_found.ok()? == 0 {
        return None;
    }
    let (name, domain) = (until_zero(&name), until_zero(&domain));
    Some(match domain.is_empty() {
        true => name,
        false => format!(r"{domain}\{name}"),
    })
}

/// Returns whether the system sets the clock from the network or its domain.
pub fn has_time_service() -> bool {
    let key = format!(r"{SERVICES}\W32Time\Parameters");
    text(Root::Machine, &key, "Type").is_some_and(|kind| !kind.eq_ignore_ascii_case("NoSync"))
}

/// Returns the command lines of the services of this machine.
pub fn service_commands() -> Vec<String> {
    let services = keys(SERVICES).into_iter();
    services
        .filter_map(|name| text(Root::Machine, &format!(r"{SERVICES}\{name}"), "ImagePath"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_and_process_are_described() {
        let memory = memory().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
        assert!(resident().unwrap() > 0);
        assert!(disk_free(&std::env::temp_dir()).unwrap() > 0);
        assert!(version().starts_with("Windows "), "{}", version());
        assert!(!account().unwrap().is_empty());
        assert!(!service_commands().is_empty());
    }
}
