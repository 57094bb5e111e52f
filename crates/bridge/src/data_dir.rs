//! The data directory: private, locked by its process, written whole or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// A directory for this user's eyes alone.
#[derive(Debug, Clone)]
pub struct PrivateDir {
    path: PathBuf,
    is_of_others: bool,
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
        let lock = dir.lock_file(LOCK_FILE)?;
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
        make_private_dir(path).map_err(|source| DataDirError::Io {
            action: "creating the directory",
            path: path.display().to_string(),
            source,
        })?;
        check_private(path, "700")?;
        Ok(Self {
            path: path.to_owned(),
            is_of_others: false,
        })
    }

    /// A directory that is somebody else's: only the files that are read from it must be private.
    /// Those of root may be read by their group, which is how service managers give a file to a
    /// process of another user (systemd's `LoadCredential=`, Kubernetes' `fsGroup`).
    pub(crate) fn of_others(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            is_of_others: true,
        }
    }

    fn lock_file(&self, name: &str) -> Result<File, DataDirError> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        private_mode(&mut options);
        let path = self.path.join(name);
        let file = options.open(&path).map_err(|source| DataDirError::Io {
            action: "writing to the directory",
            path: self.path.display().to_string(),
            source,
        })?;
        give_to_owner_of(&self.path, &path);
        Ok(file)
    }

    /// Waits for the lock of this name, which is given back with the value.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(crate) fn lock(&self, name: &str) -> Result<File, DataDirError> {
        let file = self.lock_file(name)?;
        file.lock().map_err(|source| DataDirError::Io {
            action: "locking",
            path: self.path(name).display().to_string(),
            source,
        })?;
        Ok(file)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A private file's bytes; `None` when there is no such file.
    ///
    /// # Errors
    /// [`DataDirError`]: not readable, open to others, too large.
    pub fn read_private(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        let path = self.path(name);
        let failed = |source| DataDirError::Io {
            action: "reading",
            path: path.display().to_string(),
            source,
        };
        let bytes = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if bytes > FILE_MAX_BYTES {
            return Err(DataDirError::TooLarge {
                path: path.display().to_string(),
            });
        }
        if !(self.is_of_others && is_given(&path)) {
            check_private(&path, "600")?;
        }
        fs::read(&path).map(Some).map_err(failed)
    }

    /// Writes a private file (mode 0600): after a crash it is the old one or the new one.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        let path = self.path(name);
        let replaced = replace(&self.path, name, bytes);
        replaced.map_err(|source| DataDirError::Io {
            action: "writing",
            path: path.display().to_string(),
            source,
        })
    }
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    // One left behind by a crash may have any mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    private_mode(&mut options);
    let mut file = options.open(&temporary)?;
    give_to_owner_of(dir, &temporary);
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, dir.join(name))?;
    sync_dir(dir)
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

/// What root writes here is for the user whose directory it is: the one that runs the bridge.
#[cfg(unix)]
fn give_to_owner_of(dir: &Path, file: &Path) {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let (Ok(dir), Ok(now)) = (fs::metadata(dir), fs::metadata(file)) else {
        return;
    };
    if now.uid() != dir.uid() {
        // Only root may, and only root needs to.
        let _ = chown(file, Some(dir.uid()), Some(dir.gid()));
    }
}

#[cfg(not(unix))]
fn give_to_owner_of(_: &Path, _: &Path) {}

#[cfg(unix)]
fn private_mode(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn private_mode(_: &mut OpenOptions) {}

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

#[cfg(unix)]
fn check_private(path: &Path, remedy: &'static str) -> Result<(), DataDirError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|source| DataDirError::Io {
        action: "reading",
        path: path.display().to_string(),
        source,
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(DataDirError::NotPrivate {
        path: path.display().to_string(),
        mode,
        remedy,
    })
}

/// Root's, and for the eyes of one group at most.
#[cfg(unix)]
fn is_given(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).is_ok_and(|file| file.uid() == 0 && file.mode() & 0o037 == 0)
}

#[cfg(not(unix))]
fn is_given(_: &Path) -> bool {
    false
}

#[cfg(not(unix))]
fn check_private(_: &Path, _: &'static str) -> Result<(), DataDirError> {
    Ok(())
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
        let given = PrivateDir::of_others(temp.path());
        let file = own.path("key");
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        set(0o440);
        let is_roots = fs::metadata(&file).unwrap().uid() == 0;
        assert_eq!(given.read_private("key").is_ok(), is_roots);
        assert!(own.read_private("key").is_err());
        for mode in [0o444, 0o460, 0o401] {
            set(mode);
            assert!(given.read_private("key").is_err(), "{mode:o}");
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
