//! `[audit]`: the record of requests and their outcomes.

use runtime::config::{BoundedInt, ByteSize, DataPath, Timeout};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSection {
    /// Whether the record is written. Defaults to true.
    pub enabled: bool,
    /// Its file; a relative path is resolved against the data directory. Defaults to `audit.jsonl`.
    pub file: Option<DataPath>,
    /// Size above which the file is rotated. Defaults to `"16MiB"`.
    pub file_max: ByteSize,
    /// Age above which the file is rotated. Defaults to `"24h"`.
    pub file_max_age: Timeout,
    /// Number of rotated files that are kept, 1 to 9999. Defaults to 30.
    pub files: BoundedInt<1, 9999>,
}

impl Default for AuditSection {
    fn default() -> Self {
        Self {
            enabled: true,
            file: None,
            file_max: ByteSize::mib(16),
            file_max_age: Timeout::secs(24 * 60 * 60),
            files: BoundedInt::known(30),
        }
    }
}

impl AuditSection {
    /// Returns the file.
    pub(crate) fn path(&self, data_dir: &Path) -> PathBuf {
        let own = || data_dir.join(crate::audit::FILE);
        self.file
            .as_ref()
            .map_or_else(own, |file| file.in_dir(data_dir))
    }

    pub(crate) fn keep(&self) -> crate::audit::Keep {
        crate::audit::Keep {
            file_max_bytes: self.file_max.bytes(),
            file_max_age: self.file_max_age.get(),
            files: self.files.get(),
        }
    }
}
