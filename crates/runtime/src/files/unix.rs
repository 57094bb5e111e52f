//! By descriptor, with the calls that end in `at`: no path is resolved a second time.

use super::{Dir, Id, Kind, Owner, Privacy, refused};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Links that are followed one after the other.
const LINKS_MAX: u32 = 8;

/// What is said of everything that has no content of its own, such as a pipe.
const NOT_REGULAR: &str = "it is not a regular file";

impl Dir {
    /// Opens a directory. A symbolic link in its place is followed only if root or the process's own
    /// user made it.
    ///
    /// # Errors
    /// The system's error, or another user made the link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_trusted(path, flags, Mode::empty())?;
        Ok(Self {
            path: path.to_owned(),
            fd: File::from(fd),
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

    fn open_at(&self, name: &str, flags: OFlags, mode: u32) -> io::Result<File> {
        check_name(name)?;
        // NONBLOCK: the open of a pipe without a writer would wait for ever. NOCTTY: a terminal must not become ours.
        let always = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mode = Mode::from_raw_mode(mode as _);
        let opened = fs::openat(&self.fd, name, flags | always, mode);
        let fd = opened.map_err(|errno| match errno {
            Errno::LOOP => refused("it is a symbolic link, which is not followed here"),
            Errno::ISDIR => refused("it is a directory"),
            Errno::NXIO => refused("it is a pipe or a socket"),
            errno => errno.into(),
        })?;
        check_kind(&fs::fstat(&fd)?)?;
        Ok(File::from(fd))
    }

    /// Opens a file for reading; it must be a regular file with one link.
    ///
    /// # Errors
    /// The system's error, or it is something else.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::RDONLY, 0)
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_rw(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::RDWR, 0)
    }

    /// Opens a file for reading and appending. Makes it with this mode if it is missing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_append(&self, name: &str, mode: u32, owner: Owner) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND;
        // First without CREATE: an existing file must be inspected, not created over.
        match self.open_at(name, flags, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        self.new_file(name, flags, mode, owner)
    }

    /// Makes a file that does not exist.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(&self, name: &str, mode: u32, owner: Owner) -> io::Result<File> {
        self.new_file(name, OFlags::RDWR, mode, owner)
    }

    fn new_file(&self, name: &str, flags: OFlags, mode: u32, owner: Owner) -> io::Result<File> {
        let file = self.open_at(name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
        if owner == Owner::Directory {
            let (dir, own) = (self.fd.metadata()?, file.metadata()?);
            if dir.uid() != own.uid() {
                // Only root may, and only root needs to. By descriptor, because the name may be another
                // file's by now.
                let owner = (Uid::from_raw(dir.uid()), Gid::from_raw(dir.gid()));
                let _ = fs::fchown(&file, Some(owner.0), Some(owner.1));
            }
        }
        Ok(file)
    }

    /// Returns the descriptor of a socket's file, to connect to through `/proc/self/fd`.
    ///
    /// # Errors
    /// The system's error, or it is not a socket.
    #[cfg(target_os = "linux")]
    pub fn open_socket(&self, name: &str) -> io::Result<OwnedFd> {
        check_name(name)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, name, flags, Mode::empty())?;
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::Socket => Ok(fd),
            _ => Err(refused("it is not a socket")),
        }
    }

    /// Rejects a link, a pipe or a directory in a file's place.
    pub(super) fn check(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => check_kind(&stat),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Renames a file in it.
    ///
    /// # Errors
    /// The system's error.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        Ok(fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes a file or a link in it.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        Ok(fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Waits until its names are on disk: without it a rename may be lost in a crash.
    ///
    /// # Errors
    /// The system's error.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.fd)?)
    }
}

/// Rejects everything but one name: a path could leave the directory.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(refused("it is not the name of a file"));
    }
    Ok(())
}

fn check_kind(stat: &Stat) -> io::Result<()> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink == 1 => return Ok(()),
        // It was removed between the open and this check.
        FileType::RegularFile if stat.st_nlink == 0 => {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        FileType::RegularFile => "it has more than one name (a hard link)",
        FileType::Symlink => "it is a symbolic link, which is not followed here",
        FileType::Directory => "it is a directory",
        FileType::Fifo => "it is a pipe",
        FileType::Socket => "it is a socket",
        _ => NOT_REGULAR,
    };
    Err(refused(what))
}

/// Opens what a path names. A symbolic link in its last component is followed only if root or the process's own
/// user made it: others could direct it anywhere.
pub(super) fn open_trusted(path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    // With a slash at the end the system would follow a link.
    let mut path: PathBuf = path.components().collect();
    if path.as_os_str().is_empty() {
        path = PathBuf::from(".");
    }
    let own = rustix::process::geteuid();
    for _ in 0..LINKS_MAX {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let errno = match fs::open(&path, flags, mode) {
            Ok(fd) => return Ok(fd),
            // For a link, too: with O_DIRECTORY some systems report ENOTDIR.
            Err(errno @ (Errno::LOOP | Errno::NOTDIR | Errno::MLINK)) => errno,
            Err(errno) => return Err(errno.into()),
        };
        let Ok(target) = fs::readlink(&path, Vec::new()) else {
            return Err(errno.into());
        };
        let owner = Uid::from_raw(fs::lstat(&path)?.st_uid);
        if !(owner.is_root() || owner == own) {
            return Err(refused(
                "it is a symbolic link that another user made, which is not followed",
            ));
        }
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        path = match path.parent() {
            Some(dir) => dir.join(target),
            None => target,
        };
    }
    Err(refused("it is a symbolic link to too many others"))
}

/// Opens a file that an administrator names, for reading. Links are followed. A pipe, a socket and a device are rejected:
/// the open of a pipe would wait for ever. A directory is opened, and its reader gets the system's error.
///
/// # Errors
/// The system's error, or it is something else.
pub fn open_given(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = fs::open(path, flags, Mode::empty());
    let fd = opened.map_err(|errno| match errno {
        Errno::NXIO => refused(NOT_REGULAR),
        errno => errno.into(),
    })?;
    match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
        FileType::RegularFile | FileType::Directory => Ok(File::from(fd)),
        _ => Err(refused(NOT_REGULAR)),
    }
}

/// Opens a file at a path for reading and appending, or makes it with this mode. A symbolic link in its
/// place, a terminal or a pipe is accepted if root or the process's own user put it there: a log may go to
/// `/dev/stdout`.
///
/// # Errors
/// The system's error, or another user made the link.
pub fn open_append(path: &Path, mode: u32) -> io::Result<File> {
    if let Some(file) = new_append(path, mode) {
        return Ok(file);
    }
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOCTTY;
    let mode = Mode::from_raw_mode(mode as _);
    let opened = open_trusted(path, flags, mode).or_else(|error| {
        match error.kind() {
            // A terminal or a pipe may permit writing only.
            io::ErrorKind::PermissionDenied => {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOCTTY;
                open_trusted(path, flags, mode)
            }
            _ => Err(error),
        }
    });
    opened.map(File::from)
}

/// Makes a file that does not exist, owned by its directory's owner. `None` for any other reason not to: the caller
/// then opens what is there, or reports the error.
fn new_append(path: &Path, mode: u32) -> Option<File> {
    let (dir, name) = super::split(path).ok()?;
    let flags = OFlags::RDWR | OFlags::APPEND;
    let dir = Dir::open(dir).ok()?;
    dir.new_file(name, flags, mode, Owner::Directory).ok()
}

pub(super) fn id_of(file: &File) -> io::Result<Id> {
    file.metadata()
        .map(|found| Some((found.dev(), found.ino())))
}

pub(super) fn id_at(path: &Path) -> io::Result<Id> {
    let found = std::fs::metadata(path)?;
    Ok(Some((found.dev(), found.ino())))
}

/// Returns device, inode, and the time of the inode's change.
pub(super) fn inode_at(_: &Path, found: &Metadata) -> Option<(u64, u64, i64, i64)> {
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}
