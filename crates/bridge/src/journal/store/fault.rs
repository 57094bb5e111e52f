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
    // redb's own texts are about its file format.
    let detail = match &error {
        _ if is_damage => "the file is damaged, or is not a journal".to_owned(),
        redb::Error::Io(error) => shortage::in_words(error),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
            "an earlier error of the disk closed it".to_owned()
        }
        redb::Error::DatabaseAlreadyOpen => "another process has it open".to_owned(),
        redb::Error::UpgradeRequired(_) => {
            "it was written by another version of this program".to_owned()
        }
        error => error.to_string(),
    };
    Fault {
        detail,
        may_pass,
        is_damage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_in_plain_words() {
        for error in [
            redb::Error::Corrupted("region layout: file_len=30000".to_owned()),
            redb::Error::Io(io::ErrorKind::InvalidData.into()),
        ] {
            let fault = disk(error);
            assert!(fault.is_damage);
            assert_eq!(fault.detail, "the file is damaged, or is not a journal");
        }
    }
}
