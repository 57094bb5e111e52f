//! Compiles the programs of a target.
//!
//! The targets have no prebuilt standard library, so cargo compiles it as well (`-Zbuild-std`). That is not stable, and
//! `RUSTC_BOOTSTRAP` allows it for the compiler in use. Paths of this machine do not get into the programs: every
//! directory that the compilers see has a fixed name instead.

use super::release::TIME_VARIABLE;
use super::target::{PROGRAMS, Target};
use super::toolchain::{self, Rust, Toolchain};
use super::{compiler, load_profile, rustc_says};
use crate::step::{Failed, Step, profile_dir, root, this_program};
use std::env;
use std::path::{Path, PathBuf};

/// The profile of `Cargo.toml` that releases are built with.
pub(super) const CARGO_PROFILE: &str = "dist";

/// Code in C may contain the date on which it was compiled, in seconds since 1970.
const TIME_OF_C_CODE: u64 = 315_532_800;

/// Compiled programs.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) directory: PathBuf,
    /// How, for the provenance. `None` for programs that existed before.
    pub(super) command: Option<String>,
    /// The standard library that is part of the programs.
    pub(super) library: Option<String>,
    /// The version of gcc, whose unwinder is part of the programs.
    pub(super) gcc: Option<String>,
    /// The version of the C library, where it is part of the programs.
    pub(super) musl: Option<String>,
}

/// Compiles the programs of a target.
pub(super) fn build(target: Target, profile: &str, toolchain: &Toolchain) -> Result<Built, Failed> {
    let compiler = toolchain.c_compiler(target)?;
    let rust = toolchain.rust()?;
    let mut flags = vec![format!("-Clinker={compiler}")];
    let mut c_flags = c_paths();
    let mut musl_version = None;
    if target.is_windows() {
        // The time of the link would be in the program.
        flags.push("-Clink-arg=-Wl,--no-insert-timestamp".to_owned());
    } else {
        let musl = toolchain.musl(target)?;
        let specs = format!("-specs={}", musl.specs.display());
        flags.extend([
            "-Ctarget-feature=+crt-static".to_owned(),
            "-Clink-self-contained=no".to_owned(),
            format!("-Clink-arg={specs}"),
            format!("-Lnative={}", musl.unwinder.display()),
        ]);
        c_flags.push(specs);
        musl_version = Some(musl.version);
    }
    if profile == CARGO_PROFILE {
        flags.extend(load_profile::flags()?);
    }
    let variable = target.triple().replace('-', "_");
    let programs: Vec<_> = target.programs().map(|program| program.name).collect();
    let step = cargo_build(&rust, target.triple(), "release-build", &programs, flags)?
        .args(["--profile", profile])
        .args(["-Zbuild-std=std"])
        .env(&format!("CC_{variable}"), compiler)
        .env(&format!("AR_{variable}"), &compiler.replace("-gcc", "-ar"))
        .env(&format!("CFLAGS_{variable}"), &c_flags.join(" "));
    let command = without_paths(step.text());
    step.run()?;
    let gcc = Step::program(compiler)
        .args(["-dumpfullversion"])
        .output()?;
    Ok(Built {
        directory: built_in("release-build", target.triple(), profile),
        command: Some(command),
        library: Some(rust.origin),
        gcc: Some(gcc.trim().to_owned()),
        musl: musl_version,
    })
}

/// Compiles the programs for this machine, with its C library. Returns where they are.
pub(super) fn build_for_host(toolchain: &Toolchain) -> Result<PathBuf, Failed> {
    let host = rustc_says("host: ")?;
    let programs = PROGRAMS.each_ref().map(|program| program.name);
    let flags = load_profile::flags()?;
    cargo_build(&toolchain.rust()?, &host, "release-build", &programs, flags)?
        .args(["--profile", CARGO_PROFILE, "-Zbuild-std=std"])
        .run()?;
    Ok(built_in("release-build", &host, CARGO_PROFILE))
}

/// Compiles programs for this machine that count their branches into this directory. Returns where they are.
pub(super) fn build_counting(toolchain: &Toolchain, counts: &Path) -> Result<PathBuf, Failed> {
    let host = rustc_says("host: ")?;
    let programs = PROGRAMS.each_ref().map(|program| program.name);
    let flags = vec![format!("-Cprofile-generate={}", counts.display())];
    cargo_build(&toolchain.rust()?, &host, "profile-build", &programs, flags)?
        .args(["--profile", CARGO_PROFILE])
        .args(["-Zbuild-std=std,profiler_builtins"])
        .env(
            "LLVM_PROFILER_RT_LIB",
            &toolchain.profiler()?.to_string_lossy(),
        )
        .run()?;
    Ok(built_in("profile-build", &host, CARGO_PROFILE))
}

/// With `--target`, the flags do not apply to build scripts and macros, which run here.
fn cargo_build(
    rust: &Rust,
    triple: &str,
    directory: &str,
    programs: &[&str],
    mut flags: Vec<String>,
) -> Result<Step, Failed> {
    let this = this_program()?;
    for (path, name) in machine_paths() {
        flags.push(remapped(&path, name));
    }
    // As in the programs of other compilers of this version. Last, because the compiler takes the last name that fits.
    let commit = rustc_says("commit-hash: ")?;
    flags.push(remapped(&rust.library, &format!("/rustc/{commit}/library")));
    let packages = programs
        .iter()
        .flat_map(|&program| ["--package", program, "--bin", program]);
    let step = Step::cargo(["build", "--locked"])
        .args(["--target", triple])
        .args(["--target-dir", &profile_dir(directory).to_string_lossy()])
        .args(packages)
        .env("RUSTC", &rust.compiler.to_string_lossy())
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC_WRAPPER", &this.to_string_lossy())
        .env(compiler::VARIABLE, "1")
        // The same date in each build, also where an earlier build compiled the code.
        .env(TIME_VARIABLE, &TIME_OF_C_CODE.to_string())
        .env("CARGO_ENCODED_RUSTFLAGS", &flags.join("\u{1f}"));
    Ok(step)
}

/// Returns the option that keeps a directory's name out of code in Rust.
fn remapped(path: &Path, name: &str) -> String {
    format!("--remap-path-prefix={}={name}", path.display())
}

fn built_in(directory: &str, triple: &str, profile: &str) -> PathBuf {
    // The one profile whose directory has another name.
    let name = match profile {
        "dev" => "debug",
        other => other,
    };
    profile_dir(directory).join(triple).join(name)
}

/// Returns the options that keep paths of this machine out of code in C.
fn c_paths() -> Vec<String> {
    let machine = machine_paths();
    let options = machine
        .iter()
        .map(|(path, name)| format!("-ffile-prefix-map={}={name}", path.display()));
    options.collect()
}

/// Returns the directories of this machine that compilers see, and what takes their place in the programs. The last that
/// fits is taken.
fn machine_paths() -> [(PathBuf, &'static str); 3] {
    [
        (root(), ""),
        (cargo_home(), ""),
        // Generated sources.
        (build_output(), "target"),
    ]
}

fn build_output() -> PathBuf {
    let here = profile_dir(CARGO_PROFILE);
    here.parent().map_or(here.clone(), Path::to_owned)
}

/// Returns a command with names in place of the machine's directories.
fn without_paths(command: &str) -> String {
    let names = [
        (toolchain::directory(), "$TOOLCHAIN"),
        (build_output(), "$TARGET"),
        (root(), "$SOURCES"),
        (cargo_home(), "$CARGO_HOME"),
    ];
    names.iter().fold(command.to_owned(), |text, (path, name)| {
        text.replace(&*path.to_string_lossy(), name)
    })
}

/// Returns the directory of cargo's downloads.
pub(super) fn cargo_home() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// Returns the directories whose names no released program may have.
pub(super) fn private_paths() -> Vec<PathBuf> {
    let mut paths: Vec<_> = machine_paths().into_iter().map(|(path, _)| path).collect();
    paths.push(toolchain::directory());
    if let Ok(sysroot) = Step::program("rustc").args(["--print", "sysroot"]).output() {
        paths.push(Path::new(sysroot.trim()).to_owned());
    }
    paths
}
