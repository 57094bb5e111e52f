//! A program's files, in a directory that another user may own.
//!
//! ```text
//! Dir::open(path) --> one descriptor --> openat, renameat, unlinkat, fstat: never by path again
//! ```
//!
//! A privileged command works in the directory of a service user. That user can put a symbolic link, a hard
//! link, a pipe or a directory in the place of any file at any moment. So the directory is opened once, and
//! everything happens relative to its descriptor: no link is followed, an opened file is inspected by its
//! descriptor, and everything but a regular file with one link is rejected.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    #[cfg(unix)]
    fd: File,
}

/// A file that [`Dir::read_private`] has read.
#[derive(Debug)]
pub struct Content {
    /// The bytes; one more than the limit if the file has more.
    pub bytes: Vec<u8>,
    /// Who may read it, after the rights of others were removed where that was possible.
    pub privacy: Privacy,
}

impl Dir {
    /// Returns its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a file's bytes, at most `bytes_max + 1` of them; `None` when it does not exist.
    ///
    /// # Errors
    /// The system's error, or the file is not a regular one with one link.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        read_up_to(file, bytes_max).map(Some)
    }

    /// The same for a private file. `tightens` removes rights of others first, where this process may; without
    /// it, nothing changes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_private(
        &self,
        name: &str,
        bytes_max: u64,
        tightens: bool,
    ) -> io::Result<Option<Content>> {
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let privacy = match tightens {
            true => make_private(&file, &self.path.join(name), Kind::Own)?,
            false => privacy(&file, Kind::Own)?,
        };
        let bytes = read_up_to(file, bytes_max)?;
        Ok(Some(Content { bytes, privacy }))
    }

    /// Replaces a file by one with these bytes and this mode. After a crash it is the old one or the new one, never
    /// a part. `owner` decides whose the new file is.
    ///
    /// # Errors
    /// The system's error, or something else than a regular file with one link is in its place.
    /// The file is then unchanged.
    pub fn replace(&self, name: &str, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
        // The rename would silently replace a link; the check reports it.
        self.check(name)?;
        let temporary = format!("{name}.new");
        // A crash may have left one, and another user may have put anything there.
        match self.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // On disk before it has its name: a rename may reach the disk before the data does.
        let written = self.create(&temporary, mode, owner).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let replaced = written.and_then(|()| self.rename(&temporary, name));
        if replaced.is_err() {
            // On a full disk, half a file would take the space that the next attempt needs.
            let _ = self.remove(&temporary);
        }
        replaced?;
        self.sync()
    }

    /// Opens a file for reading and writing, or makes it with mode 0600.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_or_create(&self, name: &str, owner: Owner) -> io::Result<File> {
        match self.open_rw(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        match self.create(name, 0o600, owner) {
            // Another process made it in the meantime.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open_rw(name),
            created => created,
        }
    }
}

fn read_up_to(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The owner of a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user that runs the program.
    Process,
    /// The directory's owner, if the process may change owners, as root may.
    Directory,
}

/// What distinguishes a file from the one that was at its path before.
///
/// Length and time of change are not enough: files of Kubernetes, of image builds and of `cp -p` may keep both
/// while their content changes. The inode and the time of its last change of any kind cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    bytes: u64,
    /// Device, inode, and the seconds and nanoseconds of the inode's change; zeros on systems without.
    inode: (u64, u64, i64, i64),
}

impl Stamp {
    /// Returns that of a file, symbolic links followed; `None` when there is none.
    pub fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: found.modified().ok()?,
            bytes: found.len(),
            inode: inode_of(&found),
        })
    }
}

/// Returns whether two descriptions are of one file. On systems without inodes they always are.
pub fn is_same(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    let (one, other) = (inode_of(one), inode_of(other));
    (one.0, one.1) == (other.0, other.1)
}

/// Replaces a file at a path as [`Dir::replace`] does, without following a link in place of the file. The new file
/// belongs to the directory's owner.
///
/// # Errors
/// As [`Dir::replace`].
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = split(path)?;
    Dir::open(dir)?.replace(name, bytes, mode, Owner::Directory)
}

/// Opens a file at a path for reading; it must be a regular file with one link.
///
/// # Errors
/// The system's error, or it is something else.
pub fn open(path: &Path) -> io::Result<File> {
    let (dir, name) = split(path)?;
    Dir::open(dir)?.open_file(name)
}

/// Makes a directory and those above it, where they are missing, for this user alone (mode 0700).
///
/// # Errors
/// The system's error.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path)
}

/// Splits a path into its directory and the name in it.
fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    // Names are given as text to the system calls below.
    let name = name.ok_or_else(|| refused("its name is not UTF-8"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    Ok((dir.unwrap_or(Path::new(".")), name))
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_owned())
}

#[cfg(not(unix))]
mod other;
mod privacy;
#[cfg(unix)]
mod unix;

pub use privacy::{Kind, Privacy, make_private, privacy};

#[cfg(not(unix))]
use other::inode_of;
#[cfg(not(unix))]
pub use other::{open_append, open_given};
#[cfg(unix)]
use unix::inode_of;
#[cfg(unix)]
pub use unix::{open_append, open_given};

#[cfg(all(test, unix))]
mod tests;
