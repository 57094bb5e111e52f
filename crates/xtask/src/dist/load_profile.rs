//! The load profile: counts of how often each branch of the programs ran under a typical load.
//!
//! The compiler places frequent code together and inlines it, and compiles the rest for size. The profile is a file of the
//! repository, so two builds from the same commit have the same input and give the same bytes. `cargo xtask profile`
//! records a new one; `cargo build --release` does not use it.

use super::archive::gzip;
use super::program::build_counting;
use super::toolchain::Toolchain;
use super::{cannot, rustc_says, tree};
use crate::step::{Failed, Step, profile_dir, root};
use crate::tool;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// The profile, from the root. Compressed, for it is several times as large otherwise.
pub(super) const PROFILE: &str = "deploy/release/programs.profdata.gz";

/// Returns the compiler's flags that use the profile.
pub(super) fn flags() -> Result<Vec<String>, Failed> {
    let profile = unpacked()?;
    // What changed since the profile was made has no counts, which is no reason for a warning on each function.
    Ok(vec![
        format!("-Cprofile-use={}", profile.display()),
        "-Cllvm-args=-no-pgo-warn-mismatch".to_owned(),
    ])
}

/// Records a new profile and writes it into the repository.
pub(crate) fn profile() -> Result<(), Failed> {
    let merge = llvm_profdata()?;
    let counts = profile_dir("profile-counts");
    // Counts of earlier programs would be merged, too.
    let _ = fs::remove_dir_all(&counts);
    fs::create_dir_all(&counts).map_err(|error| cannot("create", &counts, &error))?;
    let built = build_counting(&Toolchain::default(), &counts)?;
    // The load itself is not recorded.
    Step::cargo(["build", "--release", "--locked", "--workspace"])
        .args(["--bin", "bench", "--bin", "bench-target"])
        .run()?;
    let files = counts.join("%p.profraw");
    Step::release_program("bench")
        .args(["train"])
        .env("TEST_PROGRAMS", &built.to_string_lossy())
        .env("LLVM_PROFILE_FILE", &files.to_string_lossy())
        .run()?;
    let merged = counts.join("merged.profdata");
    Step::program(&merge)
        .args(["merge", "--sparse", "--output"])
        .args([&merged, &counts])
        .run()?;
    pack(&merged, &root().join(PROFILE))?;
    println!("   {PROFILE} is new. Next: cargo xtask dist");
    Ok(())
}

/// Compresses a file. The result depends on its content alone.
fn pack(from: &Path, to: &Path) -> Result<(), Failed> {
    gzip(&["--best", "--no-name"], from, to)
}

/// Unpacks the profile. Its file's name changes with its content, for cargo compares the compiler's options and not the
/// files that they name.
fn unpacked() -> Result<PathBuf, Failed> {
    let packed = root().join(PROFILE);
    let mut hasher = DefaultHasher::new();
    tree::read(&packed)?.hash(&mut hasher);
    let directory = profile_dir("release-profile");
    fs::create_dir_all(&directory).map_err(|error| cannot("create", &directory, &error))?;
    let to = directory.join(format!("{:016x}.profdata", hasher.finish()));
    gzip(&["--decompress"], &packed, &to)?;
    Ok(to)
}

/// Returns the name of the `llvm-profdata` that reads what this compiler's programs write. Installs it if it is missing.
fn llvm_profdata() -> Result<String, Failed> {
    let version = rustc_says("LLVM version: ")?;
    let major = version.split('.').next().unwrap_or_default();
    let name = format!("llvm-profdata-{major}");
    if !tool::is_installed(&name) {
        tool::install_packages(&[&format!("llvm-{major}")])?;
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_profile_can_be_unpacked() {
        let unpacked_to = unpacked().unwrap();
        let content = fs::read(&unpacked_to).unwrap();
        // LLVM's indexed profiles begin with these bytes.
        assert!(content.starts_with(b"\xfflprofi\x81"), "{unpacked_to:?}");
        // The name is that of the content.
        assert_eq!(unpacked().unwrap(), unpacked_to);
    }
}
