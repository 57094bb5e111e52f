//! Why the database failed, and whether a retry can help.

use runtime::shortage;
use std::io;

/// An error of the database.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) detail: String,
    /// Whether it is a state of the disk or the machine, which may pass.
    pub(super) may_pass: bool,
    /// Whether the file does not hold what was written.
    pub(super) is_damage: bool,
}

impl Fault {
    /// Makes an error that waiting does not help against.
    pub(super) fn lasting(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            may_pass: false,
            is_damage: false,
        }
    }
}

/// Classifies an error of redb.
pub(super) fn disk(error: impl Into<redb::Error>) -> Fault {
    let error = error.into();
    let (may_pass, is_damage) = match &error {
        // redb reports a file that is not a database as invalid data.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => (false, true),
        redb::Error::Io(error) => (shortage::is_disk_trouble(error), false),
        // redb rejects everything after an I/O error, until the file is opened again.
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => (true, false),
        redb::Error::Corrupted(_) => (false, true),
        _ => (false, false),
    };
    Fault {
        detail: error.to_string(),
        may_pass,
        is_damage,
    }
}
