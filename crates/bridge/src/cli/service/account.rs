//! The account that runs the service, and its directories.

use super::super::common::print;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// An account's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

/// Returns whether this command runs as root.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns an account's numbers; `None` if there is no such account.
pub(super) fn find(name: &str) -> Result<Option<Account>, String> {
    // The program `id` asks every source of accounts, such as a directory service, and not only /etc/passwd.
    let number = |option: &str| {
        let output = Command::new("id")
            .args([option, "--", name])
            .stderr(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run id: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok::<_, String>(text.trim().parse::<u32>().ok())
    };
    let (uid, gid) = (number("-u")?, number("-g")?);
    Ok(uid.zip(gid).map(|(uid, gid)| Account { uid, gid }))
}

/// Creates an account without a shell.
pub(super) fn create(name: &str, home: &Path) -> Result<Account, String> {
    let mut command = Command::new("useradd");
    command.args(["--system", "--shell", "/usr/sbin/nologin", "--home-dir"]);
    command.arg(home).arg(name);
    let by_hand = "create the account with the tools of this system, and run this command again";
    let status = command
        .status()
        .map_err(|error| format!("cannot run useradd ({error}); {by_hand}"))?;
    if !status.success() {
        return Err(format!("useradd {name} failed ({status}); {by_hand}"));
    }
    find(name)?.ok_or_else(|| format!("useradd created no account {name}; {by_hand}"))
}

impl Account {
    /// Creates a directory with this mode if it is missing. The account then owns it.
    pub(super) fn ensure_dir(self, dir: &Path, mode: u32) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot create {}: {error}", dir.display());
        if dir.exists() {
            return Ok(());
        }
        if let Some(parent) = dir.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        std::fs::DirBuilder::new()
            .mode(mode)
            .create(dir)
            .map_err(failed)?;
        self.own(dir).map_err(failed)?;
        print(&format!("{} created", dir.display()));
        Ok(())
    }

    /// Gives the account a data directory that root has filled, for example with `pair`. Only a directory of root:
    /// no other account can have put anything into it.
    pub(super) fn take_from_root(self, dir: &Path) -> Result<(), String> {
        let failed =
            |error: io::Error| format!("cannot change the owner of {}: {error}", dir.display());
        let found = std::fs::metadata(dir).map_err(failed)?;
        if found.uid() != 0 || self.uid == 0 || found.mode() & 0o022 != 0 {
            return Ok(());
        }
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            self.own(&entry.map_err(failed)?.path()).map_err(failed)?;
        }
        // Last: from here on the account can change names in it.
        self.own(dir).map_err(failed)?;
        print(&format!(
            "{} and its files now belong to the service's account",
            dir.display()
        ));
        Ok(())
    }

    fn own(self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
    }
}
