//! Examines a program: how it is linked, which memory is protected, which functions of Windows it needs, and whether it has
//! names of directories of this machine.

use super::super::program::private_paths;
use super::super::target::Target;
use super::super::tree;
use crate::dist::imports;
use crate::step::{Failed, Step};
use crate::tool;
use std::path::Path;

/// What the dynamic header of a Windows program must have: addresses by chance, also above 4 GiB, and no execution of data.
const WINDOWS_PROTECTION: [&str; 3] = ["HIGH_ENTROPY_VA", "DYNAMIC_BASE", "NX_COMPAT"];

/// Functions that the unwinder calls, and that the linker leaves out unless another part of the program needs them.
const UNWINDER_NEEDS: [&str; 2] = ["_dl_find_object", "pthread_once"];

/// Returns what is wrong with a program.
pub(super) fn program(target: Target, file: &Path) -> Result<Vec<String>, Failed> {
    println!("== inspecting {}", file.display());
    let mut findings = match target.is_windows() {
        true => windows(target, file)?,
        false => linux(file)?,
    };
    let content = tree::read(file)?;
    for path in private_paths() {
        let path = path.to_string_lossy();
        let needle = path.as_bytes();
        if !needle.is_empty() && content.windows(needle.len()).any(|part| part == needle) {
            findings.push(format!("has the path {path}"));
        }
    }
    Ok(findings
        .into_iter()
        .map(|finding| format!("{}: {finding}", file.display()))
        .collect())
}

/// A static program that can be loaded at any address.
fn linux(file: &Path) -> Result<Vec<String>, Failed> {
    tool::install("file")?;
    let kind = Step::program("file")
        .args(["--brief"])
        .args([file])
        .output()?;
    let headers = Step::program("readelf")
        .args(["--wide", "--program-headers", "--dynamic"])
        .args([file])
        .output()?;
    let symbols = Step::program("readelf")
        .args(["--wide", "--symbols"])
        .args([file])
        .output()?;
    let mut findings = findings_of_elf(&kind, &headers);
    let missing = UNWINDER_NEEDS.iter().filter(|it| !symbols.contains(*it));
    findings.extend(missing.map(|it| format!("has no {it}: a panic would end the program")));
    Ok(findings)
}

fn findings_of_elf(kind: &str, headers: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if !kind.contains("static-pie linked") {
        findings.push(format!(
            "`file` does not say static-pie linked: {}",
            kind.trim()
        ));
    }
    for (word, meaning) in [
        ("INTERP", "needs a loader"),
        ("(NEEDED)", "needs a library"),
        ("TEXTREL", "changes its own code"),
    ] {
        if headers.contains(word) {
            findings.push(meaning.to_owned());
        }
    }
    for (word, meaning) in [
        ("GNU_RELRO", "its tables of addresses stay writable"),
        ("GNU_EH_FRAME", "a panic cannot be caught"),
        ("BIND_NOW", "its tables of addresses stay writable"),
    ] {
        if !headers.contains(word) {
            findings.push(meaning.to_owned());
        }
    }
    let stack = headers.lines().find(|line| line.contains("GNU_STACK"));
    if stack.is_none_or(|line| line.contains("RWE")) {
        findings.push("its stack is executable".to_owned());
    }
    findings
}

/// A program for old Windows.
fn windows(target: Target, file: &Path) -> Result<Vec<String>, Failed> {
    let objdump = target.c_compiler().replace("-gcc", "-objdump");
    let headers = Step::program(&objdump)
        .args(["--private-headers"])
        .args([file])
        .output()?;
    let mut findings = findings_of_pe(&headers);
    if let Err(failed) = imports::check(file) {
        findings.push(failed.to_string());
    }
    Ok(findings)
}

fn findings_of_pe(headers: &str) -> Vec<String> {
    let missing = WINDOWS_PROTECTION
        .iter()
        .filter(|it| !headers.contains(*it));
    missing.map(|it| format!("has no {it}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_program_is_reported() {
        let kind = "ELF 64-bit LSB pie executable, x86-64, static-pie linked, stripped\n";
        let headers = "  GNU_EH_FRAME 0x1 R 0x4\n  GNU_STACK 0x0 RW 0x10\n  GNU_RELRO 0x0 R 0x1\n\
                       0x1e (FLAGS) BIND_NOW\n";
        assert_eq!(findings_of_elf(kind, headers), Vec::<String>::new());
        let kind = "ELF 64-bit LSB pie executable, dynamically linked, interpreter /lib/ld.so\n";
        let headers =
            "  INTERP 0x1 R\n  GNU_STACK 0x0 RWE 0x10\n 0x1 (NEEDED) Shared library: [libc.so.6]\n";
        assert_eq!(findings_of_elf(kind, headers).len(), 7);
    }

    #[test]
    fn unprotected_program_is_reported() {
        let headers = "DllCharacteristics\t00000140\n\tDYNAMIC_BASE\n\tNX_COMPAT\n";
        assert_eq!(findings_of_pe(headers), ["has no HIGH_ENTROPY_VA"]);
    }
}
