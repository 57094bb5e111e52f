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

/// The most bytes that are overwritten before a file is removed. Files with secrets are far smaller.
const DESTROYED_MAX_BYTES: u64 = 1024 * 1024;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    #[cfg(any(unix, windows))]
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
            inode: inode_at(path, &found)?,
        })
    }
}

/// Device and number of a file; `None` on systems that do not tell.
type Id = Option<(u64, u64)>;

/// Returns whether two open files are one. On systems that do not tell, they always are.
///
/// # Errors
/// The system's error.
pub fn is_same(one: &File, other: &File) -> io::Result<bool> {
    Ok(id_of(one)? == id_of(other)?)
}

/// Returns whether a path leads to an open file, links followed. On systems that do not tell, it always does.
///
/// # Errors
/// The system's error, for example that nothing is at the path.
pub fn is_at(path: &Path, file: &File) -> io::Result<bool> {
    Ok(id_at(path)? == id_of(file)?)
}

/// Returns whether two paths lead to one file, links followed. On systems that do not tell, they never do.
pub fn lead_to_one(one: &Path, other: &Path) -> bool {
    match (id_at(one), id_at(other)) {
        (Ok(Some(one)), Ok(Some(other))) => one == other,
        (Ok(_) | Err(_), _) => false,
    }
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

/// Makes a file with this mode at a path where there is nothing, also no link. It belongs to this process's user.
///
/// # Errors
/// The system's error: `AlreadyExists` for anything in its place.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let (dir, name) = split(path)?;
    Dir::open(dir)?.create(name, mode, Owner::Process)
}

/// Replaces a file at a path by one with these bytes, which has the mode, the owner and the group of the existing one. After
/// a crash it is the old one or the new one.
///
/// # Errors
/// The system's error, or something else than a regular file with one link is there. The file is then unchanged.
pub fn replace_like(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (dir, name) = split(path)?;
    let dir = Dir::open(dir)?;
    let before = dir.open_file(name)?;
    let temporary = format!("{name}.new");
    match dir.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // On Unix closed until it has the owner; elsewhere it has the rights that the directory gives.
    let mode = if cfg!(unix) { 0o600 } else { 0o644 };
    let created = dir.create(&temporary, mode, Owner::Process);
    let written = created.and_then(|mut file| {
        file.write_all(bytes)?;
        let before = before.metadata()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt as _, fchown};
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
        }
        file.set_permissions(before.permissions())?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| dir.rename(&temporary, name));
    if replaced.is_err() {
        let _ = dir.remove(&temporary);
    }
    replaced?;
    dir.sync()
}

/// Overwrites a file at a path with zeros and removes it. It must be a regular file with one link: neither a link nor
/// what it leads to is touched. A copy on the disk may remain, as with any file system.
///
/// # Errors
/// The system's error, or it is something else.
pub fn destroy(path: &Path) -> io::Result<()> {
    let (dir, name) = split(path)?;
    let dir = Dir::open(dir)?;
    let mut file = dir.open_rw(name)?;
    let bytes = file.metadata()?.len().min(DESTROYED_MAX_BYTES);
    io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
    file.sync_all()?;
    drop(file);
    dir.remove(name)?;
    dir.sync()
}

/// Opens a file at a path for reading; it must be a regular file with one link.
///
/// # Errors
/// The system's error, or it is something else.
pub fn open(path: &Path) -> io::Result<File> {
    let (dir, name) = split(path)?;
    Dir::open(dir)?.open_file(name)
}

/// Changes the length of a file that may be open for appending.
///
/// # Errors
/// The system's error.
#[cfg(not(windows))]
pub fn set_len(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)
}

/// Makes a directory and those above it, where they are missing, for this user alone (mode 0700).
///
/// # Errors
/// The system's error.
#[cfg(not(windows))]
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

#[cfg(not(any(unix, windows)))]
mod other;
mod privacy;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use privacy::{Kind, Privacy, make_private, privacy, remedy, shown};

#[cfg(not(any(unix, windows)))]
use other::{id_at, id_of, inode_at};
#[cfg(not(any(unix, windows)))]
pub use other::{open_append, open_given};
#[cfg(unix)]
use unix::{id_at, id_of, inode_at};
#[cfg(unix)]
pub use unix::{open_append, open_given};
#[cfg(windows)]
use windows::{id_at, id_of, inode_at};
#[cfg(windows)]
pub use windows::{make_private_dir, open_append, open_given, set_len};

#[cfg(all(test, unix))]
mod tests;
