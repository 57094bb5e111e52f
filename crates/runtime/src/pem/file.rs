//! Reads a file that an administrator names, and says why it cannot be read.

use super::FILE_MAX_BYTES;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Why a file cannot be used. The text begins with the path.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, or holds something else.
    #[error("{path}: {detail}", path = .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        detail: String,
    },
    /// This machine lacks descriptors or memory: the error says nothing about the file.
    #[error("{path}: cannot be read now: {source}", path = .path.display())]
    Shortage {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl FileError {
    /// Returns the text without the path.
    pub fn detail(&self) -> String {
        match self {
            Self::Wrong { detail, .. } => detail.clone(),
            Self::Shortage { source, .. } => format!("cannot be read now: {source}"),
        }
    }

    pub(super) fn wrong(path: &Path, detail: impl Into<String>) -> Self {
        Self::Wrong {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }
}

/// Reads a regular file of at most [`FILE_MAX_BYTES`], links followed.
///
/// # Errors
/// [`FileError`] with the remedy.
pub fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |error: io::Error| unreadable(path, error);
    let found = fs::metadata(path).map_err(failed)?;
    if found.is_dir() {
        let detail = "is a directory: name the file in it";
        return Err(FileError::wrong(path, detail));
    }
    // The open of a pipe would wait for ever.
    if !found.is_file() {
        let detail = "is not a regular file";
        return Err(FileError::wrong(path, detail));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // One byte more than allowed shows that the file is too large.
    let mut limited = file.take(FILE_MAX_BYTES.saturating_add(1));
    limited.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        let limit = FILE_MAX_BYTES >> 20;
        let detail = format!("is larger than {limit} MiB, the limit for such a file");
        return Err(FileError::wrong(path, detail));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: io::Error) -> FileError {
    if crate::shortage::is_shortage(&error) {
        return FileError::Shortage {
            path: path.to_owned(),
            source: error,
        };
    }
    let detail = match error.kind() {
        io::ErrorKind::NotFound => missing(path),
        io::ErrorKind::PermissionDenied => format!(
            "cannot be read by {}: give that user read access to the file and to its directories",
            user()
        ),
        _ => format!("cannot be read: {error}"),
    };
    FileError::wrong(path, detail)
}

fn missing(path: &Path) -> String {
    match fs::read_link(path) {
        Ok(target) => format!(
            "is a symbolic link to {}, which does not exist",
            target.display()
        ),
        Err(_) => "does not exist".to_owned(),
    }
}

/// Returns the user of this process, for messages.
#[cfg(unix)]
pub(crate) fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    // The name is in the list of users on most machines; containers often have none.
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?;
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    });
    match name {
        Some(name) => format!("the user {name} (uid {uid})"),
        None => format!("the user with the uid {uid}"),
    }
}

#[cfg(windows)]
pub(crate) fn user() -> String {
    match bridge_windows::system::account() {
        Some(name) => format!("the user {name}"),
        None => "the user that runs this program".to_owned(),
    }
}

#[cfg(not(any(unix, windows)))]
pub(crate) fn user() -> String {
    "the user that runs this program".to_owned()
}
