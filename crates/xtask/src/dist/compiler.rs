//! Stands between cargo and the compiler, to give crates names that depend on their name and version alone.
//!
//! ```text
//! cargo --> RUSTC_WRAPPER = this program --> rustc ... -C metadata=NAME-VERSION
//! ```
//!
//! By default the hash of the target is in the name of every function. The load profile names functions, so it would be of use
//! for the target that it was recorded with, and for no other. The hash of the standard library's directory is in the names as
//! well, so programs would differ with the place of the toolchain.

use std::env;
use std::ffi::OsString;
use std::process::{Command, ExitCode};

/// Set where this program stands in for the compiler.
pub(super) const VARIABLE: &str = "XTASK_DIST_COMPILER";

/// Cargo's option for crates of the standard library. Other crates may have their names and versions.
const STANDARD_LIBRARY: &str = "force-unstable-if-unmarked";

/// Compiles, if cargo started this program in place of the compiler. Returns `None` otherwise.
pub(crate) fn run() -> Option<ExitCode> {
    env::var_os(VARIABLE)?;
    let mut args = env::args_os().skip(1);
    let compiler = args.next()?;
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let status = Command::new(compiler)
        .args(with_names(args.collect(), &version))
        // rustup sets it to the libraries of its own compiler, and a copy would load these and look for everything there.
        .env_remove("LD_LIBRARY_PATH")
        .status();
    let code = status.ok().and_then(|status| status.code());
    let code = code.and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Replaces the name in the compiler's arguments. What is compiled for this machine, such as macros, has no `--target` and keeps
/// its name.
fn with_names(mut args: Vec<OsString>, version: &str) -> Vec<OsString> {
    let value_of = |option: &str| {
        let at = args.iter().position(|arg| arg == option)?;
        args.get(at + 1)?.to_str()
    };
    let (Some(name), Some(_)) = (value_of("--crate-name"), value_of("--target")) else {
        return args;
    };
    let is_standard = args
        .iter()
        .any(|arg| arg.to_string_lossy().ends_with(STANDARD_LIBRARY));
    let library = if is_standard { "-std" } else { "" };
    let name = OsString::from(format!("metadata={name}-{version}{library}"));
    for arg in &mut args {
        if arg.to_string_lossy().starts_with("metadata=") {
            arg.clone_from(&name);
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn named(args: &str) -> String {
        let args = args.split(' ').map(OsString::from).collect();
        let named = with_names(args, "1.2.0").join(OsStr::new(" "));
        named.into_string().unwrap()
    }

    #[test]
    fn crate_of_a_target_has_a_name_without_its_hash() {
        assert_eq!(
            named("--crate-name a --target t -C metadata=0123 -C extra-filename=-4567"),
            "--crate-name a --target t -C metadata=a-1.2.0 -C extra-filename=-4567"
        );
        assert_eq!(
            named("-Z force-unstable-if-unmarked --crate-name a --target t -C metadata=0123"),
            "-Z force-unstable-if-unmarked --crate-name a --target t -C metadata=a-1.2.0-std"
        );
    }

    #[test]
    fn crate_of_this_machine_keeps_its_name() {
        let macros = "--crate-name a -C metadata=0123";
        assert_eq!(named(macros), macros);
        assert_eq!(named("-vV"), "-vV");
    }
}
