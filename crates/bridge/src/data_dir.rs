//! The data directory: private, locked by its process, written whole or not at all.

use runtime::files::{Content, Dir, Owner};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest file that is read from it, in bytes; its own files are far smaller.
const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Name of the file that the running process has locked.
const LOCK_FILE: &str = "lock";

/// Why the data directory does not work. Names the path and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Something in it cannot be made, read or written.
    #[error(
        "{action} {path} failed; is it on a writable disk, and owned by the user that runs the bridge?"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data directory {path} is in use by another integration-bridge process; stop that one \
         first, or give this one a data_dir of its own"
    )]
    InUse {
        /// The directory.
        path: String,
    },
    /// Others can read a private file.
    #[error(
        "{path} can be read by other users (mode {mode:04o}); it holds a private key: \
         make it private with `chmod {remedy} '{path}'`"
    )]
    NotPrivate {
        /// The file or directory.
        path: String,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        remedy: &'static str,
    },
    /// A file is larger than any of ours.
    #[error("{path} is larger than {FILE_MAX_BYTES} bytes; it was not written by this program")]
    TooLarge {
        /// The file.
        path: String,
    },
}

/// A directory for this user's eyes alone. It is opened once: what happens in it happens by its descriptor,
/// and follows no link.
#[derive(Debug, Clone)]
pub struct PrivateDir {
    dir: Arc<Dir>,
}

/// The directory, locked for as long as this lives.
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
    /// Makes it where it is missing (mode 0700) and locks it.
    ///
    /// # Errors
    /// [`DataDirError`]: not writable, open to others, in use.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let dir = PrivateDir::open(path)?;
        let lock = match dir.dir.open_or_create(LOCK_FILE, Owner::Directory) {
            // A lock needs no writing, and neither does most of what the bridge does.
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
    /// Makes it where it is missing (mode 0700). It is not locked.
    ///
    /// # Errors
    /// [`DataDirError`]: not writable, open to others.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |action| {
            move |source| DataDirError::Io {
                action,
                path: path.display().to_string(),
                source,
            }
        };
        make_private_dir(path).map_err(failed("creating the directory"))?;
        let dir = Dir::open(path).map_err(failed("opening the directory"))?;
        let mode = dir.mode().map_err(failed("opening the directory"))?;
        check_private(path, mode, "700")?;
        Ok(Self { dir: Arc::new(dir) })
    }

    fn failed(&self, action: &'static str, name: &str) -> impl FnOnce(io::Error) -> DataDirError {
        let path = self.path(name).display().to_string();
        move |source| DataDirError::Io {
            action,
            path,
            source,
        }
    }

    /// Opens a private file for reading and writing, or makes it.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn open_or_create(&self, name: &str) -> Result<File, DataDirError> {
        let opened = self.dir.open_or_create(name, Owner::Directory);
        opened.map_err(self.failed("opening", name))
    }

    /// Opens a private file that is there, for reading and writing.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open_existing(&self, name: &str) -> io::Result<File> {
        self.dir.open_rw(name)
    }

    /// Renames a file in it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }

    /// Removes a file in it, if it is there.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn remove(&self, name: &str) -> Result<(), DataDirError> {
        match self.dir.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("removing", name)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Waits for the lock of this name, which is given back with the value.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn lock(&self, name: &str) -> Result<File, DataDirError> {
        let file = self.open_or_create(name)?;
        file.lock().map_err(self.failed("locking", name))?;
        Ok(file)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A private file's bytes; `None` when there is no such file.
    ///
    /// # Errors
    /// [`DataDirError`]: not readable, open to others, too large.
    pub fn read_private(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        let read = self.dir.read(name, FILE_MAX_BYTES);
        let Some(content) = read.map_err(self.failed("reading", name))? else {
            return Ok(None);
        };
        let path = self.path(name);
        let content = within_bounds(&path, content)?;
        check_private(&path, content.mode, "600")?;
        Ok(Some(content.bytes))
    }

    /// Writes a private file (mode 0600): after a crash it is the old one or the new one. What root writes
    /// is for the user whose directory it is: the one that runs the bridge.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        let replaced = self.dir.replace(name, bytes, 0o600, Owner::Directory);
        replaced.map_err(self.failed("writing", name))
    }
}

/// Reads a file that is another's to keep, such as a key that a service manager gives; `None` when it is not
/// there. Links are followed: Kubernetes gives files by way of them. It must be private, but one of root may
/// be read by its group, which is how service managers give a file to a process of another user (systemd's
/// `LoadCredential=`, Kubernetes' `fsGroup`).
///
/// # Errors
/// [`DataDirError`]: not readable, open to others, too large.
pub(crate) fn read_given(path: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    let failed = |source| DataDirError::Io {
        action: "reading",
        path: path.display().to_string(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let about = file.metadata().map_err(failed)?;
    let (is_given, mode) = given(&about);
    let mut bytes = Vec::new();
    let mut limited = file.take(FILE_MAX_BYTES.saturating_add(1));
    limited.read_to_end(&mut bytes).map_err(failed)?;
    let content = within_bounds(path, Content { bytes, mode })?;
    if !is_given {
        check_private(path, content.mode, "600")?;
    }
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

fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}

fn check_private(path: &Path, mode: u32, remedy: &'static str) -> Result<(), DataDirError> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(DataDirError::NotPrivate {
        path: path.display().to_string(),
        mode,
        remedy,
    })
}

/// Whether a file is root's, and for the eyes of one group at most; and its mode.
#[cfg(unix)]
fn given(file: &fs::Metadata) -> (bool, u32) {
    use std::os::unix::fs::MetadataExt as _;
    let is_given = file.uid() == 0 && file.mode() & 0o037 == 0;
    (is_given, file.mode() & 0o7777)
}

#[cfg(not(unix))]
fn given(_: &fs::Metadata) -> (bool, u32) {
    (false, 0o600)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that is gone when the test is.
    pub(crate) struct TempDir(PathBuf);

    impl TempDir {
        pub(crate) fn new(name: &str) -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!(
                "bridge-test-{}-{number} {name}",
                std::process::id()
            ));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_one_process_has_the_directory() {
        let temp = TempDir::new("lock");
        let first = DataDir::open(temp.path()).unwrap();
        let second = DataDir::open(temp.path()).unwrap_err();
        assert!(matches!(second, DataDirError::InUse { .. }), "{second}");
        drop(first);
        DataDir::open(temp.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn the_directory_and_its_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let temp = TempDir::new("modes");
        let data_dir = DataDir::open(temp.path()).unwrap();
        data_dir.write_private("secret", b"1").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(temp.path()), 0o700);
        assert_eq!(mode(&data_dir.path("secret")), 0o600);
        drop(data_dir);
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = DataDir::open(temp.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_a_service_manager_gave_may_be_its_groups_and_nobody_elses() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
        let temp = TempDir::new("given");
        let own = PrivateDir::open(temp.path()).unwrap();
        own.write_private("key", b"1").unwrap();
        let file = own.path("key");
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        set(0o440);
        let is_roots = fs::metadata(&file).unwrap().uid() == 0;
        assert_eq!(read_given(&file).is_ok(), is_roots);
        assert!(own.read_private("key").is_err());
        for mode in [0o444, 0o460, 0o401] {
            set(mode);
            assert!(read_given(&file).is_err(), "{mode:o}");
        }
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_survives_a_left_over() {
        let temp = TempDir::new("atomic");
        let data_dir = DataDir::open(temp.path()).unwrap();
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
