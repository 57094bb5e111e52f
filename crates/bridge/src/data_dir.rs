//! The data directory: private, locked by the running process, and written atomically.
//!
//! ```text
//! DataDir     the directory, locked: one running bridge has it
//! PrivateDir  the same without a lock, for commands that run next to the bridge
//! ```
//!
//! Files are opened relative to the directory's descriptor and without following links (`runtime::files`):
//! root may run a command on a directory of the bridge's own user.

use runtime::files::{
    Content, Dir, Kind, Owner, Privacy, make_private, make_private_dir, privacy, shown,
};
use runtime::shortage::in_words;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest file that is read, in bytes. The bridge's own files are far smaller.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Name of the file that the running process locks.
const LOCK_FILE: &str = "lock";

/// Why the data directory cannot be used. The text has the path and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file or the directory cannot be created, read or written.
    #[error(
        "{action} {path} failed: {why}; check that it is on a writable disk and owned by the user that runs the \
         bridge", why = in_words(.source)
    )]
    Io {
        /// What the bridge tried to do.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// A file is in the directory's place.
    #[error(
        "bridge.data_dir {path} cannot be used: {file} is a file; name a directory, or remove the file"
    )]
    IsFile {
        /// The directory.
        path: String,
        /// The file.
        file: String,
    },
    /// Another process has locked the directory.
    #[error(
        "the data directory {path} is in use by another integration-bridge process; stop that process \
         first, or set bridge.data_dir to another directory"
    )]
    InUse {
        /// The directory.
        path: String,
    },
    /// Other users can read a private file.
    #[error(
        "other users have access to {path} ({}), which holds a private key, and this user may not \
         change that; run {}, mount the volume so that the bridge's user owns \
         it, or, if only the bridge uses the volume, set bridge.data_dir_shared = true",
        shown(*.mode), runtime::files::remedy(Path::new(.path), .remedy)
    )]
    NotPrivate {
        /// The file or directory.
        path: String,
        /// Its mode.
        mode: u32,
        /// The mode that it must have.
        remedy: &'static str,
    },
    /// A file is larger than any that this program writes.
    #[error("{path} is larger than {FILE_MAX_BYTES} bytes; this program did not write it")]
    TooLarge {
        /// The file.
        path: String,
    },
}

/// A directory that only its user can read. It is opened once; all operations use its descriptor and follow
/// no links.
#[derive(Debug, Clone)]
pub struct PrivateDir {
    dir: Arc<Dir>,
    /// Whether rights of others are removed. A check changes nothing.
    tightens: bool,
    /// Whether the administrator accepts that other users have access (`bridge.data_dir_shared`).
    is_shared: bool,
}

/// The directory, locked for as long as the value lives.
#[derive(Debug)]
pub struct DataDir {
    dir: PrivateDir,
    _lock: File,
}

impl std::ops::Deref for DataDir {
    type Target = PrivateDir;

    fn deref(&self) -> &PrivateDir {
        &self.dir
    }
}

impl DataDir {
    /// Opens a directory that is not shared.
    #[cfg(test)]
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        Self::open_as(path, false)
    }

    /// Creates the directory if it is missing (mode 0700), and locks it. `is_shared` accepts one to which other
    /// users have access for good.
    ///
    /// # Errors
    /// [`DataDirError`] if it is not writable, open to others, or in use.
    pub(crate) fn open_as(path: &Path, is_shared: bool) -> Result<Self, DataDirError> {
        let dir = PrivateDir::open_as(path, is_shared)?;
        // A file of its own: the others are replaced by renames, which would leave the lock on the old file.
        // The system releases the lock when the process ends, however it ends.
        let lock = match dir.dir.open_or_create(LOCK_FILE, Owner::Directory) {
            // The lock does not need a writable disk, and a bridge can work for long without one.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                dir.dir.open_file(LOCK_FILE)
            }
            opened => opened,
        };
        let lock = lock.map_err(dir.failed("opening", LOCK_FILE))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse {
                path: path.display().to_string(),
            }),
            Err(TryLockError::Error(source)) => Err(DataDirError::Io {
                action: "locking the directory",
                path: path.display().to_string(),
                source,
            }),
        }
    }
}

impl PrivateDir {
    /// Opens a directory that is not shared.
    #[cfg(test)]
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        Self::open_as(path, false)
    }

    /// Creates the directory if it is missing (mode 0700). It is not locked. `is_shared` accepts one to which other
    /// users have access for good: the modes of some volumes cannot be changed.
    ///
    /// # Errors
    /// [`DataDirError`] if it is not writable or open to others.
    pub(crate) fn open_as(path: &Path, is_shared: bool) -> Result<Self, DataDirError> {
        let failed = |action| {
            move |source| DataDirError::Io {
                action,
                path: path.display().to_string(),
                source,
            }
        };
        if let Some(file) = path.ancestors().find(|above| above.is_file()) {
            return Err(DataDirError::IsFile {
                path: path.display().to_string(),
                file: file.display().to_string(),
            });
        }
        make_private_dir(path).map_err(failed("creating the directory"))?;
        let dir = Dir::open(path).map_err(failed("opening the directory"))?;
        // Of the opened directory: its path may lead to another one by now.
        let privacy = dir
            .make_private()
            .map_err(failed("opening the directory"))?;
        check_private(path, privacy, "700", is_shared)?;
        Ok(Self {
            dir: Arc::new(dir),
            tightens: true,
            is_shared,
        })
    }

    /// Opens an existing directory for a check, which creates and changes nothing.
    ///
    /// # Errors
    /// [`DataDirError`] if it is not readable, or readable by others for good.
    pub(crate) fn open_unchanged(path: &Path, is_shared: bool) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io {
            action: "opening the directory",
            path: path.display().to_string(),
            source,
        };
        let dir = Dir::open(path).map_err(failed)?;
        check_private(path, dir.privacy().map_err(failed)?, "700", is_shared)?;
        Ok(Self {
            dir: Arc::new(dir),
            tightens: false,
            is_shared,
        })
    }

    /// Returns whether the rights of others are removed from files: not in a check.
    pub(crate) fn tightens(&self) -> bool {
        self.tightens
    }

    /// Returns the mapping of a system error at one of the files.
    fn failed(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> DataDirError {
        let path = self.path(name).display().to_string();
        move |source| DataDirError::Io {
            action,
            path,
            source,
        }
    }

    /// Opens a private file for reading and writing, and creates it if it is missing.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn open_or_create(&self, name: &str) -> Result<File, DataDirError> {
        let opened = self.dir.open_or_create(name, Owner::Directory);
        opened.map_err(self.failed("opening", name))
    }

    /// Opens an existing private file for reading and writing.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn open_existing(&self, name: &str) -> io::Result<File> {
        self.dir.open_rw(name)
    }

    /// Renames a file inside the directory.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }

    /// Removes a file, if it exists.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn remove(&self, name: &str) -> Result<(), DataDirError> {
        match self.dir.remove(name) {
            // Missing is fine: a crash may have come between a removal and what follows it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("removing", name)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Waits for the lock of this name. Dropping the returned file releases it. Blocks.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn lock(&self, name: &str) -> Result<File, DataDirError> {
        let file = self.open_or_create(name)?;
        file.lock().map_err(self.failed("locking", name))?;
        Ok(file)
    }

    /// Returns the path of a file in the directory, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the bytes of a private file, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`DataDirError`] if it is not readable, readable by others, or too large.
    pub fn read_private(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        let read = self.dir.read_private(name, FILE_MAX_BYTES, self.tightens);
        let Some(content) = read.map_err(self.failed("reading", name))? else {
            return Ok(None);
        };
        let path = self.path(name);
        let content = within_bounds(&path, content)?;
        // Checked at each read: an administrator may have copied or edited the file since.
        check_private(&path, content.privacy, "600", self.is_shared)?;
        Ok(Some(content.bytes))
    }

    /// Writes a private file (mode 0600) atomically: after a crash it has the old content or the new one. A
    /// file that root writes belongs to the directory's owner, who runs the bridge.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        let replaced = self.dir.replace(name, bytes, 0o600, Owner::Directory);
        replaced.map_err(self.failed("writing", name))
    }
}

/// Reads a file outside the data directory, such as a key that a service manager provides. Returns `None` if
/// it does not exist.
///
/// The file must be private, or is made so. A file of root may also be readable by its group: service managers
/// provide files to a process of another user that way (systemd's `LoadCredential=`, Kubernetes' `fsGroup`).
///
/// `may_change` says by the content whether the mode may be changed: a check changes nothing, and neither does a command that
/// finds another file there.
///
/// # Errors
/// [`DataDirError`] if it is not readable, readable by others, or too large.
pub(crate) fn read_given(
    path: &Path,
    may_change: impl FnOnce(&[u8]) -> bool,
) -> Result<Option<Vec<u8>>, DataDirError> {
    let failed = |source| DataDirError::Io {
        action: "reading",
        path: path.display().to_string(),
        source,
    };
    // Follows links: Kubernetes mounts the files of a secret as links.
    let file = match runtime::files::open_given(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed shows that the file is too large.
    let mut limited = (&file).take(FILE_MAX_BYTES.saturating_add(1));
    limited.read_to_end(&mut bytes).map_err(failed)?;
    // Of the open file, so that the checked file is the one that is read.
    let found = privacy(&file, Kind::Given).map_err(failed)?;
    let content = Content {
        bytes,
        privacy: found,
    };
    let mut content = within_bounds(path, content)?;
    if may_change(&content.bytes) {
        content.privacy = make_private(&file, path, Kind::Given).map_err(failed)?;
    }
    check_private(path, content.privacy, "600", false)?;
    Ok(Some(content.bytes))
}

fn within_bounds(path: &Path, content: Content) -> Result<Content, DataDirError> {
    if content.bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(DataDirError::TooLarge {
            path: path.display().to_string(),
        });
    }
    Ok(content)
}

fn check_private(
    path: &Path,
    privacy: Privacy,
    remedy: &'static str,
    is_shared: bool,
) -> Result<(), DataDirError> {
    match privacy {
        Privacy::Private | Privacy::Tightened { .. } | Privacy::Group => Ok(()),
        Privacy::Open { .. } if is_shared => Ok(()),
        Privacy::Open { mode } => Err(DataDirError::NotPrivate {
            path: path.display().to_string(),
            mode,
            remedy,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;

    #[test]
    fn file_in_place_of_the_directory_is_named() {
        let temp = TempDir::new("file");
        let file = temp.path().join("data");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("below")] {
            let error = PrivateDir::open(&path).unwrap_err().to_string();
            let is_file = format!("{} is a file", file.display());
            assert!(
                error.contains(&is_file) && !error.contains("os error"),
                "{error}"
            );
        }
    }

    #[test]
    fn directory_is_locked_by_one_process() {
        let temp = TempDir::new("lock");
        let path = temp.path().join("data");
        let first = DataDir::open(&path).unwrap();
        let second = DataDir::open(&path).unwrap_err();
        assert!(matches!(second, DataDirError::InUse { .. }), "{second}");
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn directory_and_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let temp = TempDir::new("modes");
        let path = temp.path().join("data");
        let data_dir = DataDir::open(&path).unwrap();
        data_dir.write_private("secret", b"1").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&data_dir.path("secret")), 0o600);
        drop(data_dir);
        // As Kubernetes does to a volume with `fsGroup` when a pod starts again.
        let open = |path: &Path, bits| {
            let now = fs::metadata(path).unwrap().permissions().mode();
            fs::set_permissions(path, fs::Permissions::from_mode(now | bits)).unwrap();
        };
        open(&path, 0o2775);
        open(&path.join("secret"), 0o664);
        let data_dir = DataDir::open(&path).unwrap();
        assert_eq!(data_dir.read_private("secret").unwrap().unwrap(), b"1");
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&data_dir.path("secret")), 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn provided_file_may_be_readable_by_its_group() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
        let temp = TempDir::new("given");
        let path = temp.path().join("data");
        let own = PrivateDir::open(&path).unwrap();
        own.write_private("key", b"1").unwrap();
        let file = own.path("key");
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        set(0o440);
        read_given(&file, |_| true).unwrap();
        // Of root, the group's right is how the file is provided; of any other user it is an accident.
        let is_owned_by_root = fs::metadata(&file).unwrap().uid() == 0;
        assert_eq!(mode(), if is_owned_by_root { 0o440 } else { 0o400 });
        for open in [0o444, 0o644, 0o606] {
            set(open);
            read_given(&file, |_| false).unwrap();
            assert_eq!(mode(), open, "{open:o}");
            read_given(&file, |bytes| bytes == b"1").unwrap();
            assert_eq!(mode(), open & 0o700, "{open:o}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn access_of_others_needs_the_setting() {
        let open = Privacy::Open { mode: 0o777 };
        let path = Path::new("data");
        let refused = check_private(path, open, "700", false).unwrap_err();
        assert!(
            refused.to_string().contains("bridge.data_dir_shared"),
            "{refused}"
        );
        check_private(path, open, "700", true).unwrap();
        check_private(path, Privacy::Group, "700", false).unwrap();
    }

    #[test]
    fn write_is_atomic_despite_a_left_over_file() {
        let temp = TempDir::new("atomic");
        let path = temp.path().join("data");
        let data_dir = DataDir::open(&path).unwrap();
        assert_eq!(data_dir.read_private("file").unwrap(), None);
        data_dir
            .write_private("file", b"a long first text")
            .unwrap();
        fs::write(data_dir.path("file.new"), b"half").unwrap();
        data_dir.write_private("file", b"short").unwrap();
        assert_eq!(data_dir.read_private("file").unwrap().unwrap(), b"short");
        assert!(!data_dir.path("file.new").exists());
    }
}
