//! Wine with a prefix of its own: the "machine" that the test installs on.

use crate::step::{Failed, Step};
use crate::tool;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Where Debian has the program itself. The script on the `PATH` complains of a missing 32-bit Wine.
const WINE: &str = "/usr/lib/wine/wine64";

/// The server of Wine, which is the machine: it ends when no program runs.
const SERVER: &str = "/usr/lib/wine/wineserver64";

/// Its Debian packages.
const PACKAGES: [&str; 2] = ["wine64", "wine"];

/// Milliseconds after which services with a delayed start are started; the default is 120,000.
const START_DELAY: &str = "1000";

/// Milliseconds within which a service must report to its manager; the default is 10,000.
const START_TIMEOUT: &str = "60000";

/// A running Wine.
#[derive(Debug)]
pub(super) struct Wine {
    prefix: PathBuf,
    /// A program that waits for its input. Wine stops its services when no other program runs.
    holder: Mutex<Option<Child>>,
}

impl Drop for Wine {
    fn drop(&mut self) {
        self.stop_machine();
    }
}

impl Wine {
    /// Makes a prefix and starts the machine.
    pub(super) fn start(directory: &Path) -> Result<Self, Failed> {
        if !Path::new(WINE).exists() {
            tool::install_packages(&PACKAGES)?;
        }
        let wine = Self {
            prefix: directory.join("prefix"),
            holder: Mutex::new(None),
        };
        println!("== windows: a new Wine prefix");
        fs::create_dir_all(&wine.prefix).map_err(|error| Failed::new(error.to_string()))?;
        wine.expect_success("wineboot", &["--init"])?;
        let control = r"HKLM\SYSTEM\CurrentControlSet\Control";
        for (name, value) in [
            ("AutoStartDelay", START_DELAY),
            ("ServicesPipeTimeout", START_TIMEOUT),
        ] {
            let args = [
                "add",
                control,
                "/v",
                name,
                "/t",
                "REG_DWORD",
                "/d",
                value,
                "/f",
            ];
            wine.expect_success("reg", &args)?;
        }
        // In the session that made the prefix, a new service did not start (Wine 8).
        wine.restart_machine()?;
        Ok(wine)
    }

    /// Ends every program and starts the machine again.
    pub(super) fn restart_machine(&self) -> Result<(), Failed> {
        self.stop_machine();
        self.hold()
    }

    /// Runs a program with its Windows path. Returns its exit code and all that it wrote.
    pub(super) fn run(
        &self,
        program: &str,
        args: &[&str],
    ) -> Result<(Option<i32>, String), Failed> {
        let failed = |error| Failed::new(format!("{program} cannot be run: {error}"));
        // Not a pipe: a service that this program starts keeps its end open.
        let file = self.prefix.join("output.txt");
        let output = File::create(&file).map_err(failed)?;
        let mut command = self.command(&[&[program], args].concat());
        command.stderr(output.try_clone().map_err(failed)?);
        let status = command.stdout(output).status().map_err(failed)?;
        let written = fs::read(&file).map_err(failed)?;
        let written = String::from_utf8_lossy(&written).replace('\r', "");
        Ok((status.code(), written))
    }

    /// Copies a file of this machine to a Windows path.
    pub(super) fn put(&self, from: &Path, to: &str) -> Result<(), Failed> {
        let to = self.made(to)?;
        fs::copy(from, &to)
            .map(|_| ())
            .map_err(|error| Failed::new(format!("{}: {error}", from.display())))
    }

    /// Writes a text to a Windows path.
    pub(super) fn write(&self, to: &str, text: &str) -> Result<(), Failed> {
        let to = self.made(to)?;
        fs::write(&to, text).map_err(|error| Failed::new(format!("{}: {error}", to.display())))
    }

    /// Reads a file at a Windows path.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, Failed> {
        fs::read(self.path(path)).map_err(|error| Failed::new(format!("{path}: {error}")))
    }

    /// Removes a file at a Windows path.
    pub(super) fn remove(&self, path: &str) -> Result<(), Failed> {
        fs::remove_file(self.path(path)).map_err(|error| Failed::new(format!("{path}: {error}")))
    }

    /// Prints a file at a Windows path, if it exists.
    pub(super) fn show(&self, path: &str) {
        if let Ok(bytes) = self.read(path) {
            println!("== {path}\n{}", String::from_utf8_lossy(&bytes));
        }
    }

    /// Returns where Wine has a file.
    fn path(&self, windows: &str) -> PathBuf {
        let below = windows.trim_start_matches(r"C:\").replace('\\', "/");
        self.prefix.join("drive_c").join(below)
    }

    /// The same, after its directory was made.
    fn made(&self, windows: &str) -> Result<PathBuf, Failed> {
        let path = self.path(windows);
        let directory = path.parent().unwrap_or(&self.prefix);
        fs::create_dir_all(directory)
            .map_err(|error| Failed::new(format!("{}: {error}", directory.display())))?;
        Ok(path)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(WINE);
        command
            .args(words)
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            // Neither .NET nor a browser is asked for.
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
            // Paths with letters outside of ASCII.
            .env("LC_ALL", "C.UTF-8")
            // The service would not have them, and `service install` says so.
            .env_remove("BRIDGE_LOG")
            .stdin(Stdio::null());
        command
    }

    fn expect_success(&self, program: &str, args: &[&str]) -> Result<(), Failed> {
        match self.run(program, args)? {
            (Some(0), _) => Ok(()),
            (code, written) => Err(Failed::new(format!(
                "wine {program} {}: {code:?}\n{written}",
                args.join(" ")
            ))),
        }
    }

    /// Starts a program that runs until the machine ends.
    fn hold(&self) -> Result<(), Failed> {
        let mut command = self.command(&["cmd.exe"]);
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failed::new(format!("wine cannot be run: {error}")))?;
        *self.holder() = Some(child);
        Ok(())
    }

    fn stop_machine(&self) {
        let prefix = self.prefix.to_string_lossy();
        for option in ["--kill", "--wait"] {
            let _ = Step::program(SERVER)
                .args([option])
                .env("WINEPREFIX", &prefix)
                .outcome();
        }
        if let Some(mut child) = self.holder().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.holder
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
