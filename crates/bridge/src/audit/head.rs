//! The file with the signed head of an audit file, next to it: `audit.head.json`.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The head's file. Bytes are in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeadFile {
    /// The random id of the audit file, the same in all its rotated parts.
    pub(super) id: String,
    /// The number of the last line; 0 before the first signature.
    pub(super) seq: u64,
    /// The hash of that line.
    pub(super) hash: String,
    /// The signature with the bridge's key; empty if `seq` is 0.
    pub(super) signature: String,
}

/// Returns the path of the head of an audit file.
pub(super) fn head_path(file: &Path) -> PathBuf {
    file.with_extension("head.json")
}
