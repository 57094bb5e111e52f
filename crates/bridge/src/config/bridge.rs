//! `[bridge]`: the identity of this bridge, and what it stores on this machine.

use crate::data_dir::{DataDir, DataDirError, PrivateDir};
use runtime::config::FilePath;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};

/// `[bridge]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeSection {
    /// The bridge's name in its tenant: 1 to 64 letters, digits, `.`, `_` or `-`. Has no default.
    #[serde(deserialize_with = "bridge_name")]
    pub name: String,
    /// The directory of identity and state; created with mode 0700. Has no default.
    pub data_dir: FilePath,
    /// Whether the data directory may be on a volume to which other users have access and whose modes cannot be
    /// changed, as some of NFS, SMB and Docker. Defaults to false: the bridge then refuses such a volume.
    #[serde(default)]
    pub data_dir_shared: bool,
    /// The key under which credentials are sealed: 32 bytes or more, mode 0600. Defaults to the key that the
    /// service manager passes, or else to one that is created in the data directory.
    #[serde(skip_serializing)]
    pub key_file: Option<FilePath>,
    /// While true, the bridge accepts nothing: it rejects requests, and deliveries wait. Defaults to false.
    #[serde(default, skip_serializing)]
    pub paused: bool,
    /// Whether the bridge sends the host patterns of its allow list to the relay, which then chooses among
    /// bridges by them. Without them the relay asks each bridge. Defaults to true.
    #[serde(default = "yes", skip_serializing)]
    pub advertise_hosts: bool,
}

impl BridgeSection {
    /// Opens the data directory without locking it, and creates it if it is missing.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub(crate) fn open_data_dir(&self) -> Result<PrivateDir, DataDirError> {
        PrivateDir::open_as(self.data_dir.get(), self.data_dir_shared)
    }

    /// Opens and locks the data directory, and creates it if it is missing.
    ///
    /// # Errors
    /// [`DataDirError`], also when another process has it.
    pub(crate) fn lock_data_dir(&self) -> Result<DataDir, DataDirError> {
        DataDir::open_as(self.data_dir.get(), self.data_dir_shared)
    }
}

fn yes() -> bool {
    true
}

fn bridge_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    check_name(&name).map_err(de::Error::custom)?;
    Ok(name)
}

/// Checks whether a name can be a bridge's, by the relay's own rule: what is valid here can be paired.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    protocol::name::check("a bridge", name).map_err(|error| error.to_string())
}
