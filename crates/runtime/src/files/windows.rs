//! By path, below a directory that is kept open: while its handle is open, neither it nor a directory above it can be
//! renamed or replaced.
//!
//! A symbolic link, a junction and a mount point are all reparse points. None is followed in place of a file. Permissions
//! come from the list of the directory, which new files inherit; `privacy` checks that they are private.

use super::privacy::OTHERS;
use super::{Dir, Id, Kind, Owner, Privacy, refused};
use bridge_windows::files::{
    ATTRIBUTE_LINK, FLAG_DIRECTORY, FLAG_NO_FOLLOW, RIGHTS_READ, RIGHTS_WRITE, SHARE_ALL,
    SHARE_READ_WRITE,
};
use bridge_windows::{acl, files};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

/// `ERROR_SHARING_VIOLATION` and `ERROR_LOCK_VIOLATION`: another program has the file open.
const IN_USE: [i32; 2] = [32, 33];

/// Attempts of a rename or a removal. Virus scanners and backups open new files for a moment, without permission to
/// rename them.
const ATTEMPTS: u32 = 20;

/// The pause between two attempts.
const RETRY: Duration = Duration::from_millis(50);

/// Opens a file at a path for reading and appending, or makes it. A link in its place is followed only if an administrator or
/// the process's own user made it.
///
/// # Errors
/// The system's error, or another user made the link.
pub fn open_append(path: &Path, _: u32) -> io::Result<File> {
    match append().custom_flags(FLAG_NO_FOLLOW).open(path) {
        Ok(file) if !is_link(&file.metadata()?) => Ok(file),
        Ok(link) if acl::has_trusted_owner(&link)? => append().open(path),
        Ok(_) => Err(foreign_link()),
        Err(error) => Err(error),
    }
}

/// Opens a file that an administrator names, for reading. Links are followed.
///
/// # Errors
/// The system's error.
pub fn open_given(path: &Path) -> io::Result<File> {
    // Also a directory, of which the caller reads the list.
    OpenOptions::new()
        .read(true)
        .custom_flags(FLAG_DIRECTORY)
        .open(path)
}

/// Changes the length of a file. A handle that only appends may not do that itself.
///
/// # Errors
/// The system's error.
pub fn set_len(file: &File, bytes: u64) -> io::Result<()> {
    match file.metadata()?.len() == bytes {
        true => Ok(()),
        false => files::reopen(file, RIGHTS_WRITE)?.set_len(bytes),
    }
}

/// Makes a directory and those above it, where they are missing, for this user and the service alone.
///
/// # Errors
/// The system's error.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        // Reported by the creation.
        Ok(_) | Err(_) => {}
    }
    if let Some(above) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        make_private_dir(above)?;
    }
    match acl::create_private_dir(path) {
        // Another process made it in the meantime.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

fn append() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true);
    options
}

impl Dir {
    /// Opens a directory. A link in its place is followed only if an administrator or the process's own user made it.
    ///
    /// # Errors
    /// The system's error, or another user made the link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // Without permission to rename or remove it, for as long as it is open.
        options
            .access_mode(RIGHTS_READ)
            .share_mode(SHARE_READ_WRITE);
        let mut fd = options
            .custom_flags(FLAG_DIRECTORY | FLAG_NO_FOLLOW)
            .open(path)?;
        if is_link(&fd.metadata()?) {
            if !acl::has_trusted_owner(&fd)? {
                return Err(foreign_link());
            }
            fd = options.custom_flags(FLAG_DIRECTORY).open(path)?;
        }
        if !fd.metadata()?.is_dir() {
            return Err(refused("it is not a directory"));
        }
        Ok(Self {
            path: path.to_owned(),
            fd,
        })
    }

    /// Removes the rights of others where this process may, see [`super::make_private`].
    ///
    /// # Errors
    /// The system's error.
    pub fn make_private(&self) -> io::Result<Privacy> {
        super::make_private(&self.fd, &self.path, Kind::Own)
    }

    /// Returns what [`Self::make_private`] would, and changes nothing.
    ///
    /// # Errors
    /// The system's error.
    pub fn privacy(&self) -> io::Result<Privacy> {
        super::privacy(&self.fd, Kind::Own)
    }

    fn open_at(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        check_name(name)?;
        let file = options
            .custom_flags(FLAG_NO_FOLLOW)
            .open(self.path.join(name))?;
        check_kind(&file.metadata()?)?;
        match files::names(&file)? {
            // It was removed between the open and this check.
            0 => Err(io::ErrorKind::NotFound.into()),
            1 => Ok(file),
            _ => Err(refused("it has more than one name (a hard link)")),
        }
    }

    /// Opens a file for reading; it must be a regular file with one name.
    ///
    /// # Errors
    /// The system's error, or it is something else.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OpenOptions::new().read(true))
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_rw(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OpenOptions::new().read(true).write(true))
    }

    /// Opens a file for reading and appending. Makes it if it is missing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_append(&self, name: &str, mode: u32, _: Owner) -> io::Result<File> {
        let file = self.open_at(name, &mut append())?;
        self.close_new(name, file, mode)
    }

    /// Makes a file that does not exist.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(&self, name: &str, mode: u32, _: Owner) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = self.open_at(name, options.create_new(true).read(true).write(true))?;
        self.close_new(name, file, mode)
    }

    /// Removes the rights of others from a new file with a private mode, before it has content. Usually there are none:
    /// it has the list of the directory.
    fn close_new(&self, name: &str, file: File, mode: u32) -> io::Result<File> {
        let is_private = mode & OTHERS == 0;
        if is_private && file.metadata()?.len() == 0 && acl::access(&file)? != acl::Access::Private
        {
            // A file system without lists: the reader of the file checks it, and has the words for it.
            if let Err(error) = acl::make_private(&file) {
                tracing::debug!(file = name, %error, "cannot restrict the access to a new file");
            }
        }
        Ok(file)
    }

    /// Rejects a link or a directory in a file's place.
    pub(super) fn check(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        match std::fs::symlink_metadata(self.path.join(name)) {
            Ok(found) => check_kind(&found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Renames a file in it. Tries again for a second while another program has one of the files open.
    ///
    /// # Errors
    /// The system's error.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        patiently(|| std::fs::rename(self.path.join(from), self.path.join(to)))
    }

    /// Removes a file or a link in it.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        patiently(|| std::fs::remove_file(self.path.join(name)))
    }

    /// Does nothing: the system has no call for it. NTFS writes renames in order, through its journal.
    ///
    /// # Errors
    /// None.
    pub fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Repeats what fails because another program has the file open.
fn patiently(mut act: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let is_in_use = |error: &io::Error| {
        let is_shared = error
            .raw_os_error()
            .is_some_and(|code| IN_USE.contains(&code));
        // A rename over an open file reports this.
        is_shared || error.kind() == io::ErrorKind::PermissionDenied
    };
    for _ in 1..ATTEMPTS {
        match act() {
            Err(error) if is_in_use(&error) => std::thread::sleep(RETRY),
            done => return done,
        }
    }
    act()
}

/// Rejects everything but one name: a path could leave the directory, and a colon names a stream of a file.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', ':']) {
        return Err(refused("it is not the name of a file"));
    }
    Ok(())
}

fn is_link(found: &Metadata) -> bool {
    found.file_attributes() & ATTRIBUTE_LINK != 0
}

fn check_kind(found: &Metadata) -> io::Result<()> {
    if is_link(found) {
        return Err(refused("it is a symbolic link, which is not followed here"));
    }
    match found.is_file() {
        true => Ok(()),
        false => Err(refused("it is a directory")),
    }
}

fn foreign_link() -> io::Error {
    refused("it is a symbolic link that another user made, which is not followed")
}

pub(super) fn id_of(file: &File) -> io::Result<Id> {
    let found = files::identity(file)?;
    Ok(Some((found.volume.into(), found.index)))
}

pub(super) fn id_at(path: &Path) -> io::Result<Id> {
    id_of(&described(path)?)
}

/// Returns device, file, and the time of its last change of any kind, in two parts.
pub(super) fn inode_at(path: &Path, _: &Metadata) -> Option<(u64, u64, i64, i64)> {
    let file = described(path).ok()?;
    let (volume, index) = id_of(&file).ok()??;
    Some((volume, index, files::changed(&file).ok()?, 0))
}

/// Opens a file or directory without any right to its content.
fn described(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .access_mode(0)
        .share_mode(SHARE_ALL)
        .custom_flags(FLAG_DIRECTORY)
        .open(path)
}

/// Returns whether a path leads to the open file through no link of another user: the list of a supplied file is never
/// changed here.
pub(super) fn leads_to(_: &Path, _: &File) -> bool {
    false
}

/// See [`super::privacy`].
pub(super) fn privacy(file: &File, kind: Kind, changes: bool) -> io::Result<Privacy> {
    let open = Privacy::Open { mode: OTHERS };
    match (acl::access(file)?, kind) {
        (acl::Access::Private, Kind::Own | Kind::Given) => Ok(Privacy::Private),
        // An administrator gave single accounts the right.
        (acl::Access::Single, Kind::Given) if acl::has_trusted_owner(file)? => Ok(Privacy::Group),
        (acl::Access::Single | acl::Access::Open, Kind::Given) => Ok(open),
        (acl::Access::Single | acl::Access::Open, Kind::Own) if !acl::may_change(file) => Ok(open),
        (acl::Access::Single | acl::Access::Open, Kind::Own) => {
            let tightened = Privacy::Tightened { was: OTHERS };
            if !changes {
                return Ok(tightened);
            }
            // Some file systems ignore the change, so the list is read again.
            match acl::make_private(file).and_then(|()| acl::access(file))? {
                acl::Access::Private => Ok(tightened),
                acl::Access::Single | acl::Access::Open => Ok(open),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::io::Write as _;

    #[test]
    fn file_is_replaced_appended_and_cut() {
        let temp = TempDir::new("files ünüsual");
        let path = temp.path().join("data");
        make_private_dir(&path).unwrap();
        make_private_dir(&path).unwrap();
        let dir = Dir::open(&path).unwrap();
        assert!(dir.make_private().unwrap().is_acceptable());
        for text in ["one", "two"] {
            let bytes = text.as_bytes();
            dir.replace("file", bytes, 0o600, Owner::Process).unwrap();
            assert_eq!(dir.read("file", 100).unwrap().unwrap(), bytes);
        }
        let content = dir.read_private("file", 100, true).unwrap().unwrap();
        assert!(content.privacy.is_acceptable(), "{:?}", content.privacy);
        let mut log = dir.open_append("log", 0o600, Owner::Process).unwrap();
        log.write_all(b"a line").unwrap();
        set_len(&log, 1).unwrap();
        log.write_all(b"b").unwrap();
        log.sync_data().unwrap();
        assert_eq!(dir.read("log", 100).unwrap().unwrap(), b"ab");
        // The open file is renamed, as a rotation does.
        dir.rename("log", "log.1").unwrap();
        assert!(!super::super::is_at(&path.join("file"), &log).unwrap());
        assert!(super::super::is_at(&path.join("log.1"), &log).unwrap());
    }

    #[test]
    fn links_and_paths_are_refused() {
        let temp = TempDir::new("files-links");
        let dir = Dir::open(temp.path()).unwrap();
        std::fs::write(temp.path().join("file"), "x").unwrap();
        std::fs::hard_link(temp.path().join("file"), temp.path().join("twin")).unwrap();
        dir.open_file("twin").unwrap_err();
        std::fs::create_dir(temp.path().join("below")).unwrap();
        dir.open_file("below").unwrap_err();
        for name in ["", ".", "..", r"a\b", "a/b", "file:stream", r"C:\x"] {
            dir.open_file(name).unwrap_err();
        }
        // The open directory cannot be moved away.
        let moved = temp.path().with_extension("moved");
        std::fs::rename(temp.path(), moved).unwrap_err();
    }
}
