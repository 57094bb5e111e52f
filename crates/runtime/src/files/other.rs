//! By path, on systems where making a link takes a privilege.

use super::{Dir, Id, Owner, Privacy, refused};
use std::fs::File;
use std::io;
use std::path::Path;

/// Opens a file at a path for reading and appending, or makes it.
///
/// # Errors
/// The system's error.
pub fn open_append(path: &Path, _: u32) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)
}

/// Opens a file that an administrator names, for reading.
///
/// # Errors
/// The system's error.
pub fn open_given(path: &Path) -> io::Result<File> {
    File::open(path)
}

impl Dir {
    /// Opens a directory.
    ///
    /// # Errors
    /// It does not exist, or is not a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_dir() {
            return Err(refused("it is not a directory"));
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Returns that it is private: rights are those of the directory above.
    ///
    /// # Errors
    /// None.
    pub fn make_private(&self) -> io::Result<Privacy> {
        Ok(Privacy::Private)
    }

    /// As [`Self::make_private`].
    ///
    /// # Errors
    /// None.
    pub fn privacy(&self) -> io::Result<Privacy> {
        Ok(Privacy::Private)
    }

    fn options(&self, name: &str, options: &std::fs::OpenOptions) -> io::Result<File> {
        self.check(name)?;
        options.open(self.path.join(name))
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's error, or it is not a file.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        self.options(name, std::fs::OpenOptions::new().read(true))
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_rw(&self, name: &str) -> io::Result<File> {
        self.options(name, std::fs::OpenOptions::new().read(true).write(true))
    }

    /// Opens a file for reading and appending. Makes it if it is missing.
    ///
    /// # Errors
    /// As [`Self::open_file`].
    pub fn open_append(&self, name: &str, _: u32, _: Owner) -> io::Result<File> {
        let mut options = std::fs::OpenOptions::new();
        self.options(name, options.create(true).read(true).append(true))
    }

    /// Makes a file that does not exist.
    ///
    /// # Errors
    /// The system's error.
    pub fn create(&self, name: &str, _: u32, _: Owner) -> io::Result<File> {
        let mut options = std::fs::OpenOptions::new();
        self.options(name, options.create_new(true).read(true).write(true))
    }

    pub(super) fn check(&self, name: &str) -> io::Result<()> {
        match std::fs::symlink_metadata(self.path.join(name)) {
            Ok(found) if !found.is_file() => Err(refused("it is not a regular file")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Renames a file in it.
    ///
    /// # Errors
    /// The system's error.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    /// Removes a file in it.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    /// Does nothing: these systems have no call for it.
    ///
    /// # Errors
    /// None.
    pub fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn id_of(_: &File) -> io::Result<Id> {
    Ok(None)
}

pub(super) fn id_at(_: &Path) -> io::Result<Id> {
    Ok(None)
}

pub(super) fn inode_at(_: &Path, _: &std::fs::Metadata) -> Option<(u64, u64, i64, i64)> {
    Some((0, 0, 0, 0))
}
