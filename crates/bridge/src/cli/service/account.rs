//! The user that runs the service, and its directories.

use super::super::common::print;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// A user's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

/// Returns a user's numbers; `None` if there is no such user.
pub(super) fn find(user: &str) -> Result<Option<Account>, String> {
    // The program `id` asks every source of users, such as a directory service, and not only /etc/passwd.
    let number = |option: &str| {
        let output = Command::new("id")
            .args([option, "--", user])
            .stderr(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run id: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok::<_, String>(text.trim().parse::<u32>().ok())
    };
    let (uid, gid) = (number("-u")?, number("-g")?);
    Ok(uid.zip(gid).map(|(uid, gid)| Account { uid, gid }))
}

/// Creates a user without a shell.
pub(super) fn create(user: &str, home: &Path) -> Result<Account, String> {
    let mut command = Command::new("useradd");
    command.args(["--system", "--shell", "/usr/sbin/nologin", "--home-dir"]);
    command.arg(home).arg(user);
    let by_hand = "create the user with the tools of this system, and run this command again";
    let status = command
        .status()
        .map_err(|error| format!("cannot run useradd ({error}); {by_hand}"))?;
    if !status.success() {
        return Err(format!("useradd {user} failed ({status}); {by_hand}"));
    }
    find(user)?.ok_or_else(|| format!("useradd created no user {user}; {by_hand}"))
}

impl Account {
    /// Creates a directory with this mode if it is missing. The user then owns it.
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

    /// Gives the user a data directory that root has filled, for example with `pair`. Only a directory of root:
    /// no other user can have put anything into it.
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
        // Last: from here on the user can change names in it.
        self.own(dir).map_err(failed)?;
        print(&format!(
            "{} and its files now belong to the service's user",
            dir.display()
        ));
        Ok(())
    }

    fn own(self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
    }
}
