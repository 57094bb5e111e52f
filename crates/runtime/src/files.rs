//! Files of a program's own, in a directory that another user may own.
//!
//! ```text
//! Dir::open(path) --> one descriptor --> openat, renameat, unlinkat, fstat: never by path again
//! ```
//!
//! A privileged command works in the directory of a service user. That user can put a symbolic link, a hard
//! link, a pipe or a directory in the place of any file, at any moment. So the directory is opened once,
//! and everything happens relative to its descriptor: no link is followed, what was opened is inspected by
//! its descriptor, and what is not a regular file with one link is refused.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// A directory that is open.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    #[cfg(unix)]
    fd: File,
}

/// What [`Dir::read`] found.
#[derive(Debug)]
pub struct Content {
    /// The bytes; one more than the limit where there are more.
    pub bytes: Vec<u8>,
    /// The file's mode, its lowest twelve bits; 0600 on systems without modes.
    pub mode: u32,
}

impl Dir {
    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file's bytes, `bytes_max + 1` of them at most; `None` when there is no such file.
    ///
    /// # Errors
    /// What the system says, and where it is not a regular file with one link.
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Option<Content>> {
        let file = match self.open_file(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mode = mode_of(&file)?;
        let mut bytes = Vec::new();
        file.take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)?;
        Ok(Some(Content { bytes, mode }))
    }

    /// Replaces a file by one with these bytes and this mode: after a crash it is the old one or the new
    /// one. `owner` gives the new file to the directory's owner.
    ///
    /// # Errors
    /// What the system says, and where something that is not a regular file with one link is in the way.
    /// The file is then as it was.
    pub fn replace(&self, name: &str, bytes: &[u8], mode: u32, owner: Owner) -> io::Result<()> {
        self.check(name)?;
        let temporary = format!("{name}.new");
        // A crash may have left one, of any kind and mode.
        match self.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let written = self.create(&temporary, mode, owner).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        let replaced = written.and_then(|()| self.rename(&temporary, name));
        if replaced.is_err() {
            // Half a file takes room where there is none.
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
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open_rw(name),
            created => created,
        }
    }
}

/// Whose a new file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user's that runs the program.
    Process,
    /// The directory's, as far as the process may give files away: root may.
    Directory,
}

/// Replaces a file at a path as [`Dir::replace`] does, without following a link in place of the file.
///
/// # Errors
/// As [`Dir::replace`].
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = split(path)?;
    Dir::open(dir)?.replace(name, bytes, mode, Owner::Process)
}

/// Opens a file at a path for reading; it must be a regular file with one link.
///
/// # Errors
/// What the system says, and where it is something else.
pub fn open(path: &Path) -> io::Result<File> {
    let (dir, name) = split(path)?;
    Dir::open(dir)?.open_file(name)
}

/// A path's directory and the name in it.
fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| refused("its name is not UTF-8"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    Ok((dir.unwrap_or(Path::new(".")), name))
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_owned())
}

#[cfg(unix)]
mod unix {
    use super::{Dir, Owner, refused};
    use rustix::fd::OwnedFd;
    use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
    use rustix::io::Errno;
    use std::ffi::OsString;
    use std::fs::File;
    use std::io;
    use std::os::unix::ffi::OsStringExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::{Path, PathBuf};

    /// Links in the place of the directory that are followed.
    const LINKS_MAX: u32 = 8;

    impl Dir {
        /// Opens a directory. A symbolic link in its place is followed only if root or the process's own
        /// user made it.
        ///
        /// # Errors
        /// What the system says, and where another user made the link.
        pub fn open(path: &Path) -> io::Result<Self> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = open_trusted(path, flags, Mode::empty())?;
            Ok(Self {
                path: path.to_owned(),
                fd: File::from(fd),
            })
        }

        /// Its mode, the lowest twelve bits.
        ///
        /// # Errors
        /// What the system says.
        pub fn mode(&self) -> io::Result<u32> {
            mode_of(&self.fd)
        }

        fn open_at(&self, name: &str, flags: OFlags, mode: u32) -> io::Result<File> {
            check_name(name)?;
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
        /// What the system says, and where it is something else.
        pub fn open_file(&self, name: &str) -> io::Result<File> {
            self.open_at(name, OFlags::RDONLY, 0)
        }

        /// The same, for reading and writing.
        ///
        /// # Errors
        /// As [`Self::open_file`].
        pub fn open_rw(&self, name: &str) -> io::Result<File> {
            self.open_at(name, OFlags::RDWR, 0)
        }

        /// The same, for reading, and for writing at its end. Makes it with this mode where it is missing.
        ///
        /// # Errors
        /// As [`Self::open_file`].
        pub fn open_append(&self, name: &str, mode: u32, owner: Owner) -> io::Result<File> {
            let flags = OFlags::RDWR | OFlags::APPEND;
            match self.open_at(name, flags, 0) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
            self.new_file(name, flags, mode, owner)
        }

        /// Makes a file that is not there yet.
        ///
        /// # Errors
        /// What the system says.
        pub fn create(&self, name: &str, mode: u32, owner: Owner) -> io::Result<File> {
            self.new_file(name, OFlags::RDWR, mode, owner)
        }

        fn new_file(&self, name: &str, flags: OFlags, mode: u32, owner: Owner) -> io::Result<File> {
            let file = self.open_at(name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            if owner == Owner::Directory {
                let (dir, own) = (self.fd.metadata()?, file.metadata()?);
                if dir.uid() != own.uid() {
                    // Only root may, and only root needs to. By the descriptor: the name may be another
                    // file's by now.
                    let owner = (Uid::from_raw(dir.uid()), Gid::from_raw(dir.gid()));
                    let _ = fs::fchown(&file, Some(owner.0), Some(owner.1));
                }
            }
            Ok(file)
        }

        /// The descriptor of a socket's file, to connect to by way of `/proc/self/fd`.
        ///
        /// # Errors
        /// What the system says, and where it is no socket.
        #[cfg(target_os = "linux")]
        pub fn open_socket(&self, name: &str) -> io::Result<OwnedFd> {
            check_name(name)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = fs::openat(&self.fd, name, flags, Mode::empty())?;
            match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
                FileType::Socket => Ok(fd),
                _ => Err(refused("it is no socket")),
            }
        }

        /// Refuses what is in a file's place and is none: a link, a pipe, a directory.
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
        /// What the system says.
        pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            check_name(from)?;
            check_name(to)?;
            Ok(fs::renameat(&self.fd, from, &self.fd, to)?)
        }

        /// Removes a file or a link in it.
        ///
        /// # Errors
        /// What the system says.
        pub fn remove(&self, name: &str) -> io::Result<()> {
            check_name(name)?;
            Ok(fs::unlinkat(&self.fd, name, AtFlags::empty())?)
        }

        /// Waits until names in it are on the disk.
        ///
        /// # Errors
        /// What the system says.
        pub fn sync(&self) -> io::Result<()> {
            Ok(fs::fsync(&self.fd)?)
        }
    }

    /// One name of a file, not a path.
    fn check_name(name: &str) -> io::Result<()> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(refused("it is no name of a file"));
        }
        Ok(())
    }

    fn check_kind(stat: &Stat) -> io::Result<()> {
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_nlink == 1 => return Ok(()),
            // A file that was removed a moment ago.
            FileType::RegularFile if stat.st_nlink == 0 => {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            FileType::RegularFile => "it has more than one name (a hard link)",
            FileType::Symlink => "it is a symbolic link, which is not followed here",
            FileType::Directory => "it is a directory",
            FileType::Fifo => "it is a pipe",
            FileType::Socket => "it is a socket",
            _ => "it is no regular file",
        };
        Err(refused(what))
    }

    /// Opens what a path names. A symbolic link in its last place is followed only if root or the
    /// process's own user made it: others could point it anywhere.
    pub(super) fn open_trusted(path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        // Behind a slash at the end a link would be followed.
        let mut path: PathBuf = path.components().collect();
        if path.as_os_str().is_empty() {
            path = PathBuf::from(".");
        }
        let own = rustix::process::geteuid();
        for _ in 0..LINKS_MAX {
            let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let errno = match fs::open(&path, flags, mode) {
                Ok(fd) => return Ok(fd),
                // A link is no directory, either.
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

    pub(super) fn mode_of(file: &File) -> io::Result<u32> {
        Ok(file.metadata()?.mode() & 0o7777)
    }
}

#[cfg(unix)]
use unix::mode_of;

/// Opens a file at a path for reading and appending, or makes it with this mode. A symbolic link in its
/// place, a terminal or a pipe will do where root or the process's own user put it there: a log may go to
/// `/dev/stdout`.
///
/// # Errors
/// What the system says, and where another user made the link.
#[cfg(unix)]
pub fn open_append(path: &Path, mode: u32) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOCTTY;
    let mode = Mode::from_raw_mode(mode as _);
    let opened = unix::open_trusted(path, flags, mode).or_else(|error| {
        match error.kind() {
            // Some can only be written to.
            io::ErrorKind::PermissionDenied => {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOCTTY;
                unix::open_trusted(path, flags, mode)
            }
            _ => Err(error),
        }
    });
    opened.map(File::from)
}

/// Opens a file at a path for reading and appending, or makes it.
///
/// # Errors
/// What the system says.
#[cfg(not(unix))]
pub fn open_append(path: &Path, _: u32) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)
}

#[cfg(not(unix))]
fn mode_of(_: &File) -> io::Result<u32> {
    Ok(0o600)
}

/// By path, on systems where links take a privilege to make.
#[cfg(not(unix))]
impl Dir {
    /// Opens a directory.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_dir() {
            return Err(refused("it is no directory"));
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Its mode.
    ///
    /// # Errors
    /// None here.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(0o700)
    }

    fn options(&self, name: &str, options: &std::fs::OpenOptions) -> io::Result<File> {
        self.check(name)?;
        options.open(self.path.join(name))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// What the system says, and where it is no file.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.options(name, std::fs::OpenOptions::new().read(true))
    }

    /// The same, for reading and writing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_rw(&self, name: &str) -> io::Result<File> {
        self.options(name, std::fs::OpenOptions::new().read(true).write(true))
    }

    /// The same, for reading, and for writing at its end. Makes it where it is missing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_append(&self, name: &str, _: u32, _: Owner) -> io::Result<File> {
        let mut options = std::fs::OpenOptions::new();
        self.options(name, options.create(true).read(true).append(true))
    }

    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self, name: &str, _: u32, _: Owner) -> io::Result<File> {
        let mut options = std::fs::OpenOptions::new();
        self.options(name, options.create_new(true).read(true).write(true))
    }

    fn check(&self, name: &str) -> io::Result<()> {
        match std::fs::symlink_metadata(self.path.join(name)) {
            Ok(found) if !found.is_file() => Err(refused("it is no regular file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Renames a file in it.
    ///
    /// # Errors
    /// What the system says.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    /// Removes a file in it.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    /// Nothing to wait for here.
    ///
    /// # Errors
    /// None here.
    pub fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    /// Puts something in a file's place, and says what it is. What it points to holds `theirs`.
    fn put(kind: &str, at: &Path, theirs: &Path) {
        match kind {
            "symbolic link" => symlink(theirs, at).unwrap(),
            "hard link" => std::fs::hard_link(theirs, at).unwrap(),
            "pipe" => rustix::fs::mkfifoat(rustix::fs::CWD, at, 0o600.into()).unwrap(),
            "directory" => std::fs::create_dir(at).unwrap(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn only_regular_files_with_one_link_are_used() {
        for kind in ["symbolic link", "hard link", "pipe", "directory"] {
            let temp = TempDir::new("files");
            let theirs = temp.path().join("theirs");
            std::fs::write(&theirs, "secret").unwrap();
            std::fs::set_permissions(&theirs, std::fs::Permissions::from_mode(0o640)).unwrap();
            let own = temp.path().join("own");
            std::fs::create_dir(&own).unwrap();
            put(kind, &own.join("file"), &theirs);
            let dir = Dir::open(&own).unwrap();
            let errors = [
                dir.read("file", 10).map(drop).unwrap_err(),
                dir.open_rw("file").map(drop).unwrap_err(),
                dir.open_or_create("file", Owner::Directory)
                    .map(drop)
                    .unwrap_err(),
                dir.open_append("file", 0o600, Owner::Directory)
                    .map(drop)
                    .unwrap_err(),
                dir.replace("file", b"new", 0o600, Owner::Directory)
                    .unwrap_err(),
            ];
            for error in errors {
                assert!(error.to_string().contains(kind), "{kind}: {error}");
            }
            assert_eq!(
                std::fs::read_to_string(&theirs).unwrap(),
                "secret",
                "{kind}"
            );
            let mode = std::fs::metadata(&theirs).unwrap().mode() & 0o777;
            assert_eq!(mode, 0o640, "{kind}");
        }
    }

    #[test]
    fn leftover_of_any_kind_does_not_redirect_a_write() {
        for kind in ["symbolic link", "hard link", "pipe"] {
            let temp = TempDir::new("leftover");
            let theirs = temp.path().join("theirs");
            std::fs::write(&theirs, "secret").unwrap();
            let own = temp.path().join("own");
            std::fs::create_dir(&own).unwrap();
            put(kind, &own.join("file.new"), &theirs);
            let dir = Dir::open(&own).unwrap();
            dir.replace("file", b"new", 0o600, Owner::Directory)
                .unwrap();
            assert_eq!(dir.read("file", 10).unwrap().unwrap().bytes, b"new");
            assert_eq!(
                std::fs::read_to_string(&theirs).unwrap(),
                "secret",
                "{kind}"
            );
        }
    }

    #[test]
    fn link_of_another_user_is_no_directory() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = TempDir::new("links");
        let real = temp.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = temp.path().join("link");
        symlink("real", &link).unwrap();
        Dir::open(&link).unwrap();
        Dir::open(&temp.path().join("link/")).unwrap();
        std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
        for path in ["link", "link/", "link/."] {
            let error = Dir::open(&temp.path().join(path)).unwrap_err();
            assert!(
                error.to_string().contains("another user"),
                "{path}: {error}"
            );
        }
        // What is below is another matter: the path's beginning is its author's.
        assert!(Dir::open(&temp.path().join("real")).is_ok());
    }

    #[test]
    fn new_file_is_its_directory_owners_and_an_old_one_stays() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = TempDir::new("owner");
        let dir = Dir::open(temp.path()).unwrap();
        std::os::unix::fs::chown(temp.path(), Some(12345), Some(54321)).unwrap();
        dir.replace("new", b"1", 0o600, Owner::Directory).unwrap();
        dir.replace("own", b"1", 0o600, Owner::Process).unwrap();
        dir.open_or_create("own", Owner::Directory).unwrap();
        let owner = |name: &str| {
            let found = std::fs::metadata(temp.path().join(name)).unwrap();
            (found.uid(), found.gid())
        };
        assert_eq!(owner("new"), (12345, 54321));
        assert_eq!(owner("own").0, 0);
    }

    #[test]
    fn names_are_no_paths() {
        let temp = TempDir::new("names");
        let dir = Dir::open(temp.path()).unwrap();
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../x"] {
            assert!(dir.open_file(name).is_err(), "{name}");
            assert!(
                dir.replace(name, b"", 0o600, Owner::Process).is_err(),
                "{name}"
            );
        }
    }
}
