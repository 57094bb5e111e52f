//! The key file: 32 random bytes in base64, readable by its owner only. The first start creates it.

use crate::storage::{NoRandom, StorageError, random};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use runtime::files::{Dir, Owner, open_given};
#[cfg(unix)]
use runtime::files::{Kind, make_private};
use runtime::sealed::{KEY_BYTES, SealingKey};
use runtime::secret::Zeroizing;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// More bytes than any key file has.
const FILE_MAX_BYTES: u64 = 1024;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or made.
    #[error("cannot use the key file {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// It holds something else.
    #[error("{0} is not a key file: it must hold 32 bytes in base64, as the relay makes them")]
    Malformed(PathBuf),
    /// It is a directory.
    #[error("the key file {0} is a directory: name a file in storage.key_file")]
    Directory(PathBuf),
    /// It is gone, and the database has data that only it decrypts.
    #[error(
        "the key file {path} does not exist, and the stored calls of {tenants} are encrypted with it: put a copy of \
         it back, or name it in storage.key_file. If it is lost, those calls cannot be read: delete each tenant \
         that has stored calls (`integration-relay tenant delete NAME`), and the next start creates a new key file",
        path = .0.display(),
        tenants = runtime::output::counted(*.1, "tenant")
    )]
    Lost(PathBuf, i64),
    /// All users may read it, and its mode cannot be changed.
    #[error(
        "all users can read the key file {0}, and this user may not change that, or another user's link leads to it: run \
         chmod 600 {0} as its owner"
    )]
    Open(PathBuf),
    /// The system returned no random bytes.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// The database did not respond.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The key of a key file.
#[derive(Debug)]
pub(crate) struct MasterKey {
    pub(super) key: SealingKey,
    pub(super) file: PathBuf,
}

impl MasterKey {
    /// Reads the file; creates it if it is missing.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |error| KeyFileError::Io(path.to_owned(), error);
        let file = match open_given(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => match create(path)? {
                Some(key) => return Ok(key),
                // Another process created it in the meantime.
                None => open_given(path).map_err(failed)?,
            },
            Err(error) => return Err(failed(error)),
        };
        // First the content: the mode of a file that is no key file is not this program's to change.
        let key = Self::read(&file, path)?;
        // By the open file: the path could name another one by now.
        check_mode(&file, path)?;
        Ok(key)
    }

    /// Reads an existing file for a check, which changes nothing.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn check(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |error| KeyFileError::Io(path.to_owned(), error);
        Self::read(&open_given(path).map_err(failed)?, path)
    }

    fn read(file: &File, path: &Path) -> Result<Self, KeyFileError> {
        let mut text = Zeroizing::new(String::with_capacity(
            usize::try_from(FILE_MAX_BYTES).unwrap_or_default(),
        ));
        file.take(FILE_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => KeyFileError::Malformed(path.to_owned()),
                io::ErrorKind::IsADirectory => KeyFileError::Directory(path.to_owned()),
                _ => KeyFileError::Io(path.to_owned(), error),
            })?;
        let bytes = STANDARD.decode(text.trim()).ok();
        let bytes: Option<Zeroizing<[u8; KEY_BYTES]>> = bytes
            .map(Zeroizing::new)
            .and_then(|bytes| bytes.as_slice().try_into().ok())
            .map(Zeroizing::new);
        let bytes = bytes.ok_or_else(|| KeyFileError::Malformed(path.to_owned()))?;
        Ok(Self {
            key: SealingKey::new(&bytes),
            file: path.to_owned(),
        })
    }
}

impl MasterKey {
    /// Reads an existing file, and changes nothing; `None` if there is none.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, KeyFileError> {
        match open_given(path) {
            Ok(file) => Self::read(&file, path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KeyFileError::Io(path.to_owned(), error)),
        }
    }

    /// Returns the mark by which a database knows its key.
    pub(crate) fn database_mark(&self) -> Vec<u8> {
        self.key.mark("integration-relay database").to_vec()
    }

    /// Returns the key that signs the seals of the audit record.
    pub(crate) fn audit_key(&self) -> SealingKey {
        self.key.clone()
    }
}

/// Makes the file; `None` when it exists already. It is complete before it gets its name, so that a crash leaves
/// no key file that is cut short.
fn create(path: &Path) -> Result<Option<MasterKey>, KeyFileError> {
    let failed = |error| KeyFileError::Io(path.to_owned(), error);
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let bytes: [u8; KEY_BYTES] = random()?;
    let made = path.with_extension(format!("new-{}", std::process::id()));
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = Dir::open(dir.unwrap_or(Path::new("."))).map_err(failed)?;
    let name = made.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| failed(io::Error::other("its name is not UTF-8")))?;
    // A crash may have left one, and another user may have made a link to a file of its own.
    let _ = dir.remove(name);
    let mut file = dir.create(name, 0o600, Owner::Directory).map_err(failed)?;
    file.write_all(format!("{}\n", STANDARD.encode(bytes)).as_bytes())
        .map_err(failed)?;
    file.sync_all().map_err(failed)?;
    // Unlike a rename, a link never replaces a file: of two processes one gets `AlreadyExists`.
    let linked = std::fs::hard_link(&made, path);
    let _ = std::fs::remove_file(&made);
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    #[cfg(unix)]
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)?;
    }
    tracing::info!(file = %path.display(), "key file created; keep a copy of it, separate from backups");
    Ok(Some(MasterKey {
        key: SealingKey::new(&bytes),
        file: path.to_owned(),
    }))
}

#[cfg(unix)]
fn check_mode(file: &File, path: &Path) -> Result<(), KeyFileError> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error| KeyFileError::Io(path.to_owned(), error);
    let meta = file.metadata().map_err(failed)?;
    // A service manager may pass it by a group; no setup needs it readable by all.
    if meta.permissions().mode() & 0o007 == 0 {
        return Ok(());
    }
    let made = make_private(file, path, Kind::Given).map_err(failed)?;
    match made.is_acceptable() {
        true => Ok(()),
        false => Err(KeyFileError::Open(path.to_owned())),
    }
}

#[cfg(not(unix))]
fn check_mode(_: &File, _: &Path) -> Result<(), KeyFileError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn key_file_is_made_once_with_owner_only_mode() {
        let dir = TempDir::new("key-file");
        let path = dir.path().join("data/secret.key");
        let first = MasterKey::load_or_create(&path).unwrap();
        let again = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(first.key.mark("x"), again.key.mark("x"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |mode| {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            };
            let made = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(made & 0o777, 0o600);
            mode(0o604);
            MasterKey::load_or_create(&path).unwrap();
            let made = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(made & 0o777, 0o600);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            let open = std::fs::Permissions::from_mode(0o604);
            std::fs::set_permissions(&path, open).unwrap();
            MasterKey::load(&path).unwrap().unwrap();
            assert_eq!(mode(), 0o604, "a check changes nothing");
            std::fs::write(&path, "root:x:0:0").unwrap();
            MasterKey::load_or_create(&path).unwrap_err();
            assert_eq!(mode(), 0o604, "it is no key file");
        }
        for wrong in [&b"c2hvcnQ="[..], b"", b"\xff\xfe\x00key"] {
            std::fs::write(&path, wrong).unwrap();
            let error = MasterKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Malformed(_)), "{error}");
        }
        #[cfg(unix)]
        {
            let error = MasterKey::check(dir.path()).unwrap_err();
            assert!(matches!(error, KeyFileError::Directory(_)), "{error}");
            assert!(error.to_string().contains("storage.key_file"), "{error}");
        }
    }
}
