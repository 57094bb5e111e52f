//! `cargo xtask dist` and `cargo xtask profile`: the programs as they are released.
//!
//! Released programs are built with a profile: counts of how often each branch ran under a typical load. The compiler
//! places frequent code together and inlines it, and compiles the rest for size. The profile is a file of the
//! repository, so two builds from the same commit have the same input and give the same bytes. `cargo xtask profile`
//! records a new one; `cargo build --release` does not use it.

use crate::step::{Failed, Step, profile_dir, root};
use crate::tool;
use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs that are released, each of a package with the same name.
const PROGRAMS: [&str; 2] = ["integration-relay", "integration-bridge"];

/// The profile, from the root. Compressed, for it is several times as large otherwise.
const PROFILE: &str = "deploy/release/programs.profdata.gz";

/// The profile of `Cargo.toml` that releases are built with.
const CARGO_PROFILE: &str = "dist";

/// Builds the released programs into `target/dist`.
pub(crate) fn dist() -> Result<(), Failed> {
    let profile = unpacked_profile()?;
    // What changed since the profile was made has no counts, which is no reason for a warning on each function.
    let flags = [
        format!("-Cprofile-use={}", profile.display()),
        "-Cllvm-args=-no-pgo-warn-mismatch".to_owned(),
    ];
    let built = build("release-build", &flags)?;
    let to = profile_dir("dist");
    fs::create_dir_all(&to).map_err(|error| cannot("create", &to, &error))?;
    for program in PROGRAMS {
        let program = with_extension(program);
        let (from, to) = (built.join(&program), to.join(&program));
        // The old file may be running.
        let _ = fs::remove_file(&to);
        fs::copy(&from, &to).map_err(|error| cannot("copy", &from, &error))?;
        let bytes = fs::metadata(&to).map_or(0, |file| file.len());
        println!("   {} ({:.1} MiB)", to.display(), mib(bytes));
    }
    Ok(())
}

/// Records a new profile and writes it into the repository.
pub(crate) fn profile() -> Result<(), Failed> {
    let merge = llvm_profdata()?;
    let counts = profile_dir("profile-counts");
    // Counts of earlier programs would be merged, too.
    let _ = fs::remove_dir_all(&counts);
    fs::create_dir_all(&counts).map_err(|error| cannot("create", &counts, &error))?;
    let flags = [format!("-Cprofile-generate={}", counts.display())];
    let built = build("profile-build", &flags)?;
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
fn unpacked_profile() -> Result<PathBuf, Failed> {
    let packed = root().join(PROFILE);
    let content = fs::read(&packed).map_err(|error| cannot("read", &packed, &error))?;
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let directory = profile_dir("release-profile");
    fs::create_dir_all(&directory).map_err(|error| cannot("create", &directory, &error))?;
    let to = directory.join(format!("{:016x}.profdata", hasher.finish()));
    gzip(&["--decompress"], &packed, &to)?;
    Ok(to)
}

fn gzip(options: &[&str], from: &Path, to: &Path) -> Result<(), Failed> {
    let input = File::open(from).map_err(|error| cannot("read", from, &error))?;
    let output = File::create(to).map_err(|error| cannot("write", to, &error))?;
    let status = Command::new("gzip")
        .args(options)
        .stdin(input)
        .stdout(output)
        .status()
        .map_err(|error| Failed::new(format!("`gzip` cannot be run: {error}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failed::new(format!(
            "`gzip` of {}: {status}",
            from.display()
        ))),
    }
}

/// Builds the programs with these flags, in a directory of their own. Returns where they are.
fn build(directory: &str, flags: &[String]) -> Result<PathBuf, Failed> {
    let host = host()?;
    let directory = profile_dir(directory);
    let packages = PROGRAMS.map(|program| ["--package", program, "--bin", program]);
    // The paths of this machine must not get into the programs.
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from);
    let mut flags = flags.to_vec();
    flags.push(format!("--remap-path-prefix={}=", root().display()));
    flags.push(format!("--remap-path-prefix={}=", cargo_home.display()));
    // With `--target`, the flags do not apply to build scripts and macros, which run here.
    Step::cargo(["build", "--locked", "--profile", CARGO_PROFILE])
        .args(["--target", &host])
        .args(["--target-dir", &directory.to_string_lossy()])
        .args(packages.concat())
        .env("CARGO_ENCODED_RUSTFLAGS", &flags.join("\u{1f}"))
        .run()?;
    Ok(directory.join(host).join(CARGO_PROFILE))
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

fn host() -> Result<String, Failed> {
    rustc_says("host: ")
}

/// Returns the rest of the line of `rustc -vV` that begins so.
fn rustc_says(start: &str) -> Result<String, Failed> {
    let said = Step::program("rustc").args(["-vV"]).output()?;
    let found = said.lines().find_map(|line| line.strip_prefix(start));
    found
        .map(str::to_owned)
        .ok_or_else(|| Failed::new(format!("`rustc -vV` has no line `{start}`")))
}

fn home() -> PathBuf {
    env::home_dir().unwrap_or_default()
}

fn with_extension(program: &str) -> PathBuf {
    Path::new(program).with_extension(env::consts::EXE_EXTENSION)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failed {
    Failed::new(format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_profile_can_be_unpacked() {
        let unpacked = unpacked_profile().unwrap();
        let content = fs::read(&unpacked).unwrap();
        // LLVM's indexed profiles begin with these bytes.
        assert!(content.starts_with(b"\xfflprofi\x81"), "{unpacked:?}");
        // The name is that of the content.
        assert_eq!(unpacked_profile().unwrap(), unpacked);
    }
}
