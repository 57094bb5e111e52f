//! What the program imports: only what Windows Server 2008 R2 SP1 has.
//!
//! A missing function or library ends a program before its first line runs, so the table of imports is a proof.

use crate::step::{Failed, Step};
use crate::tool;
use std::path::Path;

/// Libraries that each Windows since Server 2008 R2 has.
const LIBRARIES: [&str; 17] = [
    "advapi32.dll",
    "bcrypt.dll",
    "crypt32.dll",
    "iphlpapi.dll",
    "kernel32.dll",
    "msvcrt.dll",
    "ncrypt.dll",
    "ntdll.dll",
    "ole32.dll",
    "powrprof.dll",
    "psapi.dll",
    "secur32.dll",
    "shell32.dll",
    "user32.dll",
    "userenv.dll",
    "winhttp.dll",
    "ws2_32.dll",
];

/// Functions of these libraries that came later: Windows 8, Server 2012 and newer.
const LATER: [&str; 36] = [
    "CreateFile2",
    "CreateFile3",
    "CreateFileFromAppW",
    "CreatePseudoConsole",
    "DiscardVirtualMemory",
    "GetCurrentThreadStackLimits",
    "GetFileInformationByName",
    "GetHostNameW",
    "GetMachineTypeAttributes",
    "GetOsSafeBootMode",
    "GetOverlappedResultEx",
    "GetProcessInformation",
    "GetProcessMitigationPolicy",
    "GetSystemTimePreciseAsFileTime",
    "GetTempPath2W",
    "GetThreadDescription",
    "GetThreadInformation",
    "IsWow64Process2",
    "MapViewOfFile3",
    "NtAssociateWaitCompletionPacket",
    "NtCancelWaitCompletionPacket",
    "NtCreateWaitCompletionPacket",
    "PathCchCanonicalizeEx",
    "PrefetchVirtualMemory",
    "ProcessPrng",
    "QueryUnbiasedInterruptTimePrecise",
    "SetDefaultDllDirectories",
    "SetFileInformationByName",
    "SetProcessMitigationPolicy",
    "SetThreadDescription",
    "SetThreadInformation",
    "VirtualAlloc2",
    "WaitOnAddress",
    "WakeByAddressAll",
    "WakeByAddressSingle",
    "GetPackageFamilyName",
];

/// Checks the imports of a program.
pub(crate) fn check(program: &Path) -> Result<(), Failed> {
    println!("== windows: imports that Windows Server 2008 R2 lacks");
    if !tool::is_installed("objdump") {
        tool::install_packages(&["binutils"])?;
    }
    let table = Step::program("objdump")
        .args(["--private-headers"])
        .args([program])
        .output()?;
    let (libraries, functions) = parse(&table);
    if libraries.is_empty() || functions.is_empty() {
        return Err(Failed::new("objdump shows no imports"));
    }
    let found = complaints(&libraries, &functions);
    if found.is_empty() {
        println!(
            "   {} functions of {}",
            functions.len(),
            libraries.join(", ")
        );
        return Ok(());
    }
    Err(Failed::new(format!(
        "Windows Server 2008 R2 lacks: {}",
        found.join(", ")
    )))
}

fn complaints(libraries: &[String], functions: &[String]) -> Vec<String> {
    let unknown = libraries
        .iter()
        .filter(|name| !LIBRARIES.contains(&name.as_str()));
    let later = functions
        .iter()
        .filter(|name| LATER.contains(&name.as_str()));
    unknown.chain(later).cloned().collect()
}

/// Returns the libraries and functions in a table of imports.
fn parse(table: &str) -> (Vec<String>, Vec<String>) {
    let (mut libraries, mut functions) = (Vec::new(), Vec::new());
    let mut is_import = false;
    for line in table.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("DLL Name: ") {
            libraries.push(name.to_ascii_lowercase());
            is_import = true;
            continue;
        }
        // `ADDRESS HINT NAME`, or `ADDRESS ORDINAL HINT NAME` in newer versions.
        let mut words = line.split_whitespace();
        let is_address = words
            .next()
            .is_some_and(|word| word.len() >= 4 && word.chars().all(|c| c.is_ascii_hexdigit()));
        match words.next_back() {
            Some(name)
                if is_import && is_address && !name.chars().all(|c| c.is_ascii_hexdigit()) =>
            {
                functions.push(name.to_owned());
            }
            _ => {}
        }
        if line.is_empty() {
            is_import = false;
        }
    }
    (libraries, functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
 00a0f000\t00a0f0f0 00000000 00000000 00a11fa4 00a0f5e0

\tDLL Name: KERNEL32.dll
\tvma:  Hint/Ord Member-Name Bound-To
\ta0fad0\t  137  CloseHandle
\ta0fae2\t  299  GetSystemTimePreciseAsFileTime

 00a0f014\t00a0f2d8 00000000 00000000 00a12008 00a0f7c8

\tDLL Name: api-ms-win-core-synch-l1-2-0.dll
\tvma:  Hint/Ord Member-Name Bound-To
\ta10c4e\t   37  WaitOnAddress
";

    #[test]
    fn later_functions_and_libraries_are_found() {
        let (libraries, functions) = parse(TABLE);
        assert_eq!(
            libraries,
            ["kernel32.dll", "api-ms-win-core-synch-l1-2-0.dll"]
        );
        assert_eq!(
            functions,
            [
                "CloseHandle",
                "GetSystemTimePreciseAsFileTime",
                "WaitOnAddress"
            ]
        );
        assert_eq!(
            complaints(&libraries, &functions),
            [
                "api-ms-win-core-synch-l1-2-0.dll",
                "GetSystemTimePreciseAsFileTime",
                "WaitOnAddress"
            ]
        );
    }
}
