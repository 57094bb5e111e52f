//! One command: prints it, runs it, times it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Prefixes of the variables that cargo sets for the programs it runs.
const OWN_VARIABLES: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// A command of a task.
pub(crate) struct Step {
    command: Command,
    text: String,
    /// Where it runs.
    directory: PathBuf,
}

/// The step at which a task failed.
#[derive(Debug)]
pub(crate) struct Failed {
    what: String,
    /// The command's exit code, if it has one.
    code: Option<u8>,
}

/// Returns the path of this program. Cargo may have built the program again since it started: the system then adds a word to
/// the old one's path, and the new one is as good.
pub(crate) fn this_program() -> Result<PathBuf, Failed> {
    let path = std::env::current_exe()
        .map_err(|error| Failed::new(format!("the path of this program: {error}")))?;
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(path) => PathBuf::from(path),
        None => path,
    })
}

impl Step {
    /// The cargo that runs this program, with arguments, at the repository's root.
    pub(crate) fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        // Build scripts depend on some of these variables. Without the removal they would run again
        // whenever cargo is called alternately from here and by hand.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if OWN_VARIABLES.iter().any(|own| name.starts_with(own)) {
                command.env_remove(&*name);
            }
        }
        Self::new(command, "cargo").args(args)
    }

    /// A program on the `PATH`.
    pub(crate) fn program(name: &str) -> Self {
        Self::new(Command::new(name), name)
    }

    /// A program of the workspace, built in release mode.
    pub(crate) fn release_program(name: &str) -> Self {
        Self::built_program("release", name)
    }

    /// A program of the workspace, built in a profile with its own directory.
    pub(crate) fn built_program(profile: &str, name: &str) -> Self {
        let path = profile_dir(profile)
            .join(name)
            .with_extension(std::env::consts::EXE_EXTENSION);
        Self::new(Command::new(path), name)
    }

    fn new(command: Command, text: &str) -> Self {
        Self {
            command,
            text: text.to_owned(),
            directory: root(),
        }
    }

    /// Adds arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        for arg in args {
            self.text = format!("{} {}", self.text, arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    /// Sets an environment variable, and shows it with the command.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.text = format!("{name}={value:?} {}", self.text);
        self.command.env(name, value);
        self
    }

    /// Runs it in this directory instead of the repository's root.
    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        directory.clone_into(&mut self.directory);
        self
    }

    /// Returns the command as it is shown.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Runs the command to its end, and passes its output through.
    pub(crate) fn run(mut self) -> Result<(), Failed> {
        println!("== {}", self.text);
        let began = Instant::now();
        let status = self
            .command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => {
                println!("   done in {:.1} s", began.elapsed().as_secs_f64());
                Ok(())
            }
            Ok(status) => {
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                Err(Failed {
                    what: format!("`{}`: {status}", self.text),
                    code,
                })
            }
            Err(error) => Err(Failed::new(format!(
                "`{}` cannot be run: {error}",
                self.text
            ))),
        }
    }

    /// Runs the command silently. Returns its standard output.
    pub(crate) fn output(mut self) -> Result<String, Failed> {
        let output = self
            .command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failed::new(format!("`{}` cannot be run: {error}", self.text)))?;
        let written = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(written);
        }
        eprint!("{written}{}", String::from_utf8_lossy(&output.stderr));
        Err(Failed::new(format!("`{}`: {}", self.text, output.status)))
    }

    /// Runs the command silently. Returns whether it succeeded, and all that it wrote.
    pub(crate) fn outcome(mut self) -> Result<(bool, String), Failed> {
        let output = self
            .command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Failed::new(format!("`{}` cannot be run: {error}", self.text)))?;
        let written = [output.stdout, output.stderr].concat();
        let written = String::from_utf8_lossy(&written).into_owned();
        Ok((output.status.success(), written))
    }

    /// Returns the program, for another program that runs it.
    pub(crate) fn path(&self) -> &OsStr {
        self.command.get_program()
    }

    /// Returns whether the command runs and succeeds. Shows no output.
    pub(crate) fn succeeds(mut self) -> bool {
        let quiet = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        quiet
            .current_dir(&self.directory)
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Failed {
    /// A failure outside a command.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            code: None,
        }
    }

    /// Returns the failed command's exit code, or 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code.unwrap_or(1))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Returns the repository's root, independent of the current directory.
pub(crate) fn root() -> PathBuf {
    // Two levels above this crate. Cargo sets the variable at run time, so that a tree which was moved
    // after the build is still found.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Returns a profile's directory, next to the one of this program: correct even if the target
/// directory is not at its usual path.
pub(crate) fn profile_dir(profile: &str) -> PathBuf {
    let ours = std::env::current_exe().unwrap_or_default();
    ours.ancestors()
        .nth(2)
        .unwrap_or(Path::new("target"))
        .join(profile)
}
