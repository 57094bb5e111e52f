//! The owner of files that a command makes next to a database.
//!
//! An administrator runs commands as root, and a service of another user must be able to open what they leave.
//! SQLite gives its own `-wal` and `-shm` to the owner of the database; everything else is done here.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Opens a file, and makes it with mode 0600 if it is missing. A file that root makes belongs to the directory's
/// owner.
pub(crate) fn open_private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give_to_dir_owner(&file, path)?;
            Ok(file)
        }
        // Also a symbolic link to a file that does not exist yet.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create(true).truncate(false).open(path)
        }
        Err(error) => Err(error),
    }
}

/// Gives a new file to the owner of its directory, which only root can and needs to do.
#[cfg(unix)]
pub(crate) fn give_to_dir_owner(file: &File, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = std::fs::metadata(dir.unwrap_or(Path::new(".")))?;
    if file.metadata()?.uid() != dir.uid() {
        // By descriptor: the name may be another file's by now. Others than root may not, which is no error.
        let _ = std::os::unix::fs::fchown(file, Some(dir.uid()), Some(dir.gid()));
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn give_to_dir_owner(_: &File, _: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use support::TempDir;

    #[test]
    fn new_file_belongs_to_the_directory_owner() {
        let dir = TempDir::new("owner");
        let path = dir.join("file");
        // Only root can have a directory of another user.
        if std::os::unix::fs::chown(dir.join(""), Some(65534), Some(65534)).is_err() {
            return;
        }
        open_private(&path, OpenOptions::new().write(true)).unwrap();
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.gid()), (65534, 65534));
        assert_eq!(made.permissions().mode() & 0o777, 0o600);
        // An existing file keeps its owner.
        std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
        open_private(&path, OpenOptions::new().write(true)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), 0);
    }
}
