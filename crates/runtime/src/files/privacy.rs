//! Who may read a private file, and what follows if too many may.
//!
//! ```text
//! no rights of others                                -> private
//! a program's own file, of this user or read by root  -> tightened, with a warning in the log
//! root's, and the only others are one of our groups   -> accepted: root gave it to that group for us
//! anything else                                       -> open: the caller rejects it
//! ```
//!
//! A file that an administrator supplies is treated with more care: its group may be how it reaches a service. Its mode is
//! changed only if its path leads to it without a link of another user: root runs commands on paths that the service's account
//! may replace by a link to any file.
//!
//! Windows has no modes, but lists (`windows.rs`). Only the system, administrators, the service and the user itself may be
//! in the list of the program's own file.
//!
//! Kubernetes makes everything in a volume with `fsGroup` readable and writable by that group, at each start of
//! a pod. Volumes of other systems show wide modes as well. A program that only complained could never start
//! again: no administrator can run `chmod` in its container.

use std::fs::File;
use std::io;
use std::path::Path;

/// The rights of the group and of all others. On Windows it stands for a list that is not private: messages do not show it.
pub(super) const OTHERS: u32 = 0o077;

/// The origin of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The program made it, for itself alone.
    Own,
    /// An administrator or a service manager supplies it.
    Given,
}

/// How private a file or directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privacy {
    /// Only its owner has rights.
    Private,
    /// It had this mode, and only its owner has rights now.
    Tightened {
        /// The mode before.
        was: u32,
    },
    /// Root owns it, and apart from root only a group has rights.
    Group,
    /// Others have rights.
    Open {
        /// Its mode.
        mode: u32,
    },
}

impl Privacy {
    /// Returns whether it may hold a secret.
    pub fn is_acceptable(self) -> bool {
        match self {
            Self::Private | Self::Tightened { .. } | Self::Group => true,
            Self::Open { .. } => false,
        }
    }
}

/// Removes the rights of others from an open file or directory, where this process may.
///
/// # Errors
/// The system's error when its mode cannot be read.
pub fn make_private(file: &File, path: &Path, kind: Kind) -> io::Result<Privacy> {
    let changes = kind == Kind::Own || imp::leads_to(path, file);
    let found = imp::privacy(file, kind, changes)?;
    // A file that may not be changed is open to others, although its owner could change it.
    let found = match found {
        Privacy::Tightened { was } if !changes => Privacy::Open { mode: was },
        found => found,
    };
    if let Privacy::Tightened { was } = found {
        let (path, was) = (path.display(), shown(was));
        match file.metadata().is_ok_and(|found| found.is_dir()) {
            true => tracing::warn!(
                %path, was,
                "other users had access to a private directory; it is now accessible to its owner alone"
            ),
            false => tracing::warn!(
                %path, was,
                "other users had access to a private file; it is now accessible to its owner alone"
            ),
        }
    }
    Ok(found)
}

/// Returns what [`make_private`] would, and changes nothing.
///
/// # Errors
/// As [`make_private`].
pub fn privacy(file: &File, kind: Kind) -> io::Result<Privacy> {
    imp::privacy(file, kind, false)
}

/// Returns a mode for messages.
pub fn shown(mode: u32) -> String {
    match cfg!(windows) {
        true => "by its access control list".to_owned(),
        false => format!("mode {mode:04o}"),
    }
}

/// Returns the command that removes the rights of others from a file or directory. `mode` is the one that it must have.
pub fn remedy(path: &Path, mode: &str) -> String {
    let path = path.display();
    match cfg!(windows) {
        // By number, because the names of groups are translated.
        true => format!(
            "`icacls \"{path}\" /inheritance:r /grant:r *S-1-5-18:F *S-1-5-32-544:F \"NT \
             SERVICE\\IntegrationBridge:M\"` as administrator"
        ),
        false => format!("`chmod {mode} '{path}'` as its owner"),
    }
}

#[cfg(unix)]
mod imp {
    use super::{Kind, OTHERS, Privacy};
    use rustix::fs::Mode;
    use std::fs::{File, Metadata};
    use std::io;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::{Path, PathBuf};

    /// Most links on the way to a file, as in the system.
    const LINKS_MAX: u32 = 40;

    /// Returns whether a path leads to the open file through no link of another user. Links of root are trusted, such as those
    /// that Kubernetes makes.
    pub(super) fn leads_to(path: &Path, file: &File) -> bool {
        is_trusted(path, file).unwrap_or(false)
    }

    fn is_trusted(path: &Path, file: &File) -> io::Result<bool> {
        let opened = file.metadata()?;
        let own = rustix::process::geteuid().as_raw();
        let mut links = 0;
        // The components that are not checked yet, the next one last.
        let split = |path: &Path| -> Vec<PathBuf> {
            let components = path.components().rev();
            components
                .map(|component| PathBuf::from(component.as_os_str()))
                .collect()
        };
        let mut rest = split(&std::path::absolute(path)?);
        let mut checked = PathBuf::new();
        while let Some(next) = rest.pop() {
            if next.as_os_str() == ".." {
                // All that is checked is no link, so its parent is the one of the system.
                checked.pop();
                continue;
            }
            // An absolute target of a link replaces what is checked.
            let at = checked.join(next);
            let found = std::fs::symlink_metadata(&at)?;
            if !found.is_symlink() {
                checked = at;
                continue;
            }
            links += 1;
            if links > LINKS_MAX || !(found.uid() == own || found.uid() == 0) {
                return Ok(false);
            }
            rest.extend(split(&std::fs::read_link(&at)?));
        }
        let found = std::fs::symlink_metadata(&checked)?;
        // Another name of a file may be a link, too.
        Ok(found.is_file()
            && found.nlink() == 1
            && (found.dev(), found.ino()) == (opened.dev(), opened.ino()))
    }

    pub(super) fn privacy(file: &File, kind: Kind, changes: bool) -> io::Result<Privacy> {
        let found = file.metadata()?;
        let mode = found.mode() & 0o7777;
        if mode & OTHERS == 0 {
            return Ok(Privacy::Private);
        }
        let own = rustix::process::geteuid();
        // Readable by a group at most: service managers provide files of root that way (systemd's
        // `LoadCredential=`, Kubernetes' `fsGroup`), and root itself must not take them away from that group.
        let is_provided =
            found.uid() == 0 && (mode & 0o037 == 0 || own.is_root() && mode & 0o007 == 0);
        if kind == Kind::Given && is_provided {
            return Ok(Privacy::Group);
        }
        // A command of root works in the directory of the service's user, whose files are the program's own.
        let may_tighten = found.uid() == own.as_raw() || own.is_root() && kind == Kind::Own;
        if may_tighten {
            if !changes {
                return Ok(Privacy::Tightened { was: mode });
            }
            // By descriptor. Some file systems ignore the change, so the mode is read again.
            let closed = Mode::from_raw_mode((mode & !OTHERS) as _);
            let changed = rustix::fs::fchmod(file, closed);
            if changed.is_ok() && file.metadata()?.mode() & OTHERS == 0 {
                return Ok(Privacy::Tightened { was: mode });
            }
        }
        match is_of_own_group(&found, mode) {
            true => Ok(Privacy::Group),
            false => Ok(Privacy::Open { mode }),
        }
    }

    fn is_of_own_group(found: &Metadata, mode: u32) -> bool {
        if found.uid() != 0 || mode & 0o007 != 0 {
            return false;
        }
        let own = rustix::process::getegid();
        let more = rustix::process::getgroups().unwrap_or_default();
        own.as_raw() == found.gid() || more.iter().any(|group| group.as_raw() == found.gid())
    }
}

#[cfg(windows)]
use super::windows as imp;

#[cfg(not(any(unix, windows)))]
mod imp {
    use super::{Kind, Privacy};
    use std::fs::File;
    use std::io;
    use std::path::Path;

    pub(super) fn leads_to(_: &Path, _: &File) -> bool {
        true
    }

    pub(super) fn privacy(_: &File, _: Kind, _: bool) -> io::Result<Privacy> {
        Ok(Privacy::Private)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn own_file_is_tightened_and_checked_unchanged() {
        let dir = TempDir::new("privacy");
        let path = dir.path().join("key");
        fs::write(&path, "x").unwrap();
        let file = File::open(&path).unwrap();
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        for was in [0o640, 0o660, 0o604, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(was)).unwrap();
            assert_eq!(
                privacy(&file, Kind::Own).unwrap(),
                Privacy::Tightened { was }
            );
            assert_eq!(mode(), was, "a check changes nothing");
            let made = make_private(&file, &path, Kind::Own).unwrap();
            assert_eq!(made, Privacy::Tightened { was });
            assert_eq!(mode(), was & 0o700);
            assert_eq!(
                make_private(&file, &path, Kind::Own).unwrap(),
                Privacy::Private
            );
        }
        let own = File::open(dir.path()).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o2770)).unwrap();
        assert!(
            make_private(&own, dir.path(), Kind::Own)
                .unwrap()
                .is_acceptable()
        );
    }

    #[test]
    fn given_file_is_tightened_through_trusted_links_only() {
        use std::os::unix::fs::{lchown, symlink};
        let dir = TempDir::new("privacy-links");
        let [target, link, way, name] =
            ["target", "link", "way", "name"].map(|name| dir.path().join(name));
        fs::write(&target, "x").unwrap();
        let open = || fs::set_permissions(&target, Permissions::from_mode(0o604)).unwrap();
        let mode = || fs::metadata(&target).unwrap().permissions().mode() & 0o7777;
        let make = |path: &Path| {
            open();
            make_private(&File::open(path).unwrap(), path, Kind::Given).unwrap()
        };
        // As Kubernetes does: a link to a directory, and a link through it.
        symlink(".", &way).unwrap();
        symlink("way/target", &link).unwrap();
        assert_eq!(make(&target), Privacy::Tightened { was: 0o604 });
        assert_eq!(make(&link), Privacy::Tightened { was: 0o604 });
        assert_eq!(mode(), 0o600);
        if rustix::process::geteuid().is_root() {
            for foreign in [&way, &link] {
                lchown(foreign, Some(12345), None).unwrap();
                assert_eq!(make(&link), Privacy::Open { mode: 0o604 });
                assert_eq!(mode(), 0o604, "the target is not changed");
                lchown(foreign, Some(0), None).unwrap();
            }
        }
        fs::hard_link(&target, &name).unwrap();
        assert_eq!(make(&name), Privacy::Open { mode: 0o604 });
        assert_eq!(mode(), 0o604);
    }

    #[test]
    fn file_of_another_user_is_open() {
        // Root's, and readable by all; to root itself it is its own.
        if rustix::process::geteuid().is_root() {
            return;
        }
        let file = File::open("/etc/passwd").unwrap();
        let found = privacy(&file, Kind::Given).unwrap();
        assert!(!found.is_acceptable(), "{found:?}");
    }
}
